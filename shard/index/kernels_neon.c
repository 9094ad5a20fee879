/* The NEON variant: sixteen registers of 4 partial sums; see kernels_x86.c for the shape. All of
 * it is in the base of ARMv8-A, the conversion of halves too, so every such CPU runs it. Bytes are
 * what is loaded: rows need no alignment. */
#ifdef __aarch64__
#include <arm_neon.h>
#include <stdbool.h>
#include <stddef.h>
#include <string.h>

#include "shard/index/kernels_choose.h"
#include "shard/index/kernels_sum.h"

#define INLINE static inline __attribute__((always_inline))

#define FOUR       4u  /* lanes of a register */
#define QUARTER    16u /* lanes of the four registers that a step takes */
#define FAR_BYTES  8192
#define NEAR_BYTES 512
#define PICK_BYTES 2048

INLINE size_t width_of(enum kernels_type type)
{
    return type == KERNELS_F16 ? 2 : 4;
}

INLINE float32x4_t load(const uint8_t *at, enum kernels_type type)
{
    if (type == KERNELS_F16)
        return vcvt_f32_f16(vreinterpret_f16_u8(vld1_u8(at)));
    return vreinterpretq_f32_u8(vld1q_u8(at));
}

/* The last n (1 .. 3) elements of a row, the others +0: the four that end where the row ends,
 * shifted down; look-ups behind a table's end give 0. A row shorter than four is copied. */
INLINE float32x4_t load_tail(const uint8_t *at, enum kernels_type type, uint32_t n,
                             bool four_before)
{
    static const uint8_t shift[32] = {0,  1,  2,  3,  4,  5,  6,  7,  8,  9,  10,
                                      11, 12, 13, 14, 15, 16, 16, 16, 16, 16, 16,
                                      16, 16, 16, 16, 16, 16, 16, 16, 16, 16};
    const size_t width = width_of(type), missing = (FOUR - n) * width;
    uint8_t few[FOUR * 4] = {0};
    if (!four_before) {
        memcpy(few, at, n * width);
        return load(few, type);
    }
    uint8x16_t order = vld1q_u8(shift + missing);
    if (type == KERNELS_F16) {
        uint8x16_t last = vcombine_u8(vld1_u8(at - missing), vdup_n_u8(0));
        return vcvt_f32_f16(vreinterpret_f16_u8(vget_low_u8(vqtbl1q_u8(last, order))));
    }
    return vreinterpretq_f32_u8(vqtbl1q_u8(vld1q_u8(at - missing), order));
}

struct few {
    float32x4_t q, r;
};

INLINE struct few few_of(const uint8_t *query, const uint8_t *row, uint32_t dim,
                         enum kernels_type type)
{
    const uint32_t n = dim % FOUR, at = dim - n;
    if (n == 0)
        return (struct few){vdupq_n_f32(0.0f), vdupq_n_f32(0.0f)};
    return (struct few){load_tail(query + at * 4, KERNELS_F32, n, at > 0),
                        load_tail(row + at * width_of(type), type, n, at > 0)};
}

INLINE float32x4_t step(float32x4_t sum, float32x4_t q, float32x4_t r, enum kernels_form form)
{
    if (form == KERNELS_IP)
        return vfmaq_f32(sum, q, r);
    float32x4_t gap = vsubq_f32(q, r);
    if (form == KERNELS_L2)
        return vfmaq_f32(sum, gap, gap);
    return vaddq_f32(sum, vabsq_f32(gap));
}

INLINE float fold(const float32x4_t sum[16])
{
    float32x4_t s16[4];
    for (uint32_t i = 0; i < 4; i++)
        s16[i] = vaddq_f32(vaddq_f32(sum[i], sum[i + 4]), vaddq_f32(sum[i + 8], sum[i + 12]));
    float32x4_t s4 = vaddq_f32(vaddq_f32(s16[0], s16[2]), vaddq_f32(s16[1], s16[3]));
    return vpadds_f32(vadd_f32(vget_low_f32(s4), vget_high_f32(s4)));
}

INLINE void prefetch(const uint8_t *at, size_t bytes)
{
    for (size_t line = 0; line < bytes; line += 64) {
        __builtin_prefetch(at + FAR_BYTES + line, 0, 2);
        __builtin_prefetch(at + NEAR_BYTES + line, 0, 3);
    }
}

/* The sums of a row, of which quarter j takes the terms of lanes 16 * j and on. */
INLINE void add_quarter(float32x4_t *sum, const uint8_t *query, const uint8_t *row,
                        enum kernels_form form, enum kernels_type type)
{
    for (uint32_t j = 0; j < 4; j++)
        sum[j] = step(sum[j], load(query + FOUR * j * 4, KERNELS_F32),
                      load(row + FOUR * j * width_of(type), type), form);
}

/* What is left of a row, up to 16 elements; the last few come as registers. */
INLINE void add_left(float32x4_t *sum, const uint8_t *query, const uint8_t *row, uint32_t left,
                     struct few few, enum kernels_form form, enum kernels_type type)
{
    for (uint32_t j = 0; j < 4; j++) {
        if (left <= FOUR * j)
            continue;
        bool whole = left >= FOUR * (j + 1);
        float32x4_t q = whole ? load(query + FOUR * j * 4, KERNELS_F32) : few.q;
        float32x4_t r = whole ? load(row + FOUR * j * width_of(type), type) : few.r;
        sum[j] = step(sum[j], q, r, form);
    }
}

INLINE float one_row(const float *values, const uint8_t *row, uint32_t dim, enum kernels_form form,
                     enum kernels_type type)
{
    const size_t width = width_of(type);
    const uint8_t *query = (const void *)values;
    const struct few few = few_of(query, row, dim, type);
    float32x4_t sum[16];
    for (uint32_t j = 0; j < 16; j++)
        sum[j] = vdupq_n_f32(0.0f);
    uint32_t left = dim;
    for (; left >= KERNELS_LANES; left -= KERNELS_LANES) {
        prefetch(row, KERNELS_LANES * width);
        for (uint32_t j = 0; j < 4; j++)
            add_quarter(sum + 4 * j, query + QUARTER * j * 4, row + QUARTER * j * width, form,
                        type);
        query += KERNELS_LANES * 4;
        row += KERNELS_LANES * width;
    }
    prefetch(row, left * width);
    for (uint32_t j = 0; j < 4; j++)
        if (left > QUARTER * j)
            add_left(sum + 4 * j, query + QUARTER * j * 4, row + QUARTER * j * width,
                     left - QUARTER * j, few, form, type);
    return fold(sum);
}

INLINE void scan(const float *query, struct kernels_rows rows, uint32_t n, float *ranks,
                 enum kernels_form form, enum kernels_type type)
{
    const uint8_t *row = rows.data;
    size_t row_bytes = rows.dim * width_of(type);
    for (uint32_t i = 0; i < n; i++, row += row_bytes)
        ranks[i] = kernels_rank(form, one_row(query, row, rows.dim, form, type));
}

INLINE void pick(const float *query, struct kernels_rows rows, const uint32_t *list, uint32_t n,
                 float *ranks, enum kernels_form form, enum kernels_type type)
{
    const uint8_t *data = rows.data;
    size_t row_bytes = rows.dim * width_of(type);
    for (uint32_t i = 0; i < n; i++) {
        if (i + 2 < n)
            for (size_t line = 0; line < row_bytes && line < PICK_BYTES; line += 64)
                __builtin_prefetch(data + list[i + 2] * row_bytes + line, 0, 3);
        ranks[i] =
            kernels_rank(form, one_row(query, data + list[i] * row_bytes, rows.dim, form, type));
    }
}

#define VARIANT(name_, form_, type_)                                                               \
    static void scan_##name_(const float *query, struct kernels_rows rows, uint32_t n,             \
                             float *ranks)                                                         \
    {                                                                                              \
        scan(query, rows, n, ranks, form_, type_);                                                 \
    }                                                                                              \
    static void pick_##name_(const float *query, struct kernels_rows rows, const uint32_t *list,   \
                             uint32_t n, float *ranks)                                             \
    {                                                                                              \
        pick(query, rows, list, n, ranks, form_, type_);                                           \
    }

VARIANT(ip_f32, KERNELS_IP, KERNELS_F32)
VARIANT(l2_f32, KERNELS_L2, KERNELS_F32)
VARIANT(l1_f32, KERNELS_L1, KERNELS_F32)
VARIANT(ip_f16, KERNELS_IP, KERNELS_F16)
VARIANT(l2_f16, KERNELS_L2, KERNELS_F16)
VARIANT(l1_f16, KERNELS_L1, KERNELS_F16)

static void norms(struct kernels_rows rows, uint32_t n, float *out)
{
    const uint8_t *row = rows.data;
    for (uint32_t i = 0; i < n; i++, row += (size_t)rows.dim * 4)
        out[i] = one_row((const void *)row, row, rows.dim, KERNELS_IP, KERNELS_F32);
}

/* Bit 8 * i: values[i] - minus is not below bound i (a NaN is not). */
INLINE uint64_t not_below(const float *values, float32x4_t minus, float32x4_t low, float32x4_t high)
{
    uint32x4_t a = vcltq_f32(vsubq_f32(vld1q_f32(values), minus), low);
    uint32x4_t b = vcltq_f32(vsubq_f32(vld1q_f32(values + 4), minus), high);
    uint8x8_t below = vmovn_u16(vcombine_u16(vmovn_u32(a), vmovn_u32(b)));
    return ~vget_lane_u64(vreinterpret_u64_u8(below), 0) & UINT64_C(0x0101010101010101);
}

static uint32_t select_ranks(const float *ranks, uint32_t n, float bound, uint32_t *out)
{
    const float32x4_t limit = vdupq_n_f32(bound), zero = vdupq_n_f32(0.0f);
    uint32_t n_out = 0, i = 0;
    for (; i + 8 <= n; i += 8)
        for (uint64_t hit = not_below(ranks + i, zero, limit, limit); hit != 0; hit &= hit - 1)
            out[n_out++] = i + (uint32_t)__builtin_ctzll(hit) / 8;
    return kernels_select_from(ranks, i, n, bound, n_out, out);
}

static void choose(const struct kernels_products *products, const float *bounds, uint32_t *counts,
                   uint32_t *lists)
{
    uint32_t n_queries = products->n_queries;
    memset(counts, 0, n_queries * sizeof *counts);
    for (uint32_t r = 0; r < products->n_rows; r++) {
        const float *values = products->values + (size_t)r * n_queries;
        float32x4_t minus = vdupq_n_f32(kernels_minus(products, r));
        uint32_t q = 0;
        for (; q + 8 <= n_queries; q += 8) {
            uint64_t hit =
                not_below(values + q, minus, vld1q_f32(bounds + q), vld1q_f32(bounds + q + 4));
            for (; hit != 0; hit &= hit - 1) {
                uint32_t query = q + (uint32_t)__builtin_ctzll(hit) / 8;
                lists[(size_t)query * products->n_rows + counts[query]++] = r;
            }
        }
        kernels_choose_from(products, r, q, bounds, counts, lists);
    }
}

const struct kernels kernels_neon_table = {
    .name = "neon",
    .scan = {{scan_ip_f32, scan_ip_f16}, {scan_l2_f32, scan_l2_f16}, {scan_l1_f32, scan_l1_f16}},
    .pick = {{pick_ip_f32, pick_ip_f16}, {pick_l2_f32, pick_l2_f16}, {pick_l1_f32, pick_l1_f16}},
    .norms = norms,
    .select = select_ranks,
    .choose = choose,
};
#endif
