#include "proto/kith_hash.h"

#include <setjmp.h>
#include <stdarg.h>
#include <cmocka.h>

/* Of the reference: draft-eastlake-fnv, appendix C; MurmurHash3.cpp. Files depend on them. */
static void test_hash_is_the_published_one(void **state)
{
    (void)state;
    assert_true(kith_hash_bytes(KITH_HASH_START, "", 0) == UINT64_C(0xcbf29ce484222325));
    assert_true(kith_hash_bytes(KITH_HASH_START, "a", 1) == UINT64_C(0xaf63dc4c8601ec8c));
    assert_true(kith_hash_bytes(KITH_HASH_START, "foobar", 6) == UINT64_C(0x85944171f73967e8));
    assert_true(kith_hash_mix(0) == 0);
    assert_true(kith_hash_mix(1) == UINT64_C(0xb456bcfc34c2cb2c));
}

static void test_hash_goes_on_where_it_stopped(void **state)
{
    (void)state;
    uint64_t hash = kith_hash_bytes(KITH_HASH_START, "foo", 3);
    assert_true(kith_hash_bytes(hash, "bar", 3) == kith_hash_bytes(KITH_HASH_START, "foobar", 6));
    assert_true(kith_hash_step(hash, 'b') == kith_hash_bytes(hash, "b", 1));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_hash_is_the_published_one),
        cmocka_unit_test(test_hash_goes_on_where_it_stopped),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
