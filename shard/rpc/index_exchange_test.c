/* What comes from another node is checked: a node that lies, changes its mind or gives up harms
 * nobody, and neither does a lack of memory. */
#include "shard/rpc/index_exchange.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include "common/kith_mem.h"
#include "common/kith_request.h"

#define CLUSTER 9u
#define NODE    2u
#define DIM     4u
#define ROWS    400u
#define URL     "inproc://exchange-test"
#define PIECE   300u /* so that a small codebook comes in several */

enum lie {
    HONEST,
    SILENT,
    MALFORMED,
    OTHER_MESSAGE,
    OTHER_SLICES,
    OTHER_BYTES,
    NO_BYTES,
    TOO_MANY_BYTES,
    ANOTHER_CODEBOOK,
    ERROR_REPLY,
    LIES,
};

static struct rig {
    struct codebook *codebook, *other;
    struct kith_net_server *server;
    struct node_peers *peers;
    struct index_exchange exchange;
    struct node_share *shares;
    uint32_t n_shares;
    enum lie lie;
    uint32_t from; /* the first answer that is a lie */
    uint32_t answers;
    bool stop;
} rig;

static const struct slice_config config = {
    .collection = 3, .dim = DIM, .metric = KITH_EUCLID, .rows = KITH_ROWS_F32};

/* ---- a node that answers as it likes --------------------------------------------------------- */

static void answer_codebook(struct kith_writer *w, struct kith_bytes body, enum lie lie)
{
    static struct kith_msg_codebook asked;
    static struct kith_msg_codebooked msg;
    static uint8_t zeros[ROWS * DIM * 4];
    assert_true(kith_msg_read_codebook(body, &asked));
    const struct codebook *codebook = lie == ANOTHER_CODEBOOK ? rig.other : rig.codebook;
    struct kith_bytes all = codebook_bytes(codebook);
    msg = (struct kith_msg_codebooked){.generation = rig.codebook->generation,
                                       .hash = rig.codebook->hash,
                                       .bytes = codebook_bytes(rig.codebook).len};
    msg.slices.n_slices = asked.scope.n_slices;
    for (uint32_t i = 0; i < asked.scope.n_slices; i++)
        msg.slices.slices[i].slice = asked.scope.slices[i] + (lie == OTHER_SLICES);
    if (asked.hash != 0 && lie != NO_BYTES) {
        size_t left = all.len - asked.offset;
        msg.piece = (struct kith_bytes){all.data + asked.offset, left < PIECE ? left : PIECE};
        if (lie == OTHER_BYTES)
            msg.piece.data = zeros;
        if (lie == TOO_MANY_BYTES)
            msg.piece = (struct kith_bytes){zeros, all.len + 1};
    }
    kith_msg_write_codebooked(w, &msg);
}

static void answer_sample(struct kith_writer *w, struct kith_bytes body, enum lie lie)
{
    static struct kith_msg_sample asked;
    static struct kith_msg_sampled msg;
    static float rows[(ROWS + 1) * DIM];
    assert_true(kith_msg_read_sample(body, &asked));
    uint32_t n = asked.n_rows + (lie == TOO_MANY_BYTES);
    for (uint32_t i = 0; i < n * DIM; i++)
        rows[i] = (float)i;
    msg = (struct kith_msg_sampled){.dim = lie == OTHER_BYTES ? DIM / 2 : DIM};
    msg.rows = (struct kith_bytes){(const uint8_t *)rows, n * DIM * sizeof *rows};
    kith_msg_write_sampled(w, &msg);
}

/* On the thread that asks. */
static void serve(void *ctx, struct kith_net_call *call, struct kith_net_msg *request)
{
    struct kith_frame frame;
    struct kith_writer w;
    enum lie lie = rig.answers++ >= rig.from ? rig.lie : HONEST;
    const uint8_t *data = kith_net_msg_data(request);
    (void)ctx;
    assert_int_equal(kith_frame_open(data, kith_net_msg_len(request), CLUSTER, &frame, NULL),
                     KITH_OK);
    struct kith_bytes body = {data + KITH_FRAME_HEADER_BYTES, frame.body_bytes};
    struct kith_net_msg *reply = kith_request_begin(&w);
    if (lie == SILENT)
        rig.stop = true; /* the asker gives up */
    if (lie == ERROR_REPLY)
        kith_msg_write_error(&w, KITH_BUSY, "too much to do");
    else if (lie == MALFORMED)
        kith_write_array(&w, 1);
    else if (frame.message == KITH_MSG_CODEBOOK)
        answer_codebook(&w, body, lie);
    else
        answer_sample(&w, body, lie);
    frame.message = lie == ERROR_REPLY     ? KITH_MSG_ERROR
                    : lie == OTHER_MESSAGE ? KITH_MSG_WRITTEN
                                           : (uint16_t)(frame.message + 1);
    assert_true(kith_request_end(reply, &w, &frame));
    if (lie == SILENT) {
        kith_net_msg_free(reply);
        reply = NULL;
    }
    kith_net_reply(call, reply);
}

/* ---- rig ------------------------------------------------------------------------------------- */

static bool stops(const void *ctx)
{
    return ((const struct rig *)ctx)->stop;
}

static struct codebook *train(uint32_t generation)
{
    float rows[ROWS * DIM];
    for (uint32_t i = 0; i < ROWS * DIM; i++)
        rows[i] = (float)((i + generation) * 7919u % 1000u);
    struct codebook_training training = {.config = &config,
                                         .codes = CODEBOOK_INT8,
                                         .rows = rows,
                                         .n_rows = ROWS,
                                         .collection_rows = ROWS * ROWS,
                                         .n_lists = 160,
                                         .generation = generation,
                                         .threads = 1};
    struct codebook *codebook = NULL;
    assert_int_equal(codebook_train(&codebook, &training, NULL), KITH_OK);
    return codebook;
}

static enum kith_err set_map(const char *url)
{
    struct node_map_node nodes[] = {{.id = 1}, {.id = NODE}};
    struct node_map_slice slices[] = {{2, 0, 0}, {3, 0, 1}, {3, 1, 0}, {3, 2, 1}, {4, 0, 1}};
    struct node_map map = {
        .self = 1, .nodes = nodes, .slices = slices, .n_nodes = 2, .n_slices = 5};
    (void)snprintf(nodes[1].url, sizeof nodes[1].url, "%s", url);
    return node_peers_set(rig.peers, &map, NULL);
}

static int open_rig(void **state)
{
    (void)state;
    rig = (struct rig){.codebook = train(1), .other = train(2)};
    assert_true(codebook_bytes(rig.codebook).len > 2 * PIECE);
    assert_int_equal(kith_net_listen(&rig.server, URL, serve, NULL, NULL), KITH_OK);
    assert_int_equal(node_peers_open(&rig.peers, CLUSTER, NULL), KITH_OK);
    assert_int_equal(node_peers_shares(rig.peers, 3, &rig.shares, &rig.n_shares, NULL), KITH_OK);
    assert_int_equal(rig.n_shares, 0); /* no map yet */
    kith_free(rig.shares);
    assert_int_equal(set_map(URL), KITH_OK);
    assert_int_equal(node_peers_shares(rig.peers, 3, &rig.shares, &rig.n_shares, NULL), KITH_OK);
    rig.exchange = (struct index_exchange){rig.peers, stops, &rig};
    return 0;
}

static int close_rig(void **state)
{
    (void)state;
    kith_free(rig.shares);
    node_peers_close(rig.peers);
    kith_net_server_close(rig.server);
    codebook_unref(rig.codebook);
    codebook_unref(rig.other);
    assert_int_equal(kith_mem_live(), 0);
    return 0;
}

static enum kith_err fetch(enum lie lie, uint32_t from)
{
    static struct kith_msg_codebooked msg;
    struct codebook *got = NULL;
    struct kith_diag diag = {0};
    rig.lie = lie;
    rig.from = from;
    rig.answers = 0;
    enum kith_err err = index_exchange_state(&rig.exchange, &rig.shares[0], &msg, &diag);
    if (err == KITH_OK)
        err = index_exchange_fetch(&rig.exchange, &rig.shares[0], &msg, &config, &got, &diag);
    if (err == KITH_OK) {
        assert_true(got->hash == rig.codebook->hash);
        codebook_unref(got);
    } else {
        assert_true(diag.text[0] != '\0' && diag.err == err);
    }
    return err;
}

/* ---- tests ----------------------------------------------------------------------------------- */

static void test_index_exchange_knows_who_has_what(void **state)
{
    (void)state;
    assert_int_equal(rig.n_shares, 2);
    assert_true(rig.shares[0].node == NODE && !rig.shares[0].self);
    assert_true(rig.shares[1].node == 1 && rig.shares[1].self);
    assert_int_equal(rig.shares[0].scope.n_slices, 2);
    assert_int_equal(rig.shares[0].scope.slices[1], 2);
    assert_int_equal(rig.shares[1].scope.slices[0], 1);
    struct node_share *none = NULL;
    uint32_t n = 1;
    assert_int_equal(node_peers_shares(rig.peers, 5, &none, &n, NULL), KITH_OK);
    assert_int_equal(n, 0);
    kith_free(none);
}

static void test_index_exchange_believes_no_lie(void **state)
{
    (void)state;
    static const enum kith_err expected[LIES] = {
        [MALFORMED] = KITH_PROTOCOL,       [OTHER_MESSAGE] = KITH_PROTOCOL,
        [OTHER_SLICES] = KITH_PROTOCOL,    [OTHER_BYTES] = KITH_CORRUPT,
        [NO_BYTES] = KITH_CONFLICT,        [TOO_MANY_BYTES] = KITH_PROTOCOL,
        [ANOTHER_CODEBOOK] = KITH_CORRUPT, [ERROR_REPLY] = KITH_BUSY};
    assert_int_equal(fetch(HONEST, 0), KITH_OK);
    for (enum lie lie = MALFORMED; lie < LIES; lie++)
        for (uint32_t from = 1; from < 4; from++)
            if (lie != ANOTHER_CODEBOOK || from == 1) /* two halves of two are OTHER_BYTES */
                assert_int_equal(fetch(lie, from), expected[lie]);
    assert_int_equal(fetch(HONEST, 0), KITH_OK);
}

static void test_index_exchange_gives_up_when_told(void **state)
{
    (void)state;
    assert_int_equal(fetch(SILENT, 2), KITH_CANCELLED);
    rig.stop = false;
    assert_int_equal(fetch(HONEST, 0), KITH_OK); /* over a new connection */
}

static void test_index_exchange_leaves_a_dead_node_alone(void **state)
{
    (void)state;
    struct node_share *shares = NULL;
    uint32_t n;
    assert_int_equal(set_map("inproc://nobody"), KITH_OK);
    assert_int_equal(node_peers_shares(rig.peers, 3, &shares, &n, NULL), KITH_OK);
    kith_free(shares);
    for (int i = 0; i < 1000; i++) /* 1000 times the wait for a connection would be minutes */
        assert_int_equal(fetch(HONEST, 0), KITH_UNAVAILABLE);
    /* Back, and on a map on which its address is not known: the last one counts. */
    for (int i = 0; i < 2; i++) {
        assert_int_equal(set_map(i == 0 ? URL : ""), KITH_OK);
        assert_int_equal(node_peers_shares(rig.peers, 3, &shares, &n, NULL), KITH_OK);
        kith_free(shares);
        assert_int_equal(fetch(HONEST, 0), KITH_OK);
    }
}

static enum kith_err sample(enum lie lie, uint32_t *n, float *rows)
{
    struct kith_diag diag = {0};
    struct index_exchange_rows wanted = {.n_wanted = ROWS, .dim = DIM, .rows = rows};
    rig.lie = lie;
    rig.from = rig.answers = 0;
    return index_exchange_sample(&rig.exchange, &rig.shares[0], &wanted, n, &diag);
}

static void test_index_exchange_takes_the_rows_it_asked_for(void **state)
{
    (void)state;
    static float rows[ROWS * DIM];
    uint32_t n = 0;
    assert_int_equal(sample(HONEST, &n, rows), KITH_OK);
    assert_int_equal(n, ROWS);
    for (uint32_t i = 0; i < ROWS * DIM; i++)
        assert_true(rows[i] == (float)i);
    static const enum lie lies[] = {MALFORMED, OTHER_MESSAGE, OTHER_BYTES, TOO_MANY_BYTES};
    for (size_t i = 0; i < sizeof lies / sizeof *lies; i++) {
        assert_int_equal(sample(lies[i], &n, rows), KITH_PROTOCOL);
        assert_int_equal(n, 0);
    }
    assert_int_equal(sample(ERROR_REPLY, &n, rows), KITH_BUSY);
}

static void test_index_exchange_survives_without_memory(void **state)
{
    (void)state;
    enum kith_err err = KITH_NOMEM;
    assert_int_equal(fetch(HONEST, 0), KITH_OK); /* the connection stays */
    long live = kith_mem_live();
    for (long n = 0; err != KITH_OK; n++) {
        kith_mem_fail_after(n);
        err = fetch(HONEST, 0);
        kith_mem_fail_after(-1);
        assert_true(err == KITH_OK || err == KITH_NOMEM);
        assert_true(n < 1000);
    }
    assert_int_equal(kith_mem_live(), live);
    err = KITH_NOMEM;
    for (long n = 0; err != KITH_OK; n++) {
        struct node_share *shares = NULL;
        uint32_t n_shares;
        kith_mem_fail_after(n);
        err = set_map(URL);
        if (err == KITH_OK)
            err = node_peers_shares(rig.peers, 3, &shares, &n_shares, NULL);
        kith_mem_fail_after(-1);
        kith_free(shares);
        assert_true(err == KITH_OK || err == KITH_NOMEM);
    }
    struct node_peers *peers = NULL;
    kith_mem_fail_after(0);
    assert_int_equal(node_peers_open(&peers, CLUSTER, NULL), KITH_NOMEM);
    kith_mem_fail_after(-1);
}

#define T(test_) cmocka_unit_test_setup_teardown(test_, open_rig, close_rig)

int main(void)
{
    const struct CMUnitTest tests[] = {
        T(test_index_exchange_knows_who_has_what),
        T(test_index_exchange_believes_no_lie),
        T(test_index_exchange_gives_up_when_told),
        T(test_index_exchange_leaves_a_dead_node_alone),
        T(test_index_exchange_takes_the_rows_it_asked_for),
        T(test_index_exchange_survives_without_memory),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
