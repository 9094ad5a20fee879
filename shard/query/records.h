/* Points as they are given back: id, seq, payload, vector.
 *
 * Owns: records own all their bytes, so views may be released before the reply is written.
 * Borrows: views, ids. Threads: one per struct. Errors: KITH_TOO_BIG when the bytes would not fit a
 * reply (RECORDS_BYTES_MAX), KITH_NOMEM, KITH_CORRUPT. A vector of a cosine collection comes back
 * normalised, one of f16 rows rounded: as it is stored. */
#ifndef RECORDS_H
#define RECORDS_H

#include "common/kith_buf.h"
#include "proto/kith_msg.h"
#include "shard/query/parts.h"

/* A frame's body, less what ids and heads of values take. */
#define RECORDS_BYTES_MAX (KITH_FRAME_BODY_MAX - (4u << 20))

struct records_want {
    bool payload, vector;
};

/* Zero-initialise; records_fini frees. */
struct records {
    uint32_t n;
    struct kith_record *items; /* valid after records_finish */
    size_t cap;
    struct kith_buf memory;
    struct segment_cache cache;
};

/* The live points with these ids (n elements as kith_write_id wrote them), in the order asked for;
 * ids that no view has are left out. Finishes the records. */
enum kith_err records_fetch(struct records *out, struct view *const *views, uint32_t n_views,
                            const struct kith_msg_fetch *fetch, struct kith_diag *diag);
void records_fini(struct records *records);

/* For scroll: one more record (`order`: a msgpack scalar or empty), and at the end the pointers. */
enum kith_err records_add(struct records *records, const struct records_want *want,
                          const struct parts_spot *spot, struct kith_bytes order,
                          struct kith_diag *diag);
void records_finish(struct records *records);

#endif
