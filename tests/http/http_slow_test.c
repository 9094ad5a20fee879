/* Bad company: peers that are slow on purpose, connections that do nothing, more work than there is
 * room for. Timeouts are set small; nothing here sleeps, it waits for what the gateway does. */
#include <poll.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cmocka.h>

#include "common/kith_clock.h"
#include "http_rig.h"

#define HOST   "Host: x\r\n"
#define GET_A  "GET /a HTTP/1.1\r\n" HOST "\r\n"
#define HOLD   "GET /hold HTTP/1.1\r\n" HOST "\r\n"
#define POST_N "POST /a HTTP/1.1\r\n" HOST "Content-Length: %zu\r\n\r\n"

static void send_text(int fd, const char *text)
{
    http_rig_send(fd, text, strlen(text));
}

/* Sends `byte` each time the gateway did not close yet, every few milliseconds; returns how long
 * the connection lived. */
static uint64_t drip(int fd, char byte, uint64_t give_up_ms)
{
    uint64_t start = kith_now_ms();
    struct pollfd poll_fd = {.fd = fd, .events = POLLIN};

    while (poll(&poll_fd, 1, 10) == 0 && kith_now_ms() - start < give_up_ms)
        http_rig_send(fd, &byte, 1);
    return kith_now_ms() - start;
}

static void test_slow_head_is_cut_although_it_moves(void **state)
{
    struct http_rig rig;
    struct gateway_options options = {.header_timeout_ms = 200};
    struct http_rig_view view;
    uint64_t lived;
    int fd;

    (void)state;
    http_rig_open(&rig, &options);
    fd = http_rig_connect(&rig);
    send_text(fd, "GET /a HTTP/1.1\r\n" HOST "X: ");
    lived = drip(fd, 'a', 10000);
    assert_in_range(lived, 150, 5000);
    assert_int_equal(http_rig_answer(fd, NULL, 0), 408);
    assert_true(http_rig_ended(fd));
    http_rig_look(&rig, &view);
    assert_int_equal(view.calls, 0);
    assert_int_equal(view.stats.timeouts, 1);
    close(fd);
    http_rig_close(&rig);
}

static void test_slow_body_is_cut_although_it_moves(void **state)
{
    struct http_rig rig;
    struct gateway_options options = {.body_grace_ms = 200, .body_bytes_per_s_min = 16384};
    struct http_rig_view view;
    char text[128];
    int fd;

    (void)state;
    http_rig_open(&rig, &options);
    fd = http_rig_connect(&rig);
    snprintf(text, sizeof text, POST_N, (size_t)100000);
    send_text(fd, text);
    assert_in_range(drip(fd, 'a', 10000), 150, 5000);
    assert_int_equal(http_rig_answer(fd, NULL, 0), 408);
    http_rig_look(&rig, &view);
    assert_int_equal(view.calls, 0);
    assert_int_equal(view.stats.inflight_bytes, 0);
    close(fd);
    http_rig_close(&rig);
}

static void test_slow_reader_is_cut(void **state)
{
    struct http_rig rig;
    struct gateway_options options = {.write_timeout_ms = 200};
    struct http_rig_view view;
    int fd;

    (void)state;
    http_rig_open(&rig, &options);
    fd = http_rig_connect(&rig);
    send_text(fd, "GET /big HTTP/1.1\r\n" HOST "\r\n"); /* 8 MiB, never read */
    do
        http_rig_look(&rig, &view);
    while (view.stats.connections_n == 0 || view.calls == 0);
    do
        http_rig_look(&rig, &view);
    while (view.stats.connections_n > 0);
    assert_int_equal(view.stats.timeouts, 1);
    close(fd);
    http_rig_close(&rig);
}

static void test_big_answer_arrives_whole(void **state)
{
    struct http_rig rig;
    struct gateway_options options = {0};
    struct http_rig_view view;
    char chunk[65536];
    size_t total = 0;
    int fd;

    (void)state;
    http_rig_open(&rig, &options);
    fd = http_rig_connect(&rig);
    send_text(fd, "GET /big HTTP/1.1\r\n" HOST "Connection: close\r\n\r\n");
    for (ssize_t n; (n = recv(fd, chunk, sizeof chunk, 0)) > 0;)
        total += (size_t)n;
    http_rig_look(&rig, &view);
    assert_true(total > (8u << 20));
    assert_int_equal(total, view.stats.bytes_out);
    close(fd);
    http_rig_close(&rig);
}

static void test_idle_connections_go_and_workers_stay(void **state)
{
    struct http_rig rig;
    struct gateway_options options = {.idle_timeout_ms = 300, .connections_max = 16};
    struct http_rig_view view;
    int idle[40];
    int worker;

    (void)state;
    http_rig_open(&rig, &options);
    worker = http_rig_connect(&rig);
    send_text(worker, GET_A);
    assert_int_equal(http_rig_answer(worker, NULL, 0), 200);
    for (int i = 0; i < 40; i++) {
        idle[i] = http_rig_connect(&rig);
        send_text(worker, GET_A); /* the flood pushes itself out, never the one that works */
        assert_int_equal(http_rig_answer(worker, NULL, 0), 200);
        http_rig_look(&rig, &view);
        assert_true(view.stats.connections_n <= 16);
    }
    for (int i = 0; i < 40; i++) {
        assert_true(http_rig_ended(idle[i]));
        close(idle[i]);
    }
    assert_true(http_rig_ended(worker)); /* idle now, too */
    close(worker);
    http_rig_close(&rig);
}

static void test_too_many_requests_get_429(void **state)
{
    struct http_rig rig;
    struct gateway_options options = {.inflight_max = 2};
    struct http_rig_view view;
    char body[256];
    int fds[3];

    (void)state;
    http_rig_open(&rig, &options);
    for (int i = 0; i < 3; i++)
        fds[i] = http_rig_connect(&rig);
    send_text(fds[0], HOLD);
    send_text(fds[1], HOLD);
    do
        http_rig_look(&rig, &view);
    while (view.held_n < 2);
    send_text(fds[2], GET_A);
    assert_int_equal(http_rig_answer(fds[2], body, sizeof body), 429);
    assert_non_null(strstr(body, "{\"status\":{\"error\":\"too many requests"));
    http_rig_release(&rig);
    send_text(fds[2], GET_A); /* the connection survived its refusal */
    assert_int_equal(http_rig_answer(fds[2], NULL, 0), 200);
    assert_int_equal(http_rig_answer(fds[0], NULL, 0), 200);
    assert_int_equal(http_rig_answer(fds[1], NULL, 0), 200);
    for (int i = 0; i < 3; i++)
        close(fds[i]);
    http_rig_close(&rig);
}

static void test_too_many_bytes_get_429(void **state)
{
    struct http_rig rig;
    struct gateway_options options = {.inflight_bytes_max = 1u << 20};
    struct http_rig_view view;
    size_t n = 2u << 20;
    char *body = calloc(1, n);
    char text[128];
    int fd;

    (void)state;
    assert_non_null(body);
    http_rig_open(&rig, &options);
    fd = http_rig_connect(&rig);
    snprintf(text, sizeof text, POST_N, n);
    send_text(fd, text);
    http_rig_send(fd, body, n);
    assert_int_equal(http_rig_answer(fd, NULL, 0), 429);
    http_rig_look(&rig, &view);
    assert_int_equal(view.calls, 0);
    assert_int_equal(view.stats.inflight_bytes, 0);
    close(fd);
    free(body);
    http_rig_close(&rig);
}

static void test_client_that_leaves_is_noticed_and_answered_to_nobody(void **state)
{
    struct http_rig rig;
    struct gateway_options options = {0};
    struct linger hard = {.l_onoff = 1};
    struct http_rig_view view;
    int fd;

    (void)state;
    http_rig_open(&rig, &options);
    fd = http_rig_connect(&rig);
    send_text(fd, HOLD);
    do
        http_rig_look(&rig, &view);
    while (view.held_n == 0);
    setsockopt(fd, SOL_SOCKET, SO_LINGER, &hard, sizeof hard);
    close(fd); /* a reset */
    do
        http_rig_look(&rig, &view);
    while (view.stats.connections_n > 0);
    http_rig_release(&rig);
    http_rig_look(&rig, &view);
    assert_int_equal(view.stats.inflight_n, 0);
    assert_int_equal(view.stats.inflight_bytes, 0);
    http_rig_close(&rig);
}

static void test_half_closed_client_gets_its_answers(void **state)
{
    struct http_rig rig;
    struct gateway_options options = {0};
    int fd;

    (void)state;
    http_rig_open(&rig, &options);
    fd = http_rig_connect(&rig);
    send_text(fd, GET_A GET_A);
    shutdown(fd, SHUT_WR);
    assert_int_equal(http_rig_answer(fd, NULL, 0), 200);
    assert_int_equal(http_rig_answer(fd, NULL, 0), 200);
    assert_true(http_rig_ended(fd));
    close(fd);
    http_rig_close(&rig);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_slow_head_is_cut_although_it_moves),
        cmocka_unit_test(test_slow_body_is_cut_although_it_moves),
        cmocka_unit_test(test_slow_reader_is_cut),
        cmocka_unit_test(test_big_answer_arrives_whole),
        cmocka_unit_test(test_idle_connections_go_and_workers_stay),
        cmocka_unit_test(test_too_many_requests_get_429),
        cmocka_unit_test(test_too_many_bytes_get_429),
        cmocka_unit_test(test_client_that_leaves_is_noticed_and_answered_to_nobody),
        cmocka_unit_test(test_half_closed_client_gets_its_answers),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
