#include "shard/storage/write_pace.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdlib.h>
#include <cmocka.h>

#include "proto/kith_limits.h"

#define HEADS_MAX 3u
#define PAUSE_MAX (KITH_WRITE_PAUSE_MS_MAX * 1000u)

static uint32_t pace(uint32_t heads, float fill, uint32_t segments)
{
    return write_pace_us(&(struct write_debt){heads, HEADS_MAX, fill, segments});
}

static void test_write_pace_is_free_in_daily_life(void **state)
{
    (void)state;
    assert_int_equal(pace(0, 0, 0), 0);
    assert_int_equal(pace(1, 0.9f, 24), 0);
    assert_int_equal(pace(0, 1.5f, 40), 0);
}

static void test_write_pace_rises_to_its_limit(void **state)
{
    (void)state;
    uint32_t before = 0;
    for (uint32_t i = 0; i < (HEADS_MAX + 1) * 100; i++) {
        uint32_t us = pace(i / 100, (float)(i % 100) / 100, 10);
        assert_in_range(us, before, before + PAUSE_MAX / 50); /* no steps */
        before = us;
    }
    before = 0;
    for (uint32_t segments = 0; segments <= KITH_SEGMENTS_MAX; segments++) {
        assert_in_range(pace(0, 0, segments), before, before + PAUSE_MAX / 20);
        before = pace(0, 0, segments);
    }
    assert_int_equal(before, PAUSE_MAX);
    assert_int_equal(pace(HEADS_MAX, 1, 0), PAUSE_MAX);
    assert_int_equal(pace(HEADS_MAX, 1, KITH_SEGMENTS_MAX), PAUSE_MAX);
}

/* Eight writers with batches of 1,000 in flight against a sealer: whatever its speed is, above what
 * the longest pauses let through, no head is ever missing, and it is kept busy. */
static void settle(uint32_t sealed_per_ms)
{
    const uint32_t head_rows = KITH_HEAD_ROWS_MAX, batch = 8000;
    const double apply_ms = 20;
    uint32_t heads = 0;
    double fill = 0, sealing = 0, ms = 0, written = 0;
    while (ms < 60000) {
        double step = apply_ms + pace(heads, (float)(fill / head_rows), 10) / 1000.0;
        ms += step;
        fill += batch;
        written += batch;
        for (double left = step * sealed_per_ms; heads > 0 && left > 0;) {
            double part = left < head_rows - sealing ? left : head_rows - sealing;
            sealing += part;
            left -= part;
            if (sealing >= head_rows) {
                sealing = 0;
                heads--;
            }
        }
        if (fill >= head_rows) {
            assert_in_range(heads, 0, HEADS_MAX - 1);
            heads++;
            fill = 0;
        }
    }
    double most = sealed_per_ms < 400 ? sealed_per_ms : 400; /* what the writers can make */
    assert_true(written / ms > most * 0.8);
}

static void test_write_pace_settles_at_the_speed_of_the_sealer(void **state)
{
    (void)state;
    for (uint32_t speed = 150; speed <= 1000; speed += 10)
        settle(speed);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_write_pace_is_free_in_daily_life),
        cmocka_unit_test(test_write_pace_rises_to_its_limit),
        cmocka_unit_test(test_write_pace_settles_at_the_speed_of_the_sealer),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
