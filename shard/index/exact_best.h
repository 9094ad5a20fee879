/* The exact answers that an index is calibrated by: the k best rows for each of many queries, by a
 * scan of all rows on the threads of a build.
 *
 * Rows may lie anywhere: each piece is gathered into a few hundred KB first. Ranks are flat_scan's
 * to the bit. Borrows: everything, for the call. Threads: those of the workers, which call `row`.
 * Memory: per thread k hits of every query. Errors: KITH_NOMEM, KITH_CANCELLED. */
#ifndef EXACT_BEST_H
#define EXACT_BEST_H

#include "shard/index/flat.h"
#include "shard/index/workers.h"

struct exact_best {
    enum kith_metric metric;
    enum kith_row_type type;
    uint32_t dim, n_rows;
    const void *(*row)(const void *ctx, uint32_t i); /* as stored */
    const void *ctx;
    const float *queries; /* n_queries * dim */
    uint32_t n_queries;
    uint32_t k; /* at most n_rows */
};

/* hits[q * k + i]: the i-th best row of query q, its number in id.lo; equal ranks by number. */
enum kith_err exact_best_run(const struct exact_best *job, struct workers *workers,
                             struct kith_hit *hits, struct kith_diag *diag);

#endif
