/* A world to search for tests of ivf_search: rows around centres, an index over them in parts, and
 * queries; and the exact answers to hold what is found against. Owns: its memory (drop_world). */
#ifndef IVF_SEARCH_TESTING_H
#define IVF_SEARCH_TESTING_H

#include <setjmp.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include "common/kith_testing.h"
#include "shard/index/flat.h"
#include "shard/index/ivf_testing.h"

#define PARTS_MAX 8u

/* ---- a world: rows around centres, an index over them in parts, and queries -------------------
 */

struct world_shape {
    struct ivf_testing_shape index;
    uint32_t n_rows, n_parts, centres, n_queries;
    float spread; /* of rows around their centre, which is about 1 from the others */
    float norms;  /* rows are stretched by up to this factor */
    float offset; /* added to every value */
};

struct world {
    struct world_shape shape;
    float *rows, *queries;
    struct ivf_testing_codebook codebook;
    struct ivf_testing_index indexes[PARTS_MAX];
    struct ivf_part parts[PARTS_MAX];
    uint64_t *allowed[PARTS_MAX]; /* all bits set at first; parts begin without */
    uint32_t first[PARTS_MAX + 1];
    struct ivf_scratch *scratch;
    struct ivf_stats stats;
    bool by_bytes, no_rescore; /* as in struct ivf_query */
};

static inline void random_rows(const struct world_shape *shape, const float *centres, float *rows,
                               uint32_t n)
{
    const uint32_t dim = shape->index.dim;
    for (uint32_t i = 0; i < n; i++) {
        const float *centre = centres + (size_t)(random_u32() % shape->centres) * dim;
        float *row = rows + (size_t)i * dim, length2 = 0;
        float stretch = 1 + (shape->norms - 1) * fabsf(random_unit());
        for (uint32_t j = 0; j < dim; j++) {
            row[j] = (centre[j] + shape->spread * random_unit()) * stretch + shape->offset;
            length2 += row[j] * row[j];
        }
        for (uint32_t j = 0; j < dim && shape->index.metric == KITH_COSINE; j++)
            row[j] /= sqrtf(length2);
    }
}

static inline bool name_row(void *ctx, uint32_t row, struct kith_id *id, uint64_t *seq)
{
    const struct ivf_testing_index *index = ctx;
    *id = kith_id_number(index->order[row]);
    *seq = 1;
    return true;
}

static inline void make_world(struct world *world, const struct world_shape *shape)
{
    const uint32_t dim = shape->index.dim, n = shape->n_rows;
    memset(world, 0, sizeof *world);
    world->shape = *shape;
    float *centres = calloc((size_t)shape->centres * dim, sizeof *centres);
    for (size_t i = 0; i < (size_t)shape->centres * dim; i++)
        centres[i] = random_unit();
    world->rows = calloc((size_t)n * dim + 1, sizeof(float));
    world->queries = calloc((size_t)shape->n_queries * dim, sizeof(float));
    random_rows(shape, centres, world->rows, n);
    random_rows(shape, centres, world->queries, shape->n_queries);
    free(centres);
    ivf_testing_train(&world->codebook, &shape->index, world->rows, n, NULL);
    for (uint32_t p = 0; p < shape->n_parts; p++) {
        world->first[p] = n / shape->n_parts * p;
        uint32_t end = p + 1 < shape->n_parts ? n / shape->n_parts * (p + 1) : n;
        struct ivf_testing_index *index = &world->indexes[p];
        ivf_testing_build(index, &world->codebook, shape->index.row_type,
                          world->rows + (size_t)world->first[p] * dim, end - world->first[p]);
        for (uint32_t r = 0; r < index->ivf.n_rows; r++)
            index->order[r] += world->first[p];
        world->parts[p] =
            (struct ivf_part){.index = &index->ivf, .name = name_row, .name_ctx = index};
        world->allowed[p] = calloc(index->ivf.n_rows / 64 + 1, sizeof(uint64_t));
        memset(world->allowed[p], 0xff, (index->ivf.n_rows / 64 + 1) * sizeof(uint64_t));
    }
}

static inline void drop_world(struct world *world)
{
    for (uint32_t p = 0; p < world->shape.n_parts; p++) {
        ivf_testing_free(&world->indexes[p]);
        free(world->allowed[p]);
    }
    ivf_testing_free_codebook(&world->codebook);
    ivf_scratch_free(world->scratch);
    free(world->rows);
    free(world->queries);
}

/* Allows one row in `one_in` (0: none). */
static inline void allow(struct world *world, uint32_t one_in)
{
    for (uint32_t p = 0; p < world->shape.n_parts; p++) {
        uint32_t words = world->indexes[p].ivf.n_rows / 64 + 1;
        memset(world->allowed[p], 0, words * sizeof(uint64_t));
        world->parts[p].n_allowed = 0;
        for (uint32_t r = 0; r < world->indexes[p].ivf.n_rows && one_in > 0; r++)
            if (random_u32() % one_in == 0) {
                world->allowed[p][r / 64] |= UINT64_C(1) << (r % 64);
                world->parts[p].n_allowed++;
            }
        world->parts[p].allowed = world->allowed[p];
    }
}

static inline struct kith_hit *hits_of(uint32_t k)
{
    struct kith_hit *hits = calloc(k, sizeof *hits);
    assert_non_null(hits);
    return hits;
}

/* The exact answer by flat_scan. */
static inline struct topk exact(const struct world *world, const float *query, uint32_t k)
{
    struct topk top;
    topk_init(&top, k, -FLT_MAX, hits_of(k));
    struct flat_scratch *scratch = NULL;
    assert_int_equal(flat_scratch_fit(&scratch, world->shape.index.dim, 1, NULL), KITH_OK);
    for (uint32_t p = 0; p < world->shape.n_parts; p++) {
        const struct ivf_part *part = &world->parts[p];
        struct flat_search search = {.form = kernels_form_of(world->shape.index.metric),
                                     .type = kernels_type_of(world->shape.index.row_type),
                                     .dim = world->shape.index.dim,
                                     .n_queries = 1,
                                     .queries = query,
                                     .tops = &top};
        struct flat_rows rows = {.data = part->index->rows,
                                 .n = part->index->n_rows,
                                 .allowed = part->allowed,
                                 .name = part->name,
                                 .name_ctx = part->name_ctx};
        flat_scan(&search, &rows, scratch);
    }
    flat_scratch_free(scratch);
    topk_sort(&top);
    return top;
}

/* ranked: as in struct ivf_query. */
static inline struct topk search_ranked(struct world *world, const float *query, uint32_t k,
                                        struct ivf_effort effort, uint32_t ranked)
{
    struct topk top;
    topk_init(&top, k, -FLT_MAX, hits_of(k));
    assert_int_equal(ivf_scratch_fit(&world->scratch, &world->codebook.codebook, k, NULL), KITH_OK);
    struct ivf_query asked = {.vector = query,
                              .top = &top,
                              .effort = effort,
                              .by_bytes = world->by_bytes,
                              .no_rescore = world->no_rescore,
                              .ranked = ranked};
    assert_true(
        ivf_search(&asked, world->parts, world->shape.n_parts, world->scratch, &world->stats));
    topk_sort(&top);
    return top;
}

static inline struct topk search(struct world *world, const float *query, uint32_t k,
                                 struct ivf_effort effort)
{
    return search_ranked(world, query, k, effort, 0);
}

static inline uint32_t common(const struct topk *want, const struct topk *got)
{
    uint32_t found = 0;
    for (uint32_t i = 0; i < got->n; i++)
        for (uint32_t j = 0; j < want->n; j++)
            if (kith_id_compare(&got->hits[i].id, &want->hits[j].id) == 0) {
                assert_true(got->hits[i].rank == want->hits[j].rank);
                found++;
            }
    return found;
}

/* Share of the exact answers that is found; every search must return as many. */
static inline double recall(struct world *world, uint32_t k, struct ivf_effort effort)
{
    uint64_t found = 0, all = 0;
    world->stats = (struct ivf_stats){0};
    for (uint32_t q = 0; q < world->shape.n_queries; q++) {
        const float *query = world->queries + (size_t)q * world->shape.index.dim;
        struct topk want = exact(world, query, k), got = search(world, query, k, effort);
        if (got.n != want.n)
            fail_msg("%u hits, %u are to be had", got.n, want.n);
        found += common(&want, &got);
        all += want.n;
        free(want.hits);
        free(got.hits);
    }
    return all > 0 ? (double)found / (double)all : 1;
}

static const struct ivf_effort usual = {.reach = 1.12f, .margin = 3, .first_lists = 8};
static const struct ivf_effort all_lists = {.reach = FLT_MAX, .margin = 8};

static inline struct world_shape shape_of(enum kith_metric metric, enum codebook_codes codes,
                                          uint32_t dim)
{
    return (struct world_shape){.index = {.metric = metric,
                                          .codes = codes,
                                          .row_type = KITH_ROWS_F32,
                                          .dim = dim,
                                          .n_lists = 50,
                                          .sub_dim = dim < 200 ? 2 : 4,
                                          .rounds = 3},
                                .n_rows = TEST_SCALE(6000, 2500),
                                .n_parts = 1,
                                .n_queries = TEST_SCALE(50, 25),
                                .centres = TEST_SCALE(150, 60), /* of about 40 rows */
                                .spread = 0.5f,
                                .norms = 1};
}

#endif
