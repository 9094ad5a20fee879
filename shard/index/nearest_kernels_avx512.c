/* 8 rows with 32 centroids at a time: 16 sums in registers, two loads of centroids and 8 broadcasts
 * of rows for 16 instructions of 64 products. */
#ifdef __x86_64__
#include <float.h>
#include <immintrin.h>
#include <stddef.h>
#include <string.h>

#include "shard/index/nearest_kernels.h"

#define AVX512 __attribute__((target("avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,avx2,fma")))
#define INLINE static inline __attribute__((always_inline)) AVX512
#define ROWS   NEAREST_KERNELS_ROWS
#define LANES  NEAREST_KERNELS_LANES
/* Unrolled early, or gcc copies each sum back and forth. */
#define EACH_ROW _Pragma("GCC unroll 8") for (uint32_t r = 0; r < ROWS; r++)

INLINE int32_t four_bytes(const int8_t *at)
{
    int32_t bytes;
    memcpy(&bytes, at, sizeof bytes);
    return bytes;
}

/* sums[r] and sums[8 + r]: products of row r with centroids [0, 16) and [16, 32) at bytes. By
 * itself, because gcc then keeps all of them in registers. */
__attribute__((noinline)) AVX512 static void add_products(const uint8_t *bytes, uint32_t dim4,
                                                          const struct nearest_kernels_rows *rows,
                                                          __m512i *sums)
{
    const uint8_t *second = bytes + (size_t)dim4 * LANES * 4;
    const int8_t *row = rows->bytes;
    __m512i low[ROWS], high[ROWS];
    EACH_ROW
    low[r] = high[r] = _mm512_set1_epi32(-rows->sums128[r]);
    for (uint32_t group = 0; group < dim4; group++, row += 4 * ROWS) {
        __m512i x = _mm512_loadu_si512(bytes + (size_t)group * 64);
        __m512i y = _mm512_loadu_si512(second + (size_t)group * 64);
        EACH_ROW
        {
            __m512i four = _mm512_set1_epi32(four_bytes(row + 4 * r));
            low[r] = _mm512_dpbusd_epi32(low[r], x, four);
            high[r] = _mm512_dpbusd_epi32(high[r], y, four);
        }
    }
    EACH_ROW
    {
        sums[r] = low[r];
        sums[ROWS + r] = high[r];
    }
}

AVX512 static void find_bounds(const struct nearest_kernels_tile *tile,
                               const struct nearest_kernels_rows *rows, float *bounds,
                               float *maxima)
{
    __m512 most[ROWS];
    __m512i sums[2 * ROWS];
    for (uint32_t r = 0; r < ROWS; r++)
        most[r] = _mm512_set1_ps(-FLT_MAX);
    for (uint32_t c = 0; c < tile->n; c += LANES) {
        if (c % NEAREST_KERNELS_STEP == 0)
            add_products(tile->bytes + (size_t)c * tile->dim4 * 4, tile->dim4, rows, sums);
        __m512 scales = _mm512_loadu_ps(tile->scales + c);
        __m512 halves = _mm512_loadu_ps(tile->halves + c);
        __m512 lifts = _mm512_loadu_ps(tile->lifts + c);
        __m512 lengths = _mm512_loadu_ps(tile->lengths + c);
        __m512 errors = _mm512_loadu_ps(tile->errors + c);
        for (uint32_t r = 0; r < ROWS; r++) {
            __m512 sum = _mm512_cvtepi32_ps(sums[c / LANES % 2 * ROWS + r]);
            __m512 scale = _mm512_mul_ps(scales, _mm512_set1_ps(rows->scales[r]));
            __m512 bound = _mm512_fmsub_ps(sum, scale, halves);
            bound = _mm512_fmadd_ps(lifts, _mm512_set1_ps(rows->lifts[r]), bound);
            bound = _mm512_fmadd_ps(lengths, _mm512_set1_ps(rows->errors[r]), bound);
            bound = _mm512_fmadd_ps(errors, _mm512_set1_ps(rows->lengths[r]), bound);
            _mm512_storeu_ps(bounds + (size_t)r * tile->n + c, bound);
            most[r] = _mm512_max_ps(most[r], bound);
        }
    }
    for (uint32_t r = 0; r < ROWS; r++)
        maxima[r] = _mm512_reduce_max_ps(most[r]);
}

const struct nearest_kernels nearest_kernels_avx512 = {"avx512", find_bounds};
#endif
