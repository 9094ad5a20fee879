/* What leaves rows out of a search (filters, thresholds, what others know), and ranks by bytes. */
#include "shard/index/ivf.h"

#include "shard/index/ivf_search_testing.h"

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

/* Allows the n rows farthest from the query. */
static void allow_farthest(struct world *world, const float *query, uint32_t n)
{
    uint32_t n_rows = world->shape.n_rows;
    bool *far = calloc(n_rows, sizeof *far);
    allow(world, 1);
    struct topk all = exact(world, query, n_rows);
    for (uint32_t i = n_rows - n; i < n_rows; i++)
        far[all.hits[i].id.lo] = true;
    allow(world, 0);
    for (uint32_t p = 0; p < world->shape.n_parts; p++)
        for (uint32_t r = 0; r < world->indexes[p].ivf.n_rows; r++)
            if (far[world->indexes[p].order[r]]) {
                world->allowed[p][r / 64] |= UINT64_C(1) << (r % 64);
                world->parts[p].n_allowed++;
            }
    free(all.hits);
    free(far);
}

struct far_found {
    uint32_t hits, of;
    double listed; /* rows in the lists that were visited, of all */
    uint64_t reranked;
};

static struct far_found search_far(struct world *world, uint32_t n_allowed,
                                   struct ivf_effort effort)
{
    const struct world_shape *shape = &world->shape;
    struct far_found found = {0};
    world->stats = (struct ivf_stats){0};
    for (uint32_t q = 0; q < shape->n_queries; q++) {
        const float *query = world->queries + (size_t)q * shape->index.dim;
        allow_farthest(world, query, n_allowed);
        struct topk want = exact(world, query, 10), got = search(world, query, 10, effort);
        assert_int_equal(got.n, n_allowed < 10 ? n_allowed : 10);
        found.hits += common(&want, &got);
        found.of += want.n;
        free(want.hits);
        free(got.hits);
    }
    found.listed = (double)world->stats.listed / shape->n_queries / shape->n_rows;
    found.reranked = world->stats.reranked;
    return found;
}

static const struct ivf_effort expecting = {
    .reach = 1.05f, .margin = 0.5f, .first_lists = 8, .misses = 0.05f};

/* All hits that are to be had, most of them right, in lists with no more than a part of the rows.
 * The margin would do among the nearest, whose best are far above the k-th; here it has to be more.
 */
static void expect_far(struct world *world, uint32_t n_allowed, float most)
{
    struct far_found found = search_far(world, n_allowed, expecting);
    if (found.hits < 0.9 * found.of || found.listed > (double)most)
        fail_msg("metric %d, %u rows: %u of %u hits, %.2f of the rows",
                 (int)world->shape.index.metric, n_allowed, found.hits, found.of, found.listed);
}

/* What was measured goes before what usually does: a wide margin and a small rest find nearly all,
 * the opposite looks at less. */
static void test_ivf_search_looks_as_far_as_was_measured(void **state)
{
    (void)state;
    static struct world world;
    struct world_shape shape = shape_of(KITH_COSINE, CODEBOOK_PQ4, 24);
    shape.n_parts = 2;
    make_world(&world, &shape);
    struct ivf_effort much = expecting, little = expecting;
    much.far = (struct ivf_far_effort){.margin = 4, .rest = 0.001f};
    little.far = (struct ivf_far_effort){.margin = 1, .rest = 0.5f};
    struct far_found by_much = search_far(&world, shape.n_rows / 2, much);
    struct far_found by_little = search_far(&world, shape.n_rows / 2, little);
    if (by_much.hits < 0.95 * by_much.of || by_little.hits >= by_much.hits ||
        by_little.listed > 0.8 * by_much.listed || by_little.reranked > by_much.reranked / 2)
        fail_msg("%u of %u hits in %.2f of the rows, %u in %.2f; by bytes %llu and %llu",
                 by_much.hits, by_much.of, by_much.listed, by_little.hits, by_little.listed,
                 (unsigned long long)by_much.reranked, (unsigned long long)by_little.reranked);
    drop_world(&world);
}

static void test_ivf_search_expects_hits_where_the_nearest_are_left_out(void **state)
{
    (void)state;
    for (int dot = 0; dot < 2; dot++) {
        static struct world world;
        struct world_shape shape = shape_of(dot ? KITH_DOT : KITH_COSINE, CODEBOOK_PQ4, 24);
        shape.n_parts = 2;
        make_world(&world, &shape);
        expect_far(&world, shape.n_rows / 2, 0.95f);
        expect_far(&world, shape.n_rows / 10, 0.75f);
        expect_far(&world, 11, 0.2f);
        expect_far(&world, 3, 0.2f);
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

/* As ivf_search of all parts, with what is known before: a threshold, and the k-th best of others.
 */
static struct topk search_knowing(struct world *world, const float *query, uint32_t k,
                                  float threshold, float known)
{
    struct topk top;
    _Atomic float floor = known;
    topk_init(&top, k, threshold, hits_of(k));
    assert_int_equal(ivf_scratch_fit(&world->scratch, &world->codebook.codebook, k, NULL), KITH_OK);
    struct ivf_query asked = {.vector = query, .top = &top, .floor = &floor, .effort = usual};
    assert_true(
        ivf_search(&asked, world->parts, world->shape.n_parts, world->scratch, &world->stats));
    topk_sort(&top);
    return top;
}

struct kept {
    uint32_t alone, knowing; /* of the right hits: found with nothing known, and with it */
};

/* Whether what is known before costs hits: a threshold that leaves `n` of k, or others who know n
 * hits as good. */
static struct kept count_kept(struct world *world, uint32_t k, uint32_t n, bool of_others)
{
    struct kept kept = {0};
    for (uint32_t q = 0; q < world->shape.n_queries; q++) {
        const float *query = world->queries + (size_t)q * world->shape.index.dim;
        struct topk want = exact(world, query, k), alone = search(world, query, k, usual);
        float rank = want.hits[n - 1].rank;
        struct topk knowing = search_knowing(world, query, k, of_others ? -FLT_MAX : rank,
                                             of_others ? rank : -FLT_MAX);
        for (uint32_t i = 0; i < knowing.n; i++)
            assert_true(knowing.hits[i].rank >= rank);
        want.n = n;
        kept.alone += common(&want, &alone);
        kept.knowing += common(&want, &knowing);
        free(want.hits);
        free(alone.hits);
        free(knowing.hits);
    }
    return kept;
}

/* By bytes a hit may be misjudged: rarely, but under manhattan a row with a value that was clipped
 * is, in each query. */
static void expect_kept(const struct world *world, struct kept kept, const char *what)
{
    uint32_t slack = 1 + kept.alone / (world->shape.index.metric == KITH_MANHATTAN ? 20 : 100);
    if (kept.alone == 0 || kept.knowing + slack < kept.alone)
        fail_msg("metric %d codes %d, %s: %u hits, %u without it", (int)world->shape.index.metric,
                 (int)world->shape.index.codes, what, kept.knowing, kept.alone);
}

/* Where a search looks was measured without thresholds. */
static void test_ivf_search_finds_as_much_above_a_threshold(void **state)
{
    (void)state;
    for (int metric = KITH_COSINE; metric <= KITH_MANHATTAN; metric++)
        for (enum codebook_codes codes = CODEBOOK_ROWS; codes <= CODEBOOK_PQ4; codes++) {
            if (metric == KITH_MANHATTAN && codes == CODEBOOK_PQ4)
                continue;
            static struct world world;
            struct world_shape shape = shape_of((enum kith_metric)metric, codes, 24);
            make_world(&world, &shape);
            expect_kept(&world, count_kept(&world, 20, 1, false), "a threshold for one");
            expect_kept(&world, count_kept(&world, 20, 7, false), "a threshold for seven");
            drop_world(&world);
        }
}

/* The k-th best rank goes to others; theirs saves exact ranks here, and costs no hits. */
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
    struct ivf_stats alone = world.stats;
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
        free(first.hits);
    }
    expect_kept(&world, count_kept(&world, 10, 10, true), "ten hits of others");
    expect_kept(&world, count_kept(&world, 1, 1, true), "a hit of others");
    /* Somebody knows of ten hits as good as the best here: little is worth a look. */
    world.stats = (struct ivf_stats){0};
    for (uint32_t q = 0; q < world.shape.n_queries; q++) {
        const float *query = world.queries + (size_t)q * 24;
        struct topk best = exact(&world, query, 1);
        struct topk top = search_knowing(&world, query, 10, -FLT_MAX, best.hits[0].rank);
        free(best.hits);
        free(top.hits);
    }
    assert_true(world.stats.exact < alone.exact / 2);
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

/* ---- ranks by bytes -------------------------------------------------------------------------- */

static float exact_rank(const struct topk *all, const struct kith_id *id)
{
    for (uint32_t i = 0; i < all->n; i++)
        if (kith_id_compare(&all->hits[i].id, id) == 0)
            return all->hits[i].rank;
    fail_msg("a hit that is no row");
    return 0;
}

/* A search that may not read rows: they are taken away. */
static struct topk search_without_rows(struct world *world, const float *query, uint32_t k)
{
    const void *rows = world->indexes[0].ivf.rows;
    world->indexes[0].ivf.rows = NULL;
    struct topk top = search(world, query, k, all_lists);
    world->indexes[0].ivf.rows = rows;
    return top;
}

static void expect_ranks_by_bytes(const struct world_shape *shape)
{
    static struct world world;
    make_world(&world, shape);
    world.no_rescore = true;
    uint32_t k = 10, found = 0;
    for (uint32_t q = 0; q < shape->n_queries; q++) {
        const float *query = world.queries + (size_t)q * shape->index.dim;
        struct topk all = exact(&world, query, shape->n_rows);
        struct topk got = search_without_rows(&world, query, k);
        assert_int_equal(got.n, k);
        /* All ranks are taken as products or distances of vectors about so long. */
        float length2 = (float)ivf_testing_dot(query, query, shape->index.dim);
        for (uint32_t i = 0; i < k; i++) {
            float rank = exact_rank(&all, &got.hits[i].id), is = got.hits[i].rank;
            if (!(fabsf(is - rank) <= 0.03f * (length2 + fabsf(rank))))
                fail_msg("metric %d: rank %g for %g", (int)shape->index.metric, (double)is,
                         (double)rank);
            assert_true(shape->index.metric != KITH_EUCLID || is <= 0);
            found += rank >= all.hits[k - 1].rank;
        }
        free(all.hits);
        free(got.hits);
    }
    assert_int_equal(world.stats.exact, 0);
    if (found < 0.9 * k * shape->n_queries)
        fail_msg("metric %d: %u of %u", (int)shape->index.metric, found, k * shape->n_queries);
    drop_world(&world);
}

static void test_ivf_search_without_rescoring_reads_no_rows(void **state)
{
    (void)state;
    for (int metric = KITH_COSINE; metric <= KITH_MANHATTAN; metric++)
        for (enum codebook_codes codes = CODEBOOK_INT8; codes <= CODEBOOK_PQ4; codes++) {
            if (metric == KITH_MANHATTAN && codes == CODEBOOK_PQ4)
                continue;
            struct world_shape shape = shape_of((enum kith_metric)metric, codes, 24);
            expect_ranks_by_bytes(&shape);
        }
}

/* Without bytes there is nothing else to rank by. */
static void test_ivf_search_without_bytes_ranks_exactly(void **state)
{
    (void)state;
    static struct world world;
    struct world_shape shape = shape_of(KITH_COSINE, CODEBOOK_ROWS, 24);
    make_world(&world, &shape);
    world.no_rescore = true;
    assert_true(recall(&world, 10, all_lists) >= 1); /* it compares ranks, too */
    drop_world(&world);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_ivf_search_keeps_to_the_filter),
        cmocka_unit_test(test_ivf_search_expects_hits_where_the_nearest_are_left_out),
        cmocka_unit_test(test_ivf_search_looks_as_far_as_was_measured),
        cmocka_unit_test(test_ivf_search_ranks_what_is_allowed_by_bytes),
        cmocka_unit_test(test_ivf_search_finds_the_only_row_allowed),
        cmocka_unit_test(test_ivf_search_finds_as_much_above_a_threshold),
        cmocka_unit_test(test_ivf_search_shares_its_floor),
        cmocka_unit_test(test_ivf_search_adds_to_hits_of_others),
        cmocka_unit_test(test_ivf_search_without_rescoring_reads_no_rows),
        cmocka_unit_test(test_ivf_search_without_bytes_ranks_exactly),
    };
    return cmocka_run_group_tests(tests, random_set_up, NULL);
}
