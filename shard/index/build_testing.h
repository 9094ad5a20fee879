/* Segments of made-up rows on a fake disk, for tests of what builds their indexes. Included by
 * *_test.c only. */
#ifndef BUILD_TESTING_H
#define BUILD_TESTING_H

#include <float.h>
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include "common/kith_f16.h"
#include "common/kith_mem.h"
#include "common/kith_testing.h"
#include "shard/index/kernels.h"
#include "shard/index/topk.h"
#include "shard/storage/io_fake.h"
#include "shard/storage/segment_build.h"

#define ROWS_MAX TEST_SCALE(5000u, 3000u)
#define DIM_MAX  40u

/* Rows as they come to a store, and what is to be made of them. */
struct world {
    struct slice_config config;
    uint32_t codes; /* enum codebook_codes, for an index of lists */
    uint32_t n;
    float rows[ROWS_MAX * DIM_MAX];
    uint16_t halves[ROWS_MAX * DIM_MAX];
    _Atomic int stop_after; /* asks until it says so; negative: never */
};

static inline void make_rows(struct world *w, enum kith_metric metric, uint32_t dim, uint32_t n)
{
    float centres[30 * DIM_MAX], offset = metric == KITH_EUCLID ? 1.0f : 0.0f;
    w->config = (struct slice_config){.collection = 1,
                                      .dim = dim,
                                      .metric = metric,
                                      .rows = random_u32() % 2 ? KITH_ROWS_F16 : KITH_ROWS_F32};
    w->n = n;
    for (uint32_t i = 0; i < 30 * dim; i++)
        centres[i] = offset + random_unit();
    for (uint32_t i = 0; i < n; i++) {
        const float *centre = centres + random_u32() % 30 * dim;
        float *row = w->rows + (size_t)i * dim, length = 0.0f;
        for (uint32_t j = 0; j < dim; j++) {
            row[j] = centre[j] + 0.2f * random_unit();
            length += row[j] * row[j];
        }
        for (uint32_t j = 0; j < dim && metric == KITH_COSINE; j++)
            row[j] /= sqrtf(length);
        kith_f16_pack(w->halves + (size_t)i * dim, row, dim);
        if (w->config.rows == KITH_ROWS_F16)
            kith_f16_unpack(row, w->halves + (size_t)i * dim, dim);
    }
    atomic_store(&w->stop_after, -1);
}

static inline const void *row_at(const void *ctx, uint32_t i)
{
    const struct world *w = ctx;
    size_t at = (size_t)i * w->config.dim;
    return w->config.rows == KITH_ROWS_F16 ? (const void *)(w->halves + at) : w->rows + at;
}

static inline bool stops(const void *ctx)
{
    struct world *w = (void *)(uintptr_t)ctx;
    return atomic_load(&w->stop_after) >= 0 && atomic_fetch_sub(&w->stop_after, 1) <= 0;
}

static inline struct segment_source source_of(const struct world *w)
{
    return (struct segment_source){.n_rows = w->n, .row = row_at, .ctx = w, .stop = stops};
}

static inline enum kith_err write_points(void *ctx, struct segment_building *building,
                                         struct kith_diag *diag)
{
    const struct world *w = ctx;
    enum kith_err err = KITH_OK;
    for (uint32_t i = 0; i < w->n && err == KITH_OK; i++) {
        struct kith_id id = kith_id_number(i);
        struct segment_point point = {.id = &id, .seq = i + 1};
        err = segment_build_point(building, i, &point, diag);
    }
    return err;
}

static inline enum kith_err write_segment_with(struct world *w, struct io *io,
                                               const struct segment_index_hooks *hooks,
                                               uint64_t number)
{
    struct segment_build build = {
        .writer = {.io = io, .dir = "s", .config = &w->config, .number = number, .n_rows = w->n},
        .rows = source_of(w),
        .points = write_points,
        .points_ctx = w,
        .index = hooks};
    uint32_t *place = NULL;
    uint64_t bytes;
    enum kith_err err = segment_build_run(&build, &place, &bytes, NULL);
    kith_free(place);
    return err;
}

static inline struct segment *open_segment_with(struct world *w, struct io *io,
                                                const struct segment_index_hooks *hooks,
                                                uint64_t number)
{
    struct segment *segment;
    assert_int_equal(segment_open(&segment, io, "s", number, &w->config, NULL), KITH_OK);
    assert_int_equal(segment_index_open(segment, hooks, NULL), KITH_OK);
    return segment;
}

static inline struct io *new_disk(void)
{
    struct io *io;
    assert_int_equal(io_fake_new(&io, NULL), KITH_OK);
    assert_int_equal(io->make_dir(io->self, "s", NULL), KITH_OK);
    return io;
}

#define HELD 300u /* the last rows: queries nobody saw */
#define K    10u
#define MANY 200u /* more than a cluster has */

/* The rank of the k-th best row (k <= MANY), by a scan of all. */
static inline float kth_rank(const struct world *w, const float *query, uint32_t k)
{
    struct kith_hit hits[MANY];
    struct topk top;
    topk_init(&top, k, -FLT_MAX, hits);
    struct kernels_rows rows = {row_at(w, 0), w->config.dim};
    static float ranks[ROWS_MAX];
    kernels_scalar.scan[kernels_form_of(w->config.metric)][kernels_type_of(w->config.rows)](
        query, rows, w->n, ranks);
    for (uint32_t i = 0; i < w->n; i++)
        (void)topk_push(&top, &(struct kith_hit){.id = kith_id_number(i), .rank = ranks[i]});
    return hits[0].rank; /* a heap, the worst first */
}

static inline enum kith_err begin_and_end(struct world *w, const struct segment_index_hooks *hooks)
{
    struct segment_source source = source_of(w);
    void *made = NULL;
    uint32_t *order = kith_xalloc(w->n * sizeof *order);
    enum kith_err err = hooks->begin(hooks->self, &w->config, &source, order, &made, NULL);
    assert_true((err == KITH_OK) == (made != NULL));
    if (made != NULL)
        hooks->end(made);
    kith_free(order);
    return err;
}

/* Is told to stop ever later, until it is done before. Returns how often it was. */
static inline uint32_t stop_ever_later(struct world *w, const struct segment_index_hooks *hooks,
                                       int slowness)
{
    long before = kith_mem_live();
    enum kith_err err = KITH_CANCELLED;
    uint32_t rounds = 0;
    for (int n = 0; err == KITH_CANCELLED; n += 5 + n / slowness, rounds++) {
        atomic_store(&w->stop_after, n);
        err = begin_and_end(w, hooks);
        assert_int_equal(kith_mem_live(), before);
    }
    assert_int_equal(err, KITH_OK);
    return rounds;
}

/* Each allocation of begin_and_end fails once. */
static inline void fail_each_allocation(struct world *w, const struct segment_index_hooks *hooks)
{
    long before = kith_mem_live();
    enum kith_err err = KITH_NOMEM;
    for (long n = 1; err == KITH_NOMEM; n++) { /* the first is the test's own */
        kith_mem_fail_after(n);
        err = begin_and_end(w, hooks);
        kith_mem_fail_after(-1);
        assert_int_equal(kith_mem_live(), before);
    }
    assert_int_equal(err, KITH_OK);
}

/* open_segment_with, with each allocation for the index failing once. */
static inline struct segment *open_despite_oom(struct world *w, struct io *io,
                                               const struct segment_index_hooks *hooks,
                                               uint64_t number)
{
    struct segment *segment;
    assert_int_equal(segment_open(&segment, io, "s", number, &w->config, NULL), KITH_OK);
    enum kith_err err = KITH_NOMEM;
    for (long n = 0; err == KITH_NOMEM; n++) {
        kith_mem_fail_after(n);
        err = segment_index_open(segment, hooks, NULL);
        kith_mem_fail_after(-1);
    }
    assert_int_equal(err, KITH_OK);
    return segment;
}

#endif
