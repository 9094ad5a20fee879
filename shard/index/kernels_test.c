#include "shard/index/kernels.h"

#include <float.h>
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>
#include <cmocka.h>

#include "common/kith_f16.h"
#include "common/kith_testing.h"
#include "shard/index/kernels_sum.h"

#define DIM_MAX 1025u
#define ROWS    3u

static float random_bits(void)
{
    uint32_t bits = random_u32();
    float value;
    memcpy(&value, &bits, sizeof value);
    return value;
}

/* Memory that ends where reading becomes a fault: a kernel that reads one byte too many dies. */
#define FENCED_BYTES 65536u
static uint8_t *fenced;

static int set_up(void **state)
{
    fenced = test_fence(FENCED_BYTES);
    return fenced != NULL ? random_set_up(state) : -1;
}

/* Rows that end `gap` bytes before the fence, of the values given. */
static struct kernels_rows place(const float *values, uint32_t dim, enum kernels_type type,
                                 uint32_t gap)
{
    size_t n = (size_t)dim * ROWS;
    uint8_t *at = fenced - gap - n * (type == KERNELS_F16 ? 2 : 4);
    if (type == KERNELS_F32) {
        memcpy(at, values, n * 4);
    } else {
        uint16_t halves[DIM_MAX * ROWS];
        kith_f16_pack(halves, values, n);
        memcpy(at, halves, n * 2);
    }
    return (struct kernels_rows){at, dim};
}

static void compare_with_scalar(const float *query, struct kernels_rows rows,
                                enum kernels_type type)
{
    static const uint32_t list[ROWS] = {2, 0, 1};
    for (uint32_t v = 1; kernels_variant(v) != NULL; v++) {
        const struct kernels *variant = kernels_variant(v);
        for (int form = 0; form < KERNELS_FORMS; form++) {
            float want[ROWS], got[ROWS], picked[ROWS];
            kernels_scalar.scan[form][type](query, rows, ROWS, want);
            variant->scan[form][type](query, rows, ROWS, got);
            variant->pick[form][type](query, rows, list, ROWS, picked);
            for (uint32_t i = 0; i < ROWS; i++)
                if (!(want[i] == got[i] && want[list[i]] == picked[i] && isfinite(want[i])))
                    fail_msg("%s form %d type %d dim %u row %u: %a, scalar says %a", variant->name,
                             form, (int)type, rows.dim, i, (double)got[i], (double)want[i]);
        }
        if (type == KERNELS_F32) {
            float want[ROWS], got[ROWS];
            kernels_scalar.norms(rows, ROWS, want);
            variant->norms(rows, ROWS, got);
            for (uint32_t i = 0; i < ROWS; i++)
                assert_true(want[i] == got[i] || (isnan(want[i]) && isnan(got[i])));
        }
    }
}

static void test_kernels_agree_to_the_bit_at_every_length(void **state)
{
    (void)state;
    float values[DIM_MAX * ROWS], query[DIM_MAX];
    for (uint32_t dim = 1; dim <= DIM_MAX; dim++) {
        for (uint32_t i = 0; i < dim * ROWS; i++)
            values[i] = random_unit();
        for (uint32_t i = 0; i < dim; i++)
            query[i] = random_unit();
        for (int type = 0; type < KERNELS_TYPES; type++) {
            enum kernels_type t = (enum kernels_type)type;
            compare_with_scalar(query, place(values, dim, t, dim % 64), t);
        }
    }
}

/* Any bits: NaN, infinities, subnormals, sums that overflow. */
static void test_kernels_agree_on_extreme_values(void **state)
{
    (void)state;
    static const float odd[] = {0.0f, -0.0f, FLT_MAX, -FLT_MAX, FLT_MIN, FLT_TRUE_MIN, 65504.0f};
    float values[DIM_MAX * ROWS], query[DIM_MAX];
    for (uint32_t round = 0; round < 3000; round++) {
        uint32_t dim = 1 + random_u32() % 200;
        bool any_bits = round % 2 == 0;
        for (uint32_t i = 0; i < dim * ROWS; i++)
            values[i] = any_bits ? random_bits() : odd[random_u32() % 7];
        for (uint32_t i = 0; i < dim; i++)
            query[i] = any_bits ? random_bits() : odd[random_u32() % 7];
        for (int type = 0; type < KERNELS_TYPES; type++) {
            enum kernels_type t = (enum kernels_type)type;
            compare_with_scalar(query, place(values, dim, t, random_u32() % 64), t);
        }
    }
}

static void test_kernels_stay_within_the_error_bound(void **state)
{
    (void)state;
    float values[DIM_MAX * ROWS], query[DIM_MAX];
    for (uint32_t dim = 1; dim <= DIM_MAX; dim += 31) {
        for (uint32_t i = 0; i < dim * ROWS; i++)
            values[i] = random_unit();
        for (uint32_t i = 0; i < dim; i++)
            query[i] = random_unit();
        struct kernels_rows rows = {values, dim};
        float ip[ROWS], l2[ROWS], l1[ROWS];
        const struct kernels *best = kernels_best();
        best->scan[KERNELS_IP][KERNELS_F32](query, rows, ROWS, ip);
        best->scan[KERNELS_L2][KERNELS_F32](query, rows, ROWS, l2);
        best->scan[KERNELS_L1][KERNELS_F32](query, rows, ROWS, l1);
        for (uint32_t r = 0; r < ROWS; r++) {
            double dot = 0, size = 0, square = 0, city = 0;
            for (uint32_t i = 0; i < dim; i++) {
                double x = (double)query[i], y = (double)values[r * dim + i];
                dot += x * y;
                size += fabs(x * y);
                square += (x - y) * (x - y);
                city += fabs(x - y);
            }
            double gamma = kernels_gamma(dim + 3); /* the difference itself is rounded too */
            assert_true(fabs((double)ip[r] - dot) <= gamma * size);
            assert_true(fabs((double)-l2[r] - square) <= gamma * square);
            assert_true(fabs((double)-l1[r] - city) <= gamma * city);
        }
    }
}

static void test_kernels_overflow_is_the_farthest_or_the_nearest(void **state)
{
    (void)state;
    float query[2] = {FLT_MAX, FLT_MAX};
    float both[2] = {FLT_MAX, -FLT_MAX}, up[2] = {FLT_MAX, 1};
    float rank;
    for (uint32_t v = 0; kernels_variant(v) != NULL; v++) {
        const struct kernels *k = kernels_variant(v);
        k->scan[KERNELS_IP][KERNELS_F32](query, (struct kernels_rows){both, 2}, 1, &rank);
        assert_true(rank == -FLT_MAX); /* inf - inf */
        k->scan[KERNELS_IP][KERNELS_F32](query, (struct kernels_rows){up, 2}, 1, &rank);
        assert_true(rank == FLT_MAX);
        k->scan[KERNELS_L2][KERNELS_F32](query, (struct kernels_rows){both, 2}, 1, &rank);
        assert_true(rank == -FLT_MAX);
    }
}

static void test_kernels_select_finds_what_is_not_below(void **state)
{
    (void)state;
    for (uint32_t round = 0; round < 2000; round++) {
        float ranks[100];
        uint32_t n = random_u32() % 100;
        for (uint32_t i = 0; i < n; i++)
            ranks[i] = random_u32() % 9 == 0 ? NAN : (float)(random_u32() % 5);
        float bound = random_u32() % 9 == 0 ? -FLT_MAX : (float)(random_u32() % 6);
        uint32_t want[100 + KERNELS_SELECT_SLACK], got[100 + KERNELS_SELECT_SLACK];
        uint32_t n_want = kernels_scalar.select(ranks, n, bound, want);
        for (uint32_t v = 1; kernels_variant(v) != NULL; v++) {
            assert_int_equal(kernels_variant(v)->select(ranks, n, bound, got), n_want);
            assert_memory_equal(got, want, n_want * sizeof want[0]);
        }
    }
}

static void test_kernels_choose_finds_each_querys_rows(void **state)
{
    (void)state;
    static float values[50 * 40], minus[50], bounds[40];
    static uint32_t want[50 * 40], got[50 * 40], n_want[40], n_got[40];
    for (uint32_t round = 0; round < 500; round++) {
        struct kernels_products products = {values, random_u32() % 2 == 0 ? minus : NULL,
                                            random_u32() % 50, 1 + random_u32() % 40};
        for (uint32_t i = 0; i < products.n_rows * products.n_queries; i++)
            values[i] = random_u32() % 9 == 0 ? NAN : (float)(random_u32() % 9);
        for (uint32_t i = 0; i < products.n_rows; i++)
            minus[i] = (float)(random_u32() % 3);
        for (uint32_t i = 0; i < products.n_queries; i++)
            bounds[i] = random_u32() % 9 == 0 ? -INFINITY : (float)(random_u32() % 9);
        kernels_scalar.choose(&products, bounds, n_want, want);
        for (uint32_t v = 1; kernels_variant(v) != NULL; v++) {
            kernels_variant(v)->choose(&products, bounds, n_got, got);
            for (uint32_t q = 0; q < products.n_queries; q++) {
                assert_int_equal(n_got[q], n_want[q]);
                assert_memory_equal(got + (size_t)q * products.n_rows,
                                    want + (size_t)q * products.n_rows, n_want[q] * sizeof *want);
            }
        }
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_kernels_agree_to_the_bit_at_every_length),
        cmocka_unit_test(test_kernels_agree_on_extreme_values),
        cmocka_unit_test(test_kernels_stay_within_the_error_bound),
        cmocka_unit_test(test_kernels_overflow_is_the_farthest_or_the_nearest),
        cmocka_unit_test(test_kernels_select_finds_what_is_not_below),
        cmocka_unit_test(test_kernels_choose_finds_each_querys_rows),
    };
    return cmocka_run_group_tests(tests, set_up, NULL);
}
