#include "shard/storage/head_columns.h"

#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <cmocka.h>

#include "common/kith_mem.h"
#include "shard/storage/head.h"

#define BLOCKS  3u
#define ROWS    (BLOCKS * HEAD_BLOCK_ROWS)
#define READERS 4

static struct head *new_head(uint32_t rows)
{
    struct head *head = NULL;
    float vector[4] = {1, 2, 3, 4};
    assert_int_equal(head_new(&head, sizeof vector, ROWS, NULL, NULL), KITH_OK);
    for (uint32_t i = 0; i < rows; i++) {
        struct kith_id id = kith_id_number(i);
        const uint8_t payload[] = {0x81, 0xa1, 'k', (uint8_t)(i % 7)}; /* {"k": i % 7} */
        assert_int_equal(head_append(head, &id, i + 1, vector,
                                     (struct kith_bytes){payload, sizeof payload}, NULL),
                         KITH_OK);
    }
    return head;
}

static void check_block(const struct columns *columns, uint32_t block)
{
    const struct column *column;
    for (int64_t value = 0; value < 8; value++) {
        struct bitmap *set = bitmap_new();
        assert_int_equal(
            columns_find(columns, (struct kith_bytes){(const uint8_t *)"k", 1}, &column),
            COLUMN_FOUND);
        assert_true(column_match_i64(column, value, set));
        for (uint32_t row = 0; row < HEAD_BLOCK_ROWS; row++)
            assert_int_equal(bitmap_contains(set, row),
                             (block * HEAD_BLOCK_ROWS + row) % 7 == value);
        bitmap_free(set);
    }
}

struct reader {
    const struct head *head;
    const struct columns *got[BLOCKS];
};

static void *read_blocks(void *arg)
{
    struct reader *reader = arg;
    for (uint32_t block = 0; block < BLOCKS; block++) {
        reader->got[block] = head_block(reader->head, block);
        if (reader->got[block] != NULL)
            (void)columns_count(reader->got[block]);
    }
    return NULL;
}

/* Many readers ask at once: each gets the one set of columns, or nothing for now. */
static void test_head_columns_are_built_once(void **state)
{
    (void)state;
    long before = kith_mem_live();
    struct head *head = new_head(ROWS);
    struct reader readers[READERS] = {0};
    pthread_t threads[READERS];
    for (int i = 0; i < READERS; i++) {
        readers[i].head = head;
        assert_int_equal(pthread_create(&threads[i], NULL, read_blocks, &readers[i]), 0);
    }
    for (int i = 0; i < READERS; i++)
        assert_int_equal(pthread_join(threads[i], NULL), 0);
    for (uint32_t block = 0; block < BLOCKS; block++) {
        const struct columns *columns = head_block(head, block);
        assert_non_null(columns);
        check_block(columns, block);
        for (int i = 0; i < READERS; i++)
            assert_true(readers[i].got[block] == NULL || readers[i].got[block] == columns);
    }
    head_unref(head);
    assert_int_equal(kith_mem_live(), before);
}

/* Rows that are gone stay in the columns; whether a row is live is asked of the head. */
static void test_head_columns_hold_rows_that_are_gone(void **state)
{
    (void)state;
    struct head *head = new_head(HEAD_BLOCK_ROWS + 10);
    head_kill(head, 3, 9000);
    head_burn(head, HEAD_BLOCK_ROWS - 1);
    check_block(head_block(head, 0), 0);
    assert_false(head_row_now(head, 3));
    head_unref(head);
}

/* Without memory there are no columns, now or later, and nothing is left behind. */
static void test_head_columns_survive_each_oom(void **state)
{
    (void)state;
    long before = kith_mem_live();
    bool built = false;
    for (long n = 0; !built; n++) {
        struct head *head = new_head(HEAD_BLOCK_ROWS);
        kith_mem_fail_after(n);
        const struct columns *columns = head_block(head, 0);
        kith_mem_fail_after(-1);
        built = columns != NULL;
        assert_ptr_equal(head_block(head, 0), columns);
        head_unref(head);
        assert_int_equal(kith_mem_live(), before);
    }
    for (long n = 0;; n++) {
        struct head *head = NULL;
        kith_mem_fail_after(n);
        enum kith_err err = head_new(&head, 16, ROWS, NULL, NULL);
        kith_mem_fail_after(-1);
        head_unref(head);
        assert_int_equal(kith_mem_live(), before);
        if (err == KITH_OK)
            break;
        assert_null(head);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_head_columns_are_built_once),
        cmocka_unit_test(test_head_columns_hold_rows_that_are_gone),
        cmocka_unit_test(test_head_columns_survive_each_oom),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
