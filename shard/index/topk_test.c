#include "shard/index/topk.h"

#include <float.h>
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <time.h>
#include <cmocka.h>

#include "common/kith_testing.h"

static int by_order(const void *a, const void *b)
{
    return topk_compare(a, b);
}

#define N_MAX 600u

/* Few different ranks, so nearly everything ties; ids of both kinds. */
static uint32_t random_hits(struct kith_hit *hits)
{
    uint32_t n = random_u32() % N_MAX, ranks = 1 + random_u32() % 8;
    for (uint32_t i = 0; i < n; i++) {
        hits[i] = (struct kith_hit){.rank = (float)(random_u32() % ranks), .seq = random_u32()};
        hits[i].id.lo = i;
        hits[i].id.is_uuid = random_u32() % 2;
        hits[i].id.hi = hits[i].id.is_uuid ? random_u32() % 3 : 0;
    }
    for (uint32_t i = n; i > 1; i--) {
        uint32_t j = random_u32() % i;
        struct kith_hit swap = hits[i - 1];
        hits[i - 1] = hits[j];
        hits[j] = swap;
    }
    return n;
}

static void check_round(void)
{
    static struct kith_hit hits[N_MAX], memory[5][N_MAX];
    uint32_t n = random_hits(hits), k = 1 + random_u32() % N_MAX;
    float floor = random_u32() % 2 == 0 ? -FLT_MAX : (float)(random_u32() % 8);
    struct topk part[5];
    uint32_t parts = 1 + random_u32() % 4;
    for (uint32_t p = 0; p < 5; p++)
        topk_init(&part[p], k, floor, memory[p]);
    for (uint32_t i = 0; i < n; i++)
        (void)topk_push(&part[random_u32() % parts], &hits[i]);
    for (uint32_t p = 0; p < parts; p++)
        topk_merge(&part[4], &part[p]);
    topk_sort(&part[4]);

    qsort(hits, n, sizeof hits[0], by_order);
    uint32_t want = 0;
    while (want < n && want < k && hits[want].rank >= floor)
        want++;
    assert_int_equal(part[4].n, want);
    for (uint32_t i = 0; i < want; i++) {
        assert_true(kith_id_equal(&part[4].hits[i].id, &hits[i].id));
        assert_int_equal(part[4].hits[i].seq, hits[i].seq);
    }
}

static void test_topk_is_a_sort_however_it_is_split(void **state)
{
    (void)state;
    uint64_t first = test_env("KITH_SEED", (uint64_t)time(NULL) * 10000);
    for (uint64_t round = 0; round < 4000; round++) {
        random_begin(first + round);
        check_round();
    }
}

static void test_topk_ignores_nan_and_takes_the_worst_rank(void **state)
{
    (void)state;
    struct kith_hit memory[3], hit = {.rank = NAN};
    struct topk top;
    topk_init(&top, 3, -FLT_MAX, memory);
    assert_false(topk_push(&top, &hit));
    hit.rank = -FLT_MAX;
    assert_true(topk_push(&top, &hit));
    assert_int_equal(top.n, 1);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_teardown(test_topk_is_a_sort_however_it_is_split, random_say_seed),
        cmocka_unit_test(test_topk_ignores_nan_and_takes_the_worst_rank),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
