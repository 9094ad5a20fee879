#include "shard/query/order.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <cmocka.h>

#include "shard/index/filter_testing.h"

static struct order_key integer(int64_t i)
{
    return (struct order_key){.i = i};
}

static struct order_key real(double f)
{
    return (struct order_key){.is_float = true, .f = f};
}

static void test_order_compares_exactly(void **state)
{
    (void)state;
    const int64_t two53 = 1ll << 53;
    const struct order_key ascending[] = {real(-INFINITY),
                                          real(-1e19),
                                          integer(INT64_MIN),
                                          integer(-two53 - 1),
                                          real(-1.5),
                                          integer(-1),
                                          real(-0.5),
                                          integer(0),
                                          real(0.5),
                                          integer(1),
                                          integer(two53),
                                          integer(two53 + 1),
                                          real(9007199254740994.0),
                                          integer(two53 + 3),
                                          integer(INT64_MAX),
                                          real(9223372036854775808.0),
                                          real(INFINITY)};
    size_t n = sizeof ascending / sizeof *ascending;
    for (size_t i = 0; i < n; i++)
        for (size_t j = 0; j < n; j++) {
            int order = order_compare(&ascending[i], &ascending[j]);
            assert_int_equal((order > 0) - (order < 0), (i > j) - (i < j));
        }
    struct order_key one = integer(1), same = real(1.0);
    assert_int_equal(order_compare(&one, &same), 0);
}

static void key_is(const char *payload, const struct order_spec *spec, bool found,
                   struct order_key want)
{
    struct kith_buf buf = {0};
    struct order_key got;
    assert_int_equal(order_of_payload(spec, testing_pack(&buf, payload), &got), found);
    if (found)
        assert_int_equal(order_compare(&got, &want), 0);
    kith_buf_fini(&buf);
}

static void test_order_chooses_one_value_of_a_point(void **state)
{
    (void)state;
    struct order_spec spec = {.path = {(const uint8_t *)"a", 1}};
    key_is("{'a': [5, 2.5, 'x', null, true]}", &spec, true, real(2.5));
    key_is("{'a': 'x'}", &spec, false, integer(0));
    key_is("{'a': '1970-01-01T00:00:01Z'}", &spec, true, integer(1000000));
    key_is("{'a': 18446744073709551615}", &spec, true, real(18446744073709551616.0));
    key_is("{}", &spec, false, integer(0));
    spec.has_start = true;
    spec.start = integer(3);
    key_is("{'a': [5, 2.5]}", &spec, true, integer(5));
    key_is("{'a': [2, 2.5]}", &spec, false, integer(0));
    spec.descending = true;
    key_is("{'a': [5, 2, 2.5]}", &spec, true, real(2.5));
    spec.has_start = false;
    key_is("{'a': [5, 2, 2.5]}", &spec, true, integer(5));
}

static void test_order_parses_what_it_writes(void **state)
{
    (void)state;
    struct kith_buf buf = {0};
    const struct order_key keys[] = {integer(-7), integer(INT64_MAX), real(0.25)};
    for (size_t i = 0; i < 3; i++) {
        struct kith_writer w = testing_writer(&buf);
        struct order_key back;
        kith_buf_reset(&buf);
        order_write(&keys[i], &w);
        assert_true(order_parse(testing_bytes(&buf), &back));
        assert_int_equal(order_compare(&keys[i], &back), 0);
        assert_int_equal(back.is_float, keys[i].is_float);
    }
    struct order_key none;
    assert_false(order_parse(testing_pack(&buf, "'soon'"), &none));
    assert_false(order_parse(testing_pack(&buf, "[1]"), &none));
    assert_false(order_parse((struct kith_bytes){0}, &none));
    kith_buf_fini(&buf);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_order_compares_exactly),
        cmocka_unit_test(test_order_chooses_one_value_of_a_point),
        cmocka_unit_test(test_order_parses_what_it_writes),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
