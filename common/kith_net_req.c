/* inproc:// over REQ and REP contexts of NNG 1.5.2.
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
 * ("settle"): was the connection lost, or the peer closed, while we started? */
#include "common/kith_net_internal.h"

#include <nng/protocol/reqrep0/rep.h>
#include <nng/protocol/reqrep0/req.h>
#include <pthread.h>
#include <string.h>

#include "common/kith_clock.h"
#include "common/kith_mem.h"

#define PROTOCOL_BYTES   64u /* NNG's own header before ours: request id and hops */
#define RECONNECT_MIN_MS 20
#define RECONNECT_MAX_MS 1000

/* Before any listener or dialer: the library's default is no limit at all. */
static int limit_messages(nng_socket socket)
{
    size_t limit = KITH_NET_MESSAGE_MAX + PROTOCOL_BYTES;
    size_t got = 0;
    int rv = nng_socket_set_size(socket, NNG_OPT_RECVMAXSZ, limit);
    if (rv == 0)
        rv = nng_socket_get_size(socket, NNG_OPT_RECVMAXSZ, &got);
    return rv == 0 && got != limit ? NNG_EINTERNAL : rv;
}

/* ---- serving --------------------------------------------------------------------------------- */

struct call {
    struct kith_net_call base;
    struct server *server;
    nng_ctx ctx;
    nng_aio *aio;
    struct kith_net_msg *request; /* in the server's hands until the reply */
    bool open;                    /* ctx is */
    bool replying;                /* the operation under way is the send of a reply */
};

struct server {
    struct kith_net_server base;
    /* Immutable after listen. */
    kith_net_serve_fn serve;
    void *ctx;
    nng_socket socket;
    nng_listener listener;
    bool open;
    /* Guarded by lock. */
    pthread_mutex_t lock;
    pthread_cond_t idle;
    bool closing;
    uint32_t in_hand; /* calls between serve and the end of their reply, and sends under way */
    struct call calls[KITH_NET_CONTEXTS];
};

static void call_hold(struct server *server)
{
    (void)pthread_mutex_lock(&server->lock);
    server->in_hand++;
    (void)pthread_mutex_unlock(&server->lock);
}

static void call_done(struct server *server)
{
    (void)pthread_mutex_lock(&server->lock);
    if (--server->in_hand == 0)
        (void)pthread_cond_broadcast(&server->idle);
    (void)pthread_mutex_unlock(&server->lock);
}

static void receive_next(struct call *call)
{
    call->replying = false;
    nng_ctx_recv(call->ctx, call->aio);
}

static void on_reply_sent(struct call *call)
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
    struct call *call = arg;
    struct server *server = call->server;
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
    server->serve(server->ctx, &call->base, call->request);
}

void kith_net_req_reply(struct kith_net_call *base, struct kith_net_msg *reply)
{
    struct call *call = (struct call *)base;
    struct server *server = call->server;
    kith_assert(call->request != NULL);
    kith_net_msg_free(call->request);
    call->request = NULL;
    if (reply == NULL) {
        receive_next(call); /* the protocol forgets the request it did not answer */
        call_done(server);
        return;
    }
    call->replying = true;
    nng_aio_set_msg(call->aio, kith_net_to_nng(reply));
    /* The reply can be sent, and a closing server gone, before nng_ctx_send is done with the
     * context: held until it has returned. */
    call_hold(server);
    nng_ctx_send(call->ctx, call->aio);
    call_done(server);
}

static int open_calls(struct server *server)
{
    int rv = 0;
    for (uint32_t i = 0; i < KITH_NET_CONTEXTS && rv == 0; i++) {
        struct call *call = &server->calls[i];
        call->server = server;
        rv = nng_aio_alloc(&call->aio, on_call, call);
        if (rv == 0)
            rv = nng_ctx_open(&call->ctx, server->socket);
        call->open = rv == 0;
    }
    return rv;
}

static int start_listening(struct server *server, const char *url)
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
    if (rv == 0)
        memcpy(server->base.url, url, strlen(url) + 1); /* kith_net_listen checked its length */
    for (uint32_t i = 0; i < KITH_NET_CONTEXTS && rv == 0; i++)
        receive_next(&server->calls[i]);
    return rv;
}

enum kith_err kith_net_req_listen(struct kith_net_server **out, const char *url,
                                  kith_net_serve_fn serve, void *ctx, struct kith_diag *diag)
{
    struct server *server = kith_alloc(sizeof *server);
    if (server == NULL)
        return kith_fail(diag, KITH_NOMEM, "listen on %s: no memory", url);
    server->serve = serve;
    server->ctx = ctx;
    (void)pthread_mutex_init(&server->lock, NULL);
    (void)pthread_cond_init(&server->idle, NULL);
    int rv = start_listening(server, url);
    if (rv != 0) {
        kith_net_req_server_close(&server->base);
        return kith_fail(diag, kith_net_from_nng(rv), "listen on %s: %s", url, nng_strerror(rv));
    }
    *out = &server->base;
    return KITH_OK;
}

void kith_net_req_server_close(struct kith_net_server *base)
{
    struct server *server = (struct server *)base;
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
        struct call *call = &server->calls[i];
        if (call->aio != NULL)
            nng_aio_stop(call->aio); /* ends the receive and waits for its callback */
        if (call->open)
            (void)nng_ctx_close(call->ctx);
        nng_aio_free(call->aio);
    }
    if (server->open)
        (void)nng_close(server->socket);
    (void)pthread_cond_destroy(&server->idle);
    (void)pthread_mutex_destroy(&server->lock);
    kith_free(server);
}

/* ---- asking: the request --------------------------------------------------------------------- */

enum ask_state { ASK_FREE, ASK_WAITING, ASK_SENDING, ASK_RECEIVING };

struct ask {
    struct peer *peer;
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

struct peer {
    struct kith_net_peer base;
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

static bool is_up_locked(const struct peer *peer)
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
    struct peer *peer = ask->peer;
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
    struct peer *peer = ask->peer;
    (void)pthread_mutex_lock(&peer->lock);
    ask->holds--;
    release_locked(ask);
    (void)pthread_mutex_unlock(&peer->lock);
}

static void finish(struct ask *ask, enum kith_err err, struct kith_net_msg *reply)
{
    struct peer *peer = ask->peer;
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
    struct peer *peer = ask->peer;
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
    nng_aio_set_msg(ask->io, kith_net_to_nng(ask->request));
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
        finish(ask, kith_net_from_nng(rv), NULL);
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
    finish(ask, kith_net_from_nng(rv), reply);
}

/* The wait for a connection is over: there is one, or time is up, or the peer closes. */
static void on_ask_waited(void *arg)
{
    struct ask *ask = arg;
    struct peer *peer = ask->peer;
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

static struct ask *new_ask(struct peer *peer)
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
static enum kith_err take_ask(struct peer *peer, struct ask **out)
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

enum kith_err kith_net_req_ask(struct kith_net_peer *base, struct kith_net_msg *request,
                               uint32_t timeout_ms, kith_net_done_fn done, void *ctx)
{
    struct peer *peer = (struct peer *)base;
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
static void sweep(struct peer *peer)
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
    struct peer *peer = arg;
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

static bool must_start_janitor_locked(struct peer *peer)
{
    bool start = !peer->janitor_busy && !peer->closing;
    peer->janitor_again = !start;
    peer->janitor_busy = peer->janitor_busy || start;
    return start;
}

/* With a lock of the socket held: note, start the janitor, nothing else. */
static void on_pipe(nng_pipe pipe, nng_pipe_ev event, void *arg)
{
    struct peer *peer = arg;
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

static int start_dialing(struct peer *peer, const char *url)
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
    return rv == 0 ? nng_dial(peer->socket, url, NULL, NNG_FLAG_NONBLOCK) : rv;
}

enum kith_err kith_net_req_dial(struct kith_net_peer **out, const char *url, struct kith_diag *diag)
{
    struct peer *peer = kith_alloc(sizeof *peer);
    if (peer == NULL)
        return kith_fail(diag, KITH_NOMEM, "connect to %s: no memory", url);
    (void)pthread_mutex_init(&peer->lock, NULL);
    (void)pthread_cond_init(&peer->idle, NULL);
    peer->outstanding.next = peer->outstanding.prev = &peer->outstanding;
    int rv = start_dialing(peer, url);
    if (rv != 0) {
        kith_net_req_peer_close(&peer->base);
        return kith_fail(diag, kith_net_from_nng(rv), "connect to %s: %s", url, nng_strerror(rv));
    }
    *out = &peer->base;
    return KITH_OK;
}

void kith_net_req_peer_close(struct kith_net_peer *base)
{
    struct peer *peer = (struct peer *)base;
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
    if (peer->open)
        (void)nng_close(peer->socket); /* the last pipe events come from here */
    nng_aio_free(peer->janitor);
    (void)pthread_cond_destroy(&peer->idle);
    (void)pthread_mutex_destroy(&peer->lock);
    kith_free(peer);
}

bool kith_net_req_peer_up(struct kith_net_peer *base)
{
    struct peer *peer = (struct peer *)base;
    (void)pthread_mutex_lock(&peer->lock);
    bool up = is_up_locked(peer);
    (void)pthread_mutex_unlock(&peer->lock);
    return up;
}
