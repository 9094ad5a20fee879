/* The AVX2 variant, and the AVX-512 one, which has its scans and its own selections.
 *
 * Eight registers of 8 partial sums, one row at a time, and no software prefetch in a scan: rows
 * that follow each other come from memory as fast as a plain read of them, because the hardware's
 * prefetcher is ahead by itself. On Zen 4, over a plain read, rows of 256 MiB, d = 100 to 1024:
 * 0.93-1.05 (f32), 0.8-1.0 (f16, whose conversion does not always hide behind the read).
 * Rows from a list are not foreseen by anyone: the first lines of a row PICK_ROWS on are asked for,
 * and the hardware goes on from there.
 *
 * Lost, as parts of a plain read in the same rounds. Prefetches into L2 8 KiB ahead and into L1 512
 * bytes ahead: 0.70-0.80; into L2 2 or 4 KiB ahead 0.7-1.0. Four registers of 16 (AVX-512) without
 * a prefetch: f32 0.75-1.0, f16 0.6-0.9, for at most 1.2 times the rate on rows in L2. All of these
 * wait for more lines at once, and are then served by no more than the L1's miss buffers, it seems;
 * there was nothing to count misses with. Two or four rows at a time, half a block apart, 0.8-1.0;
 * adjacent ones 0.3-0.7. In picks, the first 2 KiB of a row prefetched, not 512 bytes: 0.7-1.0 of
 * the rate. */
#ifdef __x86_64__
#include <immintrin.h>
#include <stdbool.h>
#include <stddef.h>
#include <string.h>

#include "shard/index/kernels_choose.h"
#include "shard/index/kernels_sum.h"

#define AVX2   __attribute__((target("avx2,fma,f16c")))
#define AVX512 __attribute__((target("avx512f,avx512bw,avx512vl,avx512dq,fma,f16c")))
#define INLINE static inline __attribute__((always_inline)) AVX2

#define PICK_BYTES 512
#define PICK_ROWS  4u

INLINE __m256 load(const uint8_t *row, enum kernels_type type)
{
    if (type == KERNELS_F16)
        return _mm256_cvtph_ps(_mm_loadu_si128((const void *)row));
    return _mm256_loadu_ps((const void *)row);
}

INLINE __m256 load_tail_f32(const void *at, uint32_t n)
{
    __m256i mask =
        _mm256_cmpgt_epi32(_mm256_set1_epi32((int)n), _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7));
    return _mm256_maskload_ps(at, mask);
}

/* There is no masked load of halves: the eight that end where the row ends are shifted down. A row
 * shorter than eight is copied. */
INLINE __m256 load_tail_f16(const uint8_t *at, uint32_t n, bool eight_before)
{
    static const uint8_t shift[32] = {0,    1,    2,    3,    4,    5,    6,    7,
                                      8,    9,    10,   11,   12,   13,   14,   15,
                                      0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80,
                                      0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80};
    uint8_t halves[16] = {0};
    if (!eight_before) {
        memcpy(halves, at, 2 * (size_t)n);
        return _mm256_cvtph_ps(_mm_loadu_si128((const void *)halves));
    }
    __m128i last = _mm_loadu_si128((const void *)(at + 2 * n - 16));
    __m128i order = _mm_loadu_si128((const void *)(shift + 16 - 2 * n));
    return _mm256_cvtph_ps(_mm_shuffle_epi8(last, order));
}

/* The first n (1 .. 7) elements, the others +0. */
INLINE __m256 load_tail(const uint8_t *at, enum kernels_type type, uint32_t n, bool eight_before)
{
    return type == KERNELS_F16 ? load_tail_f16(at, n, eight_before) : load_tail_f32(at, n);
}

INLINE __m256 step(__m256 sum, __m256 q, __m256 r, enum kernels_form form)
{
    if (form == KERNELS_IP)
        return _mm256_fmadd_ps(q, r, sum);
    __m256 gap = _mm256_sub_ps(q, r);
    if (form == KERNELS_L2)
        return _mm256_fmadd_ps(gap, gap, sum);
    return _mm256_add_ps(sum, _mm256_andnot_ps(_mm256_set1_ps(-0.0f), gap));
}

INLINE float fold(const __m256 sum[8])
{
    __m256 low = _mm256_add_ps(_mm256_add_ps(sum[0], sum[2]), _mm256_add_ps(sum[4], sum[6]));
    __m256 high = _mm256_add_ps(_mm256_add_ps(sum[1], sum[3]), _mm256_add_ps(sum[5], sum[7]));
    __m256 s8 = _mm256_add_ps(low, high);
    __m128 s4 = _mm_add_ps(_mm256_castps256_ps128(s8), _mm256_extractf128_ps(s8, 1));
    __m128 s2 = _mm_add_ps(s4, _mm_movehl_ps(s4, s4));
    return _mm_cvtss_f32(_mm_add_ss(s2, _mm_movehdup_ps(s2)));
}

/* eights: how many whole groups of 8 follow the whole groups of 64; where it is a constant, the
 * sums stay in registers. */
INLINE float one_row(const float *query, const uint8_t *row, uint32_t dim, uint32_t eights,
                     enum kernels_form form, enum kernels_type type)
{
    const size_t width = type == KERNELS_F16 ? 2 : 4;
    __m256 sum[8];
    for (uint32_t j = 0; j < 8; j++)
        sum[j] = _mm256_setzero_ps();
    size_t i = 0;
    for (; i + 64 <= dim; i += 64)
        for (uint32_t j = 0; j < 8; j++)
            sum[j] = step(sum[j], _mm256_loadu_ps(query + i + 8 * j),
                          load(row + (i + 8 * j) * width, type), form);
    for (uint32_t j = 0; j < eights; j++, i += 8)
        sum[j] = step(sum[j], _mm256_loadu_ps(query + i), load(row + i * width, type), form);
    uint32_t left = dim % 8;
    if (left > 0)
        sum[eights] = step(sum[eights], load_tail_f32(query + i, left),
                           load_tail(row + i * width, type, left, i >= 8), form);
    return fold(sum);
}

/* Row i, or row list[i] where there is a list (a constant where this is inlined). */
INLINE void rank_eights(const float *query, struct kernels_rows rows, const uint32_t *list,
                        uint32_t n, float *ranks, uint32_t eights, enum kernels_form form,
                        enum kernels_type type)
{
    const uint8_t *data = rows.data;
    size_t row_bytes = (size_t)rows.dim * (type == KERNELS_F16 ? 2 : 4);
    for (uint32_t i = 0; i < n; i++) {
        if (list != NULL && i + PICK_ROWS < n)
            for (size_t line = 0; line < row_bytes && line < PICK_BYTES; line += 64)
                _mm_prefetch((const char *)data + list[i + PICK_ROWS] * row_bytes + line,
                             _MM_HINT_T0);
        size_t row = list == NULL ? i : list[i];
        ranks[i] = kernels_rank(
            form, one_row(query, data + row * row_bytes, rows.dim, eights, form, type));
    }
}

INLINE void rank(const float *query, struct kernels_rows rows, const uint32_t *list, uint32_t n,
                 float *ranks, enum kernels_form form, enum kernels_type type)
{
    switch (rows.dim % KERNELS_LANES / 8) {
    case 0:
        rank_eights(query, rows, list, n, ranks, 0, form, type);
        break;
    case 1:
        rank_eights(query, rows, list, n, ranks, 1, form, type);
        break;
    case 2:
        rank_eights(query, rows, list, n, ranks, 2, form, type);
        break;
    case 3:
        rank_eights(query, rows, list, n, ranks, 3, form, type);
        break;
    case 4:
        rank_eights(query, rows, list, n, ranks, 4, form, type);
        break;
    case 5:
        rank_eights(query, rows, list, n, ranks, 5, form, type);
        break;
    case 6:
        rank_eights(query, rows, list, n, ranks, 6, form, type);
        break;
    default:
        rank_eights(query, rows, list, n, ranks, 7, form, type);
    }
}

#define VARIANT(name_, form_, type_)                                                               \
    AVX2 static void scan_##name_(const float *query, struct kernels_rows rows, uint32_t n,        \
                                  float *ranks)                                                    \
    {                                                                                              \
        rank(query, rows, NULL, n, ranks, form_, type_);                                           \
    }                                                                                              \
    AVX2 static void pick_##name_(const float *query, struct kernels_rows rows,                    \
                                  const uint32_t *list, uint32_t n, float *ranks)                  \
    {                                                                                              \
        rank(query, rows, list, n, ranks, form_, type_);                                           \
    }

VARIANT(ip_f32, KERNELS_IP, KERNELS_F32)
VARIANT(l2_f32, KERNELS_L2, KERNELS_F32)
VARIANT(l1_f32, KERNELS_L1, KERNELS_F32)
VARIANT(ip_f16, KERNELS_IP, KERNELS_F16)
VARIANT(l2_f16, KERNELS_L2, KERNELS_F16)
VARIANT(l1_f16, KERNELS_L1, KERNELS_F16)

AVX2 static void norms(struct kernels_rows rows, uint32_t n, float *out)
{
    const uint8_t *row = rows.data;
    for (uint32_t i = 0; i < n; i++, row += (size_t)rows.dim * 4)
        out[i] = one_row((const void *)row, row, rows.dim, rows.dim % KERNELS_LANES / 8, KERNELS_IP,
                         KERNELS_F32);
}

AVX2 static uint32_t select_ranks(const float *ranks, uint32_t n, float bound, uint32_t *out)
{
    __m256 limit = _mm256_set1_ps(bound);
    uint32_t n_out = 0;
    uint32_t i = 0;
    for (; i + 8 <= n; i += 8) {
        uint32_t hit = (uint32_t)_mm256_movemask_ps(
            _mm256_cmp_ps(_mm256_loadu_ps(ranks + i), limit, _CMP_NLT_UQ));
        for (; hit != 0; hit &= hit - 1)
            out[n_out++] = i + (uint32_t)__builtin_ctz(hit);
    }
    return kernels_select_from(ranks, i, n, bound, n_out, out);
}

AVX2 static void choose(const struct kernels_products *products, const float *bounds,
                        uint32_t *counts, uint32_t *lists)
{
    uint32_t n_queries = products->n_queries;
    memset(counts, 0, n_queries * sizeof *counts);
    for (uint32_t r = 0; r < products->n_rows; r++) {
        const float *values = products->values + (size_t)r * n_queries;
        __m256 minus = _mm256_set1_ps(kernels_minus(products, r));
        uint32_t q = 0;
        for (; q + 8 <= n_queries; q += 8) {
            __m256 value = _mm256_sub_ps(_mm256_loadu_ps(values + q), minus);
            uint32_t hit = (uint32_t)_mm256_movemask_ps(
                _mm256_cmp_ps(value, _mm256_loadu_ps(bounds + q), _CMP_NLT_UQ));
            for (; hit != 0; hit &= hit - 1) {
                uint32_t query = q + (uint32_t)__builtin_ctz(hit);
                lists[(size_t)query * products->n_rows + counts[query]++] = r;
            }
        }
        kernels_choose_from(products, r, q, bounds, counts, lists);
    }
}

/* The mask of the first n lanes, all 16 when n is larger. */
AVX512 static inline __mmask16 first_lanes(uint32_t n)
{
    uint32_t bits = n >= 16 ? 0xffffu : (1u << n) - 1u;
    return (__mmask16)bits;
}

AVX512 static uint32_t select_ranks_512(const float *ranks, uint32_t n, float bound, uint32_t *out)
{
    __m512 limit = _mm512_set1_ps(bound);
    uint32_t n_out = 0;
    for (uint32_t i = 0; i < n; i += 16) {
        __mmask16 live = first_lanes(n - i);
        __m512 values = _mm512_maskz_loadu_ps(live, ranks + i);
        uint32_t hit = _mm512_mask_cmp_ps_mask(live, values, limit, _CMP_NLT_UQ);
        for (; hit != 0; hit &= hit - 1)
            out[n_out++] = i + (uint32_t)__builtin_ctz(hit);
    }
    return n_out;
}

AVX512 static void choose_512(const struct kernels_products *products, const float *bounds,
                              uint32_t *counts, uint32_t *lists)
{
    uint32_t n_queries = products->n_queries;
    memset(counts, 0, n_queries * sizeof *counts);
    for (uint32_t r = 0; r < products->n_rows; r++) {
        const float *values = products->values + (size_t)r * n_queries;
        __m512 minus = _mm512_set1_ps(kernels_minus(products, r));
        for (uint32_t q = 0; q < n_queries; q += 16) {
            __mmask16 live = first_lanes(n_queries - q);
            __m512 value = _mm512_sub_ps(_mm512_maskz_loadu_ps(live, values + q), minus);
            __m512 bound = _mm512_maskz_loadu_ps(live, bounds + q);
            uint32_t hit = _mm512_mask_cmp_ps_mask(live, value, bound, _CMP_NLT_UQ);
            for (; hit != 0; hit &= hit - 1) {
                uint32_t query = q + (uint32_t)__builtin_ctz(hit);
                lists[(size_t)query * products->n_rows + counts[query]++] = r;
            }
        }
    }
}

#define RANKS                                                                                      \
    .scan = {{scan_ip_f32, scan_ip_f16}, {scan_l2_f32, scan_l2_f16}, {scan_l1_f32, scan_l1_f16}},  \
    .pick = {{pick_ip_f32, pick_ip_f16}, {pick_l2_f32, pick_l2_f16}, {pick_l1_f32, pick_l1_f16}},  \
    .norms = norms

const struct kernels kernels_avx2_table = {
    .name = "avx2", RANKS, .select = select_ranks, .choose = choose};

const struct kernels kernels_avx512_table = {
    .name = "avx512", RANKS, .select = select_ranks_512, .choose = choose_512};
#endif
