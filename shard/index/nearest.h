/* The nearest centroid of each of many rows, by products of bytes (nearest_bytes.h) or, where the
 * CPU has none or they tell too little, by matrix products.
 *
 * |x - c|^2 = |x|^2 - 2 (<x,c> - |c|^2 / 2): the nearest centroid has the largest score in the
 * brackets. Rows and centroids are kept one number wider than they are, 1 and -|c|^2 / 2, so that
 * the product is the score. Under dot they are lifted first (codebook.h).
 *
 * Threads: any; scratch memory belongs to one at a time. */
#ifndef NEAREST_H
#define NEAREST_H

#include <stddef.h>
#include <stdint.h>

#include "proto/kith_collection.h"
#include "shard/index/nearest_bytes.h"

#define NEAREST_ROWS 128u /* rows of one call: enough for the products to run at full rate */

struct nearest_space {
    uint32_t dim;   /* of a row as stored */
    uint32_t width; /* of a prepared one */
    float lift;     /* dot: the squared length rows are lifted to; 0: not lifted */
};

struct nearest_space nearest_space_of(enum kith_metric metric, uint32_t dim, float lift);

/* out[0 .. width) from a stored row; returns |x|^2, lifted under dot. */
float nearest_prepare(const struct nearest_space *space, const void *row, enum kith_row_type type,
                      float *out);
/* The last number of a centroid whose others are set, from them. */
void nearest_close(const struct nearest_space *space, float *centroid);

struct nearest_set {
    const float *centroids; /* n * width, prepared */
    uint32_t n, width;
    struct nearest_bytes bytes;
};

/* Of centroids that nearest_set_renew is told of: at first, and whenever they have moved. */
enum kith_err nearest_set_init(struct nearest_set *set, const struct nearest_space *space,
                               const float *centroids, uint32_t n, struct kith_diag *diag);
void nearest_set_renew(struct nearest_set *set);
void nearest_set_fini(struct nearest_set *set); /* a zeroed one is allowed */

/* Bytes of scratch that nearest_find needs for such a set. */
size_t nearest_scratch_bytes(const struct nearest_set *set);
/* lists[i] and scores[i] of up to NEAREST_ROWS rows; ties to the lower number; 0 and
 * -FLT_MAX for a row whose scores are not numbers. */
void nearest_find(const struct nearest_set *set, const struct nearest_rows *rows, float *scratch,
                  uint32_t *lists, float *scores);

#endif
