#include "shard/index/nearest_kernels.h"

#include <float.h>
#include <math.h>
#include <stdbool.h>
#include <stddef.h>

#define ROWS  NEAREST_KERNELS_ROWS
#define LANES NEAREST_KERNELS_LANES

static int32_t product(const struct nearest_kernels_tile *tile,
                       const struct nearest_kernels_rows *rows, uint32_t c, uint32_t r)
{
    int32_t sum = -rows->sums128[r];
    for (uint32_t group = 0; group < tile->dim4; group++)
        for (uint32_t j = 0; j < 4; j++)
            sum +=
                tile->bytes[(((size_t)(c / LANES) * tile->dim4 + group) * LANES + c % LANES) * 4 +
                            j] *
                rows->bytes[((size_t)group * ROWS + r) * 4 + j];
    return sum;
}

static void find_bounds(const struct nearest_kernels_tile *tile,
                        const struct nearest_kernels_rows *rows, float *bounds, float *maxima)
{
    for (uint32_t r = 0; r < ROWS; r++) {
        maxima[r] = -FLT_MAX;
        for (uint32_t c = 0; c < tile->n; c++) {
            float sum = (float)product(tile, rows, c, r);
            float value = fmaf(sum, tile->scales[c] * rows->scales[r], -tile->halves[c]);
            value = fmaf(tile->lifts[c], rows->lifts[r], value);
            value = fmaf(tile->lengths[c], rows->errors[r], value);
            value = fmaf(tile->errors[c], rows->lengths[r], value);
            bounds[(size_t)r * tile->n + c] = value;
            maxima[r] = value > maxima[r] ? value : maxima[r];
        }
    }
}

static const struct nearest_kernels scalar = {"scalar", find_bounds};

const struct nearest_kernels *nearest_kernels_best(void)
{
    return nearest_kernels_variant(1);
}

const struct nearest_kernels *nearest_kernels_variant(uint32_t index)
{
#ifdef __x86_64__
    if (index == 1 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
        __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq") &&
        __builtin_cpu_supports("avx512vnni") && __builtin_cpu_supports("fma"))
        return &nearest_kernels_avx512;
#endif
    return index == 0 ? &scalar : NULL;
}
