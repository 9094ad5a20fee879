/* Training for approximate indexes: the one home of Faiss (1.7.3, its C API; deploy/faiss).
 *
 * Rows are f32, row-major, finite, and borrowed for the call; results go into the caller's memory.
 *
 * Threads: any, at the same time. A call runs on the calling thread alone: OpenMP and OpenBLAS are
 * told to use one thread, the pool's parallelism is ours. Nothing here yields: call from a worker.
 *
 * Errors: every call of Faiss is checked. What it throws becomes KITH_NOMEM when memory was out,
 * else the error named at the function, with Faiss's own reason as text. Rows with NaN, infinite or
 * huge values (FAISS_NORM_MAX) are KITH_UNPROCESSABLE: Faiss would loop for ever on them.
 *
 * Memory: Faiss allocates by C++ new, outside of kith_mem's tests; each function says how much.
 *
 * Limits: KITH_FAISS_* in proto/kith_limits.h; beyond them KITH_TOO_BIG.
 *
 * A program that links this file ends at its start, with a message, on a CPU that lacks the
 * instructions its Faiss was built for. */
#ifndef FAISS_H
#define FAISS_H

#include <stdint.h>

#include "proto/kith_err.h"
#include "shard/index/blas.h"

/* The largest squared length of a row: distances of such rows stay finite. */
#define FAISS_NORM_MAX 1e37f

/* Asked between iterations: anything but KITH_OK ends the call with that error and its text.
 * fn == NULL: never ends early. */
struct faiss_poll {
    enum kith_err (*fn)(void *ctx, struct kith_diag *diag);
    void *ctx;
};

struct faiss_kmeans {
    struct blas_block rows;
    uint32_t k;          /* centroids, at most rows.n */
    uint32_t iterations; /* full passes over the rows */
    uint32_t seed;
    const float *initial; /* k * rows.dim centroids to go on from; NULL: k rows chosen by seed */
    struct faiss_poll poll;
};

/* k-means (Lloyd, Least squares quantization in PCM, 1982) under euclidean distance: k * rows.dim
 * centroids. A centroid without rows gets half of a large one's. The same input gives the same
 * centroids on the same CPU.
 *
 * To train well in little time, call with growing samples (16, 64, 256 rows for each centroid),
 * each from the centroids of the one before. An iteration costs about the product of rows and
 * centroids: 0.4 s of one core for 131,072 rows, 1024 centroids, dimension 100.
 *
 * KITH_UNPROCESSABLE also when there are fewer rows than centroids. Memory: about 16 bytes for each
 * row, 3 * k * dim floats and 20 MB. */
enum kith_err faiss_kmeans_run(const struct faiss_kmeans *job, float *centroids,
                               struct kith_diag *diag);

#endif
