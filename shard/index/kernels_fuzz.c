/* Kernels against the scalar definition: the input's first byte chooses how the rest, taken as raw
 * floats (so also NaN, infinities, subnormals), is cut into a query and rows. */
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "shard/index/kernels.h"

#define ROWS_MAX 4096u

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void check(const struct kernels *variant, const float *query, struct kernels_rows rows,
                  uint32_t n, enum kernels_type type)
{
    static float want[ROWS_MAX], got[ROWS_MAX];
    for (int form = 0; form < KERNELS_FORMS; form++) {
        kernels_scalar.scan[form][type](query, rows, n, want);
        variant->scan[form][type](query, rows, n, got);
        for (uint32_t i = 0; i < n; i++)
            if (!(want[i] == got[i]))
                abort();
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (size < 3)
        return 0;
    uint32_t dim = 1 + (data[0] | (uint32_t)data[1] << 8) % 300;
    enum kernels_type type = data[2] & 1 ? KERNELS_F16 : KERNELS_F32;
    data += 3;
    size -= 3;
    size_t row_bytes = kernels_row_bytes(type, dim);
    if (size < dim * sizeof(float) + row_bytes)
        return 0;
    float query[300];
    memcpy(query, data, dim * sizeof(float));
    size_t n = (size - dim * sizeof(float)) / row_bytes;
    struct kernels_rows rows = {data + dim * sizeof(float), dim};
    for (uint32_t v = 1; kernels_variant(v) != NULL; v++)
        check(kernels_variant(v), query, rows, (uint32_t)(n < ROWS_MAX ? n : ROWS_MAX), type);
    return 0;
}
