/* The nearest centroid of each of many rows by products of bytes, which are four times as many an
 * instruction as products of floats. They only choose: each is enlarged by the most that its
 * roundings can amount to (Cauchy-Schwarz), and the few centroids that may be the nearest then are
 * compared by floats. So what is found is what floats alone would find.
 *
 * Owns: the centroids as bytes. Threads: any may find; scratch memory belongs to one at a time.
 * Errors: KITH_NOMEM. */
#ifndef NEAREST_BYTES_H
#define NEAREST_BYTES_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "proto/kith_err.h"
#include "shard/index/nearest_kernels.h"

struct nearest_rows {
    const float *values;   /* n * width, prepared (nearest.h) */
    const float *lengths2; /* what nearest_prepare said of each */
    uint32_t n;
};

struct nearest_bytes {
    const struct nearest_kernels *kernels; /* NULL: not on this CPU */
    bool usable;                           /* false: of lengths that bytes cannot tell apart */
    uint32_t n, n_padded, dim, width, dim4;
    float length_max, error_max;
    uint8_t *bytes;
    float *scales, *halves, *lengths, *errors, *lifts; /* one block of memory */
};

/* For n centroids of `dim` numbers, prepared of `width` (nearest.h). */
enum kith_err nearest_bytes_init(struct nearest_bytes *bytes, uint32_t n, uint32_t dim,
                                 uint32_t width, const struct nearest_kernels *kernels,
                                 struct kith_diag *diag);
void nearest_bytes_fini(struct nearest_bytes *bytes); /* a zeroed one is allowed */
/* The centroids are these now, prepared. */
void nearest_bytes_set(struct nearest_bytes *bytes, const float *centroids);

/* For so many rows. */
size_t nearest_bytes_scratch(const struct nearest_bytes *bytes, uint32_t n_rows);
/* As nearest_find; false: these rows are better compared by floats, and nothing is said. */
bool nearest_bytes_find(const struct nearest_bytes *bytes, const float *centroids,
                        const struct nearest_rows *rows, void *scratch, uint32_t *lists,
                        float *scores);

#endif
