/* The AVX2 variant: eight registers of 8 partial sums; see kernels_avx512.c for the shape. */
#ifdef __x86_64__
#include <immintrin.h>
#include <stdbool.h>
#include <stddef.h>
#include <string.h>

#include "shard/index/kernels_choose.h"
#include "shard/index/kernels_sum.h"

#define AVX2   __attribute__((target("avx2,fma,f16c")))
#define INLINE static inline __attribute__((always_inline)) AVX2

#define FAR_BYTES  8192
#define NEAR_BYTES 512
#define PICK_BYTES 2048

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

INLINE void prefetch(const uint8_t *at, size_t bytes)
{
    for (size_t line = 0; line < bytes; line += 64) {
        _mm_prefetch((const char *)at + FAR_BYTES + line, _MM_HINT_T1);
        _mm_prefetch((const char *)at + NEAR_BYTES + line, _MM_HINT_T0);
    }
}

/* query NULL (a constant where this is inlined): the row with itself. eights: how many whole
 * groups of 8 follow the whole groups of 64; where it is a constant, the sums stay in registers. */
INLINE float one_row(const float *query, const uint8_t *row, uint32_t dim, uint32_t eights,
                     enum kernels_form form, enum kernels_type type)
{
    const size_t width = type == KERNELS_F16 ? 2 : 4;
    __m256 sum[8];
    for (uint32_t j = 0; j < 8; j++)
        sum[j] = _mm256_setzero_ps();
    uint32_t i = 0;
    for (; i + 64 <= dim; i += 64) {
        const uint8_t *at = row + i * width;
        prefetch(at, 64 * width);
        for (uint32_t j = 0; j < 8; j++) {
            __m256 r = load(at + 8 * j * width, type);
            __m256 q = query == NULL ? r : _mm256_loadu_ps(query + i + 8 * j);
            sum[j] = step(sum[j], q, r, form);
        }
    }
    prefetch(row + i * width, (dim - i) * width);
    for (uint32_t j = 0; j < eights; j++, i += 8) {
        __m256 r = load(row + i * width, type);
        __m256 q = query == NULL ? r : _mm256_loadu_ps(query + i);
        sum[j] = step(sum[j], q, r, form);
    }
    uint32_t left = dim % 8;
    if (left > 0) {
        __m256 r = load_tail(row + i * width, type, left, i >= 8);
        __m256 q = query == NULL ? r : load_tail_f32(query + i, left);
        sum[eights] = step(sum[eights], q, r, form);
    }
    return fold(sum);
}

INLINE void scan_eights(const float *query, struct kernels_rows rows, uint32_t n, float *ranks,
                        uint32_t eights, enum kernels_form form, enum kernels_type type)
{
    const uint8_t *row = rows.data;
    size_t row_bytes = (size_t)rows.dim * (type == KERNELS_F16 ? 2 : 4);
    for (uint32_t i = 0; i < n; i++, row += row_bytes)
        ranks[i] = kernels_rank(form, one_row(query, row, rows.dim, eights, form, type));
}

INLINE void scan(const float *query, struct kernels_rows rows, uint32_t n, float *ranks,
                 enum kernels_form form, enum kernels_type type)
{
    switch (rows.dim % KERNELS_LANES / 8) {
    case 0:
        scan_eights(query, rows, n, ranks, 0, form, type);
        break;
    case 1:
        scan_eights(query, rows, n, ranks, 1, form, type);
        break;
    case 2:
        scan_eights(query, rows, n, ranks, 2, form, type);
        break;
    case 3:
        scan_eights(query, rows, n, ranks, 3, form, type);
        break;
    case 4:
        scan_eights(query, rows, n, ranks, 4, form, type);
        break;
    case 5:
        scan_eights(query, rows, n, ranks, 5, form, type);
        break;
    case 6:
        scan_eights(query, rows, n, ranks, 6, form, type);
        break;
    default:
        scan_eights(query, rows, n, ranks, 7, form, type);
    }
}

INLINE void pick(const float *query, struct kernels_rows rows, const uint32_t *list, uint32_t n,
                 float *ranks, enum kernels_form form, enum kernels_type type)
{
    const uint8_t *data = rows.data;
    size_t row_bytes = (size_t)rows.dim * (type == KERNELS_F16 ? 2 : 4);
    for (uint32_t i = 0; i < n; i++) {
        if (i + 2 < n)
            for (size_t line = 0; line < row_bytes && line < PICK_BYTES; line += 64)
                _mm_prefetch((const char *)data + list[i + 2] * row_bytes + line, _MM_HINT_T0);
        ranks[i] = kernels_rank(form, one_row(query, data + list[i] * row_bytes, rows.dim,
                                              rows.dim % KERNELS_LANES / 8, form, type));
    }
}

#define VARIANT(name_, form_, type_)                                                               \
    AVX2 static void scan_##name_(const float *query, struct kernels_rows rows, uint32_t n,        \
                                  float *ranks)                                                    \
    {                                                                                              \
        scan(query, rows, n, ranks, form_, type_);                                                 \
    }                                                                                              \
    AVX2 static void pick_##name_(const float *query, struct kernels_rows rows,                    \
                                  const uint32_t *list, uint32_t n, float *ranks)                  \
    {                                                                                              \
        pick(query, rows, list, n, ranks, form_, type_);                                           \
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
        out[i] =
            one_row(NULL, row, rows.dim, rows.dim % KERNELS_LANES / 8, KERNELS_IP, KERNELS_F32);
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

const struct kernels kernels_avx2_table = {
    .name = "avx2",
    .scan = {{scan_ip_f32, scan_ip_f16}, {scan_l2_f32, scan_l2_f16}, {scan_l1_f32, scan_l1_f16}},
    .pick = {{pick_ip_f32, pick_ip_f16}, {pick_l2_f32, pick_l2_f16}, {pick_l1_f32, pick_l1_f16}},
    .norms = norms,
    .select = select_ranks,
    .choose = choose,
};
#endif
