#include "common/kith_json.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include "common/kith_clock.h"
#include "common/kith_mem.h"
#include "common/kith_testing.h"
#include "proto/kith_limits.h"

/* A padded copy, exactly as long as promised, so that AddressSanitizer sees any reading beyond. */
static char *padded(const char *text, size_t len)
{
    char *copy = kith_xalloc(len + KITH_JSON_PADDING);
    memcpy(copy, text, len);
    return copy;
}

static struct kith_json_doc *must_open(const char *text)
{
    static char *last;
    kith_free(last);
    last = padded(text, strlen(text));
    struct kith_json_doc *doc = NULL;
    struct kith_diag diag = {0};
    enum kith_err err = kith_json_open(&doc, last, strlen(text), &diag);
    if (err != KITH_OK)
        print_message("%s: %s\n", text, diag.text);
    assert_int_equal(err, KITH_OK);
    return doc;
}

static void refuse(const char *text, size_t len, const char *expect)
{
    char *copy = padded(text, len);
    struct kith_json_doc *doc = NULL;
    struct kith_diag diag = {0};
    enum kith_err err = kith_json_open(&doc, copy, len, &diag);
    if (err != KITH_BAD_REQUEST || strstr(diag.text, expect) == NULL)
        print_message("%.*s: %d %s (expected: %s)\n", (int)(len < 80 ? len : 80), text, err,
                      diag.text, expect);
    assert_int_equal(err, KITH_BAD_REQUEST);
    assert_null(doc);
    assert_non_null(strstr(diag.text, expect));
    kith_free(copy);
}

static void test_json_refuses_and_says_where(void **state)
{
    (void)state;
    static const struct {
        const char *text, *expect;
    } cases[] = {
        {"", "empty"},
        {"  \n", "empty"},
        {"{\"a\":1", "ends too early"},
        {"{\"a\":1,}", "expected a key in double quotes near byte 7"},
        {"[1,2,]", "expected a value near byte 5"},
        {"[1 2]", "expected ',' or ']' near byte 3"},
        {"{\"a\" 1}", "expected ':' after a key near byte 5"},
        {"{'a':1}", "expected a key in double quotes near byte 1"},
        {"[1]x", "follows the end of the document near byte 3"},
        {"{} {}", "follows the end"},
        {"[01]", "leading zero"},
        {"[1.]", "a number is malformed"},
        {"[.5]", "expected a value near byte 1"},
        {"[+1]", "expected a value near byte 1"},
        {"[NaN]", "expected a value near byte 1"},
        {"[nul]", "expected true, false or null"},
        {"[1e400]", "out of range"},
        {"[18446744073709551616]", "out of range"},
        {"[\"\\x\"]", "unknown escape"},
        {"[\"\\ud800\"]", "surrogate"},
        {"[\"a\nb\"]", "control character"},
        {"[\"\xff\"]", "UTF-8 near byte 2"},
        {"[\"\xc0\xaf\"]", "UTF-8 near byte 2"},
        {"[\"\xed\xa0\x80\"]", "UTF-8 near byte 2"},
        {"{\"a\":1,\"b\":2,\"a\":3}", "\"a\" appears twice"},
        {"[{\"x\":{\"k\":1,\"k\":1}}]", "\"k\" appears twice"},
        {"{\"a\":1,\"\\u0061\":2}", "\"a\" appears twice"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++)
        refuse(cases[i].text, strlen(cases[i].text), cases[i].expect);
    refuse("[1]\0", 4, "follows the end");
}

static void test_json_depth_is_bounded(void **state)
{
    (void)state;
    char text[200];
    size_t depth = KITH_JSON_DEPTH_MAX;
    memset(text, '[', depth);
    memset(text + depth, ']', depth);
    text[2 * depth] = '\0';
    kith_json_close(must_open(text));
    depth++;
    memset(text, '[', depth);
    memset(text + depth, ']', depth);
    refuse(text, 2 * depth, "nested");
    memset(text, '[', sizeof text);
    refuse(text, sizeof text, "nested");
}

static void test_json_large_objects_are_checked_in_time(void **state)
{
    (void)state;
    struct kith_buf text = {0};
    kith_buf_text(&text, "{");
    for (unsigned i = 0; i < 100000; i++)
        kith_buf_printf(&text, "%s\"k%05u\":%u", i > 0 ? "," : "", i, i);
    size_t open = text.len;
    kith_buf_text(&text, "}");
    memset(kith_buf_reserve(&text, KITH_JSON_PADDING), 0, KITH_JSON_PADDING);
    struct kith_json_doc *doc = NULL;
    uint64_t start = kith_now_ms();
    assert_int_equal(kith_json_open(&doc, (char *)text.data, text.len, NULL), KITH_OK);
    uint64_t took_ms = kith_now_ms() - start;
    print_message("100000 keys, %zu bytes: %u ms\n", text.len, (unsigned)took_ms);
    assert_true(took_ms < 5000); /* quadratic work would take minutes, even under a sanitizer */
    assert_int_equal(kith_json_count(kith_json_root(doc)), 100000);
    kith_json_close(doc);
    text.len = open;
    kith_buf_text(&text, ",\"k77777\":0}");
    memset(kith_buf_reserve(&text, KITH_JSON_PADDING), 0, KITH_JSON_PADDING);
    struct kith_diag diag = {0};
    assert_int_equal(kith_json_open(&doc, (char *)text.data, text.len, &diag), KITH_BAD_REQUEST);
    assert_non_null(strstr(diag.text, "\"k77777\" appears twice"));
    kith_buf_fini(&text);
}

static void test_json_reads_values_exactly(void **state)
{
    (void)state;
    struct kith_json_doc *doc =
        must_open("{\"u\":18446744073709551615,\"i\":-9223372036854775808,\"p\":9007199254740993,"
                  "\"f\":0.1,\"t\":true,\"n\":null,\"s\":\"a\\u0000\\u00e9\",\"a\":[1,[2],{}]}");
    struct kith_json root = kith_json_root(doc), v;
    uint64_t u = 0;
    int64_t i;
    double f;
    bool b;
    const char *s;
    size_t len = 0;
    assert_true(kith_json_get(root, "u", &v) && kith_json_u64(v, &u));
    assert_true(u == UINT64_MAX && !kith_json_i64(v, &i));
    assert_true(kith_json_get(root, "i", &v) && kith_json_i64(v, &i));
    assert_true(i == INT64_MIN && !kith_json_u64(v, &u));
    assert_true(kith_json_get(root, "p", &v) && kith_json_u64(v, &u) && u == 9007199254740993u);
    assert_true(kith_json_get(root, "f", &v) && kith_json_f64(v, &f) && f == 0.1);
    assert_true(kith_json_get(root, "t", &v) && kith_json_bool(v, &b) && b);
    assert_true(kith_json_get(root, "n", &v) && !kith_json_opt(root, "n", &v));
    assert_false(kith_json_get(root, "x", &v));
    assert_true(kith_json_get(root, "s", &v) && kith_json_str(v, &s, &len));
    assert_int_equal(len, 4);
    assert_memory_equal(s, "a\0\xc3\xa9", 5);
    assert_true(kith_json_get(root, "a", &v));
    assert_int_equal(kith_json_count(v), 3);
    struct kith_json_iter iter = kith_json_iterate(v);
    enum kith_json_type types[] = {KITH_JSON_INT, KITH_JSON_ARRAY, KITH_JSON_OBJECT};
    for (int n = 0; n < 3; n++) {
        assert_true(kith_json_next(&iter, &v));
        assert_int_equal(kith_json_type(v), types[n]);
    }
    assert_false(kith_json_next(&iter, &v));
    kith_json_close(doc);
}

static void test_json_f32s_names_the_bad_element(void **state)
{
    (void)state;
    static const struct {
        const char *text, *expect;
    } cases[] = {
        {"[1,2]", "v: expected 3 numbers, found 2"},
        {"[1,2,3,4]", "v: expected 3 numbers, found 4"},
        {"[1,\"x\",3]", "v[1]: expected a number, found a string"},
        {"[1,2,[3]]", "v[2]: expected a number, found an array"},
        {"[1,null,3]", "v[1]: expected a number, found null"},
        {"[1,2,1e39]", "v[2]: 1e+39 does not fit a 32-bit float"},
        {"7", "v: expected an array of 3 numbers, found an integer"},
    };
    float out[3];
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct kith_json_doc *doc = must_open(cases[i].text);
        struct kith_diag diag = {0};
        assert_int_equal(kith_json_f32s(kith_json_root(doc), out, 3, "v", &diag), KITH_BAD_REQUEST);
        assert_string_equal(diag.text, cases[i].expect);
        kith_json_close(doc);
    }
    struct kith_json_doc *doc = must_open("[1,-2.5,18446744073709551615]");
    assert_int_equal(kith_json_f32s(kith_json_root(doc), out, 3, "v", NULL), KITH_OK);
    assert_true(out[0] == 1 && out[1] == -2.5f && out[2] == 18446744073709551615.0f);
    kith_json_close(doc);
}

static void test_json_writes_nested_and_escaped(void **state)
{
    (void)state;
    struct kith_buf buf = {0};
    struct kith_json_writer w = {.buf = &buf};
    kith_jw_begin_object(&w);
    kith_jw_key(&w, "a\"b");
    kith_jw_begin_array(&w);
    kith_jw_u64(&w, UINT64_MAX);
    kith_jw_i64(&w, INT64_MIN);
    kith_jw_i64(&w, 0);
    kith_jw_begin_object(&w);
    kith_jw_end_object(&w);
    kith_jw_begin_array(&w);
    kith_jw_end_array(&w);
    kith_jw_null(&w);
    kith_jw_bool(&w, false);
    kith_jw_end_array(&w);
    kith_jw_key(&w, "s");
    kith_jw_str(&w, "\x01\n\\/\x7f\xe5\xbc\x80\xff\xe5!", 12);
    kith_jw_key(&w, "f");
    kith_jw_f64(&w, 3);
    kith_jw_key(&w, "g");
    kith_jw_f32(&w, 0.1f);
    kith_jw_key(&w, "h");
    kith_jw_f64(&w, INFINITY);
    kith_jw_end_object(&w);
    kith_buf_byte(&buf, 0);
    assert_false(buf.failed);
    assert_string_equal(
        (char *)buf.data,
        "{\"a\\\"b\":[18446744073709551615,-9223372036854775808,0,{},[],null,"
        "false],\"s\":\"\\u0001\\n\\\\/\x7f\xe5\xbc\x80\xef\xbf\xbd\xef\xbf\xbd!\\u0000"
        "\",\"f\":3.0,\"g\":0.1,\"h\":null}");
    kith_buf_fini(&buf);
}

/* What is written is read back the same, by Kith's parser and by a reader of doubles alike. */
static void test_json_floats_round_trip(void **state)
{
    (void)state;
    struct kith_buf buf = {0};
    for (int round = 0; round < 200; round++) {
        float in[500], out[500];
        for (int i = 0; i < 500; i++) {
            uint32_t bits = (uint32_t)kith_random(&random_state);
            memcpy(&in[i], &bits, 4);
            if (!isfinite(in[i]))
                in[i] = i % 2 == 0 ? -0.0f : 16777216.0f;
        }
        struct kith_json_writer w = {.buf = &buf};
        kith_buf_reset(&buf);
        kith_jw_begin_array(&w);
        for (int i = 0; i < 500; i++)
            kith_jw_f32(&w, in[i]);
        kith_jw_end_array(&w);
        memset(kith_buf_reserve(&buf, KITH_JSON_PADDING), 0, KITH_JSON_PADDING);
        struct kith_json_doc *doc = NULL;
        assert_int_equal(kith_json_open(&doc, (char *)buf.data, buf.len, NULL), KITH_OK);
        assert_int_equal(kith_json_f32s(kith_json_root(doc), out, 500, "v", NULL), KITH_OK);
        assert_memory_equal(in, out, sizeof in);
        kith_json_close(doc);

        double value = 0;
        uint64_t bits = kith_random(&random_state);
        memcpy(&value, &bits, 8);
        if (!isfinite(value))
            continue;
        kith_buf_reset(&buf);
        w = (struct kith_json_writer){.buf = &buf};
        kith_jw_f64(&w, value);
        kith_buf_byte(&buf, 0);
        double again = strtod((char *)buf.data, NULL);
        assert_memory_equal(&again, &value, 8);
    }
    kith_buf_fini(&buf);
}

static void write_random(struct kith_json_writer *w, unsigned depth)
{
    char text[24];
    size_t len = kith_random(&random_state) % sizeof text;
    for (size_t i = 0; i < len; i++)
        text[i] = (char)(kith_random(&random_state) % 128);
    unsigned n = (unsigned)(kith_random(&random_state) % 5);
    uint64_t bits = kith_random(&random_state);
    double number;
    memcpy(&number, &bits, 8);
    switch (kith_random(&random_state) % (depth < 10 ? 9 : 6)) {
    case 0:
        kith_jw_null(w);
        break;
    case 1:
        kith_jw_bool(w, bits % 2 != 0);
        break;
    case 2:
        kith_jw_u64(w, bits >> (bits % 64));
        break;
    case 3:
        kith_jw_i64(w, -(int64_t)(bits >> (1 + bits % 63)));
        break;
    case 4:
        kith_jw_f64(w, number);
        break;
    case 5:
        kith_jw_str(w, text, len);
        break;
    case 6:
        kith_jw_begin_array(w);
        for (unsigned i = 0; i < n; i++)
            write_random(w, depth + 1);
        kith_jw_end_array(w);
        break;
    default:
        kith_jw_begin_object(w);
        for (unsigned i = 0; i < n; i++) {
            int key = snprintf(text, sizeof text, "k%u\"%u", i, (unsigned)(bits % 100));
            kith_jw_key_n(w, text, (size_t)key);
            write_random(w, depth + 1);
        }
        kith_jw_end_object(w);
    }
}

static void test_json_and_msgpack_are_the_same(void **state)
{
    (void)state;
    struct kith_buf text = {0}, packed = {0}, again = {0};
    for (int round = 0; round < 3000; round++) {
        kith_buf_reset(&text);
        kith_buf_reset(&packed);
        kith_buf_reset(&again);
        struct kith_json_writer w = {.buf = &text};
        write_random(&w, 0);
        memset(kith_buf_reserve(&text, KITH_JSON_PADDING), 0, KITH_JSON_PADDING);
        struct kith_json_doc *doc = NULL;
        assert_int_equal(kith_json_open(&doc, (char *)text.data, text.len, NULL), KITH_OK);
        struct kith_writer out = {.write = kith_buf_sink, .sink = &packed};
        kith_json_to_msgpack(kith_json_root(doc), &out);
        assert_false(out.failed);
        kith_json_close(doc);
        w = (struct kith_json_writer){.buf = &again};
        struct kith_bytes bytes = {.data = packed.data, .len = packed.len};
        assert_true(kith_jw_msgpack(&w, bytes));
        assert_int_equal(again.len, text.len);
        assert_memory_equal(again.data, text.data, text.len);
        /* Cut anywhere it is malformed, and the buffer is as it was. */
        bytes.len = kith_random(&random_state) % packed.len;
        assert_false(kith_jw_msgpack(&w, bytes));
        assert_int_equal(again.len, text.len);
    }
    kith_buf_fini(&text);
    kith_buf_fini(&packed);
    kith_buf_fini(&again);
}

static void test_json_writes_ids(void **state)
{
    (void)state;
    struct kith_buf buf = {0};
    struct kith_json_writer w = {.buf = &buf};
    struct kith_id number = kith_id_number(UINT64_MAX), uuid;
    const char *text = "f47ac10b-58cc-4372-a567-0e02b2c3d479";
    assert_true(kith_id_parse_uuid(text, strlen(text), &uuid));
    kith_jw_begin_array(&w);
    kith_jw_id(&w, &number);
    kith_jw_id(&w, &uuid);
    kith_jw_end_array(&w);
    kith_buf_byte(&buf, 0);
    assert_string_equal((char *)buf.data,
                        "[18446744073709551615,\"f47ac10b-58cc-4372-a567-0e02b2c3d479\"]");
    kith_buf_fini(&buf);
}

static void test_json_768_floats_cost_microseconds(void **state)
{
    (void)state;
    random_state = 1;
    struct kith_buf buf = {0};
    struct kith_json_writer w = {.buf = &buf};
    float v[768];
    kith_jw_begin_array(&w);
    for (int i = 0; i < 768; i++) {
        v[i] = (float)((double)(kith_random(&random_state) >> 11) / 9007199254740992.0 - 0.5);
        kith_jw_f32(&w, v[i]);
    }
    kith_jw_end_array(&w);
    memset(kith_buf_reserve(&buf, KITH_JSON_PADDING), 0, KITH_JSON_PADDING);
    uint64_t parse_ns = UINT64_MAX, write_ns = UINT64_MAX; /* the best of many: others share it */
    struct kith_buf again = {0};
    for (int round = 0; round < 300; round++) {
        float out[768];
        struct kith_json_doc *doc = NULL;
        uint64_t start = kith_now_ns();
        assert_int_equal(kith_json_open(&doc, (char *)buf.data, buf.len, NULL), KITH_OK);
        assert_int_equal(kith_json_f32s(kith_json_root(doc), out, 768, "v", NULL), KITH_OK);
        kith_json_close(doc);
        uint64_t parsed = kith_now_ns();
        kith_buf_reset(&again);
        w = (struct kith_json_writer){.buf = &again};
        kith_jw_begin_array(&w);
        for (int i = 0; i < 768; i++)
            kith_jw_f32(&w, out[i]);
        kith_jw_end_array(&w);
        uint64_t wrote = kith_now_ns();
        parse_ns = parsed - start < parse_ns ? parsed - start : parse_ns;
        write_ns = wrote - parsed < write_ns ? wrote - parsed : write_ns;
        assert_memory_equal(out, v, sizeof v);
    }
    print_message("768 floats, %zu bytes: parse %.1f us, write %.1f us\n", buf.len,
                  (double)parse_ns / 1000, (double)write_ns / 1000);
    kith_buf_fini(&again);
    kith_buf_fini(&buf);
}

static void test_json_open_survives_each_oom(void **state)
{
    (void)state;
    struct kith_buf text = {0};
    kith_buf_text(&text, "{\"a\":0");
    for (unsigned i = 0; i < 60000; i++) /* more than is kept for the next document */
        kith_buf_printf(&text, ",\"k%u\":%u", i, i);
    kith_buf_text(&text, "}");
    memset(kith_buf_reserve(&text, KITH_JSON_PADDING), 0, KITH_JSON_PADDING);
    long live = kith_mem_live();
    for (long n = 0;; n++) {
        struct kith_json_doc *doc = NULL;
        kith_mem_fail_after(n);
        enum kith_err err = kith_json_open(&doc, (char *)text.data, text.len, NULL);
        kith_mem_fail_after(-1);
        if (err == KITH_OK) {
            kith_json_close(doc);
            break;
        }
        assert_int_equal(err, KITH_NOMEM);
        assert_true(kith_mem_live() <= live);
    }
    kith_buf_fini(&text);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_json_refuses_and_says_where),
        cmocka_unit_test(test_json_depth_is_bounded),
        cmocka_unit_test(test_json_large_objects_are_checked_in_time),
        cmocka_unit_test(test_json_reads_values_exactly),
        cmocka_unit_test(test_json_f32s_names_the_bad_element),
        cmocka_unit_test(test_json_writes_nested_and_escaped),
        cmocka_unit_test(test_json_floats_round_trip),
        cmocka_unit_test(test_json_and_msgpack_are_the_same),
        cmocka_unit_test(test_json_writes_ids),
        cmocka_unit_test(test_json_768_floats_cost_microseconds),
        cmocka_unit_test(test_json_open_survives_each_oom),
    };
    return cmocka_run_group_tests(tests, random_set_up, NULL);
}
