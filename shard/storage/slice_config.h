/* What a slice must know of its collection to store and score points. A plain value, fixed at
 * creation. */
#ifndef SLICE_CONFIG_H
#define SLICE_CONFIG_H

#include <stdint.h>

#include "proto/kith_collection.h"
#include "proto/kith_limits.h"

struct slice_config {
    uint64_t collection; /* unique number of the collection, never reused */
    uint32_t slice;      /* 0 .. n_slices - 1 */
    uint32_t dim;
    enum kith_metric metric;                  /* KITH_COSINE: rows are stored normalised */
    enum kith_row_type rows;                  /* f32 or f16 */
    enum kith_index index;                    /* of its segments; storage only keeps it */
    char factory[KITH_FAISS_FACTORY_MAX + 1]; /* of KITH_INDEX_FAISS; "" for others */
};

#endif
