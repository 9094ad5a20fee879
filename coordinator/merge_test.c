#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include <cmocka.h>

#include <float.h>
#include <math.h>

#include "common/kith_mem.h"
#include "coordinator/merge.h"

static struct kith_bytes pack(struct kith_arena *arena, const struct kith_hit *hits, uint32_t n)
{
    uint8_t *out = kith_arena_alloc(arena, (size_t)n * KITH_HIT_BYTES + 1);
    for (uint32_t i = 0; i < n; i++) {
        uint8_t *at = out + (size_t)i * KITH_HIT_BYTES;
        uint32_t bits;
        memcpy(&bits, &hits[i].rank, 4);
        kith_id_to_wire(&hits[i].id, at);
        kith_store_u32(at + KITH_ID_WIRE_BYTES, bits);
        kith_store_u64(at + KITH_ID_WIRE_BYTES + 4, hits[i].seq);
    }
    return (struct kith_bytes){out, (size_t)n * KITH_HIT_BYTES};
}

static int by_order(const void *a, const void *b)
{
    return merge_compare(a, b);
}

/* Merging the best k of each of several nodes is the best k of everything. */
static void test_merge_equals_sorting_everything(void **state)
{
    (void)state;
    unsigned seed = (unsigned)time(NULL);
    printf("seed %u\n", seed);
    srand(seed);
    for (int round = 0; round < 200; round++) {
        struct kith_arena arena = {.chunks = NULL};
        uint32_t k = (uint32_t)rand() % 40, n_slices = 1 + (uint32_t)rand() % 6;
        uint32_t n = (uint32_t)rand() % 200;
        struct kith_hit *all = kith_arena_array(&arena, n + 1, sizeof(*all));
        for (uint32_t i = 0; i < n; i++)
            all[i] = (struct kith_hit){.id = kith_id_number((uint64_t)i * 7919 + 1),
                                       .rank = (float)(rand() % 8),
                                       .seq = i};
        struct merge_scratch scratch;
        struct merge_list list;
        assert_int_equal(merge_scratch_init(&scratch, &arena, k, NULL), KITH_OK);
        assert_int_equal(merge_list_init(&list, &arena, k, NULL), KITH_OK);
        for (uint32_t slice = 0; slice < n_slices; slice++) {
            struct kith_hit *part = kith_arena_array(&arena, n + 1, sizeof(*part));
            uint32_t m = 0;
            for (uint32_t i = 0; i < n; i++)
                if (kith_id_slice(&all[i].id, n_slices) == slice)
                    part[m++] = all[i];
            qsort(part, m, sizeof(*part), by_order);
            m = m < k ? m : k;
            struct merge_source source = {&slice, 1, n_slices};
            assert_int_equal(merge_add(&list, pack(&arena, part, m), m, &source, &scratch, NULL),
                             KITH_OK);
        }
        qsort(all, n, sizeof(*all), by_order);
        assert_int_equal(list.n, n < k ? n : k);
        for (uint32_t i = 0; i < list.n; i++)
            assert_true(kith_id_equal(&list.hits[i].id, &all[i].id));
        kith_arena_fini(&arena);
    }
}

static enum kith_err add_one(const struct kith_hit *hits, uint32_t n, uint32_t k,
                             const uint32_t *slices, uint32_t n_slices, uint32_t *left)
{
    struct kith_arena arena = {.chunks = NULL};
    struct merge_scratch scratch;
    struct merge_list list;
    struct kith_hit kept = {.id = kith_id_number(1), .rank = 5};
    uint32_t all[] = {0, 1, 2, 3};
    struct merge_source everything = {all, 4, 4};
    assert_int_equal(merge_scratch_init(&scratch, &arena, k, NULL), KITH_OK);
    assert_int_equal(merge_list_init(&list, &arena, k, NULL), KITH_OK);
    assert_int_equal(merge_add(&list, pack(&arena, &kept, 1), 1, &everything, &scratch, NULL),
                     KITH_OK);
    struct merge_source source = {slices, n_slices, 4};
    enum kith_err err = merge_add(&list, pack(&arena, hits, n), n, &source, &scratch, NULL);
    *left = list.n;
    assert_true(kith_id_equal(&list.hits[0].id, &kept.id) || !err);
    kith_arena_fini(&arena);
    return err;
}

static void test_merge_refuses_what_no_honest_node_sends(void **state)
{
    (void)state;
    uint32_t all[] = {0, 1, 2, 3}, left;
    struct kith_hit twice[] = {{.id = kith_id_number(7), .rank = 3},
                               {.id = kith_id_number(8), .rank = 2},
                               {.id = kith_id_number(7), .rank = 1}};
    struct kith_hit unsorted[] = {{.id = kith_id_number(7), .rank = 1},
                                  {.id = kith_id_number(8), .rank = 2}};
    struct kith_hit ties[] = {{.id = kith_id_number(8), .rank = 1},
                              {.id = kith_id_number(7), .rank = 1}};
    struct kith_hit nan[] = {{.id = kith_id_number(8), .rank = NAN}};
    struct kith_hit good[] = {{.id = kith_id_number(7), .rank = 1},
                              {.id = kith_id_number(8), .rank = 1}};
    assert_int_equal(add_one(good, 2, 10, all, 4, &left), KITH_OK);
    assert_int_equal(left, 3);
    assert_int_equal(add_one(twice, 3, 10, all, 4, &left), KITH_PROTOCOL);
    assert_int_equal(left, 1);
    assert_int_equal(add_one(unsorted, 2, 10, all, 4, &left), KITH_PROTOCOL);
    assert_int_equal(add_one(ties, 2, 10, all, 4, &left), KITH_PROTOCOL);
    assert_int_equal(add_one(nan, 1, 10, all, 4, &left), KITH_PROTOCOL);
    assert_int_equal(add_one(good, 2, 1, all, 4, &left), KITH_PROTOCOL);
    uint32_t other = (kith_id_slice(&good[0].id, 4) + 1) % 4;
    assert_int_equal(add_one(good, 1, 10, &other, 1, &left), KITH_PROTOCOL);
}

static void test_merge_scores_are_what_users_see(void **state)
{
    (void)state;
    assert_true(merge_score(KITH_COSINE, 0.25F) == 0.25F);
    assert_true(merge_score(KITH_EUCLID, -9.0F) == 3.0F);
    assert_true(merge_score(KITH_MANHATTAN, -9.0F) == 9.0F);
    assert_true(merge_score(KITH_EUCLID, 0.0F) == 0.0F);
    assert_true(merge_score(KITH_DOT, INFINITY) == FLT_MAX);
    assert_true(merge_score(KITH_EUCLID, -INFINITY) <= FLT_MAX);
}

/* A score from an answer, used as the threshold of the next search, keeps its point. */
static void test_merge_threshold_keeps_the_score_it_came_from(void **state)
{
    (void)state;
    for (int i = 1; i < 100000; i++) {
        float rank = -(float)i * 0.00137F;
        for (enum kith_metric metric = KITH_COSINE; metric <= KITH_MANHATTAN; metric++) {
            float score = merge_score(metric, rank);
            assert_true(rank >= merge_threshold(metric, score));
            assert_true(merge_passes(metric, score, score));
        }
    }
    assert_true(merge_threshold(KITH_EUCLID, -1.0F) == FLT_MAX);
}

static void test_merge_survives_each_oom(void **state)
{
    (void)state;
    for (long n = 0; n < 8; n++) {
        struct kith_arena arena = {.chunks = NULL};
        struct merge_scratch scratch;
        struct merge_list list;
        kith_mem_fail_after(n);
        enum kith_err err = merge_scratch_init(&scratch, &arena, 10000, NULL);
        if (!err)
            err = merge_list_init(&list, &arena, 10000, NULL);
        kith_mem_fail_after(-1);
        assert_true(err == KITH_OK || err == KITH_NOMEM);
        kith_arena_fini(&arena);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_merge_equals_sorting_everything),
        cmocka_unit_test(test_merge_refuses_what_no_honest_node_sends),
        cmocka_unit_test(test_merge_scores_are_what_users_see),
        cmocka_unit_test(test_merge_threshold_keeps_the_score_it_came_from),
        cmocka_unit_test(test_merge_survives_each_oom),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
