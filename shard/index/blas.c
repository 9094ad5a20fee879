#include "shard/index/blas.h"

#include <cblas.h>
#include <pthread.h>

#include "proto/kith_err.h"

static void set_one_thread(void)
{
    openblas_set_num_threads(1);
}

void blas_use_one_thread(void)
{
    static pthread_once_t once = PTHREAD_ONCE_INIT;
    (void)pthread_once(&once, set_one_thread);
}

void blas_products(struct blas_block left, struct blas_block right, float *out)
{
    blas_use_one_thread();
    kith_assert(left.dim == right.dim);
    blasint dim = (blasint)left.dim;
    cblas_sgemm(CblasRowMajor, CblasNoTrans, CblasTrans, (blasint)left.n, (blasint)right.n, dim,
                1.0f, left.rows, dim, right.rows, dim, 0.0f, out, (blasint)right.n);
}
