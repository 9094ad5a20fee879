/* tcp:// over streams of NNG: servers with many connections, peers with one that keeps itself up.
 *
 * Each connection (kith_net_conn.c) carries numbered messages; a reply has its request's number.
 * A request is found by its number under the peer's lock, and whoever takes it out of the table
 * under that lock - the reply, the clock, the end of its connection, the closing of the peer -
 * calls its callback. So there is exactly one. It is sent once, over the connection it was
 * given to, and ends with it.
 *
 * A peer's clock ticks every TICK_MS while requests are outstanding or no connection is up, and
 * not at all otherwise. It ends what is late, dials again, and frees connections whose last
 * reference was given back in one of their own callbacks. The server's janitor does the latter. */
#include <pthread.h>
#include <stdio.h>
#include <string.h>

#include "common/kith_clock.h"
#include "common/kith_log.h"
#include "common/kith_mem.h"
#include "common/kith_net_conn.h"

#define RECONNECT_MIN_MS 20u
#define RECONNECT_MAX_MS 1000u
#define TICK_MS          10
#define ACCEPT_PAUSE_MS  50 /* after a failed accept: out of descriptors, say */
#define CONNECTIONS_MAX  (4u * KITH_NODES_MAX)
#define TABLE            1024u /* of requests by number; numbers ascend, so they spread evenly */

/* ---- lists of connections -------------------------------------------------------------------- */

static void link_conn(struct kith_net_conn **list, struct kith_net_conn *conn)
{
    conn->list = list;
    conn->prev = NULL;
    conn->next = *list;
    if (*list != NULL)
        (*list)->prev = conn;
    *list = conn;
}

static void unlink_conn(struct kith_net_conn *conn)
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

static uint32_t free_conns(struct kith_net_conn *list)
{
    uint32_t n = 0;
    for (; list != NULL; n++) {
        struct kith_net_conn *next = list->next;
        kith_net_conn_free(list);
        list = next;
    }
    return n;
}

/* ---- serving --------------------------------------------------------------------------------- */

struct server {
    struct kith_net_server base;
    /* Immutable after listen. */
    kith_net_serve_fn serve;
    void *ctx;
    nng_stream_listener *listener;
    nng_aio *accept, *janitor;
    /* Guarded by lock. */
    pthread_mutex_t lock;
    pthread_cond_t idle;
    bool closing, accepting, janitor_busy, resting;
    uint32_t in_hand, n_conns;
    struct kith_net_conn *conns, *paused, *unused; /* up; up and told to wait; to be freed */
};

struct call {
    struct kith_net_call base;
    struct server *server;
    struct kith_net_conn *conn; /* a reference */
    uint64_t number;
    struct kith_net_msg *request;
};

static bool start_janitor_locked(struct server *server)
{
    bool start = !server->janitor_busy;
    server->janitor_busy = true;
    return start;
}

static void on_janitor(void *arg)
{
    struct server *server = arg;
    bool more = true;
    while (more) {
        (void)pthread_mutex_lock(&server->lock);
        struct kith_net_conn *unused = server->unused;
        server->unused = NULL;
        (void)pthread_mutex_unlock(&server->lock);
        uint32_t n = free_conns(unused);
        (void)pthread_mutex_lock(&server->lock);
        server->n_conns -= n;
        more = server->unused != NULL;
        server->janitor_busy = more;
        (void)pthread_cond_broadcast(&server->idle);
        (void)pthread_mutex_unlock(&server->lock);
    }
}

static void on_server_conn_unused(struct kith_net_conn *conn)
{
    struct server *server = conn->owner;
    (void)pthread_mutex_lock(&server->lock);
    link_conn(&server->unused, conn);
    bool start = start_janitor_locked(server);
    (void)pthread_mutex_unlock(&server->lock);
    if (start)
        nng_sleep_aio(0, server->janitor);
}

static void on_server_conn_down(struct kith_net_conn *conn)
{
    struct server *server = conn->owner;
    (void)pthread_mutex_lock(&server->lock);
    unlink_conn(conn);
    (void)pthread_mutex_unlock(&server->lock);
    kith_net_conn_unref(conn);
}

static bool on_request(struct kith_net_conn *conn, uint64_t number, nng_msg *msg)
{
    struct server *server = conn->owner;
    struct call *call = kith_alloc(sizeof *call);
    (void)pthread_mutex_lock(&server->lock);
    bool take = call != NULL && !server->closing;
    server->in_hand += take;
    /* One that is down stays on no list: nobody would resume it, and its receiver ends by itself.
     */
    bool pause = take && server->in_hand >= KITH_NET_CONTEXTS && conn->list != NULL;
    if (pause) {
        unlink_conn(conn);
        link_conn(&server->paused, conn);
    }
    (void)pthread_mutex_unlock(&server->lock);
    if (!take) { /* unanswered: the asker's deadline ends it */
        nng_msg_free(msg);
        kith_free(call);
        return true;
    }
    kith_net_conn_ref(conn);
    *call = (struct call){.base.tcp = true,
                          .server = server,
                          .conn = conn,
                          .number = number,
                          .request = (struct kith_net_msg *)msg};
    server->serve(server->ctx, &call->base, call->request);
    return !pause;
}

void kith_net_tcp_reply(struct kith_net_call *base, struct kith_net_msg *reply)
{
    struct call *call = (struct call *)base;
    struct server *server = call->server;
    kith_net_msg_free(call->request);
    if (reply != NULL)
        kith_net_conn_send(call->conn, call->number, kith_net_to_nng(reply));
    kith_net_conn_unref(call->conn);
    kith_free(call);

    (void)pthread_mutex_lock(&server->lock);
    struct kith_net_conn *resumed = server->paused;
    if (resumed != NULL) {
        unlink_conn(resumed);
        link_conn(&server->conns, resumed);
        kith_net_conn_ref(resumed);
    }
    (void)pthread_mutex_unlock(&server->lock);
    if (resumed != NULL) {
        kith_net_conn_resume(resumed);
        kith_net_conn_unref(resumed);
    }
    /* Last: closing the server waits for this, and then it is gone. */
    (void)pthread_mutex_lock(&server->lock);
    if (--server->in_hand == 0)
        (void)pthread_cond_broadcast(&server->idle);
    (void)pthread_mutex_unlock(&server->lock);
}

static const struct kith_net_conn_events server_events = {
    .on_message = on_request, .on_down = on_server_conn_down, .on_unused = on_server_conn_unused};

static void accept_next(struct server *server)
{
    (void)pthread_mutex_lock(&server->lock);
    bool closing = server->closing;
    if (closing) {
        server->accepting = false;
        (void)pthread_cond_broadcast(&server->idle);
    } else if (server->resting) {
        nng_sleep_aio(ACCEPT_PAUSE_MS, server->accept);
    } else {
        nng_stream_listener_accept(server->listener, server->accept);
    }
    (void)pthread_mutex_unlock(&server->lock);
}

static void take_stream(struct server *server, nng_stream *stream)
{
    struct kith_net_conn *conn = NULL;
    (void)pthread_mutex_lock(&server->lock);
    bool room = !server->closing && server->n_conns < CONNECTIONS_MAX;
    server->n_conns += room;
    (void)pthread_mutex_unlock(&server->lock);
    if (!room) {
        nng_stream_free(stream);
        return;
    }
    if (kith_net_conn_new(&conn, stream, &server_events, server) != KITH_OK) {
        (void)pthread_mutex_lock(&server->lock);
        server->n_conns--;
        (void)pthread_cond_broadcast(&server->idle);
        (void)pthread_mutex_unlock(&server->lock);
        return;
    }
    kith_net_conn_ref(conn);
    (void)pthread_mutex_lock(&server->lock);
    link_conn(&server->conns, conn); /* with its first reference, until it is down */
    bool closing = server->closing;
    (void)pthread_mutex_unlock(&server->lock);
    if (closing)
        kith_net_conn_close(conn);
    else
        kith_net_conn_start(conn);
    kith_net_conn_unref(conn);
}

static void on_accept(void *arg)
{
    struct server *server = arg;
    int rv = nng_aio_result(server->accept);
    (void)pthread_mutex_lock(&server->lock);
    bool rested = server->resting;
    bool failed = !rested && rv != 0 && rv != NNG_ECLOSED;
    server->resting = failed;
    (void)pthread_mutex_unlock(&server->lock);
    if (failed)
        kith_log(WARN, "net.accept_failed", "url=%s error=\"%s\"", server->base.url,
                 nng_strerror(rv));
    else if (!rested && rv == 0)
        take_stream(server, nng_aio_get_output(server->accept, 0));
    accept_next(server);
}

/* "tcp://127.0.0.1:0" with the port that was bound. */
static int note_url(struct server *server, const char *url)
{
    int port = 0;
    const char *colon = strrchr(url, ':');
    int rv = nng_stream_listener_get_int(server->listener, NNG_OPT_TCP_BOUND_PORT, &port);
    if (rv == 0)
        (void)snprintf(server->base.url, sizeof server->base.url, "%.*s:%d", (int)(colon - url),
                       url, port);
    return rv;
}

static int start_listening(struct server *server, const char *url)
{
    int rv = nng_aio_alloc(&server->accept, on_accept, server);
    if (rv == 0)
        rv = nng_aio_alloc(&server->janitor, on_janitor, server);
    if (rv == 0)
        rv = nng_stream_listener_alloc(&server->listener, url);
    if (rv == 0)
        rv = nng_stream_listener_set_bool(server->listener, NNG_OPT_TCP_NODELAY, true);
    if (rv == 0)
        rv = nng_stream_listener_set_bool(server->listener, NNG_OPT_TCP_KEEPALIVE, true);
    if (rv == 0)
        rv = nng_stream_listener_listen(server->listener);
    if (rv == 0)
        rv = note_url(server, url);
    if (rv == 0) {
        server->accepting = true;
        accept_next(server);
    }
    return rv;
}

enum kith_err kith_net_tcp_listen(struct kith_net_server **out, const char *url,
                                  kith_net_serve_fn serve, void *ctx, struct kith_diag *diag)
{
    struct server *server = kith_alloc(sizeof *server);
    if (server == NULL)
        return kith_fail(diag, KITH_NOMEM, "listen on %s: no memory", url);
    server->base.tcp = true;
    server->serve = serve;
    server->ctx = ctx;
    (void)pthread_mutex_init(&server->lock, NULL);
    (void)pthread_cond_init(&server->idle, NULL);
    int rv = start_listening(server, url);
    if (rv != 0) {
        kith_net_tcp_server_close(&server->base);
        return kith_fail(diag, kith_net_from_nng(rv), "listen on %s: %s", url, nng_strerror(rv));
    }
    *out = &server->base;
    return KITH_OK;
}

/* One connection of either list, with a reference. */
static struct kith_net_conn *any_conn(struct server *server)
{
    (void)pthread_mutex_lock(&server->lock);
    struct kith_net_conn *conn = server->conns != NULL ? server->conns : server->paused;
    if (conn != NULL)
        kith_net_conn_ref(conn);
    (void)pthread_mutex_unlock(&server->lock);
    return conn;
}

void kith_net_tcp_server_close(struct kith_net_server *base)
{
    struct server *server = (struct server *)base;
    (void)pthread_mutex_lock(&server->lock);
    server->closing = true;
    (void)pthread_mutex_unlock(&server->lock);
    if (server->listener != NULL)
        nng_stream_listener_close(server->listener);
    (void)pthread_mutex_lock(&server->lock);
    while (server->in_hand > 0 || server->accepting)
        (void)pthread_cond_wait(&server->idle, &server->lock);
    (void)pthread_mutex_unlock(&server->lock);
    struct kith_net_conn *conn;
    while ((conn = any_conn(server)) != NULL) {
        kith_net_conn_close(conn); /* takes it off its list */
        kith_net_conn_unref(conn);
    }
    (void)pthread_mutex_lock(&server->lock);
    while (server->n_conns > 0 || server->janitor_busy)
        (void)pthread_cond_wait(&server->idle, &server->lock);
    (void)pthread_mutex_unlock(&server->lock);
    nng_aio_free(server->accept);
    nng_aio_free(server->janitor);
    if (server->listener != NULL)
        nng_stream_listener_free(server->listener);
    (void)pthread_cond_destroy(&server->idle);
    (void)pthread_mutex_destroy(&server->lock);
    kith_free(server);
}

/* ---- asking ---------------------------------------------------------------------------------- */

struct ask {
    struct ask *next, **link; /* in its bucket; or (next) in a list of those that ended */
    uint64_t number;
    uint64_t deadline_ms, grace_ms; /* by kith_now_ms */
    struct kith_net_conn *conn;     /* it was sent over; NULL = it waits for one */
    nng_msg *request;               /* while it waits */
    kith_net_done_fn done;
    void *ctx;
    enum kith_err err; /* once it ended */
};

struct peer {
    struct kith_net_peer base;
    /* Immutable after dial. */
    nng_stream_dialer *dialer;
    nng_aio *dial, *tick;
    /* Guarded by lock. */
    pthread_mutex_t lock;
    pthread_cond_t idle;
    bool closing, dialing, ticking;
    uint64_t next_number, redial_ms;
    uint32_t backoff_ms;
    uint32_t n_asks, n_callbacks, n_conns;
    struct kith_net_conn *conn; /* up, with its first reference; NULL = none */
    struct kith_net_conn *unused;
    struct ask *table[TABLE];
};

static void link_ask_locked(struct peer *peer, struct ask *ask)
{
    struct ask **bucket = &peer->table[ask->number % TABLE];
    ask->next = *bucket;
    ask->link = bucket;
    if (*bucket != NULL)
        (*bucket)->link = &ask->next;
    *bucket = ask;
    peer->n_asks++;
}

/* Out of the table; from here on the caller must end it. */
static void take_ask_locked(struct peer *peer, struct ask *ask)
{
    *ask->link = ask->next;
    if (ask->next != NULL)
        ask->next->link = ask->link;
    ask->next = NULL;
    peer->n_asks--;
    peer->n_callbacks++;
}

static void end_ask(struct peer *peer, struct ask *ask, struct kith_net_msg *reply)
{
    nng_msg_free(ask->request);
    ask->done(ask->ctx, ask->err, reply);
    kith_free(ask);
    (void)pthread_mutex_lock(&peer->lock);
    if (--peer->n_callbacks == 0)
        (void)pthread_cond_broadcast(&peer->idle);
    (void)pthread_mutex_unlock(&peer->lock);
}

static void end_asks(struct peer *peer, struct ask *list)
{
    while (list != NULL) {
        struct ask *next = list->next;
        end_ask(peer, list, NULL);
        list = next;
    }
}

/* Takes out every ask that `why` gives an error for, newest first. */
typedef enum kith_err (*why_fn)(const struct ask *ask, const void *ctx);
static struct ask *take_asks_locked(struct peer *peer, why_fn why, const void *ctx)
{
    struct ask *taken = NULL;
    for (uint32_t b = 0; b < TABLE && peer->n_asks > 0; b++) {
        struct ask *next;
        for (struct ask *ask = peer->table[b]; ask != NULL; ask = next) {
            next = ask->next;
            enum kith_err err = why(ask, ctx);
            if (err == KITH_OK)
                continue;
            take_ask_locked(peer, ask);
            ask->err = err;
            ask->next = taken;
            taken = ask;
        }
    }
    return taken;
}

static enum kith_err why_late(const struct ask *ask, const void *now_ms)
{
    uint64_t now = *(const uint64_t *)now_ms;
    if (now >= ask->deadline_ms)
        return KITH_TIMEOUT;
    return ask->conn == NULL && now >= ask->grace_ms ? KITH_UNAVAILABLE : KITH_OK;
}

static enum kith_err why_lost(const struct ask *ask, const void *conn)
{
    return ask->conn == conn ? KITH_UNAVAILABLE : KITH_OK;
}

static enum kith_err why_closing(const struct ask *ask, const void *ctx)
{
    (void)ask;
    (void)ctx;
    return KITH_CANCELLED;
}

/* Under the lock: a sleep or a dial that is begun here ends in its callback, never inside. */
static void start_tick_locked(struct peer *peer)
{
    if (peer->ticking)
        return;
    peer->ticking = true;
    nng_sleep_aio(TICK_MS, peer->tick);
}

/* ---- the connection -------------------------------------------------------------------------- */

static bool on_reply(struct kith_net_conn *conn, uint64_t number, nng_msg *msg)
{
    struct peer *peer = conn->owner;
    (void)pthread_mutex_lock(&peer->lock);
    struct ask *ask = peer->table[number % TABLE];
    while (ask != NULL && (ask->number != number || ask->conn != conn))
        ask = ask->next;
    if (ask != NULL)
        take_ask_locked(peer, ask);
    (void)pthread_mutex_unlock(&peer->lock);
    if (ask == NULL) {
        nng_msg_free(msg); /* late: nobody waits any more */
        return true;
    }
    ask->err = KITH_OK;
    end_ask(peer, ask, (struct kith_net_msg *)msg);
    return true;
}

static void on_peer_conn_down(struct kith_net_conn *conn)
{
    struct peer *peer = conn->owner;
    (void)pthread_mutex_lock(&peer->lock);
    bool current = peer->conn == conn;
    if (current)
        peer->conn = NULL;
    peer->redial_ms = kith_now_ms() + peer->backoff_ms;
    struct ask *lost = take_asks_locked(peer, why_lost, conn);
    if (!peer->closing)
        start_tick_locked(peer);
    (void)pthread_mutex_unlock(&peer->lock);
    end_asks(peer, lost);
    if (current)
        kith_net_conn_unref(conn);
}

static void on_peer_conn_unused(struct kith_net_conn *conn)
{
    struct peer *peer = conn->owner;
    (void)pthread_mutex_lock(&peer->lock);
    link_conn(&peer->unused, conn);
    start_tick_locked(peer); /* which frees it, also while closing */
    (void)pthread_mutex_unlock(&peer->lock);
}

static const struct kith_net_conn_events peer_events = {
    .on_message = on_reply, .on_down = on_peer_conn_down, .on_unused = on_peer_conn_unused};

/* The next that waited, now given to conn; NULL = none, or conn is lost already. */
static nng_msg *next_waiting(struct peer *peer, struct kith_net_conn *conn, uint32_t bucket,
                             uint64_t *number)
{
    nng_msg *msg = NULL;
    (void)pthread_mutex_lock(&peer->lock);
    struct ask *ask = peer->conn == conn ? peer->table[bucket] : NULL;
    while (ask != NULL && ask->request == NULL)
        ask = ask->next;
    if (ask != NULL) {
        msg = ask->request;
        *number = ask->number;
        ask->request = NULL;
        ask->conn = conn;
    }
    (void)pthread_mutex_unlock(&peer->lock);
    return msg;
}

static void send_waiting(struct peer *peer, struct kith_net_conn *conn)
{
    for (uint32_t bucket = 0; bucket < TABLE; bucket++) {
        uint64_t number = 0;
        nng_msg *msg;
        while ((msg = next_waiting(peer, conn, bucket, &number)) != NULL)
            kith_net_conn_send(conn, number, msg);
    }
}

static void take_connection(struct peer *peer, nng_stream *stream)
{
    struct kith_net_conn *conn = NULL;
    if (kith_net_conn_new(&conn, stream, &peer_events, peer) != KITH_OK)
        return;
    kith_net_conn_ref(conn);
    (void)pthread_mutex_lock(&peer->lock);
    bool closing = peer->closing;
    peer->conn = conn; /* with its first reference */
    peer->n_conns++;
    (void)pthread_mutex_unlock(&peer->lock);
    if (closing) {
        kith_net_conn_close(conn);
    } else {
        kith_net_conn_start(conn);
        send_waiting(peer, conn);
    }
    kith_net_conn_unref(conn);
}

static void on_dialed(void *arg)
{
    struct peer *peer = arg;
    int rv = nng_aio_result(peer->dial);
    if (rv == 0)
        take_connection(peer, nng_aio_get_output(peer->dial, 0));
    (void)pthread_mutex_lock(&peer->lock);
    peer->dialing = false;
    uint32_t twice = 2 * peer->backoff_ms;
    peer->backoff_ms = rv == 0                    ? RECONNECT_MIN_MS
                       : twice < RECONNECT_MAX_MS ? twice
                                                  : RECONNECT_MAX_MS;
    peer->redial_ms = kith_now_ms() + peer->backoff_ms;
    (void)pthread_cond_broadcast(&peer->idle);
    (void)pthread_mutex_unlock(&peer->lock);
}

static void start_dial_locked(struct peer *peer)
{
    peer->dialing = true;
    nng_stream_dialer_dial(peer->dialer, peer->dial);
}

static void on_tick(void *arg)
{
    struct peer *peer = arg;
    uint64_t now_ms = kith_now_ms();
    (void)pthread_mutex_lock(&peer->lock);
    struct ask *late = take_asks_locked(peer, why_late, &now_ms);
    struct kith_net_conn *unused = peer->unused;
    peer->unused = NULL;
    if (!peer->closing && peer->conn == NULL && !peer->dialing && now_ms >= peer->redial_ms)
        start_dial_locked(peer);
    (void)pthread_mutex_unlock(&peer->lock);
    end_asks(peer, late);
    uint32_t freed = free_conns(unused);
    (void)pthread_mutex_lock(&peer->lock);
    peer->n_conns -= freed;
    peer->ticking = false;
    if (peer->unused != NULL || (!peer->closing && (peer->conn == NULL || peer->n_asks > 0)))
        start_tick_locked(peer);
    (void)pthread_cond_broadcast(&peer->idle);
    (void)pthread_mutex_unlock(&peer->lock);
}

/* ---- the face -------------------------------------------------------------------------------- */

enum kith_err kith_net_tcp_ask(struct kith_net_peer *base, struct kith_net_msg *request,
                               uint32_t timeout_ms, kith_net_done_fn done, void *ctx)
{
    struct peer *peer = (struct peer *)base;
    struct ask *ask = kith_alloc(sizeof *ask);
    if (ask == NULL)
        return KITH_NOMEM;
    uint64_t now_ms = kith_now_ms();
    *ask = (struct ask){.deadline_ms = now_ms + timeout_ms,
                        .grace_ms = now_ms + KITH_RPC_CONNECT_GRACE_MS,
                        .done = done,
                        .ctx = ctx};
    (void)pthread_mutex_lock(&peer->lock);
    enum kith_err err = peer->closing                       ? KITH_CANCELLED
                        : peer->n_asks >= KITH_NET_ASKS_MAX ? KITH_BUSY
                                                            : KITH_OK;
    struct kith_net_conn *conn = NULL;
    uint64_t number = 0;
    if (err == KITH_OK) {
        number = ask->number = ++peer->next_number;
        conn = ask->conn = peer->conn;
        if (conn != NULL)
            kith_net_conn_ref(conn);
        else
            ask->request = kith_net_to_nng(request);
        link_ask_locked(peer, ask);
        start_tick_locked(peer);
    }
    (void)pthread_mutex_unlock(&peer->lock);
    /* From here on the ask may have ended. */
    if (err != KITH_OK) {
        kith_free(ask);
    } else if (conn != NULL) {
        kith_net_conn_send(conn, number, kith_net_to_nng(request));
        kith_net_conn_unref(conn);
    }
    return err;
}

enum kith_err kith_net_tcp_dial(struct kith_net_peer **out, const char *url, struct kith_diag *diag)
{
    struct peer *peer = kith_alloc(sizeof *peer);
    if (peer == NULL)
        return kith_fail(diag, KITH_NOMEM, "connect to %s: no memory", url);
    peer->base.tcp = true;
    peer->backoff_ms = RECONNECT_MIN_MS;
    (void)pthread_mutex_init(&peer->lock, NULL);
    (void)pthread_cond_init(&peer->idle, NULL);
    int rv = nng_aio_alloc(&peer->dial, on_dialed, peer);
    if (rv == 0)
        rv = nng_aio_alloc(&peer->tick, on_tick, peer);
    if (rv == 0)
        rv = nng_stream_dialer_alloc(&peer->dialer, url);
    if (rv == 0)
        rv = nng_stream_dialer_set_bool(peer->dialer, NNG_OPT_TCP_NODELAY, true);
    /* A host that vanished is noticed without a request. */
    if (rv == 0)
        rv = nng_stream_dialer_set_bool(peer->dialer, NNG_OPT_TCP_KEEPALIVE, true);
    if (rv != 0) {
        kith_net_tcp_peer_close(&peer->base);
        return kith_fail(diag, kith_net_from_nng(rv), "connect to %s: %s", url, nng_strerror(rv));
    }
    (void)pthread_mutex_lock(&peer->lock);
    start_dial_locked(peer);
    start_tick_locked(peer);
    (void)pthread_mutex_unlock(&peer->lock);
    *out = &peer->base;
    return KITH_OK;
}

void kith_net_tcp_peer_close(struct kith_net_peer *base)
{
    struct peer *peer = (struct peer *)base;
    (void)pthread_mutex_lock(&peer->lock);
    peer->closing = true;
    struct ask *left = take_asks_locked(peer, why_closing, NULL);
    struct kith_net_conn *conn = peer->conn;
    if (conn != NULL)
        kith_net_conn_ref(conn);
    (void)pthread_mutex_unlock(&peer->lock);
    end_asks(peer, left);
    if (peer->dialer != NULL)
        nng_stream_dialer_close(peer->dialer); /* ends a dial that is under way */
    if (conn != NULL) {
        kith_net_conn_close(conn);
        kith_net_conn_unref(conn);
    }
    (void)pthread_mutex_lock(&peer->lock);
    while (peer->n_callbacks > 0 || peer->dialing || peer->ticking || peer->n_conns > 0)
        (void)pthread_cond_wait(&peer->idle, &peer->lock);
    (void)pthread_mutex_unlock(&peer->lock);
    nng_aio_free(peer->dial);
    nng_aio_free(peer->tick);
    if (peer->dialer != NULL)
        nng_stream_dialer_free(peer->dialer);
    (void)pthread_cond_destroy(&peer->idle);
    (void)pthread_mutex_destroy(&peer->lock);
    kith_free(peer);
}

bool kith_net_tcp_peer_up(struct kith_net_peer *base)
{
    struct peer *peer = (struct peer *)base;
    (void)pthread_mutex_lock(&peer->lock);
    bool up = peer->conn != NULL;
    (void)pthread_mutex_unlock(&peer->lock);
    return up;
}
