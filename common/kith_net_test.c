#include "common/kith_net.h"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <pthread.h>
#include <sched.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <unistd.h>
#include <cmocka.h>

#include "common/kith_clock.h"
#include "common/kith_mem.h"
#include "proto/kith_limits.h"

/* ---- helpers --------------------------------------------------------------------------------- */

/* Counts callbacks by result; wait_for blocks until `n` came in all. */
struct answers {
    pthread_mutex_t lock;
    pthread_cond_t changed;
    unsigned total, by_err[64];
    unsigned wrong; /* replies that do not match their request */
};
#define ANSWERS_INIT                                                                               \
    {                                                                                              \
        .lock = PTHREAD_MUTEX_INITIALIZER, .changed = PTHREAD_COND_INITIALIZER                     \
    }

struct question {
    struct answers *answers;
    unsigned number;
    size_t bytes;
    unsigned called;
};

static void on_answer(void *ctx, enum kith_err err, struct kith_net_msg *reply)
{
    struct question *q = ctx;
    bool wrong = false;
    if (err == KITH_OK) {
        unsigned number;
        wrong = kith_net_msg_len(reply) != q->bytes;
        if (!wrong) {
            memcpy(&number, kith_net_msg_data(reply), sizeof number);
            wrong = number != ~q->number;
        }
        kith_net_msg_free(reply);
    } else {
        wrong = reply != NULL;
    }
    pthread_mutex_lock(&q->answers->lock);
    q->answers->wrong += wrong || q->called++ > 0;
    q->answers->by_err[err]++;
    q->answers->total++;
    pthread_cond_broadcast(&q->answers->changed);
    pthread_mutex_unlock(&q->answers->lock);
}

static void wait_for(struct answers *answers, unsigned n)
{
    pthread_mutex_lock(&answers->lock);
    while (answers->total < n)
        pthread_cond_wait(&answers->changed, &answers->lock);
    pthread_mutex_unlock(&answers->lock);
}

static void ask(struct kith_net_peer *peer, struct question *q, struct answers *answers,
                unsigned number, size_t bytes, uint32_t timeout_ms)
{
    *q = (struct question){.answers = answers, .number = number, .bytes = bytes};
    struct kith_net_msg *msg = kith_net_msg_new(bytes);
    assert_non_null(msg);
    memcpy(kith_net_msg_data(msg), &number, sizeof number);
    assert_int_equal(kith_net_ask(peer, msg, timeout_ms, on_answer, q), KITH_OK);
}

/* Dials and waits until the connection is up: a busy machine may need longer than a request waits.
 */
static struct kith_net_peer *dial(const char *url)
{
    struct kith_net_peer *peer = NULL;
    assert_int_equal(kith_net_dial(&peer, url, NULL), KITH_OK);
    while (!kith_net_peer_up(peer))
        sched_yield();
    return peer;
}

/* Answers at once, with the number inverted. */
static void serve_invert(void *ctx, struct kith_net_call *call, struct kith_net_msg *request)
{
    (void)ctx;
    struct kith_net_msg *reply = kith_net_msg_new(0);
    unsigned number;
    memcpy(&number, kith_net_msg_data(request), sizeof number);
    number = ~number;
    kith_assert(kith_net_msg_sink(reply, (const char *)&number, sizeof number) == 0);
    kith_assert(kith_net_msg_sink(reply, (const char *)kith_net_msg_data(request) + sizeof number,
                                  kith_net_msg_len(request) - sizeof number) == 0);
    kith_net_reply(call, reply);
}

/* Keeps calls until the test answers them. */
struct keeper {
    pthread_mutex_t lock;
    pthread_cond_t changed;
    struct kith_net_call *calls[KITH_NET_CONTEXTS];
    struct kith_net_msg *requests[KITH_NET_CONTEXTS];
    unsigned n;
};

static void serve_keep(void *ctx, struct kith_net_call *call, struct kith_net_msg *request)
{
    struct keeper *keeper = ctx;
    pthread_mutex_lock(&keeper->lock);
    kith_assert(keeper->n < KITH_NET_CONTEXTS);
    keeper->requests[keeper->n] = request;
    keeper->calls[keeper->n++] = call;
    pthread_cond_broadcast(&keeper->changed);
    pthread_mutex_unlock(&keeper->lock);
}

static void keeper_wait(struct keeper *keeper, unsigned n)
{
    pthread_mutex_lock(&keeper->lock);
    while (keeper->n < n)
        pthread_cond_wait(&keeper->changed, &keeper->lock);
    pthread_mutex_unlock(&keeper->lock);
}

static const char *const urls[] = {"tcp://127.0.0.1:0", "inproc://kith-net-test"};

/* Bare TCP sockets, to see and send what no honest peer would. */

static void read_all(int fd, void *to, size_t n)
{
    uint8_t *at = to;
    while (n > 0) {
        ssize_t got = read(fd, at, n);
        assert_true(got > 0);
        at += got;
        n -= (size_t)got;
    }
}

static int raw_listen(char url[64])
{
    int fd = socket(AF_INET, SOCK_STREAM, 0);
    struct sockaddr_in at = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t len = sizeof at;
    assert_int_equal(bind(fd, (struct sockaddr *)&at, sizeof at), 0);
    assert_int_equal(listen(fd, 8), 0);
    assert_int_equal(getsockname(fd, (struct sockaddr *)&at, &len), 0);
    snprintf(url, 64, "tcp://127.0.0.1:%u", ntohs(at.sin_port));
    return fd;
}

static int raw_accept(int listener)
{
    int fd = accept(listener, NULL, NULL);
    assert_true(fd >= 0);
    return fd;
}

/* Reads one request; its body's first 4 bytes are the number. */
static unsigned raw_request(int fd)
{
    uint8_t head[16];
    read_all(fd, head, sizeof head);
    uint32_t bytes;
    memcpy(&bytes, head, sizeof bytes);
    uint8_t body[256];
    assert_true(bytes >= 4 && bytes <= sizeof body);
    read_all(fd, body, bytes);
    unsigned number;
    memcpy(&number, body, sizeof number);
    return number;
}

/* ---- tests ----------------------------------------------------------------------------------- */

#define MANY 2000

static void test_net_answers_many_at_once(void **state)
{
    (void)state;
    static struct question questions[MANY];
    for (size_t u = 0; u < 2; u++) {
        struct kith_net_server *server = NULL;
        struct kith_net_peer *peer = NULL;
        struct answers answers = ANSWERS_INIT;
        assert_int_equal(kith_net_listen(&server, urls[u], serve_invert, NULL, NULL), KITH_OK);
        peer = dial(kith_net_server_url(server));
        for (unsigned i = 0; i < MANY; i++)
            ask(peer, &questions[i], &answers, i, 8 + i % 3000, 30000);
        wait_for(&answers, MANY);
        assert_int_equal(answers.by_err[KITH_OK], MANY);
        assert_int_equal(answers.wrong, 0);
        assert_true(kith_net_peer_up(peer));
        kith_net_peer_close(peer);
        kith_net_server_close(server);
    }
}

static void test_net_carries_big_messages(void **state)
{
    (void)state;
    for (size_t u = 0; u < 2; u++) {
        struct kith_net_server *server = NULL;
        struct kith_net_peer *peer = NULL;
        struct answers answers = ANSWERS_INIT;
        struct question q;
        assert_int_equal(kith_net_listen(&server, urls[u], serve_invert, NULL, NULL), KITH_OK);
        peer = dial(kith_net_server_url(server));
        ask(peer, &q, &answers, 7, KITH_FRAME_BODY_MAX, 60000);
        wait_for(&answers, 1);
        assert_int_equal(answers.by_err[KITH_OK], 1);
        assert_int_equal(answers.wrong, 0);
        kith_net_peer_close(peer);
        kith_net_server_close(server);
    }
}

static void test_net_sink_is_bounded(void **state)
{
    (void)state;
    struct kith_net_msg *msg = kith_net_msg_new(0);
    size_t piece = 1u << 20;
    char *zeros = kith_xalloc(piece);
    size_t taken = 0;
    while (kith_net_msg_sink(msg, zeros, piece) == 0)
        taken += piece;
    assert_int_equal(taken, KITH_FRAME_BODY_MAX);
    assert_int_equal(kith_net_msg_len(msg), taken);
    kith_net_msg_free(msg);
    kith_free(zeros);
}

static void test_net_without_a_peer_is_unavailable(void **state)
{
    (void)state;
    char url[64];
    close(raw_listen(url)); /* a port where nobody listens */
    struct kith_net_peer *peer = NULL;
    struct answers answers = ANSWERS_INIT;
    struct question q[2];
    assert_int_equal(kith_net_dial(&peer, url, NULL), KITH_OK);
    uint64_t start = kith_now_ms();
    ask(peer, &q[0], &answers, 1, 8, 30000);
    wait_for(&answers, 1);
    assert_int_equal(answers.by_err[KITH_UNAVAILABLE], 1);
    assert_true(kith_now_ms() - start >= KITH_RPC_CONNECT_GRACE_MS - 1);
    ask(peer, &q[1], &answers, 1, 8, 5);
    wait_for(&answers, 2);
    assert_int_equal(answers.by_err[KITH_TIMEOUT], 1);
    kith_net_peer_close(peer);
    assert_int_equal(kith_net_dial(&peer, "nonsense", NULL), KITH_BAD_REQUEST);
}

static void test_net_waits_for_a_peer_to_come_up(void **state)
{
    (void)state;
    struct kith_net_peer *peer = NULL;
    struct kith_net_server *server = NULL;
    struct answers answers = ANSWERS_INIT;
    struct question q;
    assert_int_equal(kith_net_dial(&peer, urls[1], NULL), KITH_OK);
    assert_false(kith_net_peer_up(peer));
    assert_int_equal(kith_net_listen(&server, urls[1], serve_invert, NULL, NULL), KITH_OK);
    do { /* the first may meet a dialer that backs off longer than the grace */
        unsigned before = answers.total;
        ask(peer, &q, &answers, 9, 8, 30000);
        wait_for(&answers, before + 1);
    } while (answers.by_err[KITH_OK] == 0 && answers.total < 20);
    assert_int_equal(answers.by_err[KITH_OK], 1);
    kith_net_peer_close(peer);
    kith_net_server_close(server);
}

/* The connection dies with requests unanswered: each ends at once, and none is sent again. */
static void test_net_sends_at_most_once(void **state)
{
    (void)state;
    char url[64];
    int listener = raw_listen(url);
    struct kith_net_peer *peer = NULL;
    assert_int_equal(kith_net_dial(&peer, url, NULL), KITH_OK);
    struct answers answers = ANSWERS_INIT;
    struct question q[50];
    unsigned asked = 0;
    uint8_t seen[50] = {0};
    for (int round = 0; round < 5; round++) {
        int fd = raw_accept(listener);
        /* Which of these wait for the connection and which find it up does not matter. */
        for (int i = 0; i < 10; i++, asked++)
            ask(peer, &q[asked], &answers, asked, 8, 30000);
        for (int i = 0; i < 10; i++) {
            unsigned number = raw_request(fd);
            assert_true(number < asked && number + 10 >= asked); /* not of an earlier round */
            assert_int_equal(seen[number]++, 0);
        }
        uint64_t start = kith_now_ms();
        close(fd);
        wait_for(&answers, asked);
        assert_true(kith_now_ms() - start < 5000); /* not the 30 s of the requests */
    }
    assert_int_equal(answers.by_err[KITH_UNAVAILABLE], 50);
    assert_int_equal(answers.wrong, 0);
    int fd = raw_accept(listener);
    struct timeval wait = {.tv_usec = 100000};
    setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &wait, sizeof wait);
    char byte;
    assert_int_equal(read(fd, &byte, 1), -1); /* silence */
    close(fd);
    kith_net_peer_close(peer);
    close(listener);
}

static void test_net_times_out_and_forgets_late_replies(void **state)
{
    (void)state;
    for (size_t u = 0; u < 2; u++) {
        struct keeper keeper = {.lock = PTHREAD_MUTEX_INITIALIZER,
                                .changed = PTHREAD_COND_INITIALIZER};
        struct kith_net_server *server = NULL;
        struct kith_net_peer *peer = NULL;
        struct answers answers = ANSWERS_INIT;
        struct question q[3];
        assert_int_equal(kith_net_listen(&server, urls[u], serve_keep, &keeper, NULL), KITH_OK);
        peer = dial(kith_net_server_url(server));
        ask(peer, &q[0], &answers, 0, 8, 400);
        keeper_wait(&keeper, 1);
        wait_for(&answers, 1);
        assert_int_equal(answers.by_err[KITH_TIMEOUT], 1);
        serve_invert(NULL, keeper.calls[0], keeper.requests[0]); /* nobody waits any more */
        ask(peer, &q[1], &answers, 1, 8, 30000);
        keeper_wait(&keeper, 2);
        serve_invert(NULL, keeper.calls[1], keeper.requests[1]);
        wait_for(&answers, 2);
        assert_int_equal(answers.by_err[KITH_OK], 1);
        ask(peer, &q[2], &answers, 2, 8, 300);
        keeper_wait(&keeper, 3);
        kith_net_reply(keeper.calls[2], NULL); /* dropped: the asker's own deadline ends it */
        wait_for(&answers, 3);
        assert_int_equal(answers.by_err[KITH_TIMEOUT], 2);
        assert_int_equal(answers.wrong, 0);
        kith_net_peer_close(peer);
        kith_net_server_close(server);
    }
}

struct late {
    struct keeper *keeper;
    unsigned n;
};
static void *answer_all(void *arg)
{
    struct late *late = arg;
    for (unsigned i = 0; i < late->n; i++)
        serve_invert(NULL, late->keeper->calls[i], late->keeper->requests[i]);
    return NULL;
}

/* Answers what is kept once so many others were refused. */
struct refused {
    struct answers *answers;
    unsigned n;
    struct late *late;
};
static void *answer_when_refused(void *arg)
{
    struct refused *refused = arg;
    wait_for(refused->answers, refused->n);
    return answer_all(refused->late);
}

/* Both sides closed with everything in flight; one callback per request, whatever it says. */
static void test_net_closes_while_busy(void **state)
{
    (void)state;
    enum { IN_HAND = 100 };
    static struct question q[IN_HAND];
    for (int round = 0; round < 6; round++) {
        struct keeper keeper = {.lock = PTHREAD_MUTEX_INITIALIZER,
                                .changed = PTHREAD_COND_INITIALIZER};
        struct kith_net_server *server = NULL;
        struct kith_net_peer *peer = NULL;
        struct answers answers = ANSWERS_INIT;
        assert_int_equal(kith_net_listen(&server, urls[round % 2], serve_keep, &keeper, NULL),
                         KITH_OK);
        peer = dial(kith_net_server_url(server));
        for (unsigned i = 0; i < IN_HAND; i++)
            ask(peer, &q[i], &answers, i, 8, 30000);
        keeper_wait(&keeper, IN_HAND);
        struct late late = {.keeper = &keeper, .n = IN_HAND};
        pthread_t thread;
        if (round < 4)
            assert_int_equal(pthread_create(&thread, NULL, answer_all, &late), 0);
        kith_net_peer_close(peer); /* racing with the replies in most rounds */
        assert_int_equal(answers.total, IN_HAND);
        assert_int_equal(answers.by_err[KITH_OK] + answers.by_err[KITH_CANCELLED], IN_HAND);
        assert_int_equal(answers.wrong, 0);
        if (round >= 4)
            assert_int_equal(pthread_create(&thread, NULL, answer_all, &late), 0);
        kith_net_server_close(server); /* waits for the replies */
        pthread_join(thread, NULL);
    }
}

/* More requests than a server takes in hand: the rest waits on its side of the wire, and comes. */
static void test_net_bounds_what_is_in_hand(void **state)
{
    (void)state;
    enum { ASKED = KITH_NET_CONTEXTS + 144 };
    static struct question q[ASKED];
    for (size_t u = 0; u < 2; u++) {
        struct keeper keeper = {.lock = PTHREAD_MUTEX_INITIALIZER,
                                .changed = PTHREAD_COND_INITIALIZER};
        struct kith_net_server *server = NULL;
        struct kith_net_peer *peer = NULL;
        struct answers answers = ANSWERS_INIT;
        assert_int_equal(kith_net_listen(&server, urls[u], serve_keep, &keeper, NULL), KITH_OK);
        peer = dial(kith_net_server_url(server));
        for (unsigned i = 0; i < ASKED; i++)
            ask(peer, &q[i], &answers, i, 8, 30000);
        unsigned answered = 0;
        while (answered < ASKED) {
            unsigned left = ASKED - answered;
            unsigned n = left < KITH_NET_CONTEXTS ? left : KITH_NET_CONTEXTS;
            keeper_wait(&keeper, n); /* serve_keep asserts that no more come */
            struct keeper taken;
            pthread_mutex_lock(&keeper.lock);
            memcpy(&taken, &keeper, sizeof taken);
            keeper.n = 0;
            pthread_mutex_unlock(&keeper.lock);
            for (unsigned i = 0; i < n; i++)
                serve_invert(NULL, taken.calls[i], taken.requests[i]);
            answered += n;
        }
        wait_for(&answers, ASKED);
        assert_int_equal(answers.by_err[KITH_OK], ASKED);
        assert_int_equal(answers.wrong, 0);
        kith_net_peer_close(peer);
        kith_net_server_close(server);
    }
}

/* Askers on several threads, requests that are served by the asker and such as are handed over,
 * and a server that answers both at once and later. */
struct asker {
    struct kith_net_peer *peer;
    struct question *questions;
    struct answers *answers;
    unsigned first, n;
};
static void *ask_all(void *arg)
{
    struct asker *asker = arg;
    for (unsigned i = asker->first; i < asker->first + asker->n; i++)
        ask(asker->peer, &asker->questions[i], asker->answers, i, i % 7 == 0 ? 100000 : 64, 30000);
    return NULL;
}

struct kept {
    struct kith_net_call *call;
    struct kith_net_msg *request;
};
static void *answer_kept(void *arg)
{
    struct kept kept = *(struct kept *)arg;
    kith_free(arg); /* before the test can end and count what is live */
    serve_invert(NULL, kept.call, kept.request);
    return NULL;
}
static void serve_some_later(void *ctx, struct kith_net_call *call, struct kith_net_msg *request)
{
    (void)ctx;
    unsigned number;
    memcpy(&number, kith_net_msg_data(request), sizeof number);
    if (number % 16 != 0) {
        serve_invert(NULL, call, request);
        return;
    }
    struct kept *kept = kith_xalloc(sizeof *kept);
    kept->call = call;
    kept->request = request;
    pthread_t thread;
    kith_assert(pthread_create(&thread, NULL, answer_kept, kept) == 0);
    kith_assert(pthread_detach(thread) == 0);
}

static void test_net_inproc_mixes_sizes(void **state)
{
    (void)state;
    enum { ASKERS = 3, EACH = 500 };
    static struct question questions[ASKERS * EACH];
    struct kith_net_server *server = NULL;
    struct answers answers = ANSWERS_INIT;
    assert_int_equal(kith_net_listen(&server, urls[1], serve_some_later, NULL, NULL), KITH_OK);
    struct kith_net_peer *peer = dial(urls[1]);
    struct asker askers[ASKERS];
    pthread_t threads[ASKERS];
    for (unsigned i = 0; i < ASKERS; i++) {
        askers[i] = (struct asker){peer, questions, &answers, i * EACH, EACH};
        assert_int_equal(pthread_create(&threads[i], NULL, ask_all, &askers[i]), 0);
    }
    for (unsigned i = 0; i < ASKERS; i++)
        pthread_join(threads[i], NULL);
    wait_for(&answers, ASKERS * EACH);
    assert_int_equal(answers.by_err[KITH_OK], ASKERS * EACH);
    assert_int_equal(answers.wrong, 0);
    kith_net_peer_close(peer);
    kith_net_server_close(server);
}

static long resident_kib(void)
{
    long pages = 0, resident = 0;
    FILE *f = fopen("/proc/self/statm", "r");
    assert_non_null(f);
    assert_int_equal(fscanf(f, "%ld %ld", &pages, &resident), 2);
    fclose(f);
    return resident * (sysconf(_SC_PAGESIZE) / 1024);
}

/* 16 bytes that promise gigabytes: the connection is closed and no memory is taken. */
static void test_net_refuses_length_bombs(void **state)
{
    (void)state;
    struct kith_net_server *server = NULL;
    assert_int_equal(kith_net_listen(&server, urls[0], serve_invert, NULL, NULL), KITH_OK);
    unsigned port;
    assert_int_equal(sscanf(kith_net_server_url(server), "tcp://127.0.0.1:%u", &port), 1);
    struct sockaddr_in to = {.sin_family = AF_INET,
                             .sin_port = htons((uint16_t)port),
                             .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    long before = resident_kib();
    static const uint8_t bombs[][16] = {
        {0xff, 0xff, 0xff, 0xff}, /* the largest there is */
        {0x29, 0, 0, 4},          /* one byte above the limit */
        {8, 0, 0, 0, 1, 0, 0, 0}, /* what must be zero is not */
    };
    for (int round = 0; round < 60; round++) {
        int fd = socket(AF_INET, SOCK_STREAM, 0);
        assert_int_equal(connect(fd, (struct sockaddr *)&to, sizeof to), 0);
        assert_int_equal(write(fd, bombs[round % 3], 16), 16);
        char byte;
        assert_true(read(fd, &byte, 1) <= 0);
        close(fd);
    }
    assert_true(resident_kib() - before < 16 * 1024);

    /* And the other way: a reply that lies ends the request. */
    char url[64];
    int listener = raw_listen(url);
    struct kith_net_peer *peer = NULL;
    struct answers answers = ANSWERS_INIT;
    struct question q;
    assert_int_equal(kith_net_dial(&peer, url, NULL), KITH_OK);
    int fd = raw_accept(listener);
    ask(peer, &q, &answers, 3, 8, 30000);
    assert_int_equal(raw_request(fd), 3);
    assert_int_equal(write(fd, bombs[0], 16), 16);
    wait_for(&answers, 1);
    assert_int_equal(answers.by_err[KITH_UNAVAILABLE], 1);
    kith_net_peer_close(peer);
    close(fd);
    close(listener);
    kith_net_server_close(server);
}

static void test_net_refuses_a_taken_address(void **state)
{
    (void)state;
    for (size_t u = 0; u < 2; u++) {
        struct kith_net_server *server = NULL, *second = NULL;
        assert_int_equal(kith_net_listen(&server, urls[u], serve_invert, NULL, NULL), KITH_OK);
        struct kith_diag diag = {0};
        assert_int_equal(
            kith_net_listen(&second, kith_net_server_url(server), serve_invert, NULL, &diag),
            KITH_UNAVAILABLE);
        assert_non_null(strstr(diag.text, kith_net_server_url(server)));
        assert_null(second);
        kith_net_server_close(server);
    }
    kith_net_server_close(NULL);
    kith_net_peer_close(NULL);
}

/* What a server that goes has not taken in hand ends at once, the rest with its reply. */
static void test_net_inproc_server_goes(void **state)
{
    (void)state;
    enum { ASKED = KITH_NET_CONTEXTS + 50 };
    static struct question q[ASKED + 2];
    struct keeper keeper = {.lock = PTHREAD_MUTEX_INITIALIZER, .changed = PTHREAD_COND_INITIALIZER};
    struct kith_net_server *server = NULL;
    struct answers answers = ANSWERS_INIT;
    assert_int_equal(kith_net_listen(&server, urls[1], serve_keep, &keeper, NULL), KITH_OK);
    struct kith_net_peer *peer = dial(urls[1]);
    for (unsigned i = 0; i < ASKED; i++)
        ask(peer, &q[i], &answers, i, 8, 30000);
    keeper_wait(&keeper, KITH_NET_CONTEXTS);
    struct late late = {.keeper = &keeper, .n = KITH_NET_CONTEXTS};
    pthread_t thread;
    assert_int_equal(
        pthread_create(
            &thread, NULL, answer_when_refused,
            &(struct refused){.answers = &answers, .n = ASKED - KITH_NET_CONTEXTS, .late = &late}),
        0);
    kith_net_server_close(server);
    pthread_join(thread, NULL);
    assert_int_equal(answers.by_err[KITH_OK], KITH_NET_CONTEXTS);
    assert_int_equal(answers.by_err[KITH_UNAVAILABLE], ASKED - KITH_NET_CONTEXTS);
    assert_int_equal(answers.wrong, 0);

    /* Nobody listens: a request waits for somebody who does, and no longer than the grace. */
    assert_false(kith_net_peer_up(peer));
    ask(peer, &q[ASKED], &answers, 1, 8, 30000);
    wait_for(&answers, ASKED + 1);
    assert_int_equal(answers.by_err[KITH_UNAVAILABLE], ASKED - KITH_NET_CONTEXTS + 1);
    assert_int_equal(kith_net_listen(&server, urls[1], serve_invert, NULL, NULL), KITH_OK);
    ask(peer, &q[ASKED + 1], &answers, 2, 8, 30000);
    wait_for(&answers, ASKED + 2);
    assert_int_equal(answers.by_err[KITH_OK], KITH_NET_CONTEXTS + 1);
    kith_net_peer_close(peer);
    kith_net_server_close(server);
}

static void test_net_survives_each_oom(void **state)
{
    (void)state;
    long live = kith_mem_live();
    struct kith_net_server *server = NULL;
    struct kith_net_peer *peer = NULL;
    kith_mem_fail_after(0);
    assert_int_equal(kith_net_listen(&server, urls[0], serve_invert, NULL, NULL), KITH_NOMEM);
    assert_int_equal(kith_net_listen(&server, urls[1], serve_invert, NULL, NULL), KITH_NOMEM);
    assert_int_equal(kith_net_dial(&peer, urls[1], NULL), KITH_NOMEM);
    kith_mem_fail_after(-1);
    assert_int_equal(kith_net_dial(&peer, urls[1], NULL), KITH_OK);
    struct kith_net_msg *msg = kith_net_msg_new(8);
    struct question q = {0};
    kith_mem_fail_after(0);
    assert_int_equal(kith_net_ask(peer, msg, 10, on_answer, &q), KITH_NOMEM);
    kith_mem_fail_after(-1);
    kith_net_msg_free(msg); /* still ours */
    kith_net_peer_close(peer);
    assert_int_equal(kith_mem_live(), live);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_net_answers_many_at_once),
        cmocka_unit_test(test_net_carries_big_messages),
        cmocka_unit_test(test_net_sink_is_bounded),
        cmocka_unit_test(test_net_without_a_peer_is_unavailable),
        cmocka_unit_test(test_net_waits_for_a_peer_to_come_up),
        cmocka_unit_test(test_net_sends_at_most_once),
        cmocka_unit_test(test_net_times_out_and_forgets_late_replies),
        cmocka_unit_test(test_net_bounds_what_is_in_hand),
        cmocka_unit_test(test_net_refuses_length_bombs),
        cmocka_unit_test(test_net_refuses_a_taken_address),
        cmocka_unit_test(test_net_inproc_server_goes),
        cmocka_unit_test(test_net_inproc_mixes_sizes),
        cmocka_unit_test(test_net_survives_each_oom),
        cmocka_unit_test(test_net_closes_while_busy),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
