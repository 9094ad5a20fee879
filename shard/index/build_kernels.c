/* Loops with a fixed number of independent lanes, in the shape that both compilers turn into
 * vectors without being allowed to reorder sums. Blocks of lanes are reached by pointers: of an
 * index that may wrap around, gcc makes gathers. */
#include "shard/index/build_kernels.h"

#include <math.h>
#include <stdatomic.h>
#include <stddef.h>
#include <string.h>

#include "proto/kith_err.h"

#define INLINE static inline __attribute__((always_inline))
#define LANES  32u

INLINE float larger(float a, float b)
{
    return a > b ? a : b;
}

/* The lanes as one, in halves. */
INLINE float sum_of(float *lanes)
{
    for (uint32_t half = LANES / 2; half > 0; half /= 2)
        for (uint32_t l = 0; l < half; l++)
            lanes[l] += lanes[l + half];
    return lanes[0];
}

INLINE float largest_of(float *lanes)
{
    for (uint32_t half = LANES / 2; half > 0; half /= 2)
        for (uint32_t l = 0; l < half; l++)
            lanes[l] = larger(lanes[l + half], lanes[l]);
    return lanes[0];
}

INLINE uint32_t largest(const float *values, uint32_t n)
{
    float lanes[LANES], best = values[0];
    const float *at = values, *end = values + n;
    if (n >= LANES) {
        memcpy(lanes, at, sizeof lanes);
        for (at += LANES; end - at >= LANES; at += LANES)
            for (uint32_t l = 0; l < LANES; l++)
                lanes[l] = larger(at[l], lanes[l]);
        best = largest_of(lanes);
    }
    for (; at < end; at++)
        best = larger(*at, best);
    for (at = values; end - at >= LANES; at += LANES) {
        uint32_t hits = 0;
        for (uint32_t l = 0; l < LANES; l++)
            hits += at[l] == best;
        if (hits != 0)
            break;
    }
    for (; at < end; at++)
        if (*at == best)
            return (uint32_t)(at - values);
    return 0;
}

INLINE float product(const float *a, const float *b, uint32_t n)
{
    float lanes[LANES] = {0};
    for (; n >= LANES; n -= LANES, a += LANES, b += LANES)
        for (uint32_t l = 0; l < LANES; l++)
            lanes[l] += a[l] * b[l];
    for (uint32_t l = 0; l < n; l++)
        lanes[l] += a[l] * b[l];
    return sum_of(lanes);
}

INLINE float square(const float *values, uint32_t n)
{
    return product(values, values, n);
}

INLINE float most(const float *values, uint32_t n)
{
    float lanes[LANES] = {0};
    for (; n >= LANES; n -= LANES, values += LANES)
        for (uint32_t l = 0; l < LANES; l++)
            lanes[l] = larger(fabsf(values[l]), lanes[l]);
    for (uint32_t l = 0; l < n; l++)
        lanes[l] = larger(fabsf(values[l]), lanes[l]);
    return largest_of(lanes);
}

INLINE float rounding(const float *values, const uint8_t *bytes, uint32_t n, float scale)
{
    float lanes[LANES] = {0};
    for (; n >= LANES; n -= LANES, values += LANES, bytes += LANES)
        for (uint32_t l = 0; l < LANES; l++) {
            float left = values[l] - (float)(bytes[l] - 128) * scale;
            lanes[l] += left * left;
        }
    for (uint32_t l = 0; l < n; l++) {
        float left = values[l] - (float)(bytes[l] - 128) * scale;
        lanes[l] += left * left;
    }
    return sum_of(lanes);
}

/* By masks: of a choice whether to store, gcc makes a branch. */
INLINE void encode(const float *rows, const float *words, const float *halves, uint32_t sub_dim,
                   uint8_t *codes)
{
    float best[BUILD_LANES];
    uint32_t code[BUILD_LANES];
    for (uint32_t k = 0; k < BUILD_WORDS; k++) {
        float scores[BUILD_LANES];
        for (uint32_t r = 0; r < BUILD_LANES; r++)
            scores[r] = -halves[k];
        for (uint32_t j = 0; j < sub_dim; j++) {
            const float *column = rows + (size_t)j * BUILD_LANES;
            float value = words[(size_t)j * BUILD_WORDS + k];
            for (uint32_t r = 0; r < BUILD_LANES; r++)
                scores[r] += column[r] * value;
        }
        if (k == 0) {
            memcpy(best, scores, sizeof best);
            memset(code, 0, sizeof code);
        }
        for (uint32_t r = 0; r < BUILD_LANES; r++) {
            uint32_t better = -(uint32_t)(scores[r] > best[r]);
            code[r] = (k & better) | (code[r] & ~better);
            best[r] = larger(scores[r], best[r]);
        }
    }
    for (uint32_t r = 0; r < BUILD_LANES; r++)
        codes[r] = (uint8_t)code[r];
}

INLINE void bytes(const float *values, uint32_t n, float steps, uint8_t *out)
{
    /* Adding 1.5 * 2^23 leaves the rounded number in the low bits. */
    const float magic = 12582912.0f + 128.0f;
    for (uint32_t i = 0; i < n; i++) {
        float shifted = values[i] * steps + magic;
        uint32_t bits;
        memcpy(&bits, &shifted, sizeof bits);
        out[i] = (uint8_t)bits;
    }
}

#define VARIANT(name_, target_)                                                                    \
    target_ static uint32_t largest_##name_(const float *values, uint32_t n)                       \
    {                                                                                              \
        return largest(values, n);                                                                 \
    }                                                                                              \
    target_ static float square_##name_(const float *values, uint32_t n)                           \
    {                                                                                              \
        return square(values, n);                                                                  \
    }                                                                                              \
    target_ static float product_##name_(const float *a, const float *b, uint32_t n)               \
    {                                                                                              \
        return product(a, b, n);                                                                   \
    }                                                                                              \
    target_ static float most_##name_(const float *values, uint32_t n)                             \
    {                                                                                              \
        return most(values, n);                                                                    \
    }                                                                                              \
    target_ static float rounding_##name_(const float *values, const uint8_t *bytes, uint32_t n,   \
                                          float scale)                                             \
    {                                                                                              \
        return rounding(values, bytes, n, scale);                                                  \
    }                                                                                              \
    target_ static void encode_##name_(const float *rows, const float *words, const float *halves, \
                                       uint32_t sub_dim, uint8_t *codes)                           \
    {                                                                                              \
        encode(rows, words, halves, sub_dim, codes);                                               \
    }                                                                                              \
    target_ static void bytes_##name_(const float *values, uint32_t n, float steps, uint8_t *out)  \
    {                                                                                              \
        bytes(values, n, steps, out);                                                              \
    }                                                                                              \
    static const struct build_kernels name_ = {#name_,          largest_##name_, square_##name_,   \
                                               product_##name_, most_##name_,    rounding_##name_, \
                                               encode_##name_,  bytes_##name_};

VARIANT(baseline, )
#ifdef __x86_64__
VARIANT(avx2, __attribute__((target("avx2,fma"))))
#ifdef __clang__
#define WIDE                                                                                       \
    __attribute__((min_vector_width(512), target("avx512f,avx512bw,avx512vl,avx512dq,fma")))
#else
#define WIDE                                                                                       \
    __attribute__((target("avx512f,avx512bw,avx512vl,avx512dq,fma,prefer-vector-width=512")))
#endif
VARIANT(avx512, WIDE)
#endif

const struct build_kernels *build_kernels_variant(uint32_t index)
{
    const struct build_kernels *found[3] = {&baseline};
    uint32_t n = 1;
#ifdef __x86_64__
    if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) {
        found[n++] = &avx2;
        if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
            __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq"))
            found[n++] = &avx512;
    }
#endif
    return index < n ? found[index] : NULL;
}

const struct build_kernels *build_kernels(void)
{
    /* Two threads that come first at once store the same pointer; relaxed is enough because the
     * tables are constants. */
    static _Atomic(const struct build_kernels *) chosen;
    const struct build_kernels *best = atomic_load_explicit(&chosen, memory_order_relaxed);
    if (best != NULL)
        return best;
    for (uint32_t i = 0; build_kernels_variant(i) != NULL; i++)
        best = build_kernels_variant(i);
    atomic_store_explicit(&chosen, best, memory_order_relaxed);
    return best;
}
