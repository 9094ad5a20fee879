/* The body of a WAL_WRITE record: what one write did, id by id, so that replay needs no filters, no
 * payload merging and no rounding, and may be repeated over a state that already holds a part of
 * it.
 *
 *   u64 op_id, u64 affected, u32 n_ops; then each: u8 kind, id (KITH_ID_WIRE_BYTES), and for a PUT
 *   u32 payload bytes, the row as stored, the payload.
 *
 * Borrows: everything read. Threads: one owner. Errors: a malformed body reads as failed. */
#ifndef WRITE_RECORD_H
#define WRITE_RECORD_H

#include "common/kith_buf.h"
#include "proto/kith_wire.h"

/* Disk values: never renumber. */
enum write_record_kind { WRITE_RECORD_PUT = 1, WRITE_RECORD_DELETE = 2 };

struct write_record_head {
    uint64_t op_id, affected;
    uint32_t n_ops;
};

struct write_record_op {
    enum write_record_kind kind;
    struct kith_id id;
    const uint8_t *row;
    struct kith_bytes payload;
};

#define WRITE_RECORD_HEAD_BYTES 20u

void write_record_begin(struct kith_buf *buf); /* makes room for the head */
void write_record_put(struct kith_buf *buf, const struct kith_id *id, const void *row,
                      uint32_t row_bytes, struct kith_bytes payload);
void write_record_delete(struct kith_buf *buf, const struct kith_id *id);
void write_record_end(uint8_t *body, const struct write_record_head *head);

struct write_record_reader {
    const uint8_t *at, *end;
    uint32_t left, row_bytes;
    bool failed;
};

bool write_record_read(struct write_record_reader *reader, const uint8_t *body, size_t bytes,
                       uint32_t row_bytes, struct write_record_head *head);
/* False at the end, which must also be the body's, or on malformed bytes: see failed. */
bool write_record_next(struct write_record_reader *reader, struct write_record_op *out);

#endif
