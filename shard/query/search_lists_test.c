/* What a search makes of an index that finds all, too little, or nothing in time. */
#include "shard/query/search.h"

#include "shard/query/search_testing.h"

static void run_and_check(struct search_result *result)
{
    struct candidates found = {.hits = kith_xalloc(HITS_MAX * sizeof(struct kith_hit))};
    assert_int_equal(search_run(context, &world.request, result, NULL), KITH_OK);
    check_part(&world, 0, result, &found);
    kith_free(found.hits);
}

static void end_world(void)
{
    free_world(&world);
    fake_mode = FAKE_HONEST;
}

static void test_search_lists_are_used_and_explained(void **state)
{
    (void)state;
    struct search_result result;
    struct search_stats before, after;
    plain_world();
    search_context_stats(context, &before);
    run_and_check(&result);
    assert_int_equal(result.explain.plan, SEARCH_PLAN_LISTS);
    assert_int_equal(result.explain.segments_indexed, 1);
    assert_int_equal(result.explain.lists.rows, 40000);
    assert_true(result.explain.expected_ns < result.explain.exact_ns);
    assert_int_equal(result.explain.fell_back, 0);
    search_context_stats(context, &after);
    assert_int_equal(after.queries[result.explain.plan] - before.queries[result.explain.plan],
                     world.parts[0].n_queries);
    search_result_fini(&result);
    end_world();
}

static void test_search_lists_look_as_wide_as_asked(void **state)
{
    (void)state;
    static const struct {
        float asked, seen;
    } cases[] = {{0, FAKE_MARGIN}, {1, FAKE_MARGIN}, {2, 2 * FAKE_MARGIN}, {INFINITY, FLT_MAX}};
    plain_world();
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct search_result result;
        world.parts[0].margin = cases[i].asked;
        run_and_check(&result);
        assert_int_equal(result.explain.plan, SEARCH_PLAN_LISTS);
        assert_true(atomic_load(&seen_margin) == cases[i].seen);
        search_result_fini(&result);
    }
    end_world();
}

static void test_search_lists_that_end_short_are_made_up_for(void **state)
{
    (void)state;
    struct search_result result;
    plain_world();
    fake_mode = FAKE_SHORT;
    run_and_check(&result);
    assert_int_equal(result.explain.fell_back, world.parts[0].n_queries);
    search_result_fini(&result);
    end_world();
}

/* Below a threshold too few hits are no sign of anything. */
static void test_search_lists_keep_to_a_threshold(void **state)
{
    (void)state;
    struct search_result result;
    plain_world();
    world.parts[0].has_threshold = true;
    world.parts[0].threshold = FLT_MAX;
    run_and_check(&result);
    assert_int_equal(result.explain.fell_back, 0);
    assert_int_equal(result.found[0].n, 0);
    search_result_fini(&result);
    end_world();
}

static void test_search_lists_that_take_too_long_are_given_up(void **state)
{
    (void)state;
    struct search_result result;
    plain_world();
    fake_mode = FAKE_SLOW;
    world.parts[0].n_queries = 2;
    world.request.deadline_ms = kith_now_ms() + 60000;
    run_and_check(&result);
    assert_int_equal(result.explain.fell_back, 2);
    search_result_fini(&result);
    end_world();
}

/* With an effort of the caller's there is no such bound, only the deadline. */
static void test_search_lists_end_at_the_deadline(void **state)
{
    (void)state;
    struct search_result result;
    struct kith_diag diag = {0};
    plain_world();
    fake_mode = FAKE_SLOW;
    world.parts[0].effort = &world.effort;
    world.request.deadline_ms = kith_now_ms() + 20;
    assert_int_equal(search_run(context, &world.request, &result, &diag), KITH_TIMEOUT);
    end_world();
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_teardown(test_search_lists_are_used_and_explained, random_say_seed),
        cmocka_unit_test_teardown(test_search_lists_look_as_wide_as_asked, random_say_seed),
        cmocka_unit_test_teardown(test_search_lists_that_end_short_are_made_up_for,
                                  random_say_seed),
        cmocka_unit_test_teardown(test_search_lists_keep_to_a_threshold, random_say_seed),
        cmocka_unit_test_teardown(test_search_lists_that_take_too_long_are_given_up,
                                  random_say_seed),
        cmocka_unit_test_teardown(test_search_lists_end_at_the_deadline, random_say_seed),
    };
    return cmocka_run_group_tests(tests, set_up, context_tear_down);
}
