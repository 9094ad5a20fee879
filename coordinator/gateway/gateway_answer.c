/* The answer of a connection: its head, sending both, and what comes then. */
#include "coordinator/gateway/gateway_conn.h"

#include <errno.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/uio.h>

#include "common/kith_mem.h"

static const char *status_text(int status)
{
    static const struct {
        int status;
        const char *text;
    } known[] = {
        {200, "OK"},
        {201, "Created"},
        {400, "Bad Request"},
        {401, "Unauthorized"},
        {403, "Forbidden"},
        {404, "Not Found"},
        {405, "Method Not Allowed"},
        {408, "Request Timeout"},
        {409, "Conflict"},
        {413, "Content Too Large"},
        {414, "URI Too Long"},
        {415, "Unsupported Media Type"},
        {417, "Expectation Failed"},
        {422, "Unprocessable Content"},
        {429, "Too Many Requests"},
        {431, "Request Header Fields Too Large"},
        {500, "Internal Server Error"},
        {501, "Not Implemented"},
        {502, "Bad Gateway"},
        {503, "Service Unavailable"},
        {504, "Gateway Timeout"},
        {505, "HTTP Version Not Supported"},
        {507, "Insufficient Storage"},
    };

    for (size_t i = 0; i < sizeof known / sizeof known[0]; i++)
        if (known[i].status == status)
            return known[i].text;
    return "Status";
}

static void append_decimal(struct kith_buf *buf, uint64_t value)
{
    char text[20];
    size_t at = sizeof text;

    do
        text[--at] = (char)('0' + value % 10);
    while ((value /= 10) > 0);
    kith_buf_append(buf, text + at, sizeof text - at);
}

static void append_hex(struct kith_buf *buf, uint64_t value)
{
    char text[16];

    for (size_t at = sizeof text; at > 0; value >>= 4)
        text[--at] = "0123456789abcdef"[value & 15];
    kith_buf_append(buf, text, sizeof text);
}

/* Writes the answer's head into out_head. False when memory is out. Every answer has one, and
 * printf took longer than all the rest of the gateway: no printf here. */
static bool head_write(struct gateway_conn *conn, int status, const char *content_type,
                       size_t body_bytes, const struct gateway_pair *extra, uint32_t extra_n)
{
    struct kith_buf head = {0};

    (void)kith_buf_reserve(&head, 256); /* enough for nearly all: one allocation */
    kith_buf_text(&head, "HTTP/1.1 ");
    append_decimal(&head, (uint64_t)status);
    kith_buf_byte(&head, ' ');
    kith_buf_text(&head, status_text(status));
    kith_buf_text(&head, "\r\nContent-Type: ");
    kith_buf_text(&head, content_type);
    kith_buf_text(&head, "\r\nContent-Length: ");
    append_decimal(&head, body_bytes);
    kith_buf_text(&head, "\r\nDate: ");
    kith_buf_text(&head, gateway_date(conn->gateway));
    kith_buf_text(&head, "\r\n");
    if (conn->request != NULL) {
        kith_buf_text(&head, "X-Request-Id: ");
        append_hex(&head, conn->request->request.id);
        kith_buf_text(&head, "\r\n");
    }
    for (uint32_t i = 0; i < extra_n; i++) {
        kith_assert(strpbrk(extra[i].value, "\r\n") == NULL);
        kith_buf_text(&head, extra[i].name);
        kith_buf_text(&head, ": ");
        kith_buf_text(&head, extra[i].value);
        kith_buf_text(&head, "\r\n");
    }
    if (conn->last)
        kith_buf_text(&head, "Connection: close\r\n");
    kith_buf_text(&head, "\r\n");
    if (head.failed) {
        kith_buf_fini(&head);
        return false;
    }
    kith_free(conn->out_head);
    conn->out_head = (char *)head.data;
    conn->out_head_bytes = head.len;
    return true;
}

/* The answer is out. */
static void conn_sent(struct gateway_conn *conn)
{
    kith_buf_fini(&conn->out_body);
    if (!conn->last && !conn->eof) {
        http_check_init(&conn->head);
        gateway_conn_turn(conn, GATEWAY_CONN_HEAD);
        return;
    }
    if (conn->last && !conn->eof) {
        /* Closing with unread bytes in the kernel would send a reset, which can overtake the
         * answer: say that we are done, and let the client hang up. */
        shutdown(conn->fd, SHUT_WR);
        conn->in_at = conn->in.len;
        gateway_conn_turn(conn, GATEWAY_CONN_LINGER);
        return;
    }
    /* The client half-closed: answer what it had sent before, then go. */
    if (!conn->last && conn->in_at < conn->in.len) {
        http_check_init(&conn->head);
        gateway_conn_turn(conn, GATEWAY_CONN_HEAD);
        return;
    }
    gateway_conn_close(conn);
}

void gateway_conn_flush(struct gateway_conn *conn)
{
    size_t total = conn->out_head_bytes + conn->out_body.len;

    while (conn->out_at < total) {
        struct iovec parts[2];
        struct msghdr message = {.msg_iov = parts};
        size_t at = conn->out_at;
        ssize_t sent;

        if (at < conn->out_head_bytes) {
            parts[message.msg_iovlen++] =
                (struct iovec){conn->out_head + at, conn->out_head_bytes - at};
            at = conn->out_head_bytes;
        }
        at -= conn->out_head_bytes;
        if (at < conn->out_body.len)
            parts[message.msg_iovlen++] =
                (struct iovec){conn->out_body.data + at, conn->out_body.len - at};
        sent = sendmsg(conn->fd, &message, MSG_NOSIGNAL);
        if (sent < 0 && errno == EINTR)
            continue;
        if (sent < 0 && (errno == EAGAIN || errno == EWOULDBLOCK))
            return; /* conn_arm waits for room */
        if (sent < 0) {
            gateway_conn_close(conn);
            return;
        }
        conn->out_at += (size_t)sent;
        conn->window_bytes += (size_t)sent;
        conn->gateway->stats.bytes_out += (uint64_t)sent;
    }
    conn_sent(conn);
}

void gateway_conn_answer(struct gateway_conn *conn, int status, const char *content_type,
                         struct kith_buf *body, const struct gateway_pair *extra, uint32_t extra_n)
{
    bool head_only = conn->request != NULL && conn->request->request.head;

    gateway_conn_enter(conn);
    if (conn->gateway->draining)
        conn->last = true;
    kith_buf_fini(&conn->out_body);
    if (body != NULL) {
        conn->out_body = *body;
        *body = (struct kith_buf){0};
    }
    if (!head_write(conn, status, content_type, conn->out_body.len, extra, extra_n)) {
        gateway_conn_close(conn); /* no memory even to say so */
        gateway_conn_leave(conn);
        return;
    }
    if (head_only)
        kith_buf_reset(&conn->out_body);
    conn->out_at = 0;
    gateway_request_free(conn->request); /* after the head: its texts may live in the arena */
    conn->request = NULL;
    gateway_conn_turn(conn, GATEWAY_CONN_WRITE);
    gateway_conn_flush(conn);
    /* From inside the handler's call the loop below us in the stack goes on; else we do. */
    if (conn->depth == 1)
        gateway_conn_process(conn);
    gateway_conn_leave(conn);
}

void gateway_conn_refuse(struct gateway_conn *conn, int status, const char *reason)
{
    static const struct gateway_pair retry = {"Retry-After", "1"};
    struct kith_buf body = {0};
    bool later = status == 429 || status == 503;

    conn->gateway->stats.refused++;
    if (status == 408)
        conn->gateway->stats.timeouts++;
    conn->last = true;
    conn->in_at = conn->in.len;
    gateway_error_body(&body, reason, 0.0);
    if (body.failed)
        kith_buf_fini(&body);
    gateway_conn_answer(conn, status, "application/json", &body, &retry, later ? 1 : 0);
}
