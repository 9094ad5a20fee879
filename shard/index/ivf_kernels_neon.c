/* The NEON variants: the base of ARMv8-A, and the same with dot products of bytes. See
 * ivf_kernels_avx512.c for the shape. */
#ifdef __aarch64__
#include <arm_neon.h>

#define INLINE static inline __attribute__((always_inline))

/* Two products of bytes fit 16 bits as long as a is not -128. */
INLINE int32x4_t add_products(int32x4_t sum, int8x16_t a, int8x16_t b)
{
    int16x8_t low = vmull_s8(vget_low_s8(a), vget_low_s8(b)), high = vmull_high_s8(a, b);
    return vpadalq_s16(sum, vpaddq_s16(low, high));
}

INLINE uint32x4_t add_bytes(uint32x4_t sum, uint8x16_t x)
{
    return vpadalq_u16(sum, vpaddlq_u8(x));
}

struct sums {
    int16x8_t rows[4]; /* rows 0 to 7, 8 to 15 and so on */
};

#include "shard/index/ivf_kernels_neon_bytes.h"
#include "shard/index/ivf_kernels_count.h"
#include "shard/index/ivf_kernels_line.h"
#include "shard/index/ivf_kernels_scan.h"

/* ---- lists ----------------------------------------------------------------------------------- */

static void rank_lists(const struct ivf_kernels_lists *lists, float *keys, float *maxima)
{
    rank(lists, keys, maxima, false);
}

static void rank_lists_l1(const struct ivf_kernels_lists *lists, float *keys, float *maxima)
{
    rank(lists, keys, maxima, true);
}

static uint32_t count(const float *values, uint32_t n, float bound)
{
    const float32x4_t limit = vdupq_n_f32(bound);
    uint32x4_t found[4];
    for (uint32_t j = 0; j < 4; j++)
        found[j] = vdupq_n_u32(0);
    for (uint32_t i = 0; i < n; i += 16)
        for (uint32_t j = 0; j < 4; j++)
            found[j] = vsubq_u32(found[j], vcgeq_f32(vld1q_f32(values + i + 4 * j), limit));
    return vaddvq_u32(vaddq_u32(vaddq_u32(found[0], found[1]), vaddq_u32(found[2], found[3])));
}

/* Bit 4 * i of the result: lane i of the 16 lanes is set. */
INLINE uint64_t mask_of(const uint32x4_t lanes[4])
{
    uint16x8_t low = vcombine_u16(vmovn_u32(lanes[0]), vmovn_u32(lanes[1]));
    uint16x8_t high = vcombine_u16(vmovn_u32(lanes[2]), vmovn_u32(lanes[3]));
    uint8x16_t bytes = vcombine_u8(vmovn_u16(low), vmovn_u16(high));
    uint8x8_t halves = vshrn_n_u16(vreinterpretq_u16_u8(bytes), 4);
    return vget_lane_u64(vreinterpret_u64_u8(halves), 0) & UINT64_C(0x1111111111111111);
}

/* Which of 16 keys are in [from, to). */
INLINE uint64_t in_range(const float *keys, float32x4_t from, float32x4_t to)
{
    uint32x4_t in[4];
    for (uint32_t j = 0; j < 4; j++) {
        float32x4_t key = vld1q_f32(keys + 4 * j);
        in[j] = vandq_u32(vcgeq_f32(key, from), vcltq_f32(key, to));
    }
    return mask_of(in);
}

static uint32_t pick(const float *keys, const float *maxima, uint32_t n, float low, float high,
                     uint32_t *out)
{
    const float32x4_t from = vdupq_n_f32(low), to = vdupq_n_f32(high);
    uint32_t found = 0;
    for (uint32_t span = 0; span < n; span += IVF_KERNELS_SPAN, maxima += IVF_KERNELS_LANES) {
        if (count(maxima, IVF_KERNELS_LANES, low) == 0)
            continue;
        uint32_t end = n - span < IVF_KERNELS_SPAN ? n : span + IVF_KERNELS_SPAN;
        for (uint32_t c = span; c < end; c += IVF_KERNELS_LANES)
            for (uint64_t mask = in_range(keys + c, from, to); mask != 0; mask &= mask - 1)
                out[found++] = c + (uint32_t)__builtin_ctzll(mask) / 4;
    }
    return found;
}

/* ---- the query ------------------------------------------------------------------------------- */

/* Rounded to the nearest, even at ties; the low bytes. */
INLINE uint8x16_t rounded(const float32x4_t values[4], float scale)
{
    int16x4_t words[4];
    for (uint32_t j = 0; j < 4; j++)
        words[j] = vmovn_s32(vcvtnq_s32_f32(vmulq_n_f32(values[j], scale)));
    int8x8_t low = vmovn_s16(vcombine_s16(words[0], words[1]));
    return vreinterpretq_u8_s8(vcombine_s8(low, vmovn_s16(vcombine_s16(words[2], words[3]))));
}

static void round_bytes(const float *values, uint32_t n, float scale, int8_t *out)
{
    uint32_t i = 0;
    for (; i + 16 <= n; i += 16) {
        float32x4_t x[4];
        for (uint32_t j = 0; j < 4; j++)
            x[j] = vld1q_f32(values + i + 4 * j);
        vst1q_s8(out + i, vreinterpretq_s8_u8(rounded(x, scale)));
    }
    for (; i < n; i++)
        out[i] = (int8_t)vcvtns_s32_f32(values[i] * scale);
}

static void products(const struct ivf_kernels_subs *subs, float *out, float *lows, float *highs)
{
    const float *words = subs->subs, *query = subs->query;
    for (uint32_t s = 0; s < subs->n_subs; s++, out += 16) {
        float32x4_t sum[4];
        for (uint32_t k = 0; k < 4; k++)
            sum[k] = vdupq_n_f32(0.0f);
        for (uint32_t j = 0; j < subs->sub_dim; j++, words += 16, query++)
            for (uint32_t k = 0; k < 4; k++)
                sum[k] = vfmaq_n_f32(sum[k], vld1q_f32(words + 4 * k), *query);
        for (uint32_t k = 0; k < 4; k++)
            vst1q_f32(out + 4 * k, sum[k]);
        lows[s] = vminvq_f32(vminq_f32(vminq_f32(sum[0], sum[1]), vminq_f32(sum[2], sum[3])));
        highs[s] = vmaxvq_f32(vmaxq_f32(vmaxq_f32(sum[0], sum[1]), vmaxq_f32(sum[2], sum[3])));
    }
}

static void tables(const float *values, const float *lows, uint32_t n_subs, float scale,
                   uint8_t *out)
{
    memset(out + ivf_kernels_tables_bytes(n_subs) - 128, 0, 128);
    for (uint32_t s = 0; s < n_subs; s++) {
        const float32x4_t low = vdupq_n_f32(lows[s]);
        float32x4_t above_low[4];
        for (uint32_t k = 0; k < 4; k++)
            above_low[k] = vsubq_f32(vld1q_f32(values + s * 16 + 4 * k), low);
        uint8x16_t bytes = rounded(above_low, scale);
        vst1q_u8(out + ivf_kernels_table(s), bytes);
        vst1q_u8(out + ivf_kernels_table(s) + 16, bytes);
    }
}

/* ---- codes ----------------------------------------------------------------------------------- */

/* 16 rows of a pair. */
INLINE uint8x16_t two_subs(const uint8_t *codes, uint8x16_t low, uint8x16_t high, uint8x16_t sum)
{
    uint8x16_t x = vld1q_u8(codes);
    sum = vaddq_u8(sum, vqtbl1q_u8(low, vandq_u8(x, vdupq_n_u8(15))));
    return vaddq_u8(sum, vqtbl1q_u8(high, vshrq_n_u8(x, 4)));
}

/* Bytes are widened lazily: the even ones are summed together with 256 times the odd ones, whose
 * sum is then taken away. */
INLINE struct sums sum_block(const uint8_t *codes, const uint8_t *tables, uint32_t pairs,
                             int16_t bias, const uint8_t *ahead)
{
    uint16x8_t even[2], odd[2], first = vreinterpretq_u16_s16(vdupq_n_s16(bias));
    even[0] = even[1] = first;
    odd[0] = odd[1] = vdupq_n_u16(0);
    for (uint32_t n = PAIRS_AT_ONCE; pairs > 0;
         pairs -= n, ahead += GROUP_BYTES, tables += GROUP_TABLES) {
        n = pairs < PAIRS_AT_ONCE ? pairs : PAIRS_AT_ONCE;
        uint8x16_t sum[2] = {vdupq_n_u8(0), vdupq_n_u8(0)};
        fetch_group(ahead);
        for (uint32_t i = 0; i < n; i++, codes += 32) {
            uint8x16_t low = vld1q_u8(tables + ivf_kernels_table(2 * i));
            uint8x16_t high = vld1q_u8(tables + ivf_kernels_table(2 * i + 1));
            sum[0] = two_subs(codes, low, high, sum[0]);
            sum[1] = two_subs(codes + 16, low, high, sum[1]);
        }
        for (uint32_t h = 0; h < 2; h++) {
            even[h] = vaddq_u16(even[h], vreinterpretq_u16_u8(sum[h]));
            odd[h] = vsraq_n_u16(odd[h], vreinterpretq_u16_u8(sum[h]), 8);
        }
    }
    struct sums sums;
    for (uint32_t h = 0; h < 2; h++) {
        sums.rows[h] = vreinterpretq_s16_u16(vsubq_u16(even[h], vshlq_n_u16(odd[h], 8)));
        sums.rows[2 + h] = vreinterpretq_s16_u16(vaddq_u16(odd[h], first));
    }
    return sums;
}

INLINE struct sums add_terms(struct sums sums, const int16_t *terms, int16_t factor, uint32_t shift)
{
    const int16x8_t left = vdupq_n_s16((int16_t)shift);
    for (uint32_t i = 0; i < 4; i++) {
        int16x8_t term = vqrdmulhq_n_s16(vld1q_s16(terms + 8 * i), factor);
        sums.rows[i] = vqaddq_s16(sums.rows[i], vqshlq_s16(term, left));
    }
    return sums;
}

INLINE uint32_t above(struct sums sums, int16_t bound)
{
    const int16x8_t limit = vdupq_n_s16(bound);
    const uint8x16_t bits = vreinterpretq_u8_u64(vdupq_n_u64(UINT64_C(0x8040201008040201)));
    uint8x8_t hit[4];
    for (uint32_t i = 0; i < 4; i++)
        hit[i] = vmovn_u16(vcgtq_s16(sums.rows[i], limit));
    uint8x16_t low = vandq_u8(vcombine_u8(hit[0], hit[1]), bits);
    uint8x16_t high = vandq_u8(vcombine_u8(hit[2], hit[3]), bits);
    uint8x16_t mask = vpaddq_u8(low, high);
    mask = vpaddq_u8(mask, mask);
    mask = vpaddq_u8(mask, mask);
    return vgetq_lane_u32(vreinterpretq_u32_u8(mask), 0);
}

INLINE void store_sums(struct sums sums, int16_t *values)
{
    for (uint32_t i = 0; i < 4; i++)
        vst1q_s16(values + 8 * i, sums.rows[i]);
}

static uint32_t scan_codes(const struct ivf_kernels_scan *scan, uint32_t first, uint32_t end,
                           uint32_t *rows, int16_t *estimates, uint64_t *blocks)
{
    return scan_blocks(scan, first, end, rows, estimates, blocks);
}

static uint32_t line_up(const uint64_t *allowed, uint32_t first, uint32_t end, int16_t bound,
                        struct ivf_kernels_line line)
{
    return line_up_blocks(allowed, first, end, bound, line);
}

static uint32_t scan_listed(const struct ivf_kernels_scan *scan, struct ivf_kernels_line line,
                            uint32_t n, uint32_t n_known, struct ivf_kernels_found *found)
{
    return scan_some_blocks(scan, line, n, n_known, found);
}

static void count_rows(const uint64_t *allowed, const uint32_t *lists, uint32_t n, uint32_t *rows)
{
    count_list_rows(allowed, lists, n, rows);
}

/* ---- rows of bytes --------------------------------------------------------------------------- */

static void dot8(const struct ivf_kernels_rows8 *rows8, const uint32_t *list, uint32_t n,
                 float *scores)
{
    dot_rows(rows8, list, n, scores);
}

static void sad8(const struct ivf_kernels_rows8 *rows8, const uint32_t *list, uint32_t n,
                 float *scores)
{
    sad_rows(rows8, list, n, scores);
}

/* ---- the two variants ------------------------------------------------------------------------ */

const struct ivf_kernels ivf_kernels_neon_table = {
    .name = "neon",
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

const struct ivf_kernels ivf_kernels_dotprod_table = {
    .name = "neon+dotprod",
    .rank_lists = ivf_kernels_dotprod_rank,
    .rank_lists_l1 = ivf_kernels_dotprod_rank_l1,
    .count = count,
    .pick = pick,
    .round = round_bytes,
    .products = products,
    .tables = tables,
    .scan = scan_codes,
    .line_up = line_up,
    .scan_blocks = scan_listed,
    .count_rows = count_rows,
    .dot8 = ivf_kernels_dotprod_dot8,
    .sad8 = ivf_kernels_dotprod_sad8,
};
#endif
