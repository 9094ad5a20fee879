/* tcp:// over streams of NNG: a server with many connections (kith_net_conn.c). Each carries
 * numbered messages; a reply has its request's number, and goes back over the connection it came
 * by.
 *
 * The last reference of a connection may be given back in one of its own callbacks, where it cannot
 * be freed: the janitor does that. */
#include <pthread.h>
#include <stdio.h>
#include <string.h>

#include "common/kith_log.h"
#include "common/kith_mem.h"
#include "common/kith_net_conn.h"

#define ACCEPT_PAUSE_MS 50 /* after a failed accept: out of descriptors, say */
#define CONNECTIONS_MAX (4u * KITH_NODES_MAX)

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
        uint32_t n = kith_net_conn_free_all(unused);
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
    kith_net_conn_link(&server->unused, conn);
    bool start = start_janitor_locked(server);
    (void)pthread_mutex_unlock(&server->lock);
    if (start)
        nng_sleep_aio(0, server->janitor);
}

static void on_server_conn_down(struct kith_net_conn *conn)
{
    struct server *server = conn->owner;
    (void)pthread_mutex_lock(&server->lock);
    kith_net_conn_unlink(conn);
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
        kith_net_conn_unlink(conn);
        kith_net_conn_link(&server->paused, conn);
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
        kith_net_conn_unlink(resumed);
        kith_net_conn_link(&server->conns, resumed);
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
    kith_net_conn_link(&server->conns, conn); /* with its first reference, until it is down */
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
