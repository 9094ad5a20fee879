/* Matrix products: the one home of OpenBLAS.
 *
 * Runs on the calling thread: OpenBLAS is told to use one thread, the pool's parallelism is ours.
 * Threads: any, at the same time. */
#ifndef BLAS_H
#define BLAS_H

#include <stdint.h>

struct blas_block {
    const float *rows;
    uint32_t n, dim;
};

/* out[a * right.n + b] = the inner product of row a of left and row b of right (same dim), within
 * kernels_gamma(dim) of the true one; NaN and infinite where single precision overflows. */
void blas_products(struct blas_block left, struct blas_block right, float *out);

/* What blas_products does first; for code of others that calls OpenBLAS by itself (faiss.c). */
void blas_use_one_thread(void);

#endif
