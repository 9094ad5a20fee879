#include "shard/query/scroll.h"

#include "shard/query/order.h"
#include "shard/query/query_testing.h"

static const struct node_point *point_of(const struct kith_id *id)
{
    struct node_point wanted = {.id = *id};
    return bsearch(&wanted, node.points, NODE_POINTS, sizeof wanted, node_compare_points);
}

static void check_record(const struct kith_record *record, bool with_payload, bool with_vector)
{
    const struct node_point *point = point_of(&record->id);
    float vector[NODE_DIM];
    assert_non_null(point);
    assert_true(point->live && record->seq > 0);
    assert_int_equal(record->payload.len, with_payload ? point->payload.len : 0);
    if (record->payload.len > 0)
        assert_memory_equal(record->payload.data, point->payload.data, record->payload.len);
    assert_int_equal(record->vector.len, with_vector ? sizeof vector : 0);
    node_vector(point, vector);
    if (with_vector)
        assert_memory_equal(record->vector.data, vector, sizeof vector);
}

static void test_scroll_pages_by_id(void **state)
{
    (void)state;
    struct kith_filter filter;
    struct kith_buf buf = {0};
    for (int round = 0; round < 60; round++) {
        node_filter(&filter, &buf);
        uint32_t next = 0; /* in the model */
        struct kith_msg_scroll msg = {.limit = 2 + random_below(50)};
        msg.with_payload = random_below(2);
        msg.with_vector = random_below(2);
        for (;;) {
            struct records page = {0};
            assert_int_equal(scroll_run(&page, SCOPE(&node, &filter), &msg, NULL), KITH_OK);
            for (uint32_t i = 0; i < page.n; i++) {
                while (next < NODE_POINTS && !node_matches(&node.points[next], &filter))
                    next++;
                assert_true(next < NODE_POINTS);
                assert_true(kith_id_equal(&page.items[i].id, &node.points[next++].id));
                check_record(&page.items[i], msg.with_payload, msg.with_vector);
                assert_int_equal(page.items[i].order.len, 0);
            }
            bool last = page.n < msg.limit;
            if (!last) { /* as a coordinator does: the last of a page begins the next */
                msg.has_from = true;
                msg.from = page.items[page.n - 1].id;
                next = (uint32_t)(point_of(&msg.from) - node.points);
            }
            records_fini(&page);
            if (last)
                break;
        }
        while (next < NODE_POINTS && !node_matches(&node.points[next], &filter))
            next++;
        assert_int_equal(next, NODE_POINTS);
    }
    kith_buf_fini(&buf);
}

struct expected {
    struct order_key key;
    struct kith_id id;
};

static bool expect_descending;

static int compare_expected(const void *left, const void *right)
{
    const struct expected *a = left;
    const struct expected *b = right;
    int order = order_compare(&a->key, &b->key);
    if (order != 0)
        return expect_descending ? -order : order;
    return kith_id_compare(&a->id, &b->id);
}

static void test_scroll_orders_by_field(void **state)
{
    (void)state;
    static const char *const paths[] = {"f", "c", "t", "o.n", "o.l[].n", "f[1]", "nowhere"};
    static const char *const starts[] = {"1", "0.5", "'2026-02-01'", "-1", "1e18"};
    static struct expected expected[NODE_POINTS];
    struct kith_filter filter;
    struct kith_buf buf = {0}, start = {0};
    uint64_t seen = 0;
    for (int round = 0; round < 300; round++) {
        uint32_t n = 0;
        node_filter(&filter, &buf);
        struct kith_msg_scroll msg = {.limit = 1 + random_below(NODE_POINTS),
                                      .order_key = node_text(paths[random_below(7)]),
                                      .descending = random_below(2)};
        if (random_below(2))
            msg.start_from = testing_pack(&start, starts[random_below(5)]);
        struct order_spec spec = {.path = msg.order_key, .descending = msg.descending};
        spec.has_start = msg.start_from.len > 0 && order_parse(msg.start_from, &spec.start);
        for (uint32_t i = 0; i < NODE_POINTS; i++) {
            expected[n].id = node.points[i].id;
            n += node_matches(&node.points[i], &filter) &&
                 order_of_payload(&spec, testing_bytes(&node.points[i].payload), &expected[n].key);
        }
        expect_descending = msg.descending;
        qsort(expected, n, sizeof expected[0], compare_expected);
        struct records page = {0};
        assert_int_equal(scroll_run(&page, SCOPE(&node, &filter), &msg, NULL), KITH_OK);
        assert_int_equal(page.n, n < msg.limit ? n : msg.limit);
        for (uint32_t i = 0; i < page.n; i++) {
            struct order_key key;
            assert_true(kith_id_equal(&page.items[i].id, &expected[i].id));
            assert_true(order_parse(page.items[i].order, &key));
            assert_int_equal(order_compare(&key, &expected[i].key), 0);
        }
        seen += page.n;
        records_fini(&page);
    }
    assert_true(seen > 1000);
    kith_buf_fini(&start);
    kith_buf_fini(&buf);
}

static void test_scroll_refuses_bad_requests(void **state)
{
    (void)state;
    struct kith_filter filter = {0};
    struct kith_buf buf = {0};
    struct records page = {0};
    struct kith_msg_scroll msg = {.limit = SCROLL_LIMIT_MAX + 1};
    assert_int_equal(scroll_run(&page, SCOPE(&node, &filter), &msg, NULL), KITH_TOO_BIG);
    msg = (struct kith_msg_scroll){
        .limit = 1, .order_key = node_text("f"), .start_from = testing_pack(&buf, "'soon'")};
    assert_int_equal(scroll_run(&page, SCOPE(&node, &filter), &msg, NULL), KITH_BAD_REQUEST);
    msg = (struct kith_msg_scroll){.limit = 0};
    assert_int_equal(scroll_run(&page, SCOPE(&node, &filter), &msg, NULL), KITH_OK);
    assert_int_equal(page.n, 0);
    records_fini(&page);
    kith_buf_fini(&buf);
}

static void test_records_fetch_by_id(void **state)
{
    (void)state;
    struct kith_buf ids = {0};
    for (int round = 0; round < 50; round++) {
        struct kith_writer w = testing_writer(&ids);
        struct kith_msg_fetch fetch = {.with_payload = random_below(2),
                                       .with_vector = random_below(2),
                                       .n_ids = random_below(40)};
        struct kith_id asked[40];
        uint32_t live[40];
        uint32_t n = 0;
        kith_buf_reset(&ids);
        for (uint32_t i = 0; i < fetch.n_ids; i++) {
            uint32_t at = random_below(NODE_POINTS);
            asked[i] = random_below(5) ? node.points[at].id : kith_id_number(5000 + at);
            kith_write_id(&w, &asked[i]);
            const struct node_point *point = point_of(&asked[i]);
            if (point != NULL && point->live)
                live[n++] = i;
        }
        fetch.ids = testing_bytes(&ids);
        struct records found = {0};
        assert_int_equal(records_fetch(&found, node.views, NODE_SLICES, &fetch, NULL), KITH_OK);
        assert_int_equal(found.n, n);
        for (uint32_t i = 0; i < n; i++) {
            assert_true(kith_id_equal(&found.items[i].id, &asked[live[i]]));
            check_record(&found.items[i], fetch.with_payload, fetch.with_vector);
        }
        records_fini(&found);
    }
    struct records none = {0};
    struct kith_msg_fetch bad = {.n_ids = 1, .ids = node_text("\xa1x")};
    assert_int_equal(records_fetch(&none, node.views, NODE_SLICES, &bad, NULL), KITH_PROTOCOL);
    records_fini(&none);
    kith_buf_fini(&ids);
}

static void test_scroll_survives_each_oom(void **state)
{
    (void)state;
    struct kith_filter filter = {0};
    for (int by_field = 0; by_field < 2; by_field++) {
        struct kith_msg_scroll msg = {.limit = 20, .with_payload = true, .with_vector = true};
        if (by_field)
            msg.order_key = node_text("f");
        long before = kith_mem_live();
        bool done = false;
        for (long n = 0; !done; n++) {
            struct records page = {0};
            kith_mem_fail_after(n);
            enum kith_err err = scroll_run(&page, SCOPE(&node, &filter), &msg, NULL);
            kith_mem_fail_after(-1);
            assert_true(err == KITH_OK || err == KITH_NOMEM);
            done = err == KITH_OK;
            records_fini(&page);
            assert_int_equal(kith_mem_live(), before);
        }
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_scroll_pages_by_id),
        cmocka_unit_test(test_scroll_orders_by_field),
        cmocka_unit_test(test_scroll_refuses_bad_requests),
        cmocka_unit_test(test_records_fetch_by_id),
        cmocka_unit_test(test_scroll_survives_each_oom),
    };
    return cmocka_run_group_tests(tests, node_set_up, node_tear_down);
}
