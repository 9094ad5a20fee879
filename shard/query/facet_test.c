#include "shard/query/facet.h"

#include "shard/query/count.h"
#include "shard/query/info.h"
#include "shard/query/query_testing.h"
#include "shard/storage/field_path.h"

/* Facet, count, select and info against the model. */

static void test_count_is_exact(void **state)
{
    (void)state;
    struct kith_filter filter;
    struct kith_buf buf = {0};
    for (int round = 0; round < 200; round++) {
        struct kith_writer w = testing_writer(&buf);
        uint64_t want = 0, got = 0;
        kith_buf_reset(&buf);
        if (round > 0)
            testing_filter(&w, 2);
        assert_int_equal(kith_filter_parse(&filter, testing_bytes(&buf), "filter", NULL), KITH_OK);
        for (uint32_t i = 0; i < NODE_POINTS; i++)
            want += node_matches(&node.points[i], &filter);
        assert_int_equal(count_run(SCOPE(&node, &filter), &got, NULL), KITH_OK);
        assert_int_equal(got, want);
    }
    kith_buf_fini(&buf);
}

/* What the points have at a path, one msgpack value after another, found the slow way. */
struct seen {
    struct kith_bytes wanted;
    bool found;
};

static bool same_value(struct kith_bytes a, struct kith_bytes b)
{
    struct kith_cursor ca = kith_cursor_of(a.data, a.len), cb = kith_cursor_of(b.data, b.len);
    struct kith_value va, vb;
    assert_true(kith_read_value(&ca, &va) && kith_read_value(&cb, &vb));
    if (va.type != vb.type)
        return false;
    if (va.type == KITH_WIRE_BOOL)
        return va.boolean == vb.boolean;
    if (va.type == KITH_WIRE_INT)
        return va.negative == vb.negative && (va.negative ? va.i == vb.i : va.u == vb.u);
    return va.type == KITH_WIRE_STR && va.bytes.len == vb.bytes.len &&
           memcmp(va.bytes.data, vb.bytes.data, va.bytes.len) == 0;
}

static bool look(void *ctx, struct kith_bytes value)
{
    struct seen *seen = ctx;
    struct kith_cursor c = kith_cursor_of(value.data, value.len);
    uint32_t n = 1;
    if (kith_read_peek(&c) == KITH_WIRE_ARRAY)
        assert_true(kith_read_array(&c, &n));
    for (; n > 0; n--) {
        struct kith_bytes element;
        assert_true(kith_read_skip(&c, &element));
        seen->found = seen->found || same_value(element, seen->wanted);
    }
    return false;
}

static uint64_t points_with(struct kith_bytes path, struct kith_bytes value,
                            const struct kith_filter *filter)
{
    uint64_t n = 0;
    for (uint32_t i = 0; i < NODE_POINTS; i++) {
        struct seen seen = {value, false};
        if (!node_matches(&node.points[i], filter))
            continue;
        (void)field_path_visit(testing_bytes(&node.points[i].payload), path, look, &seen);
        n += seen.found;
    }
    return n;
}

struct values {
    struct kith_bytes items[2000];
    uint32_t n;
};

static bool collect(void *ctx, struct kith_bytes value)
{
    struct values *values = ctx;
    struct kith_cursor c = kith_cursor_of(value.data, value.len);
    uint32_t n = 1;
    if (kith_read_peek(&c) == KITH_WIRE_ARRAY)
        assert_true(kith_read_array(&c, &n));
    for (; n > 0; n--) {
        struct kith_bytes element;
        assert_true(kith_read_skip(&c, &element));
        struct kith_cursor e = kith_cursor_of(element.data, element.len);
        struct kith_value head;
        assert_true(kith_read_value(&e, &head));
        bool counted = head.type == KITH_WIRE_STR || head.type == KITH_WIRE_BOOL ||
                       (head.type == KITH_WIRE_INT && (head.negative || head.u <= INT64_MAX));
        for (uint32_t i = 0; counted && i < values->n; i++)
            counted = !same_value(values->items[i], element);
        if (counted) {
            assert_true(values->n < 2000);
            values->items[values->n++] = element;
        }
    }
    return false;
}

static void test_facet_counts_each_value(void **state)
{
    (void)state;
    static const char *const paths[] = {"c", "f", "t", "o.k", "o.l[].n", "f[0]", "nowhere"};
    static struct values values;
    struct kith_filter filter;
    struct kith_buf buf = {0};
    for (int round = 0; round < 70; round++) {
        struct kith_bytes path = node_text(paths[round % 7]);
        struct facet facet = {0};
        node_filter(&filter, &buf);
        values.n = 0;
        for (uint32_t i = 0; i < NODE_POINTS; i++)
            if (node_matches(&node.points[i], &filter))
                (void)field_path_visit(testing_bytes(&node.points[i].payload), path, collect,
                                       &values);
        assert_int_equal(facet_run(&facet, SCOPE(&node, &filter), path, NULL), KITH_OK);
        assert_int_equal(facet.n, values.n);
        for (uint32_t i = 0; i < facet.n; i++) {
            assert_int_equal(facet.hits[i].count, points_with(path, facet.hits[i].value, &filter));
            assert_true(facet.hits[i].count > 0);
            assert_true(i == 0 || facet.hits[i - 1].count >= facet.hits[i].count);
            for (uint32_t j = 0; j < i; j++)
                assert_false(same_value(facet.hits[i].value, facet.hits[j].value));
        }
        facet_fini(&facet);
    }
    kith_buf_fini(&buf);
}

static void test_facet_survives_each_oom(void **state)
{
    (void)state;
    struct kith_filter filter = {0};
    long before = kith_mem_live();
    bool done = false;
    for (long n = 0; !done; n++) {
        struct facet facet = {0};
        struct info info = {0};
        kith_mem_fail_after(n);
        enum kith_err err = facet_run(&facet, SCOPE(&node, &filter), node_text("t"), NULL);
        if (err == KITH_OK)
            err = info_run(&info, node.views, NODE_SLICES, NULL);
        kith_mem_fail_after(-1);
        assert_true(err == KITH_OK || err == KITH_NOMEM);
        done = err == KITH_OK;
        facet_fini(&facet);
        info_fini(&info);
        assert_int_equal(kith_mem_live(), before);
    }
}

static bool has_field(void *ctx, struct kith_bytes value)
{
    struct kith_cursor c = kith_cursor_of(value.data, value.len);
    struct kith_value head, element;
    assert_true(kith_read_value(&c, &head));
    bool *has = ctx;
    if (head.type != KITH_WIRE_ARRAY)
        *has = *has || head.type != KITH_WIRE_NIL;
    for (uint32_t n = head.type == KITH_WIRE_ARRAY ? head.count : 0; n > 0; n--) {
        struct kith_cursor e = c;
        assert_true(kith_read_skip(&c, NULL) && kith_read_value(&e, &element));
        *has = *has || element.type != KITH_WIRE_NIL;
    }
    return false;
}

static void test_info_lists_fields(void **state)
{
    (void)state;
    struct info info = {0};
    assert_int_equal(info_run(&info, node.views, NODE_SLICES, NULL), KITH_OK);
    bool category = false;
    for (uint32_t i = 0; i < info.n; i++) {
        uint64_t want = 0;
        for (uint32_t p = 0; p < NODE_POINTS; p++) {
            bool has = false;
            if (node.points[p].live)
                (void)field_path_visit(testing_bytes(&node.points[p].payload), info.fields[i].path,
                                       has_field, &has);
            want += has;
        }
        /* A part where the path has no scalar says nothing about it. */
        assert_true(info.fields[i].points <= want && info.fields[i].types != 0);
        if (kith_bytes_equal(info.fields[i].path, "c")) {
            category = true;
            assert_int_equal(info.fields[i].points, want);
            assert_int_equal(info.fields[i].types, 1 | 4);
        }
    }
    assert_true(category);
    info_fini(&info);
}

static void test_select_deletes_by_filter(void **state)
{
    (void)state;
    struct kith_buf ops = {0}, bytes = {0};
    struct kith_filter filter;
    (void)testing_pack(&bytes, "{'must': [{'key': 'c', 'match': {'value': 'red'}}]}");
    assert_int_equal(kith_filter_parse(&filter, testing_bytes(&bytes), "filter", NULL), KITH_OK);
    struct kith_writer w = testing_writer(&ops);
    kith_write_array(&w, 1);
    kith_op_write_head(&w, KITH_OP_DELETE);
    kith_write_raw(&w, bytes.data, bytes.len);
    uint64_t affected = 0, want = 0, left = 0;
    for (uint32_t s = 0; s < NODE_SLICES; s++) {
        struct store_write_result result = node_write(node.stores[s], &ops);
        assert_int_equal(result.err, KITH_OK);
        affected += result.affected;
    }
    for (uint32_t i = 0; i < NODE_POINTS; i++)
        if (node_matches(&node.points[i], &filter)) {
            node.points[i].live = false;
            want++;
        }
    assert_true(want > 10);
    assert_int_equal(affected, want);
    node_refresh(&node);
    assert_int_equal(count_run(SCOPE(&node, &filter), &left, NULL), KITH_OK);
    assert_int_equal(left, 0);
    test_count_is_exact(state);
    kith_buf_fini(&bytes);
    kith_buf_fini(&ops);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_count_is_exact),
        cmocka_unit_test(test_facet_counts_each_value),
        cmocka_unit_test(test_facet_survives_each_oom),
        cmocka_unit_test(test_info_lists_fields),
        cmocka_unit_test(test_select_deletes_by_filter),
    };
    return cmocka_run_group_tests(tests, node_set_up, node_tear_down);
}
