/* inproc:// between parts of one process: a request is a call, a reply is a callback.
 *
 * A name is listened to by at most one server, and every peer of that name hangs on it; `hub` holds
 * them all, under one lock. An ask is handed to the server's function on the asker's own thread,
 * and its end is called on the thread that replies: nobody is woken in between. The bytes are the
 * same sealed frames as between machines; only their memory changes hands instead of being copied.
 *
 * What cannot or should not be served at once waits with its peer, and the peer's courier - a
 * thread of its own - serves it: asks of a server whose hands are full (KITH_NET_CONTEXTS), asks
 * that wait for a server to come up, and asks so large that checking them would hold up the
 * asker's event loop. The courier also is the clock: it sleeps until the earliest deadline it knows
 * of, so with the usual deadlines of seconds it hardly ever runs.
 *
 * An ask has two owners, the asker (until its callback is called) and the server (from the call to
 * the reply); the one that lets go last frees it. Who ends the asker's part under the lock - reply,
 * clock, end of the server, closing of the peer - calls the callback, so there is exactly one.
 *
 * Lost: a reply that serves the next waiting ask on its own thread. A server that replies at once,
 * from inside the call, would nest as deep as the queue is long, and that is what an overloaded one
 * does. One lock per server: a request takes the lock three times for some dozen instructions,
 * beside the one of the worker pool, and the order of two locks would have to be kept. */
#include <pthread.h>
#include <string.h>
#include <time.h>

#include "common/kith_clock.h"
#include "common/kith_mem.h"
#include "common/kith_net_internal.h"
#include "common/kith_thread.h"

#define DIRECT_BYTES_MAX                                                                           \
    (64u * 1024) /* about 10 us of checksum and reading on the asker's thread */

struct ask {
    struct kith_net_call base;
    /* Immutable once asked. */
    struct peer *peer; /* may be gone once the asker's part has ended */
    kith_net_done_fn done;
    void *ctx;
    uint64_t deadline_ms, grace_ms; /* by kith_now_ms */
    struct kith_net_msg *request;   /* the server's from the call to the reply */
    /* Guarded by the hub's lock. */
    struct server *server;    /* that was called; NULL: none yet */
    struct list *list;        /* of its peer; NULL: the asker's part has ended */
    struct ask **link, *next; /* in that list; or (next) among those that ended */
    enum kith_err err;        /* how it ended */
    uint32_t owners;
};

struct list {
    struct ask *first, **last;
};

struct peer {
    struct kith_net_peer base;
    char url[KITH_NET_URL_BYTES];
    pthread_t courier;
    /* Guarded by the hub's lock. */
    pthread_cond_t wake, idle;
    struct peer **link, *next; /* of all peers */
    struct server *server;     /* NULL: nobody listens */
    bool closing;
    uint32_t n_asks, n_callbacks;
    uint64_t wake_ms;                  /* no deadline is earlier */
    struct list waiting, large, given; /* in order of asking */
};

struct server {
    struct kith_net_server base;
    /* Immutable after listen. */
    kith_net_serve_fn serve;
    void *ctx;
    /* Guarded by the hub's lock. */
    pthread_cond_t idle;
    struct server **link, *next; /* of all servers */
    uint32_t in_hand;
};

static struct {
    pthread_mutex_t lock;
    struct server *servers;
    struct peer *peers;
} hub = {.lock = PTHREAD_MUTEX_INITIALIZER};

static void lock(void)
{
    (void)pthread_mutex_lock(&hub.lock);
}

static void unlock(void)
{
    (void)pthread_mutex_unlock(&hub.lock);
}

/* ---- asks and their lists -------------------------------------------------------------------- */

static void list_init(struct list *list)
{
    list->first = NULL;
    list->last = &list->first;
}

static void append_locked(struct list *list, struct ask *ask)
{
    ask->list = list;
    ask->next = NULL;
    ask->link = list->last;
    *list->last = ask;
    list->last = &ask->next;
}

static void remove_locked(struct ask *ask)
{
    *ask->link = ask->next;
    if (ask->next != NULL)
        ask->next->link = ask->link;
    else
        ask->list->last = ask->link;
    ask->list = NULL;
}

/* Ends the asker's part; from here on the caller must call end_ask. */
static void take_locked(struct ask *ask, enum kith_err err)
{
    remove_locked(ask);
    ask->err = err;
    ask->peer->n_asks--;
    ask->peer->n_callbacks++;
}

/* Takes all of a list before `ended`, and returns the new first. */
static struct ask *take_all_locked(struct list *list, enum kith_err err, struct ask *ended)
{
    while (list->first != NULL) {
        struct ask *ask = list->first;
        take_locked(ask, err);
        ask->next = ended;
        ended = ask;
    }
    return ended;
}

static void disown_locked(struct ask *ask)
{
    if (--ask->owners == 0)
        kith_free(ask);
}

static void end_ask(struct ask *ask, struct kith_net_msg *reply)
{
    struct peer *peer = ask->peer;
    if (ask->server == NULL) /* which cannot change any more */
        kith_net_msg_free(ask->request);
    ask->done(ask->ctx, ask->err, reply);
    lock();
    disown_locked(ask);
    if (--peer->n_callbacks == 0)
        (void)pthread_cond_broadcast(&peer->idle);
    unlock();
}

static void end_asks(struct ask *ended)
{
    while (ended != NULL) {
        struct ask *next = ended->next;
        end_ask(ended, NULL);
        ended = next;
    }
}

static void give_locked(struct ask *ask, struct server *server)
{
    if (ask->list != NULL)
        remove_locked(ask);
    append_locked(&ask->peer->given, ask);
    ask->server = server;
    ask->owners++;
    server->in_hand++;
}

static void serve(struct ask *ask)
{
    struct server *server = ask->server; /* stays while it has the ask in hand */
    server->serve(server->ctx, &ask->base, ask->request);
}

/* ---- serving --------------------------------------------------------------------------------- */

static struct server *find_server_locked(const char *url)
{
    struct server *server = hub.servers;
    while (server != NULL && strcmp(server->base.url, url) != 0)
        server = server->next;
    return server;
}

enum kith_err kith_net_inproc_listen(struct kith_net_server **out, const char *url,
                                     kith_net_serve_fn serve_fn, void *ctx, struct kith_diag *diag)
{
    struct server *server = kith_alloc(sizeof *server);
    if (server == NULL)
        return kith_fail(diag, KITH_NOMEM, "listen on %s: no memory", url);
    server->serve = serve_fn;
    server->ctx = ctx;
    memcpy(server->base.url, url, strlen(url) + 1); /* kith_net_listen checked its length */
    (void)pthread_cond_init(&server->idle, NULL);
    lock();
    bool taken = find_server_locked(url) != NULL;
    if (!taken) {
        server->link = &hub.servers;
        server->next = hub.servers;
        if (server->next != NULL)
            server->next->link = &server->next;
        hub.servers = server;
    }
    for (struct peer *peer = hub.peers; !taken && peer != NULL; peer = peer->next) {
        if (strcmp(peer->url, url) != 0)
            continue;
        peer->server = server;
        (void)pthread_cond_signal(&peer->wake);
    }
    unlock();
    if (taken) {
        (void)pthread_cond_destroy(&server->idle);
        kith_free(server);
        return kith_fail(diag, KITH_UNAVAILABLE, "listen on %s: address in use", url);
    }
    *out = &server->base;
    return KITH_OK;
}

void kith_net_inproc_server_close(struct kith_net_server *base)
{
    struct server *server = (struct server *)base;
    struct ask *ended = NULL;
    lock();
    *server->link = server->next;
    if (server->next != NULL)
        server->next->link = server->link;
    for (struct peer *peer = hub.peers; peer != NULL; peer = peer->next) {
        if (peer->server != server)
            continue;
        peer->server = NULL;
        ended = take_all_locked(&peer->waiting, KITH_UNAVAILABLE, ended);
        ended = take_all_locked(&peer->large, KITH_UNAVAILABLE, ended);
    }
    unlock();
    end_asks(ended);
    lock();
    while (server->in_hand > 0)
        (void)pthread_cond_wait(&server->idle, &hub.lock);
    unlock();
    (void)pthread_cond_destroy(&server->idle);
    kith_free(server);
}

static void wake_couriers_locked(const struct server *server)
{
    for (struct peer *peer = hub.peers; peer != NULL; peer = peer->next)
        if (peer->server == server && (peer->waiting.first != NULL || peer->large.first != NULL))
            (void)pthread_cond_signal(&peer->wake);
}

void kith_net_inproc_reply(struct kith_net_call *base, struct kith_net_msg *reply)
{
    struct ask *ask = (struct ask *)base;
    struct server *server = ask->server;
    kith_net_msg_free(ask->request);
    lock();
    /* Without a reply the ask stays, and its deadline ends it. */
    bool answers = reply != NULL && ask->list != NULL;
    if (answers)
        take_locked(ask, KITH_OK);
    unlock();
    if (answers)
        end_ask(ask, reply);
    else
        kith_net_msg_free(reply); /* late: nobody waits any more */
    /* Last: closing the server waits for this, and then it is gone. */
    lock();
    disown_locked(ask);
    server->in_hand--;
    wake_couriers_locked(server);
    if (server->in_hand == 0)
        (void)pthread_cond_broadcast(&server->idle);
    unlock();
}

/* ---- the courier ----------------------------------------------------------------------------- */

static enum kith_err why_late(const struct ask *ask, uint64_t now_ms, uint64_t *next_ms)
{
    bool lost = ask->server == NULL && ask->peer->server == NULL;
    uint64_t end_ms = lost && ask->grace_ms < ask->deadline_ms ? ask->grace_ms : ask->deadline_ms;
    if (now_ms < end_ms) {
        *next_ms = end_ms < *next_ms ? end_ms : *next_ms;
        return KITH_OK;
    }
    return now_ms >= ask->deadline_ms ? KITH_TIMEOUT : KITH_UNAVAILABLE;
}

/* All that are late, and in wake_ms the earliest of the others. */
static struct ask *take_late_locked(struct peer *peer, uint64_t now_ms)
{
    struct ask *late = NULL;
    struct list *lists[] = {&peer->waiting, &peer->large, &peer->given};
    peer->wake_ms = UINT64_MAX;
    for (size_t i = 0; i < sizeof lists / sizeof *lists; i++) {
        struct ask *next;
        for (struct ask *ask = lists[i]->first; ask != NULL; ask = next) {
            next = ask->next;
            enum kith_err err = why_late(ask, now_ms, &peer->wake_ms);
            if (err == KITH_OK)
                continue;
            take_locked(ask, err);
            ask->next = late;
            late = ask;
        }
    }
    return late;
}

static void sleep_locked(struct peer *peer)
{
    if (peer->wake_ms == UINT64_MAX) {
        (void)pthread_cond_wait(&peer->wake, &hub.lock);
        return;
    }
    struct timespec until = {.tv_sec = (time_t)(peer->wake_ms / 1000),
                             .tv_nsec = (long)(peer->wake_ms % 1000) * 1000000};
    (void)pthread_cond_timedwait(&peer->wake, &hub.lock, &until);
}

static void *courier_main(void *arg)
{
    struct peer *peer = arg;
    (void)pthread_setname_np(pthread_self(), "kith-inproc");
    kith_thread_bulk();
    lock();
    while (!peer->closing) {
        uint64_t now_ms = kith_now_ms();
        struct ask *late = now_ms >= peer->wake_ms ? take_late_locked(peer, now_ms) : NULL;
        struct server *server = peer->server;
        struct ask *ask = NULL;
        if (late == NULL && server != NULL && server->in_hand < KITH_NET_CONTEXTS)
            ask = peer->waiting.first != NULL ? peer->waiting.first : peer->large.first;
        if (ask != NULL)
            give_locked(ask, server);
        if (late == NULL && ask == NULL) {
            sleep_locked(peer);
            continue;
        }
        unlock();
        end_asks(late);
        if (ask != NULL)
            serve(ask);
        lock();
    }
    unlock();
    return NULL;
}

/* ---- asking ---------------------------------------------------------------------------------- */

/* On the caller's own thread? Not past those that wait because the server's hands are full. */
static bool goes_directly_locked(const struct peer *peer, const struct ask *ask)
{
    return peer->server != NULL && peer->server->in_hand < KITH_NET_CONTEXTS &&
           peer->waiting.first == NULL && kith_net_msg_len(ask->request) <= DIRECT_BYTES_MAX;
}

/* True when it was given to the server, which the caller calls. */
static bool begin_locked(struct peer *peer, struct ask *ask)
{
    bool direct = goes_directly_locked(peer, ask);
    bool large = kith_net_msg_len(ask->request) > DIRECT_BYTES_MAX;
    if (direct)
        give_locked(ask, peer->server);
    else
        append_locked(large ? &peer->large : &peer->waiting, ask);
    peer->n_asks++;
    uint64_t end_ms = UINT64_MAX;
    (void)why_late(ask, 0, &end_ms);
    bool wake = !direct || end_ms < peer->wake_ms;
    if (end_ms < peer->wake_ms)
        peer->wake_ms = end_ms;
    if (wake)
        (void)pthread_cond_signal(&peer->wake);
    return direct;
}

enum kith_err kith_net_inproc_ask(struct kith_net_peer *base, struct kith_net_msg *request,
                                  uint32_t timeout_ms, kith_net_done_fn done, void *ctx)
{
    struct peer *peer = (struct peer *)base;
    struct ask *ask = kith_alloc(sizeof *ask);
    if (ask == NULL)
        return KITH_NOMEM;
    uint64_t now_ms = kith_now_ms();
    *ask = (struct ask){.peer = peer,
                        .done = done,
                        .ctx = ctx,
                        .deadline_ms = now_ms + timeout_ms,
                        .grace_ms = now_ms + KITH_RPC_CONNECT_GRACE_MS,
                        .request = request,
                        .owners = 1};
    lock();
    enum kith_err err = peer->closing                       ? KITH_CANCELLED
                        : peer->n_asks >= KITH_NET_ASKS_MAX ? KITH_BUSY
                                                            : KITH_OK;
    bool direct = err == KITH_OK && begin_locked(peer, ask);
    unlock();
    /* From here on the ask may have ended, unless it is ours to serve. */
    if (err != KITH_OK)
        kith_free(ask);
    else if (direct)
        serve(ask);
    return err;
}

static enum kith_err start_courier(struct peer *peer)
{
    pthread_condattr_t attr;
    (void)pthread_condattr_init(&attr);
    (void)pthread_condattr_setclock(&attr, CLOCK_MONOTONIC); /* as kith_now_ms */
    (void)pthread_cond_init(&peer->wake, &attr);
    (void)pthread_condattr_destroy(&attr);
    (void)pthread_cond_init(&peer->idle, NULL);
    list_init(&peer->waiting);
    list_init(&peer->large);
    list_init(&peer->given);
    peer->wake_ms = UINT64_MAX;
    return pthread_create(&peer->courier, NULL, courier_main, peer) == 0 ? KITH_OK : KITH_NOMEM;
}

enum kith_err kith_net_inproc_dial(struct kith_net_peer **out, const char *url,
                                   struct kith_diag *diag)
{
    struct peer *peer = kith_alloc(sizeof *peer);
    if (peer == NULL)
        return kith_fail(diag, KITH_NOMEM, "connect to %s: no memory", url);
    memcpy(peer->url, url, strlen(url) + 1); /* kith_net_dial checked its length */
    enum kith_err err = start_courier(peer);
    if (err != KITH_OK) {
        (void)pthread_cond_destroy(&peer->wake);
        (void)pthread_cond_destroy(&peer->idle);
        kith_free(peer);
        return kith_fail(diag, err, "connect to %s: cannot start a thread", url);
    }
    lock();
    peer->server = find_server_locked(url);
    peer->link = &hub.peers;
    peer->next = hub.peers;
    if (peer->next != NULL)
        peer->next->link = &peer->next;
    hub.peers = peer;
    unlock();
    *out = &peer->base;
    return KITH_OK;
}

void kith_net_inproc_peer_close(struct kith_net_peer *base)
{
    struct peer *peer = (struct peer *)base;
    lock();
    peer->closing = true;
    *peer->link = peer->next;
    if (peer->next != NULL)
        peer->next->link = peer->link;
    struct ask *ended = take_all_locked(&peer->waiting, KITH_CANCELLED, NULL);
    ended = take_all_locked(&peer->large, KITH_CANCELLED, ended);
    ended = take_all_locked(&peer->given, KITH_CANCELLED, ended);
    (void)pthread_cond_signal(&peer->wake);
    unlock();
    end_asks(ended);
    lock();
    while (peer->n_callbacks > 0)
        (void)pthread_cond_wait(&peer->idle, &hub.lock);
    unlock();
    (void)pthread_join(peer->courier, NULL);
    (void)pthread_cond_destroy(&peer->wake);
    (void)pthread_cond_destroy(&peer->idle);
    kith_free(peer);
}

bool kith_net_inproc_peer_up(struct kith_net_peer *base)
{
    const struct peer *peer = (const struct peer *)base;
    lock();
    bool up = peer->server != NULL;
    unlock();
    return up;
}
