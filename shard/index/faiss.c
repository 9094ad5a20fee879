/* The C API turns C++ exceptions into codes and keeps the last one for its thread, so the text is
 * read at once, on the same thread (failed()).
 *
 * Two things of Faiss would not come back as errors, and are kept from happening. Distances that
 * overflow leave rows without a centroid, and the search for a large cluster to split then never
 * ends: rows are checked first (check_rows). And an exception inside an OpenMP region ends the
 * process; with one thread such a region allocates only small things. */
#include "shard/index/faiss.h"

#include <faiss/c_api/AutoTune_c.h>
#include <faiss/c_api/error_c.h>
#include <faiss/c_api/index_factory_c.h>
#include <faiss/c_api/index_io_c.h>
#include <float.h>
#include <pthread.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "common/kith_mem.h"
#include "proto/kith_limits.h"
#include "shard/index/faiss_factory.h"
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

enum { SETTINGS = 3 };
static const char *const setting_names[SETTINGS] = {"nprobe", "efSearch", "k_factor_rf"};
static const uint32_t setting_defaults[SETTINGS] = {1, 16, 1};
static const uint32_t setting_limits[SETTINGS] = {KITH_FAISS_NPROBE_MAX, KITH_FAISS_EF_MAX,
                                                  KITH_FAISS_K_FACTOR_MAX};

/* Settings are fields of Faiss's object: they change under the write lock, and a search holds the
 * lock as long as it relies on them. */
struct faiss_index {
    FaissIndex *faiss;
    FaissParameterSpace *space;
    pthread_rwlock_t lock;
    uint32_t settings[SETTINGS]; /* in force */
    bool has[SETTINGS];
};

static FaissMetricType metric_of(enum kith_metric metric)
{
    if (metric == KITH_EUCLID)
        return METRIC_L2;
    return metric == KITH_MANHATTAN ? METRIC_L1 : METRIC_INNER_PRODUCT;
}

void faiss_index_free(struct faiss_index *index)
{
    if (index == NULL)
        return;
    if (index->faiss != NULL)
        faiss_Index_free(index->faiss);
    if (index->space != NULL)
        faiss_ParameterSpace_free(index->space);
    (void)pthread_rwlock_destroy(&index->lock);
    kith_free(index);
}

/* Whoever waits to change settings goes before new readers: else a search for another recall than
 * the many would wait as long as they come. */
static void init_lock(pthread_rwlock_t *lock)
{
    pthread_rwlockattr_t attributes;
    (void)pthread_rwlockattr_init(&attributes);
    (void)pthread_rwlockattr_setkind_np(&attributes, PTHREAD_RWLOCK_PREFER_WRITER_NONRECURSIVE_NP);
    (void)pthread_rwlock_init(lock, &attributes);
    (void)pthread_rwlockattr_destroy(&attributes);
}

/* Takes `faiss`, also when it fails. Which settings there are is found by trying. */
static enum kith_err wrap(FaissIndex *faiss, struct faiss_index **out, struct kith_diag *diag)
{
    struct faiss_index *index = kith_alloc(sizeof *index);
    if (index == NULL) {
        faiss_Index_free(faiss);
        return kith_fail(diag, KITH_NOMEM, "index: out of memory");
    }
    index->faiss = faiss;
    init_lock(&index->lock);
    enum kith_err err =
        failed(faiss_ParameterSpace_new(&index->space), KITH_INTERNAL, "index", diag);
    if (err != KITH_OK) {
        faiss_index_free(index);
        return err;
    }
    for (int i = 0; i < SETTINGS; i++) {
        index->settings[i] = setting_defaults[i];
        index->has[i] = faiss_ParameterSpace_set_index_parameter(
                            index->space, faiss, setting_names[i], setting_defaults[i]) == 0;
    }
    *out = index;
    return KITH_OK;
}

enum kith_err faiss_index_new(const char *factory, uint32_t dim, enum kith_metric metric,
                              struct faiss_index **out, struct kith_diag *diag)
{
    enter();
    enum kith_err err = faiss_factory_check(factory, dim, metric, diag);
    FaissIndex *faiss = NULL;
    if (err == KITH_OK)
        err = failed(faiss_index_factory(&faiss, (int)dim, factory, metric_of(metric)),
                     KITH_BAD_REQUEST, "index factory", diag);
    if (err != KITH_OK)
        return err;
    /* Some constructors know one metric only and take no notice of ours. */
    if (faiss_Index_metric_type(faiss) != metric_of(metric)) {
        faiss_Index_free(faiss);
        return kith_fail(diag, KITH_UNSUPPORTED,
                         "index factory: '%s' cannot be searched by this metric", factory);
    }
    return wrap(faiss, out, diag);
}

uint64_t faiss_index_rows(const struct faiss_index *index)
{
    return (uint64_t)faiss_Index_ntotal(index->faiss);
}

static enum kith_err check_rows(const struct faiss_index *index, struct blas_block rows,
                                const char *what, struct kith_diag *diag)
{
    enum { BLOCK = 256 };
    float norms[BLOCK];
    kith_assert(rows.dim == (uint32_t)faiss_Index_d(index->faiss));
    for (uint32_t at = 0; at < rows.n; at += BLOCK) {
        uint32_t n = rows.n - at < BLOCK ? rows.n - at : BLOCK;
        struct kernels_rows block = {rows.rows + (size_t)at * rows.dim, rows.dim};
        kernels_best()->norms(block, n, norms);
        for (uint32_t i = 0; i < n; i++)
            if (!(norms[i] <= FAISS_NORM_MAX)) /* NaN, too */
                return kith_fail(diag, KITH_UNPROCESSABLE,
                                 "%s: row %u has a NaN, an infinite or a huge value", what, at + i);
    }
    return KITH_OK;
}

enum kith_err faiss_index_train(struct faiss_index *index, struct blas_block rows,
                                struct kith_diag *diag)
{
    enter();
    if (rows.n > KITH_FAISS_TRAIN_ROWS_MAX)
        return kith_fail(diag, KITH_TOO_BIG, "index training: %u rows to train on; the limit is %u",
                         rows.n, KITH_FAISS_TRAIN_ROWS_MAX);
    enum kith_err err = check_rows(index, rows, "index training", diag);
    if (err != KITH_OK || faiss_Index_is_trained(index->faiss))
        return err;
    return failed(faiss_Index_train(index->faiss, rows.n, rows.rows), KITH_UNPROCESSABLE,
                  "index training", diag);
}

static enum kith_err need_training(const struct faiss_index *index, struct kith_diag *diag)
{
    return faiss_Index_is_trained(index->faiss)
               ? KITH_OK
               : kith_fail(diag, KITH_UNPROCESSABLE, "the index is not trained yet");
}

enum kith_err faiss_index_add(struct faiss_index *index, struct blas_block rows,
                              struct faiss_poll poll, struct kith_diag *diag)
{
    enum { CHUNK = 8192 }; /* about a second of HNSW, the slowest, between two polls */
    enter();
    enum kith_err err = need_training(index, diag);
    if (err == KITH_OK && faiss_index_rows(index) + rows.n > KITH_FAISS_ROWS_MAX)
        err = kith_fail(diag, KITH_TOO_BIG, "index: more than %u rows", KITH_FAISS_ROWS_MAX);
    if (err == KITH_OK)
        err = check_rows(index, rows, "index rows", diag);
    for (uint32_t at = 0; err == KITH_OK && at < rows.n; at += CHUNK) {
        err = poll.fn == NULL ? KITH_OK : poll.fn(poll.ctx, diag);
        if (err != KITH_OK)
            break;
        uint32_t n = rows.n - at < CHUNK ? rows.n - at : CHUNK;
        err = failed(faiss_Index_add(index->faiss, n, rows.rows + (size_t)at * rows.dim),
                     KITH_UNPROCESSABLE, "index rows", diag);
    }
    return err;
}

/* --- search ---------------------------------------------------------------------------------- */

static enum kith_err settings_of(const struct faiss_index *index, struct faiss_effort effort,
                                 uint32_t settings[SETTINGS], struct kith_diag *diag)
{
    const uint32_t asked[SETTINGS] = {effort.nprobe, effort.ef_search, effort.k_factor};
    for (int i = 0; i < SETTINGS; i++) {
        if (asked[i] != 0 && !index->has[i])
            return kith_fail(diag, KITH_BAD_REQUEST, "this index has no setting %s",
                             setting_names[i]);
        if (asked[i] > setting_limits[i])
            return kith_fail(diag, KITH_TOO_BIG, "%s is %u; the limit is %u", setting_names[i],
                             asked[i], setting_limits[i]);
        settings[i] = asked[i] != 0 ? asked[i] : setting_defaults[i];
    }
    return KITH_OK;
}

/* Returns with the lock held, and the settings in force, on success. */
static enum kith_err lock_with(struct faiss_index *index, const uint32_t settings[SETTINGS],
                               struct kith_diag *diag)
{
    (void)pthread_rwlock_rdlock(&index->lock);
    if (memcmp(settings, index->settings, sizeof index->settings) == 0)
        return KITH_OK;
    (void)pthread_rwlock_unlock(&index->lock);
    (void)pthread_rwlock_wrlock(&index->lock);
    for (int i = 0; i < SETTINGS; i++) {
        if (settings[i] == index->settings[i])
            continue;
        int code = faiss_ParameterSpace_set_index_parameter(index->space, index->faiss,
                                                            setting_names[i], settings[i]);
        if (code != 0) {
            enum kith_err err = failed(code, KITH_INTERNAL, setting_names[i], diag);
            (void)pthread_rwlock_unlock(&index->lock);
            return err;
        }
        index->settings[i] = settings[i];
    }
    return KITH_OK;
}

/* What was found to the front; distances to ranks. */
static void finish(bool is_distance, uint32_t k, int64_t *rows, float *ranks)
{
    uint32_t found = 0;
    for (uint32_t i = 0; i < k; i++) {
        if (rows[i] < 0)
            continue;
        rows[found] = rows[i];
        ranks[found++] = is_distance ? 0.0f - ranks[i] : ranks[i];
    }
    for (; found < k; found++) {
        rows[found] = -1;
        ranks[found] = -FLT_MAX;
    }
}

enum kith_err faiss_index_search(struct faiss_index *index, struct blas_block queries, uint32_t k,
                                 struct faiss_effort effort, struct faiss_hits hits,
                                 struct kith_diag *diag)
{
    enter();
    if (k == 0 || k > KITH_K_MAX)
        return kith_fail(diag, KITH_TOO_BIG, "k is %u; 1 to %u are allowed", k, KITH_K_MAX);
    uint32_t settings[SETTINGS];
    enum kith_err err = settings_of(index, effort, settings, diag);
    if (err == KITH_OK)
        err = need_training(index, diag);
    if (err == KITH_OK)
        err = check_rows(index, queries, "query", diag);
    if (err == KITH_OK)
        err = lock_with(index, settings, diag);
    if (err != KITH_OK)
        return err;
    /* Faiss allocates k * k_factor candidates for each query of a call. */
    uint32_t batch = (1u << 20) / (k * settings[2]) + 1;
    for (uint32_t at = 0; err == KITH_OK && at < queries.n; at += batch) {
        uint32_t n = queries.n - at < batch ? queries.n - at : batch;
        size_t first = (size_t)at * k;
        err = failed(faiss_Index_search(index->faiss, n, queries.rows + (size_t)at * queries.dim, k,
                                        hits.ranks + first, hits.rows + first),
                     KITH_UNPROCESSABLE, "index search", diag);
    }
    bool is_distance = faiss_Index_metric_type(index->faiss) != METRIC_INNER_PRODUCT;
    (void)pthread_rwlock_unlock(&index->lock);
    for (uint32_t q = 0; err == KITH_OK && q < queries.n; q++)
        finish(is_distance, k, hits.rows + (size_t)q * k, hits.ranks + (size_t)q * k);
    return err;
}

/* --- bytes ----------------------------------------------------------------------------------- */

/* The C API reads and writes FILEs. */
struct writing {
    struct faiss_sink sink;
    struct kith_diag *diag;
    enum kith_err err; /* of the sink */
};

static ssize_t write_some(void *cookie, const char *data, size_t bytes)
{
    struct writing *writing = cookie;
    if (writing->err == KITH_OK)
        writing->err = writing->sink.fn(writing->sink.ctx, data, bytes, writing->diag);
    return writing->err == KITH_OK ? (ssize_t)bytes : 0;
}

enum kith_err faiss_index_write(struct faiss_index *index, struct faiss_sink sink,
                                struct kith_diag *diag)
{
    struct writing writing = {.sink = sink, .diag = diag};
    FILE *file = fopencookie(&writing, "w", (cookie_io_functions_t){.write = write_some});
    if (file == NULL)
        return kith_fail(diag, KITH_NOMEM, "index: out of memory");
    (void)pthread_rwlock_rdlock(&index->lock);
    int code = faiss_write_index(index->faiss, file);
    (void)pthread_rwlock_unlock(&index->lock);
    enum kith_err err =
        failed(code, KITH_UNPROCESSABLE, "index", writing.err == KITH_OK ? diag : NULL);
    bool flushed = fclose(file) == 0;
    if (writing.err != KITH_OK)
        return writing.err;
    return err == KITH_OK && !flushed ? kith_fail(diag, KITH_IO, "index: not written") : err;
}

static enum kith_err check_loaded(const FaissIndex *faiss, uint32_t dim, enum kith_metric metric,
                                  bool all_read, struct kith_diag *diag)
{
    if (!all_read)
        return kith_fail(diag, KITH_CORRUPT, "index: bytes after its end");
    if (faiss_Index_d(faiss) != (int)dim || faiss_Index_metric_type(faiss) != metric_of(metric))
        return kith_fail(diag, KITH_CORRUPT, "index: of another dimension or metric");
    return KITH_OK;
}

enum kith_err faiss_index_load(const void *data, size_t bytes, uint32_t dim,
                               enum kith_metric metric, struct faiss_index **out,
                               struct kith_diag *diag)
{
    enter();
    /* Only read from, in spite of the type. */
    FILE *file = bytes == 0 ? NULL : fmemopen((void *)(uintptr_t)data, bytes, "rb");
    if (file == NULL)
        return kith_fail(diag, bytes == 0 ? KITH_CORRUPT : KITH_NOMEM, "index: %s",
                         bytes == 0 ? "no bytes" : "out of memory");
    FaissIndex *faiss = NULL;
    enum kith_err err = failed(faiss_read_index(file, 0, &faiss), KITH_CORRUPT, "index", diag);
    bool all_read = err == KITH_OK && ftell(file) == (long)bytes;
    (void)fclose(file);
    if (err != KITH_OK)
        return err;
    err = check_loaded(faiss, dim, metric, all_read, diag);
    if (err != KITH_OK) {
        faiss_Index_free(faiss);
        return err;
    }
    return wrap(faiss, out, diag);
}
