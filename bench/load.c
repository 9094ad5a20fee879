/* An HTTP load generator: one thread, epoll, keep-alive connections to a loopback address.
 *
 * Closed loop (the default): each connection sends its next request when the last answer is in, so
 * a slow server is asked less. Open loop (--rate): requests are due at fixed moments whether or not
 * the server keeps up, wait here for a free connection when it does not, and their latency counts
 * from the moment they were due. The closed loop measures throughput; only the open one measures
 * what a user waits (the "coordinated omission" of Gil Tene's talk).
 *
 * Of a latency in the open loop two parts are told as well: how late a request left, because this
 * process waited for a CPU or for a connection, and what the server says it took (`time`, as it is
 * in the answers of Kith; else 0). --answers keeps the bodies that came back, a line each, in the
 * order of the requests. SIGTERM ends a run as its end would. One JSON line comes out. Bounded in
 * time, count and connections, and to loopback: this is no tool for other people's machines. */
#include <arpa/inet.h>
#include <errno.h>
#include <getopt.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include "histogram.h"
#include "common/kith_buf.h"
#include "common/kith_clock.h"
#include "common/kith_mem.h"
#include "common/kith_realtime.h"
#include "common/kith_thread.h"

#define CONNECTIONS_MAX  1000u
#define SECONDS_MAX      600.0
#define REQUESTS_MAX     100000000ull
#define RATE_MAX         1000000.0
#define BODIES_BYTES_MAX (1u << 30)
#define HEAD_BYTES       4096u
#define LATE_NS_MAX      10000000000ull /* answers that are late by more are lost */
#define TAIL_BYTES       128u           /* of a body: "time" is in them */

struct text {
    const char *data;
    size_t n;
};

struct load_conn {
    int fd;
    bool busy;
    struct text out; /* the request being sent */
    size_t out_at;
    char head[HEAD_BYTES];
    size_t head_n;
    size_t body_left;
    bool in_body;
    char tail[TAIL_BYTES + 1];
    size_t tail_n;
    int status;
    uint64_t due_ns, begun_ns;
    uint64_t request; /* its number, from 0 */
};

struct load {
    /* What was asked */
    struct sockaddr_in to;
    char host[64];
    char path[2048];
    const char *method, *name, *api_key;
    unsigned connections;
    double seconds, warmup_s, rate;
    uint64_t requests_max;
    struct text *requests; /* whole, ready to send */
    size_t requests_n;
    const char *answers_path;
    struct kith_buf *kept; /* the answer of each request; NULL: they are thrown away */

    /* The run */
    int epoll;
    struct load_conn *conns;
    struct load_conn **idle;
    size_t idle_n;
    uint64_t start_ns, measure_ns, end_ns;
    uint64_t answered_ns; /* the last answer that counts */
    uint64_t sent, due_next;
    uint64_t refused, failed; /* other statuses than 2xx, cut connections; after the warm-up */
    struct histogram whole, late, server; /* of 2xx: the latency, and two parts of it */
};

static void die(const char *what, const char *detail)
{
    fprintf(stderr, "load: %s%s%s\n", what, detail == NULL ? "" : ": ",
            detail == NULL ? "" : detail);
    exit(1);
}

static void connect_one(struct load *load, struct load_conn *conn)
{
    struct epoll_event event = {.events = EPOLLIN, .data.ptr = conn};
    int one = 1;

    conn->fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (conn->fd < 0 || connect(conn->fd, (struct sockaddr *)&load->to, sizeof load->to) != 0)
        die("cannot connect", strerror(errno));
    setsockopt(conn->fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    if (epoll_ctl(load->epoll, EPOLL_CTL_ADD, conn->fd, &event) != 0)
        die("epoll", strerror(errno));
}

static void conn_idle(struct load *load, struct load_conn *conn)
{
    conn->busy = false;
    conn->head_n = 0;
    conn->tail_n = 0;
    conn->in_body = false;
    load->idle[load->idle_n++] = conn;
}

static void conn_lost(struct load *load, struct load_conn *conn)
{
    close(conn->fd);
    if (conn->busy && kith_now_ns() >= load->measure_ns)
        load->failed++;
    connect_one(load, conn);
    if (conn->busy)
        conn_idle(load, conn);
}

static void watch_writes(struct load *load, struct load_conn *conn, bool on)
{
    struct epoll_event event = {.events = EPOLLIN | (on ? EPOLLOUT : 0u), .data.ptr = conn};

    epoll_ctl(load->epoll, EPOLL_CTL_MOD, conn->fd, &event);
}

static void conn_send(struct load *load, struct load_conn *conn)
{
    while (conn->out_at < conn->out.n) {
        ssize_t n = send(conn->fd, conn->out.data + conn->out_at, conn->out.n - conn->out_at,
                         MSG_NOSIGNAL | MSG_DONTWAIT);
        if (n < 0 && (errno == EAGAIN || errno == EWOULDBLOCK)) {
            watch_writes(load, conn, true);
            return;
        }
        if (n < 0) {
            conn_lost(load, conn);
            return;
        }
        conn->out_at += (size_t)n;
    }
}

static void begin(struct load *load, uint64_t due_ns)
{
    struct load_conn *conn = load->idle[--load->idle_n];

    conn->busy = true;
    conn->due_ns = due_ns;
    conn->begun_ns = kith_now_ns();
    conn->request = load->sent;
    conn->out = load->requests[load->sent % load->requests_n];
    conn->out_at = 0;
    load->sent++;
    conn_send(load, conn);
}

/* The last bytes of a body. */
static void tail_add(struct load_conn *conn, const char *bytes, size_t n)
{
    size_t take = n < TAIL_BYTES ? n : TAIL_BYTES;
    size_t keep = conn->tail_n < TAIL_BYTES - take ? conn->tail_n : TAIL_BYTES - take;

    memmove(conn->tail, conn->tail + conn->tail_n - keep, keep);
    memcpy(conn->tail + keep, bytes + n - take, take);
    conn->tail_n = keep + take;
    conn->tail[conn->tail_n] = '\0';
}

static void answered(struct load *load, struct load_conn *conn)
{
    uint64_t now = kith_now_ns();

    if (conn->due_ns >= load->measure_ns) {
        load->answered_ns = now;
        if (conn->status / 100 == 2) {
            const char *time = conn->tail_n > 0 ? strstr(conn->tail, "\"time\":") : NULL;
            histogram_add(&load->whole, now - conn->due_ns);
            histogram_add(&load->late, conn->begun_ns - conn->due_ns);
            histogram_add(&load->server,
                          time == NULL ? 0 : (uint64_t)(strtod(time + 7, NULL) * 1e9));
        } else {
            load->refused++;
        }
    }
    conn_idle(load, conn);
}

/* The head is complete: status and length. */
static void head_read(struct load_conn *conn)
{
    const char *field = strcasestr(conn->head, "\r\ncontent-length:");

    if (sscanf(conn->head, "HTTP/1.1 %d", &conn->status) != 1 || field == NULL)
        die("not an HTTP/1.1 answer with a Content-Length", conn->head);
    conn->body_left = (size_t)strtoull(field + 17, NULL, 10);
    conn->in_body = true;
}

static void conn_bytes(struct load *load, struct load_conn *conn, const char *bytes, size_t n)
{
    while (n > 0 && conn->busy) {
        size_t take;

        if (!conn->in_body) {
            take = HEAD_BYTES - 1 - conn->head_n < n ? HEAD_BYTES - 1 - conn->head_n : n;
            if (take == 0)
                die("the head of an answer is too large", NULL);
            size_t from = conn->head_n;
            const char *end;
            memcpy(conn->head + from, bytes, take);
            conn->head[from + take] = '\0';
            end = strstr(conn->head, "\r\n\r\n");
            if (end == NULL) {
                conn->head_n += take;
            } else {
                take = (size_t)(end + 4 - conn->head) - from;
                conn->head[from + take] = '\0';
                head_read(conn);
            }
        } else {
            take = conn->body_left < n ? conn->body_left : n;
            if (load->kept != NULL)
                kith_buf_append(&load->kept[conn->request], bytes, take);
            tail_add(conn, bytes, take);
            conn->body_left -= take;
        }
        bytes += take;
        n -= take;
        if (conn->in_body && conn->body_left == 0)
            answered(load, conn);
    }
}

static void conn_read(struct load *load, struct load_conn *conn)
{
    static char chunk[256 * 1024];
    ssize_t n = recv(conn->fd, chunk, sizeof chunk, MSG_DONTWAIT);

    if (n > 0)
        conn_bytes(load, conn, chunk, (size_t)n);
    else if (n == 0 || (errno != EAGAIN && errno != EWOULDBLOCK && errno != EINTR))
        conn_lost(load, conn);
}

/* Sends what is due; returns how long nothing more will be, in ns. */
static uint64_t send_due(struct load *load, uint64_t now)
{
    if (load->rate <= 0) {
        while (load->idle_n > 0 && load->sent < load->requests_max && now < load->end_ns)
            begin(load, kith_now_ns());
        return 100000000;
    }
    for (;;) {
        uint64_t due = load->start_ns + (uint64_t)((double)load->due_next * 1e9 / load->rate);

        if (due >= load->end_ns || load->sent >= load->requests_max)
            return 100000000;
        if (due > now)
            return due - now;
        if (load->idle_n == 0)
            return 100000000;
        load->due_next++;
        begin(load, due);
    }
}

static volatile sig_atomic_t enough;

static void on_enough(int number)
{
    (void)number;
    enough = 1;
}

static void end_by_signal(void)
{
    struct sigaction action = {.sa_handler = on_enough};
    if (sigaction(SIGTERM, &action, NULL) != 0)
        die("cannot catch SIGTERM", strerror(errno));
}

/* Nothing more is due; what was sent is waited for. */
static void end_now(struct load *load, uint64_t now)
{
    enough = 0;
    load->end_ns = now < load->end_ns ? now : load->end_ns;
}

static void run(struct load *load)
{
    struct epoll_event events[256];
    /* Who asks at fixed moments stands for users elsewhere, who do not wait for a CPU here. */
    if (load->rate > 0) {
        kith_thread_ahead();
        kith_realtime_want(true, kith_now_ns());
    }
    load->start_ns = kith_now_ns();
    load->measure_ns = load->start_ns + (uint64_t)(load->warmup_s * 1e9);
    load->end_ns = load->measure_ns + (uint64_t)(load->seconds * 1e9);
    for (;;) {
        uint64_t now = kith_now_ns();
        if (enough)
            end_now(load, now);
        uint64_t wait_ns = send_due(load, now);
        struct timespec wait = {.tv_sec = 0, .tv_nsec = (long)(wait_ns % 1000000000)};
        bool over = now >= load->end_ns || load->sent >= load->requests_max;
        int n;

        if ((over && load->idle_n == load->connections) || now >= load->end_ns + LATE_NS_MAX)
            break;
        n = epoll_pwait2(load->epoll, events, 256, &wait, NULL);
        for (int i = 0; i < n; i++) {
            struct load_conn *conn = events[i].data.ptr;
            if ((events[i].events & EPOLLOUT) != 0) {
                watch_writes(load, conn, false);
                conn_send(load, conn);
            }
            if ((events[i].events & (EPOLLIN | EPOLLHUP | EPOLLERR)) != 0)
                conn_read(load, conn);
        }
    }
    for (unsigned i = 0; i < load->connections; i++)
        load->failed += load->conns[i].busy;
    if (load->rate > 0 && load->sent < load->requests_max) {
        /* What was due and never sent is the worst latency of all: do not hide it. */
        uint64_t due = (uint64_t)((double)(load->end_ns - load->start_ns) * load->rate / 1e9);
        load->failed += due > load->due_next ? due - load->due_next : 0;
    }
}

static void report(const struct load *load, double seconds)
{
    const struct histogram *whole = &load->whole;

    printf("{\"bench\":\"load\",\"name\":\"%s\",\"path\":\"%s\",\"mode\":\"%s\",\"rate\":%.0f,"
           "\"connections\":%u,\"seconds\":%.3f,\"requests\":%llu,\"refused\":%llu,"
           "\"failed\":%llu,\"per_s\":%.1f,\"mean_us\":%.1f,\"p50_us\":%.1f,\"p99_us\":%.1f,"
           "\"p999_us\":%.1f,\"max_us\":%.1f,\"late_p99_us\":%.1f,\"server_p50_us\":%.1f,"
           "\"server_p99_us\":%.1f}\n",
           load->name, load->path, load->rate > 0 ? "open" : "closed", load->rate,
           load->connections, seconds, (unsigned long long)whole->n,
           (unsigned long long)load->refused, (unsigned long long)load->failed,
           (double)whole->n / seconds,
           whole->n == 0 ? 0.0 : (double)whole->sum_ns / (double)whole->n / 1000.0,
           histogram_us(whole, 0.5), histogram_us(whole, 0.99), histogram_us(whole, 0.999),
           (double)whole->max_ns / 1000.0, histogram_us(&load->late, 0.99),
           histogram_us(&load->server, 0.5), histogram_us(&load->server, 0.99));
}

static void answers_write(const struct load *load)
{
    FILE *file = fopen(load->answers_path, "we");

    if (file == NULL)
        die(load->answers_path, strerror(errno));
    for (uint64_t i = 0; i < load->requests_max; i++) {
        struct kith_buf *body = &load->kept[i];
        fprintf(file, "%.*s\n", (int)body->len, body->len == 0 ? "" : (const char *)body->data);
        kith_buf_fini(body);
    }
    if (fclose(file) != 0)
        die(load->answers_path, strerror(errno));
}

static void url_parse(struct load *load, const char *url)
{
    char host[64] = "";
    unsigned port = 6333;
    int at = 0;

    if (sscanf(url, "http://%63[^:/]%n", host, &at) != 1)
        die("want http://127.0.0.1:PORT/PATH", url);
    if (url[at] == ':' && sscanf(url + at + 1, "%5u", &port) == 1)
        at += (int)strcspn(url + at, "/");
    snprintf(load->host, sizeof load->host, "%s", host);
    snprintf(load->path, sizeof load->path, "%s", url[at] == '/' ? url + at : "/");
    if (strcmp(host, "localhost") == 0)
        strcpy(host, "127.0.0.1");
    load->to.sin_family = AF_INET;
    load->to.sin_port = htons((uint16_t)port);
    if (inet_pton(AF_INET, host, &load->to.sin_addr) != 1 ||
        ntohl(load->to.sin_addr.s_addr) >> 24 != 127)
        die("only loopback addresses", host);
}

static void add_request(struct load *load, size_t *cap, const char *body, size_t n)
{
    struct kith_buf buf = {0};

    kith_buf_printf(&buf, "%s %s HTTP/1.1\r\nHost: %s\r\n", load->method, load->path, load->host);
    if (load->api_key != NULL)
        kith_buf_printf(&buf, "api-key: %s\r\n", load->api_key);
    if (n > 0)
        kith_buf_printf(&buf, "Content-Type: application/json\r\nContent-Length: %zu\r\n", n);
    kith_buf_text(&buf, "\r\n");
    kith_buf_append(&buf, body, n);
    if (buf.failed ||
        !kith_grow((void **)&load->requests, cap, load->requests_n + 1, sizeof *load->requests))
        die("out of memory", NULL);
    load->requests[load->requests_n++] = (struct text){(const char *)buf.data, buf.len};
}

/* One body per line. */
static void bodies_read(struct load *load, const char *path)
{
    FILE *file = path == NULL ? NULL : fopen(path, "re");
    size_t cap = 0, line_cap = 0, total = 0;
    char *line = NULL;
    ssize_t n;

    if (path == NULL) {
        add_request(load, &cap, "", 0);
        return;
    }
    if (file == NULL)
        die(path, strerror(errno));
    while ((n = getline(&line, &line_cap, file)) > 0 && total < BODIES_BYTES_MAX) {
        while (n > 0 && (line[n - 1] == '\n' || line[n - 1] == '\r'))
            n--;
        if (n > 0)
            add_request(load, &cap, line, (size_t)n);
        total += (size_t)n;
    }
    free(line); /* getline's own */
    fclose(file);
    if (load->requests_n == 0)
        die("no request bodies in", path);
}

static double number(const char *text, double min, double max, const char *name)
{
    char *end;
    double value = strtod(text, &end);

    if (end == text || *end != '\0' || !(value >= min && value <= max))
        die("out of range", name);
    return value;
}

static void usage(void)
{
    puts("load --url http://127.0.0.1:6333/PATH [options]\n"
         "  --method M         GET, or POST when there are bodies\n"
         "  --bodies FILE      one request body per line, sent in turn\n"
         "  --connections N    8 (at most 1000)\n"
         "  --seconds S        5 (at most 600), after --warmup S (1; 0 with --requests)\n"
         "  --requests N       stop after so many\n"
         "  --rate R           open loop: R requests a second, latency from the moment each was "
         "due\n"
         "  --answers FILE     one answer per line; each body is sent once\n"
         "  --name TEXT        goes into the JSON line\n"
         "  --api-key KEY");
}

static const char *options_parse(struct load *load, int argc, char **argv)
{
    static const struct option known[] = {
        {"url", 1, NULL, 'u'},      {"method", 1, NULL, 'm'},
        {"bodies", 1, NULL, 'b'},   {"connections", 1, NULL, 'c'},
        {"seconds", 1, NULL, 's'},  {"warmup", 1, NULL, 'w'},
        {"requests", 1, NULL, 'n'}, {"rate", 1, NULL, 'r'},
        {"name", 1, NULL, 'N'},     {"api-key", 1, NULL, 'k'},
        {"answers", 1, NULL, 'a'},  {"help", 0, NULL, 'h'},
        {NULL, 0, NULL, 0},
    };
    const char *url = NULL, *bodies = NULL;

    for (int c; (c = getopt_long(argc, argv, "", known, NULL)) != -1;) {
        switch (c) {
        case 'u':
            url = optarg;
            break;
        case 'm':
            load->method = optarg;
            break;
        case 'b':
            bodies = optarg;
            break;
        case 'c':
            load->connections = (unsigned)number(optarg, 1, CONNECTIONS_MAX, "--connections");
            break;
        case 's':
            load->seconds = number(optarg, 0.1, SECONDS_MAX, "--seconds");
            break;
        case 'w':
            load->warmup_s = number(optarg, 0, 60, "--warmup");
            break;
        case 'n':
            load->requests_max = (uint64_t)number(optarg, 1, (double)REQUESTS_MAX, "--requests");
            break;
        case 'r':
            load->rate = number(optarg, 0.1, RATE_MAX, "--rate");
            break;
        case 'N':
            load->name = optarg;
            break;
        case 'a':
            load->answers_path = optarg;
            break;
        case 'k':
            load->api_key = optarg;
            break;
        default:
            usage();
            exit(c == 'h' ? 0 : 2);
        }
    }
    if (url == NULL || optind < argc) {
        usage();
        exit(2);
    }
    url_parse(load, url);
    return bodies;
}

/* What the rate is over. In the closed loop all answers count, and each connection waits for one
 * when the time is over: they belong to the time until the last of them. */
static double measured_s(const struct load *load)
{
    uint64_t now = kith_now_ns(), end_ns = now < load->end_ns ? now : load->end_ns;

    if (load->rate <= 0 && load->answered_ns > end_ns)
        end_ns = load->answered_ns;
    return end_ns <= load->measure_ns ? load->seconds : (double)(end_ns - load->measure_ns) / 1e9;
}

int main(int argc, char **argv)
{
    struct load *load = kith_xalloc(sizeof *load);
    const char *bodies;

    load->connections = 8;
    load->seconds = 5;
    load->warmup_s = -1;
    load->requests_max = REQUESTS_MAX;
    load->name = "";
    bodies = options_parse(load, argc, argv);
    if (load->method == NULL)
        load->method = bodies == NULL ? "GET" : "POST";
    if (load->warmup_s < 0)
        load->warmup_s = load->requests_max < REQUESTS_MAX ? 0 : 1; /* a count counts them all */
    end_by_signal();
    bodies_read(load, bodies);
    if (load->answers_path != NULL) {
        load->requests_max = load->requests_n;
        load->warmup_s = 0;
        load->kept = kith_xalloc(load->requests_n * sizeof *load->kept);
    }

    load->epoll = epoll_create1(EPOLL_CLOEXEC);
    load->conns = kith_xalloc(load->connections * sizeof *load->conns);
    load->idle = kith_xalloc(load->connections * sizeof(struct load_conn *));
    for (unsigned i = 0; i < load->connections; i++) {
        connect_one(load, &load->conns[i]);
        conn_idle(load, &load->conns[i]);
    }
    run(load);
    report(load, measured_s(load));
    if (load->kept != NULL)
        answers_write(load);

    for (unsigned i = 0; i < load->connections; i++)
        close(load->conns[i].fd);
    for (size_t i = 0; i < load->requests_n; i++)
        kith_free((void *)load->requests[i].data);
    kith_free(load->requests);
    kith_free(load->kept);
    kith_free(load->idle);
    kith_free(load->conns);
    close(load->epoll);
    kith_free(load);
    return 0;
}
