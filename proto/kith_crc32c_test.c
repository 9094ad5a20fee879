#include "proto/kith_crc32c.h"

#include <setjmp.h>
#include <stdarg.h>
#include <cmocka.h>

static void test_crc32c_known_vector_and_reference(void **state)
{
    (void)state;
    assert_int_equal(kith_crc32c(0, "123456789", 9), 0xe3069283); /* RFC 3720 B.4's check value */
    uint8_t bytes[300];
    for (size_t i = 0; i < sizeof bytes; i++)
        bytes[i] = (uint8_t)(i * 37);
    for (size_t len = 0; len < 280; len++)
        for (size_t at = 0; at < 9; at += 4)
            assert_int_equal(kith_crc32c(7, bytes + at, len),
                             kith_crc32c_table(7, bytes + at, len));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_crc32c_known_vector_and_reference),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
