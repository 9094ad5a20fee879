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

static void test_predict_times_favour_an_index(void **state)
{
    (void)state;
    struct predict_shape shape = {.rows = 10000000,
                                  .dim = 256,
                                  .metric = KITH_COSINE,
                                  .row_type = KITH_ROWS_F32,
                                  .index = KITH_INDEX_PQ4,
                                  .n_slices = 1};
    struct predict_times times;
    assert_int_equal(predict_times(&shape, &times, NULL), KITH_OK);
    assert_true(times.byte_ns > 0 && times.by_lists && times.lists_ns < times.exact_ns);
    shape.index = KITH_INDEX_NONE;
    assert_int_equal(predict_times(&shape, &times, NULL), KITH_OK);
    assert_true(!times.by_lists && times.exact_ns > 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_predict_grows_with_the_shape),
        cmocka_unit_test(test_predict_times_favour_an_index),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
