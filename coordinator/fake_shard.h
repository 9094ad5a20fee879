/* For tests: a node that keeps points in memory, answers the messages of the read and write path,
 * and can be told to misbehave. Threads: any; one lock. */
#ifndef FAKE_SHARD_H
#define FAKE_SHARD_H

#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#include "common/kith_mem.h"
#include "common/kith_net.h"
#include "coordinator/merge.h"
#include "proto/kith_frame.h"
#include "proto/kith_msg.h"
#include "proto/kith_ops.h"

#define FAKE_DIM    16 /* at most */
#define FAKE_POINTS 64

enum fake_mood {
    FAKE_HONEST,
    FAKE_SILENT,      /* never answers */
    FAKE_BUSY,        /* answers ERROR */
    FAKE_GARBAGE,     /* answers bytes */
    FAKE_OTHER_SLICE, /* names a slice it was not asked for */
    FAKE_NAN,         /* sends a hit that is no number */
    FAKE_HALF,        /* its last slice has failed */
};

struct fake_point {
    struct kith_id id;
    float vector[FAKE_DIM];
    size_t vector_len;
    uint8_t payload[256];
    size_t payload_len;
    uint64_t seq;
};

struct fake_shard {
    pthread_mutex_t lock;
    struct kith_net_server *net;
    struct fake_point points[FAKE_POINTS];
    uint32_t n;
    uint64_t collection; /* the one opened last; it has no other */
    uint64_t seq;
    enum fake_mood mood;
    struct kith_net_call *held[64];
    uint32_t n_held;
};

static struct fake_point *fake_find(struct fake_shard *shard, const struct kith_id *id)
{
    for (uint32_t i = 0; i < shard->n; i++)
        if (kith_id_equal(&shard->points[i].id, id))
            return &shard->points[i];
    return NULL;
}

static void fake_slices(const struct fake_shard *shard, const struct kith_msg_scope *scope,
                        struct kith_msg_slices *out)
{
    out->n_slices = scope->n_slices;
    for (uint32_t i = 0; i < scope->n_slices; i++)
        out->slices[i] = (struct kith_msg_slice){
            .slice = scope->slices[i], .points = shard->n, .seq = shard->seq};
    if (shard->mood == FAKE_OTHER_SLICE)
        out->slices[0].slice += 100;
    if (shard->mood == FAKE_HALF) {
        out->slices[scope->n_slices - 1].err = KITH_IO;
        out->slices[scope->n_slices - 1].points = 0;
    }
}

static void fake_put(struct fake_shard *shard, const struct kith_op *op)
{
    struct fake_point *point = fake_find(shard, &op->id);
    if (!point && shard->n < FAKE_POINTS)
        point = &shard->points[shard->n++];
    if (!point || op->vector.len > sizeof(point->vector))
        return;
    point->vector_len = op->vector.len;
    point->id = op->id;
    point->seq = ++shard->seq;
    memcpy(point->vector, op->vector.data, op->vector.len);
    point->payload_len = op->payload.len < sizeof(point->payload) ? op->payload.len : 0;
    if (point->payload_len)
        memcpy(point->payload, op->payload.data, point->payload_len);
}

static void fake_delete(struct fake_shard *shard, const struct kith_op *op)
{
    struct kith_cursor c = kith_cursor_of(op->target.ids.data, op->target.ids.len);
    struct kith_id id;
    for (uint32_t i = 0; i < op->target.n_ids && kith_read_id(&c, &id); i++) {
        struct fake_point *point = fake_find(shard, &id);
        if (point)
            *point = shard->points[--shard->n];
    }
    shard->seq++;
}

static bool fake_write(struct fake_shard *shard, struct kith_bytes body, struct kith_writer *w)
{
    struct kith_msg_write msg;
    struct kith_ops_reader reader;
    struct kith_op op;
    if (!kith_msg_read_write(body, &msg) || msg.scope.n_slices != 1 ||
        !kith_ops_begin(&reader, msg.ops))
        return false;
    while (kith_ops_next(&reader, &op)) {
        if (op.kind == KITH_OP_PUT)
            fake_put(shard, &op);
        else if (op.kind == KITH_OP_DELETE)
            fake_delete(shard, &op);
    }
    struct kith_msg_written reply = {.affected = 1};
    fake_slices(shard, &msg.scope, &reply.slices);
    kith_msg_write_written(w, &reply);
    return reader.cursor.err == KITH_OK;
}

static int fake_order(const void *a, const void *b)
{
    return merge_compare(a, b);
}

/* What it was asked comes back where a test can see it. */
static struct kith_msg_explain fake_explain(const struct kith_msg_search_part *part, uint32_t p,
                                            uint32_t rows)
{
    return (struct kith_msg_explain){
        .part = p,
        .plan = {(const uint8_t *)(part->exact ? "scan" : "lists"), part->exact ? 4 : 5},
        .recall = part->exact ? 1 : part->recall,
        .heads = part->indexed_only,
        .reranked = part->margin > 1e6f ? 1000000 : (uint64_t)part->margin,
        .rows = rows,
        .ns = 1500};
}

static bool fake_search(struct fake_shard *shard, struct kith_bytes body, struct kith_writer *w)
{
    struct kith_msg_search msg;
    struct kith_msg_slices slices;
    if (!kith_msg_read_search(body, &msg) || msg.dim > FAKE_DIM)
        return false;
    fake_slices(shard, &msg.scope, &slices);
    kith_msg_write_found(w, &slices, msg.n_parts);
    struct kith_msg_explain explains[4];
    uint32_t n_explains = 0;
    kith_assert(msg.n_parts <= 4);
    struct kith_cursor parts = kith_cursor_of(msg.parts.data, msg.parts.len);
    for (uint32_t p = 0; p < msg.n_parts; p++) {
        struct kith_msg_search_part part;
        if (!kith_msg_search_next(&parts, msg.dim, &part))
            return false;
        kith_msg_write_found_part(w, shard->n, part.n_queries);
        for (uint32_t q = 0; q < part.n_queries; q++) {
            struct kith_hit hits[FAKE_POINTS];
            float query[FAKE_DIM];
            memcpy(query, part.vectors.data + q * msg.dim * 4, msg.dim * 4);
            uint32_t n = 0;
            for (uint32_t i = 0; i < shard->n; i++) {
                float sum = 0;
                for (uint32_t d = 0; d < msg.dim; d++)
                    sum += query[d] * shard->points[i].vector[d];
                if (!part.has_threshold || sum >= part.threshold)
                    hits[n++] = (struct kith_hit){shard->points[i].id, sum, shard->points[i].seq};
            }
            qsort(hits, n, sizeof(hits[0]), fake_order);
            if (n && shard->mood == FAKE_NAN)
                hits[0].rank = (float)strtod("nan", NULL);
            (void)!kith_msg_write_found_hits(w, hits, n < part.k ? n : part.k);
        }
        if (part.explain)
            explains[n_explains++] = fake_explain(&part, p, shard->n);
    }
    kith_msg_write_found_explains(w, n_explains);
    for (uint32_t i = 0; i < n_explains; i++)
        kith_msg_write_found_explain(w, &explains[i]);
    return true;
}

static void fake_record(struct kith_writer *w, const struct fake_point *point, bool payload,
                        bool vector)
{
    struct kith_record record = {.id = point->id, .seq = point->seq};
    if (payload)
        record.payload = (struct kith_bytes){point->payload, point->payload_len};
    if (vector)
        record.vector = (struct kith_bytes){(const uint8_t *)point->vector, point->vector_len};
    kith_msg_write_record(w, &record);
}

static bool fake_fetch(struct fake_shard *shard, struct kith_bytes body, struct kith_writer *w)
{
    struct kith_msg_fetch msg;
    struct kith_msg_slices slices;
    if (!kith_msg_read_fetch(body, &msg))
        return false;
    fake_slices(shard, &msg.scope, &slices);
    uint32_t n = 0;
    for (int pass = 0; pass < 2; pass++) {
        struct kith_cursor c = kith_cursor_of(msg.ids.data, msg.ids.len);
        struct kith_id id;
        if (pass)
            kith_msg_write_records(w, &slices, n);
        for (uint32_t i = 0; i < msg.n_ids && kith_read_id(&c, &id); i++) {
            const struct fake_point *point = fake_find(shard, &id);
            if (point && pass)
                fake_record(w, point, msg.with_payload, msg.with_vector);
            n += point && !pass;
        }
    }
    return true;
}

static bool fake_scroll(struct fake_shard *shard, struct kith_bytes body, struct kith_writer *w)
{
    struct kith_msg_scroll msg;
    struct kith_msg_slices slices;
    const struct fake_point *in_order[FAKE_POINTS];
    uint32_t n = 0;
    if (!kith_msg_read_scroll(body, &msg))
        return false;
    fake_slices(shard, &msg.scope, &slices);
    for (uint32_t i = 0; i < shard->n; i++) {
        if (msg.has_from && kith_id_compare(&shard->points[i].id, &msg.from) < 0)
            continue;
        uint32_t at = n++;
        for (; at > 0 && kith_id_compare(&in_order[at - 1]->id, &shard->points[i].id) > 0; at--)
            in_order[at] = in_order[at - 1];
        in_order[at] = &shard->points[i];
    }
    n = n < msg.limit ? n : msg.limit;
    kith_msg_write_records(w, &slices, n);
    for (uint32_t i = 0; i < n; i++)
        fake_record(w, in_order[i], msg.with_payload, msg.with_vector);
    return true;
}

static bool fake_rest(struct fake_shard *shard, uint16_t message, struct kith_bytes body,
                      struct kith_writer *w)
{
    struct kith_msg_open open;
    struct kith_msg_scope scope;
    struct kith_msg_slices slices;
    if (message == KITH_MSG_OPEN) {
        enum fake_mood mood = shard->mood;
        if (!kith_msg_read_open(body, &open))
            return false;
        if (open.scope.collection != shard->collection)
            shard->n = 0;
        shard->collection = open.scope.collection;
        shard->mood = FAKE_HONEST;
        fake_slices(shard, &open.scope, &slices);
        shard->mood = mood;
        kith_msg_write_slices_only(w, &slices);
        return true;
    }
    if (message == KITH_MSG_COUNT) {
        struct kith_msg_count count;
        struct kith_msg_counted counted;
        if (!kith_msg_read_count(body, &count))
            return false;
        fake_slices(shard, &count.scope, &counted.slices);
        counted.count = shard->n;
        kith_msg_write_counted(w, &counted);
        return true;
    }
    if (!kith_msg_read_scope_only(body, &scope))
        return false;
    fake_slices(shard, &scope, &slices);
    if (message == KITH_MSG_DROP) {
        if (scope.collection == shard->collection)
            shard->n = 0;
        kith_msg_write_slices_only(w, &slices);
        return true;
    }
    if (message == KITH_MSG_MEMORY) {
        static struct kith_msg_memories msg; /* under the lock */
        msg = (struct kith_msg_memories){.slices = slices,
                                         .n_sections = 1,
                                         .sections = {{.name = {(const uint8_t *)"rows", 4},
                                                       .file = 4096,
                                                       .mapped = 4096,
                                                       .resident = 1000,
                                                       .locked = 10}},
                                         .lock_budget = 1u << 20,
                                         .locked = 10};
        kith_msg_write_memories(w, &msg);
        return true;
    }
    struct kith_msg_info_slice info[KITH_SLICES_PER_COLLECTION_MAX] = {
        {.live_points = shard->n, .failed = shard->mood == FAKE_HALF}};
    static const struct kith_msg_info_recall recall = {
        {(const uint8_t *)"lists", 5}, {(const uint8_t *)"0.1", 3}, 4, 0.75f};
    kith_msg_write_infos(w, &slices, info, 0);
    kith_msg_write_info_recalls(w, 1);
    kith_msg_write_info_recall(w, &recall);
    return message == KITH_MSG_INFO;
}

static void fake_body(struct fake_shard *shard, uint16_t message, struct kith_bytes body,
                      struct kith_writer *w)
{
    bool ok = false;
    if (message == KITH_MSG_WRITE)
        ok = fake_write(shard, body, w);
    else if (message == KITH_MSG_SEARCH)
        ok = fake_search(shard, body, w);
    else if (message == KITH_MSG_FETCH)
        ok = fake_fetch(shard, body, w);
    else if (message == KITH_MSG_SCROLL)
        ok = fake_scroll(shard, body, w);
    else
        ok = fake_rest(shard, message, body, w);
    kith_assert(ok);
}

/* Holds the call until the shard is closed, so that the asker runs into its deadline. */
static bool fake_held(struct fake_shard *shard, struct kith_net_call *call, uint16_t message)
{
    if (shard->mood != FAKE_SILENT || message == KITH_MSG_OPEN || shard->n_held >= 64)
        return false;
    shard->held[shard->n_held++] = call;
    return true;
}

static void fake_serve(void *ctx, struct kith_net_call *call, struct kith_net_msg *request)
{
    struct fake_shard *shard = ctx;
    static const uint8_t blank[KITH_FRAME_HEADER_BYTES];
    const uint8_t *data = kith_net_msg_data(request);
    struct kith_frame frame, header;
    /* The cluster id is what the header says: it is the asker's to check. */
    uint64_t cluster = kith_load_u64(data + 8);
    enum kith_err err = KITH_PROTOCOL;
    for (size_t at = 0; err && at + 8 <= KITH_FRAME_HEADER_BYTES; at += 4) {
        cluster = kith_load_u64(data + at);
        err = kith_frame_open(data, kith_net_msg_len(request), cluster, &frame, NULL);
    }
    kith_assert(err == KITH_OK);
    struct kith_bytes body = {data + KITH_FRAME_HEADER_BYTES, frame.body_bytes};
    struct kith_net_msg *reply = kith_net_msg_new(0);
    kith_assert(reply != NULL);
    (void)kith_net_msg_sink(reply, (const char *)blank, sizeof(blank));
    struct kith_writer w = {.write = kith_net_msg_sink, .sink = reply};
    pthread_mutex_lock(&shard->lock);
    bool held = fake_held(shard, call, frame.message);
    uint16_t answer = (uint16_t)(frame.message + 1);
    if (frame.message != KITH_MSG_OPEN && shard->mood == FAKE_BUSY) {
        answer = KITH_MSG_ERROR;
        kith_msg_write_error(&w, KITH_BUSY, "too many writes wait");
    } else if (frame.message != KITH_MSG_OPEN && shard->mood == FAKE_GARBAGE) {
        kith_write_raw(&w, "\xff\xff\xff", 3);
    } else if (!held) {
        fake_body(shard, frame.message, body, &w);
    }
    pthread_mutex_unlock(&shard->lock);
    if (held) {
        kith_net_msg_free(reply);
        return;
    }
    header = (struct kith_frame){.cluster = cluster, .request = frame.request, .message = answer};
    kith_frame_seal(kith_net_msg_data(reply), kith_net_msg_len(reply), &header);
    kith_net_reply(call, reply);
}

static void fake_shard_mood(struct fake_shard *shard, enum fake_mood mood)
{
    pthread_mutex_lock(&shard->lock);
    shard->mood = mood;
    pthread_mutex_unlock(&shard->lock);
}

static void fake_shard_close(struct fake_shard *shard)
{
    pthread_mutex_lock(&shard->lock);
    for (uint32_t i = 0; i < shard->n_held; i++)
        kith_net_reply(shard->held[i], NULL);
    shard->n_held = 0;
    pthread_mutex_unlock(&shard->lock);
    kith_net_server_close(shard->net);
    pthread_mutex_destroy(&shard->lock);
}

#endif
