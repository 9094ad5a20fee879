/* A query that found all, some or none of what there was; and when nobody compares. */
#include "shard/rpc/recall_probe.h"

#include "shard/rpc/rig_testing.h"

#define K 10u

static struct rpc_env env;
static const struct kith_msg_scope scope = {
    .collection = RIG_COLLECTION, .n_slices = 1, .slices = {0}};

static struct recall_probe *open_probe(uint32_t one_in)
{
    struct recall_probe *probe;
    struct recall_probe_options options = {.env = &env, .one_in = one_in};
    assert_int_equal(recall_probe_open(&probe, &options, NULL), KITH_OK);
    return probe;
}

static float query_vector[DIM] = {1, 2, 3, 4};

/* The best k, exactly. */
static void best_hits(struct kith_hit *hits, uint32_t k)
{
    struct search_context *context;
    struct rpc_views views;
    struct search_result result = {0};
    const struct search_part part = {
        .n_queries = 1, .k = k, .vectors = (const uint8_t *)query_vector, .exact = true};
    assert_int_equal(search_context_open(&context, NULL, NULL), KITH_OK);
    rpc_take_views(&env, &scope, &views);
    const struct search_request request = {
        .views = views.views, .n_views = views.n_views, .parts = &part, .n_parts = 1};
    assert_int_equal(search_run(context, &request, &result, NULL), KITH_OK);
    assert_int_equal(result.found[0].n, k);
    memcpy(hits, result.found[0].hits, k * sizeof *hits);
    search_result_fini(&result);
    rpc_give_views(&env, &views);
    search_context_close(context);
}

static bool offer(struct recall_probe *probe, const struct kith_hit *hits, uint32_t n,
                  uint64_t matched)
{
    struct rpc_views views;
    const struct recall_probe_query query = {.collection = RIG_COLLECTION,
                                             .dim = DIM,
                                             .k = K,
                                             .vector = (const uint8_t *)query_vector,
                                             .plan = SEARCH_PLAN_LISTS,
                                             .matched = matched,
                                             .points = POINTS,
                                             .hits = hits,
                                             .n_hits = n};
    rpc_take_views(&env, &scope, &views);
    bool taken = recall_probe_offer(probe, &query, &views);
    assert_true(taken == (views.n_views == 0));
    rpc_give_views(&env, &views);
    return taken;
}

static void expect(struct recall_probe *probe, uint32_t n_rows, const char *share, uint64_t queries,
                   float recall)
{
    struct kith_msg_info_recall rows[4];
    assert_int_equal(recall_probe_read(probe, RIG_COLLECTION, rows, 4), n_rows);
    const struct kith_msg_info_recall *last = &rows[n_rows - 1];
    assert_true(kith_bytes_equal(last->plan, "lists") && kith_bytes_equal(last->share, share));
    assert_int_equal(last->queries, queries);
    assert_true(last->recall > recall - 1e-6f && last->recall < recall + 1e-6f);
}

static void test_recall_probe_compares(void **state)
{
    (void)state;
    struct kith_hit hits[2 * K];
    struct kith_msg_info_recall row;
    open_rig();
    env.slices = rig.slices;
    struct recall_probe *probe = open_probe(1);
    best_hits(hits, 2 * K);
    assert_true(offer(probe, hits, K, POINTS));
    assert_false(offer(probe, hits, K, POINTS)); /* one at a time */
    recall_probe_run(probe);
    expect(probe, 1, "1", 1, 1);

    /* The first four, then such as an exact search would not have found. */
    memmove(hits + 4, hits + K, (K - 4) * sizeof *hits);
    assert_true(offer(probe, hits, K, POINTS));
    recall_probe_run(probe);
    expect(probe, 1, "1", 2, 0.7f);

    assert_true(offer(probe, hits, 2, POINTS / 20)); /* fewer than asked for */
    recall_probe_run(probe);
    expect(probe, 2, "0.01", 1, 0.2f);
    assert_int_equal(recall_probe_read(probe, RIG_COLLECTION + 1, &row, 1), 0);
    assert_true(offer(probe, hits, K, POINTS)); /* closed with its views */
    recall_probe_close(probe);
    close_rig();
}

static void test_recall_probe_takes_a_few(void **state)
{
    (void)state;
    open_rig();
    env.slices = rig.slices;
    struct recall_probe *probe = open_probe(7);
    uint32_t n = 0;
    for (uint32_t i = 0; i < 700; i++)
        n += recall_probe_wants(probe);
    assert_int_equal(n, 100);
    recall_probe_close(probe);
    probe = open_probe(0);
    assert_false(recall_probe_wants(probe));
    recall_probe_close(probe);
    close_rig();
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_recall_probe_compares),
        cmocka_unit_test(test_recall_probe_takes_a_few),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
