/* What a collection of a given shape will take, before there is one: bytes by kind of content, from
 * the formats, and the time of a query, from what a byte costs on this machine.
 *
 * Bytes are those at rest: every slice has sealed what it can, merged and indexed it. Which
 * segments there are follows the store (heads sealed at their limits, eight of a size merged).
 * Payloads are counted as the caller says they are packed; columns are not known from a size, so
 * fields cost what is not counted here. Times come from trials with rows of the shape (trial.h): as
 * they are where as many rows were tried, else reckoned up by the planner's cost model, with memory
 * as fast as it was measured.
 *
 * Owns, borrows: nothing. Threads: any. Errors: KITH_NOMEM from predict_times. */
#ifndef PREDICT_H
#define PREDICT_H

#include "shard/query/memory.h"
#include "shard/query/trial.h"

struct predict_shape {
    uint64_t rows;
    uint32_t dim;
    enum kith_metric metric;
    enum kith_row_type row_type;
    enum kith_index index;
    uint32_t n_slices;      /* at least 1; those of one node */
    uint32_t payload_bytes; /* of a point, packed */
    bool uuids;             /* ids are UUIDs; else numbers */
};

/* uses: MEMORY_KINDS. `resident` is what heads and codebooks take, and all that is mapped. */
void predict_bytes(const struct predict_shape *shape, struct memory_use *uses);
/* Of `mapped`, what searches by the index read all over: this much should stay in memory. */
uint64_t predict_hot_bytes(const struct predict_shape *shape, const struct memory_use *uses);

struct predict_times {
    double exact_ns;
    double lists_ns; /* by the index; 0: there is none */
};
/* trials: of at most as many rows as the shape has, most rows first; the second, of a part of them,
 * tells how many more rows are looked at when there are more. */
enum kith_err predict_times(const struct predict_shape *shape, const struct trial_found *trials,
                            uint32_t n_trials, struct predict_times *out, struct kith_diag *diag);

#endif
