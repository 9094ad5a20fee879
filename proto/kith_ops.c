#include "proto/kith_ops.h"

bool kith_ops_begin(struct kith_ops_reader *reader, struct kith_bytes ops)
{
    *reader = (struct kith_ops_reader){.cursor = kith_cursor_of(ops.data, ops.len)};
    return kith_read_array(&reader->cursor, &reader->left);
}

/* An array's elements as bytes, each skipped once so that the list is known to be well formed. */
static bool read_elements(struct kith_cursor *c, uint32_t *count, struct kith_bytes *elements)
{
    uint32_t n;
    if (!kith_read_array(c, &n))
        return false;
    const uint8_t *start = c->at;
    for (uint32_t i = 0; i < n; i++)
        if (!kith_read_skip(c, NULL))
            return false;
    *count = n;
    *elements = (struct kith_bytes){start, (size_t)(c->at - start)};
    return true;
}

static bool read_map(struct kith_cursor *c, struct kith_bytes *out)
{
    if (kith_read_peek(c) == KITH_WIRE_NIL) {
        *out = (struct kith_bytes){0};
        return kith_read_nil(c);
    }
    if (kith_read_peek(c) != KITH_WIRE_MAP) {
        kith_cursor_fail(c);
        return false;
    }
    return kith_read_skip(c, out);
}

static bool read_target(struct kith_cursor *c, struct kith_target *out)
{
    *out = (struct kith_target){.by_filter = kith_read_peek(c) == KITH_WIRE_MAP};
    return out->by_filter ? kith_read_skip(c, &out->filter)
                          : read_elements(c, &out->n_ids, &out->ids);
}

static bool read_put(struct kith_cursor *c, struct kith_op *op)
{
    uint64_t mode;
    if (!kith_read_u64(c, &mode) || mode > KITH_PUT_UPDATE_ONLY)
        return false;
    op->mode = (enum kith_put_mode)mode;
    return kith_read_id(c, &op->id) && kith_read_bin(c, &op->vector) && read_map(c, &op->payload);
}

static bool read_body(struct kith_cursor *c, struct kith_op *op, uint32_t n)
{
    switch (op->kind) {
    case KITH_OP_PUT:
        return n == 5 && read_put(c, op);
    case KITH_OP_VECTOR:
        return n == 3 && kith_read_id(c, &op->id) && kith_read_bin(c, &op->vector);
    case KITH_OP_DELETE:
    case KITH_OP_CLEAR:
        return n == 2 && read_target(c, &op->target);
    case KITH_OP_SET:
        return n == 4 && read_target(c, &op->target) && read_map(c, &op->payload) &&
               kith_read_str(c, &op->key);
    case KITH_OP_OVERWRITE:
        return n == 3 && read_target(c, &op->target) && read_map(c, &op->payload);
    case KITH_OP_REMOVE:
        return n == 3 && read_target(c, &op->target) && read_elements(c, &op->n_keys, &op->keys);
    }
    return false;
}

bool kith_ops_next(struct kith_ops_reader *reader, struct kith_op *out)
{
    struct kith_cursor *c = &reader->cursor;
    if (c->err != KITH_OK)
        return false;
    if (reader->left == 0) {
        if (!kith_cursor_done(c))
            kith_cursor_fail(c); /* bytes behind the last operation */
        return false;
    }
    struct kith_op op = {0};
    uint32_t n;
    uint64_t kind;
    if (!kith_read_array(c, &n) || !kith_read_u64(c, &kind) || kind > KITH_OP_CLEAR) {
        kith_cursor_fail(c);
        return false;
    }
    op.kind = (enum kith_op_kind)kind;
    if (!read_body(c, &op, n)) {
        kith_cursor_fail(c);
        return false;
    }
    reader->left--;
    *out = op;
    return true;
}

static void write_vector(struct kith_writer *w, const float *vector, uint32_t dim)
{
#if __BYTE_ORDER__ != __ORDER_LITTLE_ENDIAN__
#error "vectors travel as little-endian floats; add a byte swap for this machine"
#endif
    kith_write_bin(w, vector, (size_t)dim * sizeof *vector);
}

void kith_op_write_put(struct kith_writer *w, enum kith_put_mode mode, const struct kith_id *id,
                       const float *vector, uint32_t dim, struct kith_bytes payload)
{
    kith_write_array(w, 5);
    kith_write_u64(w, KITH_OP_PUT);
    kith_write_u64(w, mode);
    kith_write_id(w, id);
    write_vector(w, vector, dim);
    if (payload.len > 0)
        kith_write_raw(w, payload.data, payload.len);
    else
        kith_write_nil(w);
}

void kith_op_write_vector(struct kith_writer *w, const struct kith_id *id, const float *vector,
                          uint32_t dim)
{
    kith_write_array(w, 3);
    kith_write_u64(w, KITH_OP_VECTOR);
    kith_write_id(w, id);
    write_vector(w, vector, dim);
}

void kith_op_write_head(struct kith_writer *w, enum kith_op_kind kind)
{
    kith_assert(kind != KITH_OP_PUT && kind != KITH_OP_VECTOR);
    static const uint8_t lengths[] = {
        [KITH_OP_DELETE] = 2, [KITH_OP_SET] = 4,   [KITH_OP_OVERWRITE] = 3,
        [KITH_OP_REMOVE] = 3, [KITH_OP_CLEAR] = 2,
    };
    kith_write_array(w, lengths[kind]);
    kith_write_u64(w, kind);
}
