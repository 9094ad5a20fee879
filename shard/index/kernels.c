/* The scalar variant, which is the definition of what the others compute, and the choice among
 * them.
 *
 * It is slow on purpose: 64 partial sums in memory, fmaf one by one. Nobody runs it in production
 * (every x86-64 server of the last ten years has AVX2 and FMA, every ARMv8-A one has NEON); it
 * exists to be read and compared with.
 *
 * Lost: a tolerance between variants. With one order of summation the comparison is exact, nodes
 * with different CPUs agree, and the batch path can promise the very scores of the single one. */
#include "shard/index/kernels.h"

#include <math.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <string.h>

#include "common/kith_f16.h"
#include "shard/index/kernels_choose.h"
#include "shard/index/kernels_sum.h"

static float element(const void *data, enum kernels_type type, size_t at)
{
    if (type == KERNELS_F16) {
        uint16_t half;
        memcpy(&half, (const uint8_t *)data + 2 * at, sizeof half);
        return kith_f16_to_f32(half);
    }
    float value;
    memcpy(&value, (const uint8_t *)data + 4 * at, sizeof value);
    return value;
}

static float fold(float *sums)
{
    for (uint32_t i = 0; i < 16; i++)
        sums[i] = (sums[i] + sums[i + 16]) + (sums[i + 32] + sums[i + 48]);
    for (uint32_t half = 8; half > 0; half /= 2)
        for (uint32_t i = 0; i < half; i++)
            sums[i] += sums[i + half];
    return sums[0];
}

static float one_row(const float *query, struct kernels_rows rows, size_t row,
                     enum kernels_form form, enum kernels_type type)
{
    float sums[KERNELS_LANES] = {0};
    for (uint32_t i = 0; i < rows.dim; i++) {
        float q = element(query, KERNELS_F32, i);
        float r = element(rows.data, type, row * rows.dim + i);
        float *sum = &sums[i % KERNELS_LANES];
        float gap = q - r;
        if (form == KERNELS_IP)
            *sum = fmaf(q, r, *sum);
        else if (form == KERNELS_L2)
            *sum = fmaf(gap, gap, *sum);
        else
            *sum += fabsf(gap);
    }
    return kernels_rank(form, fold(sums));
}

#define SCALAR(name_, form_, type_)                                                                \
    static void scan_##name_(const float *query, struct kernels_rows rows, uint32_t n,             \
                             float *ranks)                                                         \
    {                                                                                              \
        for (uint32_t i = 0; i < n; i++)                                                           \
            ranks[i] = one_row(query, rows, i, form_, type_);                                      \
    }                                                                                              \
    static void pick_##name_(const float *query, struct kernels_rows rows, const uint32_t *list,   \
                             uint32_t n, float *ranks)                                             \
    {                                                                                              \
        for (uint32_t i = 0; i < n; i++)                                                           \
            ranks[i] = one_row(query, rows, list[i], form_, type_);                                \
    }

SCALAR(ip_f32, KERNELS_IP, KERNELS_F32)
SCALAR(l2_f32, KERNELS_L2, KERNELS_F32)
SCALAR(l1_f32, KERNELS_L1, KERNELS_F32)
SCALAR(ip_f16, KERNELS_IP, KERNELS_F16)
SCALAR(l2_f16, KERNELS_L2, KERNELS_F16)
SCALAR(l1_f16, KERNELS_L1, KERNELS_F16)

static void norms_scalar(struct kernels_rows rows, uint32_t n, float *out)
{
    for (uint32_t row = 0; row < n; row++) {
        float sums[KERNELS_LANES] = {0};
        for (uint32_t i = 0; i < rows.dim; i++) {
            float r = element(rows.data, KERNELS_F32, (size_t)row * rows.dim + i);
            sums[i % KERNELS_LANES] = fmaf(r, r, sums[i % KERNELS_LANES]);
        }
        out[row] = fold(sums);
    }
}

static uint32_t select_scalar(const float *ranks, uint32_t n, float bound, uint32_t *out)
{
    return kernels_select_from(ranks, 0, n, bound, 0, out);
}

static void choose_scalar(const struct kernels_products *products, const float *bounds,
                          uint32_t *counts, uint32_t *lists)
{
    memset(counts, 0, products->n_queries * sizeof *counts);
    for (uint32_t r = 0; r < products->n_rows; r++)
        kernels_choose_from(products, r, 0, bounds, counts, lists);
}

const struct kernels kernels_scalar = {
    .name = "scalar",
    .scan = {{scan_ip_f32, scan_ip_f16}, {scan_l2_f32, scan_l2_f16}, {scan_l1_f32, scan_l1_f16}},
    .pick = {{pick_ip_f32, pick_ip_f16}, {pick_l2_f32, pick_l2_f16}, {pick_l1_f32, pick_l1_f16}},
    .norms = norms_scalar,
    .select = select_scalar,
    .choose = choose_scalar,
};

const struct kernels *kernels_variant(uint32_t index)
{
    const struct kernels *found[3] = {&kernels_scalar};
    uint32_t n = 1;
#ifdef __x86_64__
    bool avx2 =
        __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && kith_f16_hardware();
    if (avx2)
        found[n++] = &kernels_avx2_table;
    if (avx2 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
        __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq"))
        found[n++] = &kernels_avx512_table;
#endif
#ifdef __aarch64__
    found[n++] = &kernels_neon_table;
#endif
    return index < n ? found[index] : NULL;
}

const struct kernels *kernels_best(void)
{
    /* Two threads that come first at once store the same pointer; relaxed is enough because the
     * tables are constants. */
    static _Atomic(const struct kernels *) chosen;
    const struct kernels *best = atomic_load_explicit(&chosen, memory_order_relaxed);
    if (best != NULL)
        return best;
    for (uint32_t i = 0; kernels_variant(i) != NULL; i++)
        best = kernels_variant(i);
    atomic_store_explicit(&chosen, best, memory_order_relaxed);
    return best;
}

enum kernels_form kernels_form_of(enum kith_metric metric)
{
    switch (metric) {
    case KITH_EUCLID:
        return KERNELS_L2;
    case KITH_MANHATTAN:
        return KERNELS_L1;
    case KITH_COSINE:
    case KITH_DOT:
        break;
    }
    return KERNELS_IP;
}

enum kernels_type kernels_type_of(enum kith_row_type rows)
{
    return rows == KITH_ROWS_F16 ? KERNELS_F16 : KERNELS_F32;
}

uint32_t kernels_row_bytes(enum kernels_type type, uint32_t dim)
{
    return dim * (type == KERNELS_F16 ? 2u : 4u);
}
