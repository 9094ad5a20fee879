/* The records of points that nodes sent, found by id; and how a record looks in an answer.
 *
 * Owns nothing: records are in the request's arena and borrow from the replies kept by scatter.
 * Threads: loop. Errors: KITH_PROTOCOL for a record that is malformed or of a slice not asked for.
 */
#ifndef RECORDS_H
#define RECORDS_H

#include "coordinator/request.h"
#include "coordinator/selector.h"

struct records {
    struct kith_record *items;
    size_t n, cap;
    uint32_t *table; /* index + 1; made by the first find */
    uint32_t table_n;
};

/* For a round's take(): reads RECORDS or SCROLLED. */
enum kith_err records_take(struct request *req, struct records *records, struct scatter_ask *ask,
                           struct kith_bytes body, struct kith_diag *diag);
const struct kith_record *records_find(struct request *req, struct records *records,
                                       const struct kith_id *id); /* NULL: none */
/* Writes a FETCH for those of ids that belong to the ask's slices. */
void records_write_fetch(struct request *req, const struct scatter_ask *ask,
                         const struct kith_id *ids, size_t n, bool with_payload, bool with_vector,
                         struct kith_writer *w);
/* Members "payload" and "vector" of the object that is being written. */
void records_write_members(const struct request *req, const struct kith_record *record,
                           const struct selector *payload, bool with_vector,
                           struct kith_json_writer *w);

#endif
