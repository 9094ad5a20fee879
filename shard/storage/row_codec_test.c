#include "shard/storage/row_codec.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <string.h>
#include <cmocka.h>

/* The textbook way, by doubles: the nearest representable value, ties to even. */
static uint16_t half_by_search(float value)
{
    uint16_t sign = signbit(value) ? 0x8000u : 0;
    double x = fabs((double)value);
    uint16_t low = 0, high = 0x7c00u; /* half bits order like their values */
    while (high - low > 1) {
        uint16_t middle = (uint16_t)((low + high) / 2);
        if ((double)row_codec_float(middle) <= x)
            low = middle;
        else
            high = middle;
    }
    double below = (double)row_codec_float(low);
    double above = high == 0x7c00u ? 65536.0 : (double)row_codec_float(high);
    uint16_t nearest;
    if (x - below < above - x)
        nearest = low;
    else if (x - below > above - x)
        nearest = high;
    else
        nearest = (low & 1) == 0 ? low : high;
    return (uint16_t)(sign | nearest);
}

static void test_row_codec_half_is_the_nearest(void **state)
{
    (void)state;
    for (uint32_t bits = 0; bits < 0x7f800000u; bits += 4099) {
        float value;
        memcpy(&value, &bits, 4);
        if (row_codec_half(value) != half_by_search(value) ||
            row_codec_half(-value) != half_by_search(-value))
            fail_msg("%a: %04x, not %04x", (double)value, row_codec_half(value),
                     half_by_search(value));
    }
}

static void test_row_codec_half_and_back(void **state)
{
    (void)state;
    for (uint32_t half = 0; half < 0x10000u; half++) {
        float value = row_codec_float((uint16_t)half);
        if (!isnan(value))
            assert_int_equal(row_codec_half(value), half);
        else
            assert_true(isnan(row_codec_float(row_codec_half(value))));
    }
}

static struct kith_bytes bytes_of(const float *vector, size_t n)
{
    return (struct kith_bytes){(const uint8_t *)vector, n * sizeof *vector};
}

static void test_row_codec_normalises_once(void **state)
{
    (void)state;
    struct slice_config config = {.dim = 3, .metric = KITH_COSINE, .rows = KITH_ROWS_F32};
    float row[3], again[3];
    const float vector[3] = {3e30f, 4e30f, 0};
    row_codec_encode(&config, bytes_of(vector, 3), row);
    assert_float_equal(row[0], 0.6f, 1e-6);
    assert_float_equal(row[1], 0.8f, 1e-6);
    row_codec_encode(&config, bytes_of(row, 3), again);
    assert_memory_equal(row, again, sizeof row);
    const float zero[3] = {0, 0, 0};
    assert_int_equal(row_codec_check(&config, bytes_of(zero, 3), NULL), KITH_OK);
    row_codec_encode(&config, bytes_of(zero, 3), row);
    assert_memory_equal(row, zero, sizeof row);
}

static void test_row_codec_refuses_what_cannot_be_stored(void **state)
{
    (void)state;
    struct slice_config config = {.dim = 2, .metric = KITH_DOT, .rows = KITH_ROWS_F16};
    const float bad[][2] = {{1, NAN}, {INFINITY, 0}, {0, -INFINITY}};
    for (int i = 0; i < 3; i++)
        assert_int_equal(row_codec_check(&config, bytes_of(bad[i], 2), NULL), KITH_BAD_REQUEST);
    const float large[2] = {0, -70000};
    assert_int_equal(row_codec_check(&config, bytes_of(large, 2), NULL), KITH_UNPROCESSABLE);
    config.rows = KITH_ROWS_F32;
    assert_int_equal(row_codec_check(&config, bytes_of(large, 2), NULL), KITH_OK);
    assert_int_equal(row_codec_check(&config, bytes_of(large, 1), NULL), KITH_BAD_REQUEST);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_row_codec_half_is_the_nearest),
        cmocka_unit_test(test_row_codec_half_and_back),
        cmocka_unit_test(test_row_codec_normalises_once),
        cmocka_unit_test(test_row_codec_refuses_what_cannot_be_stored),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
