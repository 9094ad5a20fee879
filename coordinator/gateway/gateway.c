/* Listening, admission and the clock of the gateway; gateway_conn.c has the connections,
 * gateway_answer.c what is sent on them.
 *
 * One timer ticks for all connections while there are any: with at most a thousand of them a walk
 * costs microseconds, and no system call is spent on arming timers per request.
 *
 * When all connections are taken, the oldest idle one makes room for a new one, first among those
 * that never sent a request: ten thousand idle connections then push out each other, not the
 * clients that work. */
#include "coordinator/gateway/gateway.h"

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <string.h>
#include <sys/random.h>
#include <time.h>
#include <unistd.h>

#include "common/kith_clock.h"
#include "common/kith_json.h"
#include "common/kith_log.h"
#include "common/kith_mem.h"
#include "coordinator/gateway/gateway_conn.h"

#define LISTEN_BACKLOG   1024
#define BODY_GRACE_MS    5000u
#define BODY_RATE        (16u * 1024) /* bytes a second; a modem from 1996 is slower */
#define WRITE_TIMEOUT_MS 10000u
#define TICK_MS_MAX      250u
#define TICK_MS_MIN      5u
#define ACCEPTS_PER_TURN 64

const char *gateway_method_name(enum gateway_method method)
{
    static const char *const names[] = {"GET", "PUT", "POST", "PATCH", "DELETE", "OPTIONS"};

    kith_assert((size_t)method < sizeof names / sizeof names[0]);
    return names[method];
}

static const char *pair_find(const struct gateway_pair *pairs, uint32_t n, const char *name)
{
    for (uint32_t i = 0; i < n; i++)
        if (strcmp(pairs[i].name, name) == 0)
            return pairs[i].value;
    return NULL;
}

const char *gateway_query(const struct gateway_request *request, const char *name)
{
    return pair_find(request->query, request->query_n, name);
}

const char *gateway_header(const struct gateway_request *request, const char *name_lower_case)
{
    return pair_find(request->headers, request->headers_n, name_lower_case);
}

void gateway_error_body(struct kith_buf *out, const char *text, double seconds)
{
    struct kith_json_writer w = {.buf = out};

    kith_jw_begin_object(&w);
    kith_jw_key(&w, "status");
    kith_jw_begin_object(&w);
    kith_jw_key(&w, "error");
    kith_jw_cstr(&w, text);
    kith_jw_end_object(&w);
    kith_jw_key(&w, "time");
    kith_jw_f64(&w, seconds);
    kith_jw_key(&w, "result");
    kith_jw_null(&w);
    kith_jw_end_object(&w);
}

void gateway_reply(struct gateway_request *request, int status, const char *content_type,
                   struct kith_buf *body, const struct gateway_pair *extra, uint32_t extra_n)
{
    struct gateway_inflight *inflight = (struct gateway_inflight *)request;
    struct gateway *gateway = inflight->gateway;
    struct gateway_conn *conn = inflight->conn;

    kith_assert(inflight->admitted);
    kith_assert(gateway->stats.inflight_n > 0);
    inflight->admitted = false;
    gateway->stats.inflight_n--;
    if (conn == NULL) {
        if (body != NULL)
            kith_buf_fini(body);
        gateway_request_free(inflight);
        if (gateway->closed && gateway->stats.inflight_n == 0)
            kith_free(gateway);
        return;
    }
    if (body != NULL && body->failed) {
        kith_buf_fini(body);
        gateway_error_body(body, "out of memory for the answer", 0.0);
        status = 503;
        content_type = NULL;
        extra_n = 0;
    }
    gateway_conn_answer(conn, status, content_type == NULL ? "application/json" : content_type,
                        body, extra, extra_n);
}

void gateway_reply_error(struct gateway_request *request, enum kith_err err, const char *text)
{
    static const struct gateway_pair retry = {"Retry-After", "1"};
    int status = kith_err_http(err);
    struct kith_buf body = {0};

    kith_assert(err != KITH_OK);
    gateway_error_body(&body, text, (double)(kith_now_ns() - request->start_ns) / 1e9);
    gateway_reply(request, status, NULL, &body, &retry, status == 429 || status == 503 ? 1 : 0);
}

const char *gateway_date(struct gateway *gateway)
{
    uint64_t second = kith_now_ms() / 1000;

    if (second != gateway->date_s || gateway->date[0] == '\0') {
        time_t now = time(NULL); /* shown to clients, decides nothing */
        struct tm utc;

        gmtime_r(&now, &utc);
        strftime(gateway->date, sizeof gateway->date, "%a, %d %b %Y %H:%M:%S GMT", &utc);
        gateway->date_s = second;
    }
    return gateway->date;
}

void gateway_list_add(struct gateway_conn_list *list, struct gateway_conn *conn)
{
    conn->prev = list->last;
    conn->next = NULL;
    if (list->last != NULL)
        list->last->next = conn;
    else
        list->first = conn;
    list->last = conn;
}

void gateway_list_remove(struct gateway_conn_list *list, struct gateway_conn *conn)
{
    if (conn->prev != NULL)
        conn->prev->next = conn->next;
    else
        list->first = conn->next;
    if (conn->next != NULL)
        conn->next->prev = conn->prev;
    else
        list->last = conn->prev;
    conn->prev = NULL;
    conn->next = NULL;
}

void gateway_conn_gone(struct gateway *gateway)
{
    kith_assert(gateway->stats.connections_n > 0);
    gateway->stats.connections_n--;
    if (gateway->draining && gateway->stats.connections_n == 0 && !gateway->closed)
        kith_timer_start(gateway->timer, 0, 0);
}

static void list_tick(struct gateway_conn_list *list, uint64_t now_ms)
{
    struct gateway_conn *next;

    for (struct gateway_conn *conn = list->first; conn != NULL; conn = next) {
        next = conn->next; /* a tick closes at most its own connection */
        gateway_conn_tick(conn, now_ms);
    }
}

static void on_tick(void *ctx)
{
    struct gateway *gateway = ctx;
    uint64_t now_ms = kith_now_ms();
    kith_loop_fn drained = gateway->drained;

    list_tick(&gateway->fresh, now_ms);
    list_tick(&gateway->served, now_ms);
    if (drained != NULL && (gateway->stats.connections_n == 0 || now_ms >= gateway->drain_end_ms)) {
        gateway->drained = NULL;
        kith_timer_stop(gateway->timer);
        drained(gateway->drained_ctx); /* may close the gateway: touch nothing after it */
        return;
    }
    gateway->ticking = gateway->stats.connections_n > 0 || drained != NULL;
    if (gateway->ticking)
        kith_timer_start(gateway->timer, gateway->tick_ms, 0);
}

static void tick_start(struct gateway *gateway)
{
    if (gateway->ticking)
        return;
    gateway->ticking = true;
    kith_timer_start(gateway->timer, gateway->tick_ms, 0);
}

static bool evict_from(struct gateway_conn_list *list, bool partial_too)
{
    for (struct gateway_conn *conn = list->first; conn != NULL; conn = conn->next) {
        if (conn->state == GATEWAY_CONN_LINGER ||
            (conn->state == GATEWAY_CONN_HEAD && conn->depth == 0 &&
             (partial_too || conn->head.at == 0))) {
            gateway_conn_close(conn);
            return true;
        }
    }
    return false;
}

static bool same_address(const struct sockaddr_storage *a, const struct sockaddr_storage *b)
{
    if (a->ss_family != b->ss_family)
        return false;
    if (a->ss_family == AF_INET)
        return ((const struct sockaddr_in *)a)->sin_addr.s_addr ==
               ((const struct sockaddr_in *)b)->sin_addr.s_addr;
    return memcmp(&((const struct sockaddr_in6 *)a)->sin6_addr,
                  &((const struct sockaddr_in6 *)b)->sin6_addr, sizeof(struct in6_addr)) == 0;
}

static uint32_t count_address(const struct gateway_conn_list *list,
                              const struct sockaddr_storage *peer)
{
    uint32_t n = 0;

    for (const struct gateway_conn *conn = list->first; conn != NULL; conn = conn->next)
        n += same_address(&conn->peer, peer);
    return n;
}

static bool may_connect(struct gateway *gateway, const struct sockaddr_storage *peer)
{
    uint32_t max = gateway->options.connections_max;

    if (gateway->options.connections_per_ip_max < max &&
        count_address(&gateway->fresh, peer) + count_address(&gateway->served, peer) >=
            gateway->options.connections_per_ip_max)
        return false;
    return gateway->stats.connections_n < max || evict_from(&gateway->fresh, true) ||
           evict_from(&gateway->served, false);
}

/* Tells a client in one write that there is no room, and hangs up. */
static void turn_away(struct gateway *gateway, int fd)
{
    static const char body[] =
        "{\"status\":{\"error\":\"too many connections: try again later\"},\"time\":0.0,"
        "\"result\":null}";
    char text[512];
    int n = snprintf(text, sizeof text,
                     "HTTP/1.1 503 Service Unavailable\r\nContent-Type: application/json\r\n"
                     "Content-Length: %zu\r\nRetry-After: 1\r\nConnection: close\r\n\r\n%s",
                     sizeof body - 1, body);
    ssize_t sent = send(fd, text, (size_t)n, MSG_NOSIGNAL | MSG_DONTWAIT);

    (void)sent; /* best effort */
    gateway->stats.refused++;
    close(fd);
}

/* Out of descriptors: without this the pending connection would wake us for ever. */
static void shed(struct gateway *gateway)
{
    int fd;

    if (gateway->spare_fd < 0)
        return;
    close(gateway->spare_fd);
    fd = accept4(gateway->listen_fd, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);
    if (fd >= 0)
        turn_away(gateway, fd);
    gateway->spare_fd = open("/dev/null", O_RDONLY | O_CLOEXEC);
    kith_log(WARN, "gateway.descriptors_out", "connections=%u", gateway->stats.connections_n);
}

static void on_accept(void *ctx, int events, bool error)
{
    struct gateway *gateway = ctx;

    (void)events;
    (void)error;
    for (int i = 0; i < ACCEPTS_PER_TURN; i++) {
        struct sockaddr_storage peer;
        socklen_t peer_bytes = sizeof peer;
        int one = 1;
        int fd = accept4(gateway->listen_fd, (struct sockaddr *)&peer, &peer_bytes,
                         SOCK_NONBLOCK | SOCK_CLOEXEC);

        if (fd < 0) {
            if (errno == EINTR || errno == ECONNABORTED)
                continue;
            if (errno == EMFILE || errno == ENFILE)
                shed(gateway);
            return;
        }
        if (!may_connect(gateway, &peer)) {
            turn_away(gateway, fd);
            continue;
        }
        setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
        if (gateway_conn_new(gateway, fd, &peer) != KITH_OK)
            close(fd);
        else
            tick_start(gateway);
    }
}

static void options_fill(struct gateway_options *o)
{
#define OR(field_, value_)                                                                         \
    if (o->field_ == 0)                                                                            \
    o->field_ = (value_)
    OR(body_bytes_max, KITH_HTTP_BODY_MAX);
    OR(inflight_bytes_max, KITH_HTTP_INFLIGHT_BYTES_MAX);
    OR(inflight_max, KITH_HTTP_INFLIGHT_MAX);
    OR(connections_max, KITH_HTTP_CONNECTIONS_MAX);
    OR(connections_per_ip_max, KITH_HTTP_CONNECTIONS_PER_IP_MAX);
    OR(header_timeout_ms, KITH_HTTP_HEADER_TIMEOUT_S * 1000);
    OR(idle_timeout_ms, KITH_HTTP_IDLE_S * 1000);
    OR(body_grace_ms, BODY_GRACE_MS);
    OR(body_bytes_per_s_min, BODY_RATE);
    OR(write_timeout_ms, WRITE_TIMEOUT_MS);
    OR(deadline_default_ms, KITH_DEADLINE_DEFAULT_MS);
#undef OR
}

static uint32_t tick_for(const struct gateway_options *o)
{
    uint32_t shortest = o->header_timeout_ms;

    if (o->idle_timeout_ms < shortest)
        shortest = o->idle_timeout_ms;
    if (o->body_grace_ms < shortest)
        shortest = o->body_grace_ms;
    if (o->write_timeout_ms < shortest)
        shortest = o->write_timeout_ms;
    shortest /= 4;
    if (shortest < TICK_MS_MIN)
        return TICK_MS_MIN;
    return shortest > TICK_MS_MAX ? TICK_MS_MAX : shortest;
}

/* "host:port" or "[v6]:port" into its two halves. */
static bool address_split(const char *listen, char host[96], const char **port)
{
    const char *colon = strrchr(listen, ':');
    const char *from = listen;
    size_t n;

    if (colon == NULL || colon[1] == '\0')
        return false;
    n = (size_t)(colon - listen);
    if (n >= 2 && listen[0] == '[' && listen[n - 1] == ']') {
        from++;
        n -= 2;
    }
    if (n >= 96)
        return false;
    memcpy(host, from, n);
    host[n] = '\0';
    *port = colon + 1;
    return true;
}

static void url_fill(struct gateway *gateway)
{
    struct sockaddr_storage own;
    socklen_t own_bytes = sizeof own;
    char host[96] = "?", port[8] = "0";

    if (getsockname(gateway->listen_fd, (struct sockaddr *)&own, &own_bytes) == 0)
        (void)getnameinfo((struct sockaddr *)&own, own_bytes, host, sizeof host, port, sizeof port,
                          NI_NUMERICHOST | NI_NUMERICSERV);
    snprintf(gateway->url, sizeof gateway->url,
             strchr(host, ':') != NULL ? "http://[%s]:%s" : "http://%s:%s", host, port);
}

static enum kith_err listen_on(struct gateway *gateway, const char *listen_text,
                               struct kith_diag *diag)
{
    struct addrinfo hints = {.ai_flags = AI_PASSIVE, .ai_socktype = SOCK_STREAM};
    struct addrinfo *found = NULL;
    char host[96];
    const char *port;
    int one = 1;
    int rc;

    if (!address_split(listen_text, host, &port))
        return kith_fail(diag, KITH_BAD_REQUEST, "listen address %s: want HOST:PORT", listen_text);
    rc = getaddrinfo(host[0] == '\0' ? NULL : host, port, &hints, &found);
    if (rc != 0)
        return kith_fail(diag, KITH_IO, "listen address %s: %s", listen_text, gai_strerror(rc));
    gateway->listen_fd = socket(found->ai_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    rc = -1;
    if (gateway->listen_fd >= 0) {
        setsockopt(gateway->listen_fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
        rc = bind(gateway->listen_fd, found->ai_addr, found->ai_addrlen);
        if (rc == 0)
            rc = listen(gateway->listen_fd, LISTEN_BACKLOG);
    }
    freeaddrinfo(found);
    if (rc != 0)
        return kith_fail(diag, KITH_IO, "listen on %s: %s", listen_text, strerror(errno));
    url_fill(gateway);
    return KITH_OK;
}

enum kith_err gateway_open(struct gateway **out, struct kith_loop *loop,
                           const struct gateway_options *options, struct kith_diag *diag)
{
    struct gateway *gateway;
    uint32_t seed = 0;
    enum kith_err err;

    kith_assert(options->listen != NULL);
    kith_assert(options->handle != NULL);
    gateway = kith_alloc(sizeof *gateway);
    if (gateway == NULL)
        return kith_fail(diag, KITH_NOMEM, "gateway");
    gateway->loop = loop;
    gateway->options = *options;
    options_fill(&gateway->options);
    gateway->tick_ms = tick_for(&gateway->options);
    gateway->listen_fd = -1;
    /* Ids differ between restarts, so that two logs laid side by side do not mix requests up. */
    if (getrandom(&seed, sizeof seed, GRND_NONBLOCK) != sizeof seed)
        seed = (uint32_t)kith_now_ns();
    gateway->next_id = ((uint64_t)seed << 32) + 1;
    gateway->spare_fd = open("/dev/null", O_RDONLY | O_CLOEXEC);

    err = listen_on(gateway, options->listen, diag);
    if (err != KITH_OK)
        goto out;
    err = kith_timer_new(&gateway->timer, loop, on_tick, gateway);
    if (err != KITH_OK) {
        kith_fail(diag, err, "gateway timer");
        goto out;
    }
    err = kith_watch_new(&gateway->listen_watch, loop, gateway->listen_fd, on_accept, gateway);
    if (err != KITH_OK) {
        kith_fail(diag, err, "gateway listener");
        goto out;
    }
    kith_watch_start(gateway->listen_watch, KITH_READABLE);
    *out = gateway;
    gateway = NULL;
out:
    gateway_close(gateway);
    return err;
}

const char *gateway_url(const struct gateway *gateway)
{
    return gateway->url;
}

static void listen_stop(struct gateway *gateway)
{
    kith_watch_free(gateway->listen_watch);
    gateway->listen_watch = NULL;
    if (gateway->listen_fd >= 0)
        close(gateway->listen_fd);
    gateway->listen_fd = -1;
}

static void list_close(struct gateway_conn_list *list, bool idle_only)
{
    struct gateway_conn *next;

    for (struct gateway_conn *conn = list->first; conn != NULL; conn = next) {
        next = conn->next;
        kith_assert(conn->depth == 0);
        if (!idle_only || (conn->state == GATEWAY_CONN_HEAD && conn->head.at == 0))
            gateway_conn_close(conn);
    }
}

void gateway_drain(struct gateway *gateway, uint32_t grace_ms, kith_loop_fn done, void *ctx)
{
    kith_assert(!gateway->draining);
    gateway->draining = true;
    gateway->drain_end_ms = kith_now_ms() + grace_ms;
    gateway->drained = done;
    gateway->drained_ctx = ctx;
    if (gateway->tick_ms > 20)
        gateway->tick_ms = 20; /* somebody waits for us to end */
    listen_stop(gateway);
    list_close(&gateway->fresh, true);
    list_close(&gateway->served, true);
    gateway->ticking = true;
    kith_timer_start(gateway->timer, gateway->stats.connections_n == 0 ? 0 : gateway->tick_ms, 0);
}

void gateway_close(struct gateway *gateway)
{
    if (gateway == NULL)
        return;
    gateway->closed = true;
    listen_stop(gateway);
    list_close(&gateway->fresh, false);
    list_close(&gateway->served, false);
    kith_timer_free(gateway->timer);
    gateway->timer = NULL;
    if (gateway->spare_fd >= 0)
        close(gateway->spare_fd);
    if (gateway->stats.inflight_n == 0)
        kith_free(gateway);
}

void gateway_stats(const struct gateway *gateway, struct gateway_stats *out)
{
    *out = gateway->stats;
}
