/* Products of bytes by the dot product instructions of ARMv8.2-A, for CPUs that have them; the
 * build system compiles this file, and no other, for such. */
#ifdef __aarch64__
#include <arm_neon.h>

#define INLINE static inline __attribute__((always_inline))

INLINE int32x4_t add_products(int32x4_t sum, int8x16_t a, int8x16_t b)
{
    return vdotq_s32(sum, a, b);
}

INLINE uint32x4_t add_bytes(uint32x4_t sum, uint8x16_t x)
{
    return vdotq_u32(sum, x, vdupq_n_u8(1));
}

#include "shard/index/ivf_kernels_neon_bytes.h"

void ivf_kernels_dotprod_rank(const struct ivf_kernels_lists *lists, float *keys, float *maxima)
{
    rank(lists, keys, maxima, false);
}

void ivf_kernels_dotprod_rank_l1(const struct ivf_kernels_lists *lists, float *keys, float *maxima)
{
    rank(lists, keys, maxima, true);
}

void ivf_kernels_dotprod_dot8(const struct ivf_kernels_rows8 *rows8, const uint32_t *list,
                              uint32_t n, float *scores)
{
    dot_rows(rows8, list, n, scores);
}

void ivf_kernels_dotprod_sad8(const struct ivf_kernels_rows8 *rows8, const uint32_t *list,
                              uint32_t n, float *scores)
{
    sad_rows(rows8, list, n, scores);
}
#endif
