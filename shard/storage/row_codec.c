#include "shard/storage/row_codec.h"

#include <math.h>
#include <string.h>

#define HALF_MAX 65504.0f /* largest finite float16 */
/* A float32 unit vector's squared length is within this of 1; scaling it again would only change
 * bits, and a vector read back and written again should stay the same. */
#define UNIT_SLACK 1e-6

_Static_assert(sizeof(float) == 4, "rows are IEEE 754 single precision");
#if __BYTE_ORDER__ != __ORDER_LITTLE_ENDIAN__
#error "rows are mapped as they lie on disk: little endian"
#endif

uint32_t row_codec_bytes(const struct slice_config *config)
{
    return config->dim * (config->rows == KITH_ROWS_F16 ? 2u : 4u);
}

uint16_t row_codec_half(float value)
{
    uint32_t bits;
    memcpy(&bits, &value, 4);
    uint32_t sign = bits >> 16 & 0x8000u;
    uint32_t rest = bits & 0x7fffffffu;
    if (rest >= 0x7f800000u) /* Inf, NaN (kept a NaN) */
        return (uint16_t)(sign | 0x7c00u | (rest > 0x7f800000u ? 0x200u : 0));
    if (rest >= 0x477ff000u) /* rounds to 2^16 or more */
        return (uint16_t)(sign | 0x7c00u);
    if (rest < 0x33000001u) /* at most half of the smallest subnormal */
        return (uint16_t)sign;
    uint32_t exponent = rest >> 23;
    uint32_t mantissa, shift;
    if (exponent >= 113) { /* normal in half: rebias 127 to 15 */
        mantissa = rest - (112u << 23);
        shift = 13;
    } else { /* subnormal: the leading one becomes explicit */
        mantissa = (rest & 0x7fffffu) | 0x800000u;
        shift = 126 - exponent;
    }
    uint32_t half = mantissa >> shift;
    uint32_t lost = mantissa & ((1u << shift) - 1);
    uint32_t middle = 1u << (shift - 1);
    if (lost > middle || (lost == middle && (half & 1) != 0))
        half++;
    return (uint16_t)(sign | half);
}

float row_codec_float(uint16_t half)
{
    uint32_t sign = (uint32_t)(half & 0x8000u) << 16;
    uint32_t exponent = half >> 10 & 0x1fu;
    uint32_t mantissa = half & 0x3ffu;
    uint32_t bits;
    if (exponent == 31) {
        bits = sign | 0x7f800000u | mantissa << 13;
    } else if (exponent != 0) {
        bits = sign | (exponent + 112) << 23 | mantissa << 13;
    } else {
        float tiny = (float)mantissa * 0x1p-24f;
        return sign != 0 ? -tiny : tiny;
    }
    float value;
    memcpy(&value, &bits, 4);
    return value;
}

static double squared_length(const uint8_t *data, uint32_t dim)
{
    double sums[4] = {0, 0, 0, 0}; /* independent, so that the additions overlap */
    for (uint32_t i = 0; i < dim; i++) {
        float x;
        memcpy(&x, data + (size_t)i * 4, 4);
        sums[i & 3] += (double)x * (double)x;
    }
    return sums[0] + sums[1] + sums[2] + sums[3];
}

enum kith_err row_codec_check(const struct slice_config *config, struct kith_bytes vector,
                              struct kith_diag *diag)
{
    if (vector.len != (size_t)config->dim * 4)
        return kith_fail(diag, KITH_BAD_REQUEST,
                         "the vector has %zu values, the collection's have %u", vector.len / 4,
                         config->dim);
    /* All exponent bits set = NaN or Inf; gathered without a branch per value. */
    uint32_t bad = 0;
    for (uint32_t i = 0; i < config->dim; i++) {
        uint32_t bits;
        memcpy(&bits, vector.data + (size_t)i * 4, 4);
        bad |= (uint32_t)((bits & 0x7f800000u) == 0x7f800000u);
    }
    if (bad != 0)
        return kith_fail(diag, KITH_BAD_REQUEST, "the vector holds a NaN or an infinity");
    if (config->rows != KITH_ROWS_F16 || config->metric == KITH_COSINE)
        return KITH_OK;
    for (uint32_t i = 0; i < config->dim; i++) {
        float x;
        memcpy(&x, vector.data + (size_t)i * 4, 4);
        if (fabsf(x) > HALF_MAX)
            return kith_fail(diag, KITH_UNPROCESSABLE,
                             "value %u of the vector does not fit float16 (at most %.0f)", i,
                             (double)HALF_MAX);
    }
    return KITH_OK;
}

void row_codec_encode(const struct slice_config *config, struct kith_bytes vector, void *row)
{
    double scale = 1.0;
    if (config->metric == KITH_COSINE) {
        double squared = squared_length(vector.data, config->dim);
        if (squared > 0 && fabs(squared - 1.0) > UNIT_SLACK)
            scale = 1.0 / sqrt(squared);
    }
    bool half = config->rows == KITH_ROWS_F16;
    if (!half && scale == 1.0) {
        memcpy(row, vector.data, vector.len);
        return;
    }
    uint8_t *to = row;
    for (uint32_t i = 0; i < config->dim; i++) {
        float x;
        memcpy(&x, vector.data + (size_t)i * 4, 4);
        x = (float)((double)x * scale);
        if (half) {
            uint16_t h = row_codec_half(x);
            memcpy(to + (size_t)i * 2, &h, 2);
        } else {
            memcpy(to + (size_t)i * 4, &x, 4);
        }
    }
}

void row_codec_decode(const struct slice_config *config, const void *row, float *vector)
{
    if (config->rows != KITH_ROWS_F16) {
        memcpy(vector, row, (size_t)config->dim * 4);
        return;
    }
    const uint8_t *from = row;
    for (uint32_t i = 0; i < config->dim; i++) {
        uint16_t h;
        memcpy(&h, from + (size_t)i * 2, 2);
        vector[i] = row_codec_float(h);
    }
}
