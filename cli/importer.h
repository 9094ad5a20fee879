/* The engine of `kith import`: batches of points, several in flight, retried, confirmed in order.
 *
 * Borrows: the source, the journal. Owns: a loop, its connections. Threads: one. Errors: bad points
 * are said on stderr by number and counted; what ends the import is said, too. */
#ifndef IMPORTER_H
#define IMPORTER_H

#include "cli/journal.h"
#include "cli/source.h"

struct importer_options {
    const char *collection;
    const char *name;    /* for the progress line */
    uint32_t batch;      /* points per request */
    uint32_t parallel;   /* requests in flight */
    uint64_t errors_max; /* bad points until it gives up */
    bool strict;         /* the first one ends it */
    uint64_t retry_ms;   /* how long a batch is tried again */
};

enum importer_end { IMPORTER_DONE, IMPORTER_FAILED, IMPORTER_INTERRUPTED };

/* state: where it begins; ends as how far it got. elapsed_s: of this run. */
enum importer_end importer_run(struct source *source, const struct journal *journal,
                               const struct importer_options *options, struct journal_state *state,
                               double *elapsed_s);

#endif
