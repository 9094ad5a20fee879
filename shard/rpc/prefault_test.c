/* What is read in before a node is ready, and that it can be told to leave it. */
#include "shard/rpc/prefault.h"

#include "shard/query/memory.h"
#include "shard/rpc/rig_testing.h"

static uint64_t index_bytes(void)
{
    struct memory_use uses[MEMORY_KINDS] = {0};
    struct view *view = store_view(slice_store(rig.slice));
    memory_of_views(&view, 1, NULL, NULL, uses);
    view_unref(view);
    return uses[MEMORY_CODEBOOK].file + uses[MEMORY_LISTS].file + uses[MEMORY_CODES].file +
           uses[MEMORY_ROWS8].file;
}

static void test_prefault_takes_all_indexes(void **state)
{
    (void)state;
    struct prefault prefault = {0}, stopped = {0};
    open_rig();
    prefault.slices = stopped.slices = rig.slices;
    prefault_run(&prefault);
    assert_true(index_bytes() > 0);
    assert_int_equal(prefault.bytes_total, index_bytes());
    assert_int_equal(prefault.bytes_done, prefault.bytes_total);
    prefault_stop(&stopped);
    prefault_run(&stopped);
    assert_int_equal(stopped.bytes_total, index_bytes());
    assert_int_equal(stopped.bytes_done, 0);
    close_rig();
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_prefault_takes_all_indexes)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
