/* NNG 1.5.2 behind a small face; the home of nng.h.
 *
 * At most once. REQ was made to repeat itself. With NNG_OPT_REQ_RESENDTIME infinite, 1.5.2 ends a
 * request that was sent over a connection that died, but one still in its send queue stays there
 * and goes out over the next connection, long after its asker wanted to know. So a peer here has
 * exactly one dialer, counts its connections (`epoch`), and remembers with each request the epoch
 * it began in. When a connection goes, all its requests are aborted, and the next connection is
 * refused (NNG_PIPE_EV_ADD_PRE) until the last of them has ended.
 *
 * Who may abort. Pipe events come with a lock of the socket held, so they only note what happened
 * and start the janitor: a zero-length sleep whose callback runs on an NNG thread without locks.
 *
 * Lifetime of a request ("ask"). It is reused after its callback, so whoever starts or aborts an
 * operation on it does so under a hold: an abort meant for one request cannot hit the next one that
 * lives in the same memory. An ask that waits for a connection sleeps on an aio of its own, so that
 * waking it cannot abort a send that began at the same moment.
 *
 * An operation that has not begun cannot be aborted, so every start is followed by a second look
 * ("settle"): was the connection lost, or the peer closed, while we started?
 *
 * Closing. In 1.5.2 a TCP connection that is closed on this side at the moment when the length of a
 * message has been read and its body has not leaves an operation that never ends
 * (tcptran_pipe_recv_cb: nng_stream_recv on a closed aio returns without a callback), and NNG's one
 * reaper thread waits for it for ever. nng_close() therefore runs on a thread of its own and is
 * given CLOSE_MS; if it hangs, the socket and what its callbacks may touch are left to the end of
 * the process, which is when sockets are closed anyway. */
#include "common/kith_net.h"

#include <nng/nng.h>
#include <nng/protocol/reqrep0/rep.h>
#include <nng/protocol/reqrep0/req.h>
#include <pthread.h>
#include <stdatomic.h>
#include <string.h>
#include <time.h>

#include "common/kith_clock.h"
#include "common/kith_log.h"
#include "common/kith_mem.h"
#include "proto/kith_frame.h"
#include "proto/kith_limits.h"

#define MESSAGE_MAX      (KITH_FRAME_BODY_MAX + KITH_FRAME_HEADER_BYTES)
#define PROTOCOL_BYTES   64u /* NNG's own header before ours: request id and hops */
#define URL_BYTES        256u
#define RECONNECT_MIN_MS 20
#define RECONNECT_MAX_MS 1000
#define CLOSE_MS         300

static enum kith_err from_nng(int rv)
{
    switch (rv) {
    case 0:
        return KITH_OK;
    case NNG_ENOMEM:
        return KITH_NOMEM;
    case NNG_ETIMEDOUT:
        return KITH_TIMEOUT;
    case NNG_EADDRINVAL:
    case NNG_EINVAL:
        return KITH_BAD_REQUEST;
    default:
        return KITH_UNAVAILABLE;
    }
}

/* Before any listener or dialer: the library's default is no limit at all. */
static int limit_messages(nng_socket socket)
{
    size_t limit = MESSAGE_MAX + PROTOCOL_BYTES;
    size_t got = 0;
    int rv = nng_socket_set_size(socket, NNG_OPT_RECVMAXSZ, limit);
    if (rv == 0)
        rv = nng_socket_get_size(socket, NNG_OPT_RECVMAXSZ, &got);
    return rv == 0 && got != limit ? NNG_EINTERNAL : rv;
}

struct closing {
    nng_socket socket;
    pthread_mutex_t lock;
    pthread_cond_t changed;
    bool done, abandoned; /* whoever comes second frees this */
};

/* Set once, when a close hung: the later ones would hang too. Relaxed: a late look costs CLOSE_MS.
 */
static atomic_bool reaper_stuck;

static void free_closing(struct closing *closing)
{
    (void)pthread_cond_destroy(&closing->changed);
    (void)pthread_mutex_destroy(&closing->lock);
    kith_free(closing);
}

static void *closing_main(void *arg)
{
    struct closing *closing = arg;
    (void)nng_close(closing->socket);
    (void)pthread_mutex_lock(&closing->lock);
    closing->done = true;
    bool mine = closing->abandoned;
    (void)pthread_cond_signal(&closing->changed);
    (void)pthread_mutex_unlock(&closing->lock);
    if (mine)
        free_closing(closing);
    return NULL;
}

/* True when the socket is closed; false: it hangs, and its callbacks may still come. */
static bool close_socket(nng_socket socket)
{
    struct closing *closing = kith_xalloc(sizeof *closing);
    pthread_t thread;
    pthread_condattr_t monotonic;
    closing->socket = socket;
    (void)pthread_mutex_init(&closing->lock, NULL);
    (void)pthread_condattr_init(&monotonic);
    (void)pthread_condattr_setclock(&monotonic, CLOCK_MONOTONIC);
    (void)pthread_cond_init(&closing->changed, &monotonic);
    (void)pthread_condattr_destroy(&monotonic);
    if (pthread_create(&thread, NULL, closing_main, closing) != 0) {
        free_closing(closing);
        return false;
    }
    (void)pthread_detach(thread);
    uint64_t until_ns = kith_now_ns();
    if (!atomic_load_explicit(&reaper_stuck, memory_order_relaxed))
        until_ns += CLOSE_MS * UINT64_C(1000000);
    struct timespec until = {.tv_sec = (time_t)(until_ns / 1000000000u),
                             .tv_nsec = (long)(until_ns % 1000000000u)};
    (void)pthread_mutex_lock(&closing->lock);
    int rc = 0;
    while (!closing->done && rc == 0)
        rc = pthread_cond_timedwait(&closing->changed, &closing->lock, &until);
    bool done = closing->done;
    closing->abandoned = !done;
    (void)pthread_mutex_unlock(&closing->lock);
    if (done) {
        free_closing(closing);
    } else if (!atomic_exchange_explicit(&reaper_stuck, true, memory_order_relaxed)) {
        kith_log(WARN, "net.close_stuck", "left=1 ms=%d", CLOSE_MS);
    }
    return done;
}

/* ---- messages -------------------------------------------------------------------------------- */

static nng_msg *to_nng(struct kith_net_msg *msg)
{
    return (nng_msg *)msg;
}

struct kith_net_msg *kith_net_msg_new(size_t bytes)
{
    nng_msg *msg = NULL;
    return nng_msg_alloc(&msg, bytes) == 0 ? (struct kith_net_msg *)msg : NULL;
}

uint8_t *kith_net_msg_data(struct kith_net_msg *msg)
{
    return nng_msg_body(to_nng(msg));
}

size_t kith_net_msg_len(const struct kith_net_msg *msg)
{
    return nng_msg_len((const nng_msg *)msg);
}

void kith_net_msg_free(struct kith_net_msg *msg)
{
    if (msg != NULL)
        nng_msg_free(to_nng(msg));
}

int kith_net_msg_sink(void *msg, const char *data, size_t len)
{
    nng_msg *to = msg;
    size_t need;
    if (!kith_add(nng_msg_len(to), len, &need) || need > MESSAGE_MAX)
        return -1;
    /* The library grows a message to fit and no further; doubling keeps many small pieces cheap. */
    if (need > nng_msg_capacity(to) && nng_msg_reserve(to, need < 512 ? 1024 : need * 2) != 0)
        return -1;
    return nng_msg_append(to, data, len) == 0 ? 0 : -1;
}

/* ---- serving --------------------------------------------------------------------------------- */

struct kith_net_call {
    struct kith_net_server *server;
    nng_ctx ctx;
    nng_aio *aio;
    struct kith_net_msg *request; /* in the server's hands until the reply */
    bool open;                    /* ctx is */
    bool replying;                /* the operation under way is the send of a reply */
};

struct kith_net_server {
    /* Immutable after listen. */
    kith_net_serve_fn serve;
    void *ctx;
    nng_socket socket;
    nng_listener listener;
    bool open;
    char url[URL_BYTES];
    /* Guarded by lock. */
    pthread_mutex_t lock;
    pthread_cond_t idle;
    bool closing;
    uint32_t in_hand; /* calls between serve and the end of their reply */
    struct kith_net_call calls[KITH_NET_CONTEXTS];
};

static void call_done(struct kith_net_server *server)
{
    (void)pthread_mutex_lock(&server->lock);
    if (--server->in_hand == 0)
        (void)pthread_cond_broadcast(&server->idle);
    (void)pthread_mutex_unlock(&server->lock);
}

static void receive_next(struct kith_net_call *call)
{
    call->replying = false;
    nng_ctx_recv(call->ctx, call->aio);
}

static void on_reply_sent(struct kith_net_call *call)
{
    /* A peer that went away is not an error here; it knows. */
    if (nng_aio_result(call->aio) != 0)
        nng_msg_free(nng_aio_get_msg(call->aio));
    nng_aio_set_msg(call->aio, NULL);
    receive_next(call);
    call_done(call->server);
}

static void on_call(void *arg)
{
    struct kith_net_call *call = arg;
    struct kith_net_server *server = call->server;
    if (call->replying) {
        on_reply_sent(call);
        return;
    }
    int rv = nng_aio_result(call->aio);
    if (rv == NNG_ECLOSED || rv == NNG_ECANCELED)
        return; /* closing; nothing starts again */
    if (rv != 0) {
        receive_next(call);
        return;
    }
    nng_msg *msg = nng_aio_get_msg(call->aio);
    nng_aio_set_msg(call->aio, NULL);
    (void)pthread_mutex_lock(&server->lock);
    bool closing = server->closing;
    server->in_hand += !closing;
    (void)pthread_mutex_unlock(&server->lock);
    if (closing) {
        nng_msg_free(msg);
        return;
    }
    call->request = (struct kith_net_msg *)msg;
    server->serve(server->ctx, call, call->request);
}

void kith_net_reply(struct kith_net_call *call, struct kith_net_msg *reply)
{
    struct kith_net_server *server = call->server;
    kith_assert(call->request != NULL);
    kith_net_msg_free(call->request);
    call->request = NULL;
    if (reply == NULL) {
        receive_next(call); /* the protocol forgets the request it did not answer */
        call_done(server);
        return;
    }
    call->replying = true;
    nng_aio_set_msg(call->aio, to_nng(reply));
    nng_ctx_send(call->ctx, call->aio);
}

static int open_calls(struct kith_net_server *server)
{
    int rv = 0;
    for (uint32_t i = 0; i < KITH_NET_CONTEXTS && rv == 0; i++) {
        struct kith_net_call *call = &server->calls[i];
        call->server = server;
        rv = nng_aio_alloc(&call->aio, on_call, call);
        if (rv == 0)
            rv = nng_ctx_open(&call->ctx, server->socket);
        call->open = rv == 0;
    }
    return rv;
}

static int start_listening(struct kith_net_server *server, const char *url)
{
    int rv = nng_rep0_open(&server->socket);
    if (rv != 0)
        return rv;
    server->open = true;
    rv = limit_messages(server->socket);
    if (rv == 0)
        rv = open_calls(server);
    if (rv == 0)
        rv = nng_listener_create(&server->listener, server->socket, url);
    if (rv == 0)
        rv = nng_listener_start(server->listener, 0);
    char *bound = NULL;
    if (rv == 0)
        rv = nng_listener_get_string(server->listener, NNG_OPT_URL, &bound);
    if (rv == 0 && strlen(bound) >= sizeof server->url)
        rv = NNG_EADDRINVAL;
    if (rv == 0)
        memcpy(server->url, bound, strlen(bound) + 1);
    nng_strfree(bound);
    for (uint32_t i = 0; i < KITH_NET_CONTEXTS && rv == 0; i++)
        receive_next(&server->calls[i]);
    return rv;
}

enum kith_err kith_net_listen(struct kith_net_server **out, const char *url,
                              kith_net_serve_fn serve, void *ctx, struct kith_diag *diag)
{
    struct kith_net_server *server = kith_alloc(sizeof *server);
    if (server == NULL)
        return kith_fail(diag, KITH_NOMEM, "listen on %s: no memory", url);
    server->serve = serve;
    server->ctx = ctx;
    (void)pthread_mutex_init(&server->lock, NULL);
    (void)pthread_cond_init(&server->idle, NULL);
    int rv = start_listening(server, url);
    if (rv != 0) {
        kith_net_server_close(server);
        return kith_fail(diag, from_nng(rv), "listen on %s: %s", url, nng_strerror(rv));
    }
    *out = server;
    return KITH_OK;
}

const char *kith_net_server_url(const struct kith_net_server *server)
{
    return server->url;
}

void kith_net_server_close(struct kith_net_server *server)
{
    if (server == NULL)
        return;
    if (server->listener.id != 0)
        (void)nng_listener_close(server->listener);
    (void)pthread_mutex_lock(&server->lock);
    server->closing = true;
    while (server->in_hand > 0)
        (void)pthread_cond_wait(&server->idle, &server->lock);
    (void)pthread_mutex_unlock(&server->lock);
    /* All at once, so that the waits below overlap: one after the other they took a second on a
     * busy machine. */
    for (uint32_t i = 0; i < KITH_NET_CONTEXTS; i++) {
        if (server->calls[i].aio != NULL)
            nng_aio_cancel(server->calls[i].aio);
    }
    for (uint32_t i = 0; i < KITH_NET_CONTEXTS; i++) {
        struct kith_net_call *call = &server->calls[i];
        if (call->aio != NULL)
            nng_aio_stop(call->aio); /* ends the receive and waits for its callback */
        if (call->open)
            (void)nng_ctx_close(call->ctx);
        nng_aio_free(call->aio);
    }
    if (server->open)
        (void)close_socket(server->socket); /* no callback of it knows the server any more */
    (void)pthread_cond_destroy(&server->idle);
    (void)pthread_mutex_destroy(&server->lock);
    kith_free(server);
}

/* ---- asking: the request --------------------------------------------------------------------- */

enum ask_state { ASK_FREE, ASK_WAITING, ASK_SENDING, ASK_RECEIVING };

struct ask {
    struct kith_net_peer *peer;
    nng_ctx ctx;
    nng_aio *io;    /* send, then receive */
    nng_aio *timer; /* waiting for a connection */
    bool open;
    /* Owned by whoever runs the present step. */
    kith_net_done_fn done;
    void *done_ctx;
    struct kith_net_msg *request; /* until it is sent */
    uint64_t deadline_ms;
    /* Guarded by the peer's lock. */
    struct ask *prev, *next; /* among the outstanding, or (next) among the free */
    enum ask_state state;
    uint64_t epoch; /* the connection it was sent over; 0 = none yet */
    uint32_t holds;
    bool ended; /* its callback has returned */
};

struct kith_net_peer {
    nng_socket socket;
    bool open;
    nng_aio *janitor;
    /* Guarded by lock. */
    pthread_mutex_t lock;
    pthread_cond_t idle;
    bool closing;
    bool janitor_busy, janitor_again;
    uint64_t epoch;      /* of the latest connection; they count from 1 */
    uint64_t epoch_lost; /* connections up to this one are gone */
    int pipe, pipe_lost; /* NNG's numbers of the connection now up, and of the last one gone */
    uint32_t stale;      /* requests of lost connections that have not ended */
    uint32_t busy;       /* asks not in the free list */
    uint32_t n_outstanding;
    struct ask outstanding; /* head of a ring */
    struct ask *free_asks;
};

static bool is_up_locked(const struct kith_net_peer *peer)
{
    return peer->epoch > peer->epoch_lost;
}

static bool is_stale_locked(const struct ask *ask)
{
    return ask->epoch != 0 && ask->epoch <= ask->peer->epoch_lost;
}

static void link_last_locked(struct ask *ask)
{
    struct ask *ring = &ask->peer->outstanding;
    ask->next = ring;
    ask->prev = ring->prev;
    ring->prev->next = ask;
    ring->prev = ask;
}

static void unlink_locked(struct ask *ask)
{
    ask->prev->next = ask->next;
    ask->next->prev = ask->prev;
}

static void release_locked(struct ask *ask)
{
    struct kith_net_peer *peer = ask->peer;
    if (!ask->ended || ask->holds > 0)
        return;
    ask->state = ASK_FREE;
    ask->next = peer->free_asks;
    peer->free_asks = ask;
    if (--peer->busy == 0)
        (void)pthread_cond_broadcast(&peer->idle);
}

static void unhold(struct ask *ask)
{
    struct kith_net_peer *peer = ask->peer;
    (void)pthread_mutex_lock(&peer->lock);
    ask->holds--;
    release_locked(ask);
    (void)pthread_mutex_unlock(&peer->lock);
}

static void finish(struct ask *ask, enum kith_err err, struct kith_net_msg *reply)
{
    struct kith_net_peer *peer = ask->peer;
    kith_net_msg_free(ask->request);
    ask->request = NULL;
    (void)pthread_mutex_lock(&peer->lock);
    unlink_locked(ask);
    peer->n_outstanding--;
    if (is_stale_locked(ask))
        peer->stale--;
    if (err != KITH_OK && err != KITH_TIMEOUT && peer->closing)
        err = KITH_CANCELLED;
    (void)pthread_mutex_unlock(&peer->lock);

    ask->done(ask->done_ctx, err, reply);

    (void)pthread_mutex_lock(&peer->lock);
    ask->ended = true;
    release_locked(ask);
    (void)pthread_mutex_unlock(&peer->lock);
}

/* After a start, under a hold that this gives back: abort what should not have been started. */
static void settle(struct ask *ask, nng_aio *aio)
{
    struct kith_net_peer *peer = ask->peer;
    (void)pthread_mutex_lock(&peer->lock);
    bool abort = peer->closing || is_stale_locked(ask) ||
                 (ask->state == ASK_WAITING && aio == ask->timer && is_up_locked(peer));
    (void)pthread_mutex_unlock(&peer->lock);
    if (abort)
        nng_aio_cancel(aio);
    unhold(ask);
}

static nng_duration time_left_ms(const struct ask *ask)
{
    uint64_t now = kith_now_ms();
    return ask->deadline_ms > now ? (nng_duration)(ask->deadline_ms - now) : 1;
}

/* Under a hold, in state SENDING. */
static void start_send(struct ask *ask)
{
    nng_aio_set_msg(ask->io, to_nng(ask->request));
    ask->request = NULL;
    nng_aio_set_timeout(ask->io, time_left_ms(ask));
    nng_ctx_send(ask->ctx, ask->io);
    settle(ask, ask->io);
}

static void on_ask_sent(struct ask *ask, int rv)
{
    if (rv != 0) {
        ask->request = (struct kith_net_msg *)nng_aio_get_msg(ask->io);
        nng_aio_set_msg(ask->io, NULL);
        finish(ask, from_nng(rv), NULL);
        return;
    }
    (void)pthread_mutex_lock(&ask->peer->lock);
    ask->state = ASK_RECEIVING;
    ask->holds++;
    (void)pthread_mutex_unlock(&ask->peer->lock);
    nng_aio_set_timeout(ask->io, time_left_ms(ask));
    nng_ctx_recv(ask->ctx, ask->io);
    settle(ask, ask->io);
}

static void on_ask_io(void *arg)
{
    struct ask *ask = arg;
    int rv = nng_aio_result(ask->io);
    (void)pthread_mutex_lock(&ask->peer->lock);
    bool sending = ask->state == ASK_SENDING;
    (void)pthread_mutex_unlock(&ask->peer->lock);
    if (sending) {
        on_ask_sent(ask, rv);
        return;
    }
    struct kith_net_msg *reply = NULL;
    if (rv == 0) {
        reply = (struct kith_net_msg *)nng_aio_get_msg(ask->io);
        nng_aio_set_msg(ask->io, NULL);
    }
    finish(ask, from_nng(rv), reply);
}

/* The wait for a connection is over: there is one, or time is up, or the peer closes. */
static void on_ask_waited(void *arg)
{
    struct ask *ask = arg;
    struct kith_net_peer *peer = ask->peer;
    (void)pthread_mutex_lock(&peer->lock);
    bool send = !peer->closing && is_up_locked(peer);
    if (send) {
        ask->state = ASK_SENDING;
        ask->epoch = peer->epoch;
        ask->holds++;
    }
    (void)pthread_mutex_unlock(&peer->lock);
    if (send)
        start_send(ask);
    else
        finish(ask, kith_now_ms() >= ask->deadline_ms ? KITH_TIMEOUT : KITH_UNAVAILABLE, NULL);
}

static void free_ask(struct ask *ask)
{
    if (ask == NULL)
        return;
    if (ask->open)
        (void)nng_ctx_close(ask->ctx);
    nng_aio_free(ask->io);
    nng_aio_free(ask->timer);
    kith_free(ask);
}

static struct ask *new_ask(struct kith_net_peer *peer)
{
    struct ask *ask = kith_alloc(sizeof *ask);
    if (ask == NULL)
        return NULL;
    ask->peer = peer;
    if (nng_aio_alloc(&ask->io, on_ask_io, ask) != 0 ||
        nng_aio_alloc(&ask->timer, on_ask_waited, ask) != 0 ||
        nng_ctx_open(&ask->ctx, peer->socket) != 0)
        goto out;
    ask->open = true;
    if (nng_ctx_set_ms(ask->ctx, NNG_OPT_REQ_RESENDTIME, NNG_DURATION_INFINITE) == 0)
        return ask;
out:
    free_ask(ask);
    return NULL;
}

/* An ask in the outstanding ring, or why there is none. */
static enum kith_err take_ask(struct kith_net_peer *peer, struct ask **out)
{
    (void)pthread_mutex_lock(&peer->lock);
    enum kith_err err = peer->closing                              ? KITH_CANCELLED
                        : peer->n_outstanding >= KITH_NET_ASKS_MAX ? KITH_BUSY
                                                                   : KITH_OK;
    struct ask *ask = NULL;
    if (err == KITH_OK) {
        ask = peer->free_asks;
        if (ask != NULL)
            peer->free_asks = ask->next;
        peer->busy++; /* also while it is being made: close waits */
        peer->n_outstanding++;
    }
    (void)pthread_mutex_unlock(&peer->lock);
    if (err != KITH_OK)
        return err;
    if (ask == NULL && (ask = new_ask(peer)) == NULL) {
        (void)pthread_mutex_lock(&peer->lock);
        peer->n_outstanding--;
        if (--peer->busy == 0)
            (void)pthread_cond_broadcast(&peer->idle);
        (void)pthread_mutex_unlock(&peer->lock);
        return KITH_NOMEM;
    }
    *out = ask;
    return KITH_OK;
}

enum kith_err kith_net_ask(struct kith_net_peer *peer, struct kith_net_msg *request,
                           uint32_t timeout_ms, kith_net_done_fn done, void *ctx)
{
    kith_assert(request != NULL && done != NULL);
    struct ask *ask = NULL;
    enum kith_err err = take_ask(peer, &ask);
    if (err != KITH_OK)
        return err;
    ask->done = done;
    ask->done_ctx = ctx;
    ask->request = request;
    ask->deadline_ms = kith_now_ms() + timeout_ms;

    (void)pthread_mutex_lock(&peer->lock);
    bool up = is_up_locked(peer);
    ask->state = up ? ASK_SENDING : ASK_WAITING;
    ask->epoch = up ? peer->epoch : 0;
    ask->ended = false;
    ask->holds = 1;
    link_last_locked(ask);
    (void)pthread_mutex_unlock(&peer->lock);

    if (up) {
        start_send(ask);
    } else {
        uint32_t grace_ms =
            timeout_ms < KITH_RPC_CONNECT_GRACE_MS ? timeout_ms : KITH_RPC_CONNECT_GRACE_MS;
        nng_sleep_aio((nng_duration)grace_ms, ask->timer);
        settle(ask, ask->timer);
    }
    return KITH_OK;
}

/* ---- asking: the connection ------------------------------------------------------------------ */

/* Wakes what waits for a connection that is up, aborts what was sent over one that is gone, and
 * everything when the peer closes. */
static void sweep(struct kith_net_peer *peer)
{
    (void)pthread_mutex_lock(&peer->lock);
    struct ask *ring = &peer->outstanding;
    /* Each turn moves one to the end, so that many turns see all, whatever ends meanwhile. */
    for (uint32_t left = peer->n_outstanding; left > 0 && ring->next != ring; left--) {
        struct ask *ask = ring->next;
        unlink_locked(ask);
        link_last_locked(ask);
        bool waiting = ask->state == ASK_WAITING;
        nng_aio *aio = waiting ? ask->timer : ask->io;
        if (!peer->closing && !is_stale_locked(ask) && !(waiting && is_up_locked(peer)))
            continue;
        ask->holds++;
        (void)pthread_mutex_unlock(&peer->lock);
        nng_aio_cancel(aio);
        (void)pthread_mutex_lock(&peer->lock);
        ask->holds--;
        release_locked(ask);
    }
    (void)pthread_mutex_unlock(&peer->lock);
}

static void on_janitor(void *arg)
{
    struct kith_net_peer *peer = arg;
    bool again = true;
    while (again) {
        sweep(peer);
        (void)pthread_mutex_lock(&peer->lock);
        again = peer->janitor_again;
        peer->janitor_again = false;
        peer->janitor_busy = again;
        (void)pthread_cond_broadcast(&peer->idle);
        (void)pthread_mutex_unlock(&peer->lock);
    }
}

static bool must_start_janitor_locked(struct kith_net_peer *peer)
{
    bool start = !peer->janitor_busy && !peer->closing;
    peer->janitor_again = !start;
    peer->janitor_busy = peer->janitor_busy || start;
    return start;
}

/* With a lock of the socket held: note, start the janitor, nothing else. */
static void on_pipe(nng_pipe pipe, nng_pipe_ev event, void *arg)
{
    struct kith_net_peer *peer = arg;
    int id = nng_pipe_id(pipe);
    bool refuse = false, start = false;
    (void)pthread_mutex_lock(&peer->lock);
    if (event == NNG_PIPE_EV_ADD_PRE) {
        refuse = peer->closing || peer->stale > 0;
    } else if (event == NNG_PIPE_EV_ADD_POST && id != peer->pipe_lost) {
        peer->pipe = id;
        peer->epoch++;
        start = must_start_janitor_locked(peer);
    } else if (event == NNG_PIPE_EV_REM_POST) {
        peer->pipe_lost = id; /* a very short one may be lost before it is announced */
        if (id == peer->pipe) {
            for (struct ask *ask = peer->outstanding.next; ask != &peer->outstanding;
                 ask = ask->next)
                peer->stale += ask->epoch == peer->epoch;
            peer->epoch_lost = peer->epoch;
            start = must_start_janitor_locked(peer);
        }
    }
    (void)pthread_mutex_unlock(&peer->lock);
    if (refuse)
        (void)nng_pipe_close(pipe);
    if (start)
        nng_sleep_aio(0, peer->janitor);
}

static int start_dialing(struct kith_net_peer *peer, const char *url)
{
    int rv = nng_aio_alloc(&peer->janitor, on_janitor, peer);
    if (rv == 0)
        rv = nng_req0_open(&peer->socket);
    if (rv != 0)
        return rv;
    peer->open = true;
    rv = limit_messages(peer->socket);
    for (int event = NNG_PIPE_EV_ADD_PRE; event <= NNG_PIPE_EV_REM_POST && rv == 0; event++)
        rv = nng_pipe_notify(peer->socket, (nng_pipe_ev)event, on_pipe, peer);
    if (rv == 0)
        rv = nng_socket_set_ms(peer->socket, NNG_OPT_RECONNMINT, RECONNECT_MIN_MS);
    if (rv == 0)
        rv = nng_socket_set_ms(peer->socket, NNG_OPT_RECONNMAXT, RECONNECT_MAX_MS);
    nng_dialer dialer = NNG_DIALER_INITIALIZER;
    if (rv == 0)
        rv = nng_dialer_create(&dialer, peer->socket, url);
    /* Where the transport has it (tcp): a host that vanished is noticed without a request. */
    if (rv == 0)
        (void)nng_dialer_set_bool(dialer, NNG_OPT_TCP_KEEPALIVE, true);
    return rv == 0 ? nng_dialer_start(dialer, NNG_FLAG_NONBLOCK) : rv;
}

enum kith_err kith_net_dial(struct kith_net_peer **out, const char *url, struct kith_diag *diag)
{
    struct kith_net_peer *peer = kith_alloc(sizeof *peer);
    if (peer == NULL)
        return kith_fail(diag, KITH_NOMEM, "connect to %s: no memory", url);
    (void)pthread_mutex_init(&peer->lock, NULL);
    (void)pthread_cond_init(&peer->idle, NULL);
    peer->outstanding.next = peer->outstanding.prev = &peer->outstanding;
    int rv = start_dialing(peer, url);
    if (rv != 0) {
        kith_net_peer_close(peer);
        return kith_fail(diag, from_nng(rv), "connect to %s: %s", url, nng_strerror(rv));
    }
    *out = peer;
    return KITH_OK;
}

void kith_net_peer_close(struct kith_net_peer *peer)
{
    if (peer == NULL)
        return;
    (void)pthread_mutex_lock(&peer->lock);
    peer->closing = true;
    (void)pthread_mutex_unlock(&peer->lock);
    sweep(peer);
    (void)pthread_mutex_lock(&peer->lock);
    while (peer->busy > 0 || peer->janitor_busy)
        (void)pthread_cond_wait(&peer->idle, &peer->lock);
    (void)pthread_mutex_unlock(&peer->lock);
    while (peer->free_asks != NULL) {
        struct ask *next = peer->free_asks->next;
        free_ask(peer->free_asks);
        peer->free_asks = next;
    }
    if (peer->open && !close_socket(peer->socket))
        return; /* pipe events may still come: the peer stays behind too */
    nng_aio_free(peer->janitor);
    (void)pthread_cond_destroy(&peer->idle);
    (void)pthread_mutex_destroy(&peer->lock);
    kith_free(peer);
}

bool kith_net_peer_up(const struct kith_net_peer *peer)
{
    struct kith_net_peer *own = (struct kith_net_peer *)peer; /* the lock, nothing else, changes */
    (void)pthread_mutex_lock(&own->lock);
    bool up = is_up_locked(own);
    (void)pthread_mutex_unlock(&own->lock);
    return up;
}

#if defined(__SANITIZE_ADDRESS__)
/* NNG frees sockets and pipes on its reaper thread, some of them after main returned. Its leaks are
 * not ours to count; everything of Kith's goes through kith_mem and is. */
const char *__lsan_default_suppressions(void);
const char *__lsan_default_suppressions(void)
{
    return "leak:libnng";
}
#endif
