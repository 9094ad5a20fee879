#include "shard/query/predict.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>

static uint64_t total(const struct predict_shape *shape, struct memory_use *uses)
{
    uint64_t sum = 0;
    predict_bytes(shape, uses);
    for (uint32_t i = 0; i < MEMORY_KINDS; i++)
        sum += uses[i].mapped;
    return sum;
}

/* That a prediction is right, tests/client/plan.test.mjs sees; here that none is absurd. */
static void test_predict_grows_with_the_shape(void **state)
{
    (void)state;
    static const uint32_t dims[] = {1, 128, 201, 8192};
    struct memory_use uses[MEMORY_KINDS];
    for (size_t d = 0; d < sizeof dims / sizeof *dims; d++) {
        for (int index = KITH_INDEX_NONE; index <= KITH_INDEX_PQ4; index++) {
            uint64_t before = 0;
            for (uint64_t rows = 1; rows < 1000000000; rows *= 7) {
                struct predict_shape shape = {.rows = rows,
                                              .dim = dims[d],
                                              .metric = KITH_EUCLID,
                                              .row_type = KITH_ROWS_F16,
                                              .index = (enum kith_index)index,
                                              .n_slices = 3,
                                              .payload_bytes = 10};
                uint64_t now = total(&shape, uses);
                assert_true(now >= before && now >= rows * dims[d] * 2);
                assert_true(predict_hot_bytes(&shape, uses) <= now);
                bool any = uses[MEMORY_LISTS].file > 0;
                assert_true(any == (index != KITH_INDEX_NONE && any));
                assert_true(uses[MEMORY_CODES].file == 0 || index == KITH_INDEX_PQ4);
                assert_true(rows < 10000000 || any == (index != KITH_INDEX_NONE));
                before = now;
            }
        }
    }
}

static void test_predict_times_are_those_of_the_trial_and_grow(void **state)
{
    (void)state;
    struct predict_shape shape = {.rows = 200000,
                                  .dim = 256,
                                  .metric = KITH_COSINE,
                                  .row_type = KITH_ROWS_F32,
                                  .index = KITH_INDEX_PQ4,
                                  .n_slices = 1};
    struct trial_found trials[] = {{200000, 2e7, 5e4, 0.04, 0.96}, {50000, 5e6, 3e4, 0.08, 0.96}};
    struct predict_times times, more, hard;
    assert_int_equal(predict_times(&shape, trials, 2, &times, NULL), KITH_OK);
    assert_true(times.exact_ns == 2e7 && times.lists_ns == 5e4);
    shape.rows = 10000000;
    assert_int_equal(predict_times(&shape, trials, 2, &more, NULL), KITH_OK);
    assert_true(more.exact_ns >= 50 * times.exact_ns);
    assert_true(more.lists_ns > times.lists_ns && more.lists_ns < 50 * times.lists_ns);
    trials[1].rows_share = trials[0].rows_share; /* as many more rows looked at as there are */
    assert_int_equal(predict_times(&shape, trials, 2, &hard, NULL), KITH_OK);
    assert_true(hard.lists_ns > 1.2 * more.lists_ns);
    trials[0].lists_ns = 0;
    assert_int_equal(predict_times(&shape, trials, 1, &more, NULL), KITH_OK);
    assert_true(more.lists_ns == 0 && more.exact_ns > 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_predict_grows_with_the_shape),
        cmocka_unit_test(test_predict_times_are_those_of_the_trial_and_grow),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
