/* Operations on points, as they travel in a WRITE message and as a store applies them.
 *
 * A write is a msgpack array of operations; each operation is an array whose first value is its
 * kind: [PUT,        mode, id, vector, payload]   vector: bin of dim * 4 bytes f32 LE; payload: map
 * or nil [VECTOR,     id, vector]                  replaces the vector of an existing point
 *   [DELETE,     target]
 *   [SET,        target, payload, key]        merges payload into the map at `key` ("" = the root)
 *   [OVERWRITE,  target, payload]
 *   [REMOVE,     target, [keys]]              removes the fields
 *   [CLEAR,      target]
 * target: an array of ids, or a map = a filter (proto/kith_filter.h).
 *
 * Reading: ops_begin, then ops_next until it returns false; then look at reader.cursor.err.
 * Everything is borrowed from the bytes. Ids travel as kith_write_id writes them. */
#ifndef KITH_OPS_H
#define KITH_OPS_H

#include "proto/kith_wire.h"

/* Wire and WAL values: never renumber. */
enum kith_op_kind {
    KITH_OP_PUT = 1,
    KITH_OP_VECTOR = 2,
    KITH_OP_DELETE = 3,
    KITH_OP_SET = 4,
    KITH_OP_OVERWRITE = 5,
    KITH_OP_REMOVE = 6,
    KITH_OP_CLEAR = 7,
};

enum kith_put_mode { KITH_PUT_UPSERT = 0, KITH_PUT_INSERT_ONLY = 1, KITH_PUT_UPDATE_ONLY = 2 };

/* Either a list of ids (read them with a cursor over `ids`, `n_ids` of them) or a filter. */
struct kith_target {
    bool by_filter;
    uint32_t n_ids;
    struct kith_bytes ids;    /* the elements, without the array head */
    struct kith_bytes filter; /* a whole msgpack map */
};

struct kith_op {
    enum kith_op_kind kind;
    enum kith_put_mode mode;   /* PUT */
    struct kith_id id;         /* PUT, VECTOR */
    struct kith_bytes vector;  /* PUT, VECTOR: raw f32 LE */
    struct kith_bytes payload; /* PUT, SET, OVERWRITE: a msgpack map; empty = none */
    struct kith_bytes key;     /* SET: path, may be empty */
    uint32_t n_keys;           /* REMOVE */
    struct kith_bytes keys;    /* REMOVE: the elements */
    struct kith_target target; /* all but PUT, VECTOR */
};

struct kith_ops_reader {
    struct kith_cursor cursor;
    uint32_t left;
};

bool kith_ops_begin(struct kith_ops_reader *reader, struct kith_bytes ops);
/* False at the end or at malformed bytes; then reader->cursor.err tells which. */
bool kith_ops_next(struct kith_ops_reader *reader, struct kith_op *out);

/* Writers, one per kind; the caller writes the outer array head with kith_write_array(w, n_ops). */
void kith_op_write_put(struct kith_writer *w, enum kith_put_mode mode, const struct kith_id *id,
                       const float *vector, uint32_t dim, struct kith_bytes payload);
void kith_op_write_vector(struct kith_writer *w, const struct kith_id *id, const float *vector,
                          uint32_t dim);
/* For the kinds with a target: the head of the operation; the caller writes the target
 * (kith_write_array + ids, or a raw filter map) and then what the kind needs. */
void kith_op_write_head(struct kith_writer *w, enum kith_op_kind kind);

#endif
