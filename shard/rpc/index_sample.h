/* A uniform random sample of the live rows of several views, in random order, as f32.
 *
 * Owns: *rows is the caller's, to be freed with kith_free. Threads: any. Errors: KITH_NOMEM,
 * KITH_CANCELLED when stop says so, KITH_CORRUPT when a segment is damaged. Limits: all views are
 * of one collection. */
#ifndef INDEX_SAMPLE_H
#define INDEX_SAMPLE_H

#include "shard/storage/view.h"

struct index_sample {
    struct view *const *views;
    uint32_t n_views;
    uint32_t n_wanted; /* fewer rows there are: all of them */
    uint64_t seed;
    bool (*stop)(const void *ctx);
    const void *stop_ctx;
};

/* rows: n_rows * dim. */
enum kith_err index_sample_run(const struct index_sample *sample, float **rows, uint32_t *n_rows,
                               struct kith_diag *diag);

#endif
