#include "shard/storage/residency.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <sys/mman.h>
#include <unistd.h>
#include <cmocka.h>

#include "common/kith_testing.h"

#define PAGES 5000u

/* Sanitizers make mlock do nothing. */
#define LOCKS (!TEST_SANITIZED)

static void test_residency_counts_pages_that_were_touched(void **state)
{
    (void)state;
    size_t page = (size_t)sysconf(_SC_PAGESIZE), len = PAGES * page;
    volatile uint8_t *at =
        mmap(NULL, len, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    assert_true(at != MAP_FAILED);
    struct kith_bytes map = {(const uint8_t *)at, len};
    (void)madvise((void *)(uintptr_t)at, len, MADV_NOHUGEPAGE);
    assert_int_equal(residency_bytes(map), 0);
    at[0] = at[7 * page + 1] = at[4999 * page] = 1;
    assert_int_equal(residency_bytes(map), 3 * page);
    /* A part of a page counts as what it has of it. */
    assert_int_equal(residency_bytes((struct kith_bytes){map.data + 7 * page + 100, 50}), 50);
    assert_int_equal(residency_bytes((struct kith_bytes){map.data, 0}), 0);
    residency_advise(map, RESIDENCY_RANDOM);
    struct kith_bytes some = {map.data + 100 * page + 3, 2 * page};
    if (LOCKS && residency_lock(some, NULL) == KITH_OK) { /* where a test may lock three pages */
        assert_int_equal(residency_bytes(some), some.len);
        residency_unlock(some);
    }
    assert_int_equal(munmap((void *)(uintptr_t)at, len), 0);
    struct kith_diag diag = {0};
    if (LOCKS) {
        assert_int_equal(residency_lock(map, &diag), KITH_NOMEM); /* refused, and said why */
        assert_true(diag.text[0] != '\0');
        assert_int_equal(residency_bytes(map), 0); /* a sanitizer may have mapped something there */
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_residency_counts_pages_that_were_touched),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
