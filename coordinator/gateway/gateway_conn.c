/* One connection: HEAD -> (BODY ->) HANDLER -> WRITE -> HEAD ..., or -> LINGER -> closed.
 *
 * One request at a time per connection: what a client pipelines waits, in `in` up to one read and
 * in the kernel beyond that, so answers cannot change places. A framing error is answered once and
 * nothing behind it is ever interpreted: the rest of the connection is thrown away unread.
 *
 * The watcher stays armed for reading while the handler works: a client that waits for its answer
 * sends nothing, so this costs no system call, and a client that goes away is noticed.
 *
 * A slow peer is cut by minimum progress per window (so many bytes in so many milliseconds), not by
 * a timer that each byte resets: one byte a second is what a slow-body attack sends.
 *
 * The handler may answer from inside its call, which brings us back here with our own frames still
 * on the stack: `depth` keeps the connection's memory until the outermost one returns. */
#include "coordinator/gateway/gateway_conn.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "common/kith_clock.h"
#include "common/kith_json.h"
#include "common/kith_mem.h"

static void conn_free(struct gateway_conn *conn)
{
    struct gateway *gateway = conn->gateway;

    kith_buf_fini(&conn->in);
    kith_buf_fini(&conn->out_body);
    kith_free(conn->out_head);
    kith_free(conn);
    gateway_conn_gone(gateway);
}

void gateway_conn_enter(struct gateway_conn *conn)
{
    conn->depth++;
}

/* While an answer is being made, what a client pipelines is read ahead only so far. (In a head
 * there is no need to ask: http_check refuses one that is too large.) */
static bool may_read(const struct gateway_conn *conn)
{
    bool ahead = conn->state == GATEWAY_CONN_HANDLER || conn->state == GATEWAY_CONN_WRITE;

    return !conn->eof && (!ahead || conn->in.len - conn->in_at < GATEWAY_READ_BYTES);
}

static void conn_arm(struct gateway_conn *conn)
{
    int events = may_read(conn) ? KITH_READABLE : 0;

    if (conn->state == GATEWAY_CONN_WRITE)
        events |= KITH_WRITABLE;
    if (events == conn->armed)
        return;
    conn->armed = events;
    if (events == 0)
        kith_watch_stop(conn->watch);
    else
        kith_watch_start(conn->watch, events);
}

void gateway_conn_leave(struct gateway_conn *conn)
{
    kith_assert(conn->depth > 0);
    conn->depth--;
    if (conn->depth > 0)
        return;
    if (conn->dead)
        conn_free(conn);
    else
        conn_arm(conn);
}

void gateway_conn_close(struct gateway_conn *conn)
{
    struct gateway_inflight *inflight = conn->request;

    if (conn->dead)
        return;
    conn->dead = true;
    conn->request = NULL;
    if (inflight != NULL && inflight->admitted) {
        inflight->conn = NULL; /* the handler still has it */
        inflight->request.gone = true;
    } else {
        gateway_request_free(inflight);
    }
    kith_watch_free(conn->watch);
    conn->watch = NULL;
    close(conn->fd);
    conn->fd = -1;
    gateway_list_remove(conn->served ? &conn->gateway->served : &conn->gateway->fresh, conn);
    if (conn->depth == 0)
        conn_free(conn);
}

void gateway_conn_turn(struct gateway_conn *conn, enum gateway_conn_state state)
{
    conn->state = state;
    conn->since_ms = kith_now_ms();
    conn->window_ms = conn->since_ms;
    conn->window_bytes = 0;
}

static void conn_dispatch(struct gateway_conn *conn)
{
    struct gateway *gateway = conn->gateway;
    struct gateway_inflight *inflight = conn->request;

    memset(inflight->body + inflight->request.body_bytes, 0, KITH_JSON_PADDING);
    gateway_conn_turn(conn, GATEWAY_CONN_HANDLER);
    inflight->conn = conn;
    inflight->admitted = true;
    gateway->stats.inflight_n++;
    if (!conn->served) {
        gateway_list_remove(&gateway->fresh, conn);
        conn->served = true;
        gateway_list_add(&gateway->served, conn);
    }
    if (gateway->stats.inflight_n > gateway->options.inflight_max) {
        gateway->stats.refused++;
        gateway_reply_error(&inflight->request, KITH_BUSY,
                            "too many requests in hand: try again later");
        return;
    }
    gateway->stats.requests++;
    gateway->options.handle(gateway->options.ctx, &inflight->request);
}

static void conn_continue(struct gateway_conn *conn)
{
    static const char text[] = "HTTP/1.1 100 Continue\r\n\r\n";

    /* 25 bytes into an empty send buffer; a client that leaves no room for them is broken. */
    if (send(conn->fd, text, sizeof text - 1, MSG_NOSIGNAL) != (ssize_t)sizeof text - 1)
        gateway_conn_close(conn);
}

/* The head is complete: make the request, take what is here of its body. */
static void conn_begin(struct gateway_conn *conn, const char *bytes, size_t n)
{
    const struct http_check_head *head = &conn->head;
    size_t take = n - head->head_bytes;
    const char *reason;
    int status;

    conn->last = conn->last || head->close;
    if (head->content_length > conn->gateway->options.body_bytes_max) {
        char text[96];
        (void)snprintf(text, sizeof(text), "body: %" PRIu64 " bytes, at most %zu allowed",
                       head->content_length, conn->gateway->options.body_bytes_max);
        gateway_conn_refuse(conn, 413, text);
        return;
    }
    conn->request = gateway_request_new(conn->gateway, head, bytes, &status, &reason);
    if (conn->request == NULL) {
        gateway_conn_refuse(conn, status, reason);
        return;
    }
    if (take > head->content_length)
        take = (size_t)head->content_length;
    if (!gateway_request_grow(conn->request, take, &status, &reason)) {
        gateway_conn_refuse(conn, status, reason);
        return;
    }
    memcpy(conn->request->body, bytes + head->head_bytes, take);
    conn->request->request.body_bytes = take;
    conn->in_at += head->head_bytes + take;
    if (take == head->content_length) {
        conn_dispatch(conn);
        return;
    }
    gateway_conn_turn(conn, GATEWAY_CONN_BODY);
    if (head->expect_continue && take == 0)
        conn_continue(conn);
}

void gateway_conn_process(struct gateway_conn *conn)
{
    gateway_conn_enter(conn);
    while (!conn->dead && conn->state == GATEWAY_CONN_HEAD && conn->in_at < conn->in.len) {
        const char *bytes = (const char *)conn->in.data + conn->in_at;
        size_t n = conn->in.len - conn->in_at;
        enum http_check_verdict verdict;

        if (conn->head.at == 0)
            conn->since_ms = kith_now_ms();
        verdict = http_check_feed(&conn->head, bytes, n);
        if (verdict == HTTP_CHECK_MORE)
            break;
        if (verdict == HTTP_CHECK_BAD)
            gateway_conn_refuse(conn, conn->head.status, conn->head.reason);
        else
            conn_begin(conn, bytes, n);
    }
    if (!conn->dead && conn->eof && conn->state == GATEWAY_CONN_HEAD)
        gateway_conn_close(conn);
    if (conn->in_at > 0) {
        memmove(conn->in.data, conn->in.data + conn->in_at, conn->in.len - conn->in_at);
        conn->in.len -= conn->in_at;
        conn->in_at = 0;
    }
    gateway_conn_leave(conn);
}

/* One recv into room for `room` bytes. False: nothing came (would block, end, or error; the last
 * closes). */
static bool conn_recv(struct gateway_conn *conn, void *into, size_t room, size_t *got)
{
    ssize_t n;

    do
        n = recv(conn->fd, into, room, 0);
    while (n < 0 && errno == EINTR);
    if (n > 0) {
        *got = (size_t)n;
        conn->window_bytes += *got;
        conn->gateway->stats.bytes_in += *got;
        return true;
    }
    if (n == 0)
        conn->eof = true;
    else if (errno != EAGAIN && errno != EWOULDBLOCK)
        gateway_conn_close(conn);
    return false;
}

/* True: the read filled its room, there may be more. */
static bool read_ahead(struct gateway_conn *conn)
{
    uint8_t *into = kith_buf_reserve(&conn->in, GATEWAY_READ_BYTES);
    size_t got;

    if (into == NULL) {
        gateway_conn_close(conn);
        return false;
    }
    if (conn_recv(conn, into, GATEWAY_READ_BYTES, &got)) {
        conn->in.len += got;
        gateway_conn_process(conn);
        return !conn->dead && got == GATEWAY_READ_BYTES;
    }
    if (!conn->dead && conn->state == GATEWAY_CONN_HEAD)
        gateway_conn_process(conn); /* sees the end of the stream */
    return false;
}

static bool read_body(struct gateway_conn *conn)
{
    struct gateway_inflight *inflight = conn->request;
    size_t have = inflight->request.body_bytes;
    size_t next = have + GATEWAY_READ_BYTES;
    const char *reason;
    size_t got, room;
    int status;

    if (next > inflight->body_want)
        next = inflight->body_want;
    if (!gateway_request_grow(inflight, next, &status, &reason)) {
        gateway_request_free(inflight);
        conn->request = NULL;
        gateway_conn_refuse(conn, status, reason);
        return false;
    }
    room = inflight->body_cap - KITH_JSON_PADDING - have;
    room = room < GATEWAY_TURN_BYTES ? room : GATEWAY_TURN_BYTES;
    if (!conn_recv(conn, inflight->body + have, room, &got)) {
        if (!conn->dead && conn->eof)
            gateway_conn_close(conn); /* half a request is no request */
        return false;
    }
    inflight->request.body_bytes += got;
    if (inflight->request.body_bytes == inflight->body_want) {
        conn_dispatch(conn);
        if (!conn->dead)
            gateway_conn_process(conn);
    }
    return !conn->dead && got == room;
}

static bool read_away(struct gateway_conn *conn)
{
    char scratch[GATEWAY_READ_BYTES];
    size_t got;

    if (!conn_recv(conn, scratch, sizeof scratch, &got)) {
        if (!conn->dead && conn->eof)
            gateway_conn_close(conn);
        return false;
    }
    conn->discard_bytes += got;
    if (conn->discard_bytes > conn->gateway->options.body_bytes_max)
        gateway_conn_close(conn);
    return !conn->dead && got == sizeof scratch;
}

static void on_event(void *ctx, int events, bool error)
{
    struct gateway_conn *conn = ctx;

    gateway_conn_enter(conn);
    if ((events & KITH_WRITABLE) != 0 && conn->state == GATEWAY_CONN_WRITE) {
        gateway_conn_flush(conn);
        if (!conn->dead)
            gateway_conn_process(conn);
    }
    if (!conn->dead && (events & KITH_READABLE) != 0) {
        bool more = true;
        uint64_t end = conn->gateway->stats.bytes_in + GATEWAY_TURN_BYTES;
        while (more && conn->gateway->stats.bytes_in < end) {
            if (conn->state == GATEWAY_CONN_BODY)
                more = read_body(conn);
            else if (conn->state == GATEWAY_CONN_LINGER)
                more = read_away(conn);
            else
                more = may_read(conn) && read_ahead(conn);
        }
    }
    if (error && !conn->dead)
        gateway_conn_close(conn);
    gateway_conn_leave(conn);
}

enum kith_err gateway_conn_new(struct gateway *gateway, int fd, const struct sockaddr_storage *peer)
{
    struct gateway_conn *conn = kith_alloc(sizeof *conn);
    enum kith_err err;

    if (conn == NULL)
        return KITH_NOMEM;
    conn->gateway = gateway;
    conn->peer = *peer;
    err = kith_watch_new(&conn->watch, gateway->loop, fd, on_event, conn);
    if (err != KITH_OK) {
        kith_free(conn);
        return err;
    }
    conn->fd = fd;
    http_check_init(&conn->head);
    gateway_conn_turn(conn, GATEWAY_CONN_HEAD);
    gateway_list_add(&gateway->fresh, conn);
    gateway->stats.connections_n++;
    gateway->stats.connections++;
    conn_arm(conn);
    return KITH_OK;
}

/* True when less than the minimum rate moved in a whole window; opens the next window. */
static bool too_slow(struct gateway_conn *conn, uint64_t now_ms, uint32_t window_ms)
{
    uint64_t passed = now_ms - conn->window_ms;
    bool slow;

    if (passed < window_ms)
        return false;
    slow = (uint64_t)conn->window_bytes * 1000 <
           (uint64_t)conn->gateway->options.body_bytes_per_s_min * passed;
    conn->window_ms = now_ms;
    conn->window_bytes = 0;
    return slow;
}

void gateway_conn_tick(struct gateway_conn *conn, uint64_t now_ms)
{
    const struct gateway_options *options = &conn->gateway->options;
    uint64_t passed = now_ms - conn->since_ms;

    gateway_conn_enter(conn);
    switch (conn->state) {
    case GATEWAY_CONN_HEAD:
        if (conn->head.at > 0) {
            if (passed >= options->header_timeout_ms)
                gateway_conn_refuse(conn, 408, "the request head took too long");
        } else if (passed >= options->idle_timeout_ms) {
            gateway_conn_close(conn);
        } else if (conn->in.cap > 0 && passed > 1000) {
            kith_buf_fini(&conn->in); /* an idle connection holds no buffer */
        }
        break;
    case GATEWAY_CONN_BODY:
        if (too_slow(conn, now_ms, options->body_grace_ms)) {
            gateway_request_free(conn->request);
            conn->request = NULL;
            gateway_conn_refuse(conn, 408, "the request body came too slowly");
        }
        break;
    case GATEWAY_CONN_WRITE:
        if (too_slow(conn, now_ms, options->write_timeout_ms)) {
            conn->gateway->stats.timeouts++;
            gateway_conn_close(conn);
        }
        break;
    case GATEWAY_CONN_LINGER:
        if (passed >= GATEWAY_LINGER_MS)
            gateway_conn_close(conn);
        break;
    case GATEWAY_CONN_HANDLER:
        break; /* its deadline is the handler's business */
    }
    gateway_conn_leave(conn);
}
