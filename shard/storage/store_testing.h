/* What the tests of the store share: points that can be recognised, writes that wait, a model.
 *
 * A point's vector and payload are made from (id, version), so a test that reads one back knows
 * which write it saw. Included by *_test.c only. */
#ifndef STORE_TESTING_H
#define STORE_TESTING_H

#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include "common/kith_buf.h"
#include "common/kith_mem.h"
#include "common/kith_testing.h"
#include "proto/kith_ops.h"
#include "shard/storage/io_fake.h"
#include "shard/storage/row_codec.h"
#include "shard/storage/store.h"

#define DIM 4u

static inline void test_vector(uint64_t id, uint64_t version, float out[DIM])
{
    for (uint32_t i = 0; i < DIM; i++)
        out[i] = (float)id + (float)(version % 100000) / 128.0f + (float)i;
}

/* {"v": version, "g": id % 7} */
static inline void test_payload(struct kith_buf *buf, uint64_t id, uint64_t version)
{
    struct kith_writer w = {.write = kith_buf_sink, .sink = buf};
    kith_write_map(&w, 2);
    kith_write_cstr(&w, "v");
    kith_write_u64(&w, version);
    kith_write_cstr(&w, "g");
    kith_write_u64(&w, id % 7);
}

static inline struct kith_writer test_writer(struct kith_buf *buf)
{
    return (struct kith_writer){.write = kith_buf_sink, .sink = buf};
}

static inline void test_put(struct kith_writer *w, uint64_t id, uint64_t version)
{
    float vector[DIM];
    struct kith_buf payload = {0};
    struct kith_id key = kith_id_number(id);
    test_vector(id, version, vector);
    test_payload(&payload, id, version);
    kith_op_write_put(w, KITH_PUT_UPSERT, &key, vector, DIM,
                      (struct kith_bytes){payload.data, payload.len});
    kith_buf_fini(&payload);
}

static inline void test_target_id(struct kith_writer *w, uint64_t id)
{
    struct kith_id key = kith_id_number(id);
    kith_write_array(w, 1);
    kith_write_id(w, &key);
}

static inline void test_delete(struct kith_writer *w, uint64_t id)
{
    kith_op_write_head(w, KITH_OP_DELETE);
    test_target_id(w, id);
}

/* The filter of these tests: {"m": k, "r": j} = number ids with id % k == j. */
static inline void test_filter(struct kith_writer *w, uint64_t modulus, uint64_t rest)
{
    kith_write_map(w, 2);
    kith_write_cstr(w, "m");
    kith_write_u64(w, modulus);
    kith_write_cstr(w, "r");
    kith_write_u64(w, rest);
}

static inline enum kith_err test_select(const struct view *view, struct kith_bytes filter,
                                        store_emit_fn emit, void *ctx, struct kith_diag *diag)
{
    struct kith_cursor c = kith_cursor_of(filter.data, filter.len);
    uint32_t n;
    uint64_t modulus, rest;
    struct kith_bytes key;
    if (!kith_read_map(&c, &n) || !kith_read_str(&c, &key) || !kith_read_u64(&c, &modulus) ||
        !kith_read_str(&c, &key) || !kith_read_u64(&c, &rest) || modulus == 0)
        return kith_fail(diag, KITH_BAD_REQUEST, "test filter");
    bool ok = true;
    for (uint32_t s = 0; s < view->n_segments && ok; s++) {
        const struct view_segment *part = &view->segments[s];
        for (uint32_t row = 0; row < segment_rows(part->segment) && ok; row++) {
            struct kith_id id = segment_id(part->segment, row);
            if ((part->deleted == NULL || !bitmap_contains(part->deleted, row)) &&
                id.lo % modulus == rest)
                ok = emit(ctx, &id);
        }
    }
    for (uint32_t h = 0; h < view->n_heads && ok; h++) {
        struct head_row got;
        for (uint32_t row = 0; row < view->heads[h].rows && ok; row++)
            if (head_row_at(view->heads[h].head, row, view->seq, &got) &&
                got.id->lo % modulus == rest)
                ok = emit(ctx, got.id);
    }
    return ok ? KITH_OK : kith_fail(diag, KITH_NOMEM, "test filter");
}

/* ---- a write that is waited for ---------------------------------------------------------------
 */

struct test_wait {
    pthread_mutex_t lock;
    pthread_cond_t wake;
    bool done;
    struct store_write_result result;
    struct kith_diag diag;
};

static inline void test_on_done(void *ctx, const struct store_write_result *result,
                                const struct kith_diag *diag)
{
    struct test_wait *wait = ctx;
    pthread_mutex_lock(&wait->lock);
    wait->result = *result;
    if (diag != NULL)
        wait->diag = *diag;
    wait->done = true;
    pthread_cond_signal(&wait->wake);
    pthread_mutex_unlock(&wait->lock);
}

/* Fails the test when the write is not done after so long (0: waits for ever). */
static inline struct store_write_result test_write_for(struct store *store, uint64_t op_id,
                                                       const struct kith_buf *ops,
                                                       uint32_t patience_s, struct kith_diag *diag)
{
    struct test_wait wait = {.lock = PTHREAD_MUTEX_INITIALIZER, .wake = PTHREAD_COND_INITIALIZER};
    struct kith_diag local = {0};
    struct timespec until;
    int rc = 0;
    enum kith_err err = store_write(store, op_id, (struct kith_bytes){ops->data, ops->len},
                                    test_on_done, &wait, &local);
    if (err != KITH_OK) {
        if (diag != NULL)
            *diag = local;
        return (struct store_write_result){.err = err};
    }
    (void)clock_gettime(CLOCK_REALTIME, &until);
    until.tv_sec += patience_s;
    pthread_mutex_lock(&wait.lock);
    while (!wait.done && rc == 0)
        rc = patience_s == 0 ? pthread_cond_wait(&wait.wake, &wait.lock)
                             : pthread_cond_timedwait(&wait.wake, &wait.lock, &until);
    pthread_mutex_unlock(&wait.lock);
    if (!wait.done) {
        print_error("a write waited for %u s\n", patience_s);
        abort(); /* the store still has this frame's memory: no way to go on */
    }
    if (diag != NULL)
        *diag = wait.diag;
    return wait.result;
}

static inline struct store_write_result test_write_id(struct store *store, uint64_t op_id,
                                                      const struct kith_buf *ops,
                                                      struct kith_diag *diag)
{
    return test_write_for(store, op_id, ops, 0, diag);
}

static inline struct store_write_result test_write(struct store *store, const struct kith_buf *ops)
{
    struct kith_diag diag = {0};
    struct store_write_result result = test_write_id(store, 0, ops, &diag);
    if (result.err != KITH_OK)
        print_message("write: %s %s\n", kith_err_name(result.err), diag.text);
    return result;
}

/* ---- reading back -----------------------------------------------------------------------------
 */

struct test_point {
    bool live;
    uint64_t seq;
    float vector[DIM];
    struct kith_buf payload;
};

/* The point as the view has it; payload to be freed. Fails the test on an error. */
static inline struct test_point test_get(const struct view *view, const struct kith_id *id)
{
    struct test_point point = {0};
    struct view_place place;
    if (!view_find(view, id, &place))
        return point;
    point.live = true;
    if (place.in_head) {
        struct head_row row;
        assert_true(head_row_at(view->heads[place.part].head, place.row, view->seq, &row));
        row_codec_decode(&view->config, row.row, point.vector);
        point.seq = row.seq;
        kith_buf_append(&point.payload, row.payload.data, row.payload.len);
    } else {
        const struct segment *segment = view->segments[place.part].segment;
        row_codec_decode(&view->config, segment_row_data(segment, place.row, 1), point.vector);
        point.seq = segment_seq(segment, place.row);
        assert_int_equal(segment_payload(segment, place.row, &point.payload, NULL), KITH_OK);
    }
    return point;
}

/* The version of a point made by test_put; 0 = not there. Fails on one that was torn. */
static inline uint64_t test_version(const struct view *view, uint64_t number)
{
    struct kith_id id = kith_id_number(number);
    struct test_point point = test_get(view, &id);
    if (!point.live)
        return 0;
    struct kith_cursor c = kith_cursor_of(point.payload.data, point.payload.len);
    uint32_t n;
    uint64_t version = 0, group = 0;
    struct kith_bytes key;
    assert_true(kith_read_map(&c, &n) && n == 2);
    assert_true(kith_read_str(&c, &key) && kith_read_u64(&c, &version));
    assert_true(kith_read_str(&c, &key) && kith_read_u64(&c, &group));
    assert_int_equal(group, number % 7);
    float expected[DIM];
    test_vector(number, version, expected);
    assert_memory_equal(point.vector, expected, sizeof expected);
    kith_buf_fini(&point.payload);
    return version;
}

/* Whether the view has this version (0 = none), read without any claim that it can be read. */
static inline bool test_reads(const struct view *view, uint64_t number, uint64_t version)
{
    struct kith_id id = kith_id_number(number);
    struct view_place place;
    if (!view_find(view, &id, &place))
        return version == 0;
    if (place.in_head)
        return test_version(view, number) == version;
    const struct segment *segment = view->segments[place.part].segment;
    struct kith_buf payload = {0}, expected = {0};
    float vector[DIM], row[DIM];
    test_vector(number, version, vector);
    row_codec_decode(&view->config, segment_row_data(segment, place.row, 1), row);
    test_payload(&expected, number, version);
    bool same = segment_payload(segment, place.row, &payload, NULL) == KITH_OK &&
                payload.len == expected.len &&
                memcmp(payload.data, expected.data, payload.len) == 0 &&
                memcmp(row, vector, sizeof row) == 0;
    kith_buf_fini(&payload);
    kith_buf_fini(&expected);
    return same;
}

static inline uint64_t test_count(const struct view *view)
{
    uint64_t n = 0;
    for (uint32_t s = 0; s < view->n_segments; s++) {
        const struct view_segment *part = &view->segments[s];
        uint64_t live =
            segment_rows(part->segment) - (part->deleted != NULL ? bitmap_count(part->deleted) : 0);
        assert_int_equal(live, part->live);
        n += live;
    }
    for (uint32_t h = 0; h < view->n_heads; h++) {
        uint64_t live = 0;
        for (uint32_t row = 0; row < view->heads[h].rows; row++)
            live += head_row_live(view->heads[h].head, row, view->seq);
        assert_int_equal(live, view->heads[h].live);
        n += live;
    }
    assert_int_equal(n, view->live_points);
    return n;
}

static const struct slice_config test_config = {
    .collection = 77, .slice = 1, .dim = DIM, .metric = KITH_DOT, .rows = KITH_ROWS_F32};

static inline struct store_options test_options(struct io *io)
{
    return (struct store_options){
        .io = io,
        .dir = "c/0",
        .select = test_select,
        .head_rows_max = 50,
        .wal_step_bytes = 16384,
    };
}

#endif
