/* Lining up the blocks of a list, as the variants share it that have nothing better: a store that
 * packs lanes. Included after INLINE is defined, see ivf_kernels_scan.h. */
#ifndef IVF_KERNELS_LINE_H
#define IVF_KERNELS_LINE_H

#include <stddef.h>

#include "shard/index/ivf_format.h"
#include "shard/index/ivf_kernels.h"

/* Which rows of the first and the last block of [first, end) are in it. */
INLINE uint32_t line_first(uint32_t first)
{
    return UINT32_MAX << first % IVF_BLOCK;
}

INLINE uint32_t line_last(uint32_t end)
{
    return UINT32_MAX >> (IVF_BLOCK - 1 - (end - 1) % IVF_BLOCK);
}

/* ivf_kernels_line_up_fn. Without a branch on what is allowed. */
INLINE uint32_t line_up_blocks(const uint64_t *allowed, uint32_t first, uint32_t end, int16_t bound,
                               struct ivf_kernels_line line)
{
    _Static_assert(IVF_BLOCK == 32, "two blocks a word");
    const uint32_t last = (end - 1) / IVF_BLOCK;
    uint32_t n = 0, in = line_first(first);
    for (uint32_t block = first / IVF_BLOCK; block <= last; block++, in = UINT32_MAX) {
        in &= block == last ? line_last(end) : UINT32_MAX;
        if (allowed != NULL)
            in &= (uint32_t)(allowed[block / 2] >> block % 2 * IVF_BLOCK);
        line.blocks[n] = block;
        line.open[n] = in;
        line.bounds[n] = bound;
        n += in != 0;
    }
    return n;
}

#endif
