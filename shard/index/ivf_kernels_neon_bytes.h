/* What is summed from products or differences of bytes, with NEON: written once, compiled for the
 * base of ARMv8-A (ivf_kernels_neon.c) and for CPUs with its dot products
 * (ivf_kernels_dotprod.c). Only for these two, which before they include this define INLINE and
 *
 *   int32x4_t add_products(int32x4_t sum, int8x16_t a, int8x16_t b)
 *       to lane i the products of bytes 4 i .. 4 i + 3; no byte of a is -128
 *   uint32x4_t add_bytes(uint32x4_t sum, uint8x16_t x)
 *       to lane i bytes 4 i .. 4 i + 3
 */
#ifndef IVF_KERNELS_NEON_BYTES_H
#define IVF_KERNELS_NEON_BYTES_H

#include <arm_neon.h>
#include <math.h>
#include <stdbool.h>
#include <stddef.h>
#include <string.h>

#include "shard/index/ivf_format.h"
#include "shard/index/ivf_kernels.h"

/* ivf_kernels_dotprod.c has these. */
void ivf_kernels_dotprod_rank(const struct ivf_kernels_lists *lists, float *keys, float *maxima);
void ivf_kernels_dotprod_rank_l1(const struct ivf_kernels_lists *lists, float *keys, float *maxima);
void ivf_kernels_dotprod_dot8(const struct ivf_kernels_rows8 *rows8, const uint32_t *list,
                              uint32_t n, float *scores);
void ivf_kernels_dotprod_sad8(const struct ivf_kernels_rows8 *rows8, const uint32_t *list,
                              uint32_t n, float *scores);

INLINE uint32x4_t add_gaps(uint32x4_t sum, int8x16_t a, int8x16_t b)
{
    return add_bytes(sum, vreinterpretq_u8_s8(vabdq_s8(a, b)));
}

INLINE int8x16_t four_bytes(const int8_t *at)
{
    int32_t bytes;
    memcpy(&bytes, at, sizeof bytes);
    return vreinterpretq_s8_s32(vdupq_n_s32(bytes));
}

INLINE void keep_maxima(uint32_t list, float32x4_t keys, float *maxima)
{
    float *at = maxima + list / IVF_KERNELS_SPAN * IVF_KERNELS_LANES + list % IVF_KERNELS_LANES;
    if (list % IVF_KERNELS_SPAN >= IVF_KERNELS_LANES)
        keys = vmaxq_f32(keys, vld1q_f32(at));
    vst1q_f32(at, keys);
}

INLINE void rank(const struct ivf_kernels_lists *lists, float *keys, float *maxima, bool l1)
{
    const int8_t *bytes = lists->centroids;
    for (uint32_t c = 0; c < lists->n; c += IVF_KERNELS_LANES) {
        int32x4_t sum[4];
        for (uint32_t j = 0; j < 4; j++)
            sum[j] = vdupq_n_s32(0);
        for (uint32_t group = 0; group < lists->dim4; group++, bytes += 64) {
            int8x16_t query = four_bytes(lists->query + group * 4);
            for (uint32_t j = 0; j < 4; j++) {
                int8x16_t x = vld1q_s8(bytes + 16 * j);
                sum[j] =
                    l1 ? vreinterpretq_s32_u32(add_gaps(vreinterpretq_u32_s32(sum[j]), query, x))
                       : add_products(sum[j], query, x);
            }
        }
        for (uint32_t j = 0; j < 4; j++) {
            uint32_t at = c + 4 * j;
            float32x4_t key = vcvtq_f32_s32(sum[j]);
            key = l1 ? vmulq_n_f32(key, -lists->scale)
                     : vfmaq_n_f32(vnegq_f32(vld1q_f32(lists->minus + at)), key, lists->scale);
            vst1q_f32(keys + at, key);
            keep_maxima(at, key, maxima);
        }
    }
}

/* Unsigned row bytes are made signed by the top bit, so 128 times the query's sum is already
 * missing from the result. */
INLINE void dot_rows(const struct ivf_kernels_rows8 *rows8, const uint32_t *list, uint32_t n,
                     float *scores)
{
    const uint8x16_t top = vdupq_n_u8(0x80);
    for (uint32_t i = 0; i < n; i++) {
        const uint8_t *row = rows8->rows + (size_t)list[i] * rows8->row_bytes;
        int32x4_t sum[4];
        for (uint32_t k = 0; k < 4; k++)
            sum[k] = vdupq_n_s32(0);
        for (uint32_t j = 0; j < rows8->row_bytes; j += 64)
            for (uint32_t k = 0; k < 4; k++) {
                uint8x16_t x = veorq_u8(vld1q_u8(row + j + 16 * k), top);
                uint8x16_t q = vld1q_u8(rows8->query + j + 16 * k);
                sum[k] = add_products(sum[k], vreinterpretq_s8_u8(q), vreinterpretq_s8_u8(x));
            }
        int32x4_t all = vaddq_s32(vaddq_s32(sum[0], sum[1]), vaddq_s32(sum[2], sum[3]));
        float tail[2];
        memcpy(tail, ivf_format_tail(row, rows8->row_bytes), sizeof tail);
        scores[i] = fmaf((float)vaddvq_s32(all) * rows8->scale, tail[0], tail[1]);
    }
}

INLINE void sad_rows(const struct ivf_kernels_rows8 *rows8, const uint32_t *list, uint32_t n,
                     float *scores)
{
    for (uint32_t i = 0; i < n; i++) {
        const uint8_t *row = rows8->rows + (size_t)list[i] * rows8->row_bytes;
        uint32x4_t sum[4];
        for (uint32_t k = 0; k < 4; k++)
            sum[k] = vdupq_n_u32(0);
        for (uint32_t j = 0; j < rows8->row_bytes; j += 64)
            for (uint32_t k = 0; k < 4; k++)
                sum[k] = add_bytes(sum[k], vabdq_u8(vld1q_u8(row + j + 16 * k),
                                                    vld1q_u8(rows8->query + j + 16 * k)));
        uint32x4_t all = vaddq_u32(vaddq_u32(sum[0], sum[1]), vaddq_u32(sum[2], sum[3]));
        scores[i] = (float)(int32_t)vaddvq_u32(all) * -rows8->scale;
    }
}

#endif
