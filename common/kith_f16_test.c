#include "common/kith_f16.h"

#include <math.h>
#include <setjmp.h>
#include <stdbool.h>
#include <stdarg.h>
#include <string.h>
#include <cmocka.h>

static void test_f16_every_half_survives_the_way_there_and_back(void **state)
{
    (void)state;
    for (uint32_t half = 0; half <= 0xffff; half++) {
        uint16_t in[9], back[9];
        float wide[9];
        for (int i = 0; i < 9; i++)
            in[i] = (uint16_t)half;
        kith_f16_unpack(wide, in, 9);
        kith_f16_pack(back, wide, 9);
        bool nan = (half & 0x7c00) == 0x7c00 && (half & 0x3ff) != 0;
        uint16_t want = (uint16_t)(nan ? half | 0x200 : half);
        assert_int_equal(kith_f16_from_f32(kith_f16_to_f32((uint16_t)half)), want);
        assert_int_equal(back[0], want); /* the instruction */
        assert_int_equal(back[8], want); /* the tail */
    }
}

/* The instruction (positions 0-7) and the plain code (8) agree on floats around every rounding
 * border: each half's float, the one halfway to the next, and their neighbours. */
static void test_f16_rounds_as_the_instruction_does(void **state)
{
    (void)state;
    for (uint32_t half = 0; half < 0x7c00; half++) {
        float here = kith_f16_to_f32((uint16_t)half);
        float next = half == 0x7bff ? 65536.0f : kith_f16_to_f32((uint16_t)(half + 1));
        float middle = here + (next - here) / 2;
        float try[9] = {here,
                        nextafterf(here, INFINITY),
                        middle,
                        nextafterf(middle, 0),
                        nextafterf(middle, INFINITY),
                        -middle,
                        nextafterf(next, 0),
                        -here,
                        here};
        uint16_t packed[9];
        kith_f16_pack(packed, try, 9);
        for (int i = 0; i < 9; i++)
            assert_int_equal(packed[i], kith_f16_from_f32(try[i]));
        uint16_t even = (uint16_t)(half + (half & 1));
        assert_int_equal(kith_f16_from_f32(middle), even);
    }
    assert_int_equal(kith_f16_from_f32(KITH_F16_MAX), 0x7bff);
    assert_int_equal(kith_f16_from_f32(1e30f), 0x7c00);
}

/* The textbook way, by doubles: the nearest representable value, ties to even. */
static uint16_t half_by_search(float value)
{
    uint16_t sign = signbit(value) ? 0x8000u : 0;
    double x = fabs((double)value);
    uint16_t low = 0, high = 0x7c00u; /* half bits order like their values */
    while (high - low > 1) {
        uint16_t middle = (uint16_t)((low + high) / 2);
        if ((double)kith_f16_to_f32(middle) <= x)
            low = middle;
        else
            high = middle;
    }
    double below = (double)kith_f16_to_f32(low);
    double above = high == 0x7c00u ? 65536.0 : (double)kith_f16_to_f32(high);
    uint16_t nearest;
    if (x - below < above - x)
        nearest = low;
    else if (x - below > above - x)
        nearest = high;
    else
        nearest = (low & 1) == 0 ? low : high;
    return (uint16_t)(sign | nearest);
}

static void test_f16_rounds_to_the_nearest(void **state)
{
    (void)state;
    for (uint32_t bits = 0; bits < 0x7f800000u; bits += 4099) {
        float value;
        memcpy(&value, &bits, 4);
        if (kith_f16_from_f32(value) != half_by_search(value) ||
            kith_f16_from_f32(-value) != half_by_search(-value))
            fail_msg("%a: %04x, not %04x", (double)value, kith_f16_from_f32(value),
                     half_by_search(value));
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_f16_every_half_survives_the_way_there_and_back),
        cmocka_unit_test(test_f16_rounds_as_the_instruction_does),
        cmocka_unit_test(test_f16_rounds_to_the_nearest),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
