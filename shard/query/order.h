/* Order keys: what a point is sorted by when scrolled in the order of a field.
 *
 * Integers, floats and times (as microseconds since 1970 UTC) are one line of numbers, compared
 * exactly, also a large integer with a float. Of several values a point has the first in the
 * direction asked for, counted from `start`. Threads: plain values. Errors: none. */
#ifndef ORDER_H
#define ORDER_H

#include "common/kith_buf.h"
#include "proto/kith_wire.h"
#include "shard/storage/column.h"

struct order_key {
    bool is_float;
    int64_t i;
    double f; /* never NaN */
};

struct order_spec {
    struct kith_bytes path;
    bool descending;
    bool has_start;
    struct order_key start; /* inclusive */
};

int order_compare(const struct order_key *a, const struct order_key *b); /* <0, 0, >0: ascending */
/* A msgpack number, or the text of a time. False for anything else. */
bool order_parse(struct kith_bytes value, struct order_key *out);
void order_write(const struct order_key *key, struct kith_writer *w); /* a msgpack number */
/* The key of one payload; false when it has none. */
bool order_of_payload(const struct order_spec *spec, struct kith_bytes payload,
                      struct order_key *out);

/* All (key, row) of a column in the spec's direction from its start; a row once per value. */
struct order_walk {
    const struct column *column;
    bool descending;
    uint32_t
        at[3]; /* integers, floats, times. Ascending: the next; descending: how many are left */
};
void order_walk_start(struct order_walk *walk, const struct column *column,
                      const struct order_spec *spec);
bool order_walk_next(struct order_walk *walk, struct order_key *key, uint32_t *row);

#endif
