/* A node as its peers see it: every message over the wire, and what happens when things are
 * missing, late, malformed, or taken away meanwhile. */
#include "shard/rpc/node.h"

#include <ftw.h>
#include <pthread.h>
#include <sched.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <cmocka.h>

#include "common/kith_buf.h"
#include "common/kith_mem.h"
#include "common/kith_net.h"
#include "proto/kith_frame.h"
#include "proto/kith_msg.h"
#include "proto/kith_ops.h"

#define CLUSTER UINT64_C(0x6b697468)
#define DIM     4

/* ---- a node in a folder of its own ----------------------------------------------------------- */

struct fixture {
    char dir[64];
    struct node *node;
    struct kith_net_peer *peer;
    pthread_mutex_t lock;
    pthread_cond_t changed;
    bool ready;
};

static void on_ready(void *ctx)
{
    struct fixture *f = ctx;
    pthread_mutex_lock(&f->lock);
    f->ready = true;
    pthread_cond_broadcast(&f->changed);
    pthread_mutex_unlock(&f->lock);
}

static void wait_until_up(struct fixture *f);

static void start(struct fixture *f)
{
    struct node_options options = {.data_dir = f->dir,
                                   .listen_url = "tcp://127.0.0.1:0",
                                   .cluster = CLUSTER,
                                   .threads = 2,
                                   .on_ready = on_ready,
                                   .on_ready_ctx = f};
    struct kith_diag diag = {0};
    f->ready = false;
    enum kith_err err = node_open(&f->node, &options, &diag);
    if (err != KITH_OK)
        print_message("%s\n", diag.text);
    assert_int_equal(err, KITH_OK);
    assert_int_equal(kith_net_dial(&f->peer, node_url(f->node), NULL), KITH_OK);
    pthread_mutex_lock(&f->lock);
    while (!f->ready)
        pthread_cond_wait(&f->changed, &f->lock);
    pthread_mutex_unlock(&f->lock);
    assert_true(node_ready(f->node));
    wait_until_up(f);
}

static void stop(struct fixture *f)
{
    kith_net_peer_close(f->peer);
    node_close(f->node);
    f->peer = NULL;
    f->node = NULL;
}

static int remove_one(const char *path, const struct stat *st, int type, struct FTW *ftw)
{
    (void)st;
    (void)type;
    (void)ftw;
    return remove(path);
}

static int set_up(void **state)
{
    struct fixture *f = kith_xalloc(sizeof *f);
    snprintf(f->dir, sizeof f->dir, "%s/kith-node-XXXXXX",
             getenv("TMPDIR") != NULL && strlen(getenv("TMPDIR")) < 40 ? getenv("TMPDIR") : "/tmp");
    assert_non_null(mkdtemp(f->dir));
    pthread_mutex_init(&f->lock, NULL);
    pthread_cond_init(&f->changed, NULL);
    start(f);
    *state = f;
    return 0;
}

static int tear_down(void **state)
{
    struct fixture *f = *state;
    stop(f);
    nftw(f->dir, remove_one, 16, FTW_DEPTH | FTW_PHYS);
    kith_free(f);
    return 0;
}

/* ---- asking ---------------------------------------------------------------------------------- */

struct answer {
    pthread_mutex_t lock;
    pthread_cond_t changed;
    bool done;
    enum kith_err err;
    struct kith_net_msg *msg; /* freed by answer_fini */
    struct kith_frame frame;
    struct kith_bytes body;
};

static void on_answer(void *ctx, enum kith_err err, struct kith_net_msg *reply)
{
    struct answer *answer = ctx;
    pthread_mutex_lock(&answer->lock);
    answer->err = err;
    answer->msg = reply;
    answer->done = true;
    pthread_cond_signal(&answer->changed);
    pthread_mutex_unlock(&answer->lock);
}

static void answer_fini(struct answer *answer)
{
    kith_net_msg_free(answer->msg);
    answer->msg = NULL;
}

/* On a busy machine a connection takes longer than a request waits for one. */
static void wait_until_up(struct fixture *f)
{
    enum kith_err err = KITH_UNAVAILABLE;
    while (err == KITH_UNAVAILABLE) {
        struct answer answer = {.lock = PTHREAD_MUTEX_INITIALIZER,
                                .changed = PTHREAD_COND_INITIALIZER};
        struct kith_net_msg *msg = kith_net_msg_new(1); /* no frame: answered with an error */
        assert_non_null(msg);
        assert_int_equal(kith_net_ask(f->peer, msg, 30000, on_answer, &answer), KITH_OK);
        pthread_mutex_lock(&answer.lock);
        while (!answer.done)
            pthread_cond_wait(&answer.changed, &answer.lock);
        err = answer.err;
        pthread_mutex_unlock(&answer.lock);
        answer_fini(&answer);
    }
    assert_int_equal(err, KITH_OK);
}

/* Sends header + body, waits, and opens the reply's frame. */
static void exchange(struct fixture *f, uint16_t message, const struct kith_buf *body,
                     uint64_t cluster, uint32_t deadline_ms, struct answer *out)
{
    *out = (struct answer){.lock = PTHREAD_MUTEX_INITIALIZER, .changed = PTHREAD_COND_INITIALIZER};
    struct kith_net_msg *msg = kith_net_msg_new(KITH_FRAME_HEADER_BYTES + body->len);
    assert_non_null(msg);
    memset(kith_net_msg_data(msg), 0, KITH_FRAME_HEADER_BYTES);
    if (body->len > 0)
        memcpy(kith_net_msg_data(msg) + KITH_FRAME_HEADER_BYTES, body->data, body->len);
    struct kith_frame frame = {
        .cluster = cluster, .request = 77, .deadline_ms = deadline_ms, .message = message};
    kith_frame_seal(kith_net_msg_data(msg), kith_net_msg_len(msg), &frame);
    assert_int_equal(kith_net_ask(f->peer, msg, 30000, on_answer, out), KITH_OK);
    pthread_mutex_lock(&out->lock);
    while (!out->done)
        pthread_cond_wait(&out->changed, &out->lock);
    pthread_mutex_unlock(&out->lock);
    assert_int_equal(out->err, KITH_OK);
    assert_int_equal(kith_frame_open(kith_net_msg_data(out->msg), kith_net_msg_len(out->msg),
                                     CLUSTER, &out->frame, NULL),
                     KITH_OK);
    out->body = (struct kith_bytes){.data = kith_net_msg_data(out->msg) + KITH_FRAME_HEADER_BYTES,
                                    .len = out->frame.body_bytes};
}

static void ask(struct fixture *f, uint16_t message, struct kith_buf *body, struct answer *out)
{
    exchange(f, message, body, CLUSTER, 20000, out);
    kith_buf_reset(body);
    if (out->frame.message == KITH_MSG_ERROR) {
        struct kith_msg_error error;
        assert_true(kith_msg_read_error(out->body, &error));
        print_message("error: %s %.*s\n", kith_err_name(error.err), (int)error.text.len,
                      (const char *)error.text.data);
    }
    assert_int_equal(out->frame.message, message + 1);
    assert_int_equal(out->frame.request, 77);
}

static enum kith_err ask_error(struct fixture *f, uint16_t message, struct kith_buf *body,
                               uint64_t cluster, uint32_t deadline_ms)
{
    struct answer answer;
    struct kith_msg_error error;
    exchange(f, message, body, cluster, deadline_ms, &answer);
    assert_int_equal(answer.frame.message, KITH_MSG_ERROR);
    assert_true(kith_msg_read_error(answer.body, &error));
    assert_true(error.text.len > 0);
    answer_fini(&answer);
    return error.err;
}

static struct kith_writer writer(struct kith_buf *buf)
{
    return (struct kith_writer){.write = kith_buf_sink, .sink = buf};
}

static struct kith_msg_scope scope_of(uint64_t collection, uint32_t n_slices)
{
    struct kith_msg_scope scope = {.collection = collection, .n_slices = n_slices};
    for (uint32_t i = 0; i < n_slices; i++)
        scope.slices[i] = i;
    return scope;
}

static enum kith_err open_slices(struct fixture *f, uint64_t collection, uint32_t n, uint32_t dim)
{
    static struct kith_msg_slices slices;
    struct kith_msg_open msg = {
        .scope = scope_of(collection, n), .dim = dim, .metric = KITH_DOT, .rows = KITH_ROWS_F32};
    struct kith_buf body = {0};
    struct answer answer;
    struct kith_writer w = writer(&body);
    kith_msg_write_open(&w, &msg);
    ask(f, KITH_MSG_OPEN, &body, &answer);
    assert_true(kith_msg_read_slices_only(answer.body, &slices));
    assert_int_equal(slices.n_slices, n);
    enum kith_err err = slices.slices[n - 1].err;
    answer_fini(&answer);
    kith_buf_fini(&body);
    return err;
}

static enum kith_err drop_slices(struct fixture *f, uint64_t collection, uint32_t n)
{
    static struct kith_msg_slices slices;
    struct kith_msg_scope scope = scope_of(collection, n);
    struct kith_buf body = {0};
    struct answer answer;
    struct kith_writer w = writer(&body);
    kith_msg_write_scope_only(&w, &scope);
    ask(f, KITH_MSG_DROP, &body, &answer);
    assert_true(kith_msg_read_slices_only(answer.body, &slices));
    enum kith_err err = slices.slices[n - 1].err;
    answer_fini(&answer);
    kith_buf_fini(&body);
    return err;
}

/* Puts point `id` with vector (id, 0, 0, 0) and payload {"n": id, "parity": "even"|"odd"}. */
static enum kith_err put(struct fixture *f, uint64_t collection, uint32_t slice, uint64_t number)
{
    struct kith_buf ops = {0}, payload = {0}, body = {0};
    struct kith_writer w = writer(&payload);
    kith_write_map(&w, 2);
    kith_write_cstr(&w, "n");
    kith_write_u64(&w, number);
    kith_write_cstr(&w, "parity");
    kith_write_cstr(&w, number % 2 == 0 ? "even" : "odd");
    w = writer(&ops);
    kith_write_array(&w, 1);
    struct kith_id id = kith_id_number(number);
    float vector[DIM] = {(float)number};
    kith_op_write_put(&w, KITH_PUT_UPSERT, &id, vector, DIM,
                      (struct kith_bytes){.data = payload.data, .len = payload.len});
    struct kith_msg_write msg = {.scope = {.collection = collection, .n_slices = 1},
                                 .ops = {.data = ops.data, .len = ops.len}};
    msg.scope.slices[0] = slice;
    w = writer(&body);
    kith_msg_write_write(&w, &msg);
    struct answer answer;
    static struct kith_msg_written written;
    ask(f, KITH_MSG_WRITE, &body, &answer);
    assert_true(kith_msg_read_written(answer.body, &written));
    assert_int_equal(written.slices.n_slices, 1);
    enum kith_err err = written.slices.slices[0].err;
    assert_int_equal(written.affected, err == KITH_OK ? 1 : 0);
    assert_true(err != KITH_OK || written.slices.slices[0].seq > 0);
    answer_fini(&answer);
    kith_buf_fini(&ops);
    kith_buf_fini(&payload);
    kith_buf_fini(&body);
    return err;
}

/* {"must": [{"key": "parity", "match": {"value": "even"}}]} */
static void write_filter(struct kith_buf *buf)
{
    struct kith_writer w = writer(buf);
    kith_write_map(&w, 1);
    kith_write_cstr(&w, "must");
    kith_write_array(&w, 1);
    kith_write_map(&w, 2);
    kith_write_cstr(&w, "key");
    kith_write_cstr(&w, "parity");
    kith_write_cstr(&w, "match");
    kith_write_map(&w, 1);
    kith_write_cstr(&w, "value");
    kith_write_cstr(&w, "even");
}

static void write_search(struct kith_buf *body, const struct kith_msg_scope *scope, uint32_t dim,
                         uint32_t k, const struct kith_buf *filter)
{
    static const float query[16] = {1};
    struct kith_writer w = writer(body);
    struct kith_msg_search_part part = {
        .n_queries = 1, .vectors = {.data = (const uint8_t *)query, .len = dim * 4}, .k = k};
    if (filter != NULL)
        part.filter = (struct kith_bytes){.data = filter->data, .len = filter->len};
    kith_msg_write_search(&w, scope, dim, 1);
    kith_msg_write_search_part(&w, &part, dim);
}

/* ---- tests ----------------------------------------------------------------------------------- */

#define POINTS 20

static void fill(struct fixture *f, uint64_t collection)
{
    assert_int_equal(open_slices(f, collection, 2, DIM), KITH_OK);
    for (uint64_t i = 1; i <= POINTS; i++)
        assert_int_equal(put(f, collection, (uint32_t)(i % 2), i), KITH_OK);
}

static void check_search(struct fixture *f, uint64_t collection)
{
    static struct kith_msg_found found;
    struct kith_buf body = {0}, filter = {0};
    struct kith_msg_scope scope = scope_of(collection, 2);
    struct answer answer;
    write_filter(&filter);
    write_search(&body, &scope, DIM, 3, &filter);
    ask(f, KITH_MSG_SEARCH, &body, &answer);
    assert_true(kith_msg_read_found(answer.body, &found));
    assert_int_equal(found.slices.n_slices, 2);
    assert_int_equal(found.slices.slices[0].points + found.slices.slices[1].points, POINTS);
    uint64_t matched;
    uint32_t n_queries, n_hits;
    struct kith_bytes packed;
    assert_int_equal(found.n_parts, 1);
    assert_true(kith_msg_found_part(&found.parts, &matched, &n_queries));
    assert_int_equal(matched, POINTS / 2);
    assert_int_equal(n_queries, 1);
    assert_true(kith_msg_found_hits(&found.parts, &packed, &n_hits));
    assert_int_equal(n_hits, 3);
    for (uint32_t i = 0; i < 3; i++) {
        struct kith_hit hit;
        assert_true(kith_hit_unpack(packed.data + i * KITH_HIT_BYTES, &hit));
        assert_int_equal(hit.id.lo, POINTS - 2 * i); /* the largest even ones */
        assert_true(hit.rank == (float)(POINTS - 2 * i));
    }
    answer_fini(&answer);
    kith_buf_fini(&body);
    kith_buf_fini(&filter);
}

static void test_node_serves_every_message(void **state)
{
    struct fixture *f = *state;
    struct kith_buf body = {0}, filter = {0}, ids = {0};
    struct answer answer;
    struct kith_writer w = writer(&body);
    kith_write_array(&w, 0);
    ask(f, KITH_MSG_PING, &body, &answer);
    answer_fini(&answer);

    fill(f, 9);
    check_search(f, 9);
    write_filter(&filter);
    struct kith_msg_scope scope = scope_of(9, 2);

    static struct kith_msg_counted counted;
    struct kith_msg_count count = {.scope = scope,
                                   .filter = {.data = filter.data, .len = filter.len}};
    w = writer(&body);
    kith_msg_write_count(&w, &count);
    ask(f, KITH_MSG_COUNT, &body, &answer);
    assert_true(kith_msg_read_counted(answer.body, &counted));
    assert_int_equal(counted.count, POINTS / 2);
    answer_fini(&answer);

    w = writer(&ids);
    for (uint64_t i = 7; i <= 107; i += 100) { /* one that exists, one that does not */
        struct kith_id id = kith_id_number(i);
        kith_write_id(&w, &id);
    }
    static struct kith_msg_records records;
    struct kith_record record;
    struct kith_msg_fetch fetch = {.scope = scope,
                                   .with_payload = true,
                                   .with_vector = true,
                                   .n_ids = 2,
                                   .ids = {.data = ids.data, .len = ids.len}};
    w = writer(&body);
    kith_msg_write_fetch(&w, &fetch);
    ask(f, KITH_MSG_FETCH, &body, &answer);
    assert_true(kith_msg_read_records(answer.body, &records));
    assert_int_equal(records.n_records, 1);
    assert_true(kith_msg_records_next(&records.records, &record));
    assert_int_equal(record.id.lo, 7);
    float vector[DIM];
    assert_int_equal(record.vector.len, sizeof vector);
    memcpy(vector, record.vector.data, sizeof vector);
    assert_true(vector[0] == 7 && vector[3] == 0);
    assert_true(record.payload.len > 0);
    answer_fini(&answer);

    struct kith_msg_scroll scroll = {
        .scope = scope, .limit = 4, .has_from = true, .from = kith_id_number(5)};
    w = writer(&body);
    kith_msg_write_scroll(&w, &scroll);
    ask(f, KITH_MSG_SCROLL, &body, &answer);
    assert_true(kith_msg_read_records(answer.body, &records));
    assert_true(records.n_records >= 4);
    for (uint64_t i = 5; i < 9; i++) {
        assert_true(kith_msg_records_next(&records.records, &record));
        assert_int_equal(record.id.lo, i);
    }
    answer_fini(&answer);

    static struct kith_msg_facets facets;
    struct kith_msg_facet facet = {.scope = scope,
                                   .key = {.data = (const uint8_t *)"parity", .len = 6}};
    w = writer(&body);
    kith_msg_write_facet(&w, &facet);
    ask(f, KITH_MSG_FACET, &body, &answer);
    assert_true(kith_msg_read_facets(answer.body, &facets));
    assert_int_equal(facets.n_hits, 2);
    answer_fini(&answer);

    static struct kith_msg_infos infos;
    w = writer(&body);
    kith_msg_write_scope_only(&w, &scope);
    ask(f, KITH_MSG_INFO, &body, &answer);
    assert_true(kith_msg_read_infos(answer.body, &infos));
    assert_int_equal(infos.info[0].live_points + infos.info[1].live_points, POINTS);
    assert_int_equal(infos.n_fields, 2);
    answer_fini(&answer);

    struct node_counts counts;
    node_counts(f->node, &counts);
    assert_int_equal(counts.slices_open, 2);
    assert_int_equal(counts.points, POINTS);
    kith_buf_fini(&body);
    kith_buf_fini(&filter);
    kith_buf_fini(&ids);
}

static void test_node_keeps_its_slices(void **state)
{
    struct fixture *f = *state;
    fill(f, 0xabc);
    assert_int_equal(open_slices(f, 0xabc, 2, DIM), KITH_OK); /* again: nothing changes */
    assert_int_equal(open_slices(f, 0xabc, 2, DIM + 1), KITH_CONFLICT);
    check_search(f, 0xabc);
    stop(f);
    start(f);
    check_search(f, 0xabc);
    assert_int_equal(drop_slices(f, 0xabc, 2), KITH_OK);
    assert_int_equal(drop_slices(f, 0xabc, 2), KITH_OK);
    assert_int_equal(put(f, 0xabc, 0, 1), KITH_NOT_FOUND);
    stop(f);
    start(f);
    struct node_counts counts;
    node_counts(f->node, &counts);
    assert_int_equal(counts.slices, 0);
    assert_int_equal(open_slices(f, 0xabc, 2, DIM + 1), KITH_OK); /* the number is free again */
}

/* More slices than are closed one after the other. */
static void test_node_closes_many_slices(void **state)
{
    struct fixture *f = *state;
    enum { MANY = 40 };
    assert_int_equal(open_slices(f, 7, MANY, 4), KITH_OK);
    for (uint32_t i = 0; i < MANY; i++)
        assert_int_equal(put(f, 7, i, i), KITH_OK);
    stop(f);
    start(f);
    for (uint32_t i = 0; i < MANY; i++)
        assert_int_equal(put(f, 7, i, i + MANY), KITH_OK);
}

static void test_node_says_which_slices_are_missing(void **state)
{
    struct fixture *f = *state;
    static struct kith_msg_found found;
    struct kith_buf body = {0};
    struct answer answer;
    assert_int_equal(open_slices(f, 5, 1, DIM), KITH_OK);
    assert_int_equal(put(f, 5, 0, 3), KITH_OK);
    struct kith_msg_scope scope = scope_of(5, 3);
    write_search(&body, &scope, DIM, 10, NULL);
    ask(f, KITH_MSG_SEARCH, &body, &answer);
    assert_true(kith_msg_read_found(answer.body, &found));
    assert_int_equal(found.slices.n_slices, 3);
    assert_int_equal(found.slices.slices[0].err, KITH_OK);
    assert_int_equal(found.slices.slices[0].points, 1);
    for (uint32_t i = 1; i < 3; i++) {
        assert_int_equal(found.slices.slices[i].slice, i);
        assert_int_equal(found.slices.slices[i].err, KITH_NOT_FOUND);
        assert_true(found.slices.slices[i].detail.len > 0);
    }
    answer_fini(&answer);
    scope = scope_of(1234, 2); /* nothing of it here: an answer all the same */
    write_search(&body, &scope, DIM, 10, NULL);
    ask(f, KITH_MSG_SEARCH, &body, &answer);
    assert_true(kith_msg_read_found(answer.body, &found));
    assert_int_equal(found.slices.slices[1].err, KITH_NOT_FOUND);
    answer_fini(&answer);
    kith_buf_fini(&body);
}

static void test_node_refuses_what_it_cannot_answer(void **state)
{
    struct fixture *f = *state;
    struct kith_buf body = {0};
    struct kith_msg_scope scope = scope_of(5, 1);
    assert_int_equal(open_slices(f, 5, 1, DIM), KITH_OK);
    struct kith_writer w = writer(&body);
    kith_write_array(&w, 0);
    assert_int_equal(ask_error(f, KITH_MSG_PING, &body, CLUSTER + 1, 1000), KITH_PROTOCOL);
    assert_int_equal(ask_error(f, KITH_MSG_PONG, &body, CLUSTER, 1000), KITH_UNSUPPORTED);
    assert_int_equal(ask_error(f, 4000, &body, CLUSTER, 1000), KITH_UNSUPPORTED);
    for (uint16_t message = KITH_MSG_OPEN; message <= KITH_MSG_INFO; message += 2)
        assert_int_equal(ask_error(f, message, &body, CLUSTER, 1000), KITH_PROTOCOL);
    kith_buf_reset(&body);
    write_search(&body, &scope, DIM + 1, 1, NULL);
    assert_int_equal(ask_error(f, KITH_MSG_SEARCH, &body, CLUSTER, 1000), KITH_BAD_REQUEST);

    /* Bytes that are no frame at all are answered too, and harm nobody. */
    struct answer answer = {.lock = PTHREAD_MUTEX_INITIALIZER, .changed = PTHREAD_COND_INITIALIZER};
    struct kith_net_msg *msg = kith_net_msg_new(13);
    memset(kith_net_msg_data(msg), 0x5a, 13);
    assert_int_equal(kith_net_ask(f->peer, msg, 20000, on_answer, &answer), KITH_OK);
    pthread_mutex_lock(&answer.lock);
    while (!answer.done)
        pthread_cond_wait(&answer.changed, &answer.lock);
    pthread_mutex_unlock(&answer.lock);
    assert_int_equal(answer.err, KITH_OK);
    answer_fini(&answer);
    kith_buf_fini(&body);
}

/* Searches run while the slices they look at are dropped and made again. */
struct hammer {
    struct fixture *f;
    atomic_bool stop;
    atomic_uint answered;
};

static void *search_on(void *arg)
{
    struct hammer *hammer = arg;
    struct kith_buf body = {0};
    struct kith_msg_scope scope = scope_of(77, 2);
    struct kith_msg_found *found = kith_xalloc(sizeof *found);
    write_search(&body, &scope, DIM, 5, NULL);
    while (!atomic_load(&hammer->stop)) {
        struct answer answer;
        exchange(hammer->f, KITH_MSG_SEARCH, &body, CLUSTER, 20000, &answer);
        kith_assert(answer.frame.message == KITH_MSG_FOUND);
        kith_assert(kith_msg_read_found(answer.body, found));
        for (uint32_t i = 0; i < 2; i++)
            kith_assert(found->slices.slices[i].err == KITH_OK ||
                        found->slices.slices[i].err == KITH_NOT_FOUND ||
                        found->slices.slices[i].err == KITH_UNAVAILABLE); /* being opened */
        answer_fini(&answer);
        atomic_fetch_add(&hammer->answered, 1);
    }
    kith_buf_fini(&body);
    kith_free(found);
    return NULL;
}

static void test_node_drops_slices_under_searches(void **state)
{
    struct fixture *f = *state;
    struct hammer hammer = {.f = f};
    pthread_t threads[2];
    for (int i = 0; i < 2; i++)
        assert_int_equal(pthread_create(&threads[i], NULL, search_on, &hammer), 0);
    for (int round = 0; round < 8; round++) {
        assert_int_equal(open_slices(f, 77, 2, DIM), KITH_OK);
        for (uint64_t i = 0; i < 4; i++)
            assert_int_equal(put(f, 77, (uint32_t)(i % 2), i), KITH_OK);
        unsigned before = atomic_load(&hammer.answered);
        while (atomic_load(&hammer.answered) < before + 4)
            sched_yield();
        assert_int_equal(drop_slices(f, 77, 2), KITH_OK);
    }
    atomic_store(&hammer.stop, true);
    for (int i = 0; i < 2; i++)
        pthread_join(threads[i], NULL);
}

static void test_node_open_refuses_a_folder_in_use(void **state)
{
    struct fixture *f = *state;
    struct node *second = NULL;
    struct kith_diag diag = {0};
    struct node_options options = {.data_dir = f->dir, .listen_url = "tcp://127.0.0.1:0"};
    assert_int_not_equal(node_open(&second, &options, &diag), KITH_OK);
    assert_true(diag.text[0] != '\0');
    assert_null(second);
    node_close(NULL);
}

static void test_node_open_survives_each_oom(void **state)
{
    struct fixture *f = *state;
    stop(f);
    long live = kith_mem_live();
    struct node *node = NULL;
    struct node_options options = {
        .data_dir = f->dir, .listen_url = "inproc://node-oom", .cluster = CLUSTER, .threads = 1};
    for (long n = 0; node == NULL && n < 1000; n++) {
        kith_mem_fail_after(n);
        enum kith_err err = node_open(&node, &options, NULL);
        kith_mem_fail_after(-1);
        assert_true(err == KITH_OK || err == KITH_NOMEM);
        assert_true(err == KITH_OK || kith_mem_live() == live);
    }
    assert_non_null(node);
    node_close(node);
    assert_int_equal(kith_mem_live(), live);
    start(f);
}

#define NODE_TEST(name_) cmocka_unit_test_setup_teardown(name_, set_up, tear_down)

int main(void)
{
    const struct CMUnitTest tests[] = {
        NODE_TEST(test_node_serves_every_message),
        NODE_TEST(test_node_keeps_its_slices),
        NODE_TEST(test_node_closes_many_slices),
        NODE_TEST(test_node_says_which_slices_are_missing),
        NODE_TEST(test_node_refuses_what_it_cannot_answer),
        NODE_TEST(test_node_drops_slices_under_searches),
        NODE_TEST(test_node_open_refuses_a_folder_in_use),
        NODE_TEST(test_node_open_survives_each_oom),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
