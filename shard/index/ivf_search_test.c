#include "shard/index/ivf.h"

#include "shard/index/ivf_search_testing.h"

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
                expect_recall(&shape, 10, usual, 0.88);
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

/* Under dot hits do not depend on how long the query is, nor may what a search does. By a power of
 * two, so that no rounding does. */
static void test_ivf_search_ignores_the_length_of_queries_under_dot(void **state)
{
    (void)state;
    static const float factors[] = {0x1p-20f, 0.25f, 4, 0x1p20f};
    static struct world world;
    struct world_shape shape = shape_of(KITH_DOT, CODEBOOK_PQ4, 24);
    shape.norms = 3;
    make_world(&world, &shape);
    for (uint32_t q = 0; q < shape.n_queries; q++) {
        const float *query = world.queries + (size_t)q * 24;
        struct topk want = search(&world, query, 10, usual);
        struct ivf_stats stats = world.stats;
        for (uint32_t f = 0; f < sizeof factors / sizeof *factors; f++) {
            float other[24];
            for (uint32_t i = 0; i < 24; i++)
                other[i] = query[i] * factors[f];
            world.stats = (struct ivf_stats){0};
            struct topk got = search(&world, other, 10, usual);
            assert_int_equal(got.n, want.n);
            for (uint32_t i = 0; i < got.n; i++) {
                assert_int_equal(kith_id_compare(&got.hits[i].id, &want.hits[i].id), 0);
                assert_true(got.hits[i].rank == want.hits[i].rank * factors[f]);
            }
            assert_int_equal(world.stats.rows, stats.rows);
            free(got.hits);
        }
        world.stats = (struct ivf_stats){0};
        free(want.hits);
    }
    drop_world(&world);
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
        cmocka_unit_test(test_ivf_search_ignores_the_length_of_queries_under_dot),
        cmocka_unit_test(test_ivf_search_bears_rows_far_from_the_origin),
        cmocka_unit_test(test_ivf_search_finds_many),
        cmocka_unit_test(test_ivf_search_serves_any_number_of_lists),
        cmocka_unit_test(test_ivf_search_takes_parts_as_one),
        cmocka_unit_test(test_ivf_search_answers_odd_queries),
        cmocka_unit_test(test_ivf_search_stops),
        cmocka_unit_test(test_ivf_search_allocates_in_fit_alone),
        cmocka_unit_test(test_ivf_search_in_a_batch_is_as_alone),
    };
    return cmocka_run_group_tests(tests, random_set_up, NULL);
}
