#include "shard/query/filter_cache.h"

#include <stdatomic.h>

#include "common/kith_mem.h"
#include "shard/query/parts.h"
#include "shard/query/query_testing.h"

struct asked {
    struct kith_filter filter;
    struct kith_buf bytes, key;
};

static void new_filter(struct asked *asked)
{
    node_filter(&asked->filter, &asked->bytes);
    kith_buf_reset(&asked->key);
    assert_int_equal(filter_cache_key(&asked->filter, &asked->key, NULL), KITH_OK);
}

static void free_filter(struct asked *asked)
{
    kith_buf_fini(&asked->bytes);
    kith_buf_fini(&asked->key);
}

static struct filter_question question_of(const struct asked *asked, const struct view *view,
                                          uint32_t part)
{
    return (struct filter_question){
        .view = view, .part = part, .filter = &asked->filter, .key = testing_bytes(&asked->key)};
}

static const struct filter_answer *ask(struct filter_cache *cache,
                                       const struct filter_question *question)
{
    const struct filter_answer *answer = filter_cache_find(cache, question);
    if (answer == NULL && filter_cache_make(cache, question, &answer, NULL) != KITH_OK)
        return NULL;
    return answer;
}

/* Against the filter evaluated now. */
static bool is_right(const struct filter_answer *answer, const struct filter_question *question)
{
    const struct parts_scope scope = {.filter = question->filter};
    struct bitmap *set = NULL;
    if (parts_match(&scope, question->view, question->part, &set, NULL) != KITH_OK)
        return false;
    bool right = bitmap_count(set) == answer->count;
    for (uint32_t row = 0; right && row < (answer->rows + 63) / 64 * 64; row++)
        right = (answer->words[row / 64] >> row % 64 & 1) == bitmap_contains(set, row);
    bitmap_free(set);
    return right;
}

static void check_views(struct filter_cache *cache, const struct asked *asked,
                        struct view *const *views)
{
    for (uint32_t v = 0; v < NODE_SLICES; v++)
        for (uint32_t part = 0; part < parts_count(views[v]); part++) {
            const struct filter_question question = question_of(asked, views[v], part);
            const struct filter_answer *answer = ask(cache, &question);
            assert_non_null(answer);
            assert_true(is_right(answer, &question));
            filter_answer_unref(answer);
        }
}

static void change_some(void)
{
    for (uint32_t i = 0; i < 5; i++) {
        struct node_point *point = &node.points[random_below(NODE_POINTS)];
        if (point->live)
            node_delete(&node, point);
        else
            node_put(&node, point);
    }
}

static void test_filter_cache_gives_what_filters_give(void **state)
{
    (void)state;
    struct filter_cache *cache = NULL;
    struct asked asked[8] = {0};
    struct filter_cache_stats stats;
    assert_int_equal(filter_cache_open(&cache, 1u << 20, NULL), KITH_OK);
    for (uint32_t i = 0; i < 8; i++)
        new_filter(&asked[i]);
    for (uint32_t round = 0; round < 60; round++) {
        for (uint32_t i = 0; i < 8; i++)
            check_views(cache, &asked[i], node.views);
        change_some();
        if (round % 20 == 19)
            node_maintain(&node);
        node_refresh(&node);
    }
    filter_cache_stats(cache, &stats);
    assert_true(stats.hits > 0 && stats.masked > 0 && stats.misses > 0);
    filter_cache_close(cache);
    for (uint32_t i = 0; i < 8; i++)
        free_filter(&asked[i]);
}

/* A view from before some deletes, asked after one from behind them, and the other way round. */
static void test_filter_cache_tells_views_apart(void **state)
{
    (void)state;
    struct filter_cache *cache = NULL;
    struct asked asked = {0};
    struct view *before[NODE_SLICES];
    assert_int_equal(filter_cache_open(&cache, 1u << 20, NULL), KITH_OK);
    for (uint32_t round = 0; round < 40; round++) {
        new_filter(&asked);
        for (uint32_t v = 0; v < NODE_SLICES; v++)
            view_ref(before[v] = node.views[v]);
        change_some();
        node_refresh(&node);
        check_views(cache, &asked, random_below(2) ? before : node.views);
        check_views(cache, &asked, node.views);
        check_views(cache, &asked, before);
        check_views(cache, &asked, node.views);
        for (uint32_t v = 0; v < NODE_SLICES; v++)
            view_unref(before[v]);
    }
    filter_cache_close(cache);
    free_filter(&asked);
}

static void test_filter_cache_remembers_and_forgets(void **state)
{
    (void)state;
    struct filter_cache *cache = NULL;
    struct asked asked = {0};
    struct filter_cache_stats stats;
    new_filter(&asked);
    assert_int_equal(filter_cache_open(&cache, 8192, NULL), KITH_OK);
    const struct filter_question question = question_of(&asked, node.views[0], 0);
    const struct filter_answer *answer = ask(cache, &question);
    const struct filter_answer *again = filter_cache_find(cache, &question);
    assert_ptr_equal(answer, again);
    filter_answer_unref(again);
    struct asked other = {0};
    for (uint32_t round = 0; round < 200; round++) {
        new_filter(&other);
        check_views(cache, &other, node.views);
        filter_cache_stats(cache, &stats);
        assert_true(stats.bytes <= 8192);
    }
    assert_true(stats.evicted > 0 && stats.entries > 0);
    filter_cache_close(cache);
    assert_true(is_right(answer, &question)); /* what is held outlives the cache */
    filter_answer_unref(answer);
    free_filter(&asked);
    free_filter(&other);
}

static void test_filter_cache_keys_say_what_filters_mean(void **state)
{
    (void)state;
    static const char *const apart[] = {
        "{'must': [{'key': 'a', 'match': {'value': 1}}]}",
        "{'must': [{'key': 'a', 'match': {'value': 2}}]}",
        "{'must': [{'key': 'a', 'match': {'value': '1'}}]}",
        "{'must': [{'key': 'b', 'match': {'value': 1}}]}",
        "{'must_not': [{'key': 'a', 'match': {'value': 1}}]}",
        "{'must': [{'key': 'a', 'match': {'except': [1]}}]}",
        "{'must': [{'key': 'a', 'match': {'any': [1, 2]}}]}",
        "{'must': [{'key': 'a', 'match': {'value': 1}}, {'key': 'a', 'match': {'value': 2}}]}",
        "{'should': [{'key': 'a', 'match': {'value': 1}}, {'key': 'a', 'match': {'value': 2}}]}",
        "{'must': [{'key': 'a', 'range': {'gt': 1}}]}",
        "{'must': [{'key': 'a', 'range': {'gte': 1}}]}",
        "{'must': [{'key': 'a', 'range': {'lt': 1}}]}",
        "{'must': [{'key': 'a', 'range': {'gt': 1, 'lt': 2}}]}",
        "{'must': [{'key': 'a', 'range': {'gt': '2020-01-01'}}]}",
        "{'must': [{'key': 'a', 'values_count': {'gt': 1}}]}",
        "{'must': [{'nested': {'key': 'a', 'filter': {'must': [{'key': 'a', 'match': {'value': "
        "1}}]}}}]}",
        "{'must': [{'has_id': [1]}]}",
        "{'min_should': {'conditions': [{'key': 'a', 'match': {'value': 1}}, {'key': 'b', 'match': "
        "{'value': 1}}], 'min_count': 1}}",
        "{'min_should': {'conditions': [{'key': 'a', 'match': {'value': 1}}, {'key': 'b', 'match': "
        "{'value': 1}}], 'min_count': 2}}",
    };
    enum { N = sizeof apart / sizeof *apart };
    struct kith_buf bytes = {0};
    struct kith_buf keys[N + 1] = {{0}};
    for (uint32_t i = 0; i < N + 1; i++) {
        struct kith_filter filter;
        const char *text = i < N ? apart[i] : "{'should': {'key': 'a', 'match': {'value': 1}}}";
        assert_int_equal(kith_filter_parse(&filter, testing_pack(&bytes, text), "filter", NULL),
                         KITH_OK);
        assert_int_equal(filter_cache_key(&filter, &keys[i], NULL), KITH_OK);
        for (uint32_t j = 0; j < i; j++) {
            bool same =
                keys[i].len == keys[j].len && memcmp(keys[i].data, keys[j].data, keys[i].len) == 0;
            if (same != (i == N && j == 0))
                fail_msg("%s and %s", text, apart[j]);
        }
    }
    for (uint32_t i = 0; i < N + 1; i++)
        kith_buf_fini(&keys[i]);
    kith_buf_fini(&bytes);
}

/* ---- many threads ---------------------------------------------------------------------------- */

struct crowd {
    struct filter_cache *cache;
    struct asked asked[4];
    atomic_bool stop;
    atomic_uint wrong, answers;
};

static void *ask_until_stopped(void *ctx)
{
    struct crowd *crowd = ctx;
    for (uint32_t round = 0; !atomic_load(&crowd->stop); round++) {
        struct view *view = store_view(node.stores[round % NODE_SLICES]);
        for (uint32_t part = 0; part < parts_count(view); part++) {
            const struct filter_question question =
                question_of(&crowd->asked[round % 4], view, part);
            const struct filter_answer *answer = ask(crowd->cache, &question);
            if (answer == NULL || !is_right(answer, &question))
                atomic_fetch_add(&crowd->wrong, 1);
            filter_answer_unref(answer);
        }
        view_unref(view);
        atomic_fetch_add(&crowd->answers, 1);
    }
    return NULL;
}

static void test_filter_cache_is_right_while_points_come_and_go(void **state)
{
    (void)state;
    static struct crowd crowd;
    pthread_t threads[3];
    assert_int_equal(filter_cache_open(&crowd.cache, 16384, NULL), KITH_OK);
    for (uint32_t i = 0; i < 4; i++)
        new_filter(&crowd.asked[i]);
    for (int i = 0; i < 3; i++)
        assert_int_equal(pthread_create(&threads[i], NULL, ask_until_stopped, &crowd), 0);
    for (uint32_t round = 0; round < 60 || atomic_load(&crowd.answers) < 300; round++) {
        change_some();
        if (round % 20 == 0)
            node_maintain(&node);
    }
    atomic_store(&crowd.stop, true);
    for (int i = 0; i < 3; i++)
        assert_int_equal(pthread_join(threads[i], NULL), 0);
    assert_int_equal(atomic_load(&crowd.wrong), 0);
    filter_cache_close(crowd.cache);
    for (uint32_t i = 0; i < 4; i++)
        free_filter(&crowd.asked[i]);
    node_refresh(&node);
}

static void test_filter_cache_survives_each_oom(void **state)
{
    (void)state;
    struct asked asked = {0};
    new_filter(&asked);
    const struct filter_question question = question_of(&asked, node.views[0], 0);
    long before = kith_mem_live();
    bool done = false;
    for (long n = 0; !done; n++) {
        struct filter_cache *cache = NULL;
        const struct filter_answer *answer = NULL;
        kith_mem_fail_after(n);
        if (filter_cache_open(&cache, 1u << 20, NULL) == KITH_OK)
            answer = ask(cache, &question);
        kith_mem_fail_after(-1);
        done = answer != NULL;
        filter_answer_unref(answer);
        filter_cache_close(cache);
        assert_int_equal(kith_mem_live(), before);
    }
    free_filter(&asked);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_filter_cache_gives_what_filters_give),
        cmocka_unit_test(test_filter_cache_tells_views_apart),
        cmocka_unit_test(test_filter_cache_remembers_and_forgets),
        cmocka_unit_test(test_filter_cache_keys_say_what_filters_mean),
        cmocka_unit_test(test_filter_cache_is_right_while_points_come_and_go),
        cmocka_unit_test(test_filter_cache_survives_each_oom),
    };
    return cmocka_run_group_tests(tests, node_set_up, node_tear_down);
}
