/* A uniform random sample of the live rows of several views, or of a part of them, as f32.
 *
 * A sample that is too large for one message is drawn in parts: each has its own share of the rows,
 * so that no row comes twice (or nearly: rows may come and go from part to part).
 *
 * Owns: nothing. Threads: any. Errors: KITH_CANCELLED when stop says so, KITH_CORRUPT when a
 * segment is damaged. Limits: all views are of one collection. */
#ifndef INDEX_SAMPLE_H
#define INDEX_SAMPLE_H

#include "shard/storage/view.h"

struct index_sample {
    struct view *const *views;
    uint32_t n_views;
    uint32_t n_wanted;      /* fewer rows there are: all of them */
    uint32_t part, n_parts; /* 0 of 0: the whole */
    uint64_t seed;
    bool (*stop)(const void *ctx); /* NULL: never */
    const void *stop_ctx;
};

/* rows: room for n_wanted * dim; filled in the order in which rows lie. */
enum kith_err index_sample_run(const struct index_sample *sample, float *rows, uint32_t *n_rows,
                               struct kith_diag *diag);

/* Puts rows into a random order: a training may look at the first ones only. */
void index_sample_shuffle(float *rows, uint32_t n_rows, uint32_t dim, uint64_t seed);

#endif
