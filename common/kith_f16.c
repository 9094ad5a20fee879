#include "common/kith_f16.h"

#include <stdbool.h>
#include <string.h>
#ifdef __x86_64__
#include <cpuid.h>
#include <immintrin.h>
#include <stdatomic.h>
#elif defined(__aarch64__)
#include <arm_neon.h>
#endif

#include "proto/kith_wire.h"

uint16_t kith_f16_from_f32(float value)
{
    uint32_t bits = kith_f32_bits(value);
    uint32_t sign = (bits >> 16) & 0x8000u;
    uint32_t magnitude = bits & 0x7fffffffu;
    if (magnitude > 0x7f800000u) /* a NaN stays one and becomes quiet, as the instruction does */
        return (uint16_t)(sign | 0x7e00u | ((magnitude >> 13) & 0x3ffu));
    if (magnitude >= 0x477ff000u) /* rounds to 65536 or more */
        return (uint16_t)(sign | 0x7c00u);
    if (magnitude < 0x38800000u) { /* below 2^-14: a subnormal half, counted in steps of 2^-24 */
        if (magnitude <= 0x33000000u)
            return (uint16_t)sign;
        uint32_t shift = 126u - (magnitude >> 23);
        uint32_t mantissa = (magnitude & 0x7fffffu) | 0x800000u;
        uint32_t half = mantissa >> shift;
        uint32_t rest = mantissa & ((1u << shift) - 1u);
        uint32_t middle = 1u << (shift - 1u);
        half += rest > middle || (rest == middle && (half & 1u) != 0);
        return (uint16_t)(sign | half);
    }
    uint32_t rounded = magnitude + 0xfffu + ((magnitude >> 13) & 1u);
    return (uint16_t)(sign | ((rounded - 0x38000000u) >> 13));
}

float kith_f16_to_f32(uint16_t half)
{
    uint32_t sign = (uint32_t)(half & 0x8000u) << 16;
    uint32_t exponent = (half >> 10) & 0x1fu;
    uint32_t mantissa = half & 0x3ffu;
    if (exponent == 31)
        return kith_f32_of_bits(sign | 0x7f800000u | (mantissa << 13) |
                                (mantissa != 0 ? 0x400000u : 0));
    if (exponent == 0) { /* zero and subnormals: exact in float */
        float magnitude = (float)mantissa * 0x1p-24f;
        return kith_f32_of_bits(sign | kith_f32_bits(magnitude));
    }
    return kith_f32_of_bits(sign | ((exponent + 112u) << 23) | (mantissa << 13));
}

static void pack_plain(uint16_t *out, const float *values, size_t n)
{
    for (size_t i = 0; i < n; i++)
        out[i] = kith_f16_from_f32(values[i]);
}

static void unpack_plain(float *out, const uint8_t *halves, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        uint16_t half;
        memcpy(&half, halves + 2 * i, sizeof half);
        out[i] = kith_f16_to_f32(half);
    }
}

#ifdef __x86_64__
#define WITH_F16C __attribute__((target("avx,f16c")))

/* clang 14's __builtin_cpu_supports does not know F16C. The answer is kept because CPUID traps in
 * virtual machines; threads that ask first at once store the same value, so relaxed is enough. */
static bool has_f16c(void)
{
    static atomic_int known; /* 0: not asked yet, 1: no, 2: yes */
    int answer = atomic_load_explicit(&known, memory_order_relaxed);
    if (answer == 0) {
        unsigned eax, ebx, ecx = 0, edx;
        bool f16c = __get_cpuid(1, &eax, &ebx, &ecx, &edx) != 0 && (ecx & bit_F16C) != 0;
        answer = f16c && __builtin_cpu_supports("avx") ? 2 : 1;
        atomic_store_explicit(&known, answer, memory_order_relaxed);
    }
    return answer == 2;
}

WITH_F16C static void pack_f16c(uint16_t *out, const float *values, size_t n)
{
    size_t i = 0;
    for (; i + 8 <= n; i += 8)
        _mm_storeu_si128((__m128i *)(void *)(out + i),
                         _mm256_cvtps_ph(_mm256_loadu_ps(values + i), _MM_FROUND_TO_NEAREST_INT));
    pack_plain(out + i, values + i, n - i);
}

WITH_F16C static void unpack_f16c(float *out, const uint8_t *halves, size_t n)
{
    size_t i = 0;
    for (; i + 8 <= n; i += 8)
        _mm256_storeu_ps(out + i, _mm256_cvtph_ps(_mm_loadu_si128(
                                      (const __m128i *)(const void *)(halves + 2 * i))));
    unpack_plain(out + i, halves + 2 * i, n - i);
}
#elif defined(__aarch64__)
/* Conversions are in the base of the architecture. */
static void pack_neon(uint16_t *out, const float *values, size_t n)
{
    size_t i = 0;
    for (; i + 8 <= n; i += 8) {
        float16x4_t low = vcvt_f16_f32(vld1q_f32(values + i));
        vst1q_u16(out + i,
                  vreinterpretq_u16_f16(vcvt_high_f16_f32(low, vld1q_f32(values + i + 4))));
    }
    pack_plain(out + i, values + i, n - i);
}

static void unpack_neon(float *out, const uint8_t *halves, size_t n)
{
    size_t i = 0;
    for (; i + 8 <= n; i += 8) {
        float16x8_t x = vreinterpretq_f16_u8(vld1q_u8(halves + 2 * i));
        vst1q_f32(out + i, vcvt_f32_f16(vget_low_f16(x)));
        vst1q_f32(out + i + 4, vcvt_high_f32_f16(x));
    }
    unpack_plain(out + i, halves + 2 * i, n - i);
}
#endif

void kith_f16_pack(uint16_t *out, const float *values, size_t n)
{
#ifdef __x86_64__
    if (has_f16c()) {
        pack_f16c(out, values, n);
        return;
    }
    pack_plain(out, values, n);
#elif defined(__aarch64__)
    pack_neon(out, values, n);
#else
    pack_plain(out, values, n);
#endif
}

void kith_f16_unpack(float *out, const void *halves, size_t n)
{
#ifdef __x86_64__
    if (has_f16c()) {
        unpack_f16c(out, halves, n);
        return;
    }
    unpack_plain(out, halves, n);
#elif defined(__aarch64__)
    unpack_neon(out, halves, n);
#else
    unpack_plain(out, halves, n);
#endif
}

bool kith_f16_hardware(void)
{
#ifdef __x86_64__
    return has_f16c();
#else
    return false;
#endif
}
