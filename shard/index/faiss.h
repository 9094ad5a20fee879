/* Indexes by factory string: the one home of Faiss (1.7.3, its C API; deploy/faiss).
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

#include <stddef.h>
#include <stdint.h>

#include "proto/kith_collection.h"
#include "proto/kith_err.h"
#include "shard/index/blas.h"

/* The largest squared length of a row: distances of such rows stay finite. */
#define FAISS_NORM_MAX 1e37f

/* Owns an index of Faiss. Made by faiss_index_new, then trained, filled, and only searched.
 * Threads: train and add exclude everything else; searches and writes run at the same time.
 * Searches that ask for another effort than the one before wait for each other, in turn with those
 * that do not. */
struct faiss_index;

/* What a search spends. 0 leaves Faiss's own (1, 16, 1); another value is KITH_BAD_REQUEST where
 * the index has no such setting. */
struct faiss_effort {
    uint32_t nprobe;    /* lists read, of IVF */
    uint32_t ef_search; /* candidates kept, of HNSW or of IVF#_HNSW# */
    uint32_t k_factor;  /* rows ranked again for each of k, of RFlat */
};

/* factory: as faiss_factory.h has it. Cosine and dot are searched by inner product (cosine: rows
 * and queries of length 1, the caller's task), euclid by L2, manhattan by L1.
 *
 * Errors: those of faiss_factory_check, and of Faiss, with its reason: KITH_BAD_REQUEST for pieces
 * that do not go together, KITH_UNSUPPORTED for those that do not with this metric. */
enum kith_err faiss_index_new(const char *factory, uint32_t dim, enum kith_metric metric,
                              struct faiss_index **out, struct kith_diag *diag);
void faiss_index_free(struct faiss_index *index); /* NULL allowed */

/* So many rows for each centroid are enough for Faiss to train without a warning on stderr; and so
 * many train well. */
#define FAISS_ROWS_A_CENTROID   39u
#define FAISS_SAMPLE_A_CENTROID 64u

/* Learns centroids and codebooks; nothing to do for Flat and HNSW#. Once, before the first add.
 * Faiss takes a sample of 256 rows for each centroid at most, and warns on stderr below 39. */
enum kith_err faiss_index_train(struct faiss_index *index, struct blas_block rows,
                                struct kith_diag *diag);

/* Asked between blocks of rows: anything but KITH_OK ends the call with that error and its text.
 * fn == NULL: never ends early. */
struct faiss_poll {
    enum kith_err (*fn)(void *ctx, struct kith_diag *diag);
    void *ctx;
};

/* Appends rows, numbered on from faiss_index_rows. When it fails, or the poll ends it, a part of
 * the rows may be in: free the index. KITH_UNPROCESSABLE when it was not trained. */
enum kith_err faiss_index_add(struct faiss_index *index, struct blas_block rows,
                              struct faiss_poll poll, struct kith_diag *diag);

uint64_t faiss_index_rows(const struct faiss_index *index);

/* For each query the k best rows, best first: rows[q * k + i] and its rank (larger is nearer,
 * proto/kith_collection.h; as precise as the codes). Where fewer were found the rest is row -1. */
struct faiss_hits {
    int64_t *rows;
    float *ranks;
};
enum kith_err faiss_index_search(struct faiss_index *index, struct blas_block queries, uint32_t k,
                                 struct faiss_effort effort, struct faiss_hits hits,
                                 struct kith_diag *diag);

/* Takes the bytes of an index, in order; an error ends the writing and is passed on. */
struct faiss_sink {
    enum kith_err (*fn)(void *ctx, const void *data, size_t bytes, struct kith_diag *diag);
    void *ctx;
};
enum kith_err faiss_index_write(struct faiss_index *index, struct faiss_sink sink,
                                struct kith_diag *diag);

/* From the bytes of faiss_index_write, which are not needed afterwards.
 *
 * ONLY bytes that Kith wrote itself and whose checksum the caller has verified: Faiss 1.7.3 trusts
 * what it reads, and false bytes corrupt memory. What is checked here (kind, dimension, metric,
 * length) finds mistakes, not attacks: KITH_CORRUPT. */
enum kith_err faiss_index_load(const void *data, size_t bytes, uint32_t dim,
                               enum kith_metric metric, struct faiss_index **out,
                               struct kith_diag *diag);

#endif
