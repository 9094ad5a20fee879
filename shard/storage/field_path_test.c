#include "shard/storage/field_path.h"

#include <setjmp.h>
#include <stdarg.h>
#include <string.h>
#include <cmocka.h>

static struct kith_bytes text_of(const char *text)
{
    return (struct kith_bytes){(const uint8_t *)text, strlen(text)};
}

static void is_normal(const char *prefix, const char *path, const char *want)
{
    struct field_path_text out;
    assert_int_equal(field_path_normal(text_of(prefix), text_of(path), &out), FIELD_PATH_PLAIN);
    assert_int_equal(out.len, strlen(want));
    assert_memory_equal(out.text, want, out.len);
}

static void is_form(const char *prefix, const char *path, enum field_path_form want)
{
    struct field_path_text out;
    assert_int_equal(field_path_normal(text_of(prefix), text_of(path), &out), want);
}

static void test_field_path_has_one_spelling(void **state)
{
    (void)state;
    is_normal("", "a", "a");
    is_normal("", "a.b[].c", "a.b[].c");
    is_normal("", "\"a\".b", "a.b");
    is_normal("", "\"a.b\".c", "\"a.b\".c");
    is_normal("", "\"\"", "\"\"");
    is_normal("a.b", "c", "a.b[].c");
    is_form("", "a[2].b", FIELD_PATH_ODD);
    is_form("", "a[][].b", FIELD_PATH_ODD);
    is_form("", "a[]", FIELD_PATH_ODD);
    is_form("a[1]", "b", FIELD_PATH_ODD);
    static const char *const invalid[] = {
        "",     ".a",  "a.",   "a..b", "a]",   "[0]",           "a[",
        "a[x]", "\"a", "a\"b", "a[]b", "a.[]", "a[99999999999]"};
    for (size_t i = 0; i < sizeof invalid / sizeof *invalid; i++)
        is_form("", invalid[i], FIELD_PATH_INVALID);
    is_form("a..b", "c", FIELD_PATH_INVALID);
}

static bool count_values(void *ctx, struct kith_bytes value)
{
    (void)value;
    ++*(int *)ctx;
    return false;
}

static int values_at(const struct kith_buf *payload, const char *path)
{
    int n = 0;
    (void)field_path_visit((struct kith_bytes){payload->data, payload->len}, text_of(path),
                           count_values, &n);
    return n;
}

static void test_field_path_leads_to_values(void **state)
{
    (void)state;
    struct kith_buf buf = {0};
    struct kith_writer w = {.write = kith_buf_sink, .sink = &buf};
    kith_write_map(&w, 2); /* {a: [{b: 1}, {b: 2, c: 3}, 4], "x.y": {z: null}} */
    kith_write_cstr(&w, "a");
    kith_write_array(&w, 3);
    kith_write_map(&w, 1);
    kith_write_cstr(&w, "b");
    kith_write_u64(&w, 1);
    kith_write_map(&w, 2);
    kith_write_cstr(&w, "b");
    kith_write_u64(&w, 2);
    kith_write_cstr(&w, "c");
    kith_write_u64(&w, 3);
    kith_write_u64(&w, 4);
    kith_write_cstr(&w, "x.y");
    kith_write_map(&w, 1);
    kith_write_cstr(&w, "z");
    kith_write_nil(&w);
    assert_int_equal(values_at(&buf, "a"), 1);
    assert_int_equal(values_at(&buf, "a[]"), 3);
    assert_int_equal(values_at(&buf, "a[].b"), 2);
    assert_int_equal(values_at(&buf, "a[1].c"), 1);
    assert_int_equal(values_at(&buf, "a[0].c"), 0);
    assert_int_equal(values_at(&buf, "a.b"), 0);
    assert_int_equal(values_at(&buf, "x.y"), 0);
    assert_int_equal(values_at(&buf, "\"x.y\".z"), 1);
    assert_int_equal(values_at(&buf, "a]"), 0);
    buf.len -= 3; /* cut: what is whole is still found */
    assert_int_equal(values_at(&buf, "a[].b"), 2);
    assert_int_equal(values_at(&buf, "\"x.y\".z"), 0);
    kith_buf_fini(&buf);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_field_path_has_one_spelling),
        cmocka_unit_test(test_field_path_leads_to_values),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
