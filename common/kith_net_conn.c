/* Receiving: one operation at a time, into a small buffer from which any number of messages are
 * taken, or straight into the body of a message that is larger than what has come of it. Sending:
 * one operation at a time over up to four messages of the queue.
 *
 * An operation is started only under the lock and only while the connection is open, and closing
 * happens under the same lock. So nothing is ever started on a closed stream, where NNG 1.5.2 would
 * forget it, and each operation under way ends in its callback. Each holds a reference. Starting
 * one may send or receive what the socket takes at once; it never waits. */
#include "common/kith_net_conn.h"

#include <pthread.h>
#include <string.h>

#include "common/kith_mem.h"
#include "proto/kith_wire.h"

#define HEAD_BYTES   16u
#define BUFFER_BYTES (16u * 1024)
#define BATCH        4u /* messages in one send: two pieces each, NNG takes eight */

struct outgoing {
    struct outgoing *next;
    nng_msg *msg;
    uint8_t head[HEAD_BYTES];
};

struct conn {
    struct kith_net_conn base;
    /* Immutable. */
    const struct kith_net_conn_events *events;
    nng_stream *stream;
    nng_aio *rx, *tx;
    /* Of the receive under way: its callback's alone. */
    uint8_t buffer[BUFFER_BYTES];
    size_t from, to; /* unread bytes of the buffer */
    nng_msg *msg;    /* being received; NULL = a head comes next */
    uint64_t number;
    size_t done; /* bytes of msg that are there */
    bool into_msg, waking;
    /* Guarded by lock. */
    pthread_mutex_t lock;
    bool closed, told, sending, paused;
    uint32_t refs;
    struct outgoing *queue, **queue_end;
    size_t sent; /* bytes of the queue's first that are gone */
};

static struct conn *of(struct kith_net_conn *conn)
{
    return (struct conn *)conn;
}

/* ---- life ------------------------------------------------------------------------------------ */

void kith_net_conn_ref(struct kith_net_conn *base)
{
    struct conn *conn = of(base);
    (void)pthread_mutex_lock(&conn->lock);
    conn->refs++;
    (void)pthread_mutex_unlock(&conn->lock);
}

void kith_net_conn_unref(struct kith_net_conn *base)
{
    struct conn *conn = of(base);
    (void)pthread_mutex_lock(&conn->lock);
    kith_assert(conn->refs > 0);
    bool last = --conn->refs == 0;
    (void)pthread_mutex_unlock(&conn->lock);
    if (last)
        conn->events->on_unused(base);
}

static void drop_outgoing(struct outgoing *out)
{
    nng_msg_free(out->msg);
    kith_free(out);
}

void kith_net_conn_free(struct kith_net_conn *base)
{
    struct conn *conn = of(base);
    nng_aio_free(conn->rx);
    nng_aio_free(conn->tx);
    nng_stream_free(conn->stream);
    nng_msg_free(conn->msg);
    while (conn->queue != NULL) {
        struct outgoing *next = conn->queue->next;
        drop_outgoing(conn->queue);
        conn->queue = next;
    }
    (void)pthread_mutex_destroy(&conn->lock);
    kith_free(conn);
}

/* The receiver goes on, on a thread of NNG: the next message may be answered at once, and again.
 * By whoever took `paused` away; until then nobody else touches what the receiver owns. */
static void wake_up(struct conn *conn)
{
    conn->into_msg = false;
    nng_sleep_aio(0, conn->rx);
}

/* Closes; true for the one caller who must tell. */
static bool close_locked(struct conn *conn)
{
    if (!conn->closed) {
        conn->closed = true;
        nng_stream_close(conn->stream);
    }
    bool tell = !conn->told;
    conn->told = true;
    return tell;
}

void kith_net_conn_close(struct kith_net_conn *base)
{
    struct conn *conn = of(base);
    (void)pthread_mutex_lock(&conn->lock);
    bool tell = close_locked(conn);
    bool wake = conn->paused; /* nothing is under way that would notice */
    conn->paused = false;
    (void)pthread_mutex_unlock(&conn->lock);
    if (tell)
        conn->events->on_down(base);
    if (wake)
        wake_up(conn);
}

/* ---- receiving ------------------------------------------------------------------------------- */

/* The next receive, unless there must be none; then the receiver's reference goes. */
static void receive(struct conn *conn)
{
    nng_iov iov;
    conn->into_msg = conn->msg != NULL; /* the buffer is empty whenever a message is unfinished */
    if (conn->into_msg) {
        iov.iov_buf = (uint8_t *)nng_msg_body(conn->msg) + conn->done;
        iov.iov_len = nng_msg_len(conn->msg) - conn->done;
    } else {
        memmove(conn->buffer, conn->buffer + conn->from, conn->to - conn->from);
        conn->to -= conn->from;
        conn->from = 0;
        iov.iov_buf = conn->buffer + conn->to;
        iov.iov_len = BUFFER_BYTES - conn->to;
    }
    (void)nng_aio_set_iov(conn->rx, 1, &iov);
    (void)pthread_mutex_lock(&conn->lock);
    bool closed = conn->closed;
    if (!closed)
        nng_stream_recv(conn->stream, conn->rx);
    (void)pthread_mutex_unlock(&conn->lock);
    if (closed) {
        kith_net_conn_close(&conn->base);
        kith_net_conn_unref(&conn->base);
    }
}

/* A head from the buffer; false: not all there yet, or the connection is to be closed. */
static bool take_head(struct conn *conn, bool *bad)
{
    if (conn->to - conn->from < HEAD_BYTES)
        return false;
    const uint8_t *head = conn->buffer + conn->from;
    uint32_t bytes = kith_load_u32(head);
    if (bytes > KITH_NET_MESSAGE_MAX || kith_load_u32(head + 4) != 0 ||
        nng_msg_alloc(&conn->msg, bytes) != 0) {
        *bad = true;
        return false;
    }
    conn->number = kith_load_u64(head + 8);
    conn->done = 0;
    conn->from += HEAD_BYTES;
    return true;
}

static bool deliver(struct conn *conn)
{
    nng_msg *msg = conn->msg;
    conn->msg = NULL;
    (void)pthread_mutex_lock(&conn->lock);
    bool closed = conn->closed;
    (void)pthread_mutex_unlock(&conn->lock);
    if (closed) {
        nng_msg_free(msg);
        return true;
    }
    return conn->events->on_message(&conn->base, conn->number, msg);
}

/* Everything the buffer holds; false: stop, paused or bad. */
static bool take_messages(struct conn *conn, bool *bad)
{
    for (;;) {
        if (conn->msg == NULL && !take_head(conn, bad))
            return !*bad;
        size_t want = nng_msg_len(conn->msg) - conn->done;
        size_t have = conn->to - conn->from;
        size_t n = want < have ? want : have;
        if (n > 0)
            memcpy((uint8_t *)nng_msg_body(conn->msg) + conn->done, conn->buffer + conn->from, n);
        conn->done += n;
        conn->from += n;
        if (n < want)
            return true;
        if (!deliver(conn))
            return false;
    }
}

/* True: somebody resumed between on_message and here. */
static bool pause_unless_resumed(struct conn *conn)
{
    (void)pthread_mutex_lock(&conn->lock);
    bool go_on = conn->waking || conn->closed;
    conn->waking = false;
    conn->paused = !go_on;
    (void)pthread_mutex_unlock(&conn->lock);
    return go_on;
}

static void on_received(void *arg)
{
    struct conn *conn = arg;
    size_t n = nng_aio_count(conn->rx);
    bool bad = nng_aio_result(conn->rx) != 0;
    if (bad) {
        kith_net_conn_close(&conn->base);
        kith_net_conn_unref(&conn->base);
        return;
    }
    if (conn->into_msg)
        conn->done += n;
    else
        conn->to += n;
    while (!take_messages(conn, &bad)) {
        if (bad) {
            kith_net_conn_close(&conn->base);
            kith_net_conn_unref(&conn->base);
            return;
        }
        if (!pause_unless_resumed(conn))
            return;
    }
    receive(conn);
}

void kith_net_conn_start(struct kith_net_conn *base)
{
    kith_net_conn_ref(base);
    receive(of(base));
}

void kith_net_conn_resume(struct kith_net_conn *base)
{
    struct conn *conn = of(base);
    (void)pthread_mutex_lock(&conn->lock);
    bool wake = conn->paused;
    conn->paused = false;
    conn->waking = !wake;
    (void)pthread_mutex_unlock(&conn->lock);
    if (wake)
        wake_up(conn);
}

/* ---- sending --------------------------------------------------------------------------------- */

static void send_locked(struct conn *conn)
{
    nng_iov iov[2 * BATCH];
    unsigned n = 0;
    size_t skip = conn->sent;
    struct outgoing *out = conn->queue;
    for (unsigned i = 0; i < BATCH && out != NULL; i++, out = out->next) {
        size_t of_head = skip < HEAD_BYTES ? skip : HEAD_BYTES;
        size_t of_body = skip - of_head;
        if (of_head < HEAD_BYTES)
            iov[n++] = (nng_iov){.iov_buf = out->head + of_head, .iov_len = HEAD_BYTES - of_head};
        if (of_body < nng_msg_len(out->msg))
            iov[n++] = (nng_iov){.iov_buf = (uint8_t *)nng_msg_body(out->msg) + of_body,
                                 .iov_len = nng_msg_len(out->msg) - of_body};
        skip = 0;
    }
    (void)nng_aio_set_iov(conn->tx, n, iov);
    nng_stream_send(conn->stream, conn->tx);
}

/* Takes n sent bytes off the queue; what is finished is returned for freeing without the lock. */
static struct outgoing *advance_locked(struct conn *conn, size_t n)
{
    struct outgoing *finished = NULL;
    conn->sent += n;
    while (conn->queue != NULL) {
        size_t bytes = HEAD_BYTES + nng_msg_len(conn->queue->msg);
        if (conn->sent < bytes)
            break;
        struct outgoing *out = conn->queue;
        conn->sent -= bytes;
        conn->queue = out->next;
        if (conn->queue == NULL)
            conn->queue_end = &conn->queue;
        out->next = finished;
        finished = out;
    }
    return finished;
}

static void on_sent(void *arg)
{
    struct conn *conn = arg;
    bool failed = nng_aio_result(conn->tx) != 0;
    struct outgoing *finished = NULL;
    (void)pthread_mutex_lock(&conn->lock);
    if (!failed)
        finished = advance_locked(conn, nng_aio_count(conn->tx));
    bool more = !failed && !conn->closed && conn->queue != NULL;
    conn->sending = more;
    if (more)
        send_locked(conn);
    (void)pthread_mutex_unlock(&conn->lock);
    while (finished != NULL) {
        struct outgoing *next = finished->next;
        drop_outgoing(finished);
        finished = next;
    }
    if (failed)
        kith_net_conn_close(&conn->base);
    if (!more)
        kith_net_conn_unref(&conn->base);
}

void kith_net_conn_send(struct kith_net_conn *base, uint64_t number, nng_msg *msg)
{
    struct conn *conn = of(base);
    struct outgoing *out = kith_alloc(sizeof *out);
    if (out == NULL) { /* who waits for this message must not wait for ever */
        nng_msg_free(msg);
        kith_net_conn_close(base);
        return;
    }
    out->msg = msg;
    kith_store_u32(out->head, (uint32_t)nng_msg_len(msg));
    kith_store_u32(out->head + 4, 0);
    kith_store_u64(out->head + 8, number);
    (void)pthread_mutex_lock(&conn->lock);
    bool closed = conn->closed;
    if (!closed) {
        *conn->queue_end = out;
        conn->queue_end = &out->next;
        if (!conn->sending) {
            conn->sending = true;
            conn->refs++;
            send_locked(conn);
        }
    }
    (void)pthread_mutex_unlock(&conn->lock);
    if (closed)
        drop_outgoing(out);
}

enum kith_err kith_net_conn_new(struct kith_net_conn **out, nng_stream *stream,
                                const struct kith_net_conn_events *events, void *owner)
{
    struct conn *conn = kith_alloc(sizeof *conn);
    if (conn == NULL) {
        nng_stream_free(stream);
        return KITH_NOMEM;
    }
    conn->base.owner = owner;
    conn->events = events;
    conn->stream = stream;
    conn->queue_end = &conn->queue;
    conn->refs = 1;
    (void)pthread_mutex_init(&conn->lock, NULL);
    if (nng_aio_alloc(&conn->rx, on_received, conn) != 0 ||
        nng_aio_alloc(&conn->tx, on_sent, conn) != 0) {
        kith_net_conn_free(&conn->base);
        return KITH_NOMEM;
    }
    *out = &conn->base;
    return KITH_OK;
}

/* ---- the owner's lists ----------------------------------------------------------------------- */

void kith_net_conn_link(struct kith_net_conn **list, struct kith_net_conn *conn)
{
    conn->list = list;
    conn->prev = NULL;
    conn->next = *list;
    if (*list != NULL)
        (*list)->prev = conn;
    *list = conn;
}

void kith_net_conn_unlink(struct kith_net_conn *conn)
{
    if (conn->list == NULL)
        return;
    if (conn->prev != NULL)
        conn->prev->next = conn->next;
    else
        *conn->list = conn->next;
    if (conn->next != NULL)
        conn->next->prev = conn->prev;
    conn->next = conn->prev = NULL;
    conn->list = NULL;
}

uint32_t kith_net_conn_free_all(struct kith_net_conn *list)
{
    uint32_t n = 0;
    for (; list != NULL; n++) {
        struct kith_net_conn *next = list->next;
        kith_net_conn_free(list);
        list = next;
    }
    return n;
}
