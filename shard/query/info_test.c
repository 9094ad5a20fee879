#include "shard/query/info.h"

#include <setjmp.h>
#include <stdarg.h>
#include <string.h>
#include <cmocka.h>

#include "shard/storage/head.h"

/* A head of two whole blocks and some rows, of which some of each are gone. */
#define ROWS (2 * HEAD_BLOCK_ROWS + 100)
#define ONLY 5u /* the only row with "x" */

static struct head *new_head(void)
{
    struct head *head = NULL;
    float vector[4] = {1, 2, 3, 4};
    assert_int_equal(head_new(&head, sizeof vector, ROWS, NULL, NULL), KITH_OK);
    for (uint32_t i = 0; i < ROWS; i++) {
        struct kith_id id = kith_id_number(i);
        const uint8_t all[] = {0x81, 0xa1, 'k', (uint8_t)(i % 7)}; /* {"k": i % 7} */
        const uint8_t one[] = {0x81, 0xa1, 'x', 0xc3};             /* {"x": true} */
        struct kith_bytes payload = {i == ONLY ? one : all, sizeof all};
        assert_int_equal(head_append(head, &id, i + 1, vector, payload, NULL), KITH_OK);
    }
    return head;
}

static void check(const struct head *head, uint64_t seq, uint64_t want_k, uint64_t want_x)
{
    struct view view = {.seq = seq, .n_heads = 1, .heads = {{.head = head, .rows = ROWS}}};
    struct view *views[] = {&view};
    struct info info = {0};
    assert_int_equal(info_run(&info, views, 1, NULL), KITH_OK);
    assert_int_equal(info.n, want_x > 0 ? 2 : 1);
    assert_memory_equal(info.fields[0].path.data, "k", 1);
    assert_int_equal(info.fields[0].points, want_k);
    assert_int_equal(info.fields[0].types, 4);
    if (want_x > 0) {
        assert_memory_equal(info.fields[1].path.data, "x", 1);
        assert_int_equal(info.fields[1].points, want_x);
        assert_int_equal(info.fields[1].types, 2);
    }
    info_fini(&info);
}

static void test_info_counts_what_a_head_has(void **state)
{
    struct head *head = new_head();
    (void)state;
    check(head, ROWS, ROWS - 1, 1);
    head_kill(head, ONLY, ROWS + 1); /* its block has columns by now, with a field nobody has */
    head_kill(head, HEAD_BLOCK_ROWS + 3, ROWS + 2);
    head_kill(head, HEAD_BLOCK_ROWS + 4, ROWS + 3);
    head_kill(head, ROWS - 1, ROWS + 4);
    check(head, ROWS, ROWS - 1, 1); /* an older view */
    check(head, ROWS + 1, ROWS - 1, 0);
    check(head, ROWS + 4, ROWS - 4, 0);
    head_unref(head);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_info_counts_what_a_head_has)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
