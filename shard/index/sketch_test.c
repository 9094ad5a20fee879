#include "shard/index/sketch.h"

#include <float.h>
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include "common/kith_mem.h"
#include "common/kith_testing.h"

#define ROWS 700u /* not a multiple of anything */

struct set {
    uint32_t dim;
    enum kith_metric metric;
    enum kernels_form form;
    struct head_sketch sketch;
    float *rows, *query, *ranks;
    uint8_t *sketches;
};

static struct set set_new(enum kith_metric metric, uint32_t dim)
{
    struct slice_config config = {.dim = dim, .metric = metric, .rows = KITH_ROWS_F32};
    struct set set = {.dim = dim, .metric = metric, .form = kernels_form_of(metric)};
    sketch_of(&config, &set.sketch);
    assert_true(set.sketch.bytes > 0);
    set.rows = kith_xalloc((size_t)ROWS * dim * sizeof(float));
    set.query = kith_xalloc(dim * sizeof(float));
    set.ranks = kith_xalloc(ROWS * sizeof(float));
    set.sketches = kith_alloc_aligned(64, (size_t)ROWS * set.sketch.bytes);
    return set;
}

static void set_free(struct set *set)
{
    kith_free(set->rows);
    kith_free(set->query);
    kith_free(set->ranks);
    kith_free(set->sketches);
}

static void sketch_all(struct set *set)
{
    for (uint32_t i = 0; i < ROWS; i++)
        set->sketch.make(set->rows + (size_t)i * set->dim, set->dim * sizeof(float),
                         set->sketches + (size_t)i * set->sketch.bytes);
    kernels_best()->scan[set->form][KERNELS_F32](
        set->query, (struct kernels_rows){set->rows, set->dim}, ROWS, set->ranks);
}

/* How many are chosen at this floor; all that reach it are among them, in order. */
static uint32_t check(struct set *set, float floor)
{
    static uint32_t list[ROWS + KERNELS_SELECT_SLACK];
    static struct sketch_query query;
    assert_true(sketch_query_init(&query, set->form, set->query, set->dim));
    uint32_t n = sketch_choose(&query, set->sketches, ROWS, floor, list), at = 0;
    assert_true(n <= ROWS);
    for (uint32_t i = 1; i < n; i++)
        assert_true(list[i - 1] < list[i]);
    for (uint32_t i = 0; i < ROWS; i++) {
        while (at < n && list[at] < i)
            at++;
        if (set->ranks[i] >= floor)
            assert_true(at < n && list[at] == i);
    }
    return n;
}

static int descending(const void *a, const void *b)
{
    float x = *(const float *)a, y = *(const float *)b;
    return x > y ? -1 : x < y;
}

static float rank_at(const struct set *set, uint32_t k)
{
    float sorted[ROWS];
    memcpy(sorted, set->ranks, sizeof sorted);
    qsort(sorted, ROWS, sizeof *sorted, descending);
    return sorted[k];
}

/* Ties, rows far from the origin, wide ranges, what floats hardly hold, rows and queries of 0. */
static float random_value(uint32_t flavour)
{
    float unit = random_unit() - 0.5f;
    switch (flavour) {
    case 0:
        return (float)(random_u32() % 3) - 1.0f;
    case 1:
        return 1000.0f + unit;
    case 2:
        return unit * 1e19f;
    case 3:
        return unit * 1e-33f;
    case 4:
        return ldexpf(unit, (int)random_below(40) - 20);
    case 5:
        return random_below(50) == 0 ? unit : 0;
    default:
        return unit;
    }
}
#define FLAVOURS 7u

static void fill(struct set *set, uint32_t flavour, uint32_t query_flavour)
{
    for (size_t i = 0; i < (size_t)ROWS * set->dim; i++)
        set->rows[i] = random_value(random_below(20) == 0 ? FLAVOURS : flavour);
    memset(set->rows + (size_t)random_below(ROWS) * set->dim, 0, set->dim * sizeof(float));
    for (uint32_t i = 0; i < set->dim; i++)
        set->query[i] = random_value(query_flavour);
    set->query[random_below(set->dim)] += query_flavour == 3 ? 1e-29f : 1.0f;
    if (random_below(3) == 0) /* one of the rows */
        memcpy(set->query, set->rows + (size_t)random_below(ROWS) * set->dim,
               set->dim * sizeof(float));
}

static bool has_values(const struct set *set)
{
    static struct sketch_query query;
    return sketch_query_init(&query, set->form, set->query, set->dim);
}

static void test_sketch_leaves_out_nothing_that_may_be_a_hit(void **state)
{
    static const enum kith_metric metrics[] = {KITH_DOT, KITH_EUCLID};
    static const uint32_t dims[] = {1, 7, 64, 100, 128, 515};
    (void)state;
    for (uint32_t round = 0; round < TEST_SCALE(120, 30); round++) {
        struct set set = set_new(metrics[round % 2], dims[random_below(6)]);
        uint32_t flavour = random_below(FLAVOURS + 1);
        fill(&set, flavour, random_below(2) == 0 ? flavour : random_below(FLAVOURS + 1));
        sketch_all(&set);
        for (uint32_t k = 1; k < ROWS && has_values(&set); k *= 4) {
            float floor = rank_at(&set, k);
            (void)check(&set, floor);
            (void)check(&set, nextafterf(floor, FLT_MAX));
        }
        set_free(&set);
    }
}

/* Or it would be of no use: rows and query of a length, as a cosine has them. */
static void test_sketch_leaves_out_nearly_all(void **state)
{
    (void)state;
    for (uint32_t m = 0; m < 2; m++) {
        struct set set = set_new(m == 0 ? KITH_COSINE : KITH_EUCLID, 128);
        fill(&set, FLAVOURS, FLAVOURS);
        set.query[0] = 0.1f;
        sketch_all(&set);
        assert_in_range(check(&set, rank_at(&set, 9)), 10, 70);
        set_free(&set);
    }
}

static void test_sketch_says_where_it_is_of_no_use(void **state)
{
    static struct sketch_query query;
    struct slice_config config = {.dim = 128, .metric = KITH_MANHATTAN, .rows = KITH_ROWS_F32};
    struct head_sketch sketch;
    float zeros[128] = {0};
    (void)state;
    sketch_of(&config, &sketch);
    assert_int_equal(sketch.bytes, 0);
    config = (struct slice_config){.dim = 128, .metric = KITH_DOT, .rows = KITH_ROWS_F16};
    sketch_of(&config, &sketch);
    assert_int_equal(sketch.bytes, 0);
    config =
        (struct slice_config){.dim = SKETCH_DIM_MIN - 1, .metric = KITH_DOT, .rows = KITH_ROWS_F32};
    sketch_where_it_pays(&config, &sketch);
    assert_int_equal(sketch.bytes, 0);
    config.dim++;
    sketch_where_it_pays(&config, &sketch);
    assert_true(sketch.bytes > 0);
    assert_false(sketch_query_init(&query, KERNELS_IP, zeros, 128));
    zeros[5] = 1e30f;
    assert_false(sketch_query_init(&query, KERNELS_IP, zeros, 128));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_sketch_leaves_out_nothing_that_may_be_a_hit),
        cmocka_unit_test(test_sketch_leaves_out_nearly_all),
        cmocka_unit_test(test_sketch_says_where_it_is_of_no_use),
    };
    return cmocka_run_group_tests(tests, random_set_up, NULL);
}
