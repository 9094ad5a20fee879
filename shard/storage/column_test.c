#include "shard/storage/column.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include "common/kith_mem.h"
#include "common/kith_testing.h"
#include "proto/kith_filter.h"

static struct kith_bytes text_of(const char *text)
{
    return (struct kith_bytes){(const uint8_t *)text, strlen(text)};
}

static struct kith_writer writer(struct kith_buf *buf)
{
    return (struct kith_writer){.write = kith_buf_sink, .sink = buf};
}

static struct kith_bytes whole(const struct kith_buf *buf)
{
    return (struct kith_bytes){buf->data, buf->len};
}

/* The section in 32-byte aligned memory, as a segment maps it; trailing bytes as a segment pads. */
static uint8_t *aligned(const struct kith_buf *buf, size_t *len)
{
    *len = buf->len + 100;
    uint8_t *copy = kith_alloc_aligned(32, *len);
    assert_non_null(copy);
    memset(copy, 0, *len);
    memcpy(copy, buf->data, buf->len);
    return copy;
}

static void check_rows(const struct bitmap *set, size_t n, const uint32_t *rows)
{
    uint32_t got[64];
    assert_int_equal(bitmap_read(set, 0, got, 64), n);
    if (n > 0)
        assert_memory_equal(got, rows, n * sizeof *rows);
}

#define ROWS_ARE(set_, ...)                                                                        \
    check_rows(set_, sizeof((const uint32_t[]){__VA_ARGS__}) / 4, (const uint32_t[]){__VA_ARGS__})

static const struct column *find(const struct columns *columns, const char *path)
{
    const struct column *column = NULL;
    assert_int_equal(columns_find(columns, text_of(path), &column), COLUMN_FOUND);
    return column;
}

/* 0: {a: "x", n: 5, t: "2026-01-31"}   1: {a: ["y", null, "x"], n: 5.5, o: {k: true}}   2: empty
 * 3: {a: null, n: [], o: {k: [false, true]}, l: [{p: 1}, {p: 2, "q.r": -1}, 7, [8]]}
 * 4: {a: [null], n: 18446744073709551615, e: {}} */
static void add_examples(struct column_builder *builder)
{
    struct kith_buf buf = {0};
    struct kith_writer w = writer(&buf);
    kith_write_map(&w, 3);
    kith_write_cstr(&w, "a");
    kith_write_cstr(&w, "x");
    kith_write_cstr(&w, "n");
    kith_write_i64(&w, 5);
    kith_write_cstr(&w, "t");
    kith_write_cstr(&w, "2026-01-31");
    assert_int_equal(column_builder_add(builder, 0, whole(&buf), NULL), KITH_OK);
    kith_buf_reset(&buf);
    kith_write_map(&w, 3);
    kith_write_cstr(&w, "a");
    kith_write_array(&w, 3);
    kith_write_cstr(&w, "y");
    kith_write_nil(&w);
    kith_write_cstr(&w, "x");
    kith_write_cstr(&w, "n");
    kith_write_f64(&w, 5.5);
    kith_write_cstr(&w, "o");
    kith_write_map(&w, 1);
    kith_write_cstr(&w, "k");
    kith_write_bool(&w, true);
    assert_int_equal(column_builder_add(builder, 1, whole(&buf), NULL), KITH_OK);
    assert_int_equal(column_builder_add(builder, 2, (struct kith_bytes){0}, NULL), KITH_OK);
    kith_buf_reset(&buf);
    kith_write_map(&w, 4);
    kith_write_cstr(&w, "a");
    kith_write_nil(&w);
    kith_write_cstr(&w, "n");
    kith_write_array(&w, 0);
    kith_write_cstr(&w, "o");
    kith_write_map(&w, 1);
    kith_write_cstr(&w, "k");
    kith_write_array(&w, 2);
    kith_write_bool(&w, false);
    kith_write_bool(&w, true);
    kith_write_cstr(&w, "l");
    kith_write_array(&w, 4);
    kith_write_map(&w, 1);
    kith_write_cstr(&w, "p");
    kith_write_i64(&w, 1);
    kith_write_map(&w, 2);
    kith_write_cstr(&w, "p");
    kith_write_i64(&w, 2);
    kith_write_cstr(&w, "q.r");
    kith_write_i64(&w, -1);
    kith_write_i64(&w, 7);
    kith_write_array(&w, 1);
    kith_write_i64(&w, 8);
    assert_int_equal(column_builder_add(builder, 3, whole(&buf), NULL), KITH_OK);
    kith_buf_reset(&buf);
    kith_write_map(&w, 3);
    kith_write_cstr(&w, "a");
    kith_write_array(&w, 1);
    kith_write_nil(&w);
    kith_write_cstr(&w, "n");
    kith_write_u64(&w, UINT64_MAX);
    kith_write_cstr(&w, "e");
    kith_write_map(&w, 0);
    assert_int_equal(column_builder_add(builder, 4, whole(&buf), NULL), KITH_OK);
    kith_buf_fini(&buf);
}

static struct bitmap *set_of(const struct column *column, enum column_set which)
{
    struct bitmap *set = bitmap_new();
    assert_true(column_add(column, which, set));
    assert_int_equal(bitmap_count(set), column_count(column, which));
    return set;
}

static void check_set(const struct column *column, enum column_set which, size_t n,
                      const uint32_t *rows)
{
    struct bitmap *set = set_of(column, which);
    check_rows(set, n, rows);
    bitmap_free(set);
}

#define SET_IS(column_, which_, ...)                                                               \
    check_set(column_, which_, sizeof((const uint32_t[]){__VA_ARGS__}) / 4,                        \
              (const uint32_t[]){__VA_ARGS__})

static void check_examples(const struct columns *columns)
{
    const struct column *a = find(columns, "a");
    SET_IS(a, COLUMN_EXISTS, 0, 1, 3, 4);
    SET_IS(a, COLUMN_PRESENT, 0, 1, 4);
    SET_IS(a, COLUMN_VALUED, 0, 1);
    SET_IS(a, COLUMN_MULTI, 1);
    SET_IS(a, COLUMN_NULL, 1, 3, 4);
    assert_int_equal(column_terms(a), 2);
    struct bitmap *set = bitmap_new();
    assert_true(column_match_keyword(a, text_of("x"), set));
    ROWS_ARE(set, 0, 1);
    bitmap_free(set);
    set = bitmap_new();
    assert_true(column_match_keyword(a, text_of("xx"), set));
    assert_true(bitmap_empty(set));
    bitmap_free(set);

    const struct column *n = find(columns, "n");
    SET_IS(n, COLUMN_EXISTS, 0, 1, 3, 4);
    SET_IS(n, COLUMN_PRESENT, 0, 1, 4);
    set = bitmap_new();
    assert_true(column_match_i64(n, 5, set));
    ROWS_ARE(set, 0);
    struct column_range range = {.has_low = true, .low = 5, .low_open = true};
    assert_true(column_match_range(n, &range, set));
    ROWS_ARE(set, 0, 1, 4);
    bitmap_free(set);
    assert_int_equal(column_integers(n), 1);
    assert_int_equal(column_floats(n), 2);

    const struct column *t = find(columns, "t");
    int64_t us, want;
    uint32_t row;
    assert_int_equal(column_times(t), 1);
    column_time(t, 0, &us, &row);
    assert_true(kith_parse_time(text_of("2026-01-31T00:00:00Z"), &want));
    assert_int_equal(us, want);

    SET_IS(find(columns, "o"), COLUMN_VALUED, 1, 3);
    SET_IS(find(columns, "o.k"), COLUMN_TRUE, 1, 3);
    SET_IS(find(columns, "o.k"), COLUMN_FALSE, 3);
    SET_IS(find(columns, "l[].p"), COLUMN_MULTI, 3);
    SET_IS(find(columns, "l[].\"q.r\""), COLUMN_VALUED, 3);
    SET_IS(find(columns, "e"), COLUMN_PRESENT, 4);
    assert_int_equal(column_integers(find(columns, "l")), 1);
    assert_int_equal(columns_find(columns, text_of("l.p"), &a), COLUMN_ABSENT);
}

static void build_examples(struct kith_buf *out)
{
    struct column_builder *builder = NULL;
    assert_int_equal(column_builder_new(&builder, NULL), KITH_OK);
    add_examples(builder);
    assert_int_equal(column_builder_finish(builder, 5, out, NULL), KITH_OK);
    column_builder_free(builder);
}

static void test_column_files_values_by_path(void **state)
{
    (void)state;
    struct kith_buf buf = {0};
    build_examples(&buf);
    size_t len;
    uint8_t *section = aligned(&buf, &len);
    struct columns *columns = NULL;
    assert_int_equal(columns_open(&columns, section, len, 5, NULL), KITH_OK);
    check_examples(columns);
    columns_close(columns);
    kith_free(section);
    kith_buf_fini(&buf);
}

/* Many rows: dictionaries with frozen bitmaps, ranges through words, lists, long terms. */
#define MANY 100000u
static int64_t many_i[MANY];
static double many_f[MANY];
static uint32_t many_k[MANY];

static void build_many(struct kith_buf *out, uint32_t stride)
{
    struct column_builder *builder = NULL;
    struct kith_buf buf = {0};
    struct kith_writer w = writer(&buf);
    char text[400];
    assert_int_equal(column_builder_new(&builder, NULL), KITH_OK);
    for (uint32_t i = 0; i < MANY; i++) {
        uint32_t row = (uint32_t)((uint64_t)i * stride % MANY);
        many_i[row] = (int64_t)random_below(2000) - 1000;
        many_f[row] = ((double)random_below(4000) - 2000.0) / 8.0;
        many_k[row] = random_below(random_below(2) ? 10 : 20000);
        kith_buf_reset(&buf);
        kith_write_map(&w, 4);
        kith_write_cstr(&w, "i");
        kith_write_i64(&w, many_i[row]);
        kith_write_cstr(&w, "f");
        kith_write_f64(&w, many_f[row]);
        kith_write_cstr(&w, "k");
        (void)snprintf(text, sizeof text, "term-%u", many_k[row]);
        kith_write_cstr(&w, text);
        kith_write_cstr(&w, "long");
        memset(text, 'z', sizeof text);
        kith_write_str(&w, text, row % 2 ? 400 : 3);
        assert_int_equal(column_builder_add(builder, row, whole(&buf), NULL), KITH_OK);
    }
    assert_int_equal(column_builder_finish(builder, MANY, out, NULL), KITH_OK);
    column_builder_free(builder);
    kith_buf_fini(&buf);
}

static void check_many(const struct columns *columns)
{
    const struct column *i = find(columns, "i");
    const struct column *f = find(columns, "f");
    const struct column *k = find(columns, "k");
    for (int round = 0; round < 30; round++) {
        struct bitmap *set = bitmap_new();
        int64_t value = (int64_t)random_below(2000) - 1000;
        struct column_range range = {
            random_below(2), random_below(2), random_below(2), random_below(2), 0, 0};
        range.low = ((double)random_below(4000) - 2000.0) / 8.0;
        range.high = range.low + random_below(100);
        uint32_t term = random_below(round % 2 ? 10 : 20000);
        char text[40];
        (void)snprintf(text, sizeof text, "term-%u", term);
        assert_true(column_match_i64(i, value, set));
        assert_true(column_match_range(f, &range, set));
        assert_true(column_match_keyword(k, text_of(text), set));
        for (uint32_t row = 0; row < MANY; row++) {
            bool low = !range.has_low || many_f[row] > range.low ||
                       (!range.low_open && many_f[row] == range.low);
            bool high = !range.has_high || many_f[row] < range.high ||
                        (!range.high_open && many_f[row] == range.high);
            bool want = many_i[row] == value || (low && high) || many_k[row] == term;
            assert_int_equal(bitmap_contains(set, row), want);
        }
        bitmap_free(set);
    }
    uint64_t total = 0, some = 0;
    struct bitmap *even = bitmap_new();
    for (uint32_t row = 0; row < MANY; row += 2)
        bitmap_add(even, row);
    for (uint32_t t = 0; t < column_terms(k); t++) {
        uint64_t n;
        assert_true(column_term_count(k, t, NULL, &n));
        total += n;
        assert_true(column_term_count(k, t, even, &n));
        some += n;
    }
    assert_int_equal(total, MANY);
    assert_int_equal(some, MANY / 2);
    bitmap_free(even);
    assert_int_equal(column_count(find(columns, "long"), COLUMN_LONG), MANY / 2);
    assert_int_equal(column_terms(find(columns, "long")), 1);
}

static void many_rows(uint32_t stride)
{
    struct kith_buf buf = {0};
    build_many(&buf, stride);
    size_t len;
    uint8_t *section = aligned(&buf, &len);
    struct columns *columns = NULL;
    assert_int_equal(columns_open(&columns, section, len, MANY, NULL), KITH_OK);
    check_many(columns);
    columns_close(columns);
    kith_free(section);
    kith_buf_fini(&buf);
}

static void test_column_many_rows(void **state)
{
    (void)state;
    many_rows(1);
}

static void test_column_many_rows_in_any_order(void **state)
{
    (void)state;
    many_rows(31337); /* has no factor in common with MANY */
}

static void test_column_limits_paths_and_says_so(void **state)
{
    (void)state;
    struct column_builder *builder = NULL;
    struct kith_buf buf = {0}, out = {0};
    struct kith_writer w = writer(&buf);
    assert_int_equal(column_builder_new(&builder, NULL), KITH_OK);
    kith_write_map(&w, KITH_FIELDS_INDEXED_MAX + 2);
    for (uint32_t i = 0; i < KITH_FIELDS_INDEXED_MAX + 2; i++) {
        char key[20];
        (void)snprintf(key, sizeof key, "f%u", i);
        kith_write_cstr(&w, key);
        kith_write_u64(&w, i);
    }
    assert_int_equal(column_builder_add(builder, 0, whole(&buf), NULL), KITH_OK);
    assert_int_equal(column_builder_finish(builder, 1, &out, NULL), KITH_OK);
    column_builder_free(builder);
    size_t len;
    uint8_t *section = aligned(&out, &len);
    struct columns *columns = NULL;
    const struct column *column;
    assert_int_equal(columns_open(&columns, section, len, 1, NULL), KITH_OK);
    assert_int_equal(columns_count(columns), KITH_FIELDS_INDEXED_MAX);
    assert_int_equal(columns_find(columns, text_of("f257"), &column), COLUMN_NOT_INDEXED);
    assert_int_equal(columns_find(columns, text_of("f25"), &column), COLUMN_FOUND);
    columns_close(columns);
    kith_free(section);
    kith_buf_fini(&out);
    kith_buf_fini(&buf);
}

static void test_column_refuses_malformed_payloads(void **state)
{
    (void)state;
    static const uint8_t bad[][4] = {
        {0x81, 0xa1, 'a', 0xc1}, {0x82, 0xa1, 'a', 0xc0}, {0x91, 0, 0, 0}};
    for (size_t i = 0; i < 3; i++) {
        struct column_builder *builder = NULL;
        assert_int_equal(column_builder_new(&builder, NULL), KITH_OK);
        assert_int_equal(column_builder_add(builder, 0, (struct kith_bytes){bad[i], 4}, NULL),
                         KITH_CORRUPT);
        column_builder_free(builder);
    }
}

/* Reads everything a filter could touch. */
static void walk(const struct columns *columns, uint32_t n_rows)
{
    for (uint32_t i = 0; i < columns_count(columns); i++) {
        const struct column *column = columns_at(columns, i);
        struct bitmap *set = bitmap_new();
        uint32_t row;
        int64_t value;
        double number;
        for (int s = 0; s < COLUMN_SETS; s++)
            assert_true(column_add(column, (enum column_set)s, set));
        for (uint32_t t = 0; t < column_terms(column); t++) {
            assert_true(column_term(column, t).len <= COLUMN_TERM_MAX);
            assert_true(column_term_add(column, t, set));
        }
        for (uint32_t j = 0; j < column_integers(column); j++)
            column_integer(column, j, &value, &row);
        for (uint32_t j = 0; j < column_floats(column); j++)
            column_float(column, j, &number, &row);
        struct column_range all = {0};
        assert_true(column_match_range(column, &all, set));
        struct column_time_range always = {0};
        assert_true(column_match_time(column, &always, set));
        assert_int_equal(bitmap_read(set, n_rows, &row, 1), 0);
        bitmap_free(set);
    }
}

static void test_column_refuses_damage(void **state)
{
    (void)state;
    struct kith_buf buf = {0};
    build_examples(&buf);
    size_t len;
    uint8_t *section = aligned(&buf, &len);
    long before = kith_mem_live();
    int opened = 0;
    for (int round = 0; round < 20000; round++) {
        memcpy(section, buf.data, buf.len);
        for (uint32_t i = 1 + random_below(3); i > 0; i--)
            section[random_below((uint32_t)buf.len)] ^= (uint8_t)(1u << random_below(8));
        struct columns *columns = NULL;
        size_t cut = round % 4 == 0 ? random_below((uint32_t)buf.len) : len;
        if (columns_open(&columns, section, cut, 5, NULL) != KITH_OK) {
            assert_null(columns);
            continue;
        }
        opened++;
        walk(columns, 5);
        columns_close(columns);
    }
    assert_true(opened > 0); /* a flipped letter of a term is no damage that columns can see */
    assert_int_equal(kith_mem_live(), before);
    kith_free(section);
    kith_buf_fini(&buf);
}

static void test_column_survives_each_oom(void **state)
{
    (void)state;
    struct kith_buf good = {0};
    build_examples(&good);
    size_t len;
    uint8_t *section = aligned(&good, &len);
    long before = kith_mem_live();
    struct kith_bytes payload = {0};
    struct kith_buf buf = {0};
    struct kith_writer w = writer(&buf);
    kith_write_map(&w, 2);
    kith_write_cstr(&w, "a");
    kith_write_cstr(&w, "2026-01-31");
    kith_write_cstr(&w, "n");
    kith_write_array(&w, 2);
    kith_write_u64(&w, 5);
    kith_write_f64(&w, 1.5);
    payload = whole(&buf);
    bool done = false;
    for (long n = 0; !done; n++) {
        struct column_builder *builder = NULL;
        struct kith_buf out = {0};
        struct columns *columns = NULL;
        kith_mem_fail_after(n);
        enum kith_err err = column_builder_new(&builder, NULL);
        for (uint32_t row = 0; err == KITH_OK && row < 40; row++)
            err = column_builder_add(builder, row, payload, NULL);
        if (err == KITH_OK)
            err = column_builder_finish(builder, 40, &out, NULL);
        if (err == KITH_OK)
            err = columns_open(&columns, section, len, 5, NULL);
        kith_mem_fail_after(-1);
        assert_true(err == KITH_OK || err == KITH_NOMEM);
        done = err == KITH_OK;
        columns_close(columns);
        column_builder_free(builder);
        kith_buf_fini(&out);
        assert_true(n < 10000);
    }
    kith_buf_fini(&buf);
    assert_int_equal(kith_mem_live(), before);
    kith_free(section);
    kith_buf_fini(&good);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_column_files_values_by_path),
        cmocka_unit_test(test_column_many_rows),
        cmocka_unit_test(test_column_many_rows_in_any_order),
        cmocka_unit_test(test_column_limits_paths_and_says_so),
        cmocka_unit_test(test_column_refuses_malformed_payloads),
        cmocka_unit_test(test_column_refuses_damage),
        cmocka_unit_test(test_column_survives_each_oom),
    };
    return cmocka_run_group_tests(tests, random_set_up, NULL);
}
