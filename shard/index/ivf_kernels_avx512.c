/* The AVX-512 variant: VNNI for products of bytes, look-ups of two pairs of codes at once.
 *
 * Codes, on Zen 5, whose registers of 512 bits are as fast as those of 256: 12.4 ns a block of 32
 * rows of 34 sub-quantizers were 8.3. Half of that is how compilers see it: indices of pointer
 * size, and what is found stored as two numbers that they cannot join in a vector register. The
 * rest is two pairs at once; there, two shifts and masks are less than twice as many loads.
 *
 * Lost, on Zen 5: shifts by GFNI, tables of four sub-quantizers in one register (VBMI, two bits of
 * the index choose among them), two blocks at once for half the loads of tables (each 1 to 2 ns
 * more). Tables that stay in registers save 0.5 ns, but registers are enough for 60 sub-quantizers
 * at most, and each number of them would have its loop. On Zen 4, whose registers of 512 bits take
 * two steps, look-ups of 256 bits by VBMI without masks were a little faster; and compressing
 * stores are microcode there: a compress into a register and a plain store of all lanes is ten
 * times faster. */
#ifdef __x86_64__
#include <immintrin.h>
#include <math.h>
#include <stddef.h>
#include <string.h>

#include "shard/index/ivf_format.h"
#include "shard/index/ivf_kernels.h"

#define AVX512                                                                                     \
    __attribute__((                                                                                \
        target("avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,avx512vbmi,avx2,fma,bmi,bmi2")))
#define INLINE static inline __attribute__((always_inline)) AVX512

#include "shard/index/ivf_kernels_count.h"
#include "shard/index/ivf_kernels_line.h"
#include "shard/index/ivf_kernels_scan_x86.h"

/* ---- lists ----------------------------------------------------------------------------------- */

INLINE int32_t four_bytes(const void *at)
{
    int32_t bytes;
    memcpy(&bytes, at, sizeof bytes);
    return bytes;
}

INLINE void keep_maxima(uint32_t list, __m512 keys, float *maxima)
{
    float *at = maxima + list / IVF_KERNELS_SPAN * IVF_KERNELS_LANES;
    if (list % IVF_KERNELS_SPAN != 0)
        keys = _mm512_max_ps(keys, _mm512_loadu_ps(at));
    _mm512_storeu_ps(at, keys);
}

/* 128 times the sum of the query's bytes: by so much products are larger when the signed bytes of
 * the centroids are made unsigned by their top bits. */
INLINE __m512i query_extra(const struct ivf_kernels_lists *lists)
{
    int32_t sum = 0;
    for (uint32_t i = 0; i < lists->dim4 * 4; i++)
        sum += lists->query[i];
    return _mm512_set1_epi32(sum * 128);
}

/* Adds the products of a query's next four bytes with 16 centroids' (unsigned). */
INLINE __m512i add_group(__m512i sum, __m512i centroids, const struct ivf_kernels_lists *lists,
                         uint32_t group)
{
    return _mm512_dpbusd_epi32(sum, centroids,
                               _mm512_set1_epi32(four_bytes(lists->query + group * 4)));
}

INLINE void give_keys(const struct ivf_kernels_lists *lists, uint32_t c, __m512i sum, float *keys,
                      float *maxima)
{
    __m512 key = _mm512_fmsub_ps(_mm512_cvtepi32_ps(sum), _mm512_set1_ps(lists->scale),
                                 _mm512_loadu_ps(lists->minus + c));
    _mm512_storeu_ps(keys + c, key);
    keep_maxima(c, key, maxima);
}

AVX512 static void rank_lists(const struct ivf_kernels_lists *lists, float *keys, float *maxima)
{
    const __m512i extra = query_extra(lists), top = _mm512_set1_epi8((char)0x80);
    const int8_t *bytes = lists->centroids;
    for (uint32_t c = 0; c < lists->n; c += IVF_KERNELS_LANES) {
        __m512i a = _mm512_setzero_si512(), b = a;
        uint32_t group = 0;
        for (; group + 2 <= lists->dim4; group += 2, bytes += 128) {
            __m512i x = _mm512_xor_si512(_mm512_loadu_si512(bytes), top);
            __m512i y = _mm512_xor_si512(_mm512_loadu_si512(bytes + 64), top);
            a = add_group(a, x, lists, group);
            b = add_group(b, y, lists, group + 1);
        }
        if (group < lists->dim4) {
            a = add_group(a, _mm512_xor_si512(_mm512_loadu_si512(bytes), top), lists, group);
            bytes += 64;
        }
        give_keys(lists, c, _mm512_sub_epi32(_mm512_add_epi32(a, b), extra), keys, maxima);
    }
}

/* The centroids are read once: each group of bytes is multiplied with all queries while it is in a
 * register. */
AVX512 static void rank_batch(const struct ivf_kernels_lists *lists, float *const *keys,
                              float *const *maxima)
{
    const __m512i top = _mm512_set1_epi8((char)0x80);
    const int8_t *bytes = lists->centroids;
    __m512i extra[IVF_KERNELS_BATCH];
    for (uint32_t q = 0; q < IVF_KERNELS_BATCH; q++)
        extra[q] = query_extra(&lists[q]);
    for (uint32_t c = 0; c < lists->n; c += IVF_KERNELS_LANES) {
        __m512i sum[IVF_KERNELS_BATCH];
        for (uint32_t q = 0; q < IVF_KERNELS_BATCH; q++)
            sum[q] = _mm512_setzero_si512();
        for (uint32_t group = 0; group < lists->dim4; group++, bytes += 64) {
            __m512i x = _mm512_xor_si512(_mm512_loadu_si512(bytes), top);
            for (uint32_t q = 0; q < IVF_KERNELS_BATCH; q++)
                sum[q] = add_group(sum[q], x, &lists[q], group);
        }
        for (uint32_t q = 0; q < IVF_KERNELS_BATCH; q++)
            give_keys(&lists[q], c, _mm512_sub_epi32(sum[q], extra[q]), keys[q], maxima[q]);
    }
}

AVX512 static void rank_lists_l1(const struct ivf_kernels_lists *lists, float *keys, float *maxima)
{
    __m512 scale = _mm512_set1_ps(-lists->scale);
    const __m512i ones = _mm512_set1_epi8(1);
    const int8_t *bytes = lists->centroids;
    for (uint32_t c = 0; c < lists->n; c += IVF_KERNELS_LANES) {
        __m512i sum = _mm512_setzero_si512();
        for (uint32_t group = 0; group < lists->dim4; group++, bytes += 64) {
            __m512i q = _mm512_set1_epi32(four_bytes(lists->query + group * 4));
            __m512i x = _mm512_loadu_si512(bytes);
            __m512i gap = _mm512_sub_epi8(_mm512_max_epi8(q, x), _mm512_min_epi8(q, x));
            sum = _mm512_dpbusd_epi32(sum, gap, ones);
        }
        __m512 key = _mm512_mul_ps(_mm512_cvtepi32_ps(sum), scale);
        _mm512_storeu_ps(keys + c, key);
        keep_maxima(c, key, maxima);
    }
}

AVX512 static uint32_t count(const float *values, uint32_t n, float bound)
{
    __m512 limit = _mm512_set1_ps(bound);
    uint32_t found = 0;
    for (uint32_t i = 0; i < n; i += 16)
        found += (uint32_t)__builtin_popcount(
            _mm512_cmp_ps_mask(_mm512_loadu_ps(values + i), limit, _CMP_GE_OQ));
    return found;
}

AVX512 static uint32_t pick(const float *keys, const float *maxima, uint32_t n, float low,
                            float high, uint32_t *out)
{
    __m512 from = _mm512_set1_ps(low), to = _mm512_set1_ps(high);
    const __m512i lanes = _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
    uint32_t found = 0;
    for (uint32_t span = 0; span < n; span += IVF_KERNELS_SPAN, maxima += IVF_KERNELS_LANES) {
        if (_mm512_cmp_ps_mask(_mm512_loadu_ps(maxima), from, _CMP_GE_OQ) == 0)
            continue;
        uint32_t end = n - span < IVF_KERNELS_SPAN ? n : span + IVF_KERNELS_SPAN;
        for (uint32_t c = span; c < end; c += IVF_KERNELS_LANES) {
            __m512 key = _mm512_loadu_ps(keys + c);
            __mmask16 in = _mm512_mask_cmp_ps_mask(_mm512_cmp_ps_mask(key, from, _CMP_GE_OQ), key,
                                                   to, _CMP_LT_OQ);
            __m512i numbers = _mm512_add_epi32(_mm512_set1_epi32((int)c), lanes);
            _mm512_storeu_si512(out + found, _mm512_maskz_compress_epi32(in, numbers));
            found += (uint32_t)__builtin_popcount(in);
        }
    }
    return found;
}

/* ---- the query ------------------------------------------------------------------------------- */

INLINE __mmask16 first_lanes(uint32_t n)
{
    uint32_t bits = n >= 16 ? 0xffffu : (1u << n) - 1u;
    return (__mmask16)bits;
}

AVX512 static void round_bytes(const float *values, uint32_t n, float scale, int8_t *out)
{
    for (uint32_t i = 0; i < n; i += 16) {
        __mmask16 live = first_lanes(n - i);
        __m512 value =
            _mm512_mul_ps(_mm512_maskz_loadu_ps(live, values + i), _mm512_set1_ps(scale));
        _mm512_mask_cvtepi32_storeu_epi8(out + i, live, _mm512_cvtps_epi32(value));
    }
}

AVX512 static void products(const struct ivf_kernels_subs *subs, float *out, float *lows,
                            float *highs)
{
    const float *words = subs->subs, *query = subs->query;
    for (uint32_t s = 0; s < subs->n_subs; s++, out += 16) {
        __m512 sum = _mm512_setzero_ps();
        for (uint32_t j = 0; j < subs->sub_dim; j++, words += 16)
            sum = _mm512_fmadd_ps(_mm512_loadu_ps(words), _mm512_set1_ps(*query++), sum);
        _mm512_storeu_ps(out, sum);
        lows[s] = _mm512_reduce_min_ps(sum);
        highs[s] = _mm512_reduce_max_ps(sum);
    }
}

AVX512 static void tables(const float *values, const float *lows, uint32_t n_subs, float scale,
                          uint8_t *out)
{
    __m512 times = _mm512_set1_ps(scale);
    memset(out + ivf_kernels_tables_bytes(n_subs) - 128, 0, 128);
    for (uint32_t s = 0; s < n_subs; s++) {
        __m512 above = _mm512_sub_ps(_mm512_loadu_ps(values + s * 16), _mm512_set1_ps(lows[s]));
        __m128i bytes = _mm512_cvtepi32_epi8(_mm512_cvtps_epi32(_mm512_mul_ps(above, times)));
        _mm256_storeu_si256((void *)(out + ivf_kernels_table(s)),
                            _mm256_broadcastsi128_si256(bytes));
    }
}

/* ---- codes ----------------------------------------------------------------------------------- */

/* Of the codes of two pairs, 64 bytes. In a register, from which both codes of a byte are taken. */
INLINE __m512i four_subs(__m512i x, const uint8_t *tables, __m512i sum)
{
    const __m512i four_bits = _mm512_set1_epi8(15);
    __asm__("" : "+v"(x));
    __m512i low = _mm512_and_si512(x, four_bits);
    __m512i high = _mm512_and_si512(_mm512_srli_epi16(x, 4), four_bits);
    sum = _mm512_add_epi8(sum, _mm512_shuffle_epi8(_mm512_load_si512(tables), low));
    return _mm512_add_epi8(sum, _mm512_shuffle_epi8(_mm512_load_si512(tables + 64), high));
}

INLINE __m256i both_halves(__m512i x)
{
    return _mm256_add_epi16(_mm512_castsi512_si256(x), _mm512_extracti64x4_epi64(x, 1));
}

/* Bytes are widened lazily: the even ones are summed together with 256 times the odd ones, whose
 * sum is then taken away. */
INLINE struct sums sum_block(const uint8_t *codes, const uint8_t *tables, uint32_t pairs,
                             int16_t bias, const uint8_t *ahead)
{
    const __m256i first = _mm256_set1_epi16(bias);
    const size_t whole = pairs / PAIRS_AT_ONCE * GROUP_BYTES, rest = pairs % PAIRS_AT_ONCE;
    __m512i even = _mm512_zextsi256_si512(first), odd = _mm512_setzero_si512();
    size_t at = 0;
    for (; at < whole; at += GROUP_BYTES) {
        __m512i sum = _mm512_setzero_si512();
        fetch_group(ahead + at);
        sum = four_subs(_mm512_loadu_si512(codes + at), tables + 2 * at, sum);
        sum = four_subs(_mm512_loadu_si512(codes + at + 64), tables + 2 * at + 128, sum);
        even = _mm512_add_epi16(even, sum);
        odd = _mm512_add_epi16(odd, _mm512_srli_epi16(sum, 8));
    }
    if (rest > 0) {
        __m512i sum = _mm512_setzero_si512();
        fetch_group(ahead + at);
        if (rest >= 2) {
            sum = four_subs(_mm512_loadu_si512(codes + at), tables + 2 * at, sum);
            at += 64;
        }
        if (rest % 2 != 0) { /* the tables of the other half are 0 */
            __m256i x = _mm256_loadu_si256((const void *)(codes + at));
            sum = four_subs(_mm512_zextsi256_si512(x), tables + 2 * at, sum);
        }
        even = _mm512_add_epi16(even, sum);
        odd = _mm512_add_epi16(odd, _mm512_srli_epi16(sum, 8));
    }
    even = _mm512_sub_epi16(even, _mm512_slli_epi16(odd, 8));
    return (struct sums){both_halves(even), _mm256_add_epi16(both_halves(odd), first)};
}

INLINE uint32_t above(struct sums sums, int16_t bound)
{
    const __m256i limit = _mm256_set1_epi16(bound);
    return (uint32_t)_mm256_cmpgt_epi16_mask(sums.even, limit) |
           (uint32_t)_mm256_cmpgt_epi16_mask(sums.odd, limit) << 16;
}

AVX512 static uint32_t scan_codes(const struct ivf_kernels_scan *scan, uint32_t first, uint32_t end,
                                  uint32_t *rows, int16_t *estimates, uint64_t *blocks)
{
    return scan_blocks(scan, first, end, rows, estimates, blocks);
}

/* 16 blocks at a time: their words are 32 bits each, since the machine is little endian. */
AVX512 static uint32_t line_up(const uint64_t *allowed, uint32_t first, uint32_t end, int16_t bound,
                               struct ivf_kernels_line line)
{
    const __m512i lanes = _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
    const uint32_t end_block = (end - 1) / IVF_BLOCK + 1;
    const __m512i of_last = _mm512_set1_epi32((int)line_last(end));
    uint32_t n = 0, of_first = line_first(first);
    for (uint32_t block = first / IVF_BLOCK; block < end_block; block += 16) {
        const uint32_t left = end_block - block;
        const __mmask16 live = first_lanes(left), before = first_lanes(left - 1);
        __m512i open = _mm512_maskz_set1_epi32(live, -1);
        if (allowed != NULL)
            open = _mm512_maskz_loadu_epi32(live, (const uint8_t *)allowed + block * 4u);
        open = _mm512_mask_and_epi32(open, 1, open, _mm512_set1_epi32((int)of_first));
        open = _mm512_mask_and_epi32(open, live & (__mmask16)~before, open, of_last);
        __mmask16 some = _mm512_test_epi32_mask(open, open);
        __m512i numbers = _mm512_add_epi32(_mm512_set1_epi32((int)block), lanes);
        _mm512_storeu_si512(line.blocks + n, _mm512_maskz_compress_epi32(some, numbers));
        _mm512_storeu_si512(line.open + n, _mm512_maskz_compress_epi32(some, open));
        _mm256_storeu_si256((void *)(line.bounds + n), _mm256_set1_epi16(bound));
        n += (uint32_t)__builtin_popcount(some);
        of_first = UINT32_MAX;
    }
    return n;
}

AVX512 static uint32_t scan_listed(const struct ivf_kernels_scan *scan,
                                   struct ivf_kernels_line line, uint32_t n, uint32_t n_known,
                                   struct ivf_kernels_found *found)
{
    return scan_some_blocks(scan, line, n, n_known, found);
}

AVX512 static void count_rows(const uint64_t *allowed, const uint32_t *lists, uint32_t n,
                              uint32_t *rows)
{
    count_list_rows(allowed, lists, n, rows);
}

/* ---- rows of bytes --------------------------------------------------------------------------- */

AVX512 static void dot8(const struct ivf_kernels_rows8 *rows8, const uint32_t *list, uint32_t n,
                        float *scores)
{
    for (uint32_t i = 0; i < n; i++) {
        const uint8_t *row = rows8->rows + (size_t)list[i] * rows8->row_bytes;
        __m512i sum = _mm512_setzero_si512();
        for (uint32_t j = 0; j < rows8->row_bytes; j += 64)
            sum = _mm512_dpbusd_epi32(sum, _mm512_loadu_si512(row + j),
                                      _mm512_loadu_si512(rows8->query + j));
        float tail[2];
        memcpy(tail, ivf_format_tail(row, rows8->row_bytes), sizeof tail);
        float dot = (float)(_mm512_reduce_add_epi32(sum) - rows8->minus);
        scores[i] = fmaf(dot * rows8->scale, tail[0], tail[1]);
    }
}

AVX512 static void sad8(const struct ivf_kernels_rows8 *rows8, const uint32_t *list, uint32_t n,
                        float *scores)
{
    for (uint32_t i = 0; i < n; i++) {
        const uint8_t *row = rows8->rows + (size_t)list[i] * rows8->row_bytes;
        __m512i sum = _mm512_setzero_si512();
        for (uint32_t j = 0; j < rows8->row_bytes; j += 64)
            sum = _mm512_add_epi64(sum, _mm512_sad_epu8(_mm512_loadu_si512(row + j),
                                                        _mm512_loadu_si512(rows8->query + j)));
        scores[i] = (float)_mm512_reduce_add_epi64(sum) * -rows8->scale;
    }
}

const struct ivf_kernels ivf_kernels_avx512_table = {
    .name = "avx512",
    .rank_lists = rank_lists,
    .rank_lists_l1 = rank_lists_l1,
    .rank_batch = rank_batch,
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
