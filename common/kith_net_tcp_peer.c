/* tcp:// over streams of NNG: a peer with one connection (kith_net_conn.c) that keeps itself up.
 *
 * The connection carries numbered messages; a reply has its request's number. A request is found by
 * its number under the peer's lock, and whoever takes it out of the table under that lock - the
 * reply, the clock, the end of its connection, the closing of the peer - calls its callback. So
 * there is exactly one. It is sent once, over the connection it was given to, and ends with it.
 *
 * A peer's clock ticks every TICK_MS while requests are outstanding or no connection is up, and
 * not at all otherwise. It ends what is late, dials again, and frees connections whose last
 * reference was given back in one of their own callbacks. */
#include <pthread.h>

#include "common/kith_clock.h"
#include "common/kith_mem.h"
#include "common/kith_net_conn.h"

#define RECONNECT_MIN_MS 20u
#define RECONNECT_MAX_MS 1000u
#define TICK_MS          10
#define TABLE            1024u /* of requests by number; numbers ascend, so they spread evenly */

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
    kith_net_conn_link(&peer->unused, conn);
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
    uint32_t freed = kith_net_conn_free_all(unused);
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
