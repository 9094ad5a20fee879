#include "coordinator/records.h"

#include <math.h>
#include <string.h>

#include "common/kith_arena.h"
#include "common/kith_mem.h"

static float float_at(struct kith_bytes vector, size_t i)
{
    uint32_t bits = kith_load_u32(vector.data + 4 * i);
    float value;
    memcpy(&value, &bits, sizeof(value));
    return value;
}

static bool record_ok(const struct request *req, const struct scatter_ask *ask,
                      const struct kith_record *record)
{
    uint32_t slice = kith_id_slice(&record->id, req->collection->n_slices);
    bool asked = false;
    for (uint32_t i = 0; i < ask->scope.n_slices && !asked; i++)
        asked = ask->scope.slices[i] == slice;
    if (!asked)
        return false;
    if (record->vector.len && record->vector.len != (size_t)req->target.dim * 4)
        return false;
    for (size_t i = 0; i < record->vector.len / 4; i++)
        if (!isfinite(float_at(record->vector, i)))
            return false;
    if (record->payload.len == 0)
        return true;
    struct kith_cursor c = kith_cursor_of(record->payload.data, record->payload.len);
    return kith_read_peek(&c) == KITH_WIRE_MAP && kith_read_skip(&c, NULL) && kith_cursor_done(&c);
}

enum kith_err records_take(struct request *req, struct records *records, struct scatter_ask *ask,
                           struct kith_bytes body, struct kith_diag *diag)
{
    struct kith_msg_records msg;
    if (!kith_msg_read_records(body, &msg))
        return kith_fail(diag, KITH_PROTOCOL, "malformed records");
    size_t before = records->n;
    for (uint32_t i = 0; i < msg.n_records; i++) {
        struct kith_record record;
        if (!kith_msg_records_next(&msg.records, &record) || !record_ok(req, ask, &record)) {
            records->n = before;
            return kith_fail(diag, KITH_PROTOCOL, "record %u is malformed", i);
        }
        struct kith_record *items =
            request_grow(req, records->items, records->n, &records->cap, sizeof(*items));
        if (!items) {
            records->n = before;
            return kith_fail(diag, KITH_NOMEM, "out of memory");
        }
        records->items = items;
        items[records->n++] = record;
    }
    enum kith_err err = scatter_verdicts(ask, &msg.slices, diag);
    if (err)
        records->n = before;
    return err;
}

static bool build_table(struct request *req, struct records *records)
{
    uint32_t n = 8;
    while (n < 2 * records->n)
        n *= 2;
    records->table = kith_arena_array(req->arena, n, sizeof(*records->table));
    if (!records->table)
        return false;
    records->table_n = n;
    for (uint32_t i = 0; i < records->n; i++) {
        uint32_t slot = (uint32_t)(kith_id_hash(&records->items[i].id) >> 7) & (n - 1);
        while (records->table[slot])
            slot = (slot + 1) & (n - 1);
        records->table[slot] = i + 1;
    }
    return true;
}

const struct kith_record *records_find(struct request *req, struct records *records,
                                       const struct kith_id *id)
{
    if (!records->table && !build_table(req, records))
        return NULL;
    uint32_t mask = records->table_n - 1;
    uint32_t slot = (uint32_t)(kith_id_hash(id) >> 7) & mask;
    for (; records->table[slot]; slot = (slot + 1) & mask) {
        const struct kith_record *record = &records->items[records->table[slot] - 1];
        if (kith_id_equal(&record->id, id))
            return record;
    }
    return NULL;
}

static bool in_scope(const struct kith_msg_scope *scope, uint32_t slice)
{
    for (uint32_t i = 0; i < scope->n_slices; i++)
        if (scope->slices[i] == slice)
            return true;
    return false;
}

void records_write_fetch(struct request *req, const struct scatter_ask *ask,
                         const struct kith_id *ids, size_t n, bool with_payload, bool with_vector,
                         struct kith_writer *w)
{
    struct kith_msg_fetch msg = {
        .scope = ask->scope, .with_payload = with_payload, .with_vector = with_vector};
    kith_buf_reset(&req->scratch);
    struct kith_writer list = {.write = kith_buf_sink, .sink = &req->scratch};
    for (size_t i = 0; i < n; i++) {
        if (!in_scope(&ask->scope, kith_id_slice(&ids[i], req->collection->n_slices)))
            continue;
        kith_write_id(&list, &ids[i]);
        msg.n_ids++;
    }
    if (list.failed || req->scratch.failed) {
        w->failed = true;
        return;
    }
    msg.ids = (struct kith_bytes){req->scratch.data, req->scratch.len};
    kith_msg_write_fetch(w, &msg);
}

void records_write_members(const struct request *req, const struct kith_record *record,
                           const struct selector *payload, bool with_vector,
                           struct kith_json_writer *w)
{
    if (payload->kind != SELECTOR_NONE) {
        kith_jw_key(w, "payload");
        selector_write(payload, record->payload, w);
    }
    if (!with_vector || !record->vector.len)
        return;
    bool named = *req->target.vector_name != '\0';
    kith_jw_key(w, "vector");
    if (named) {
        kith_jw_begin_object(w);
        kith_jw_key(w, req->target.vector_name);
    }
    kith_jw_begin_array(w);
    for (size_t i = 0; i < record->vector.len / 4; i++)
        kith_jw_f32(w, float_at(record->vector, i));
    kith_jw_end_array(w);
    if (named)
        kith_jw_end_object(w);
}
