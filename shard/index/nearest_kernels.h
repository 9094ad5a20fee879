/* Upper bounds of the scores of rows with centroids, by products of bytes: the inner loop of
 * nearest_bytes.h.
 *
 * Two variants (scalar, for tests; AVX-512 with VNNI). Integer sums are equal, and the few steps in
 * floating point are fused in one order, so both give the same to the bit. Owns: nothing. Threads:
 * any. */
#ifndef NEAREST_KERNELS_H
#define NEAREST_KERNELS_H

#include <stdint.h>

#define NEAREST_KERNELS_ROWS  8u  /* rows of a call */
#define NEAREST_KERNELS_LANES 16u /* centroids that lie together */
#define NEAREST_KERNELS_STEP  32u /* their number is a multiple of it */

/* Centroid c is about scales[c] * (its bytes - 128); value j at [c / 16][j / 4][c % 16][j % 4]. */
struct nearest_kernels_tile {
    const uint8_t *bytes;
    const float *scales, *halves; /* what is subtracted from a product */
    const float *lengths;         /* of the centroid */
    const float *errors;          /* length of what the bytes leave */
    const float *lifts;           /* one more coordinate, no byte; 0 of a centroid that has none */
    uint32_t n, dim4;             /* dim4: ceil(dimensions / 4) */
};

/* Row r is about scales[r] * (its bytes); value j at [j / 4][r][j % 4]. */
struct nearest_kernels_rows {
    const int8_t *bytes;
    const int32_t *sums128; /* 128 * the sum of its bytes */
    const float *scales;
    const float *lengths; /* of scale * bytes, at least */
    const float *errors;  /* length of what the bytes leave, at least */
    const float *lifts;
};

struct nearest_kernels {
    const char *name;
    /* bounds[r * n + c] = product of bytes * scales - half + product of lifts + error of r * length
     * of c + length of r * error of c; maxima[r]: the largest of row r. */
    void (*bounds)(const struct nearest_kernels_tile *tile, const struct nearest_kernels_rows *rows,
                   float *bounds, float *maxima);
};

/* NULL: this CPU has no fast one. */
const struct nearest_kernels *nearest_kernels_best(void);
/* Those that this CPU can run, scalar first; NULL past the last. For tests. */
const struct nearest_kernels *nearest_kernels_variant(uint32_t index);

#ifdef __x86_64__
extern const struct nearest_kernels nearest_kernels_avx512;
#endif

#endif
