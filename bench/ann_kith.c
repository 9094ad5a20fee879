/* Kith itself, as a shard runs it: a store in a temporary folder, filled by writes, sealed and
 * merged, and searched by search_run on the calling thread. */
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "ann_engine.h"
#include "common/kith_buf.h"
#include "common/kith_mem.h"
#include "proto/kith_ops.h"
#include "shard/query/search.h"
#include "shard/storage/store.h"

#define ROWS_PER_WRITE 1000u

struct kith {
    char dir[4096];
    struct io *io;
    struct store *store;
    struct view *view;
    struct search_context *context;
    uint32_t setting;
};

static _Noreturn void die(const char *what, const struct kith_diag *diag)
{
    fprintf(stderr, "ann: kith: %s: %s\n", what, diag->text);
    exit(1);
}

/* ---- effort: the one place that knows how a search is told how hard to look ------------------ */

static const float targets[] = {1.0f}; /* 1: exact */

static void describe(void *index, uint32_t setting, char out[ANN_NAME_BYTES])
{
    (void)index;
    if (targets[setting] >= 1.0f)
        snprintf(out, ANN_NAME_BYTES, "exact");
    else
        snprintf(out, ANN_NAME_BYTES, "recall %g", (double)targets[setting]);
}

static void set_effort(struct search_part *part, uint32_t setting)
{
    (void)part, (void)setting; /* every search is exact */
}

/* ---- filling --------------------------------------------------------------------------------- */

struct waiter {
    pthread_mutex_t lock;
    pthread_cond_t changed;
    bool done;
    enum kith_err err;
};

static void on_written(void *ctx, const struct store_write_result *result,
                       const struct kith_diag *diag)
{
    struct waiter *waiter = ctx;

    (void)diag;
    pthread_mutex_lock(&waiter->lock);
    waiter->done = true;
    waiter->err = result->err;
    pthread_cond_signal(&waiter->changed);
    pthread_mutex_unlock(&waiter->lock);
}

static void write_rows(struct kith *kith, const struct ann_set *set, uint32_t first, uint32_t n)
{
    struct waiter waiter = {PTHREAD_MUTEX_INITIALIZER, PTHREAD_COND_INITIALIZER, false, KITH_OK};
    struct kith_buf ops = {0};
    struct kith_writer w = {.write = kith_buf_sink, .sink = &ops};
    struct kith_diag diag = {0};

    kith_write_array(&w, n);
    for (uint32_t i = first; i < first + n; i++) {
        struct kith_id id = kith_id_number(i);
        kith_op_write_put(&w, KITH_PUT_UPSERT, &id, set->base + (size_t)i * set->dim, set->dim,
                          (struct kith_bytes){0});
    }
    if (ops.failed || store_write(kith->store, 0, (struct kith_bytes){ops.data, ops.len},
                                  on_written, &waiter, &diag) != KITH_OK)
        die("write", &diag);
    pthread_mutex_lock(&waiter.lock);
    while (!waiter.done)
        pthread_cond_wait(&waiter.changed, &waiter.lock);
    pthread_mutex_unlock(&waiter.lock);
    if (waiter.err != KITH_OK)
        die("write", &diag);
    kith_buf_fini(&ops);
}

static void maintain(struct kith *kith)
{
    struct kith_diag diag = {0};

    for (bool did_work = true; did_work;)
        if (store_maintain(kith->store, &did_work, &diag) != KITH_OK)
            die("maintain", &diag);
}

static enum kith_err select_none(const struct view *view, struct kith_bytes filter,
                                 store_emit_fn emit, void *emit_ctx, struct kith_diag *diag)
{
    (void)view, (void)filter, (void)emit, (void)emit_ctx;
    return kith_fail(diag, KITH_INTERNAL, "nothing here writes by filter");
}

static void fill(struct kith *kith, const struct ann_set *set)
{
    struct store_options options = {.io = kith->io, .dir = "slice", .select = select_none};
    struct slice_config config = {
        .collection = 1, .dim = set->dim, .metric = KITH_COSINE, .rows = KITH_ROWS_F32};
    struct kith_diag diag = {0};

    if (store_create(&options, &config, &diag) != KITH_OK ||
        store_open(&kith->store, &options, &diag) != KITH_OK)
        die("create", &diag);
    for (uint32_t i = 0; i < set->n; i += ROWS_PER_WRITE) {
        write_rows(kith, set, i, set->n - i < ROWS_PER_WRITE ? set->n - i : ROWS_PER_WRITE);
        maintain(kith);
    }
    kith->view = store_view(kith->store);
    if (kith->view->live_points != set->n)
        die("fill", &(struct kith_diag){.text = "the store does not hold the rows"});
}

/* ---- the engine ------------------------------------------------------------------------------ */

static void choose(void *index, uint32_t setting)
{
    ((struct kith *)index)->setting = setting;
}

static uint32_t search(void *index, const float *query, uint32_t k, uint32_t *rows)
{
    struct kith *kith = index;
    struct search_part part = {.n_queries = 1, .k = k, .vectors = (const uint8_t *)query};
    struct search_request request = {
        .views = &kith->view, .n_views = 1, .parts = &part, .n_parts = 1};
    struct search_result result = {0};
    struct kith_diag diag = {0};
    uint32_t n;

    set_effort(&part, kith->setting);
    if (search_run(kith->context, &request, &result, &diag) != KITH_OK)
        die("search", &diag);
    n = result.found[0].n;
    for (uint32_t i = 0; i < n; i++)
        rows[i] = (uint32_t)result.found[0].hits[i].id.lo;
    search_result_fini(&result);
    return n;
}

static void close_kith(void *index)
{
    struct kith *kith = index;
    pid_t child;

    search_context_close(kith->context);
    view_unref(kith->view);
    store_close(kith->store);
    io_real_close(kith->io);
    child = fork();
    if (child == 0) {
        execlp("rm", "rm", "-rf", kith->dir, (char *)NULL);
        _exit(127);
    }
    waitpid(child, NULL, 0);
    kith_free(kith);
}

void ann_kith_open(struct ann_engine *out, const struct ann_set *set, const char *spec,
                   uint32_t threads)
{
    struct kith *kith = kith_xalloc(sizeof(*kith));
    const char *parent = getenv("KITH_BENCH_DIR");
    struct kith_diag diag = {0};

    (void)threads;
    if (parent == NULL)
        parent = getenv("TMPDIR");
    snprintf(kith->dir, sizeof(kith->dir), "%s/kith-bench-XXXXXX",
             parent == NULL ? "/tmp" : parent);
    if (mkdtemp(kith->dir) == NULL || io_real_open(&kith->io, kith->dir, &diag) != KITH_OK ||
        search_context_open(&kith->context, NULL, &diag) != KITH_OK)
        die(kith->dir, &diag);
    fill(kith, set);
    *out = (struct ann_engine){
        .family = "kith",
        .n_settings = sizeof(targets) / sizeof(targets[0]),
        .index = kith,
        .describe = describe,
        .choose = choose,
        .search = search,
        .close = close_kith,
    };
    snprintf(out->build, sizeof(out->build), "%s", spec);
}
