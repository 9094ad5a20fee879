/* The engine alone: a real store in a folder, searched in this process as a shard does it, without
 * HTTP, wire, plan and merge. `serve` subtracts it from what users see.
 *
 * usage: bench_engine DIR --dim D --points N [--seconds S] [--queries Q]
 *
 * DIR/slice is made and filled with the points of points.h when it is not there yet (as PUTs of
 * 1,000 points do), else opened as it is. One JSON line for each of
 *   single    one caller, no pool
 *   pooled    one caller, a pool of one thread per CPU: what a shard does with one query
 *   parallel  one caller per CPU, no pool: as many queries a second as there can be */
#include <getopt.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "common/kith_buf.h"
#include "common/kith_clock.h"
#include "common/kith_mem.h"
#include "points.h"
#include "proto/kith_ops.h"
#include "shard/query/search.h"
#include "shard/storage/store.h"
#include "store_fill.h"

#define K           10u
#define CALLERS_MAX 16u
#define TIMES_MAX   (1u << 20)

struct bench {
    struct store *store;
    uint64_t n;
    uint32_t dim, n_queries;
    double seconds;
    float *queries;
};

struct caller {
    const struct bench *bench;
    struct search_context *context;
    uint32_t first; /* query to begin with */
    uint64_t done, ns;
    float *times_us;
};

static _Noreturn void die(const char *what, const struct kith_diag *diag)
{
    fprintf(stderr, "bench_engine: %s: %s\n", what, diag->text);
    exit(1);
}

/* ---- the store ------------------------------------------------------------------------------- */

static void write_rows(struct bench *bench, uint64_t first, uint32_t n)
{
    struct kith_buf ops = {0};
    struct kith_writer w = {.write = kith_buf_sink, .sink = &ops};
    float row[POINTS_DIM_MAX];

    kith_write_array(&w, n);
    for (uint64_t i = first; i < first + n; i++) {
        struct kith_id id = kith_id_number(i);
        points_row(i, row);
        kith_op_write_put(&w, KITH_PUT_UPSERT, &id, row, bench->dim, (struct kith_bytes){0});
    }
    store_fill_write(bench->store, &ops);
    kith_buf_fini(&ops);
}

static void store_ready(struct bench *bench, struct io *io)
{
    struct store_options options = {
        .io = io, .dir = "slice", .select = store_fill_select_none, .background = true};
    struct slice_config config = {
        .collection = 1, .dim = bench->dim, .metric = KITH_COSINE, .rows = KITH_ROWS_F32};
    struct kith_diag diag = {0};
    enum kith_err made = store_create(&options, &config, &diag);

    if (made != KITH_OK && made != KITH_EXISTS)
        die("create", &diag);
    if (store_open(&bench->store, &options, &diag) != KITH_OK)
        die("open", &diag);
    for (uint64_t i = 0; made == KITH_OK && i < bench->n; i += POINTS_PER_WRITE)
        write_rows(bench, i,
                   bench->n - i < POINTS_PER_WRITE ? (uint32_t)(bench->n - i) : POINTS_PER_WRITE);
}

/* ---- searching ------------------------------------------------------------------------------- */

static void *search_for_a_while(void *arg)
{
    struct caller *caller = arg;
    const struct bench *bench = caller->bench;
    uint64_t start = kith_now_ns(), last = start;

    while ((double)(last - start) < bench->seconds * 1e9) {
        struct view *view = store_view(bench->store);
        uint64_t query = (caller->first + caller->done) % bench->n_queries;
        struct search_part part = {.n_queries = 1,
                                   .k = K,
                                   .vectors =
                                       (const uint8_t *)(bench->queries + query * bench->dim)};
        struct search_request request = {
            .views = &view, .n_views = 1, .parts = &part, .n_parts = 1};
        struct search_result result = {0};
        struct kith_diag diag = {0};
        uint64_t now;

        if (search_run(caller->context, &request, &result, &diag) != KITH_OK)
            die("search", &diag);
        if (result.points != bench->n || result.found[0].n != (bench->n < K ? bench->n : K))
            die("search", &(struct kith_diag){.text = "the store does not hold the points"});
        search_result_fini(&result);
        view_unref(view);
        now = kith_now_ns();
        caller->times_us[caller->done % TIMES_MAX] = (float)(now - last) / 1000.0f;
        caller->done++;
        last = now;
    }
    caller->ns = last - start;
    return NULL;
}

static int by_value(const void *a, const void *b)
{
    float x = *(const float *)a, y = *(const float *)b;

    return (x > y) - (x < y);
}

/* Of the whole process, pool included. */
static uint64_t cpu_ns(void)
{
    struct timespec now;

    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &now);
    return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

/* p50 and p99 are of the first caller: they are all alike. */
static void report(const struct bench *bench, const char *name, struct caller *callers, uint32_t n,
                   uint64_t used_ns)
{
    uint32_t times = callers[0].done < TIMES_MAX ? (uint32_t)callers[0].done : TIMES_MAX;
    uint64_t done = 0;
    double per_s = 0;

    for (uint32_t i = 0; i < n; i++) {
        done += callers[i].done;
        per_s += (double)callers[i].done * 1e9 / (double)callers[i].ns;
    }
    qsort(callers[0].times_us, times, sizeof(float), by_value);
    printf("{\"bench\":\"engine\",\"name\":\"%ux%llu/%s\",\"callers\":%u,\"per_s\":%.1f,"
           "\"cpu_us\":%.1f,\"p50_us\":%.1f,\"p99_us\":%.1f}\n",
           bench->dim, (unsigned long long)bench->n, name, n, per_s,
           (double)used_ns / 1000.0 / (double)done, (double)callers[0].times_us[times / 2],
           (double)callers[0].times_us[times * 99 / 100]);
}

static void measure(const struct bench *bench, const char *name, uint32_t n, struct kith_pool *pool)
{
    struct caller callers[CALLERS_MAX] = {0};
    pthread_t threads[CALLERS_MAX];
    struct search_context *context = NULL;
    struct kith_diag diag = {0};
    uint64_t used_ns;

    if (search_context_open(&context, pool, &diag) != KITH_OK)
        die("context", &diag);
    used_ns = cpu_ns();
    for (uint32_t i = 0; i < n; i++) {
        callers[i] = (struct caller){bench, context, i * (bench->n_queries / n), 0, 0, NULL};
        callers[i].times_us = kith_xalloc(TIMES_MAX * sizeof(float));
        if (pthread_create(&threads[i], NULL, search_for_a_while, &callers[i]) != 0)
            die("thread", &diag);
    }
    for (uint32_t i = 0; i < n; i++)
        pthread_join(threads[i], NULL);
    report(bench, name, callers, n, cpu_ns() - used_ns);
    for (uint32_t i = 0; i < n; i++)
        kith_free(callers[i].times_us);
    search_context_close(context);
}

static void run(struct bench *bench, const char *dir)
{
    struct kith_pool *pool = NULL;
    struct io *io = NULL;
    struct kith_diag diag = {0};

    if (io_real_open(&io, dir, &diag) != KITH_OK || kith_pool_open(&pool, 0, &diag) != KITH_OK)
        die(dir, &diag);
    points_init(bench->dim);
    store_ready(bench, io);
    bench->queries = kith_xalloc((size_t)bench->n_queries * bench->dim * sizeof(float));
    for (uint32_t i = 0; i < bench->n_queries; i++)
        points_row(POINTS_QUERIES + i, bench->queries + (size_t)i * bench->dim);

    uint32_t cpus = kith_pool_threads(pool) < CALLERS_MAX ? kith_pool_threads(pool) : CALLERS_MAX;
    measure(bench, "single", 1, NULL);
    measure(bench, "pooled", 1, pool);
    measure(bench, "parallel", cpus, NULL);

    kith_free(bench->queries);
    store_close(bench->store);
    kith_pool_close(pool);
    io_real_close(io);
}

int main(int argc, char **argv)
{
    static const struct option known[] = {
        {"dim", 1, NULL, 'd'},     {"points", 1, NULL, 'n'}, {"seconds", 1, NULL, 's'},
        {"queries", 1, NULL, 'q'}, {NULL, 0, NULL, 0},
    };
    struct bench bench = {.seconds = 1, .n_queries = 1000};

    for (int c; (c = getopt_long(argc, argv, "", known, NULL)) != -1;) {
        if (c == 'd')
            bench.dim = (uint32_t)strtoul(optarg, NULL, 10);
        else if (c == 'n')
            bench.n = strtoull(optarg, NULL, 10);
        else if (c == 's')
            bench.seconds = strtod(optarg, NULL);
        else if (c == 'q')
            bench.n_queries = (uint32_t)strtoul(optarg, NULL, 10);
    }
    if (optind + 1 != argc || bench.dim == 0 || bench.dim > POINTS_DIM_MAX || bench.n == 0 ||
        bench.n_queries < CALLERS_MAX) {
        fputs("usage: bench_engine DIR --dim D --points N [--seconds S] [--queries Q]\n", stderr);
        return 2;
    }
    run(&bench, argv[optind]);
    return 0;
}
