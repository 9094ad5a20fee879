/* The C API turns C++ exceptions into codes and keeps the last one for its thread, so the text is
 * read at once, on the same thread (failed()).
 *
 * Two things of Faiss would not come back as errors, and are kept from happening. Distances that
 * overflow leave rows without a centroid, and the search for a large cluster to split then never
 * ends: rows are checked first (check_rows). And an exception inside an OpenMP region ends the
 * process; with one thread such a region allocates only small things.
 *
 * k-means runs one iteration a call, which gives a place to poll: train() goes on from the
 * centroids it left. Initial centroids get in by training on exactly k rows, which Faiss copies.
 *
 * Lost: k-means of our own over blas_products. It was 1.3 times slower (0.51 s against 0.38 s for
 * an iteration over 131,072 rows, 1024 centroids, dimension 100), because Faiss finds the nearest
 * centroid while a block of products is still in the cache. */
#include "shard/index/faiss.h"

#include <faiss/c_api/Clustering_c.h>
#include <faiss/c_api/IndexFlat_c.h>
#include <faiss/c_api/error_c.h>
#include <limits.h>
#include <string.h>
#include <unistd.h>

#include "common/kith_mem.h"
#include "proto/kith_limits.h"
#include "shard/index/kernels.h"

/* <omp.h> belongs to each compiler's own runtime; Faiss brings GCC's. Sets a value of the calling
 * thread only. */
void omp_set_num_threads(int count);

#ifdef KITH_FAISS_AVX2
/* Faiss's static objects are built before main, by AVX2 code: this must come before them. */
__attribute__((constructor(101))) static void check_cpu(void)
{
    static const char text[] =
        "error: this program contains Faiss for CPUs with AVX2 and FMA, which this CPU lacks.\n"
        "       Build it here, or with KITH_FAISS_LEVEL=generic in the environment of "
        "deploy/faiss and cmake.\n";
    __builtin_cpu_init();
    if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma"))
        return;
    ssize_t written = write(STDERR_FILENO, text, sizeof text - 1);
    (void)written;
    _exit(1);
}
#endif

static void enter(void)
{
    omp_set_num_threads(1);
    blas_use_one_thread();
}

/* "Error in <function> at <file>:<line>: <reason>" without what only we can make use of. */
static const char *reason_of(const char *text)
{
    const char *source = strstr(text, ".cpp:");
    const char *end = source != NULL ? strstr(source, ": ") : NULL;
    return end != NULL ? end + 2 : text;
}

static enum kith_err failed(int code, enum kith_err err, const char *what, struct kith_diag *diag)
{
    if (code == 0)
        return KITH_OK;
    const char *text = faiss_get_last_error();
    if (text == NULL)
        return kith_fail(diag, KITH_INTERNAL, "%s: Faiss failed without a reason", what);
    if (strcmp(text, "std::bad_alloc") == 0)
        return kith_fail(diag, KITH_NOMEM, "%s: out of memory", what);
    return kith_fail(diag, err, "%s: %s", what, reason_of(text));
}

static enum kith_err check_rows(struct blas_block rows, struct kith_diag *diag)
{
    enum { BLOCK = 256 };
    float norms[BLOCK];
    for (uint32_t at = 0; at < rows.n; at += BLOCK) {
        uint32_t n = rows.n - at < BLOCK ? rows.n - at : BLOCK;
        struct kernels_rows block = {rows.rows + (size_t)at * rows.dim, rows.dim};
        kernels_best()->norms(block, n, norms);
        for (uint32_t i = 0; i < n; i++)
            if (!(norms[i] <= FAISS_NORM_MAX)) /* NaN, too */
                return kith_fail(diag, KITH_UNPROCESSABLE,
                                 "row %u has a NaN, an infinite or a huge value", at + i);
    }
    return KITH_OK;
}

static enum kith_err check_train(struct blas_block rows, const char *what, struct kith_diag *diag)
{
    if (rows.dim == 0 || rows.dim > KITH_DIM_MAX)
        return kith_fail(diag, KITH_TOO_BIG, "%s: dimension %u; 1 to %u are allowed", what,
                         rows.dim, KITH_DIM_MAX);
    if (rows.n > KITH_FAISS_TRAIN_ROWS_MAX)
        return kith_fail(diag, KITH_TOO_BIG, "%s: %u rows to train on; the limit is %u", what,
                         rows.n, KITH_FAISS_TRAIN_ROWS_MAX);
    enum kith_err err = check_rows(rows, diag);
    if (err != KITH_OK)
        kith_diag_prefix(diag, "%s", what);
    return err;
}

static enum kith_err ask(struct faiss_poll poll, struct kith_diag *diag)
{
    return poll.fn == NULL ? KITH_OK : poll.fn(poll.ctx, diag);
}

/* --- k-means --------------------------------------------------------------------------------- */

static enum kith_err check_kmeans(const struct faiss_kmeans *job, struct kith_diag *diag)
{
    if (job->k == 0 || job->k > KITH_FAISS_CENTROIDS_MAX)
        return kith_fail(diag, KITH_TOO_BIG, "k-means: %u centroids; 1 to %u are allowed", job->k,
                         KITH_FAISS_CENTROIDS_MAX);
    if (job->rows.n < job->k)
        return kith_fail(diag, KITH_UNPROCESSABLE, "k-means: %u rows for %u centroids", job->rows.n,
                         job->k);
    enum kith_err err = check_train(job->rows, "k-means", diag);
    if (err == KITH_OK && job->initial != NULL) {
        struct blas_block initial = {job->initial, job->k, job->rows.dim};
        err = check_train(initial, "k-means: initial centroids", diag);
    }
    return err;
}

static enum kith_err iterate(const struct faiss_kmeans *job, FaissClustering *clustering,
                             FaissIndex *index, struct kith_diag *diag)
{
    if (job->initial != NULL) {
        int code = faiss_Clustering_train(clustering, job->k, job->initial, index);
        if (code != 0)
            return failed(code, KITH_INTERNAL, "k-means", diag);
    }
    for (uint32_t i = 0; i < job->iterations; i++) {
        enum kith_err err = ask(job->poll, diag);
        if (err != KITH_OK)
            return err;
        int code = faiss_Clustering_train(clustering, job->rows.n, job->rows.rows, index);
        if (code != 0)
            return failed(code, KITH_UNPROCESSABLE, "k-means", diag);
    }
    return KITH_OK;
}

enum kith_err faiss_kmeans_run(const struct faiss_kmeans *job, float *centroids,
                               struct kith_diag *diag)
{
    kith_assert(job->iterations > 0);
    enter();
    FaissClustering *clustering = NULL;
    FaissIndexFlatL2 *index = NULL;
    enum kith_err err = check_kmeans(job, diag);
    if (err != KITH_OK)
        return err;

    FaissClusteringParameters parameters;
    faiss_ClusteringParameters_init(&parameters);
    parameters.niter = 1;
    parameters.seed = (int)(job->seed & INT_MAX);
    parameters.min_points_per_centroid = 1;                     /* no warning on stderr */
    parameters.max_points_per_centroid = INT_MAX / (int)job->k; /* sampling is the caller's */
    int code =
        faiss_Clustering_new_with_params(&clustering, (int)job->rows.dim, (int)job->k, &parameters);
    if (code == 0)
        code = faiss_IndexFlatL2_new_with(&index, job->rows.dim);
    err = failed(code, KITH_INTERNAL, "k-means", diag);
    if (err == KITH_OK)
        err = iterate(job, clustering, index, diag);
    if (err == KITH_OK) {
        float *found = NULL;
        size_t count = 0;
        faiss_Clustering_centroids(clustering, &found, &count);
        kith_assert(count == (size_t)job->k * job->rows.dim);
        memcpy(centroids, found, count * sizeof *found);
    }
    if (index != NULL)
        faiss_Index_free(index);
    if (clustering != NULL)
        faiss_Clustering_free(clustering);
    return err;
}
