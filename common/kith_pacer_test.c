#include "common/kith_pacer.h"

#include <sched.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

/* How often they still have to ask. */
static atomic_int left;

static bool is_needed(void)
{
    return atomic_fetch_sub(&left, 1) > 0;
}

/* The second time they are asleep, or about to. */
static void test_pacer_wakes_while_it_is_needed(void **state)
{
    (void)state;
    for (int round = 0; round < 20; round++) {
        atomic_store(&left, 20);
        kith_pacer_wake(is_needed);
        while (atomic_load(&left) > 0)
            (void)sched_yield();
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_pacer_wakes_while_it_is_needed),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
