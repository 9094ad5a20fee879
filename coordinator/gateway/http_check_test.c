#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <string.h>

#include "coordinator/gateway/http_check.h"

static enum http_check_verdict feed(struct http_check_head *head, const char *text)
{
    http_check_init(head);
    return http_check_feed(head, text, strlen(text));
}

static void assert_span(const char *text, struct http_check_span span, const char *want)
{
    assert_int_equal(span.len, strlen(want));
    assert_memory_equal(text + span.at, want, span.len);
}

static void test_http_check_finds_the_parts(void **state)
{
    static const char text[] = "HEAD /a/b?c=d HTTP/1.1\r\nHost: x\r\nContent-Length: 12\r\n"
                               "connection: a , CLOSE\r\nX-Y:\t v w \r\n\r\nGET";
    struct http_check_head head;

    (void)state;
    assert_int_equal(feed(&head, text), HTTP_CHECK_OK);
    assert_int_equal(head.method, GATEWAY_GET);
    assert_true(head.head_only && head.close && !head.expect_continue);
    assert_span(text, head.target, "/a/b?c=d");
    assert_int_equal(head.content_length, 12);
    assert_int_equal(head.fields_n, 4);
    assert_span(text, head.fields[3].name, "X-Y");
    assert_span(text, head.fields[3].value, "v w");
    assert_int_equal(head.head_bytes, sizeof text - 1 - 3);
}

static void test_http_check_does_not_care_about_cuts(void **state)
{
    static const char *const texts[] = {
        "GET / HTTP/1.1\r\nHost: x\r\nA: b\r\n\r\n",
        "POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: x\r\nA: b\r\n c\r\n\r\n",
        "GET / HTTP/1.0\r\n\r\n",
    };

    (void)state;
    for (size_t i = 0; i < sizeof texts / sizeof texts[0]; i++) {
        struct http_check_head whole, bytes;
        enum http_check_verdict want = feed(&whole, texts[i]);
        enum http_check_verdict got = HTTP_CHECK_MORE;

        http_check_init(&bytes);
        for (size_t n = 1; got == HTTP_CHECK_MORE; n++)
            got = http_check_feed(&bytes, texts[i], n);
        assert_int_equal(got, want);
        assert_int_equal(bytes.at, whole.at);
        assert_int_equal(bytes.status, whole.status);
    }
}

static void test_http_check_refuses_at_the_first_wrong_byte(void **state)
{
    struct http_check_head head;

    (void)state;
    assert_int_equal(feed(&head, "GET / HTTP/1.1\n"), HTTP_CHECK_BAD);
    assert_int_equal(head.at, 14);
    assert_int_equal(feed(&head, "GET / HTTP/1.1\r\nA : b"), HTTP_CHECK_BAD);
    assert_int_equal(head.at, 17);
    assert_int_equal(feed(&head, "\x16\x03\x01"), HTTP_CHECK_BAD);
    assert_int_equal(head.at, 0);
}

static bool decodes(const char *text, bool plus, const char *want)
{
    char out[64];
    size_t n;

    return http_check_decode(out, text, strlen(text), plus, &n) && n == strlen(want) &&
           strcmp(out, want) == 0;
}

static bool refuses(const char *text)
{
    char out[64];
    size_t n;

    return !http_check_decode(out, text, strlen(text), false, &n);
}

static void test_http_check_decode(void **state)
{
    (void)state;
    assert_true(decodes("", false, ""));
    assert_true(decodes("a+b%20c", false, "a+b c"));
    assert_true(decodes("a+b%2Bc", true, "a b+c"));
    assert_true(decodes("%E4%bd%a0", false, "\xe4\xbd\xa0"));
    assert_true(decodes("%F0%9F%98%80", false, "\xf0\x9f\x98\x80"));
    assert_true(refuses("%"));
    assert_true(refuses("%4"));
    assert_true(refuses("%g0"));
    assert_true(refuses("a%00b"));
    assert_true(refuses("%c0%af"));       /* overlong */
    assert_true(refuses("%ed%a0%80"));    /* surrogate */
    assert_true(refuses("%f4%90%80%80")); /* beyond U+10FFFF */
    assert_true(refuses("%e4%bd"));       /* cut */
    assert_true(refuses("%80"));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_http_check_finds_the_parts),
        cmocka_unit_test(test_http_check_does_not_care_about_cuts),
        cmocka_unit_test(test_http_check_refuses_at_the_first_wrong_byte),
        cmocka_unit_test(test_http_check_decode),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
