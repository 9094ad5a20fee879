#include "shard/index/build_kernels.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <cmocka.h>

#include "common/kith_testing.h"

#define EACH(kernels_)                                                                             \
    for (const struct build_kernels *kernels_ = build_kernels_variant(v = 0); kernels_ != NULL;    \
         kernels_ = build_kernels_variant(++v))

static void test_build_kernels_find_the_first_of_the_largest(void **state)
{
    (void)state;
    uint32_t v;
    float values[300];
    for (uint32_t n = 1; n <= 300; n++) {
        uint32_t best = 0;
        for (uint32_t i = 0; i < n; i++) {
            values[i] = n % 3 == 0 ? (float)(random_u32() % 5) : random_unit();
            best = values[i] > values[best] ? i : best;
        }
        EACH(kernels)
        assert_int_equal(kernels->largest(values, n), best);
        for (uint32_t i = 0; i < n; i++)
            values[i] = NAN;
        EACH(kernels)
        assert_true(kernels->largest(values, n) < n);
    }
}

static void test_build_kernels_add_squares(void **state)
{
    (void)state;
    uint32_t v;
    float values[200];
    for (uint32_t n = 0; n <= 200; n++) {
        double want = 0.0;
        for (uint32_t i = 0; i < n; i++) {
            values[i] = random_unit();
            want += (double)values[i] * (double)values[i];
        }
        EACH(kernels)
        assert_true(fabs((double)kernels->square(values, n) - want) < 1e-5 * (1.0 + want));
    }
}

static double distance(const float *block, const float *words, uint32_t sub_dim, uint32_t row,
                       uint32_t word)
{
    double sum = 0.0;
    for (uint32_t j = 0; j < sub_dim; j++) {
        double gap = (double)block[j * BUILD_LANES + row] - (double)words[j * BUILD_WORDS + word];
        sum += gap * gap;
    }
    return sum;
}

static void test_build_kernels_choose_the_nearest_word(void **state)
{
    (void)state;
    uint32_t v;
    float block[8 * BUILD_LANES], words[8 * BUILD_WORDS], halves[BUILD_WORDS];
    uint8_t codes[BUILD_LANES];
    for (uint32_t round = 0; round < 100; round++) {
        uint32_t sub_dim = 1 + round % 8;
        for (uint32_t i = 0; i < sub_dim * BUILD_LANES; i++)
            block[i] = random_unit();
        for (uint32_t i = 0; i < sub_dim * BUILD_WORDS; i++)
            words[i] = random_unit();
        for (uint32_t k = 0; k < BUILD_WORDS; k++) {
            halves[k] = 0.0f;
            for (uint32_t j = 0; j < sub_dim; j++)
                halves[k] += words[j * BUILD_WORDS + k] * words[j * BUILD_WORDS + k] / 2;
        }
        EACH(kernels)
        {
            kernels->encode(block, words, halves, sub_dim, codes);
            for (uint32_t r = 0; r < BUILD_LANES; r++) {
                double got = distance(block, words, sub_dim, r, codes[r]);
                for (uint32_t k = 0; k < BUILD_WORDS; k++)
                    assert_true(got <= distance(block, words, sub_dim, r, k) + 1e-5);
            }
        }
    }
}

static void test_build_kernels_round_to_bytes(void **state)
{
    (void)state;
    uint32_t v;
    float values[130];
    uint8_t bytes[130];
    for (uint32_t n = 0; n <= 130; n++) {
        for (uint32_t i = 0; i < n; i++)
            values[i] = random_unit();
        EACH(kernels)
        {
            kernels->bytes(values, n, 127.0f, bytes);
            for (uint32_t i = 0; i < n; i++)
                assert_true(fabs((double)bytes[i] - 128.0 - 127.0 * (double)values[i]) < 0.501);
        }
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_build_kernels_find_the_first_of_the_largest),
        cmocka_unit_test(test_build_kernels_add_squares),
        cmocka_unit_test(test_build_kernels_choose_the_nearest_word),
        cmocka_unit_test(test_build_kernels_round_to_bytes),
    };
    return cmocka_run_group_tests(tests, random_set_up, NULL);
}
