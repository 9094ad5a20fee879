/* Against a server played by a thread: it reads one request per connection and answers by path. */
#include <arpa/inet.h>
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cmocka.h>

#include "common/kith_http_client.h"
#include "common/kith_mem.h"

static int listen_fd;
static char base[64];

static void answer(int fd, const char *text)
{
    for (size_t done = 0, len = strlen(text); done < len;) {
        const ssize_t n = send(fd, text + done, len - done, MSG_NOSIGNAL);
        if (n <= 0) {
            return;
        }
        done += (size_t)n;
    }
}

static void serve_one(int fd)
{
    char request[4096] = {0};
    size_t len = 0;
    while (len < sizeof request - 1 && !strstr(request, "\r\n\r\n")) {
        const ssize_t n = recv(fd, request + len, sizeof request - 1 - len, 0);
        if (n <= 0) {
            return;
        }
        len += (size_t)n;
    }
    if (strncmp(request, "GET /hello ", 11) == 0) {
        answer(fd, "HTTP/1.1 429 Slow\r\nRetry-After:  7\r\nretry-after: 9\r\nContent-Length: 5\r\n"
                   "Connection: close\r\n\r\nhello");
    } else if (strstr(request, "X-Mine: 1\r\n") && strstr(request, "DELETE /echo ") == request) {
        const char *body = strstr(request, "\r\n\r\n") + 4;
        char reply[4200];
        snprintf(reply, sizeof reply,
                 "HTTP/1.1 200 OK\r\nContent-Length: %zu\r\nConnection: close\r\n\r\n%s",
                 strlen(body), body);
        answer(fd, reply);
    } else if (strncmp(request, "GET /big ", 9) == 0) {
        answer(fd, "HTTP/1.1 200 OK\r\nContent-Length: 20\r\nConnection: close\r\n\r\n"
                   "01234567890123456789");
    } else if (strncmp(request, "GET /stream ", 12) == 0) {
        answer(fd, "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nConnection: close\r\n\r\n"
                   "3\r\none\r\n3\r\ntwo\r\n0\r\n\r\n");
    } else if (strncmp(request, "GET /redirect ", 14) == 0) {
        answer(fd, "HTTP/1.1 302 Found\r\nLocation: /hello\r\nContent-Length: 0\r\n"
                   "Connection: close\r\n\r\n");
    } else if (strncmp(request, "GET /cut ", 9) == 0) {
        answer(fd, "HTTP/1.1 200 OK\r\nContent-Length: 9\r\nConnection: close\r\n\r\nhalf");
    } else if (strncmp(request, "GET /silent ", 12) == 0) {
        char rest;
        (void)!recv(fd, &rest, 1, 0); /* until the client gives up */
    }
}

static void *serve(void *ctx)
{
    (void)ctx;
    for (;;) {
        const int fd = accept(listen_fd, NULL, NULL);
        if (fd < 0) {
            return NULL;
        }
        serve_one(fd);
        close(fd);
    }
}

struct rig {
    struct kith_loop *loop;
    struct kith_http_client *client;
    struct kith_http_session *session;
    size_t n_done, n_wanted;
    enum kith_err err;
    int status;
    char body[64];
    char chunks[64];
    bool refuse;
};

static int setup(void **state)
{
    struct rig *rig = calloc(1, sizeof *rig);
    assert_int_equal(kith_loop_open(&rig->loop, NULL), KITH_OK);
    assert_int_equal(kith_http_client_open(&rig->client, rig->loop, NULL), KITH_OK);
    assert_int_equal(kith_http_session_open(&rig->session, NULL), KITH_OK);
    *state = rig;
    return 0;
}

static int teardown(void **state)
{
    struct rig *rig = *state;
    kith_http_client_close(rig->client);
    kith_http_session_close(rig->session);
    kith_loop_close(rig->loop);
    free(rig);
    return 0;
}

static struct kith_http_request request(const char *path)
{
    static char url[128];
    snprintf(url, sizeof url, "%s%s", base, path);
    return (struct kith_http_request){.method = "GET", .url = url, .timeout_ms = 20000};
}

static void test_session_reads_status_headers_body(void **state)
{
    struct rig *rig = *state;
    struct kith_http_response response = {0};
    const struct kith_http_request ask = request("/hello");
    assert_int_equal(kith_http_session_ask(rig->session, &ask, &response, NULL), KITH_OK);
    assert_int_equal(response.status, 429);
    assert_int_equal(response.body.len, 5);
    assert_string_equal((const char *)response.body.data, "hello"); /* a NUL follows */
    assert_string_equal(kith_http_response_header(&response, "RETRY-AFTER"), "9");
    assert_null(kith_http_response_header(&response, "Retry"));
    kith_http_response_fini(&response);
}

static void test_session_sends_method_headers_body(void **state)
{
    struct rig *rig = *state;
    struct kith_http_response response = {0};
    struct kith_http_request ask = request("/echo");
    static const char *const headers[] = {"X-Mine: 1", NULL};
    ask.method = "DELETE";
    ask.headers = headers;
    ask.body = "some";
    ask.body_len = 4;
    assert_int_equal(kith_http_session_ask(rig->session, &ask, &response, NULL), KITH_OK);
    assert_int_equal(response.status, 200);
    assert_string_equal((const char *)response.body.data, "some");
    kith_http_response_fini(&response);
}

static enum kith_err ask_once(struct rig *rig, const struct kith_http_request *ask)
{
    struct kith_http_response response = {0};
    struct kith_diag diag = {0};
    const enum kith_err err = kith_http_session_ask(rig->session, ask, &response, &diag);
    assert_true(!err || diag.text[0]);
    rig->status = response.status;
    kith_http_response_fini(&response);
    return err;
}

static void test_session_errors(void **state)
{
    struct rig *rig = *state;
    struct kith_http_request ask = request("/big");
    ask.response_max = 19;
    assert_int_equal(ask_once(rig, &ask), KITH_TOO_BIG);
    ask.response_max = 20;
    assert_int_equal(ask_once(rig, &ask), KITH_OK);
    ask = request("/silent");
    ask.timeout_ms = 50;
    assert_int_equal(ask_once(rig, &ask), KITH_TIMEOUT);
    ask = request("/cut");
    assert_int_equal(ask_once(rig, &ask), KITH_UNAVAILABLE);
    ask = request("/redirect");
    assert_int_equal(ask_once(rig, &ask), KITH_OK);
    assert_int_equal(rig->status, 302); /* not followed */
    ask.url = "http://127.0.0.1:1/";
    assert_int_equal(ask_once(rig, &ask), KITH_UNAVAILABLE);
    ask.url = "file:///etc/passwd";
    assert_int_equal(ask_once(rig, &ask), KITH_BAD_REQUEST);
}

static void on_done(void *ctx, enum kith_err err, const struct kith_http_response *response,
                    const struct kith_diag *diag)
{
    struct rig *rig = ctx;
    assert_true(!err || diag->text[0] || err == KITH_CANCELLED);
    rig->n_done++;
    rig->err = err;
    rig->status = response->status;
    snprintf(rig->body, sizeof rig->body, "%.*s", (int)response->body.len,
             response->body.data ? (const char *)response->body.data : "");
    if (rig->n_done == rig->n_wanted) {
        kith_loop_stop(rig->loop);
    }
}

static bool on_chunk(void *ctx, const uint8_t *data, size_t len)
{
    struct rig *rig = ctx;
    const size_t at = strlen(rig->chunks);
    snprintf(rig->chunks + at, sizeof rig->chunks - at, "%.*s", (int)len, (const char *)data);
    return !rig->refuse;
}

static void run(struct rig *rig, const struct kith_http_request *ask, kith_http_chunk_fn chunk)
{
    rig->n_done = 0;
    rig->n_wanted = 1;
    assert_int_equal(kith_http_client_start(rig->client, ask, chunk, on_done, rig, NULL), KITH_OK);
    assert_int_equal(rig->n_done, 0); /* never from inside start */
    kith_loop_run(rig->loop);
    assert_int_equal(rig->n_done, 1);
}

static void test_client_answers_on_the_loop(void **state)
{
    struct rig *rig = *state;
    struct kith_http_request ask = request("/hello");
    run(rig, &ask, NULL);
    assert_int_equal(rig->err, KITH_OK);
    assert_int_equal(rig->status, 429);
    assert_string_equal(rig->body, "hello");
    ask.url = "http://127.0.0.1:1/";
    run(rig, &ask, NULL);
    assert_int_equal(rig->err, KITH_UNAVAILABLE);
    ask = request("/silent");
    ask.timeout_ms = 50;
    run(rig, &ask, NULL);
    assert_int_equal(rig->err, KITH_TIMEOUT);
}

static void test_client_streams(void **state)
{
    struct rig *rig = *state;
    const struct kith_http_request ask = request("/stream");
    run(rig, &ask, on_chunk);
    assert_int_equal(rig->err, KITH_OK);
    assert_string_equal(rig->chunks, "onetwo");
    assert_string_equal(rig->body, "");
    rig->refuse = true;
    run(rig, &ask, on_chunk);
    assert_int_equal(rig->err, KITH_CANCELLED);
    const struct kith_http_request error = request("/hello"); /* no 2xx: the body is kept */
    run(rig, &error, on_chunk);
    assert_string_equal(rig->body, "hello");
}

static void test_client_cancels_and_closes(void **state)
{
    struct rig *rig = *state;
    struct kith_http_call *call = NULL;
    const struct kith_http_request silent = request("/silent");
    assert_int_equal(kith_http_client_start(rig->client, &silent, NULL, on_done, rig, &call),
                     KITH_OK);
    kith_http_client_cancel(call);
    const struct kith_http_request hello = request("/hello");
    run(rig, &hello, NULL);
    assert_int_equal(rig->err, KITH_OK); /* of hello; the other was cancelled without a word */
    rig->n_done = 0;
    assert_int_equal(kith_http_client_start(rig->client, &hello, NULL, on_done, rig, &call),
                     KITH_OK);
    kith_http_client_close(rig->client);
    rig->client = NULL;
    assert_int_equal(rig->n_done, 1);
    assert_int_equal(rig->err, KITH_CANCELLED);
}

static void test_client_survives_each_oom(void **state)
{
    struct rig *rig = *state;
    struct kith_http_request ask = request("/hello");
    ask.timeout_ms = 100; /* a descriptor that could not be watched ends by it */
    kith_http_client_close(rig->client);
    rig->client = NULL;
    enum kith_err err = KITH_NOMEM;
    for (long n = 0; err && n < 200; n++) {
        kith_mem_fail_after(n);
        err = kith_http_client_open(&rig->client, rig->loop, NULL);
        kith_mem_fail_after(-1);
        assert_true(err == KITH_OK || err == KITH_NOMEM);
    }
    assert_int_equal(err, KITH_OK);
    rig->err = KITH_NOMEM;
    for (long n = 0; rig->err && n < 200; n++) {
        rig->n_done = 0;
        rig->n_wanted = 1;
        kith_mem_fail_after(n);
        rig->err = kith_http_client_start(rig->client, &ask, NULL, on_done, rig, NULL);
        if (!rig->err) {
            kith_loop_run(rig->loop);
        }
        kith_mem_fail_after(-1);
    }
    assert_int_equal(rig->err, KITH_OK);
}

#define T(test_) cmocka_unit_test_setup_teardown(test_, setup, teardown)

int main(void)
{
    struct sockaddr_in addr = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t len = sizeof addr;
    listen_fd = socket(AF_INET, SOCK_STREAM, 0);
    if (listen_fd < 0 || bind(listen_fd, (struct sockaddr *)&addr, len) ||
        getsockname(listen_fd, (struct sockaddr *)&addr, &len) || listen(listen_fd, 16)) {
        return 1;
    }
    snprintf(base, sizeof base, "http://127.0.0.1:%d", ntohs(addr.sin_port));
    pthread_t thread;
    if (pthread_create(&thread, NULL, serve, NULL)) {
        return 1;
    }
    const struct CMUnitTest tests[] = {
        T(test_session_reads_status_headers_body),
        T(test_session_sends_method_headers_body),
        T(test_session_errors),
        T(test_client_answers_on_the_loop),
        T(test_client_streams),
        T(test_client_cancels_and_closes),
        T(test_client_survives_each_oom),
    };
    const int failed = cmocka_run_group_tests(tests, NULL, NULL);
    shutdown(listen_fd, SHUT_RDWR);
    pthread_join(thread, NULL);
    close(listen_fd);
    return failed;
}
