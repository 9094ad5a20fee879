/* The inner loops of building an index, written once and compiled for three instruction sets (the
 * baseline, AVX2 + FMA, AVX-512), the best of which is chosen by CPUID.
 *
 * Sums may differ between the variants in the last bits, because some of them fuse multiplications
 * with additions: codes are estimates. Owns: nothing. Threads: any. */
#ifndef BUILD_KERNELS_H
#define BUILD_KERNELS_H

#include <stdint.h>

#define BUILD_LANES 32u /* rows of a block, one below the other: value j of row r at [j][r] */
#define BUILD_WORDS 16u /* code words of a sub-quantizer: value j of word k at [j][k] */

struct build_kernels {
    const char *name;
    /* The index of the largest of n >= 1 values, the first of equals; any when none is a number. */
    uint32_t (*largest)(const float *values, uint32_t n);
    float (*square)(const float *values, uint32_t n); /* the sum of squares */
    float (*product)(const float *a, const float *b, uint32_t n);
    float (*most)(const float *values, uint32_t n); /* the largest |value|; 0 of none */
    /* The sum of squares of values[i] - scale * (bytes[i] - 128). */
    float (*rounding)(const float *values, const uint8_t *bytes, uint32_t n, float scale);
    /* codes[r] of the word nearest to row r: the one with the largest <row, word> - halves[word].
     */
    void (*encode)(const float *rows, const float *words, const float *halves, uint32_t sub_dim,
                   uint8_t *codes);
    /* out[i] = 128 + values[i] * steps, rounded; the caller knows that it fits. */
    void (*bytes)(const float *values, uint32_t n, float steps, uint8_t *out);
};

const struct build_kernels *build_kernels(void);
/* The variants this CPU can run, the baseline first; NULL past the last. For tests. */
const struct build_kernels *build_kernels_variant(uint32_t index);

#endif
