#include "shard/storage/payload_edit.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <cmocka.h>

#include "common/kith_mem.h"
#include "proto/kith_limits.h"

/* A toy notation to keep the tests readable: "{a:1,b:{c:2}}"; keys are letters, values digits. */
static const char *parse(const char *text, struct kith_writer *w)
{
    if (*text != '{') {
        kith_write_u64(w, (uint64_t)(*text - '0'));
        return text + 1;
    }
    uint32_t n = 0, depth = 0;
    for (const char *p = text; *p != '\0'; p++) {
        depth += *p == '{';
        n += depth == 1 && *p == ':';
        depth -= *p == '}';
        if (depth == 0)
            break;
    }
    kith_write_map(w, n);
    text++;
    while (*text != '}') {
        kith_write_str(w, text, 1);
        text = parse(text + 2, w);
        text += *text == ',';
    }
    return text + 1;
}

static void make(const char *text, struct kith_buf *out)
{
    struct kith_writer w = {.write = kith_buf_sink, .sink = out};
    kith_buf_reset(out);
    if (text[0] != '\0')
        (void)parse(text, &w);
}

static struct kith_bytes bytes_of(const struct kith_buf *buf)
{
    return (struct kith_bytes){buf->data, buf->len};
}

static struct kith_bytes path_of(const char *path)
{
    return (struct kith_bytes){(const uint8_t *)path, strlen(path)};
}

static void test_payload_edit_merge(void **state)
{
    (void)state;
    static const char *const cases[][4] = {
        /* base, patch, path, expected */
        {"", "{a:1}", "", "{a:1}"},
        {"{a:1,b:2}", "{b:3,c:4}", "", "{a:1,b:3,c:4}"},
        {"{a:1}", "{x:2}", "n", "{a:1,n:{x:2}}"},
        {"{n:{x:1,y:2},a:1}", "{x:3}", "n", "{n:{y:2,x:3},a:1}"},
        {"{n:{m:{x:1}}}", "{y:2}", "n.m", "{n:{m:{x:1,y:2}}}"},
        {"{n:5}", "{y:2}", "n.m", "{n:{m:{y:2}}}"},
        {"", "{y:2}", "n.m", "{n:{m:{y:2}}}"},
        {"{a:1}", "", "", "{a:1}"},
    };
    struct kith_buf base = {0}, patch = {0}, expected = {0}, out = {0};
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        make(cases[i][0], &base);
        make(cases[i][1], &patch);
        make(cases[i][3], &expected);
        kith_buf_reset(&out);
        assert_int_equal(
            payload_edit_merge(bytes_of(&base), bytes_of(&patch), path_of(cases[i][2]), &out, NULL),
            KITH_OK);
        if (out.len != expected.len || memcmp(out.data, expected.data, out.len) != 0)
            fail_msg("case %zu", i);
    }
    kith_buf_fini(&base);
    kith_buf_fini(&patch);
    kith_buf_fini(&expected);
    kith_buf_fini(&out);
}

static void test_payload_edit_remove(void **state)
{
    (void)state;
    static const char *const cases[][3] = {
        /* base, path, expected ("" = unchanged) */
        {"{a:1,b:2}", "a", "{b:2}"},
        {"{a:1,b:2}", "c", ""},
        {"{n:{x:1,y:2},a:1}", "n.x", "{n:{y:2},a:1}"},
        {"{n:{x:1}}", "n.y", ""},
        {"{n:{x:1}}", "n", "{}"},
        {"{n:3}", "n.x", ""},
    };
    struct kith_buf base = {0}, expected = {0}, out = {0};
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        bool same = cases[i][2][0] == '\0', changed = false;
        make(cases[i][0], &base);
        make(same ? cases[i][0] : cases[i][2], &expected);
        kith_buf_reset(&out);
        assert_int_equal(
            payload_edit_remove(bytes_of(&base), path_of(cases[i][1]), &out, &changed, NULL),
            KITH_OK);
        assert_int_equal(changed, !same);
        if (out.len != expected.len || memcmp(out.data, expected.data, out.len) != 0)
            fail_msg("case %zu", i);
    }
    kith_buf_fini(&base);
    kith_buf_fini(&expected);
    kith_buf_fini(&out);
}

static void test_payload_edit_checks(void **state)
{
    (void)state;
    struct kith_buf buf = {0};
    struct kith_writer w = {.write = kith_buf_sink, .sink = &buf};
    for (uint32_t i = 0; i <= KITH_PAYLOAD_DEPTH_MAX; i++) {
        kith_write_map(&w, 1);
        kith_write_cstr(&w, "d");
    }
    kith_write_nil(&w);
    assert_int_equal(payload_edit_check(bytes_of(&buf), NULL), KITH_TOO_BIG);
    kith_buf_reset(&buf);
    kith_write_array(&w, 0);
    assert_int_equal(payload_edit_check(bytes_of(&buf), NULL), KITH_BAD_REQUEST);
    kith_buf_reset(&buf);
    kith_write_map(&w, 1);
    kith_write_u64(&w, 1); /* a key that is no text */
    kith_write_u64(&w, 1);
    assert_int_equal(payload_edit_check(bytes_of(&buf), NULL), KITH_BAD_REQUEST);
    kith_buf_reset(&buf);
    kith_write_map(&w, 3); /* cut short */
    assert_int_equal(payload_edit_check(bytes_of(&buf), NULL), KITH_BAD_REQUEST);
    kith_buf_fini(&buf);
    assert_int_equal(payload_edit_check_path(path_of("a..b"), NULL), KITH_BAD_REQUEST);
    assert_int_equal(payload_edit_check_path(path_of("a."), NULL), KITH_BAD_REQUEST);
    assert_int_equal(payload_edit_check_path(path_of("a.b"), NULL), KITH_OK);
}

static void test_payload_edit_caps_the_result(void **state)
{
    (void)state;
    struct kith_buf base = {0}, patch = {0}, out = {0};
    char *text = kith_xalloc(KITH_PAYLOAD_MAX);
    memset(text, 'x', KITH_PAYLOAD_MAX);
    struct kith_writer b = {.write = kith_buf_sink, .sink = &base};
    struct kith_writer p = {.write = kith_buf_sink, .sink = &patch};
    kith_write_map(&b, 1);
    kith_write_cstr(&b, "a");
    kith_write_str(&b, text, KITH_PAYLOAD_MAX / 2);
    kith_write_map(&p, 1);
    kith_write_cstr(&p, "b");
    kith_write_str(&p, text, KITH_PAYLOAD_MAX / 2);
    assert_int_equal(payload_edit_merge(bytes_of(&base), bytes_of(&patch), path_of(""), &out, NULL),
                     KITH_TOO_BIG);
    kith_free(text);
    kith_buf_fini(&base);
    kith_buf_fini(&patch);
    kith_buf_fini(&out);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_payload_edit_merge),
        cmocka_unit_test(test_payload_edit_remove),
        cmocka_unit_test(test_payload_edit_checks),
        cmocka_unit_test(test_payload_edit_caps_the_result),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
