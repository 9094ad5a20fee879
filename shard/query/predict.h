/* What a collection of a given shape will take, before there is one: bytes by kind of content, from
 * the formats, and the time of a query, from what a byte costs on this machine.
 *
 * Bytes are those at rest: every slice has sealed what it can, merged and indexed it. Which
 * segments there are follows the store (heads sealed at their limits, eight of a size merged).
 * Payloads are counted as the caller says they are packed; columns are not known from a size, so
 * fields cost what is not counted here. Times are those of the planner's cost model, for data in
 * memory, and know nothing of how well this collection's vectors cluster.
 *
 * Owns, borrows: nothing. Threads: any. Errors: KITH_NOMEM from predict_times. */
#ifndef PREDICT_H
#define PREDICT_H

#include "shard/query/memory.h"

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
    bool by_lists;             /* an index is there and pays */
    double exact_ns, lists_ns; /* one query, one thread, k = 10 */
    double byte_ns, picked_ns; /* measured: a byte in order; here and there */
};
enum kith_err predict_times(const struct predict_shape *shape, struct predict_times *out,
                            struct kith_diag *diag);

#endif
