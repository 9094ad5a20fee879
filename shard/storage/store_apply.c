#include <string.h>

#include "common/kith_aside.h"
#include "common/kith_mem.h"
#include "proto/kith_ops.h"
#include "shard/storage/payload_edit.h"
#include "shard/storage/row_codec.h"
#include "shard/storage/store_state.h"
#include "shard/storage/write_record.h"

/* One write, on the writer thread.
 *
 * First pass: everything that can be known from the bytes alone is checked. Second pass: operation
 * by operation, each seeing what those before it did, changes become puts and deletes of single
 * points: applied to the head and the delete bitmaps at once, and added to the log's record.
 * Readers see none of it until a view is published after the sync. If anything fails half way (no
 * memory, no disk, a filter that cannot be evaluated, a payload that grew too large) the undo list
 * takes the changes back in reverse. So a write applies as a whole or not at all, and nothing needs
 * a second copy of the state.
 *
 * What lost: applying after the sync (an allocation that fails then would be an acknowledged write
 * that is not there); logging the operations as they came (replay would need filters, and would
 * depend on the state it runs on). */

#define PICKED_MAX (1u << 24) /* ids of one filter; the log record's limit ends it sooner */

/* ---- places -----------------------------------------------------------------------------------
 */

struct place {
    struct head *head; /* NULL: in a segment */
    uint32_t segment, row;
};

static bool locate(const struct store *store, const struct kith_id *id, struct place *out)
{
    for (uint32_t i = store->n_heads; i-- > 0;)
        if (head_latest(store->heads[i], id, &out->row)) {
            out->head = store->heads[i];
            return true;
        }
    for (uint32_t i = 0; i < store->n_segments; i++)
        if (segment_find(store->segments[i].segment, id, &out->row) &&
            !deletes_has(store->segments[i].deletes, out->row)) {
            out->head = NULL;
            out->segment = i;
            return true;
        }
    return false;
}

struct deletes *store_apply_deletes(struct store *store, uint32_t segment)
{
    struct view_part *part = &store->segments[segment];
    if (part->deletes != NULL && deletes_alone(part->deletes))
        return part->deletes;
    struct deletes *fresh = part->deletes != NULL ? deletes_copy(part->deletes) : deletes_new();
    if (fresh == NULL)
        return NULL;
    deletes_unref(part->deletes);
    part->deletes = fresh;
    return fresh;
}

/* Everything that taking a place out may need, so that take_out cannot fail. */
static enum kith_err prepare(struct store *store, const struct place *place, struct kith_diag *diag)
{
    void *undo = store->undo;
    bool ok = kith_grow(&undo, &store->undo_cap, store->n_undo + 1, sizeof *store->undo);
    store->undo = undo;
    if (!ok || (place->head == NULL && store_apply_deletes(store, place->segment) == NULL))
        return kith_fail(diag, KITH_NOMEM, "write");
    return KITH_OK;
}

static void take_out(struct store *store, const struct place *place, uint64_t seq)
{
    store->undo[store->n_undo++] = (struct store_undo){place->head, place->segment, place->row};
    if (place->head != NULL) {
        head_kill(place->head, place->row, seq);
    } else {
        struct deletes *deletes = store->segments[place->segment].deletes;
        bitmap_add(deletes->set, place->row);
        deletes->count++;
    }
}

struct store_savepoint store_apply_savepoint(const struct store *store)
{
    return (struct store_savepoint){
        .n_undo = store->n_undo,
        .rows = head_rows(store->heads[store->n_heads - 1]),
        .seq = store->seq,
    };
}

void store_apply_undo(struct store *store, const struct store_savepoint *to)
{
    while (store->n_undo > to->n_undo) {
        const struct store_undo *undo = &store->undo[--store->n_undo];
        if (undo->head != NULL) {
            head_revive(undo->head, undo->row);
        } else {
            /* Nobody got a view of it, or gave it back: it is still ours alone. */
            struct deletes *deletes = store->segments[undo->segment].deletes;
            kith_assert(deletes_alone(deletes));
            bitmap_remove(deletes->set, undo->row);
            deletes->count--;
        }
    }
    struct head *active = store->heads[store->n_heads - 1];
    for (uint32_t row = to->rows; row < head_rows(active); row++)
        head_burn(active, row);
    store->seq = to->seq;
}

/* old: where the point is now; NULL: nowhere. To look it up costs more than all the rest, so it is
 * done once for each point. */
static enum kith_err replace(struct store *store, const struct place *old, const struct kith_id *id,
                             const void *row, struct kith_bytes payload, struct kith_diag *diag)
{
    struct head *active = store->heads[store->n_heads - 1];
    if (head_rows(active) == head_rows_max(active)) {
        store->head_full = true;
        return kith_fail(diag, KITH_BUSY, "the head is full");
    }
    enum kith_err err = old != NULL ? prepare(store, old, diag) : KITH_OK;
    if (err == KITH_OK)
        err = head_append(active, id, store->seq + 1, row, payload, diag);
    if (err != KITH_OK)
        return err;
    store->seq++;
    if (old != NULL)
        take_out(store, old, store->seq);
    return KITH_OK;
}

enum kith_err store_apply_put(struct store *store, const struct kith_id *id, const void *row,
                              struct kith_bytes payload, struct kith_diag *diag)
{
    struct place old = {0};
    bool was = locate(store, id, &old);
    return replace(store, was ? &old : NULL, id, row, payload, diag);
}

enum kith_err store_apply_delete(struct store *store, const struct kith_id *id, bool *was,
                                 struct kith_diag *diag)
{
    struct place old = {0};
    *was = locate(store, id, &old);
    if (!*was)
        return KITH_OK;
    enum kith_err err = prepare(store, &old, diag);
    if (err == KITH_OK)
        take_out(store, &old, ++store->seq);
    return err;
}

/* ---- first pass: what the bytes say by themselves ---------------------------------------------
 */

static enum kith_err check_target(const struct kith_target *target, struct kith_diag *diag)
{
    if (target->by_filter)
        return KITH_OK; /* the select function checks it, before anything changes */
    struct kith_cursor c = kith_cursor_of(target->ids.data, target->ids.len);
    struct kith_id id;
    for (uint32_t i = 0; i < target->n_ids; i++)
        if (!kith_read_id(&c, &id))
            return kith_fail(diag, KITH_BAD_REQUEST, "id %u is malformed", i);
    return KITH_OK;
}

static enum kith_err check_keys(const struct kith_op *op, struct kith_diag *diag)
{
    struct kith_cursor c = kith_cursor_of(op->keys.data, op->keys.len);
    struct kith_bytes key;
    for (uint32_t i = 0; i < op->n_keys; i++) {
        if (!kith_read_str(&c, &key) || key.len == 0)
            return kith_fail(diag, KITH_BAD_REQUEST, "key %u is malformed", i);
        enum kith_err err = payload_edit_check_path(key, diag);
        if (err != KITH_OK)
            return err;
    }
    return KITH_OK;
}

static enum kith_err check_op(const struct store *store, const struct kith_op *op,
                              struct kith_diag *diag)
{
    enum kith_err err = KITH_OK;
    switch (op->kind) {
    case KITH_OP_PUT:
        err = row_codec_check(&store->config, op->vector, diag);
        return err == KITH_OK ? payload_edit_check(op->payload, diag) : err;
    case KITH_OP_VECTOR:
        return row_codec_check(&store->config, op->vector, diag);
    case KITH_OP_SET:
        err = payload_edit_check_path(op->key, diag);
        if (err == KITH_OK)
            err = payload_edit_check(op->payload, diag);
        break;
    case KITH_OP_OVERWRITE:
        err = payload_edit_check(op->payload, diag);
        break;
    case KITH_OP_REMOVE:
        err = check_keys(op, diag);
        break;
    case KITH_OP_DELETE:
    case KITH_OP_CLEAR:
        break;
    default:
        return kith_fail(diag, KITH_BAD_REQUEST, "kind %d is not known", (int)op->kind);
    }
    return err == KITH_OK ? check_target(&op->target, diag) : err;
}

enum kith_err store_apply_check(const struct store *store, struct kith_bytes ops,
                                struct kith_diag *diag)
{
    struct kith_ops_reader reader;
    if (!kith_ops_begin(&reader, ops))
        return kith_fail(diag, KITH_BAD_REQUEST, "operations: malformed");
    uint32_t n = reader.left;
    struct kith_op op;
    for (uint32_t i = 0; kith_ops_next(&reader, &op); i++) {
        (void)kith_aside_stand();
        enum kith_err err = check_op(store, &op, diag);
        if (err != KITH_OK) {
            if (n > 1)
                kith_diag_prefix(diag, "operation %u", i);
            return err;
        }
    }
    if (reader.cursor.err != KITH_OK || reader.left != 0)
        return kith_fail(diag, KITH_BAD_REQUEST, "operations: malformed");
    return KITH_OK;
}

/* ---- second pass ------------------------------------------------------------------------------
 */

struct applying {
    struct store *store;
    uint32_t n_ops; /* in the record */
    uint64_t affected;
    struct kith_diag *diag;
};

static enum kith_err put(struct applying *a, const struct place *old, const struct kith_id *id,
                         const void *row, struct kith_bytes payload)
{
    struct store *store = a->store;
    struct kith_buf *body = wal_body(store->wal);
    write_record_put(body, id, row, store->row_bytes, payload);
    if (body->failed)
        return kith_fail(a->diag, KITH_NOMEM, "log buffer");
    enum kith_err err = replace(store, old, id, row, payload, a->diag);
    if (err == KITH_OK) {
        a->n_ops++;
        a->affected++;
    }
    return err;
}

static enum kith_err drop(struct applying *a, const struct kith_id *id)
{
    bool was = false;
    enum kith_err err = store_apply_delete(a->store, id, &was, a->diag);
    if (err == KITH_OK && was) {
        struct kith_buf *body = wal_body(a->store->wal);
        write_record_delete(body, id);
        if (body->failed)
            return kith_fail(a->diag, KITH_NOMEM, "log buffer");
        a->n_ops++;
        a->affected++;
    }
    return err;
}

/* The point as it is now. What it lends lasts until the next change of `cache`: rows and payloads
 * of heads and mapped segments do not move. */
static enum kith_err point_at(struct store *store, const struct place *place, const void **row,
                              struct kith_bytes *payload, struct kith_diag *diag)
{
    if (place->head != NULL) {
        struct head_row got;
        head_row_get(place->head, place->row, &got);
        *row = got.row;
        *payload = got.payload;
        return KITH_OK;
    }
    const struct segment *segment = store->segments[place->segment].segment;
    *row = segment_row_data(segment, place->row, 1);
    return segment_payload_cached(segment, place->row, &store->cache, payload, diag);
}

static enum kith_err put_vector(struct applying *a, const struct kith_op *op)
{
    struct store *store = a->store;
    struct place place = {0};
    bool exists = locate(store, &op->id, &place);
    struct kith_bytes payload = op->payload;
    if (op->kind == KITH_OP_VECTOR || op->mode == KITH_PUT_UPDATE_ONLY) {
        if (!exists)
            return KITH_OK;
    } else if (op->mode == KITH_PUT_INSERT_ONLY && exists) {
        return KITH_OK;
    }
    if (op->kind == KITH_OP_VECTOR) {
        const void *old;
        enum kith_err err = point_at(store, &place, &old, &payload, a->diag);
        if (err != KITH_OK)
            return err;
    }
    row_codec_encode(&store->config, op->vector, store->row.data);
    return put(a, exists ? &place : NULL, &op->id, store->row.data, payload);
}

static enum kith_err remove_keys(struct applying *a, const struct kith_op *op,
                                 struct kith_bytes payload, struct kith_bytes *result,
                                 bool *changed)
{
    struct kith_cursor keys = kith_cursor_of(op->keys.data, op->keys.len);
    struct kith_buf *from = &a->store->edit2, *to = &a->store->edit;
    struct kith_bytes key;
    *changed = false;
    *result = payload;
    for (uint32_t i = 0; i < op->n_keys && kith_read_str(&keys, &key); i++) {
        bool removed = false;
        kith_buf_reset(to);
        enum kith_err err = payload_edit_remove(*result, key, to, &removed, a->diag);
        if (err != KITH_OK)
            return err;
        *changed |= removed;
        *result = (struct kith_bytes){to->data, to->len};
        struct kith_buf *swap = from;
        from = to;
        to = swap;
    }
    return KITH_OK;
}

static enum kith_err edit_payload(struct applying *a, const struct kith_op *op,
                                  const struct kith_id *id)
{
    struct store *store = a->store;
    struct place place = {0};
    if (!locate(store, id, &place))
        return KITH_OK;
    const void *row = NULL;
    struct kith_bytes old = {NULL, 0}, fresh = op->payload;
    enum kith_err err = point_at(store, &place, &row, &old, a->diag);
    bool changed = true;
    if (err == KITH_OK && op->kind == KITH_OP_SET) {
        kith_buf_reset(&store->edit);
        err = payload_edit_merge(old, op->payload, op->key, &store->edit, a->diag);
        fresh = (struct kith_bytes){store->edit.data, store->edit.len};
    } else if (err == KITH_OK && op->kind == KITH_OP_REMOVE) {
        err = remove_keys(a, op, old, &fresh, &changed);
    } else if (op->kind == KITH_OP_CLEAR) {
        fresh = (struct kith_bytes){NULL, 0};
        changed = old.len > 0;
    }
    return err == KITH_OK && changed ? put(a, &place, id, row, fresh) : err;
}

static bool collect(void *ctx, const struct kith_id *id)
{
    struct store *store = ctx;
    void *picked = store->picked;
    if (store->n_picked >= PICKED_MAX ||
        !kith_grow(&picked, &store->picked_cap, store->n_picked + 1, sizeof *id))
        return false;
    store->picked = picked;
    store->picked[store->n_picked++] = *id;
    return true;
}

/* The filter sees everything up to the operation before: a view that nobody else will ever have. */
static enum kith_err pick(struct store *store, struct kith_bytes filter, struct kith_diag *diag)
{
    if (store->select == NULL)
        return kith_fail(diag, KITH_UNSUPPORTED, "filters are not available here");
    struct view *view = NULL;
    enum kith_err err = store_write_view(store, &view, diag);
    if (err != KITH_OK)
        return err;
    store->n_picked = 0;
    err = store->select(view, filter, collect, store, diag);
    view_unref(view);
    return err;
}

static enum kith_err on_target(struct applying *a, const struct kith_op *op)
{
    struct store *store = a->store;
    uint32_t n = op->target.n_ids;
    if (op->target.by_filter) {
        enum kith_err err = pick(store, op->target.filter, a->diag);
        if (err != KITH_OK)
            return err;
        n = (uint32_t)store->n_picked;
    }
    struct kith_cursor ids = kith_cursor_of(op->target.ids.data, op->target.ids.len);
    for (uint32_t i = 0; i < n; i++) {
        struct kith_id id;
        if (op->target.by_filter)
            id = store->picked[i];
        else if (!kith_read_id(&ids, &id))
            return kith_fail(a->diag, KITH_BAD_REQUEST, "id %u is malformed", i);
        enum kith_err err = op->kind == KITH_OP_DELETE ? drop(a, &id) : edit_payload(a, op, &id);
        if (err == KITH_OK && wal_body(store->wal)->len > KITH_WAL_RECORD_MAX * 2ull)
            err = kith_fail(a->diag, KITH_TOO_BIG, "the write takes more than %u bytes of log",
                            KITH_WAL_RECORD_MAX);
        if (err != KITH_OK)
            return err;
    }
    return KITH_OK;
}

static enum kith_err apply_ops(struct applying *a, struct kith_bytes ops)
{
    struct kith_ops_reader reader;
    if (!kith_ops_begin(&reader, ops))
        return kith_fail(a->diag, KITH_BAD_REQUEST, "operations: malformed");
    struct kith_op op;
    while (kith_ops_next(&reader, &op)) {
        (void)kith_aside_stand();
        enum kith_err err = op.kind == KITH_OP_PUT || op.kind == KITH_OP_VECTOR ? put_vector(a, &op)
                                                                                : on_target(a, &op);
        if (err != KITH_OK)
            return err;
    }
    return KITH_OK;
}

enum kith_err store_apply_write(struct store *store, struct store_request *request,
                                struct kith_diag *diag)
{
    if (request->op_id != 0) {
        const struct op_entry *known = op_window_find(&store->ops, request->op_id);
        if (known != NULL) {
            request->result.seq = known->seq;
            request->result.affected = known->affected;
            return KITH_OK;
        }
    }
    struct store_savepoint before = store_apply_savepoint(store);
    struct applying a = {.store = store, .diag = diag};
    wal_begin(store->wal);
    size_t body_at = wal_body(store->wal)->len;
    write_record_begin(wal_body(store->wal));
    enum kith_err err = apply_ops(&a, request->ops);
    if (err == KITH_OK && wal_body(store->wal)->failed)
        err = kith_fail(diag, KITH_NOMEM, "log buffer");
    if (err != KITH_OK || (a.n_ops == 0 && request->op_id == 0)) {
        wal_drop(store->wal);
    } else {
        struct write_record_head head = {request->op_id, a.affected, a.n_ops};
        write_record_end(wal_body(store->wal)->data + body_at, &head);
        err = wal_end(store->wal, WAL_WRITE, before.seq + 1, diag);
    }
    if (err != KITH_OK) {
        uint32_t rows_max = head_rows_max(store->heads[store->n_heads - 1]);
        store->head_want = before.rows == 0 ? rows_max * 2 : store_turn_head_cap(store);
        store_apply_undo(store, &before);
        return err;
    }
    request->result.seq = store->seq;
    request->result.affected = a.affected;
    if (request->op_id != 0)
        op_window_add(&store->ops, &(struct op_entry){request->op_id, store->seq, a.affected});
    return KITH_OK;
}
