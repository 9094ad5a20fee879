/* What a merge costs: CPU time for each row, of segments that share a codebook, of segments without
 * any index that get one, and of segments that have none and get none.
 *
 *   bench_merge [--points N] [--dim D]
 *
 * N made-up points of D dimensions are sealed into 8 segments, as many as a merge takes. The first
 * case minus the last is what lists, codes and their calibration cost when they can be taken over;
 * the second minus the last when they have to be made. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/kith_clock.h"
#include "common/kith_mem.h"
#include "points.h"
#include "proto/kith_ops.h"
#include "shard/index/ivf_build.h"
#include "store_fill.h"

#define PARTS      8u
#define POINTS_MIN (PARTS * (IVF_TRAIN_ROWS + POINTS_PER_WRITE)) /* or they have no index */

enum kind { SHARED, FRESH, NONE, KINDS };
static const char *const names[KINDS] = {"shared codebook", "first index", "no index"};

struct bench {
    uint32_t points, dim;
    struct slice_config config;
    struct codebook *codebook;
};

static _Noreturn void die(const char *what, const struct kith_diag *diag)
{
    fprintf(stderr, "bench_merge: %s: %s\n", what, diag->text);
    exit(1);
}

static void train(struct bench *bench)
{
    uint32_t n = codebook_sample_rows(bench->points, bench->dim);
    float *rows = kith_xalloc((size_t)n * bench->dim * sizeof *rows);
    for (uint32_t i = 0; i < n; i++)
        points_row((uint64_t)i * 2654435761u % bench->points, rows + (size_t)i * bench->dim);
    struct codebook_training training = {.config = &bench->config,
                                         .codes = CODEBOOK_PQ4,
                                         .rows = rows,
                                         .n_rows = n,
                                         .collection_rows = bench->points,
                                         .generation = 1,
                                         .threads = 1};
    struct kith_diag diag = {0};
    if (codebook_train(&bench->codebook, &training, &diag) != KITH_OK)
        die("train", &diag);
    kith_free(rows);
}

static void write_rows(const struct bench *bench, struct store *store, uint32_t first, uint32_t n)
{
    float row[POINTS_DIM_MAX];
    struct kith_buf ops = {0};
    struct kith_writer w = {.write = kith_buf_sink, .sink = &ops};
    kith_write_array(&w, n);
    for (uint32_t i = first; i < first + n; i++) {
        struct kith_id id = kith_id_number(i);
        points_row(i, row);
        kith_op_write_put(&w, KITH_PUT_UPSERT, &id, row, bench->dim, (struct kith_bytes){0});
    }
    store_fill_write(store, &ops);
    kith_buf_fini(&ops);
}

static void fill(const struct bench *bench, struct store *store)
{
    bool did;
    store_hold_merges(store, true);
    for (uint32_t i = 0; i < bench->points; i += POINTS_PER_WRITE) {
        uint32_t left = bench->points - i;
        write_rows(bench, store, i, left < POINTS_PER_WRITE ? left : POINTS_PER_WRITE);
        do {
            struct kith_diag diag = {0};
            if (store_maintain(store, &did, &diag) != KITH_OK)
                die("seal", &diag);
        } while (did);
    }
}

static void run(const struct bench *bench, enum kind kind)
{
    char dir[512];
    struct io *io;
    struct store *store;
    struct ivf_builder *builder;
    struct store_stats before, after;
    struct kith_diag diag = {0};
    struct ivf_builder_options building = {
        .config = bench->config, .codes = CODEBOOK_PQ4, .threads = 1};
    store_fill_make_dir(dir, sizeof dir);
    if (io_real_open(&io, dir, &diag) != KITH_OK ||
        ivf_builder_new(&builder, &building, &diag) != KITH_OK)
        die(dir, &diag);
    struct store_options options = {.io = io,
                                    .dir = "slice",
                                    .select = store_fill_select_none,
                                    .index = ivf_builder_hooks(builder),
                                    .head_rows_max = bench->points / PARTS - POINTS_PER_WRITE};
    if (store_create(&options, &bench->config, &diag) != KITH_OK ||
        store_open(&store, &options, &diag) != KITH_OK)
        die("create", &diag);
    if (kind == SHARED)
        ivf_builder_set_codebook(builder, bench->codebook);
    fill(bench, store);
    if (kind == FRESH)
        ivf_builder_set_codebook(builder, bench->codebook);
    store_stats(store, &before);
    uint64_t cpu = kith_thread_ns(), start = kith_now_ns();
    store_hold_merges(store, false);
    store_fill_maintain(store);
    cpu = kith_thread_ns() - cpu;
    double seconds = (double)(kith_now_ns() - start) / 1e9;
    store_stats(store, &after);
    fprintf(stderr, "%-16s %2u segments to %u: %6.2f us CPU a row, %.2f s\n", names[kind],
            before.segments, after.segments, (double)cpu / 1e3 / bench->points, seconds);
    printf("{\"bench\":\"merge\",\"case\":\"%s\",\"points\":%u,\"dim\":%u,\"segments\":%u,"
           "\"value\":%.3f,\"unit\":\"us CPU/row\",\"seconds\":%.3f}\n",
           names[kind], bench->points, bench->dim, before.segments,
           (double)cpu / 1e3 / bench->points, seconds);
    store_close(store);
    ivf_builder_free(builder);
    io_real_close(io);
    store_fill_remove_dir(dir);
}

int main(int argc, char **argv)
{
    struct bench bench = {.points = 200000, .dim = 128};
    for (int i = 1; i < argc; i += 2) {
        uint32_t *to = strcmp(argv[i], "--points") == 0 ? &bench.points
                       : strcmp(argv[i], "--dim") == 0  ? &bench.dim
                                                        : NULL;
        if (to == NULL || i + 1 == argc || (*to = (uint32_t)strtoul(argv[i + 1], NULL, 10)) == 0) {
            fputs("usage: bench_merge [--points N] [--dim D]\n", stderr);
            return 2;
        }
    }
    if (bench.dim > POINTS_DIM_MAX || bench.points < POINTS_MIN) {
        fprintf(stderr, "bench_merge: up to %u dimensions, at least %u points\n", POINTS_DIM_MAX,
                POINTS_MIN);
        return 2;
    }
    bench.config = (struct slice_config){
        .collection = 1, .dim = bench.dim, .metric = KITH_COSINE, .rows = KITH_ROWS_F32};
    points_init(bench.dim);
    train(&bench);
    for (enum kind kind = 0; kind < KINDS; kind++)
        run(&bench, kind);
    codebook_unref(bench.codebook);
    return 0;
}
