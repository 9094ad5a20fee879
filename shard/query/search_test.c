#include "shard/query/search.h"

#include "shard/query/search_testing.h"

static void test_search_finds_what_a_sort_finds(void **state)
{
    (void)state;
    struct candidates found = {.hits = kith_xalloc(HITS_MAX * sizeof(struct kith_hit))};
    for (int round = 0; round < 60; round++) {
        struct search_result results[PARTS_MAX];
        next_world();
        assert_int_equal(search_run(context, &world.request, results, NULL), KITH_OK);
        for (uint32_t p = 0; p < world.request.n_parts; p++) {
            check_part(&world, p, &results[p], &found);
            search_result_fini(&results[p]);
        }
        free_world(&world);
    }
    kith_free(found.hits);
}

static void *search_again(void *ctx)
{
    const struct search_result *want = ctx;
    for (int i = 0; i < 10; i++) {
        struct search_result got;
        if (search_run(context, &world.request, &got, NULL) != KITH_OK)
            return ctx;
        bool same = got.matched == want->matched;
        for (uint32_t q = 0; same && q < want->n_queries; q++)
            same = got.found[q].n == want->found[q].n &&
                   memcmp(got.found[q].hits, want->found[q].hits,
                          want->found[q].n * sizeof(struct kith_hit)) == 0;
        search_result_fini(&got);
        if (!same)
            return ctx;
    }
    return NULL;
}

static void test_search_is_the_same_from_many_threads(void **state)
{
    (void)state;
    struct search_result want;
    pthread_t threads[4];
    large_world();
    assert_int_equal(search_run(context, &world.request, &want, NULL), KITH_OK);
    for (int i = 0; i < 4; i++)
        assert_int_equal(pthread_create(&threads[i], NULL, search_again, &want), 0);
    for (int i = 0; i < 4; i++) {
        void *different = &want;
        assert_int_equal(pthread_join(threads[i], &different), 0);
        assert_null(different);
    }
    search_result_fini(&want);
    free_world(&world);
}

static void check_refusals(void)
{
    static const struct search_result untouched = {.points = 77};
    struct search_result result = untouched;
    struct kith_diag diag = {0};
    world.request.deadline_ms = 1;
    assert_int_equal(search_run(context, &world.request, &result, &diag), KITH_TIMEOUT);
    world.request.deadline_ms = kith_now_ms() + 60000;

    world.filters[0].n_nodes = 1;
    world.filters[0].nodes[0].kind = KITH_FILTER_IS_NULL;
    world.parts[0].filter = &world.filters[0];
    assert_int_equal(search_run(context, &world.request, &result, &diag), KITH_CORRUPT);
    assert_string_equal(diag.text, "a bad block");
    world.parts[0].filter = NULL;

    float saved = world.vectors[0][0];
    world.vectors[0][0] = NAN;
    assert_int_equal(search_run(context, &world.request, &result, &diag), KITH_BAD_REQUEST);
    world.vectors[0][0] = saved;

    const struct search_part part = world.parts[0];
    float *many = kith_xalloc(1000 * DIM_MAX * sizeof *many);
    world.parts[0].vectors = (const uint8_t *)many;
    world.parts[0].n_queries = 1000;
    world.parts[0].k = KITH_K_MAX;
    assert_int_equal(search_run(context, &world.request, &result, &diag), KITH_TOO_BIG);
    kith_free(many);
    world.parts[0] = part;

    assert_memory_equal(&result, &untouched, sizeof result);
}

static void test_search_refuses_and_leaves_results_alone(void **state)
{
    context_tear_down(state); /* else scratch is what the threads before happened to leave */
    assert_int_equal(set_up(state), 0);
    large_world();
    check_refusals(); /* which rows are live is kept from here on, so that the next gets further, */
    check_refusals(); /* and scratch, of all it needs there */
    long before = kith_mem_live();
    check_refusals();
    assert_int_equal(kith_mem_live(), before);
    free_world(&world);
}

static void test_search_survives_each_oom(void **state)
{
    (void)state;
    large_world();
    world.parts[0].n_queries = 2;
    world.parts[0].filter = &world.filters[0];
    world.filters[0].n_nodes = 1;
    context_check_each_oom(&world.request);
    free_world(&world);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_teardown(test_search_finds_what_a_sort_finds, random_say_seed),
        cmocka_unit_test_teardown(test_search_is_the_same_from_many_threads, random_say_seed),
        cmocka_unit_test_teardown(test_search_refuses_and_leaves_results_alone, random_say_seed),
        cmocka_unit_test_teardown(test_search_survives_each_oom, random_say_seed),
    };
    return cmocka_run_group_tests(tests, set_up, context_tear_down);
}
