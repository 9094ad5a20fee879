/* k-means: centroids of a sample (Lloyd: Least squares quantization in PCM, 1982), on samples that
 * grow while it converges.
 *
 * Deterministic: the result depends on the rows and their order, not on the number of threads.
 * Memory: 2 numbers for each row, two sets of centroids, and the scratch of nearest.h for each
 * thread. Errors: KITH_NOMEM, KITH_CANCELLED (within a few ms). */
#ifndef KMEANS_H
#define KMEANS_H

#include "shard/index/nearest.h"
#include "shard/index/workers.h"

struct kmeans {
    struct nearest_space space;
    const float *rows; /* n_rows * space.dim, in random order; n_rows >= n_lists */
    uint32_t n_rows;
    uint32_t n_lists;
    struct workers *workers;
};

/* centroids: n_lists * space.width, prepared. */
enum kith_err kmeans_train(const struct kmeans *kmeans, float *centroids, struct kith_diag *diag);

#endif
