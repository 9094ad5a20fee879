#include "shard/storage/merge_policy.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include "proto/kith_limits.h"

#define BASE 1000u

/* A slice of sizes only: sealed segments come, merges happen at once. */
struct slice {
    struct merge_part parts[KITH_SEGMENTS_MAX];
    uint32_t n, n_max;
    bool pours;
    uint64_t written; /* rows, by merges */
};

static int larger_first(const void *a, const void *b)
{
    const struct merge_part *x = a, *y = b;
    return x->rows > y->rows ? -1 : x->rows < y->rows;
}

static void add(struct slice *slice, struct merge_part part)
{
    assert_true(slice->n < KITH_SEGMENTS_MAX);
    slice->parts[slice->n++] = part;
    qsort(slice->parts, slice->n, sizeof part, larger_first);
    if (slice->n > slice->n_max)
        slice->n_max = slice->n;
}

static bool step(struct slice *slice, enum merge_pace pace, struct merge_choice *choice)
{
    struct merge_part merged = {0};
    merge_policy_choose(slice->parts, slice->n, BASE, pace, slice->pours, choice);
    for (uint32_t i = 0; i < choice->n; i++) {
        merged.rows += slice->parts[choice->from[i]].live;
        slice->parts[choice->from[i]].rows = 0;
    }
    if (choice->n == 0)
        return false;
    merged.live = merged.rows;
    slice->written += merged.rows;
    qsort(slice->parts, slice->n, sizeof merged, larger_first);
    slice->n -= choice->n;
    if (merged.rows > 0)
        add(slice, merged);
    return true;
}

static struct merge_part fresh(uint32_t rows, enum index_want want)
{
    return (struct merge_part){.rows = rows, .live = rows, .want = want};
}

static void test_merge_policy_writes_a_point_once_per_tier(void **state)
{
    (void)state;
    struct slice slice = {0};
    struct merge_choice choice;
    for (uint32_t i = 0; i < 512; i++) {
        add(&slice, fresh(BASE + i % BASE, i % 3 == 0 ? INDEX_WANT_ANY : INDEX_WANT_NOTHING));
        while (step(&slice, MERGE_BUSY, &choice))
            continue;
        if (i == 30) /* a million points in heads of 32,768 */
            assert_in_range(slice.written, BASE, 31 * BASE * 3 / 2);
    }
    assert_in_range(slice.written, 512 * BASE, 512 * BASE * 3 / 2 * 3);
    assert_in_range(slice.n_max, 1, 24);
}

/* A million points in heads of 32,768; when they stop coming, what was not merged yet is written by
 * the gathering alone. */
static void test_merge_policy_writes_less_while_points_pour(void **state)
{
    (void)state;
    uint64_t written[2];
    struct merge_choice choice;
    for (uint32_t pours = 0; pours < 2; pours++) {
        struct slice slice = {.pours = pours != 0};
        for (uint32_t i = 0; i < 31; i++) {
            add(&slice, fresh(BASE, INDEX_WANT_NOTHING));
            while (step(&slice, MERGE_BUSY, &choice))
                continue;
        }
        written[pours] = slice.written;
        assert_in_range(slice.n_max, 8, 24);
        assert_false(step(&slice, MERGE_QUIET, &choice));
        assert_true(choice.gathers);
        while (step(&slice, MERGE_REST, &choice))
            assert_int_equal(choice.why, MERGE_WHY_REST);
        assert_int_equal(slice.n, 1);
        assert_int_equal(slice.written, written[pours] + 31 * BASE);
    }
    assert_int_equal(written[0], 24 * BASE);
    assert_int_equal(written[1], 16 * BASE);
}

/* Heads at rest: a hundredth of a full one each time, for as many rows as forty full ones. */
static void test_merge_policy_gathers_small_segments_by_tier(void **state)
{
    (void)state;
    struct merge_choice choice;
    const uint32_t rows = BASE / 100, n = 4000;
    for (uint32_t pours = 0; pours < 2; pours++) {
        struct slice slice = {.pours = pours != 0};
        for (uint32_t i = 0; i < n; i++) {
            add(&slice, fresh(rows, INDEX_WANT_NOTHING));
            while (step(&slice, MERGE_QUIET, &choice))
                continue;
        }
        assert_in_range(slice.n_max, 1, 25);
        assert_in_range(slice.written, n * rows, 4 * n * rows);
    }
}

/* At rest after each head of any size: one segment, or one and some that are small beside it. */
static void test_merge_policy_gathers_at_rest(void **state)
{
    (void)state;
    struct slice slice = {0};
    struct merge_choice choice;
    uint64_t rows = 0;
    for (uint32_t i = 0, size = 1; i < 2000; i++, size = size * 7 % 1999 + 1) {
        add(&slice, fresh(size, INDEX_WANT_NOTHING));
        rows += size;
        while (step(&slice, MERGE_QUIET, &choice))
            continue;
        while (step(&slice, MERGE_REST, &choice))
            assert_false(choice.gathers);
        for (uint32_t k = slice.n, small = 0; k-- > 0; small += slice.parts[k].live)
            assert_true(small == 0 || slice.parts[k].live > 3 * small);
    }
    assert_in_range(slice.written, rows, 16 * rows);
}

static void test_merge_policy_gathers_only_at_rest(void **state)
{
    (void)state;
    struct slice slice = {0};
    struct merge_choice choice;
    add(&slice, fresh(3 * BASE, INDEX_WANT_NOTHING));
    add(&slice, fresh(BASE, INDEX_WANT_NOTHING));
    assert_false(step(&slice, MERGE_QUIET, &choice));
    assert_true(choice.gathers && !choice.waits);
    assert_true(step(&slice, MERGE_REST, &choice));
    assert_int_equal(slice.n, 1);
    assert_false(step(&slice, MERGE_REST, &choice));
    add(&slice, fresh(BASE, INDEX_WANT_NOTHING)); /* small beside four times as many rows */
    assert_false(step(&slice, MERGE_REST, &choice));
    assert_false(choice.gathers);
    struct slice large = {
        .n = 2,
        .parts = {fresh(3u << 20, INDEX_WANT_NOTHING), fresh(2u << 20, INDEX_WANT_NOTHING)}};
    assert_false(step(&large, MERGE_REST, &choice));
}

static void test_merge_policy_waits_for_quiet_to_reindex(void **state)
{
    (void)state;
    struct slice slice = {0};
    struct merge_choice choice;
    add(&slice, fresh(BASE, INDEX_WANT_ANY));
    add(&slice, fresh(BASE, INDEX_WANT_NOTHING));
    add(&slice, fresh(BASE, INDEX_WANT_ANY));
    assert_false(step(&slice, MERGE_BUSY, &choice));
    assert_true(choice.waits);
    assert_int_equal(choice.pending, 2);
    assert_true(step(&slice, MERGE_QUIET, &choice));
    assert_false(choice.waits);
    assert_int_equal(slice.n, 2);
    assert_int_equal(slice.written, 2 * BASE);
    assert_false(step(&slice, MERGE_QUIET, &choice));
    assert_false(choice.waits);
}

static void test_merge_policy_reindexes_the_largest_first(void **state)
{
    (void)state;
    struct slice slice = {0};
    struct merge_choice choice;
    add(&slice, fresh(BASE, INDEX_WANT_ANY));
    add(&slice, fresh(BASE * 20, INDEX_WANT_ANY));
    assert_true(step(&slice, MERGE_BUSY, &choice)); /* many rows: it does not wait */
    assert_int_equal(choice.n, 1);
    assert_int_equal(choice.from[0], 0);
    assert_int_equal(slice.written, BASE * 20);
}

/* A segment with an older index waits for a merge that comes anyway, or for rest. */
static void test_merge_policy_leaves_older_indexes_until_rest(void **state)
{
    (void)state;
    struct slice slice = {0};
    struct merge_choice choice;
    add(&slice, fresh(BASE * 20, INDEX_WANT_BETTER));
    for (uint32_t i = 0; i < 5; i++)
        add(&slice, fresh(BASE, INDEX_WANT_BETTER));
    for (enum merge_pace pace = MERGE_BUSY; pace <= MERGE_QUIET; pace++) {
        assert_false(step(&slice, pace, &choice));
        assert_true(choice.gathers && !choice.waits);
        assert_int_equal(choice.pending, 0);
    }
    add(&slice, fresh(BASE, INDEX_WANT_ANY));
    assert_true(step(&slice, MERGE_QUIET, &choice));
    assert_int_equal(choice.n, 1); /* alone */
    assert_true(step(&slice, MERGE_REST, &choice));
    assert_int_equal(choice.n, 6); /* gathered, which the large one is too large for */
    assert_true(step(&slice, MERGE_REST, &choice));
    assert_int_equal(choice.from[0], 0);
    assert_int_equal(slice.written, BASE + BASE * 6 + BASE * 20);
    assert_false(step(&slice, MERGE_REST, &choice));
    assert_false(choice.gathers);
}

/* A codebook that comes in the middle of a load: what was there is written by merges of its tier
 * and by the gathering at rest, as without it. */
static void test_merge_policy_writes_no_more_for_a_generation(void **state)
{
    (void)state;
    uint64_t written[2];
    struct merge_choice choice;
    for (uint32_t with = 0; with < 2; with++) {
        struct slice slice = {0};
        for (uint32_t i = 0; i < 22; i++) {
            add(&slice, fresh(BASE, INDEX_WANT_NOTHING));
            for (uint32_t k = 0; with == 1 && i == 12 && k < slice.n; k++)
                slice.parts[k].want = INDEX_WANT_BETTER;
            while (step(&slice, MERGE_BUSY, &choice))
                continue;
        }
        while (step(&slice, MERGE_QUIET, &choice))
            continue;
        while (step(&slice, MERGE_REST, &choice))
            continue;
        written[with] = slice.written;
    }
    assert_int_equal(written[0], written[1]);
}

static void test_merge_policy_holds_what_would_be_written_twice(void **state)
{
    (void)state;
    struct slice slice = {0};
    struct merge_choice choice;
    for (uint32_t i = 0; i < 100; i++) {
        add(&slice, fresh(BASE, INDEX_WANT_ANY));
        while (step(&slice, MERGE_HELD, &choice))
            continue;
        assert_true(choice.waits);
        assert_in_range(slice.n, 1, 40);
        if (i < 40)
            assert_int_equal(slice.written, 0);
    }
}

static void test_merge_policy_gives_space_back(void **state)
{
    (void)state;
    struct slice slice = {0};
    struct merge_choice choice;
    add(&slice, (struct merge_part){.rows = BASE, .live = BASE * 4 / 5 + 1});
    assert_false(step(&slice, MERGE_QUIET, &choice));
    add(&slice, (struct merge_part){.rows = BASE, .live = BASE * 4 / 5});
    assert_true(step(&slice, MERGE_BUSY, &choice));
    assert_int_equal(slice.written, BASE * 4 / 5);
}

/* However odd the sizes are, their number stays far below what a store can hold. */
static void test_merge_policy_bounds_the_number(void **state)
{
    (void)state;
    struct slice slice = {0};
    struct merge_choice choice;
    uint32_t rows = 1;
    for (uint32_t i = 0; i < 2000; i++) {
        add(&slice, fresh(rows, INDEX_WANT_NOTHING));
        rows = rows * 7 % 900001 + 1;
        while (step(&slice, MERGE_BUSY, &choice))
            continue;
        assert_in_range(slice.n, 1, 24);
    }
}

static void test_merge_policy_leaves_the_index_when_pressed(void **state)
{
    (void)state;
    struct slice slice = {0};
    struct merge_choice choice;
    for (uint32_t i = 0; i < 36; i++)
        add(&slice, fresh(BASE, INDEX_WANT_ANY));
    merge_policy_choose(slice.parts, slice.n, BASE, MERGE_BUSY, false, &choice);
    assert_false(choice.plain);
    add(&slice, fresh(BASE, INDEX_WANT_ANY));
    merge_policy_choose(slice.parts, slice.n, BASE, MERGE_BUSY, false, &choice);
    assert_true(choice.plain && choice.n > 1);
    assert_false(merge_policy_is_pressed(slice.n));
    while (step(&slice, MERGE_BUSY, &choice))
        continue;
    assert_false(choice.plain);
    assert_in_range(slice.n, 1, 24);
    assert_true(merge_policy_is_pressed(KITH_SEGMENTS_MAX));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_merge_policy_writes_a_point_once_per_tier),
        cmocka_unit_test(test_merge_policy_writes_less_while_points_pour),
        cmocka_unit_test(test_merge_policy_gathers_small_segments_by_tier),
        cmocka_unit_test(test_merge_policy_gathers_at_rest),
        cmocka_unit_test(test_merge_policy_gathers_only_at_rest),
        cmocka_unit_test(test_merge_policy_waits_for_quiet_to_reindex),
        cmocka_unit_test(test_merge_policy_reindexes_the_largest_first),
        cmocka_unit_test(test_merge_policy_leaves_older_indexes_until_rest),
        cmocka_unit_test(test_merge_policy_writes_no_more_for_a_generation),
        cmocka_unit_test(test_merge_policy_holds_what_would_be_written_twice),
        cmocka_unit_test(test_merge_policy_gives_space_back),
        cmocka_unit_test(test_merge_policy_bounds_the_number),
        cmocka_unit_test(test_merge_policy_leaves_the_index_when_pressed),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
