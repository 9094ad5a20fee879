#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <string.h>

#include "common/kith_mem.h"
#include "coordinator/gateway/gateway.h"

static void never(void *ctx, struct gateway_request *request)
{
    (void)ctx;
    (void)request;
    fail();
}

static void test_gateway_open_survives_each_oom(void **state)
{
    struct gateway_options options = {.listen = "127.0.0.1:0", .handle = never};
    struct kith_loop *loop;
    enum kith_err err = KITH_NOMEM;

    (void)state;
    assert_int_equal(kith_loop_open(&loop, NULL), KITH_OK);
    for (long n = 0; err != KITH_OK; n++) {
        struct gateway *gateway = NULL;
        struct kith_diag diag = {0};

        kith_mem_fail_after(n);
        err = gateway_open(&gateway, loop, &options, &diag);
        kith_mem_fail_after(-1);
        if (err != KITH_OK) {
            assert_int_equal(err, KITH_NOMEM);
            assert_null(gateway);
        }
        gateway_close(gateway);
    }
    kith_loop_close(loop);
    assert_int_equal(kith_mem_live(), 0);
}

static void test_gateway_open_says_what_is_wrong_with_an_address(void **state)
{
    static const char *const bad[] = {"", "nonsense", "127.0.0.1", "127.0.0.1:", "256.1.1.1:80"};
    struct gateway_options options = {.handle = never};
    struct kith_loop *loop;

    (void)state;
    assert_int_equal(kith_loop_open(&loop, NULL), KITH_OK);
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        struct gateway *gateway = NULL;
        struct kith_diag diag = {0};

        options.listen = bad[i];
        assert_int_not_equal(gateway_open(&gateway, loop, &options, &diag), KITH_OK);
        assert_null(gateway);
        assert_non_null(strstr(diag.text, "listen address"));
    }
    kith_loop_close(loop);
}

static void test_gateway_url_has_the_real_port(void **state)
{
    struct gateway_options options = {.listen = "[::1]:0", .handle = never};
    struct gateway *gateway;
    struct kith_loop *loop;

    (void)state;
    assert_int_equal(kith_loop_open(&loop, NULL), KITH_OK);
    if (gateway_open(&gateway, loop, &options, NULL) != KITH_OK) {
        print_message("SKIPPED (no IPv6 loopback here)\n");
    } else {
        assert_memory_equal(gateway_url(gateway), "http://[::1]:", 13);
        assert_string_not_equal(gateway_url(gateway) + 12, ":0");
        gateway_close(gateway);
    }
    kith_loop_close(loop);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_gateway_open_survives_each_oom),
        cmocka_unit_test(test_gateway_open_says_what_is_wrong_with_an_address),
        cmocka_unit_test(test_gateway_url_has_the_real_port),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
