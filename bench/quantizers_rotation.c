/* Rotations learned from rows, for use before product quantization: PCA and OPQ (Ge, He, Ke, Sun:
 * Optimized Product Quantization, CVPR 2013, 3.1, non-parametric), both by Faiss. Here and not in
 * shard/index: they lost (docs/decisions/quantizer.md), and nothing else asks for them. */
#include <faiss/c_api/VectorTransform_c.h>
#include <faiss/c_api/error_c.h>
#include <math.h>
#include <string.h>

#include "common/kith_mem.h"
#include "quantizers.h"

#define OPQ_ITERATIONS 8u /* Faiss's own number is 50 */

/* Of the OpenMP that Faiss is linked to. */
void omp_set_num_threads(int count);

static void check(int code)
{
    struct kith_diag diag = {0};
    if (code == 0)
        return;
    (void)kith_fail(&diag, KITH_INTERNAL, "%s", faiss_get_last_error());
    quantizers_die("rotation", &diag);
}

static float length(const float *values, uint32_t dim)
{
    float sum = 0.0f;
    for (uint32_t i = 0; i < dim; i++)
        sum += values[i] * values[i];
    return sqrtf(sum);
}

/* The C API gives no access to the matrix A of a transform y = A x + b; row i of A is
 * A^T (s e_i - b) - A^T (0 - b), divided by s. With s as large as b little is lost by the
 * difference. */
static void read_matrix(const FaissVectorTransform *transform, uint32_t dim, float *out)
{
    float *unit = kith_xalloc(2 * (size_t)dim * sizeof *unit);
    float *offset = unit + dim;
    memset(unit, 0, 2 * (size_t)dim * sizeof *unit);
    faiss_LinearTransform_transform_transpose(transform, 1, unit, offset);
    float scale = fmaxf(1.0f, exp2f(ceilf(log2f(length(offset, dim) + 1.0f))));
    for (uint32_t i = 0; i < dim; i++) {
        unit[i] = scale;
        faiss_LinearTransform_transform_transpose(transform, 1, unit, out + (size_t)i * dim);
        unit[i] = 0.0f;
        for (uint32_t j = 0; j < dim; j++)
            out[(size_t)i * dim + j] = (out[(size_t)i * dim + j] - offset[j]) / scale;
    }
    kith_free(unit);
}

/* LAPACK may end without convergence, and Faiss does not look. */
static void check_orthonormal(const float *matrix, uint32_t dim)
{
    struct blas_block all = {matrix, dim, dim};
    float *products = kith_xalloc((size_t)dim * dim * sizeof *products);
    blas_products(all, all, products);
    for (size_t i = 0; i < (size_t)dim * dim; i++)
        if (!(fabsf(products[i] - (i % (dim + 1) == 0 ? 1.0f : 0.0f)) < 1e-3f)) {
            struct kith_diag diag = {0};
            (void)kith_fail(&diag, KITH_UNPROCESSABLE, "none was found");
            quantizers_die("rotation", &diag);
        }
    kith_free(products);
}

struct quantizers_rotation quantizers_rotation_learn(enum quantizers_turn turn,
                                                     struct blas_block rows, uint32_t n_subs)
{
    int dim = (int)rows.dim;
    FaissVectorTransform *transform = NULL;
    omp_set_num_threads(1);
    blas_use_one_thread();
    if (turn == QUANTIZERS_PCA) {
        FaissPCAMatrix *pca = NULL;
        check(faiss_PCAMatrix_new_with(&pca, dim, dim, 0.0f, 0));
        transform = pca;
    } else {
        FaissOPQMatrix *opq = NULL;
        check(faiss_OPQMatrix_new_with(&opq, dim, (int)n_subs, dim));
        faiss_OPQMatrix_set_niter(opq, (int)OPQ_ITERATIONS);
        transform = opq;
    }
    check(faiss_VectorTransform_train(transform, rows.n, rows.rows));
    struct quantizers_rotation rotation = {
        turn, rows.dim, kith_xalloc((size_t)rows.dim * rows.dim * sizeof(float))};
    read_matrix(transform, rows.dim, rotation.numbers);
    check_orthonormal(rotation.numbers, rows.dim);
    faiss_VectorTransform_free(transform);
    return rotation;
}
