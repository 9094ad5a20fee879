/* The AVX2 variant; see ivf_kernels_avx512.c for the shape. Products of bytes are made of 16-bit
 * ones, because vpmaddubsw saturates. */
#ifdef __x86_64__
#include <immintrin.h>
#include <math.h>
#include <stddef.h>
#include <string.h>

#include "shard/index/ivf_format.h"
#include "shard/index/ivf_kernels.h"

#define AVX2   __attribute__((target("avx2,fma,bmi,bmi2")))
#define INLINE static inline __attribute__((always_inline)) AVX2

#include "shard/index/ivf_kernels_count.h"
#include "shard/index/ivf_kernels_line.h"
#include "shard/index/ivf_kernels_scan_x86.h"

/* ---- lists ----------------------------------------------------------------------------------- */

INLINE __m256i four_bytes(const void *at)
{
    int32_t bytes;
    memcpy(&bytes, at, sizeof bytes);
    return _mm256_set1_epi32(bytes);
}

/* Signed bytes: |b| times a with the sign of b is a * b, and two such products fit 16 bits as long
 * as a is not -128. */
INLINE __m256i add_products(__m256i sum, __m256i a, __m256i b)
{
    __m256i pairs = _mm256_maddubs_epi16(_mm256_abs_epi8(b), _mm256_sign_epi8(a, b));
    return _mm256_add_epi32(sum, _mm256_madd_epi16(pairs, _mm256_set1_epi16(1)));
}

INLINE __m256i add_gaps(__m256i sum, __m256i a, __m256i b)
{
    __m256i gap = _mm256_sub_epi8(_mm256_max_epi8(a, b), _mm256_min_epi8(a, b));
    __m256i pairs = _mm256_maddubs_epi16(gap, _mm256_set1_epi8(1));
    return _mm256_add_epi32(sum, _mm256_madd_epi16(pairs, _mm256_set1_epi16(1)));
}

INLINE void keep_maxima(uint32_t list, __m256 keys, float *maxima)
{
    float *at = maxima + list / IVF_KERNELS_SPAN * IVF_KERNELS_LANES + list % IVF_KERNELS_LANES;
    if (list % IVF_KERNELS_SPAN >= IVF_KERNELS_LANES)
        keys = _mm256_max_ps(keys, _mm256_loadu_ps(at));
    _mm256_storeu_ps(at, keys);
}

INLINE void rank(const struct ivf_kernels_lists *lists, float *keys, float *maxima, int l1)
{
    const int8_t *bytes = lists->centroids;
    for (uint32_t c = 0; c < lists->n; c += IVF_KERNELS_LANES) {
        __m256i sum[2] = {_mm256_setzero_si256(), _mm256_setzero_si256()};
        for (uint32_t group = 0; group < lists->dim4; group++, bytes += 64) {
            __m256i query = four_bytes(lists->query + group * 4);
            for (uint32_t half = 0; half < 2; half++) {
                __m256i x = _mm256_loadu_si256((const void *)(bytes + 32 * half));
                sum[half] = l1 ? add_gaps(sum[half], query, x) : add_products(sum[half], query, x);
            }
        }
        for (uint32_t half = 0; half < 2; half++) {
            uint32_t at = c + 8 * half;
            __m256 key = _mm256_cvtepi32_ps(sum[half]);
            key = l1 ? _mm256_mul_ps(key, _mm256_set1_ps(-lists->scale))
                     : _mm256_fmsub_ps(key, _mm256_set1_ps(lists->scale),
                                       _mm256_loadu_ps(lists->minus + at));
            _mm256_storeu_ps(keys + at, key);
            keep_maxima(at, key, maxima);
        }
    }
}

AVX2 static void rank_lists(const struct ivf_kernels_lists *lists, float *keys, float *maxima)
{
    rank(lists, keys, maxima, 0);
}

AVX2 static void rank_lists_l1(const struct ivf_kernels_lists *lists, float *keys, float *maxima)
{
    rank(lists, keys, maxima, 1);
}

INLINE uint32_t not_below(const float *values, __m256 bound)
{
    return (uint32_t)_mm256_movemask_ps(_mm256_cmp_ps(_mm256_loadu_ps(values), bound, _CMP_GE_OQ));
}

AVX2 static uint32_t count(const float *values, uint32_t n, float bound)
{
    __m256 limit = _mm256_set1_ps(bound);
    uint32_t found = 0;
    for (uint32_t i = 0; i < n; i += 8)
        found += (uint32_t)__builtin_popcount(not_below(values + i, limit));
    return found;
}

AVX2 static uint32_t pick(const float *keys, const float *maxima, uint32_t n, float low, float high,
                          uint32_t *out)
{
    __m256 from = _mm256_set1_ps(low), to = _mm256_set1_ps(high);
    uint32_t found = 0;
    for (uint32_t span = 0; span < n; span += IVF_KERNELS_SPAN, maxima += IVF_KERNELS_LANES) {
        if ((not_below(maxima, from) | not_below(maxima + 8, from)) == 0)
            continue;
        uint32_t end = n - span < IVF_KERNELS_SPAN ? n : span + IVF_KERNELS_SPAN;
        for (uint32_t c = span; c < end; c += 8) {
            __m256 key = _mm256_loadu_ps(keys + c);
            __m256 in = _mm256_and_ps(_mm256_cmp_ps(key, from, _CMP_GE_OQ),
                                      _mm256_cmp_ps(key, to, _CMP_LT_OQ));
            for (uint32_t mask = (uint32_t)_mm256_movemask_ps(in); mask != 0; mask &= mask - 1)
                out[found++] = c + (uint32_t)__builtin_ctz(mask);
        }
    }
    return found;
}

/* ---- the query ------------------------------------------------------------------------------- */

AVX2 static void round_bytes(const float *values, uint32_t n, float scale, int8_t *out)
{
    for (uint32_t i = 0; i < n; i++)
        out[i] = (int8_t)_mm_cvtss_si32(_mm_set_ss(values[i] * scale));
}

INLINE float fold(__m256 a, __m256 b, int high)
{
    __m256 s = high ? _mm256_max_ps(a, b) : _mm256_min_ps(a, b);
    __m128 x = _mm256_castps256_ps128(s), y = _mm256_extractf128_ps(s, 1);
    x = high ? _mm_max_ps(x, y) : _mm_min_ps(x, y);
    y = _mm_movehl_ps(x, x);
    x = high ? _mm_max_ps(x, y) : _mm_min_ps(x, y);
    y = _mm_movehdup_ps(x);
    return _mm_cvtss_f32(high ? _mm_max_ss(x, y) : _mm_min_ss(x, y));
}

AVX2 static void products(const struct ivf_kernels_subs *subs, float *out, float *lows,
                          float *highs)
{
    const float *words = subs->subs, *query = subs->query;
    for (uint32_t s = 0; s < subs->n_subs; s++, out += 16) {
        __m256 a = _mm256_setzero_ps(), b = a;
        for (uint32_t j = 0; j < subs->sub_dim; j++, words += 16, query++) {
            __m256 q = _mm256_set1_ps(*query);
            a = _mm256_fmadd_ps(_mm256_loadu_ps(words), q, a);
            b = _mm256_fmadd_ps(_mm256_loadu_ps(words + 8), q, b);
        }
        _mm256_storeu_ps(out, a);
        _mm256_storeu_ps(out + 8, b);
        lows[s] = fold(a, b, 0);
        highs[s] = fold(a, b, 1);
    }
}

AVX2 static void tables(const float *values, const float *lows, uint32_t n_subs, float scale,
                        uint8_t *out)
{
    memset(out + ivf_kernels_tables_bytes(n_subs) - 128, 0, 128);
    for (uint32_t s = 0; s < n_subs; s++) {
        __m256 low = _mm256_set1_ps(lows[s]), times = _mm256_set1_ps(scale);
        __m256 a = _mm256_sub_ps(_mm256_loadu_ps(values + s * 16), low);
        __m256 b = _mm256_sub_ps(_mm256_loadu_ps(values + s * 16 + 8), low);
        __m256i x = _mm256_cvtps_epi32(_mm256_mul_ps(a, times));
        __m256i y = _mm256_cvtps_epi32(_mm256_mul_ps(b, times));
        __m256i words = _mm256_permute4x64_epi64(_mm256_packus_epi32(x, y), 0xd8);
        __m256i bytes = _mm256_permute4x64_epi64(_mm256_packus_epi16(words, words), 0xd8);
        _mm256_storeu_si256((void *)(out + ivf_kernels_table(s)),
                            _mm256_permute2x128_si256(bytes, bytes, 0x20));
    }
}

/* ---- codes ----------------------------------------------------------------------------------- */

/* Of a pair; the tables of its upper halves are 64 bytes behind those of the lower. The codes in a
 * register, from which both of a byte are taken: gcc would read them twice, and what a block takes
 * is loads as much as look-ups. */
INLINE __m256i two_subs(const uint8_t *codes, const uint8_t *tables, __m256i sum)
{
    const __m256i four_bits = _mm256_set1_epi8(15);
    __m256i x = _mm256_loadu_si256((const void *)codes);
    __asm__("" : "+x"(x));
    __m256i low = _mm256_load_si256((const void *)tables);
    __m256i high = _mm256_load_si256((const void *)(tables + 64));
    sum = _mm256_add_epi8(sum, _mm256_shuffle_epi8(low, _mm256_and_si256(x, four_bits)));
    x = _mm256_and_si256(_mm256_srli_epi16(x, 4), four_bits);
    return _mm256_add_epi8(sum, _mm256_shuffle_epi8(high, x));
}

/* Bytes are widened lazily: the even ones are summed together with 256 times the odd ones, whose
 * sum is then taken away. */
INLINE struct sums sum_block(const uint8_t *codes, const uint8_t *tables, uint32_t pairs,
                             int16_t bias, const uint8_t *ahead)
{
    const __m256i first = _mm256_set1_epi16(bias);
    __m256i even = first, odd = _mm256_setzero_si256();
    for (uint32_t n = PAIRS_AT_ONCE; pairs > 0;
         pairs -= n, ahead += GROUP_BYTES, tables += GROUP_TABLES) {
        n = pairs < PAIRS_AT_ONCE ? pairs : PAIRS_AT_ONCE;
        __m256i sum = _mm256_setzero_si256();
        fetch_group(ahead);
        for (uint32_t i = 0; i < n; i++, codes += 32)
            sum = two_subs(codes, tables + ivf_kernels_table(2 * i), sum);
        even = _mm256_add_epi16(even, sum);
        odd = _mm256_add_epi16(odd, _mm256_srli_epi16(sum, 8));
    }
    return (struct sums){_mm256_sub_epi16(even, _mm256_slli_epi16(odd, 8)),
                         _mm256_add_epi16(odd, first)};
}

INLINE uint32_t above(struct sums sums, int16_t bound)
{
    const __m256i limit = _mm256_set1_epi16(bound);
    __m256i even = _mm256_cmpgt_epi16(sums.even, limit), odd = _mm256_cmpgt_epi16(sums.odd, limit);
    __m256i bytes = _mm256_permute4x64_epi64(_mm256_packs_epi16(even, odd), 0xd8);
    return (uint32_t)_mm256_movemask_epi8(bytes);
}

AVX2 static uint32_t scan_codes(const struct ivf_kernels_scan *scan, uint32_t first, uint32_t end,
                                uint32_t *rows, int16_t *estimates, uint64_t *blocks)
{
    return scan_blocks(scan, first, end, rows, estimates, blocks);
}

AVX2 static uint32_t line_up(const uint64_t *allowed, uint32_t first, uint32_t end, int16_t bound,
                             struct ivf_kernels_line line)
{
    return line_up_blocks(allowed, first, end, bound, line);
}

AVX2 static uint32_t scan_listed(const struct ivf_kernels_scan *scan, struct ivf_kernels_line line,
                                 uint32_t n, uint32_t n_known, struct ivf_kernels_found *found)
{
    return scan_some_blocks(scan, line, n, n_known, found);
}

AVX2 static void count_rows(const uint64_t *allowed, const uint32_t *lists, uint32_t n,
                            uint32_t *rows)
{
    count_list_rows(allowed, lists, n, rows);
}

/* ---- rows of bytes --------------------------------------------------------------------------- */

INLINE int32_t fold_i32(__m256i sum)
{
    __m128i s = _mm_add_epi32(_mm256_castsi256_si128(sum), _mm256_extracti128_si256(sum, 1));
    s = _mm_add_epi32(s, _mm_shuffle_epi32(s, 0x4e));
    return _mm_cvtsi128_si32(_mm_add_epi32(s, _mm_shuffle_epi32(s, 0xb1)));
}

/* Unsigned row bytes are made signed by the top bit, so 128 times the query's sum is already
 * missing from the result. */
AVX2 static void dot8(const struct ivf_kernels_rows8 *rows8, const uint32_t *list, uint32_t n,
                      float *scores)
{
    const __m256i top = _mm256_set1_epi8((char)0x80);
    for (uint32_t i = 0; i < n; i++) {
        const uint8_t *row = rows8->rows + (size_t)list[i] * rows8->row_bytes;
        __m256i sum = _mm256_setzero_si256();
        for (uint32_t j = 0; j < rows8->row_bytes; j += 32) {
            __m256i x = _mm256_xor_si256(_mm256_loadu_si256((const void *)(row + j)), top);
            sum = add_products(sum, _mm256_loadu_si256((const void *)(rows8->query + j)), x);
        }
        float tail[2];
        memcpy(tail, ivf_format_tail(row, rows8->row_bytes), sizeof tail);
        scores[i] = fmaf((float)fold_i32(sum) * rows8->scale, tail[0], tail[1]);
    }
}

AVX2 static void sad8(const struct ivf_kernels_rows8 *rows8, const uint32_t *list, uint32_t n,
                      float *scores)
{
    for (uint32_t i = 0; i < n; i++) {
        const uint8_t *row = rows8->rows + (size_t)list[i] * rows8->row_bytes;
        __m256i sum = _mm256_setzero_si256();
        for (uint32_t j = 0; j < rows8->row_bytes; j += 32)
            sum = _mm256_add_epi64(
                sum, _mm256_sad_epu8(_mm256_loadu_si256((const void *)(row + j)),
                                     _mm256_loadu_si256((const void *)(rows8->query + j))));
        /* The sums of 64 bits are small: their upper halves are 0. */
        scores[i] = (float)fold_i32(sum) * -rows8->scale;
    }
}

const struct ivf_kernels ivf_kernels_avx2_table = {
    .name = "avx2",
    .rank_lists = rank_lists,
    .rank_lists_l1 = rank_lists_l1,
    .count = count,
    .pick = pick,
    .round = round_bytes,
    .products = products,
    .tables = tables,
    .scan = scan_codes,
    .line_up = line_up,
    .scan_blocks = scan_listed,
    .count_rows = count_rows,
    .dot8 = dot8,
    .sad8 = sad8,
};
#endif
