/* Durable points per second through store_write, against what the same disk does in the same run.
 *
 *   bench_store [--dir D] [--points N] [--dim D] [--batch B] [--writers W] [--index none|pq4]
 *
 * W writers each keep one batch of upserts in flight. Printed: points/s, the store's CPU per batch
 * (writer, sealing and merging threads together, without making the batches), bytes written per
 * byte of points (ids, vectors, payloads) by log, seals and merges, how long writes took (a refused
 * one until its refusal) and how much of it seals and merges caused, beside that of a bare append
 * and fdatasync of a batch's bytes in the same seconds (store_probe.h), the time until nothing is
 * left to merge or to index, time to reopen; the disk's fdatasync time for one 4 KiB append and its
 * rate of large synced writes. */
#include <fcntl.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>

#include "common/kith_buf.h"
#include "common/kith_clock.h"
#include "common/kith_mem.h"
#include "proto/kith_ops.h"
#include "shard/query/select.h"
#include "shard/rpc/index_trainer.h"
#include "store_fill.h"
#include "store_probe.h"

struct options {
    const char *dir;
    uint32_t points, dim, batch, writers;
    enum kith_index index;
};

#define PAYLOAD_BYTES 32u /* as make_batch makes them, about */

struct lane { /* one writer: a batch in flight */
    struct bench *bench;
    struct kith_buf ops;
    uint64_t *took_ns; /* of each try */
    size_t n_took, cap_took;
    pthread_t thread;
};

struct bench {
    struct options options;
    struct io *io;
    struct collection_indexes *indexes;
    struct slice_table *slices;
    struct index_trainer *trainer;
    struct slice *slice;
    struct store *store;        /* the slice's */
    atomic_uint next;           /* first id of the next batch */
    _Atomic uint64_t making_ns; /* CPU spent on making batches */
    atomic_uint refused;
};

static void die(const char *what, const struct kith_diag *diag)
{
    (void)fprintf(stderr, "bench_store: %s: %s\n", what, diag->text);
    exit(1);
}

static uint64_t thread_cpu_ns(void)
{
    struct timespec ts;
    (void)clock_gettime(CLOCK_THREAD_CPUTIME_ID, &ts);
    return (uint64_t)ts.tv_sec * 1000000000u + (uint64_t)ts.tv_nsec;
}

static uint64_t process_cpu_ns(void)
{
    struct timespec ts;
    (void)clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &ts);
    return (uint64_t)ts.tv_sec * 1000000000u + (uint64_t)ts.tv_nsec;
}

static void make_batch(struct lane *lane, uint32_t first, uint32_t n)
{
    static const char *const topics[] = {"billing", "shipping", "returns", "login", "privacy"};
    uint32_t dim = lane->bench->options.dim;
    float *vector = kith_xalloc(dim * sizeof *vector);
    struct kith_buf payload = {0};
    struct kith_writer p = {.write = kith_buf_sink, .sink = &payload};
    struct kith_writer w = {.write = kith_buf_sink, .sink = &lane->ops};
    kith_buf_reset(&lane->ops);
    kith_write_array(&w, n);
    uint32_t state = first * 2654435761u + 1;
    for (uint32_t i = 0; i < n; i++) {
        for (uint32_t d = 0; d < dim; d++) {
            state = state * 1664525u + 1013904223u;
            vector[d] = (float)(state >> 8) * 0x1p-24f - 0.5f;
        }
        kith_buf_reset(&payload);
        kith_write_map(&p, 3);
        kith_write_cstr(&p, "topic");
        kith_write_cstr(&p, topics[state % 5]);
        kith_write_cstr(&p, "rank");
        kith_write_u64(&p, state % 1000);
        kith_write_cstr(&p, "available");
        kith_write_bool(&p, state % 3 != 0);
        struct kith_id id = kith_id_number(first + i);
        kith_op_write_put(&w, KITH_PUT_UPSERT, &id, vector, dim,
                          (struct kith_bytes){payload.data, payload.len});
    }
    kith_buf_fini(&payload);
    kith_free(vector);
}

static bool write_once(struct lane *lane)
{
    uint64_t begin = kith_now_ns();
    bool written = store_fill_try(lane->bench->store, &lane->ops);
    void *took_ns = lane->took_ns;
    if (!kith_grow(&took_ns, &lane->cap_took, lane->n_took + 1, sizeof *lane->took_ns))
        exit(1);
    lane->took_ns = took_ns;
    lane->took_ns[lane->n_took++] = kith_now_ns() - begin;
    return written;
}

static void *write_lane(void *arg)
{
    struct lane *lane = arg;
    struct bench *bench = lane->bench;
    const struct options *o = &bench->options;
    for (;;) {
        uint32_t first = atomic_fetch_add(&bench->next, o->batch);
        if (first >= o->points)
            return NULL;
        uint64_t cpu = thread_cpu_ns();
        make_batch(lane, first, o->points - first < o->batch ? o->points - first : o->batch);
        atomic_fetch_add(&bench->making_ns, thread_cpu_ns() - cpu);
        while (!write_once(lane))
            atomic_fetch_add(&bench->refused, 1);
    }
}

/* ---- the disk itself --------------------------------------------------------------------------
 */

struct disk {
    double sync_us, rate_mb;
};

static struct disk measure_disk(const char *dir)
{
    struct disk disk = {0};
    char path[512];
    (void)snprintf(path, sizeof path, "%s/disk-rate", dir);
    int fd = open(path, O_RDWR | O_CREAT | O_TRUNC, 0600);
    size_t large = 8u << 20;
    uint8_t *block = kith_xalloc(large);
    memset(block, 0x5a, large);
    if (fd < 0 || fallocate(fd, 0, 0, 128 << 20) != 0) {
        perror("bench_store: disk");
        exit(1);
    }
    uint64_t begin = kith_now_ns();
    for (int i = 0; i < 200; i++)
        if (pwrite(fd, block, 4096, i * 4096) != 4096 || fdatasync(fd) != 0)
            exit(1);
    disk.sync_us = (double)(kith_now_ns() - begin) / 200e3;
    begin = kith_now_ns();
    for (int i = 0; i < 16; i++)
        if (pwrite(fd, block, large, (off_t)(large * (size_t)i)) != (ssize_t)large)
            exit(1);
    if (fdatasync(fd) != 0)
        exit(1);
    disk.rate_mb = 128.0 * 1048576.0 * 1e3 / (double)(kith_now_ns() - begin);
    (void)close(fd);
    (void)unlink(path);
    kith_free(block);
    return disk;
}

struct figures {
    double seconds, settled_s, cpu_ms_per_batch, open_ms, close_ms;
    uint32_t refused;
    struct latencies writes, bare;
    struct store_stats stats, settled;
    struct disk disk;
};

static size_t point_bytes(const struct options *o)
{
    return o->dim * 4u + sizeof(struct kith_id) + PAYLOAD_BYTES;
}

static void line(const char *name, double value, const char *unit, double ratio)
{
    (void)fprintf(stderr, "  %-28s %12.1f %s\n", name, value, unit);
    (void)printf("{\"bench\":\"store\",\"case\":\"%s\",\"value\":%.3f,\"unit\":\"%s\"", name, value,
                 unit);
    if (ratio > 0)
        (void)printf(",\"ratio\":%.3f", ratio);
    (void)printf("}\n");
}

static void print_figures(const struct options *o, const struct figures *f)
{
    double points = (double)o->points / f->seconds;
    double mb = points * o->dim * 4.0 / 1e6;
    (void)fprintf(stderr, "%u points x %u, batches of %u, %u writers\n", o->points, o->dim,
                  o->batch, o->writers);
    line("durable points", points, "1/s", 0);
    line("durable vectors", mb, "MB/s", mb / f->disk.rate_mb);
    line("store's CPU per batch", f->cpu_ms_per_batch, "ms", 0);
    line("syncs", (double)f->stats.fsyncs, "", (double)f->stats.fsyncs / (double)f->stats.writes);
    line("segments", f->stats.segments, "", 0);
    line("segments once settled", f->settled.segments, "", 0);
    line("indexed once settled", (double)f->settled.indexed_points, "points", 0);
    line("settled after", f->settled_s, "s", 0);
    double bytes = (double)o->points * (double)point_bytes(o);
    for (enum store_cause cause = 0; cause < STORE_CAUSES; cause++) {
        char name[32];
        (void)snprintf(name, sizeof name, "written: %s", store_cause_name(cause));
        line(name, (double)f->settled.written[cause] / bytes, "bytes/byte", 0);
    }
    line("a write, median", f->writes.median, "ms", 0);
    line("a write, p99.9", f->writes.p999, "ms", 0);
    line("a write, longest", f->writes.max, "ms", 0);
    line("refused, to be repeated", f->refused, "writes", 0);
    line("longest stop of the writer", (double)f->stats.pause_ns_max / 1e6, "ms", 0);
    line("stops of the writer", (double)f->stats.paused_ns / 1e9, "s", 0);
    line("longest sync of the log", (double)f->stats.sync_ns_max / 1e6, "ms", 0);
    line("a bare append, median", f->bare.median, "ms", 0);
    line("a bare append, p99.9", f->bare.p999, "ms", 0);
    line("a bare append, longest", f->bare.max, "ms", 0);
    line("close", f->close_ms, "ms", 0);
    line("open again", f->open_ms, "ms", 0);
    line("the disk: fdatasync of 4 KiB", f->disk.sync_us, "us", 0);
    line("the disk: writes of 8 MiB", f->disk.rate_mb, "MB/s", 0);
}

static struct options parse(int argc, char **argv)
{
    struct options o = {
        .dir = "/tmp/kith-bench-store", .points = 200000, .dim = 128, .batch = 1000, .writers = 4};
    for (int i = 1; i < argc; i++) {
        const char *value = i + 1 < argc ? argv[i + 1] : "";
        if (strcmp(argv[i], "--dir") == 0 && ++i)
            o.dir = value;
        else if (strcmp(argv[i], "--points") == 0 && ++i)
            o.points = (uint32_t)strtoul(value, NULL, 10);
        else if (strcmp(argv[i], "--dim") == 0 && ++i)
            o.dim = (uint32_t)strtoul(value, NULL, 10);
        else if (strcmp(argv[i], "--batch") == 0 && ++i)
            o.batch = (uint32_t)strtoul(value, NULL, 10);
        else if (strcmp(argv[i], "--writers") == 0 && ++i)
            o.writers = (uint32_t)strtoul(value, NULL, 10);
        else if (strcmp(argv[i], "--index") == 0 && ++i)
            o.index = strcmp(value, "pq4") == 0 ? KITH_INDEX_PQ4 : KITH_INDEX_NONE;
    }
    if (o.writers == 0 || o.writers > 64 || o.batch == 0) {
        (void)fprintf(stderr, "bench_store: 1 to 64 writers, a batch of at least 1\n");
        exit(2);
    }
    return o;
}

#define COLLECTION 1

static void open_all(struct bench *bench)
{
    struct kith_diag diag = {0};
    struct slice_table_options slices = {.io = bench->io, .select = select_ids};
    enum kith_err err = collection_indexes_open(&bench->indexes, 0, 1, &diag);
    slices.indexes = bench->indexes;
    if (err == KITH_OK)
        err = slice_table_open(&bench->slices, &slices, &diag);
    if (err != KITH_OK)
        die("open", &diag);
    slice_table_warm(bench->slices, NULL);
    struct index_trainer_options trainer = {
        .slices = bench->slices, .indexes = bench->indexes, .threads = 1};
    if (index_trainer_open(&bench->trainer, &trainer, &diag) != KITH_OK)
        die("open", &diag);
}

static void find_store(struct bench *bench)
{
    struct kith_diag diag = {0};
    const char *why = "";
    if (slice_table_get(bench->slices, COLLECTION, 0, &bench->slice, &why) != KITH_OK) {
        (void)snprintf(diag.text, sizeof diag.text, "%s", why);
        die("slice", &diag);
    }
    bench->store = slice_store(bench->slice);
}

static void close_all(struct bench *bench)
{
    if (bench->slice != NULL)
        slice_put(bench->slices, bench->slice);
    bench->slice = NULL;
    index_trainer_close(bench->trainer);
    slice_table_close(bench->slices);
    collection_indexes_close(bench->indexes);
}

static bool is_settled(const struct bench *bench, struct store_stats *stats)
{
    store_stats(bench->store, stats);
    struct collection_index_state index = collection_index_state(slice_index(bench->slice), stats);
    return !stats->busy &&
           (bench->options.index == KITH_INDEX_NONE || index.phase == KITH_INDEX_READY);
}

static struct latencies gather(struct lane *lanes, uint32_t n_lanes)
{
    size_t n = 0, at = 0;
    for (uint32_t i = 0; i < n_lanes; i++)
        n += lanes[i].n_took;
    uint64_t *took_ns = kith_xalloc(n * sizeof *took_ns);
    for (uint32_t i = 0; i < n_lanes; at += lanes[i++].n_took) {
        memcpy(took_ns + at, lanes[i].took_ns, lanes[i].n_took * sizeof *took_ns);
        kith_free(lanes[i].took_ns);
    }
    struct latencies latencies = latencies_of(took_ns, n);
    kith_free(took_ns);
    return latencies;
}

static void run(struct bench *bench, struct figures *f)
{
    struct lane lanes[64] = {0};
    struct store_probe *probe = store_probe_start(
        bench->options.dir, (size_t)bench->options.batch * point_bytes(&bench->options));
    uint64_t cpu = process_cpu_ns(), start = kith_now_ns();
    for (uint32_t i = 0; i < bench->options.writers; i++) {
        lanes[i].bench = bench;
        if (pthread_create(&lanes[i].thread, NULL, write_lane, &lanes[i]) != 0)
            exit(1);
    }
    for (uint32_t i = 0; i < bench->options.writers; i++) {
        (void)pthread_join(lanes[i].thread, NULL);
        kith_buf_fini(&lanes[i].ops);
    }
    f->seconds = (double)(kith_now_ns() - start) / 1e9;
    f->bare = store_probe_stop(probe);
    f->writes = gather(lanes, bench->options.writers);
    f->refused = atomic_load(&bench->refused);
    uint32_t batches = (bench->options.points + bench->options.batch - 1) / bench->options.batch;
    f->cpu_ms_per_batch =
        (double)(process_cpu_ns() - cpu - atomic_load(&bench->making_ns)) / 1e6 / batches;
    store_stats(bench->store, &f->stats);
    while (!is_settled(bench, &f->settled))
        (void)usleep(10000);
    f->settled_s = (double)(kith_now_ns() - start) / 1e9;
    uint64_t begin = kith_now_ns();
    close_all(bench);
    f->close_ms = (double)(kith_now_ns() - begin) / 1e6;
}

int main(int argc, char **argv)
{
    struct bench bench = {.options = parse(argc, argv)};
    struct figures f = {0};
    struct kith_diag diag = {0};
    if (io_real_open(&bench.io, bench.options.dir, &diag) != KITH_OK)
        die("open", &diag);
    struct slice_config config = {.collection = COLLECTION,
                                  .dim = bench.options.dim,
                                  .metric = KITH_COSINE,
                                  .rows = KITH_ROWS_F32,
                                  .index = bench.options.index};
    open_all(&bench);
    if (slice_table_drop(bench.slices, COLLECTION, 0, &diag) != KITH_OK ||
        slice_table_create(bench.slices, &config, &diag) != KITH_OK)
        die("create", &diag);
    find_store(&bench);
    f.disk = measure_disk(bench.options.dir);
    run(&bench, &f);
    uint64_t begin = kith_now_ns();
    open_all(&bench);
    f.open_ms = (double)(kith_now_ns() - begin) / 1e6;
    find_store(&bench);
    struct store_stats stats;
    store_stats(bench.store, &stats);
    if (stats.live_points != bench.options.points)
        die("points are missing after the reopen", &diag);
    print_figures(&bench.options, &f);
    slice_put(bench.slices, bench.slice);
    bench.slice = NULL;
    if (slice_table_drop(bench.slices, COLLECTION, 0, &diag) != KITH_OK)
        die("drop", &diag);
    close_all(&bench);
    io_real_close(bench.io);
    return 0;
}
