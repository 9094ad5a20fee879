/* One byte stream, one reading. Each case is sent whole and, when short, cut in two at every byte;
 * it must be refused and the connection closed, or be answered exactly once per request. Whatever
 * the case, nothing under /smuggled may ever run. */
#include <poll.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cmocka.h>

#include "common/kith_mem.h"
#include "http_rig.h"
#include "proto/kith_limits.h"

#define HOST     "Host: x\r\n"
#define SMUGGLED "GET /smuggled HTTP/1.1\r\nHost: x\r\n\r\n"
#define GET_A    "GET /a HTTP/1.1\r\n" HOST
#define POST_A   "POST /a HTTP/1.1\r\n" HOST
#define T(text_) text_, sizeof(text_) - 1

#define SPLIT_BYTES_MAX 160u

struct framing_case {
    const char *name;
    const char *bytes;
    size_t n;
    int refused;     /* status of the refusal, 0 = the connection stays open */
    unsigned served; /* requests answered 200 (before the refusal, if any) */
};

static const struct framing_case cases[] = {
    /* What must work */
    {"plain get", T(GET_A "\r\n"), 0, 1},
    {"no white space after the colon", T("GET /a HTTP/1.1\r\nHost:x\r\n\r\n"), 0, 1},
    {"white space around a value", T("GET /a HTTP/1.1\r\nHost: \t x \t\r\n\r\n"), 0, 1},
    {"empty value", T(GET_A "X:\r\n\r\n"), 0, 1},
    {"obs-text in a value", T(GET_A "X: \xe4\xb8\xad\r\n\r\n"), 0, 1},
    {"host with a port", T("GET /a HTTP/1.1\r\nHost: localhost:6333\r\n\r\n"), 0, 1},
    {"host as IPv6", T("GET /a HTTP/1.1\r\nHost: [::1]:6333\r\n\r\n"), 0, 1},
    {"header names of any case", T("POST /a HTTP/1.1\r\nhOST: x\r\ncOnTeNt-LeNgTh: 2\r\n\r\nab"), 0,
     1},
    {"post with a body", T(POST_A "Content-Length: 5\r\n\r\nhello"), 0, 1},
    {"post without a body", T(POST_A "\r\n"), 0, 1},
    {"length 0", T(POST_A "Content-Length: 0\r\n\r\n"), 0, 1},
    {"length with leading zeros", T(POST_A "Content-Length: 0000000002\r\n\r\nab"), 0, 1},
    {"get with a body", T(GET_A "Content-Length: 3\r\n\r\nabc"), 0, 1},
    {"body that looks like a request",
     T(POST_A "Content-Length: 36\r\n\r\n"
              "GET /smuggled HTTP/1.1\r\nHost: x\r\n\r\n!"),
     0, 1},
    {"two pipelined", T(GET_A "\r\n" GET_A "\r\n"), 0, 2},
    {"pipelined behind a body", T(POST_A "Content-Length: 2\r\n\r\nab" GET_A "\r\n"), 0, 2},
    {"double and trailing slashes", T("GET //a///b/ HTTP/1.1\r\n" HOST "\r\n"), 0, 1},
    {"escapes", T("GET /%e4%b8%ad?x=%20+&y HTTP/1.1\r\n" HOST "\r\n"), 0, 1},
    {"unknown fields and connection tokens",
     T(GET_A "Connection: keep-alive, x\r\nTrailer: y\r\nTE: trailers\r\n\r\n"), 0, 1},
    {"upgrade is ignored", T(GET_A "Connection: Upgrade\r\nUpgrade: h2c\r\n\r\n"), 0, 1},

    /* The request line */
    {"empty line first", T("\r\n" GET_A "\r\n"), 400, 0},
    {"LF first", T("\n" GET_A "\r\n"), 400, 0},
    {"space first", T(" " GET_A "\r\n"), 400, 0},
    {"two spaces before the target", T("GET  /a HTTP/1.1\r\n" HOST "\r\n"), 400, 0},
    {"two spaces before the version", T("GET /a  HTTP/1.1\r\n" HOST "\r\n"), 400, 0},
    {"tab between", T("GET\t/a\tHTTP/1.1\r\n" HOST "\r\n"), 400, 0},
    {"space after the version", T("GET /a HTTP/1.1 \r\n" HOST "\r\n"), 400, 0},
    {"space in the target", T("GET /a b HTTP/1.1\r\n" HOST "\r\n"), 400, 0},
    {"bare LF after the request line", T("GET /a HTTP/1.1\n" HOST "\r\n" SMUGGLED), 400, 0},
    {"bare CR after the request line", T("GET /a HTTP/1.1\r" HOST "\r\n" SMUGGLED), 400, 0},
    {"HTTP/0.9", T("GET /a\r\n"), 400, 0},
    {"HTTP/1.0", T("GET /a HTTP/1.0\r\n" HOST "\r\n"), 505, 0},
    {"HTTP/1.2", T("GET /a HTTP/1.2\r\n" HOST "\r\n"), 505, 0},
    {"HTTP/1.10", T("GET /a HTTP/1.10\r\n" HOST "\r\n"), 400, 0},
    {"HTTP/2.0", T("GET /a HTTP/2.0\r\n" HOST "\r\n"), 505, 0},
    {"HTTP/2 preface", T("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" SMUGGLED), 505, 0},
    {"version in lower case", T("GET /a http/1.1\r\n" HOST "\r\n"), 400, 0},
    {"TLS hello", T("\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03"), 400, 0},
    {"unknown method", T("BREW /a HTTP/1.1\r\n" HOST "\r\n" SMUGGLED), 501, 0},
    {"method in lower case", T("get /a HTTP/1.1\r\n" HOST "\r\n"), 501, 0},
    {"method too long", T("GETGETGETGETGETGETGET /a HTTP/1.1\r\n" HOST "\r\n"), 400, 0},
    {"method with a bad byte", T("GE(T /a HTTP/1.1\r\n" HOST "\r\n"), 400, 0},
    {"connect", T("CONNECT x:1 HTTP/1.1\r\n" HOST "\r\n" SMUGGLED), 501, 0},
    {"absolute target", T("GET http://x/a HTTP/1.1\r\n" HOST "\r\n"), 400, 0},
    {"asterisk target", T("OPTIONS * HTTP/1.1\r\n" HOST "\r\n"), 400, 0},
    {"NUL in the target", T("GET /a\0b HTTP/1.1\r\n" HOST "\r\n"), 400, 0},
    {"DEL in the target", T("GET /a\x7f HTTP/1.1\r\n" HOST "\r\n"), 400, 0},
    {"raw UTF-8 in the target", T("GET /\xe4\xb8\xad HTTP/1.1\r\n" HOST "\r\n"), 400, 0},
    {"fragment in the target", T("GET /a#b HTTP/1.1\r\n" HOST "\r\n"), 400, 0},
    {"escaped NUL", T("GET /a%00b HTTP/1.1\r\n" HOST "\r\n"), 400, 0},
    {"half an escape", T("GET /a%2 HTTP/1.1\r\n" HOST "\r\n"), 400, 0},
    {"escape that is no hex", T("GET /a%zz HTTP/1.1\r\n" HOST "\r\n"), 400, 0},
    {"escaped overlong UTF-8", T("GET /a%c0%af HTTP/1.1\r\n" HOST "\r\n"), 400, 0},
    {"bad escape in the query", T("GET /a?x=%f HTTP/1.1\r\n" HOST "\r\n"), 400, 0},

    /* Lines and names */
    {"bare LF after a field", T("GET /a HTTP/1.1\r\nHost: x\n\r\n" SMUGGLED), 400, 0},
    {"bare LF at the end", T("GET /a HTTP/1.1\r\nHost: x\r\n\n" SMUGGLED), 400, 0},
    {"bare CR in a value", T(GET_A "X: a\rb\r\n\r\n"), 400, 0},
    {"bare CR hides a field", T(GET_A "X: a\rContent-Length: 9\r\n\r\n"), 400, 0},
    {"CR CR LF", T("GET /a HTTP/1.1\r\nHost: x\r\r\n\r\n"), 400, 0},
    {"NUL in a value", T(GET_A "X: a\0b\r\n\r\n"), 400, 0},
    {"control byte in a value", T(GET_A "X: a\x01\r\n\r\n"), 400, 0},
    {"DEL in a value", T(GET_A "X: a\x7f\r\n\r\n"), 400, 0},
    {"folded line", T(GET_A "X: a\r\n b\r\n\r\n"), 400, 0},
    {"folded with a tab", T(GET_A "X: a\r\n\tb\r\n\r\n"), 400, 0},
    {"folded first line", T("GET /a HTTP/1.1\r\n Host: x\r\n\r\n"), 400, 0},
    {"folded length", T(POST_A "Content-Length:\r\n 5\r\n\r\nhello" SMUGGLED), 400, 0},
    {"space before the colon", T(POST_A "Content-Length : 37\r\n\r\n" SMUGGLED), 400, 0},
    {"tab before the colon", T(POST_A "Content-Length\t: 37\r\n\r\n" SMUGGLED), 400, 0},
    {"no colon", T(GET_A "nonsense\r\n\r\n"), 400, 0},
    {"empty name", T(GET_A ": a\r\n\r\n"), 400, 0},
    {"NUL in a name", T(GET_A "X\0Y: a\r\n\r\n"), 400, 0},
    {"brackets in a name", T(GET_A "X(Y): a\r\n\r\n"), 400, 0},
    {"UTF-8 in a name", T(GET_A "\xe4\xb8\xad: a\r\n\r\n"), 400, 0},

    /* Host */
    {"no host", T("GET /a HTTP/1.1\r\n\r\n"), 400, 0},
    {"two hosts", T("GET /a HTTP/1.1\r\nHost: x\r\nHost: y\r\n\r\n"), 400, 0},
    {"the same host twice", T("GET /a HTTP/1.1\r\nHost: x\r\nHost: x\r\n\r\n"), 400, 0},
    {"empty host", T("GET /a HTTP/1.1\r\nHost:\r\n\r\n"), 400, 0},
    {"host with a slash", T("GET /a HTTP/1.1\r\nHost: x/y\r\n\r\n"), 400, 0},
    {"host with a user", T("GET /a HTTP/1.1\r\nHost: u@x\r\n\r\n"), 400, 0},
    {"host list", T("GET /a HTTP/1.1\r\nHost: x, y\r\n\r\n"), 400, 0},
    {"host with a bad port", T("GET /a HTTP/1.1\r\nHost: x:y\r\n\r\n"), 400, 0},

    /* The length of the body */
    {"two different lengths", T(POST_A "Content-Length: 0\r\nContent-Length: 37\r\n\r\n" SMUGGLED),
     400, 0},
    {"the same length twice", T(POST_A "Content-Length: 2\r\nContent-Length: 2\r\n\r\nab"), 400, 0},
    {"list of lengths", T(POST_A "Content-Length: 2, 2\r\n\r\nab"), 400, 0},
    {"plus sign", T(POST_A "Content-Length: +5\r\n\r\nhello"), 400, 0},
    {"minus sign", T(POST_A "Content-Length: -5\r\n\r\nhello"), 400, 0},
    {"hexadecimal", T(POST_A "Content-Length: 0x5\r\n\r\nhello"), 400, 0},
    {"decimal point", T(POST_A "Content-Length: 5.0\r\n\r\nhello"), 400, 0},
    {"exponent", T(POST_A "Content-Length: 1e1\r\n\r\nhello"), 400, 0},
    {"quoted", T(POST_A "Content-Length: \"5\"\r\n\r\nhello"), 400, 0},
    {"space inside", T(POST_A "Content-Length: 1 0\r\n\r\nhello"), 400, 0},
    {"empty length", T(POST_A "Content-Length:\r\n\r\nhello"), 400, 0},
    {"eleven digits", T(POST_A "Content-Length: 00000000005\r\n\r\nhello"), 400, 0},
    {"length beyond 64 bits", T(POST_A "Content-Length: 18446744073709551621\r\n\r\nhello"), 400,
     0},
    {"length beyond the limit", T(POST_A "Content-Length: 33554433\r\n\r\n" SMUGGLED), 413, 0},
    {"ten digits of nines", T(POST_A "Content-Length: 9999999999\r\n\r\n" SMUGGLED), 413, 0},
    {"chunked", T(POST_A "Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n" SMUGGLED), 501, 0},
    {"length, then chunked",
     T(POST_A "Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n" SMUGGLED), 400, 0},
    {"chunked, then length",
     T(POST_A "Transfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n0\r\n\r\n" SMUGGLED), 400, 0},
    {"length 0 and chunked",
     T(POST_A "Content-Length: 0\r\nTransfer-Encoding: chunked\r\n\r\n" SMUGGLED), 400, 0},
    {"unknown encoding", T(POST_A "Transfer-Encoding: xchunked\r\n\r\n" SMUGGLED), 501, 0},
    {"identity encoding", T(POST_A "Transfer-Encoding: identity\r\n\r\n" SMUGGLED), 501, 0},
    {"encoding with a tab", T(POST_A "Transfer-Encoding:\tchunked\r\n\r\n0\r\n\r\n" SMUGGLED), 501,
     0},
    {"empty encoding", T(POST_A "Transfer-Encoding:\r\n\r\n" SMUGGLED), 501, 0},
    {"two encodings",
     T(POST_A "Transfer-Encoding: chunked\r\nTransfer-Encoding: x\r\n\r\n" SMUGGLED), 501, 0},
    {"compressed body", T(POST_A "Content-Encoding: gzip\r\nContent-Length: 1\r\n\r\nx"), 415, 0},
    {"unknown expectation", T(POST_A "Expect: tea\r\nContent-Length: 1\r\n\r\nx"), 417, 0},

    /* Several requests */
    {"good, then bad", T(GET_A "\r\nGET /a\nHost: x\r\n\r\n" SMUGGLED), 400, 1},
    {"body too long by its own line", T(POST_A "Content-Length: 2\r\n\r\nab\r\n" SMUGGLED), 400, 1},
    {"garbage behind a body", T(POST_A "Content-Length: 1\r\n\r\nabc HTTP/1.1\r\n\r\n"), 501, 1},
    {"behind close nothing runs", T(GET_A "Connection: close\r\n\r\n" SMUGGLED), 200, 0},
    {"close in a list", T(GET_A "Connection: x , Close\r\n\r\n" SMUGGLED), 200, 0},
};

struct framing {
    struct http_rig rig;
    struct http_rig_view before;
};

static bool readable(int fd)
{
    struct pollfd poll_fd = {.fd = fd, .events = POLLIN};

    return poll(&poll_fd, 1, 0) == 1;
}

/* Until the gateway has read what was sent so far, or has answered. */
static void let_it_read(struct framing *framing, int fd, size_t n)
{
    struct http_rig_view now;

    do
        http_rig_look(&framing->rig, &now);
    while (now.stats.bytes_in < framing->before.stats.bytes_in + n && !readable(fd));
}

static void run_case(struct framing *framing, const struct framing_case *c, size_t cut)
{
    struct http_rig_view after;
    unsigned calls = c->served + (c->refused == 200);
    int fd = http_rig_connect(&framing->rig);

    http_rig_look(&framing->rig, &framing->before);
    if (cut > 0) {
        http_rig_send(fd, c->bytes, cut);
        let_it_read(framing, fd, cut);
    }
    http_rig_send(fd, c->bytes + cut, c->n - cut);
    for (unsigned i = 0; i < c->served; i++)
        assert_int_equal(http_rig_answer(fd, NULL, 0), 200);
    if (c->refused != 0) {
        assert_int_equal(http_rig_answer(fd, NULL, 0), c->refused);
        assert_true(http_rig_ended(fd));
    } else {
        http_rig_send(fd, GET_A "\r\n", sizeof(GET_A "\r\n") - 1);
        assert_int_equal(http_rig_answer(fd, NULL, 0), 200);
        calls++;
    }
    close(fd);
    http_rig_look(&framing->rig, &after);
    assert_int_equal(after.calls - framing->before.calls, calls);
    assert_int_equal(after.smuggled, 0);
}

static void test_framing_whole_and_cut_at_every_byte(void **state)
{
    struct framing framing;
    struct gateway_options options = {.idle_timeout_ms = 60000};
    size_t runs = 0;

    (void)state;
    http_rig_open(&framing.rig, &options);
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        const struct framing_case *c = &cases[i];
        size_t cuts = c->n <= SPLIT_BYTES_MAX ? c->n : 1;

        print_message("%s\n", c->name);
        for (size_t cut = 0; cut < cuts; cut++, runs++)
            run_case(&framing, c, cut);
    }
    http_rig_close(&framing.rig);
    print_message("%zu cases, %zu runs\n", sizeof cases / sizeof cases[0], runs);
}

static void refuse_long(struct framing *framing, const struct kith_buf *request, int status)
{
    struct framing_case c = {"long", (const char *)request->data, request->len, status, 0};

    assert_false(request->failed);
    run_case(framing, &c, 0);
    run_case(framing, &c, request->len / 2);
}

static void test_framing_limits(void **state)
{
    struct framing framing;
    struct gateway_options options = {0};
    struct kith_buf request = {0};

    (void)state;
    http_rig_open(&framing.rig, &options);

    kith_buf_text(&request, "GET /");
    for (unsigned i = 0; i < KITH_HTTP_URL_MAX; i++)
        kith_buf_byte(&request, 'a');
    kith_buf_text(&request, " HTTP/1.1\r\n" HOST "\r\n");
    refuse_long(&framing, &request, 414);

    kith_buf_reset(&request);
    kith_buf_text(&request, GET_A "X: ");
    for (unsigned i = 0; i < KITH_HTTP_URL_MAX; i++)
        kith_buf_byte(&request, 'a');
    kith_buf_text(&request, "\r\n\r\n");
    refuse_long(&framing, &request, 431);

    kith_buf_reset(&request);
    kith_buf_text(&request, GET_A);
    for (unsigned i = 0; i < KITH_HTTP_HEADERS_MAX; i++)
        kith_buf_printf(&request, "X%u: a\r\n", i);
    kith_buf_text(&request, "\r\n");
    refuse_long(&framing, &request, 431);

    kith_buf_reset(&request);
    kith_buf_text(&request, GET_A);
    for (unsigned i = 0; i < 60; i++)
        kith_buf_printf(&request, "X%u: %0300u\r\n", i, i);
    kith_buf_text(&request, "\r\n");
    refuse_long(&framing, &request, 431);

    kith_buf_fini(&request);
    http_rig_close(&framing.rig);
}

static void test_framing_head_has_no_body(void **state)
{
    struct http_rig rig;
    struct gateway_options options = {0};
    char text[4096];
    size_t n = 0;
    int fd;

    (void)state;
    http_rig_open(&rig, &options);
    fd = http_rig_connect(&rig);
    http_rig_send(fd, T("HEAD /a HTTP/1.1\r\n" HOST "Connection: close\r\n\r\n"));
    for (ssize_t got; (got = recv(fd, text + n, sizeof text - 1 - n, 0)) > 0;)
        n += (size_t)got;
    text[n] = '\0';
    assert_non_null(strstr(text, "Content-Length: 23\r\n"));
    assert_string_equal(text + n - 4, "\r\n\r\n");
    close(fd);
    http_rig_close(&rig);
}

static void test_framing_expect_continue(void **state)
{
    struct http_rig rig;
    struct gateway_options options = {0};
    char body[64];
    int fd;

    (void)state;
    http_rig_open(&rig, &options);
    fd = http_rig_connect(&rig);
    http_rig_send(fd, T(POST_A "Expect: 100-continue\r\nContent-Length: 5\r\n\r\n"));
    assert_int_equal(http_rig_answer(fd, NULL, 0), 100);
    http_rig_send(fd, T("hello"));
    assert_int_equal(http_rig_answer(fd, body, sizeof body), 200);
    assert_string_equal(body, "{\"path\":\"/a\",\"bytes\":5}");
    close(fd);
    http_rig_close(&rig);
}

/* Three pipelined requests, the first of which waits: the answers keep their order. */
static void test_framing_pipeline_waits_for_its_turn(void **state)
{
    struct http_rig rig;
    struct gateway_options options = {0};
    struct http_rig_view view;
    char body[64];
    int fd;

    (void)state;
    http_rig_open(&rig, &options);
    fd = http_rig_connect(&rig);
    http_rig_send(fd, T("GET /hold HTTP/1.1\r\n" HOST "\r\n" GET_A "\r\n"
                        "GET /b HTTP/1.1\r\n" HOST "\r\n"));
    do
        http_rig_look(&rig, &view);
    while (view.held_n == 0);
    assert_int_equal(view.calls, 1);
    http_rig_release(&rig);
    assert_int_equal(http_rig_answer(fd, body, sizeof body), 200);
    assert_string_equal(body, "{}");
    assert_int_equal(http_rig_answer(fd, body, sizeof body), 200);
    assert_string_equal(body, "{\"path\":\"/a\",\"bytes\":0}");
    assert_int_equal(http_rig_answer(fd, body, sizeof body), 200);
    assert_string_equal(body, "{\"path\":\"/b\",\"bytes\":0}");
    close(fd);
    http_rig_close(&rig);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_framing_whole_and_cut_at_every_byte),
        cmocka_unit_test(test_framing_limits),
        cmocka_unit_test(test_framing_head_has_no_body),
        cmocka_unit_test(test_framing_expect_continue),
        cmocka_unit_test(test_framing_pipeline_waits_for_its_turn),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
