/* What is locked, in which order, and what is told of it. */
#include "shard/rpc/memory_lock.h"

#include "shard/query/memory.h"
#include "shard/rpc/rig_testing.h"

static void measure(struct memory_lock *lock, struct memory_use *uses)
{
    struct view *view = store_view(slice_store(rig.slice));
    memset(uses, 0, MEMORY_KINDS * sizeof *uses);
    memory_of_views(&view, 1, lock == NULL ? NULL : memory_lock_bytes, lock, uses);
    view_unref(view);
}

/* Looks once with this budget; uses: what there is then. */
static void look(uint64_t budget, struct memory_use *uses, struct memory_lock_stats *stats)
{
    struct memory_lock *lock;
    struct memory_lock_options options = {.slices = rig.slices, .budget_bytes = budget};
    assert_int_equal(memory_lock_open(&lock, &options, NULL), KITH_OK);
    memory_lock_run(lock);
    memory_lock_run(lock); /* a second look changes nothing */
    measure(lock, uses);
    memory_lock_stats(lock, stats);
    memory_lock_close(lock);
}

static void test_memory_lock_takes_codes_first(void **state)
{
    (void)state;
    struct memory_use all[MEMORY_KINDS], uses[MEMORY_KINDS];
    struct memory_lock_stats stats;
    open_rig();
    measure(NULL, all);
    uint64_t codes = all[MEMORY_CODES].file, rows8 = all[MEMORY_ROWS8].file;
    assert_true(codes > 0 && rows8 > 0);
    assert_int_equal(all[MEMORY_CODES].locked, 0);

    look(codes, uses, &stats);
    if (stats.refused) {
        print_message("no memory may be locked here\n");
        close_rig();
        skip();
    }
    assert_int_equal(uses[MEMORY_CODES].locked, codes);
    assert_int_equal(uses[MEMORY_ROWS8].locked, 0);
    assert_int_equal(stats.locked, codes);

    look(codes + rows8 - 1, uses, &stats);
    assert_int_equal(uses[MEMORY_CODES].locked, codes);
    assert_true(uses[MEMORY_ROWS8].locked < rows8);
    assert_true(stats.locked <= codes + rows8 - 1 && !stats.refused);

    look(UINT64_MAX, uses, &stats);
    assert_int_equal(uses[MEMORY_ROWS8].locked, rows8);
    assert_int_equal(uses[MEMORY_ROWS].locked, 0);
    look(0, uses, &stats);
    assert_int_equal(stats.locked, 0);
    close_rig();
}

/* Every byte of the files is somewhere, once. */
static void test_memory_adds_up_to_the_files(void **state)
{
    (void)state;
    struct memory_use uses[MEMORY_KINDS];
    struct store_stats stats;
    uint64_t file = 0;
    open_rig();
    measure(NULL, uses);
    store_stats(slice_store(rig.slice), &stats);
    for (uint32_t i = 0; i < MEMORY_KINDS; i++)
        file += uses[i].file;
    struct view *view = store_view(slice_store(rig.slice));
    uint64_t segments = 0, rows = 0;
    for (uint32_t i = 0; i < view->n_segments; i++) {
        segments += segment_file_bytes(view->segments[i].segment);
        rows += segment_rows(view->segments[i].segment);
    }
    view_unref(view);
    assert_int_equal(file, segments);
    assert_int_equal(uses[MEMORY_ROWS].file, rows * DIM * sizeof(float));
    assert_true(uses[MEMORY_CODEBOOKS].resident > 0 && uses[MEMORY_CODEBOOKS].file == 0);
    close_rig();
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_memory_lock_takes_codes_first),
        cmocka_unit_test(test_memory_adds_up_to_the_files),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
