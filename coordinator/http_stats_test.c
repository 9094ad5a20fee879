#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "common/kith_mem.h"
#include "coordinator/http_stats.h"
#include "coordinator/routes.h"

static void test_http_stats_counts_by_route_and_status(void **state)
{
    (void)state;
    struct http_stats *stats = NULL;
    struct kith_buf out = {.data = NULL};
    assert_int_equal(http_stats_new(&stats, NULL), KITH_OK);
    http_stats_add(stats, 0, 200, 90000);     /* 0.09 ms */
    http_stats_add(stats, 0, 200, 300000);    /* 0.3 ms */
    http_stats_add(stats, 0, 418, UINT64_C(99000000000)); /* beyond every bucket */
    http_stats_add(stats, routes_count(), 404, 1);
    assert_int_equal(http_stats_total(stats), 4);
    http_stats_write(stats, &out);
    kith_buf_byte(&out, 0);
    const char *text = (const char *)out.data;
    assert_non_null(strstr(text, "{method=\"GET\",endpoint=\"/\",status=\"200\"} 2\n"));
    assert_non_null(strstr(text, "endpoint=\"/\",status=\"other\"} 1\n"));
    assert_non_null(strstr(text, "endpoint=\"\",status=\"404\"} 1\n"));
    assert_non_null(strstr(text, "endpoint=\"/\",le=\"0.0001\"} 1\n"));
    assert_non_null(strstr(text, "endpoint=\"/\",le=\"0.0005\"} 2\n"));
    assert_non_null(strstr(text, "endpoint=\"/\",le=\"10\"} 2\n"));
    assert_non_null(strstr(text, "endpoint=\"/\",le=\"+Inf\"} 3\n"));
    kith_buf_fini(&out);
    http_stats_free(stats);
}

static void test_http_stats_survives_each_oom(void **state)
{
    (void)state;
    long live = kith_mem_live();
    for (long n = 0; n < 3; n++) {
        struct http_stats *stats = NULL;
        kith_mem_fail_after(n);
        enum kith_err err = http_stats_new(&stats, NULL);
        kith_mem_fail_after(-1);
        assert_int_equal(err, n < 2 ? KITH_NOMEM : KITH_OK);
        assert_true(!err == (stats != NULL));
        http_stats_free(stats);
        assert_int_equal(kith_mem_live(), live);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_http_stats_counts_by_route_and_status),
        cmocka_unit_test(test_http_stats_survives_each_oom),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
