#include "shard/storage/row_codec.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <string.h>
#include <cmocka.h>

#include "common/kith_f16.h"

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

/* Rows are converted in pieces; none is left out, and the end of a row is not overrun. */
static void test_row_codec_rounds_each_value_of_a_row(void **state)
{
    (void)state;
    enum { DIM = 601 };
    float vector[DIM], decoded[DIM];
    uint16_t row[DIM + 1];
    for (uint32_t i = 0; i < DIM; i++)
        vector[i] = ((float)i - 300.3f) * 0.37f;
    for (uint32_t dim = 1; dim <= DIM; dim += 50) {
        struct slice_config config = {.dim = dim, .metric = KITH_EUCLID, .rows = KITH_ROWS_F16};
        assert_int_equal(row_codec_bytes(&config), dim * 2);
        row[dim] = 0xabcd;
        row_codec_encode(&config, bytes_of(vector, dim), row);
        assert_int_equal(row[dim], 0xabcd);
        row_codec_decode(&config, row, decoded);
        for (uint32_t i = 0; i < dim; i++) {
            assert_int_equal(row[i], kith_f16_from_f32(vector[i]));
            assert_true(decoded[i] == kith_f16_to_f32(row[i]));
        }
    }
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
        cmocka_unit_test(test_row_codec_normalises_once),
        cmocka_unit_test(test_row_codec_rounds_each_value_of_a_row),
        cmocka_unit_test(test_row_codec_refuses_what_cannot_be_stored),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
