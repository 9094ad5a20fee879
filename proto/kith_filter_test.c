#include "proto/kith_filter.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <cmocka.h>

/* A tiny JSON-like notation keeps the cases readable: ' for ", parsed into msgpack here. */
struct out {
    uint8_t data[8192];
    size_t len;
};

static int sink(void *ctx, const char *data, size_t len)
{
    struct out *out = ctx;
    if (len > sizeof out->data - out->len)
        return -1;
    memcpy(out->data + out->len, data, len);
    out->len += len;
    return 0;
}

static const char *convert(const char *s, struct kith_writer *w);

static const char *convert_list(const char *s, struct kith_writer *w, char close, bool pairs)
{
    struct out inner = {0};
    struct kith_writer iw = {.write = sink, .sink = &inner};
    uint32_t n = 0;
    while (*s != close) {
        if (*s == ',')
            s++;
        s = convert(s, &iw);
        if (pairs) {
            assert_int_equal(*s, ':');
            s = convert(s + 1, &iw);
        }
        n++;
    }
    if (pairs)
        kith_write_map(w, n);
    else
        kith_write_array(w, n);
    kith_write_raw(w, inner.data, inner.len);
    return s + 1;
}

static const char *convert(const char *s, struct kith_writer *w)
{
    while (*s == ' ')
        s++;
    if (*s == '{')
        return convert_list(s + 1, w, '}', true);
    if (*s == '[')
        return convert_list(s + 1, w, ']', false);
    if (*s == '\'') {
        const char *end = strchr(s + 1, '\'');
        kith_write_str(w, s + 1, (size_t)(end - s - 1));
        return end + 1;
    }
    if (strncmp(s, "true", 4) == 0 || strncmp(s, "null", 4) == 0) {
        if (*s == 't')
            kith_write_bool(w, true);
        else
            kith_write_nil(w);
        return s + 4;
    }
    if (strncmp(s, "false", 5) == 0) {
        kith_write_bool(w, false);
        return s + 5;
    }
    char *end;
    double number = strtod(s, &end);
    assert_ptr_not_equal(s, end);
    if (memchr(s, '.', (size_t)(end - s)) != NULL)
        kith_write_f64(w, number);
    else
        kith_write_i64(w, (int64_t)number);
    return end;
}

static enum kith_err parse(const char *text, struct kith_filter *filter, struct kith_diag *diag)
{
    static struct out out; /* the filter borrows from it */
    out.len = 0;
    struct kith_writer w = {.write = sink, .sink = &out};
    convert(text, &w);
    assert_false(w.failed);
    return kith_filter_parse(filter, (struct kith_bytes){out.data, out.len}, "filter", diag);
}

static struct kith_filter filter;

static void test_filter_builds_the_tree(void **state)
{
    (void)state;
    struct kith_diag diag = {0};
    assert_int_equal(parse("{'must':[{'key':'del','match':{'value':false}},"
                           "{'key':'category[]','match':{'any':['a','b',3]}}],"
                           "'should':{'key':'n','range':{'gte':1,'lt':2.5,'gt':null}},"
                           "'must_not':[{'has_id':[1,'936da01f-9abd-4d9d-80c7-02af85c822a8']}],"
                           "'min_should':{'conditions':[{'is_empty':{'key':'x'}}],'min_count':1}}",
                           &filter, &diag),
                     KITH_OK);
    const struct kith_filter_node *root = &filter.nodes[0];
    assert_int_equal(root->kind, KITH_FILTER_ALL);
    const struct kith_filter_node *del = &filter.nodes[root->first_child];
    assert_int_equal(del->kind, KITH_FILTER_MATCH_ANY);
    assert_true(kith_bytes_equal(del->key, "del"));
    const struct kith_filter_node *category = &filter.nodes[del->next_sibling];
    assert_true(kith_bytes_equal(category->key, "category"));
    assert_int_equal(category->n_values, 3);
    const struct kith_filter_node *should = &filter.nodes[category->next_sibling];
    assert_int_equal(should->kind, KITH_FILTER_ANY);
    const struct kith_filter_node *range = &filter.nodes[should->first_child];
    assert_int_equal(range->kind, KITH_FILTER_RANGE);
    assert_true(range->has_low && !range->low_open && range->has_high && range->high_open);
    const struct kith_filter_node *must_not = &filter.nodes[should->next_sibling];
    assert_int_equal(must_not->kind, KITH_FILTER_NONE);
    assert_int_equal(filter.nodes[must_not->first_child].kind, KITH_FILTER_HAS_ID);
    const struct kith_filter_node *some = &filter.nodes[must_not->next_sibling];
    assert_int_equal(some->kind, KITH_FILTER_AT_LEAST);
    assert_int_equal(some->min_count, 1);
    assert_int_equal(some->next_sibling, KITH_FILTER_NO_NODE);
}

static void test_filter_empty_matches_everything(void **state)
{
    (void)state;
    assert_int_equal(kith_filter_parse(&filter, (struct kith_bytes){0}, "filter", NULL), KITH_OK);
    assert_int_equal(filter.n_nodes, 0);
    assert_int_equal(parse("{'must':[],'should':[],'must_not':null}", &filter, NULL), KITH_OK);
    assert_int_equal(filter.nodes[0].first_child, KITH_FILTER_NO_NODE);
}

static void test_filter_nested_times_and_flags(void **state)
{
    (void)state;
    assert_int_equal(
        parse("{'must':{'nested':{'key':'items[]','filter':{'must':[{'key':'a','match':"
              "{'value':1}}]}}},'must_not':{'must':{'key':'t','range':{'lt':'2026-01-31'}}}}",
              &filter, NULL),
        KITH_OK);
    const struct kith_filter_node *nested = &filter.nodes[filter.nodes[0].first_child];
    assert_int_equal(nested->kind, KITH_FILTER_NESTED);
    assert_true(kith_bytes_equal(nested->key, "items"));
    assert_int_equal(parse("{'must':{'is_null':false,'key':'a.b'}}", &filter, NULL), KITH_OK);
    const struct kith_filter_node *none = &filter.nodes[filter.nodes[0].first_child];
    assert_int_equal(none->kind, KITH_FILTER_NONE);
    assert_true(kith_bytes_equal(filter.nodes[none->first_child].key, "a.b"));
}

static void test_filter_errors_name_the_place(void **state)
{
    (void)state;
    static const struct {
        const char *text, *message;
        enum kith_err err;
    } cases[] = {
        {"[1]", "filter: expected an object", KITH_BAD_REQUEST},
        {"{'mus':[]}", "filter.mus: unknown field", KITH_BAD_REQUEST},
        {"{'must':[{'key':'a','range':{'gte':'x'}}]}",
         "filter.must[0].range.gte: expected a number", KITH_BAD_REQUEST},
        {"{'must':[{'key':'a','range':{'gte':1,'lt':'2026-01-01'}}]}", "not both",
         KITH_BAD_REQUEST},
        {"{'must':[{'key':'a','match':{'text':'x'}}]}", "filter.must[0].match.text: not supported",
         KITH_UNSUPPORTED},
        {"{'must':[{'key':'a','match':{'value':1.5}}]}",
         "filter.must[0].match.value: expected text", KITH_BAD_REQUEST},
        {"{'must':[{'key':'a'}]}", "filter.must[0]: expected one of", KITH_BAD_REQUEST},
        {"{'must':[{'match':{'value':1}}]}", "unknown condition", KITH_BAD_REQUEST},
        {"{'must':[{'key':'a','match':{'any':['x',[1]]}}]}", "match.any[1]", KITH_BAD_REQUEST},
        {"{'should':{'has_id':[-1]}}", "filter.should.has_id[0]: expected", KITH_BAD_REQUEST},
        {"{'must':{'key':'a','geo_radius':{}}}", "geo", KITH_UNSUPPORTED},
        {"{'min_should':{'conditions':[]}}", "min_count is missing", KITH_BAD_REQUEST},
        {"{'must':{'key':'a','match':{'value':1},'range':{'lt':1}}}", "one condition",
         KITH_BAD_REQUEST},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        struct kith_diag diag = {0};
        assert_int_equal(parse(cases[i].text, &filter, &diag), cases[i].err);
        if (strstr(diag.text, cases[i].message) == NULL)
            fail_msg("%s\n said: %s\n not:  %s", cases[i].text, diag.text, cases[i].message);
        assert_int_equal(filter.n_nodes, 0);
    }
}

static void test_filter_limits(void **state)
{
    (void)state;
    char text[16384] = "";
    for (unsigned i = 0; i <= KITH_FILTER_DEPTH_MAX; i++)
        strcat(text, "{'must':");
    strcat(text, "{}");
    for (unsigned i = 0; i <= KITH_FILTER_DEPTH_MAX; i++)
        strcat(text, "}");
    assert_int_equal(parse(text, &filter, NULL), KITH_TOO_BIG);

    strcpy(text, "{'must':[");
    for (unsigned i = 0; i < KITH_FILTER_NODES_MAX; i++)
        strcat(text, "{'has_id':[]},");
    text[strlen(text) - 1] = '\0';
    strcat(text, "]}");
    assert_int_equal(parse(text, &filter, NULL), KITH_TOO_BIG);
}

static void test_filter_random_bytes_are_refused_or_parsed(void **state)
{
    (void)state;
    unsigned seed = (unsigned)time(NULL);
    print_message("seed %u\n", seed);
    struct out good = {0};
    struct kith_writer w = {.write = sink, .sink = &good};
    convert("{'must':[{'key':'a','match':{'any':['x',1]}},{'nested':{'key':'b','filter':{'should':"
            "[{'key':'c','range':{'lt':3}}]}}}],'min_should':{'conditions':[],'min_count':0}}",
            &w);
    for (int round = 0; round < 50000; round++) {
        uint8_t *bytes = malloc(good.len);
        memcpy(bytes, good.data, good.len);
        for (int flips = 0; flips < 1 + round % 3; flips++)
            bytes[(size_t)rand_r(&seed) % good.len] = (uint8_t)rand_r(&seed);
        size_t len = good.len - (round % 2 ? (size_t)rand_r(&seed) % good.len : 0);
        (void)kith_filter_parse(&filter, (struct kith_bytes){bytes, len}, "filter", NULL);
        free(bytes);
    }
}

static void test_time_forms(void **state)
{
    (void)state;
    static const struct {
        const char *text;
        int64_t us; /* -1: refused */
    } cases[] = {
        {"1970-01-01T00:00:00Z", 0},
        {"1970-01-01", 0},
        {"2026-01-31T12:34:56.789Z", 1769862896789000},
        {"2026-01-31 12:34:56.789", 1769862896789000},
        {"2026-01-31T13:34:56.789+01:00", 1769862896789000},
        {"2024-02-29T00:00:00Z", 1709164800000000},
        {"1969-12-31T23:59:59Z", -1000000},
        {"2023-02-29", -1},
        {"2026-13-01", -1},
        {"2026-01-01T25:00:00Z", -1},
        {"2026-01-01T", -1},
        {"2026-01-01X00:00:00Z", -1},
        {"not a date", -1},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        int64_t us = -1;
        struct kith_bytes text = {(const uint8_t *)cases[i].text, strlen(cases[i].text)};
        assert_int_equal(kith_parse_time(text, &us), cases[i].us != -1);
        assert_true(us == cases[i].us);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_filter_builds_the_tree),
        cmocka_unit_test(test_filter_empty_matches_everything),
        cmocka_unit_test(test_filter_nested_times_and_flags),
        cmocka_unit_test(test_filter_errors_name_the_place),
        cmocka_unit_test(test_filter_limits),
        cmocka_unit_test(test_filter_random_bytes_are_refused_or_parsed),
        cmocka_unit_test(test_time_forms),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
