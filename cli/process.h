/* A running Kith: the parts of a role wired together on one loop, from flags to exit.
 *
 * Owns: everything. Threads: main is the loop. Errors: said on stderr; exit status 1, or 2 for
 * wrong usage. Limits: KITH_CLOSE_GRACE_MS from SIGTERM to exit. */
#ifndef PROCESS_H
#define PROCESS_H

#include "common/kith_config.h"

/* The verb's main. Prints one line on stdout when ready. */
int process_run(enum kith_config_role role, int argc, char **argv);

#endif
