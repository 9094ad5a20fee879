/* For tests of query operations: two slices of one collection in real stores on a disk in memory,
 * with sealed segments, a head, replaced and deleted points; and a model of what is live.
 * Included by test files only. Threads: one, beside the stores' own. */
#ifndef QUERY_TESTING_H
#define QUERY_TESTING_H

#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <cmocka.h>

#include "proto/kith_msg.h"
#include "proto/kith_ops.h"
#include "shard/index/filter_doc.h"
#include "shard/index/filter_testing.h"
#include "shard/query/parts.h"
#include "shard/query/select.h"
#include "shard/storage/io_fake.h"
#include "shard/storage/store.h"

#define NODE_SLICES 2u
#define NODE_POINTS 260u
#define NODE_DIM    3u

struct node_point {
    struct kith_id id;
    bool live;
    uint32_t version;
    struct kith_buf payload;
};

struct node {
    struct io *io;
    struct store *stores[NODE_SLICES];
    struct view *views[NODE_SLICES];
    struct node_point points[NODE_POINTS]; /* ascending by id */
};

struct node_wait {
    pthread_mutex_t lock;
    pthread_cond_t wake;
    bool done;
    struct store_write_result result;
};

static inline void node_on_done(void *ctx, const struct store_write_result *result,
                                const struct kith_diag *diag)
{
    struct node_wait *wait = ctx;
    (void)diag;
    pthread_mutex_lock(&wait->lock);
    wait->result = *result;
    wait->done = true;
    pthread_cond_signal(&wait->wake);
    pthread_mutex_unlock(&wait->lock);
}

static inline struct store_write_result node_write(struct store *store, const struct kith_buf *ops)
{
    struct node_wait wait = {.lock = PTHREAD_MUTEX_INITIALIZER, .wake = PTHREAD_COND_INITIALIZER};
    assert_int_equal(store_write(store, 0, testing_bytes(ops), node_on_done, &wait, NULL), KITH_OK);
    pthread_mutex_lock(&wait.lock);
    while (!wait.done)
        pthread_cond_wait(&wait.wake, &wait.lock);
    pthread_mutex_unlock(&wait.lock);
    return wait.result;
}

static inline struct store *node_store(struct node *node, const struct kith_id *id)
{
    return node->stores[kith_id_slice(id, NODE_SLICES)];
}

/* {f: value or values in order, t: text, c: category, ...random fields} */
static inline void node_payload(struct node_point *point)
{
    struct kith_writer w = testing_writer(&point->payload);
    struct kith_buf inner = {0};
    struct kith_writer to_inner = testing_writer(&inner);
    kith_buf_reset(&point->payload);
    if (random_below(12) == 0)
        return; /* no payload at all */
    kith_write_map(&w, 4);
    kith_write_cstr(&w, "f");
    uint32_t n = random_below(4);
    if (n != 1)
        kith_write_array(&w, n);
    for (; n > 0; n--)
        testing_scalar(&w);
    kith_write_cstr(&w, "t");
    testing_string(&w);
    kith_write_cstr(&w, "c");
    if (random_below(2))
        kith_write_i64(&w, (int64_t)random_below(5));
    else
        kith_write_cstr(&w, random_below(2) ? "red" : "green");
    kith_write_cstr(&w, "o");
    testing_object(&to_inner, 1);
    kith_write_raw(&w, inner.data, inner.len);
    kith_buf_fini(&inner);
}

static inline void node_vector(const struct node_point *point, float out[NODE_DIM])
{
    for (uint32_t i = 0; i < NODE_DIM; i++)
        out[i] = (float)(point->id.lo % 1000) + (float)point->version / 8 + (float)i;
}

static inline void node_put(struct node *node, struct node_point *point)
{
    struct kith_buf ops = {0};
    struct kith_writer w = testing_writer(&ops);
    float vector[NODE_DIM];
    point->version++;
    point->live = true;
    node_payload(point);
    node_vector(point, vector);
    kith_write_array(&w, 1);
    kith_op_write_put(&w, KITH_PUT_UPSERT, &point->id, vector, NODE_DIM,
                      testing_bytes(&point->payload));
    assert_int_equal(node_write(node_store(node, &point->id), &ops).err, KITH_OK);
    kith_buf_fini(&ops);
}

static inline void node_delete(struct node *node, struct node_point *point)
{
    struct kith_buf ops = {0};
    struct kith_writer w = testing_writer(&ops);
    point->live = false;
    kith_write_array(&w, 1);
    kith_op_write_head(&w, KITH_OP_DELETE);
    kith_write_array(&w, 1);
    kith_write_id(&w, &point->id);
    assert_int_equal(node_write(node_store(node, &point->id), &ops).err, KITH_OK);
    kith_buf_fini(&ops);
}

static inline int node_compare_points(const void *a, const void *b)
{
    return kith_id_compare(&((const struct node_point *)a)->id,
                           &((const struct node_point *)b)->id);
}

static inline void node_refresh(struct node *node)
{
    for (uint32_t s = 0; s < NODE_SLICES; s++) {
        if (node->views[s] != NULL)
            view_unref(node->views[s]);
        node->views[s] = store_view(node->stores[s]);
    }
}

static inline void node_maintain(struct node *node)
{
    for (uint32_t s = 0; s < NODE_SLICES; s++) {
        bool did = true;
        while (did)
            assert_int_equal(store_maintain(node->stores[s], &did, NULL), KITH_OK);
    }
}

static inline void node_open(struct node *node)
{
    static const char *const dirs[NODE_SLICES] = {"c/0", "c/1"};
    memset(node, 0, sizeof *node);
    assert_int_equal(io_fake_new(&node->io, NULL), KITH_OK);
    assert_int_equal(node->io->make_dir(node->io->self, "c", NULL), KITH_OK);
    for (uint32_t s = 0; s < NODE_SLICES; s++) {
        const struct slice_config config = {.collection = 7,
                                            .slice = s,
                                            .dim = NODE_DIM,
                                            .metric = KITH_DOT,

                                            .rows = KITH_ROWS_F32};
        const struct store_options options = {
            .io = node->io, .dir = dirs[s], .select = select_ids, .head_rows_max = 40};
        assert_int_equal(store_create(&options, &config, NULL), KITH_OK);
        assert_int_equal(store_open(&node->stores[s], &options, NULL), KITH_OK);
    }
    for (uint32_t i = 0; i < NODE_POINTS; i++)
        node->points[i].id = i % 3 == 0 ? (struct kith_id){random_below(1u << 30), i * 7919u, 1, 0}
                                        : kith_id_number((uint64_t)i * 37 % 1009);
    qsort(node->points, NODE_POINTS, sizeof node->points[0], node_compare_points);
    for (uint32_t step = 0; step < NODE_POINTS * 3; step++) {
        struct node_point *point = &node->points[random_below(NODE_POINTS)];
        if (random_below(4) > 0 || !point->live)
            node_put(node, point);
        else
            node_delete(node, point);
        if (step % 50 == 49)
            node_maintain(node);
    }
    node_refresh(node);
}

static inline void node_close(struct node *node)
{
    for (uint32_t s = 0; s < NODE_SLICES; s++) {
        view_unref(node->views[s]);
        store_close(node->stores[s]);
    }
    for (uint32_t i = 0; i < NODE_POINTS; i++)
        kith_buf_fini(&node->points[i].payload);
    io_fake_free(node->io);
}

static inline bool node_matches(const struct node_point *point, const struct kith_filter *filter)
{
    return point->live && filter_doc(filter, NULL, &point->id, testing_bytes(&point->payload));
}

/* Half of the time no filter. `buf` holds its bytes. */
static inline void node_filter(struct kith_filter *filter, struct kith_buf *buf)
{
    struct kith_writer w = testing_writer(buf);
    kith_buf_reset(buf);
    if (random_below(2)) {
        kith_write_map(&w, 1);
        kith_write_cstr(&w, random_below(2) ? "must" : "should");
        kith_write_array(&w, 1);
        kith_write_map(&w, 2);
        kith_write_cstr(&w, "key");
        kith_write_cstr(&w, random_below(2) ? "c" : "o.n");
        kith_write_cstr(&w, "match");
        testing_match(&w);
    }
    assert_int_equal(kith_filter_parse(filter, testing_bytes(buf), "filter", NULL), KITH_OK);
}

#define SCOPE(node_, filter_)                                                                      \
    (&(const struct parts_scope){                                                                  \
        .views = (node_)->views, .n_views = NODE_SLICES, .filter = (filter_)})

static inline struct kith_bytes node_text(const char *text)
{
    return (struct kith_bytes){(const uint8_t *)text, strlen(text)};
}

/* ---- the node of a test program -------------------------------------------------------------- */

static struct node node;

static inline int node_set_up(void **state)
{
    (void)random_set_up(state);
    node_open(&node);
    return 0;
}

static inline int node_tear_down(void **state)
{
    (void)state;
    node_close(&node);
    return 0;
}

#endif
