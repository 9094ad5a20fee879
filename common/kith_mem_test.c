#include "common/kith_mem.h"

#include <setjmp.h>
#include <stdarg.h>
#include <string.h>
#include <cmocka.h>

#include "common/kith_arena.h"
#include "common/kith_buf.h"

static void test_mem_counts_and_fails_on_demand(void **state)
{
    (void)state;
    long before = kith_mem_live();
    kith_mem_fail_after(1);
    void *first = kith_alloc(10);
    void *second = kith_alloc(10);
    kith_mem_fail_after(-1);
    assert_non_null(first);
    assert_null(second);
    assert_int_equal(kith_mem_live(), before + 1);
    kith_free(first);
    assert_int_equal(kith_mem_live(), before);
}

static void test_mem_checked_arithmetic(void **state)
{
    (void)state;
    size_t out = 7;
    assert_false(kith_mul(SIZE_MAX / 2, 3, &out));
    assert_false(kith_add(SIZE_MAX, 1, &out));
    assert_int_equal(out, 7);
    assert_true(kith_mul(6, 7, &out));
    assert_int_equal(out, 42);
}

static void test_arena_obeys_its_limit(void **state)
{
    (void)state;
    long before = kith_mem_live();
    struct kith_arena arena = {.limit = 1000};
    assert_non_null(kith_arena_alloc(&arena, 900));
    assert_null(kith_arena_alloc(&arena, 200));
    assert_null(kith_arena_array(&arena, SIZE_MAX / 2, 4));
    char *text = kith_arena_text(&arena, "abc", 2);
    assert_string_equal(text, "ab");
    kith_arena_fini(&arena);
    assert_int_equal(kith_mem_live(), before);
}

static void test_buf_grows_and_failure_sticks(void **state)
{
    (void)state;
    struct kith_buf buf = {.limit = 100};
    kith_buf_printf(&buf, "%s-%d", "x", 12);
    kith_buf_byte(&buf, '!');
    assert_int_equal(buf.len, 5);
    assert_memory_equal(buf.data, "x-12!", 5);
    uint8_t big[200] = {0};
    kith_buf_append(&buf, big, sizeof big);
    assert_true(buf.failed);
    kith_buf_text(&buf, "more");
    assert_int_equal(buf.len, 5);
    kith_buf_fini(&buf);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_mem_counts_and_fails_on_demand),
        cmocka_unit_test(test_mem_checked_arithmetic),
        cmocka_unit_test(test_arena_obeys_its_limit),
        cmocka_unit_test(test_buf_grows_and_failure_sticks),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
