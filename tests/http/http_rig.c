#include "http_rig.h"

#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cmocka.h>

#define BIG_BYTES (8u << 20)

static void rig_handle(void *ctx, struct gateway_request *request)
{
    struct http_rig *rig = ctx;
    struct kith_buf body = {0};

    rig->calls++;
    if (strstr(request->path, "smuggled") != NULL)
        rig->smuggled++;
    if (strcmp(request->path, "/hold") == 0) {
        assert_true(rig->held_n < 64);
        rig->held[rig->held_n++] = request;
        return;
    }
    if (strcmp(request->path, "/big") == 0) {
        uint8_t *room = kith_buf_reserve(&body, BIG_BYTES);
        assert_non_null(room);
        memset(room, 'x', BIG_BYTES);
        body.len = BIG_BYTES;
    } else {
        kith_buf_printf(&body, "{\"path\":\"%s\",\"bytes\":%zu}", request->path,
                        request->body_bytes);
    }
    gateway_reply(request, 200, NULL, &body, NULL, 0);
}

static void *rig_run(void *arg)
{
    struct http_rig *rig = arg;

    kith_loop_run(rig->loop);
    return NULL;
}

void http_rig_open(struct http_rig *rig, const struct gateway_options *options)
{
    struct gateway_options own = *options;
    struct kith_diag diag = {0};

    memset(rig, 0, sizeof *rig);
    own.listen = "127.0.0.1:0";
    own.handle = rig_handle;
    own.ctx = rig;
    assert_int_equal(kith_loop_open(&rig->loop, &diag), KITH_OK);
    assert_int_equal(gateway_open(&rig->gateway, rig->loop, &own, &diag), KITH_OK);
    rig->port = (uint16_t)atoi(strrchr(gateway_url(rig->gateway), ':') + 1);
    assert_int_equal(pthread_create(&rig->thread, NULL, rig_run, rig), 0);
}

struct errand {
    struct kith_letter letter;
    struct http_rig *rig;
    struct http_rig_view view;
    sem_t done;
};

static void errand_run(struct http_rig *rig, kith_loop_fn fn, struct http_rig_view *out)
{
    struct errand errand = {.rig = rig};

    sem_init(&errand.done, 0, 0);
    errand.letter.fn = fn;
    errand.letter.ctx = &errand;
    kith_loop_post(rig->loop, &errand.letter);
    while (sem_wait(&errand.done) != 0)
        continue;
    sem_destroy(&errand.done);
    if (out != NULL)
        *out = errand.view;
}

static void on_look(void *ctx)
{
    struct errand *errand = ctx;

    errand->view.calls = errand->rig->calls;
    errand->view.smuggled = errand->rig->smuggled;
    errand->view.held_n = errand->rig->held_n;
    gateway_stats(errand->rig->gateway, &errand->view.stats);
    sem_post(&errand->done);
}

static void on_release(void *ctx)
{
    struct errand *errand = ctx;
    struct http_rig *rig = errand->rig;

    while (rig->held_n > 0) {
        struct kith_buf body = {0};
        kith_buf_text(&body, "{}");
        gateway_reply(rig->held[--rig->held_n], 200, NULL, &body, NULL, 0);
    }
    sem_post(&errand->done);
}

static void on_drained(void *ctx)
{
    struct errand *errand = ctx;

    gateway_close(errand->rig->gateway);
    errand->rig->gateway = NULL;
    kith_loop_stop(errand->rig->loop);
    sem_post(&errand->done);
}

static void on_close(void *ctx)
{
    struct errand *errand = ctx;

    gateway_drain(errand->rig->gateway, 100, on_drained, errand);
}

void http_rig_look(struct http_rig *rig, struct http_rig_view *out)
{
    errand_run(rig, on_look, out);
}

void http_rig_release(struct http_rig *rig)
{
    errand_run(rig, on_release, NULL);
}

void http_rig_close(struct http_rig *rig)
{
    http_rig_release(rig);
    errand_run(rig, on_close, NULL);
    pthread_join(rig->thread, NULL);
    kith_loop_close(rig->loop);
}

int http_rig_connect(const struct http_rig *rig)
{
    struct sockaddr_in to = {.sin_family = AF_INET, .sin_port = htons(rig->port)};
    struct timeval patience = {.tv_sec = 20};
    int one = 1;
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);

    to.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    assert_true(fd >= 0);
    assert_int_equal(connect(fd, (struct sockaddr *)&to, sizeof to), 0);
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof patience);
    return fd;
}

void http_rig_send(int fd, const char *bytes, size_t n)
{
    while (n > 0) {
        ssize_t sent = send(fd, bytes, n, MSG_NOSIGNAL);

        if (sent <= 0)
            return;
        bytes += sent;
        n -= (size_t)sent;
    }
}

int http_rig_answer(int fd, char *body, size_t body_bytes)
{
    char head[4096];
    size_t n = 0;
    size_t length;
    const char *field;
    int status;

    if (body != NULL)
        body[0] = '\0';
    /* Look first, then take the head alone: what follows belongs to the next answer. */
    for (const char *end = NULL; end == NULL;) {
        ssize_t seen = recv(fd, head + n, sizeof head - 1 - n, MSG_PEEK);
        size_t take;

        if (seen <= 0)
            return 0;
        head[n + (size_t)seen] = '\0';
        end = strstr(head, "\r\n\r\n");
        take = end == NULL ? (size_t)seen : (size_t)(end - head) + 4 - n;
        assert_int_equal(recv(fd, head + n, take, 0), take);
        n += take;
        head[n] = '\0';
    }
    assert_int_equal(sscanf(head, "HTTP/1.1 %d", &status), 1);
    if (status == 100)
        return status;
    field = strstr(head, "Content-Length: ");
    assert_non_null(field); /* every answer says how long it is */
    length = (size_t)strtoull(field + 16, NULL, 10);
    for (size_t at = 0; at < length; at++) {
        char byte;
        if (recv(fd, &byte, 1, 0) != 1)
            return 0;
        if (body != NULL && at + 1 < body_bytes) {
            body[at] = byte;
            body[at + 1] = '\0';
        }
    }
    return status;
}

bool http_rig_ended(int fd)
{
    char byte;
    ssize_t n = recv(fd, &byte, 1, 0);

    return n == 0 || (n < 0 && errno == ECONNRESET);
}
