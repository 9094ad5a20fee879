#include "shard/index/ivf.h"

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
    bool by_bytes;
};

static void random_rows(const struct world_shape *shape, const float *centres, float *rows,
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

static bool name_row(void *ctx, uint32_t row, struct kith_id *id, uint64_t *seq)
{
    const struct ivf_testing_index *index = ctx;
    *id = kith_id_number(index->order[row]);
    *seq = 1;
    return true;
}

static void make_world(struct world *world, const struct world_shape *shape)
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

static void drop_world(struct world *world)
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
static void allow(struct world *world, uint32_t one_in)
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

static struct kith_hit *hits_of(uint32_t k)
{
    struct kith_hit *hits = calloc(k, sizeof *hits);
    assert_non_null(hits);
    return hits;
}

/* The exact answer by flat_scan. */
static struct topk exact(const struct world *world, const float *query, uint32_t k)
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
static struct topk search_ranked(struct world *world, const float *query, uint32_t k,
                                 struct ivf_effort effort, uint32_t ranked)
{
    struct topk top;
    topk_init(&top, k, -FLT_MAX, hits_of(k));
    assert_int_equal(ivf_scratch_fit(&world->scratch, &world->codebook.codebook, k, NULL), KITH_OK);
    struct ivf_query asked = {.vector = query,
                              .top = &top,
                              .effort = effort,
                              .by_bytes = world->by_bytes,
                              .ranked = ranked};
    assert_true(
        ivf_search(&asked, world->parts, world->shape.n_parts, world->scratch, &world->stats));
    topk_sort(&top);
    return top;
}

static struct topk search(struct world *world, const float *query, uint32_t k,
                          struct ivf_effort effort)
{
    return search_ranked(world, query, k, effort, 0);
}

static uint32_t common(const struct topk *want, const struct topk *got)
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
static double recall(struct world *world, uint32_t k, struct ivf_effort effort)
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

static const struct ivf_effort usual = {.reach = 1.05f, .margin = 3, .first_lists = 8};
/* Lifted distances differ little from each other. */
static const struct ivf_effort usual_for_dot = {.reach = 1.1f, .margin = 3, .first_lists = 8};
static const struct ivf_effort all_lists = {.reach = FLT_MAX, .margin = 8};

static struct world_shape shape_of(enum kith_metric metric, enum codebook_codes codes, uint32_t dim)
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

static void expect_recall(const struct world_shape *shape, uint32_t k, struct ivf_effort effort,
                          double floor)
{
    static struct world world;
    make_world(&world, shape);
    double reached = recall(&world, k, effort);
    if (!(reached >= floor))
        fail_msg("metric %d codes %d type %d dim %u k %u: recall %.3f, %.1f %% of the rows",
                 (int)shape->index.metric, (int)shape->index.codes, (int)shape->index.row_type,
                 shape->index.dim, k, reached,
                 100.0 * (double)world.stats.rows / shape->n_queries / shape->n_rows);
    assert_true(world.stats.rows > 0 && world.stats.exact > 0);
    if (effort.reach < all_lists.reach && k <= 10) /* the index was used */
        assert_true(world.stats.rows < shape->n_queries * (uint64_t)shape->n_rows * 3 / 4);
    drop_world(&world);
}

/* ---- recall ---------------------------------------------------------------------------------- */

static void test_ivf_search_finds_near_rows_under_every_metric(void **state)
{
    (void)state;
    static const enum kith_metric metrics[] = {KITH_COSINE, KITH_DOT, KITH_EUCLID, KITH_MANHATTAN};
    for (uint32_t m = 0; m < 4; m++)
        for (enum codebook_codes codes = CODEBOOK_ROWS; codes <= CODEBOOK_PQ4; codes++)
            for (uint32_t f16 = 0; f16 < 2; f16++) {
                if (codes == CODEBOOK_PQ4 && metrics[m] == KITH_MANHATTAN)
                    continue;
                struct world_shape shape = shape_of(metrics[m], codes, 24);
                shape.index.row_type = f16 ? KITH_ROWS_F16 : KITH_ROWS_F32;
                expect_recall(&shape, 10, m == 1 ? usual_for_dot : usual, 0.88);
            }
}

static void test_ivf_search_serves_every_dimension(void **state)
{
    (void)state;
    static const uint32_t dims[] = {1, 2, 3, 7, 63, 64, 65, 130, 300};
    for (uint32_t i = 0; i < sizeof dims / sizeof *dims; i++)
        for (uint32_t euclid = 0; euclid < 2; euclid++) {
            struct world_shape shape =
                shape_of(euclid ? KITH_EUCLID : KITH_COSINE, CODEBOOK_PQ4, dims[i]);
            shape.n_rows = TEST_SCALE(2500, 800);
            shape.index.n_lists = 20;
            /* On a line under cosine all rows are one of two: any of them will do. Under euclid
             * neighbours are nearer than floats can tell from squares. */
            expect_recall(&shape, 10, all_lists, dims[i] > 2 ? 0.95 : euclid ? 0.6 : 0.0);
        }
}

static void test_ivf_search_serves_wide_rows(void **state)
{
    (void)state;
    struct world_shape shape = shape_of(KITH_EUCLID, CODEBOOK_PQ4, 2048);
    shape.n_rows = 300;
    shape.index.n_lists = 5;
    shape.index.rounds = 1;
    expect_recall(&shape, 10, all_lists, 0.95);
    shape.index.metric = KITH_DOT;
    shape.index.sub_dim = 1; /* as many sub-quantizers as there may be */
    expect_recall(&shape, 10, all_lists, 0.95);
}

static void test_ivf_search_finds_large_rows_under_dot(void **state)
{
    (void)state;
    struct world_shape shape = shape_of(KITH_DOT, CODEBOOK_PQ4, 24);
    shape.norms = 20;
    shape.n_rows = 6000; /* with fewer the best are farther, and all lists in reach of them */
    shape.centres = 150;
    /* The longest row lifts all others, so that their distances differ even less. */
    static const struct ivf_effort near = {.reach = 1.15f, .margin = 3, .first_lists = 8};
    expect_recall(&shape, 10, near, 0.88);
}

static void test_ivf_search_bears_rows_far_from_the_origin(void **state)
{
    (void)state;
    struct world_shape shape = shape_of(KITH_EUCLID, CODEBOOK_PQ4, 24);
    shape.offset = 5;
    expect_recall(&shape, 10, usual, 0.9);
}

static void test_ivf_search_finds_many(void **state)
{
    (void)state;
    struct world_shape shape = shape_of(KITH_COSINE, CODEBOOK_PQ4, 24);
    static const struct ivf_effort less = {.reach = 1.5f, .margin = 3};
    expect_recall(&shape, 1, usual, 0.85);
    expect_recall(&shape, 100, less, 0.85);
    expect_recall(&shape, 3000, all_lists, 0.95);
    expect_recall(&shape, 10000, all_lists, 1.0); /* more than there are: all of them */
}

/* ---- lists ----------------------------------------------------------------------------------- */

static void test_ivf_search_serves_any_number_of_lists(void **state)
{
    (void)state;
    static const uint32_t lists[] = {1, 2, 15, 16, 17, 129, 1000};
    for (uint32_t i = 0; i < sizeof lists / sizeof *lists; i++) {
        struct world_shape shape = shape_of(KITH_EUCLID, CODEBOOK_PQ4, 8);
        shape.n_rows = 1500; /* the last one has empty lists */
        shape.index.n_lists = lists[i];
        shape.index.rounds = 1;
        expect_recall(&shape, 10, all_lists, 0.98);
    }
}

/* One codebook: list c is the union of the parts' lists c, so the parts cost no recall (they may
 * find more, since each has errors of its own) and few rows more than one part does (their lists'
 * edges share blocks). */
static void test_ivf_search_takes_parts_as_one(void **state)
{
    (void)state;
    uint64_t rows_of_one = 0, same_rows = random_state;
    double recall_of_one = 0;
    for (uint32_t parts = 1; parts <= PARTS_MAX; parts *= 2) {
        static struct world world;
        struct world_shape shape = shape_of(KITH_COSINE, CODEBOOK_PQ4, 24);
        shape.n_rows = TEST_SCALE(16000, 4000);
        shape.n_queries = TEST_SCALE(200, 50);
        shape.n_parts = parts;
        random_state = same_rows;
        make_world(&world, &shape);
        double reached = recall(&world, 10, usual);
        uint64_t edges = world.stats.lists * 2 * IVF_BLOCK;
        if (parts == 1) {
            rows_of_one = world.stats.rows;
            recall_of_one = reached;
        }
        if (!(reached >= recall_of_one - 0.02) || world.stats.rows > rows_of_one + edges)
            fail_msg("%u parts: recall %.3f over %llu rows, one part: %.3f over %llu", parts,
                     reached, (unsigned long long)world.stats.rows, recall_of_one,
                     (unsigned long long)rows_of_one);
        drop_world(&world);
    }
}

/* ---- filters --------------------------------------------------------------------------------- */

static void test_ivf_search_keeps_to_the_filter(void **state)
{
    (void)state;
    static const uint32_t one_in[] = {1, 2, 10, 100, 1000, 0};
    for (enum codebook_codes codes = CODEBOOK_ROWS; codes <= CODEBOOK_PQ4; codes++) {
        static struct world world;
        struct world_shape shape = shape_of(KITH_COSINE, codes, 24);
        shape.n_parts = 3;
        make_world(&world, &shape);
        for (uint32_t i = 0; i < sizeof one_in / sizeof *one_in; i++) {
            allow(&world, one_in[i]);
            double reached = recall(&world, 10, usual);
            if (!(reached >= 0.9))
                fail_msg("codes %d, one row in %u: recall %.3f", (int)codes, one_in[i], reached);
        }
        drop_world(&world);
    }
}

static void test_ivf_search_ranks_what_is_allowed_by_bytes(void **state)
{
    (void)state;
    static const uint32_t one_in[] = {1, 3, 100, 1000, 0};
    for (int metric = KITH_COSINE; metric <= KITH_MANHATTAN; metric++) {
        static struct world world;
        struct world_shape shape = shape_of((enum kith_metric)metric,
                                            metric == KITH_MANHATTAN ? CODEBOOK_INT8 : CODEBOOK_PQ4,
                                            1 + random_u32() % 90);
        shape.n_parts = 2;
        make_world(&world, &shape);
        world.by_bytes = true;
        for (uint32_t i = 0; i < sizeof one_in / sizeof *one_in; i++) {
            allow(&world, one_in[i]);
            uint64_t allowed = world.parts[0].n_allowed + world.parts[1].n_allowed;
            double reached = recall(&world, 10, (struct ivf_effort){0});
            if (!(reached >= 0.99))
                fail_msg("metric %d dim %u, one row in %u: recall %.3f", metric, shape.index.dim,
                         one_in[i], reached);
            assert_int_equal(world.stats.rows, allowed * shape.n_queries);
        }
        drop_world(&world);
    }
}

static void test_ivf_search_finds_the_only_row_allowed(void **state)
{
    (void)state;
    static struct world world;
    struct world_shape shape = shape_of(KITH_EUCLID, CODEBOOK_PQ4, 24);
    shape.n_parts = 2;
    make_world(&world, &shape);
    allow(&world, 0);
    for (uint32_t round = 0; round < 100; round++) {
        uint32_t row = random_u32() % world.indexes[1].ivf.n_rows;
        world.allowed[1][row / 64] = UINT64_C(1) << (row % 64);
        struct topk top = search(&world, world.queries, 10, usual);
        assert_int_equal(top.n, 1);
        struct kith_id id = kith_id_number(world.indexes[1].order[row]);
        assert_int_equal(kith_id_compare(&top.hits[0].id, &id), 0);
        free(top.hits);
        world.allowed[1][row / 64] = 0;
    }
    drop_world(&world);
}

/* ---- bounds ---------------------------------------------------------------------------------- */

static void test_ivf_search_keeps_to_the_threshold(void **state)
{
    (void)state;
    static const enum kith_metric metrics[] = {KITH_COSINE, KITH_DOT, KITH_EUCLID};
    for (uint32_t m = 0; m < 3; m++) {
        static struct world world;
        struct world_shape shape = shape_of(metrics[m], CODEBOOK_PQ4, 24);
        make_world(&world, &shape);
        uint32_t found = 0, all = 0;
        for (uint32_t q = 0; q < shape.n_queries; q++) {
            const float *query = world.queries + (size_t)q * 24;
            struct topk want = exact(&world, query, 20), got;
            want.n = 7;
            topk_init(&got, 20, want.hits[6].rank, hits_of(20));
            assert_int_equal(ivf_scratch_fit(&world.scratch, &world.codebook.codebook, 20, NULL),
                             KITH_OK);
            struct ivf_query asked = {
                .vector = query, .top = &got, .effort = m == 1 ? usual_for_dot : usual};
            assert_true(ivf_search(&asked, world.parts, 1, world.scratch, &world.stats));
            assert_true(got.n <= 7);
            found += common(&want, &got);
            all += 7;
            free(want.hits);
            free(got.hits);
        }
        if (!(found >= all * 0.88))
            fail_msg("metric %d: %u of %u", (int)metrics[m], found, all);
        drop_world(&world);
    }
}

/* The k-th best rank goes to others, and theirs saves work here. */
static void test_ivf_search_shares_its_floor(void **state)
{
    (void)state;
    static struct world world;
    struct world_shape shape = shape_of(KITH_COSINE, CODEBOOK_PQ4, 24);
    shape.n_rows = 6000; /* with fewer there is little to save */
    shape.centres = 150;
    shape.n_queries = 50;
    make_world(&world, &shape);
    (void)recall(&world, 10, usual);
    uint64_t alone = world.stats.reranked;
    world.stats = (struct ivf_stats){0};
    for (uint32_t q = 0; q < world.shape.n_queries; q++) {
        const float *query = world.queries + (size_t)q * 24;
        struct topk first = search(&world, query, 10, usual), top;
        struct kith_hit hits[10];
        _Atomic float floor = -FLT_MAX;
        struct ivf_query asked = {.vector = query, .top = &top, .floor = &floor, .effort = usual};
        topk_init(&top, 10, -FLT_MAX, hits);
        struct ivf_stats ignored = {0};
        assert_true(ivf_search(&asked, world.parts, 1, world.scratch, &ignored));
        assert_true(atomic_load(&floor) == first.hits[9].rank);
        /* Somebody knows of ten hits as good as the best here: little is worth a look. */
        atomic_store(&floor, first.hits[0].rank);
        topk_init(&top, 10, -FLT_MAX, hits);
        assert_true(ivf_search(&asked, world.parts, 1, world.scratch, &world.stats));
        for (uint32_t i = 0; i < top.n; i++)
            assert_true(top.hits[i].rank >= first.hits[0].rank);
        free(first.hits);
    }
    assert_true(world.stats.reranked < alone + alone); /* the sum of two searches */
    drop_world(&world);
}

static void test_ivf_search_adds_to_hits_of_others(void **state)
{
    (void)state;
    static struct world world;
    struct world_shape shape = shape_of(KITH_COSINE, CODEBOOK_PQ4, 24);
    make_world(&world, &shape);
    struct topk alone = search(&world, world.queries, 10, usual), top;
    topk_init(&top, 10, -FLT_MAX, hits_of(10));
    for (uint32_t i = 0; i < 4; i++) {
        struct kith_hit better = {.rank = 2, .id = kith_id_number(1000000 + i)};
        assert_true(topk_push(&top, &better));
    }
    struct ivf_query asked = {.vector = world.queries, .top = &top, .effort = usual};
    assert_true(ivf_search(&asked, world.parts, 1, world.scratch, &world.stats));
    topk_sort(&top);
    for (uint32_t i = 0; i < 6; i++)
        assert_int_equal(kith_id_compare(&top.hits[4 + i].id, &alone.hits[i].id), 0);
    free(alone.hits);
    free(top.hits);
    drop_world(&world);
}

/* ---- odd queries ----------------------------------------------------------------------------- */

static void test_ivf_search_answers_odd_queries(void **state)
{
    (void)state;
    static const float values[] = {0, -0.0f, 1e-40f, 1e-20f, 1e10f, 1e20f, FLT_MAX, -FLT_MAX};
    static const enum kith_metric metrics[] = {KITH_COSINE, KITH_DOT, KITH_EUCLID, KITH_MANHATTAN};
    for (uint32_t m = 0; m < 4; m++) {
        static struct world world;
        struct world_shape shape =
            shape_of(metrics[m], metrics[m] == KITH_MANHATTAN ? CODEBOOK_INT8 : CODEBOOK_PQ4, 24);
        make_world(&world, &shape);
        for (uint32_t i = 0; i < sizeof values / sizeof *values; i++) {
            float query[24];
            for (uint32_t j = 0; j < 24; j++)
                query[j] = j % 3 == 1 ? 0 : values[i];
            struct topk top = search(&world, query, 10, usual);
            assert_int_equal(top.n, 10);
            free(top.hits);
        }
        drop_world(&world);
    }
}

static bool stop_at_once(void *ctx)
{
    uint32_t *asked = ctx;
    return ++*asked > 1;
}

static void test_ivf_search_stops(void **state)
{
    (void)state;
    static struct world world;
    struct world_shape shape = shape_of(KITH_COSINE, CODEBOOK_PQ4, 24);
    shape.index.n_lists = 200;
    make_world(&world, &shape);
    uint32_t asked = 0;
    struct topk top;
    topk_init(&top, 10, -FLT_MAX, hits_of(10));
    assert_int_equal(ivf_scratch_fit(&world.scratch, &world.codebook.codebook, 10, NULL), KITH_OK);
    struct ivf_query query = {.vector = world.queries,
                              .top = &top,
                              .effort = all_lists,
                              .stop = stop_at_once,
                              .stop_ctx = &asked};
    assert_false(ivf_search(&query, world.parts, 1, world.scratch, &world.stats));
    assert_int_equal(asked, 2);
    free(top.hits);
    drop_world(&world);
}

static void test_ivf_search_allocates_in_fit_alone(void **state)
{
    (void)state;
    static struct world world;
    struct world_shape shape = shape_of(KITH_COSINE, CODEBOOK_PQ4, 24);
    make_world(&world, &shape);
    long live = kith_mem_live();
    uint32_t failures = 0;
    for (long n = 0;; n++) {
        kith_mem_fail_after(n);
        enum kith_err err = ivf_scratch_fit(&world.scratch, &world.codebook.codebook, 10, NULL);
        kith_mem_fail_after(-1);
        if (err == KITH_OK)
            break;
        assert_int_equal(err, KITH_NOMEM);
        assert_null(world.scratch);
        assert_int_equal(kith_mem_live(), live);
        failures++;
    }
    assert_true(failures > 10);
    kith_mem_fail_after(0); /* whoever allocates now fails */
    (void)ivf_scratch_fit(&world.scratch, &world.codebook.codebook, 7, NULL);
    struct topk top;
    struct kith_hit hits[10];
    topk_init(&top, 10, -FLT_MAX, hits);
    struct ivf_query query = {.vector = world.queries, .top = &top, .effort = usual};
    assert_true(ivf_search(&query, world.parts, 1, world.scratch, &world.stats));
    kith_mem_fail_after(-1);
    assert_int_equal(top.n, 10);
    drop_world(&world);
}

/* Ranked with others or alone, a query looks at the same rows and finds the same. */
static void test_ivf_search_in_a_batch_is_as_alone(void **state)
{
    (void)state;
    for (int metric = KITH_COSINE; metric <= KITH_MANHATTAN; metric++) {
        static struct world world;
        struct world_shape shape = shape_of(
            (enum kith_metric)metric, metric == KITH_MANHATTAN ? CODEBOOK_INT8 : CODEBOOK_PQ4, 25);
        make_world(&world, &shape);
        assert_int_equal(ivf_scratch_fit(&world.scratch, &world.codebook.codebook, 10, NULL),
                         KITH_OK);
        const float *vectors[IVF_BATCH];
        for (uint32_t i = 0; i < IVF_BATCH; i++)
            vectors[i] = world.queries + (size_t)i * shape.index.dim;
        bool ranked = ivf_rank_batch(world.scratch, &world.codebook.codebook, vectors);
        assert_true(!ranked || metric != KITH_MANHATTAN);
        struct topk got[IVF_BATCH];
        struct ivf_stats stats[IVF_BATCH];
        for (uint32_t i = 0; i < IVF_BATCH; i++) {
            world.stats = (struct ivf_stats){0};
            got[i] = search_ranked(&world, vectors[i], 10, usual, ranked ? i + 1 : 0);
            stats[i] = world.stats;
        }
        for (uint32_t i = 0; i < IVF_BATCH; i++) {
            world.stats = (struct ivf_stats){0};
            struct topk want = search(&world, vectors[i], 10, usual);
            assert_memory_equal(&world.stats, &stats[i], sizeof world.stats);
            assert_int_equal(got[i].n, want.n);
            assert_int_equal(common(&want, &got[i]), want.n);
            free(want.hits);
            free(got[i].hits);
        }
        drop_world(&world);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_ivf_search_finds_near_rows_under_every_metric),
        cmocka_unit_test(test_ivf_search_serves_every_dimension),
        cmocka_unit_test(test_ivf_search_serves_wide_rows),
        cmocka_unit_test(test_ivf_search_finds_large_rows_under_dot),
        cmocka_unit_test(test_ivf_search_bears_rows_far_from_the_origin),
        cmocka_unit_test(test_ivf_search_finds_many),
        cmocka_unit_test(test_ivf_search_serves_any_number_of_lists),
        cmocka_unit_test(test_ivf_search_takes_parts_as_one),
        cmocka_unit_test(test_ivf_search_keeps_to_the_filter),
        cmocka_unit_test(test_ivf_search_ranks_what_is_allowed_by_bytes),
        cmocka_unit_test(test_ivf_search_finds_the_only_row_allowed),
        cmocka_unit_test(test_ivf_search_keeps_to_the_threshold),
        cmocka_unit_test(test_ivf_search_shares_its_floor),
        cmocka_unit_test(test_ivf_search_adds_to_hits_of_others),
        cmocka_unit_test(test_ivf_search_answers_odd_queries),
        cmocka_unit_test(test_ivf_search_stops),
        cmocka_unit_test(test_ivf_search_allocates_in_fit_alone),
        cmocka_unit_test(test_ivf_search_in_a_batch_is_as_alone),
    };
    return cmocka_run_group_tests(tests, random_set_up, NULL);
}
