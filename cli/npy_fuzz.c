/* No input may read out of bounds, and what is accepted keeps its limits. */
#include <stdlib.h>

#include "cli/npy.h"
#include "proto/kith_limits.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n)
{
    struct npy npy;
    struct kith_diag diag;

    if (npy_read(&npy, data, n, &diag) == KITH_OK &&
        (npy.dim == 0 || npy.dim > KITH_DIM_MAX || npy.data_at > n))
        abort();
    return 0;
}
