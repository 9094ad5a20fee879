/* The order of summation that all kernel variants share.
 *
 * Term i of a sum goes to partial sum i % 64, each partial sum takes its terms in ascending order
 * by fused multiply-add (L1: plain addition), a missing term is the same as adding +0. Then, with
 * 64 partial sums s: (s[i] + s[i+16]) + (s[i+32] + s[i+48]) for i < 16, and those 16 are folded in
 * halves: 8 + 8, 4 + 4, 2 + 2, 1 + 1. With AVX2 that is eight registers, with NEON sixteen.
 *
 * Any order of n additions with fused products is within n * u / (1 - n * u) * sum |terms| of the
 * true value, u = 2^-24 (Higham, Accuracy and Stability of Numerical Algorithms, 2nd ed., 3.1).
 * kernels_gamma gives that factor; here n is about dim / 64 + 6, so it is generous. */
#ifndef KERNELS_SUM_H
#define KERNELS_SUM_H

#include <float.h>
#include <stdint.h>

#include "shard/index/kernels.h"

#define KERNELS_LANES 64u

static inline float kernels_finite(float rank)
{
    /* Written so that a NaN fails the first test. */
    return rank > -FLT_MAX ? (rank < FLT_MAX ? rank : FLT_MAX) : -FLT_MAX;
}

static inline float kernels_rank(enum kernels_form form, float sum)
{
    return kernels_finite(form == KERNELS_IP ? sum : 0.0f - sum);
}

static inline double kernels_gamma(uint32_t n)
{
    double nu = (double)n * 0x1p-24;
    return nu / (1.0 - nu);
}

#ifdef __x86_64__
extern const struct kernels kernels_avx2_table;
extern const struct kernels kernels_avx512_table;
#endif
#ifdef __aarch64__
extern const struct kernels kernels_neon_table;
#endif

#endif
