#include "shard/storage/row_codec.h"

#include <math.h>
#include <string.h>

#include "common/kith_f16.h"

#define BLOCK 256u /* values that are scaled before they are stored */
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
        if (fabsf(x) > KITH_F16_MAX)
            return kith_fail(diag, KITH_UNPROCESSABLE,
                             "value %u of the vector does not fit float16 (at most %.0f)", i,
                             (double)KITH_F16_MAX);
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
    uint16_t *halves = row;
    float *floats = row;
    for (uint32_t at = 0; at < config->dim; at += BLOCK) {
        float block[BLOCK];
        uint32_t n = config->dim - at < BLOCK ? config->dim - at : BLOCK;
        for (uint32_t i = 0; i < n; i++) {
            float x;
            memcpy(&x, vector.data + (size_t)(at + i) * 4, 4);
            block[i] = (float)((double)x * scale);
        }
        if (half)
            kith_f16_pack(halves + at, block, n);
        else
            memcpy(floats + at, block, n * sizeof *block);
    }
}

void row_codec_decode(const struct slice_config *config, const void *row, float *vector)
{
    if (config->rows == KITH_ROWS_F16)
        kith_f16_unpack(vector, row, config->dim);
    else
        memcpy(vector, row, (size_t)config->dim * 4);
}
