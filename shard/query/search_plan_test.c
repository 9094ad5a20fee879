/* Which plan is chosen, and what happens to views that cannot be searched. */
#include "shard/query/search.h"

#include <math.h>

#include "shard/query/search_cost.h"
#include "shard/query/search_testing.h"

static struct search_explain explained(void)
{
    struct candidates found = {.hits = kith_xalloc(HITS_MAX * sizeof(struct kith_hit))};
    struct search_result result;
    assert_int_equal(search_run(context, &world.request, &result, NULL), KITH_OK);
    if (!world.parts[0].indexed_only)
        check_part(&world, 0, &result, &found);
    kith_free(found.hits);
    struct search_explain explain = result.explain;
    search_result_fini(&result);
    return explain;
}

static void test_search_plan_fits_what_matches(void **state)
{
    (void)state;
    plain_world();
    struct search_part *part = &world.parts[0];
    assert_int_equal(explained().plan, SEARCH_PLAN_LISTS);
    part->exact = true;
    assert_int_equal(explained().plan, SEARCH_PLAN_SCAN);
    part->exact = false;
    part->recall = 1;
    assert_int_equal(explained().plan, SEARCH_PLAN_SCAN);
    part->recall = 0.995f; /* more than the index was calibrated for */
    assert_int_equal(explained().plan, SEARCH_PLAN_SCAN);
    part->recall = 0;
    fake_unsure = segment_of_world()->index;
    struct search_explain unsure = explained();
    assert_int_equal(unsure.plan, SEARCH_PLAN_SCAN);
    assert_true(unsure.segments_indexed == 0 && unsure.recall >= 1);
    fake_unsure = NULL;
    part->filter = &world.filters[0];
    world.filters[0].nodes[0].min_count = 900;
    struct search_explain masked = explained();
    assert_int_equal(masked.plan, SEARCH_PLAN_LISTS_MASKED);
    assert_int_equal(masked.filter_misses, 1);
    assert_int_equal(explained().filter_hits, 1);
    world.filters[0].nodes[0].min_count = 1;
    assert_int_equal(explained().plan, SEARCH_PLAN_PICK);
    world.filters[0].nodes[0].min_count = 0;
    assert_int_equal(explained().plan, SEARCH_PLAN_NOTHING);
    free_world(&world);
}

static void test_search_plan_leaves_out_what_has_no_index_yet(void **state)
{
    (void)state;
    plain_world();
    world.parts[0].indexed_only = true;
    assert_int_equal(explained().segments_indexed, 1);
    kith_free(segment_of_world()->index);
    segment_of_world()->index = NULL;
    assert_int_equal(explained().plan, SEARCH_PLAN_NOTHING);
    world.parts[0].indexed_only = false;
    assert_int_equal(explained().plan, SEARCH_PLAN_SCAN);
    free_world(&world);
}

/* The costs that were learnt decide: an index that turns out slow is not used any more. */
static void test_search_plan_learns(void **state)
{
    (void)state;
    static struct search_cost cost;
    assert_int_equal(search_cost_measure(&cost, NULL), KITH_OK);
    assert_true(cost.ordered_ns > 0 && cost.picked_ns >= cost.ordered_ns);
    struct search_cost_run all = {10000, 400, 10000, 10000}, few = {10000, 400, 10, 10000};
    double all_ns = search_cost_exact(&cost, &all), few_ns = search_cost_exact(&cost, &few);
    assert_true(all_ns > few_ns);
    for (int i = 0; i < 200; i++)
        search_cost_learn_exact(&cost, &all, 5 * all_ns);
    assert_true(search_cost_exact(&cost, &all) > 4.5 * all_ns);
    assert_true(search_cost_exact(&cost, &few) == few_ns);
    all.whole_rows *= 100;
    assert_true(search_cost_exact(&cost, &all) == all_ns);
    struct ivf index = {.n_rows = 10000};
    assert_true(isinf(search_cost_bytes(&cost, &index, 10)));
    index.row8_bytes = 128;
    double bytes_ns = search_cost_bytes(&cost, &index, 3000);
    struct search_cost_run some = {10000, 400, 3000, 10000};
    assert_true(bytes_ns < search_cost_exact(&cost, &some));
    assert_true(bytes_ns > search_cost_bytes(&cost, &index, 10));
    assert_true(search_cost_corrected(&cost, 3, 1, 100) == 100);
    for (int i = 0; i < 200; i++)
        search_cost_learn(&cost, 3, 1, 100, 500);
    double now = search_cost_corrected(&cost, 3, 1, 100);
    assert_true(now > 450 && now <= 500);
    assert_true(search_cost_corrected(&cost, 3, 0.1, 100) == 100);
    assert_true(search_cost_corrected(&cost, 4, 1, 100) == 100);
    search_cost_learn(&cost, 3, 1, 100, 1e12); /* lost its CPU once */
    assert_true(search_cost_corrected(&cost, 3, 1, 100) < 1000);
}

/* A filter that one view cannot evaluate fails that view in all parts, and nothing else. */
static void test_search_plan_fails_one_view(void **state)
{
    (void)state;
    struct kith_diag failures[VIEWS_MAX];
    struct search_result results[PARTS_MAX];
    struct candidates found = {.hits = kith_xalloc(HITS_MAX * sizeof(struct kith_hit))};
    for (int round = 0; round < 10; round++) {
        do {
            free_world(&world);
            next_world();
        } while (world.request.n_views < 2 || world.views[1].n_segments == 0 ||
                 world.views[1].segments[0].segment->n == 0 || world.views[0].n_segments > 0);
        for (uint32_t p = 0; p < world.request.n_parts; p++) {
            world.parts[p].filter = &world.filters[p];
            world.filters[p].n_nodes = 1;
        }
        memset(failures, 0, sizeof failures);
        world.request.failures = failures;
        broken_segment = world.views[1].segments[0].segment;
        assert_int_equal(search_run(context, &world.request, results, NULL), KITH_OK);
        broken_segment = NULL;
        assert_int_equal(failures[0].err, KITH_OK);
        assert_int_equal(failures[1].err, KITH_CORRUPT);
        assert_string_equal(failures[1].text, "a bad block");
        /* The oracle knows of no failures: take the view away. */
        struct view whole = world.views[1];
        world.views[1].n_segments = world.views[1].n_heads = 0;
        for (uint32_t p = 0; p < world.request.n_parts; p++) {
            check_part(&world, p, &results[p], &found);
            assert_int_equal(results[p].points,
                             world.views[0].live_points +
                                 (world.request.n_views > 2 ? world.views[2].live_points : 0));
            search_result_fini(&results[p]);
        }
        world.views[1] = whole;
        free_world(&world);
    }
    kith_free(found.hits);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_teardown(test_search_plan_fits_what_matches, random_say_seed),
        cmocka_unit_test_teardown(test_search_plan_leaves_out_what_has_no_index_yet,
                                  random_say_seed),
        cmocka_unit_test(test_search_plan_learns),
        cmocka_unit_test_teardown(test_search_plan_fails_one_view, random_say_seed),
    };
    return cmocka_run_group_tests(tests, set_up, context_tear_down);
}
