/* The plan of writes: any mix of operations, in order. A slice gets all of its share in one
 * message, so the operations of a batch apply in order and together there. */
#ifndef PLAN_POINTS_H
#define PLAN_POINTS_H

#include "coordinator/plan.h"
#include "proto/kith_ops.h"

struct write_op {
    enum kith_op_kind kind;
    enum kith_put_mode mode;
    struct kith_id id;         /* PUT, VECTOR */
    uint32_t slice;            /* of id */
    const float *vector;       /* PUT, VECTOR */
    struct kith_bytes payload; /* PUT, SET, OVERWRITE: a map */
    struct kith_bytes key;     /* SET: UTF-8 path */
    struct kith_bytes keys;    /* REMOVE: msgpack texts, without the array head */
    uint32_t n_keys;
    bool by_filter;
    struct kith_bytes filter; /* a msgpack map */
    const struct kith_id *ids;
    uint32_t n_ids;
};

struct write_plan {
    struct write_op *ops;
    size_t n_ops, ops_cap;
    uint32_t n_points; /* and ids, of all operations */
    bool batch;
    uint32_t n_results; /* of a batch */
    uint64_t op_id;
};

extern const struct work run_write_work; /* run_write.c */

#endif
