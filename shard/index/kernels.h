/* Distance kernels: one query against many rows, as ranks (larger is nearer, see
 * proto/kith_collection.h).
 *
 * Three forms (inner product, squared L2, L1), two row types (f32, f16), four variants (scalar,
 * AVX2 + FMA + F16C, AVX-512, NEON), the best of which is chosen once. All variants add the same
 * terms in the same order (kernels_sum.h), so a row's rank is one number: it depends neither on the
 * machine, nor on how the work was cut, nor on whether the query came alone or in a batch.
 *
 * A rank is never NaN and never infinite: overflow is clamped to +-FLT_MAX and NaN (inf - inf of
 * overflowing products) becomes -FLT_MAX, the farthest.
 *
 * Owns: nothing. Threads: any. Rows and queries need no alignment. Kernels touch only the bytes of
 * the rows they are given (prefetches beyond the end are harmless). */
#ifndef KERNELS_H
#define KERNELS_H

#include <stdint.h>

#include "proto/kith_collection.h"

enum kernels_form { KERNELS_IP, KERNELS_L2, KERNELS_L1, KERNELS_FORMS };
enum kernels_type { KERNELS_F32, KERNELS_F16, KERNELS_TYPES };

struct kernels_rows {
    const void *data; /* row r begins at data + r * dim * element size */
    uint32_t dim;
};

/* ranks[i] of row i, for rows 0 .. n-1. */
typedef void (*kernels_scan_fn)(const float *query, struct kernels_rows rows, uint32_t n,
                                float *ranks);
/* ranks[i] of row list[i]. */
typedef void (*kernels_pick_fn)(const float *query, struct kernels_rows rows, const uint32_t *list,
                                uint32_t n, float *ranks);
/* out[i] = the squared length of f32 row i, not clamped. */
typedef void (*kernels_norms_fn)(struct kernels_rows rows, uint32_t n, float *out);
/* Writes the indexes i with ranks[i] not below `bound` (a NaN counts as not below), ascending, and
 * returns how many; out has room for n + KERNELS_SELECT_SLACK. */
typedef uint32_t (*kernels_select_fn)(const float *ranks, uint32_t n, float bound, uint32_t *out);
#define KERNELS_SELECT_SLACK 16u

/* A block of products: row r with query q is values[r * n_queries + q]. */
struct kernels_products {
    const float *values;
    const float *minus; /* one for each row, subtracted from its products; NULL: nothing */
    uint32_t n_rows, n_queries;
};
/* For each query q the rows whose product is not below bounds[q], ascending, at lists[q * n_rows],
 * and how many in counts[q]. */
typedef void (*kernels_choose_fn)(const struct kernels_products *products, const float *bounds,
                                  uint32_t *counts, uint32_t *lists);

struct kernels {
    const char *name;
    kernels_scan_fn scan[KERNELS_FORMS][KERNELS_TYPES];
    kernels_pick_fn pick[KERNELS_FORMS][KERNELS_TYPES];
    kernels_norms_fn norms;
    kernels_select_fn select;
    kernels_choose_fn choose;
};

extern const struct kernels kernels_scalar;

const struct kernels *kernels_best(void);
/* The variants this CPU can run, scalar first; NULL past the last. For tests and benchmarks. */
const struct kernels *kernels_variant(uint32_t index);

enum kernels_form kernels_form_of(enum kith_metric metric);
enum kernels_type kernels_type_of(enum kith_row_type rows);
uint32_t kernels_row_bytes(enum kernels_type type, uint32_t dim);

#endif
