/* For tests of building: rows as they come to a store, and segments made of them on a fake disk.
 * Threads: one. */
#ifndef IVF_BUILD_TESTING_H
#define IVF_BUILD_TESTING_H

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
#include "shard/index/ivf_build.h"
#include "shard/index/ivf_format.h"
#include "shard/storage/io_fake.h"
#include "shard/storage/segment_build.h"
#include "shard/storage/segment_writer.h"

#define ROWS_MAX TEST_SCALE(5000u, 3000u)
#define DIM_MAX  40u

/* Rows as they come to a store, and what is to be made of them. */
struct world {
    struct slice_config config;
    enum codebook_codes codes;
    uint32_t n;
    float rows[ROWS_MAX * DIM_MAX];
    uint16_t halves[ROWS_MAX * DIM_MAX];
    _Atomic int stop_after; /* asks until it says so; negative: never */
};
static struct world world;

static inline void make_world(struct world *w, enum kith_metric metric, enum codebook_codes codes,
                              uint32_t n)
{
    uint32_t dim = 1 + random_u32() % DIM_MAX;
    float centres[30 * DIM_MAX], offset = metric == KITH_EUCLID ? 1.0f : 0.0f;
    w->config = (struct slice_config){.collection = 1,
                                      .dim = dim,
                                      .metric = metric,
                                      .rows = random_u32() % 2 ? KITH_ROWS_F16 : KITH_ROWS_F32};
    w->codes = codes;
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

static inline enum kith_err write_segment(struct world *w, struct io *io,
                                          struct ivf_builder *builder, uint64_t number)
{
    struct segment_build build = {
        .writer = {.io = io, .dir = "s", .config = &w->config, .number = number, .n_rows = w->n},
        .rows = source_of(w),
        .points = write_points,
        .points_ctx = w,
        .index = ivf_builder_hooks(builder)};
    uint32_t *place = NULL;
    uint64_t bytes;
    enum kith_err err = segment_build_run(&build, &place, &bytes, NULL);
    kith_free(place);
    return err;
}

static inline struct segment *open_segment(struct world *w, struct io *io,
                                           struct ivf_builder *builder, uint64_t number)
{
    struct segment *segment;
    assert_int_equal(segment_open(&segment, io, "s", number, &w->config, NULL), KITH_OK);
    assert_int_equal(segment_index_open(segment, ivf_builder_hooks(builder), NULL), KITH_OK);
    return segment;
}

static inline struct codebook *train(const struct world *w, uint32_t generation)
{
    struct codebook_training training = {.config = &w->config,
                                         .codes = w->codes,
                                         .rows = w->rows,
                                         .n_rows = w->n,
                                         .collection_rows = w->n,
                                         .n_lists = 40,
                                         .generation = generation,
                                         .threads = 1};
    struct codebook *codebook;
    assert_int_equal(codebook_train(&codebook, &training, NULL), KITH_OK);
    return codebook;
}

static inline struct ivf_builder *new_builder(const struct world *w)
{
    struct ivf_builder_options options = {
        .config = w->config, .codes = w->codes, .min_rows = 10, .threads = 2};
    struct ivf_builder *builder;
    assert_int_equal(ivf_builder_new(&builder, &options, NULL), KITH_OK);
    return builder;
}

static inline struct io *new_disk(void)
{
    struct io *io;
    assert_int_equal(io_fake_new(&io, NULL), KITH_OK);
    assert_int_equal(io->make_dir(io->self, "s", NULL), KITH_OK);
    return io;
}

#endif
