#include "shard/storage/op_window.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>

#include "common/kith_mem.h"

static void test_op_window_remembers_the_last(void **state)
{
    (void)state;
    struct op_window *window = kith_xalloc(sizeof *window);
    op_window_init(window);
    for (uint64_t i = 1; i <= OP_WINDOW_MAX * 3; i++) {
        assert_null(op_window_find(window, i * 8191));
        op_window_add(window, &(struct op_entry){i * 8191, i, i + 1});
        const struct op_entry *entry = op_window_find(window, i * 8191);
        assert_non_null(entry);
        assert_int_equal(entry->seq, i);
        uint64_t oldest = i > OP_WINDOW_MAX ? i - OP_WINDOW_MAX + 1 : 1;
        assert_non_null(op_window_find(window, oldest * 8191));
        assert_null(op_window_find(window, (oldest - 1) * 8191));
    }
    assert_int_equal(op_window_count(window), OP_WINDOW_MAX);
    assert_int_equal(op_window_at(window, 0)->seq, OP_WINDOW_MAX * 2 + 1);
    kith_free(window);
}

static void test_op_window_drops_the_last(void **state)
{
    (void)state;
    struct op_window *window = kith_xalloc(sizeof *window);
    op_window_init(window);
    for (uint64_t i = 1; i <= OP_WINDOW_MAX + 10; i++)
        op_window_add(window, &(struct op_entry){i, i, 0});
    for (uint64_t i = OP_WINDOW_MAX + 10; i > OP_WINDOW_MAX; i--) {
        op_window_drop_last(window);
        assert_null(op_window_find(window, i));
        assert_non_null(op_window_find(window, i - 1));
    }
    for (uint64_t i = OP_WINDOW_MAX + 1; i <= OP_WINDOW_MAX * 2; i++)
        op_window_add(window, &(struct op_entry){i, i, 0});
    assert_null(op_window_find(window, OP_WINDOW_MAX));
    assert_non_null(op_window_find(window, OP_WINDOW_MAX + 1));
    kith_free(window);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_op_window_remembers_the_last),
        cmocka_unit_test(test_op_window_drops_the_last),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
