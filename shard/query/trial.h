/* What a query costs, tried out: a segment of sample rows is written to a folder and indexed as a
 * node at rest has it, and the sample's queries are searched by search_run on the calling thread.
 * What a formula cannot know is in the figures: how well these rows cluster, and this machine.
 *
 * The time of a query is the CPU time of the thread, the median of some rounds over all queries,
 * for the ten nearest at the default recall, with everything in memory.
 *
 * Owns: nothing after the call; the folder it makes for itself is gone, also after an error.
 * Borrows: rows. Threads: the call is one thread's, the building of the index has as many as it is
 * told. Errors: KITH_NOMEM, KITH_CANCELLED, KITH_IO and KITH_DISK_FULL; KITH_BAD_REQUEST and
 * KITH_UNPROCESSABLE for a row that cannot be stored, with its number. */
#ifndef TRIAL_H
#define TRIAL_H

#include <stdbool.h>

#include "proto/kith_err.h"
#include "shard/storage/slice_config.h"

#define TRIAL_K 10u

struct trial {
    struct slice_config config;    /* metric, dim, rows, index (none of Faiss's) */
    const float *rows;             /* [n_rows + n_queries][dim]; the last ones are the queries */
    uint32_t n_rows, n_queries;    /* at least 1 of each */
    const char *parent;            /* of its folder; exists */
    uint32_t threads;              /* of the build, at least 1 */
    bool (*stop)(const void *ctx); /* asked now and then, by any thread; NULL: never */
    const void *stop_ctx;
};

struct trial_found {
    uint32_t n_rows;
    double exact_ns;   /* a query that looks at all rows */
    double lists_ns;   /* a query by the index; 0: it has none */
    double rows_share; /* of the rows, those looked at by the index */
    double recall;     /* of the queries that both ways were asked */
};

enum kith_err trial_run(const struct trial *trial, struct trial_found *out, struct kith_diag *diag);

#endif
