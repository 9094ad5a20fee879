/* The first iterations move centroids far, and need few rows to know where to; the last ones need
 * many. So the sample grows, 16, 64, then 256 rows a centroid, each stage beginning with the result
 * of the one before. A sample is a prefix of the rows, which are in random order.
 *
 * Further iterations still pay: centroids in dense places spread, lists become more even in size,
 * and a search scans fewer rows (docs/decisions/k-means.md).
 *
 * Lost: moving centroids 1.4 to 1.9 times as far as their mean is (less energy, but lists less even
 * in size); beginning with fewer rows; more iterations of the first stages.
 *
 * Sums are cut by columns, not by rows: every thread adds all rows, in their order, for some
 * columns. That reads the assignment once for each piece, and makes the result independent of
 * threads. */
#include "shard/index/kmeans.h"

#include <float.h>
#include <math.h>
#include <string.h>

#include "common/kith_mem.h"

#define COLUMNS 32u /* of a piece of the sums: two cache lines of a row */

static const struct stage {
    uint32_t rows; /* of the sample, for each centroid */
    uint32_t iterations;
} stages[] = {{16, 5}, {64, 3}, {256, 4}};

struct run {
    const struct kmeans *kmeans;
    uint32_t n; /* rows of this stage */
    float *centroids;
    struct nearest_set set; /* of them */
    float *sums;
    uint32_t *counts;
    uint32_t *lists; /* of each row */
    float *lifted;   /* of each row its further coordinate; NULL: not lifted */
    float *scratch;  /* of each thread */
    size_t scratch_floats;
};

static bool is_lifted(const struct kmeans *kmeans)
{
    return kmeans->space.width > kmeans->space.dim + 1;
}

static size_t prepared_floats(const struct kmeans *kmeans)
{
    return (size_t)NEAREST_ROWS * kmeans->space.width;
}

static void assign_piece(void *ctx, uint32_t piece, uint32_t worker)
{
    struct run *run = ctx;
    const struct kmeans *kmeans = run->kmeans;
    if (workers_stopped(kmeans->workers))
        return;
    const struct nearest_space *space = &kmeans->space;
    uint32_t first = piece * NEAREST_ROWS;
    uint32_t n = run->n - first < NEAREST_ROWS ? run->n - first : NEAREST_ROWS;
    float *rows = run->scratch + worker * run->scratch_floats;
    float lengths[NEAREST_ROWS], scores[NEAREST_ROWS];
    for (uint32_t i = 0; i < n; i++) {
        float *row = rows + (size_t)i * space->width;
        lengths[i] = nearest_prepare(space, kmeans->rows + (size_t)(first + i) * space->dim,
                                     KITH_ROWS_F32, row);
        if (run->lifted != NULL)
            run->lifted[first + i] = row[space->dim];
    }
    struct nearest_rows prepared = {rows, lengths, n};
    nearest_find(&run->set, &prepared, rows + prepared_floats(kmeans), run->lists + first, scores);
}

static void sum_piece(void *ctx, uint32_t piece, uint32_t worker)
{
    (void)worker;
    struct run *run = ctx;
    const struct nearest_space *space = &run->kmeans->space;
    const float *rows = run->kmeans->rows;
    uint32_t first = piece * COLUMNS, dim = space->dim;
    uint32_t n = dim - first < COLUMNS ? dim - first : COLUMNS;
    for (uint32_t i = 0; i < run->n; i++) {
        float *sum = run->sums + (size_t)run->lists[i] * space->width + first;
        const float *row = rows + (size_t)i * dim + first;
        for (uint32_t j = 0; j < n; j++)
            sum[j] += row[j];
    }
}

static void count(struct run *run)
{
    const struct nearest_space *space = &run->kmeans->space;
    memset(run->counts, 0, run->kmeans->n_lists * sizeof *run->counts);
    for (uint32_t i = 0; i < run->n; i++) {
        run->counts[run->lists[i]]++;
        if (run->lifted != NULL)
            run->sums[(size_t)run->lists[i] * space->width + space->dim] += run->lifted[i];
    }
}

static uint32_t fullest(const struct run *run)
{
    uint32_t best = 0;
    for (uint32_t c = 1; c < run->kmeans->n_lists; c++)
        if (run->counts[c] > run->counts[best])
            best = c;
    return best;
}

/* An empty list gets half of the fullest one: two centroids a little beside where it was. */
static void split(struct run *run, uint32_t empty)
{
    const struct nearest_space *space = &run->kmeans->space;
    uint32_t full = fullest(run);
    float *a = run->centroids + (size_t)full * space->width;
    float *b = run->centroids + (size_t)empty * space->width;
    for (uint32_t j = 0; j < space->dim; j++) {
        float aside = a[j] * (j % 2 == 0 ? 0x1p-10f : -0x1p-10f);
        b[j] = a[j] + aside;
        a[j] -= aside;
    }
    if (is_lifted(run->kmeans))
        b[space->dim] = a[space->dim];
    nearest_close(space, a);
    nearest_close(space, b);
    run->counts[empty] = run->counts[full] / 2;
    run->counts[full] -= run->counts[empty];
}

static void move_centroids(struct run *run)
{
    const struct nearest_space *space = &run->kmeans->space;
    for (uint32_t c = 0; c < run->kmeans->n_lists; c++) {
        if (run->counts[c] == 0)
            continue;
        float *centroid = run->centroids + (size_t)c * space->width;
        const float *sum = run->sums + (size_t)c * space->width;
        float share = 1.0f / (float)run->counts[c];
        for (uint32_t j = 0; j + 1 < space->width; j++)
            centroid[j] = sum[j] * share;
        nearest_close(space, centroid);
    }
    for (uint32_t c = 0; c < run->kmeans->n_lists; c++)
        if (run->counts[c] == 0)
            split(run, c);
}

static enum kith_err iterate(struct run *run, struct kith_diag *diag)
{
    const struct kmeans *kmeans = run->kmeans;
    uint32_t blocks = (run->n + NEAREST_ROWS - 1) / NEAREST_ROWS;
    nearest_set_renew(&run->set);
    enum kith_err err = workers_run(kmeans->workers, blocks, assign_piece, run, diag);
    if (err != KITH_OK)
        return err;
    memset(run->sums, 0, (size_t)kmeans->n_lists * kmeans->space.width * sizeof *run->sums);
    err = workers_run(kmeans->workers, (kmeans->space.dim + COLUMNS - 1) / COLUMNS, sum_piece, run,
                      diag);
    if (err != KITH_OK)
        return err;
    count(run);
    move_centroids(run);
    return KITH_OK;
}

static enum kith_err run_stages(struct run *run, struct kith_diag *diag)
{
    const struct kmeans *kmeans = run->kmeans;
    for (uint32_t c = 0; c < kmeans->n_lists; c++) {
        float *centroid = run->centroids + (size_t)c * kmeans->space.width;
        (void)nearest_prepare(&kmeans->space, kmeans->rows + (size_t)c * kmeans->space.dim,
                              KITH_ROWS_F32, centroid);
        nearest_close(&kmeans->space, centroid);
    }
    for (uint32_t s = 0; s < sizeof stages / sizeof stages[0]; s++) {
        uint64_t want = (uint64_t)stages[s].rows * kmeans->n_lists;
        run->n = want < kmeans->n_rows ? (uint32_t)want : kmeans->n_rows;
        for (uint32_t i = 0; i < stages[s].iterations; i++) {
            enum kith_err err = iterate(run, diag);
            if (err != KITH_OK)
                return err;
        }
    }
    return KITH_OK;
}

enum kith_err kmeans_train(const struct kmeans *kmeans, float *centroids, struct kith_diag *diag)
{
    kith_assert(kmeans->n_lists >= 1 && kmeans->n_lists <= kmeans->n_rows);
    struct run run = {.kmeans = kmeans, .centroids = centroids};
    size_t n_rows = kmeans->n_rows, n_lists = kmeans->n_lists;
    enum kith_err err =
        nearest_set_init(&run.set, &kmeans->space, centroids, kmeans->n_lists, diag);
    if (err != KITH_OK)
        return err;
    run.scratch_floats = prepared_floats(kmeans) + nearest_scratch_bytes(&run.set) / sizeof(float);
    run.sums = kith_alloc(n_lists * kmeans->space.width * sizeof *run.sums);
    run.counts = kith_alloc(n_lists * sizeof *run.counts);
    run.lists = kith_alloc(n_rows * sizeof *run.lists);
    run.lifted = is_lifted(kmeans) ? kith_alloc(n_rows * sizeof *run.lifted) : NULL;
    run.scratch =
        kith_alloc_aligned(64, kmeans->workers->threads * run.scratch_floats * sizeof *run.scratch);
    if (run.sums == NULL || run.counts == NULL || run.lists == NULL || run.scratch == NULL ||
        (is_lifted(kmeans) && run.lifted == NULL))
        err = kith_fail(diag, KITH_NOMEM, "k-means of %u rows", kmeans->n_rows);
    else
        err = run_stages(&run, diag);
    kith_free(run.scratch);
    kith_free(run.lifted);
    kith_free(run.lists);
    kith_free(run.counts);
    kith_free(run.sums);
    nearest_set_fini(&run.set);
    return err;
}
