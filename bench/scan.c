/* bench scan: what exact search makes of the memory's bandwidth, and against Faiss.
 *
 * 1. GB/s of rows scanned by flat_scan (kernel, filter, top-k, names) over the GB/s of the best
 *    plain read of the same buffer, in the same round; 1 and 2 threads. The same of rows of bytes
 *    and the search that takes all of them.
 * 2. Queries per second of flat_scan and of Faiss's IndexFlat over the same rows, one thread,
 *    batch 1 and batch 64, in turn.
 *
 * Rows are generated: clustered, unit length. For bandwidth and exact search the values do not
 * matter; the top-k changes about as often as with real data. Each figure is the median of the
 * rounds; the ratio is the median of the rounds' ratios, since other work on the machine hits both
 * sides of a round alike. One thread is timed by its CPU, two by the clock. All rows lie in huge
 * pages, where the system gives them. A table goes to stderr, one JSON object per line to stdout.
 */
#include <float.h>
#include <math.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "common/kith_clock.h"
#include "common/kith_f16.h"
#include "common/kith_mem.h"
#include "common/kith_pool.h"
#include "median.h"
#include "scan_bytes.h"
#include "shard/index/faiss.h"
#include "shard/index/flat.h"

#define ROUNDS_MAX 31u
#define K          10u
#define BATCH_MAX  64u
#define PIECE_ROWS 16384u

static const uint32_t dims[] = {100, 384, 768, 1024};

struct bench {
    uint32_t rounds, only_dim; /* 0: all */
    size_t bytes;
    uint8_t *buffer; /* rows */
    float *queries;
    struct kith_pool *helper; /* one thread beside the caller */
    uint32_t dim, n;
    enum kernels_type type;
    enum kernels_form form;
    struct flat_scratch *scratch[2];
    struct scan_bytes *bytes_of[2]; /* each half of the rows; NULL: rows are floats */
};

static uint64_t seed = 20240601;

static uint32_t random_u32(void)
{
    seed = seed * 6364136223846793005u + 1442695040888963407u;
    return (uint32_t)(seed >> 32);
}

static float random_unit(void)
{
    return (float)random_u32() * 0x1p-31f - 1.0f;
}

/* ---- rows ------------------------------------------------------------------------------------ */

#define CENTRES 256u
static float centres[CENTRES][1024];

static void make_vector(float *out, uint32_t dim)
{
    const float *centre = centres[random_u32() % CENTRES];
    float square = 0;
    for (uint32_t i = 0; i < dim; i++) {
        out[i] = centre[i] + 0.7f * random_unit();
        square += out[i] * out[i];
    }
    for (uint32_t i = 0; i < dim; i++)
        out[i] /= sqrtf(square);
}

static void make_rows(struct bench *b, uint32_t dim, enum kernels_type type)
{
    b->dim = dim;
    b->type = type;
    b->form = KERNELS_IP;
    b->n = (uint32_t)(b->bytes / kernels_row_bytes(type, dim));
    for (uint32_t c = 0; c < CENTRES; c++)
        for (uint32_t i = 0; i < dim; i++)
            centres[c][i] = random_unit();
    float row[1024];
    for (uint32_t r = 0; r < b->n; r++) {
        make_vector(row, dim);
        uint8_t *at = b->buffer + (size_t)r * kernels_row_bytes(type, dim);
        if (type == KERNELS_F16)
            kith_f16_pack((uint16_t *)(void *)at, row, dim);
        else
            memcpy(at, row, dim * sizeof *row);
    }
    for (uint32_t q = 0; q < BATCH_MAX; q++)
        make_vector(b->queries + (size_t)q * dim, dim);
}

/* One thread's work is timed by its CPU, which waiting for memory costs and waiting for others does
 * not. */
static uint64_t now_ns(uint32_t threads)
{
    return threads == 1 ? kith_thread_ns() : kith_now_ns();
}

/* ---- reading --------------------------------------------------------------------------------- */

static _Atomic float sink; /* keeps the reads alive */

/* Two registers of NEON, one of AVX2. */
typedef float reader __attribute__((vector_size(32), aligned(4), may_alias));

#ifdef __x86_64__
__attribute__((target("avx2")))
#endif
static float
read_plain(const uint8_t *at, size_t bytes, size_t ahead)
{
    reader sum[4] = {{0}};
    for (size_t i = 0; i + 128 <= bytes; i += 128) {
        if (ahead > 0) {
            __builtin_prefetch(at + i + ahead);
            __builtin_prefetch(at + i + ahead + 64);
        }
        for (size_t j = 0; j < 4; j++)
            sum[j] += *(const reader *)(const void *)(at + i + 32 * j);
    }
    reader all = (sum[0] + sum[1]) + (sum[2] + sum[3]);
    return all[0];
}

struct read_job {
    const uint8_t *data;
    size_t bytes, ahead;
    uint32_t parts;
};

static void read_part(void *ctx, uint32_t index, uint32_t worker)
{
    (void)worker;
    struct read_job *job = ctx;
    size_t part = job->bytes / job->parts;
    atomic_store(&sink, read_plain(job->data + index * part, part, job->ahead));
}

#define WAYS 3u

/* Seconds to read the buffer. */
static double read_seconds(struct bench *b, uint32_t threads, uint32_t way)
{
    static const size_t aheads[WAYS] = {0, 1024, 4096};
    struct read_job job = {b->buffer, b->bytes, aheads[way], threads == 1 ? 1 : 64};
    uint64_t start = now_ns(threads);
    kith_pool_run(threads == 1 ? NULL : b->helper, job.parts, read_part, &job);
    return (double)(now_ns(threads) - start) / 1e9;
}

/* ---- searching ------------------------------------------------------------------------------- */

struct scan_job {
    struct bench *b;
    struct flat_search search[2];
    struct topk tops[2][BATCH_MAX];
    struct kith_hit hits[2][BATCH_MAX][K];
    _Atomic float floors[BATCH_MAX];
};

static void scan_piece(void *ctx, uint32_t index, uint32_t worker)
{
    struct scan_job *job = ctx;
    struct bench *b = job->b;
    uint32_t first = index * PIECE_ROWS;
    struct flat_rows run = {.data = b->buffer + (size_t)first * kernels_row_bytes(b->type, b->dim),
                            .first = first,
                            .n = b->n - first < PIECE_ROWS ? b->n - first : PIECE_ROWS,
                            .name = flat_name_number};
    flat_scan(&job->search[worker], &run, b->scratch[worker]);
}

/* One search of the whole buffer; its hits stay in *job. */
static double scan_seconds(struct bench *b, uint32_t threads, uint32_t n_queries,
                           struct scan_job *job)
{
    uint64_t start = now_ns(threads);
    job->b = b;
    for (uint32_t w = 0; w < 2; w++) {
        for (uint32_t q = 0; q < n_queries; q++)
            topk_init(&job->tops[w][q], K, -FLT_MAX, job->hits[w][q]);
        job->search[w] = (struct flat_search){.form = b->form,
                                              .type = b->type,
                                              .dim = b->dim,
                                              .n_queries = n_queries,
                                              .queries = b->queries,
                                              .tops = job->tops[w],
                                              .floors = job->floors};
    }
    for (uint32_t q = 0; q < n_queries; q++)
        atomic_store(&job->floors[q], -FLT_MAX);
    kith_pool_run(threads == 1 ? NULL : b->helper, (b->n + PIECE_ROWS - 1) / PIECE_ROWS, scan_piece,
                  job);
    for (uint32_t q = 0; q < n_queries; q++) {
        topk_merge(&job->tops[0][q], &job->tops[1][q]);
        topk_sort(&job->tops[0][q]);
    }
    return (double)(now_ns(threads) - start) / 1e9;
}

static void scan_half(void *ctx, uint32_t half, uint32_t worker)
{
    struct bench *b = ctx;
    (void)worker;
    scan_bytes_run(b->bytes_of[half], b->queries, K);
}

static double bytes_seconds(struct bench *b, uint32_t threads)
{
    uint64_t start = now_ns(threads);
    kith_pool_run(threads == 1 ? NULL : b->helper, 2, scan_half, b);
    return (double)(now_ns(threads) - start) / 1e9;
}

/* ---- figures --------------------------------------------------------------------------------- */

static const char *rows_name(const struct bench *b)
{
    return b->bytes_of[0] != NULL ? "int8" : b->type == KERNELS_F16 ? "f16" : "f32";
}

static void bench_bandwidth(struct bench *b, uint32_t threads)
{
    static struct scan_job job;
    double scan[ROUNDS_MAX], read[WAYS][ROUNDS_MAX], ratio[ROUNDS_MAX];
    for (uint32_t i = 0; i < b->rounds; i++) {
        for (uint32_t way = 0; way < WAYS; way++)
            read[way][i] = (double)b->bytes / read_seconds(b, threads, way) / 1e9;
        double seconds =
            b->bytes_of[0] != NULL ? bytes_seconds(b, threads) : scan_seconds(b, threads, 1, &job);
        scan[i] = (double)b->bytes / seconds / 1e9;
    }
    uint32_t best = 0; /* of all rounds: that of each would favour the read by its luck */
    for (uint32_t way = 1; way < WAYS; way++)
        if (median(read[way], b->rounds) > median(read[best], b->rounds))
            best = way;
    for (uint32_t i = 0; i < b->rounds; i++)
        ratio[i] = scan[i] / read[best][i];
    double s = median(scan, b->rounds), r = median(read[best], b->rounds),
           x = median(ratio, b->rounds);
    fprintf(stderr, "%-4s d=%-5u %u thread%s  scan %6.2f GB/s  read %6.2f GB/s  ratio %.3f  %s\n",
            rows_name(b), b->dim, threads, threads == 1 ? " " : "s", s, r, x,
            x >= 0.85 ? "ok" : "BELOW 0.85");
    printf("{\"bench\":\"scan\",\"case\":\"bandwidth\",\"rows\":\"%s\",\"dim\":%u,\"threads\":%u,"
           "\"value\":%.3f,\"unit\":\"GB/s\",\"read\":%.3f,\"ratio\":%.4f,\"target\":0.85}\n",
           rows_name(b), b->dim, threads, s, r, x);
    fflush(stdout);
}

static struct faiss_index *faiss_flat(uint32_t dim, enum kith_metric metric, uint32_t n,
                                      const void *rows)
{
    struct faiss_index *index = NULL;
    struct kith_diag diag = {0};
    struct blas_block block = {rows, n, dim};
    if (faiss_index_new("Flat", dim, metric, &index, &diag) != KITH_OK ||
        faiss_index_add(index, block, (struct faiss_poll){0}, &diag) != KITH_OK) {
        fprintf(stderr, "scan: %s\n", diag.text);
        exit(1);
    }
    return index;
}

static void bench_faiss(struct bench *b, const char *name, uint32_t batch)
{
    static struct scan_job job;
    static float scores[BATCH_MAX * K];
    static int64_t rows[BATCH_MAX * K];
    double ours[ROUNDS_MAX], theirs[ROUNDS_MAX], ratio[ROUNDS_MAX];
    enum kernels_form form = strcmp(name, "euclid") == 0 ? KERNELS_L2 : KERNELS_IP;
    b->form = form;
    struct faiss_index *index =
        faiss_flat(b->dim, form == KERNELS_L2 ? KITH_EUCLID : KITH_DOT, b->n, b->buffer);
    struct blas_block queries = {b->queries, batch, b->dim};
    struct faiss_hits hits = {rows, scores};
    uint32_t rounds = b->rounds > 9 && batch > 1 ? 9 : b->rounds;
    for (uint32_t i = 0; i < rounds; i++) {
        uint64_t start = now_ns(1);
        enum kith_err err =
            faiss_index_search(index, queries, K, (struct faiss_effort){0}, hits, NULL);
        kith_assert(err == KITH_OK);
        theirs[i] = batch / ((double)(now_ns(1) - start) / 1e9);
        ours[i] = batch / scan_seconds(b, 1, batch, &job);
        ratio[i] = ours[i] / theirs[i];
    }
    uint32_t same = 0;
    for (uint32_t q = 0; q < batch; q++)
        for (uint32_t i = 0; i < K; i++)
            same += job.tops[0][q].hits[i].id.lo == (uint64_t)rows[q * K + i];
    faiss_index_free(index);
    double o = median(ours, rounds), t = median(theirs, rounds), x = median(ratio, rounds);
    fprintf(stderr,
            "%-6s d=%-5u batch %-3u kith %9.1f q/s  faiss %9.1f q/s  ratio %.2f  same hits %u/%u  "
            "%s\n",
            name, b->dim, batch, o, t, x, same, batch * K, x >= 1 ? "ok" : "SLOWER");
    printf("{\"bench\":\"scan\",\"case\":\"faiss\",\"metric\":\"%s\",\"dim\":%u,\"rows\":%u,"
           "\"batch\":%u,\"value\":%.2f,\"unit\":\"q/s\",\"faiss\":%.2f,\"ratio\":%.3f,"
           "\"same_hits\":%u,\"target\":1.0}\n",
           name, b->dim, b->n, batch, o, t, x, same);
    fflush(stdout);
}

static void bench_peers(struct bench *b)
{
    fprintf(stderr, "\nagainst Faiss IndexFlat, f32, 1 thread, k = %u, rows: %zu MiB\n", K,
            b->bytes >> 20);
    for (size_t d = 0; d < sizeof dims / sizeof dims[0]; d++) {
        if (b->only_dim != 0 && b->only_dim != dims[d])
            continue;
        make_rows(b, dims[d], KERNELS_F32);
        bench_faiss(b, "dot", 1);
        bench_faiss(b, "euclid", 1);
        bench_faiss(b, "dot", BATCH_MAX);
        bench_faiss(b, "euclid", BATCH_MAX);
    }
}

static void bench_reads(struct bench *b)
{
    fprintf(stderr, "exact scan over plain read, %s kernels, buffer %zu MiB, %u rounds\n",
            kernels_best()->name, b->bytes >> 20, b->rounds);
    for (int type = 0; type < KERNELS_TYPES; type++)
        for (size_t d = 0; d < sizeof dims / sizeof dims[0]; d++) {
            if (b->only_dim != 0 && b->only_dim != dims[d])
                continue;
            make_rows(b, dims[d], (enum kernels_type)type);
            bench_bandwidth(b, 1);
            bench_bandwidth(b, 2);
        }
}

static void bench_bytes(struct bench *b)
{
    for (size_t d = 0; d < sizeof dims / sizeof dims[0]; d++) {
        uint32_t n = (uint32_t)(b->bytes / scan_bytes_row(dims[d]));
        if (b->only_dim != 0 && b->only_dim != dims[d])
            continue;
        b->dim = dims[d];
        scan_bytes_make(b->buffer, n, b->dim);
        for (uint32_t i = 0; i < b->dim; i++)
            b->queries[i] = random_unit();
        b->bytes_of[0] = scan_bytes_new(b->buffer, n / 2, b->dim);
        b->bytes_of[1] =
            scan_bytes_new(b->buffer + (size_t)(n / 2) * scan_bytes_row(b->dim), n - n / 2, b->dim);
        bench_bandwidth(b, 1);
        bench_bandwidth(b, 2);
        for (uint32_t i = 0; i < 2; i++) {
            scan_bytes_free(b->bytes_of[i]);
            b->bytes_of[i] = NULL;
        }
    }
}

/* Both sides' rows come from malloc, and pages of 4 KiB that lie scattered are read by a fifth more
 * slowly than such in a row, which depends on who allocates first. In huge pages they are equal;
 * malloc takes them if it is told so before main. */
static void use_huge_pages(char **argv)
{
    if (getenv("GLIBC_TUNABLES") == NULL &&
        setenv("GLIBC_TUNABLES", "glibc.malloc.hugetlb=1", 0) == 0)
        (void)execv("/proc/self/exe", argv);
}

int main(int argc, char **argv)
{
    use_huge_pages(argv);
    struct bench b = {.rounds = 9, .bytes = (size_t)256 << 20};
    const char *only = "";
    for (int i = 1; i < argc; i++) {
        if (strcmp(argv[i], "--rounds") == 0 && i + 1 < argc)
            b.rounds = (uint32_t)atoi(argv[++i]);
        else if (strcmp(argv[i], "--mib") == 0 && i + 1 < argc)
            b.bytes = (size_t)atoi(argv[++i]) << 20;
        else if (strcmp(argv[i], "--dim") == 0 && i + 1 < argc)
            b.only_dim = (uint32_t)atoi(argv[++i]);
        else if (strcmp(argv[i], "--only") == 0 && i + 1 < argc)
            only = argv[++i];
        else {
            fprintf(stderr,
                    "usage: scan [--rounds N] [--mib N] [--dim N] [--only read|bytes|faiss]\n");
            return 2;
        }
    }
    if (b.rounds < 1 || b.rounds > ROUNDS_MAX || b.bytes < (1u << 20)) {
        fprintf(stderr, "scan: --rounds 1..%u, --mib from 1\n", ROUNDS_MAX);
        return 2;
    }
    b.buffer = kith_alloc_aligned(4096, b.bytes + 4096);
    b.queries = kith_alloc_aligned(64, sizeof(float) * BATCH_MAX * 1024);
    if (b.buffer == NULL || b.queries == NULL || kith_pool_open(&b.helper, 1, NULL) != KITH_OK ||
        flat_scratch_fit(&b.scratch[0], 1024, BATCH_MAX, NULL) != KITH_OK ||
        flat_scratch_fit(&b.scratch[1], 1024, BATCH_MAX, NULL) != KITH_OK) {
        fprintf(stderr, "scan: out of memory\n");
        return 1;
    }
    if (strcmp(only, "faiss") != 0 && strcmp(only, "bytes") != 0)
        bench_reads(&b);
    if (strcmp(only, "faiss") != 0)
        bench_bytes(&b);
    if (strcmp(only, "read") != 0 && strcmp(only, "bytes") != 0)
        bench_peers(&b);
    flat_scratch_free(b.scratch[0]);
    flat_scratch_free(b.scratch[1]);
    kith_pool_close(b.helper);
    kith_free(b.queries);
    kith_free(b.buffer);
    return 0;
}
