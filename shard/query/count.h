/* How many live points match: exact.
 *
 * Borrows: views, filter. Threads: any. Errors: those of filters; *out untouched then. */
#ifndef COUNT_H
#define COUNT_H

#include "shard/query/parts.h"

enum kith_err count_run(const struct parts_scope *scope, uint64_t *out, struct kith_diag *diag);

#endif
