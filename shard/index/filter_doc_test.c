#include "shard/index/filter_doc.h"

#include <setjmp.h>
#include <stdarg.h>
#include <cmocka.h>

#include "shard/index/filter_testing.h"

/* One line of docs/FILTERS.md each. */
struct example {
    const char *payload;
    const char *filter;
    bool want;
};

#define FIELD(path_, rest_) "{'must': [{'key': '" path_ "', " rest_ "}]}"

static const struct example examples[] = {
    {"{'a': 'x'}", FIELD("a", "'match': {'value': 'x'}"), true},
    {"{'a': ['y', 'x']}", FIELD("a", "'match': {'value': 'x'}"), true},
    {"{'a': ['y', 'x']}", FIELD("a[]", "'match': {'value': 'x'}"), true},
    {"{'a': [['x']]}", FIELD("a", "'match': {'value': 'x'}"), false},
    {"{'a': {'b': 'x'}}", FIELD("a.b", "'match': {'value': 'x'}"), true},
    {"{'a': [{'b': 'x'}]}", FIELD("a.b", "'match': {'value': 'x'}"), false},
    {"{'a': [{'b': 'x'}]}", FIELD("a[].b", "'match': {'value': 'x'}"), true},
    {"{'a': [{'b': 1}, {'b': 2}]}", FIELD("a[1].b", "'match': {'value': 2}"), true},
    {"{'a': 'X'}", FIELD("a", "'match': {'value': 'x'}"), false},
    {"{'a': 5}", FIELD("a", "'match': {'value': 5}"), true},
    {"{'a': 5.0}", FIELD("a", "'match': {'value': 5}"), false},
    {"{'a': '5'}", FIELD("a", "'match': {'value': 5}"), false},
    {"{'a': true}", FIELD("a", "'match': {'value': true}"), true},
    {"{'a': true}", FIELD("a", "'match': {'value': 1}"), false},
    {"{'a': -3}", FIELD("a", "'match': {'any': [7, -3]}"), true},
    {"{'a': 3}", FIELD("a", "'match': {'any': []}"), false},
    {"{'a': 3}", FIELD("a", "'match': {'except': [3]}"), false},
    {"{'a': [3, 4]}", FIELD("a", "'match': {'except': [3]}"), true},
    {"{'a': 'x'}", FIELD("a", "'match': {'except': [3]}"), true},
    {"{'a': null}", FIELD("a", "'match': {'except': [3]}"), false},
    {"{'a': {}}", FIELD("a", "'match': {'except': [3]}"), true},
    {"{'a': [[3]]}", FIELD("a", "'match': {'except': [3]}"), true},
    {"{}", FIELD("a", "'match': {'except': [3]}"), false},
    {"{'a': [1, 8]}", FIELD("a", "'range': {'gte': 8}"), true},
    {"{'a': 8}", FIELD("a", "'range': {'gt': 8}"), false},
    {"{'a': 8.5}", FIELD("a", "'range': {'gt': 8, 'lte': 8.5}"), true},
    {"{'a': '9'}", FIELD("a", "'range': {'gt': 8}"), false},
    {"{'a': 18446744073709551615}", FIELD("a", "'range': {'gt': 1e18}"), true},
    {"{'a': '2026-02-01T12:00:00+02:00'}", FIELD("a", "'range': {'lte': '2026-02-01T10:00:00Z'}"),
     true},
    {"{'a': '2026-02-01'}", FIELD("a", "'range': {'gt': '2026-02-01T00:00:00Z'}"), false},
    {"{'a': 'soon'}", FIELD("a", "'range': {'gt': '2026-02-01'}"), false},
    {"{}", "{'must': [{'is_empty': {'key': 'a'}}]}", true},
    {"{'a': null}", "{'must': [{'is_empty': {'key': 'a'}}]}", true},
    {"{'a': []}", "{'must': [{'is_empty': {'key': 'a'}}]}", true},
    {"{'a': [null]}", "{'must': [{'is_empty': {'key': 'a'}}]}", false},
    {"{'a': ''}", "{'must': [{'is_empty': {'key': 'a'}}]}", false},
    {"{'a': null}", "{'must': [{'is_null': {'key': 'a'}}]}", true},
    {"{'a': [1, null]}", "{'must': [{'is_null': {'key': 'a'}}]}", true},
    {"{'a': [[null]]}", "{'must': [{'is_null': {'key': 'a'}}]}", false},
    {"{}", "{'must': [{'is_null': {'key': 'a'}}]}", false},
    {"{'a': [1, 2]}", FIELD("a", "'values_count': {'gte': 2}"), true},
    {"{'a': {}}", FIELD("a", "'values_count': {'lt': 2}"), true},
    {"{'a': null}", FIELD("a", "'values_count': {'lt': 1}"), true},
    {"{}", FIELD("a", "'values_count': {'lt': 1}"), false},
    {"{'a': [{'b': 1, 'c': 2}, {'b': 3, 'c': 4}]}",
     "{'must': [{'nested': {'key': 'a', 'filter': {'must': [{'key': 'b', 'match': {'value': 1}}, "
     "{'key': 'c', 'match': {'value': 4}}]}}}]}",
     false},
    {"{'a': [{'b': 1, 'c': 2}, {'b': 3, 'c': 4}]}",
     "{'must': [{'nested': {'key': 'a[]', 'filter': {'must': [{'key': 'b', 'match': {'value': 3}}, "
     "{'key': 'c', 'match': {'value': 4}}]}}}]}",
     true},
    {"{'a': [{'b': 1}, {'c': 2}]}",
     "{'must': [{'nested': {'key': 'a', 'filter': {'must_not': [{'key': 'b', 'match': {'value': "
     "1}}]}}}]}",
     true},
    {"{'a': {'b': 1}}",
     "{'must': [{'nested': {'key': 'a', 'filter': {'must': [{'key': 'b', 'match': {'value': 1}}]}}}"
     "]}",
     false},
    {"{'a': 1}", "{}", true},
    {"{'a': 1}", "{'should': []}", true},
    {"{'a': 1}", "{'must_not': [{'key': 'a', 'match': {'value': 1}}]}", false},
    {"{'a': 1, 'b': 2}",
     "{'min_should': {'min_count': 2, 'conditions': [{'key': 'a', 'match': {'value': 1}}, {'key': "
     "'b', 'match': {'value': 2}}, {'key': 'c', 'match': {'value': 3}}]}}",
     true},
    {"{'a': 1}",
     "{'min_should': {'min_count': 2, 'conditions': [{'key': 'a', 'match': {'value': 1}}, {'key': "
     "'b', 'match': {'value': 2}}]}}",
     false},
    {"{}", "{'must': [{'has_id': [3, 7, 9]}]}", true},
    {"{}", "{'must': [{'has_id': [3, '3f2504e0-4f89-11d3-9a0c-0305e82c3301']}]}", false},
    {"{'x.y': 1}", FIELD("x.y", "'match': {'value': 1}"), false},
};

static void test_filter_doc_follows_the_page(void **state)
{
    (void)state;
    struct kith_buf filter_buf = {0};
    struct kith_buf payload_buf = {0};
    const struct kith_id id = kith_id_number(7);
    for (size_t i = 0; i < sizeof examples / sizeof *examples; i++) {
        struct kith_filter filter;
        struct kith_diag diag = {0};
        struct filter_lists *lists = NULL;
        struct kith_bytes bytes = testing_pack(&filter_buf, examples[i].filter);
        enum kith_err err = kith_filter_parse(&filter, bytes, "filter", &diag);
        if (err != KITH_OK)
            fail_msg("%s: %s", examples[i].filter, diag.text);
        struct kith_bytes payload = testing_pack(&payload_buf, examples[i].payload);
        assert_int_equal(filter_lists_new(&lists, &filter, NULL), KITH_OK);
        if (filter_doc(&filter, NULL, &id, payload) != examples[i].want ||
            filter_doc(&filter, lists, &id, payload) != examples[i].want)
            fail_msg("%s on %s: expected %d", examples[i].filter, examples[i].payload,
                     examples[i].want);
        filter_lists_free(lists);
    }
    kith_buf_fini(&payload_buf);
    kith_buf_fini(&filter_buf);
}

static void test_filter_doc_empty_payload(void **state)
{
    (void)state;
    struct kith_buf buf = {0};
    struct kith_filter filter;
    const struct kith_id id = kith_id_number(1);
    assert_int_equal(kith_filter_parse(&filter,
                                       testing_pack(&buf, "{'must': {'is_empty': {'key': 'a'}}}"),
                                       "filter", NULL),
                     KITH_OK);
    assert_true(filter_doc(&filter, NULL, &id, (struct kith_bytes){0}));
    kith_buf_fini(&buf);
}

static void test_filter_doc_lists_agree_and_survive_oom(void **state)
{
    (void)state;
    struct kith_buf buf = {0};
    struct kith_buf payload = {0};
    for (int round = 0; round < 3000; round++) {
        struct kith_filter filter;
        struct filter_lists *lists = NULL;
        struct kith_writer w = testing_writer(&buf);
        kith_buf_reset(&buf);
        testing_filter(&w, 3);
        assert_int_equal(kith_filter_parse(&filter, testing_bytes(&buf), "filter", NULL), KITH_OK);
        kith_mem_fail_after(0);
        enum kith_err err = filter_lists_new(&lists, &filter, NULL);
        kith_mem_fail_after(-1);
        assert_int_equal(err, KITH_NOMEM);
        assert_null(lists);
        assert_int_equal(filter_lists_new(&lists, &filter, NULL), KITH_OK);
        for (int i = 0; i < 10; i++) {
            struct kith_writer p = testing_writer(&payload);
            const struct kith_id id = kith_id_number(random_below(200));
            kith_buf_reset(&payload);
            testing_object(&p, 3);
            assert_int_equal(filter_doc(&filter, NULL, &id, testing_bytes(&payload)),
                             filter_doc(&filter, lists, &id, testing_bytes(&payload)));
        }
        filter_lists_free(lists);
    }
    kith_buf_fini(&payload);
    kith_buf_fini(&buf);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_filter_doc_follows_the_page),
        cmocka_unit_test(test_filter_doc_empty_payload),
        cmocka_unit_test(test_filter_doc_lists_agree_and_survive_oom),
    };
    return cmocka_run_group_tests(tests, random_set_up, NULL);
}
