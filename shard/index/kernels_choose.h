/* select and choose for values one by one: all of the scalar variant, and in the others what does
 * not fill a register. Only for kernels*.c. Threads: no state. */
#ifndef KERNELS_CHOOSE_H
#define KERNELS_CHOOSE_H

#include <stddef.h>

#include "shard/index/kernels.h"

/* Adds those of ranks [i, n) that are not below the bound; returns how many there are now. */
static inline uint32_t kernels_select_from(const float *ranks, uint32_t i, uint32_t n, float bound,
                                           uint32_t n_out, uint32_t *out)
{
    for (; i < n; i++) {
        out[n_out] = i; /* without a branch; there is room */
        n_out += !(ranks[i] < bound);
    }
    return n_out;
}

static inline float kernels_minus(const struct kernels_products *products, uint32_t row)
{
    return products->minus == NULL ? 0.0f : products->minus[row];
}

/* Adds the row to the lists of those of queries [q, n_queries) that it is not below the bound of.
 */
static inline void kernels_choose_from(const struct kernels_products *products, uint32_t row,
                                       uint32_t q, const float *bounds, uint32_t *counts,
                                       uint32_t *lists)
{
    const float *values = products->values + (size_t)row * products->n_queries;
    float minus = kernels_minus(products, row);
    for (; q < products->n_queries; q++)
        if (!(values[q] - minus < bounds[q]))
            lists[(size_t)q * products->n_rows + counts[q]++] = row;
}

#endif
