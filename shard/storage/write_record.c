#include "shard/storage/write_record.h"

#include <string.h>

#include "proto/kith_limits.h"

void write_record_begin(struct kith_buf *buf)
{
    static const uint8_t empty[WRITE_RECORD_HEAD_BYTES];
    kith_buf_append(buf, empty, sizeof empty);
}

void write_record_put(struct kith_buf *buf, const struct kith_id *id, const void *row,
                      uint32_t row_bytes, struct kith_bytes payload)
{
    uint8_t *to = kith_buf_reserve(buf, 1 + KITH_ID_WIRE_BYTES + 4 + row_bytes + payload.len);
    if (to == NULL)
        return;
    *to++ = WRITE_RECORD_PUT;
    kith_id_to_wire(id, to);
    to += KITH_ID_WIRE_BYTES;
    kith_store_u32(to, (uint32_t)payload.len);
    memcpy(to + 4, row, row_bytes);
    if (payload.len > 0)
        memcpy(to + 4 + row_bytes, payload.data, payload.len);
    buf->len += 1 + KITH_ID_WIRE_BYTES + 4 + row_bytes + payload.len;
}

void write_record_delete(struct kith_buf *buf, const struct kith_id *id)
{
    uint8_t bytes[1 + KITH_ID_WIRE_BYTES] = {WRITE_RECORD_DELETE};
    kith_id_to_wire(id, bytes + 1);
    kith_buf_append(buf, bytes, sizeof bytes);
}

void write_record_end(uint8_t *body, const struct write_record_head *head)
{
    kith_store_u64(body, head->op_id);
    kith_store_u64(body + 8, head->affected);
    kith_store_u32(body + 16, head->n_ops);
}

bool write_record_read(struct write_record_reader *reader, const uint8_t *body, size_t bytes,
                       uint32_t row_bytes, struct write_record_head *head)
{
    if (bytes < WRITE_RECORD_HEAD_BYTES)
        return false;
    *head = (struct write_record_head){
        .op_id = kith_load_u64(body),
        .affected = kith_load_u64(body + 8),
        .n_ops = kith_load_u32(body + 16),
    };
    *reader = (struct write_record_reader){
        .at = body + WRITE_RECORD_HEAD_BYTES,
        .end = body + bytes,
        .left = head->n_ops,
        .row_bytes = row_bytes,
    };
    return head->n_ops <= bytes;
}

static bool stop(struct write_record_reader *reader)
{
    reader->failed = true;
    return false;
}

bool write_record_next(struct write_record_reader *reader, struct write_record_op *out)
{
    if (reader->failed)
        return false;
    size_t room = (size_t)(reader->end - reader->at);
    if (reader->left == 0)
        return room == 0 ? false : stop(reader);
    if (room < 1 + KITH_ID_WIRE_BYTES || !kith_id_from_wire(reader->at + 1, &out->id))
        return stop(reader);
    uint8_t kind = *reader->at;
    reader->at += 1 + KITH_ID_WIRE_BYTES;
    room -= 1 + KITH_ID_WIRE_BYTES;
    reader->left--;
    if (kind == WRITE_RECORD_DELETE) {
        out->kind = WRITE_RECORD_DELETE;
        return true;
    }
    if (kind != WRITE_RECORD_PUT || room < 4 + (size_t)reader->row_bytes)
        return stop(reader);
    size_t payload = kith_load_u32(reader->at);
    if (payload > KITH_PAYLOAD_MAX || room - 4 - reader->row_bytes < payload)
        return stop(reader);
    out->kind = WRITE_RECORD_PUT;
    out->row = reader->at + 4;
    out->payload = (struct kith_bytes){out->row + reader->row_bytes, payload};
    reader->at = out->payload.data + payload;
    return true;
}
