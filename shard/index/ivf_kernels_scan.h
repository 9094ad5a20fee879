/* The scan of codes as all vector variants share it. Only for ivf_kernels_{avx2,avx512,neon}.c,
 * which before they include this define INLINE (static, always inlined, with the target's
 * attribute) and struct sums, the 16-bit sums of a block's 32 rows in registers; and after it what
 * differs: how the codes of a block become sums, and which of them are above the bound. */
#ifndef IVF_KERNELS_SCAN_H
#define IVF_KERNELS_SCAN_H

#include <stddef.h>

#include "shard/index/ivf_format.h"
#include "shard/index/ivf_kernels.h"

/* Whose bytes are summed before they are widened, and what a block has of them. */
#define PAIRS_AT_ONCE (IVF_KERNELS_GROUP / 2)
#define GROUP_BYTES   (PAIRS_AT_ONCE * IVF_BLOCK)
#define GROUP_TABLES  (IVF_KERNELS_GROUP * 32)

/* bias plus the table entries of each row. Meanwhile fetch_group is called for each PAIRS_AT_ONCE,
 * with where their codes are in the block `ahead`. */
INLINE struct sums sum_block(const uint8_t *codes, const uint8_t *tables, uint32_t pairs,
                             int16_t bias, const uint8_t *ahead);
/* Plus the rows' terms, see struct ivf_kernels_scan. */
INLINE struct sums add_terms(struct sums sums, const int16_t *terms, int16_t factor,
                             uint32_t shift);
/* Bit r: row r. */
INLINE uint32_t above(struct sums sums, int16_t bound);
/* In the order of rows. */
INLINE void store_sums(struct sums sums, int16_t *values);

/* The rows of a block that may be given out: those of [first, end) that are allowed. */
INLINE uint32_t open_rows(const struct ivf_kernels_scan *scan, uint32_t base, uint32_t first,
                          uint32_t end)
{
    uint32_t mask = UINT32_MAX;
    if (base < first)
        mask <<= first - base;
    if (end - base < IVF_BLOCK)
        mask &= (1u << (end - base)) - 1;
    if (scan->allowed != NULL)
        mask &= (uint32_t)(scan->allowed[base / 64] >> (base % 64));
    return mask;
}

INLINE uint32_t give(uint32_t mask, struct sums sums, uint32_t base, uint32_t *rows,
                     int16_t *estimates)
{
    uint32_t found = 0;
    int16_t values[IVF_BLOCK];
    if (estimates != NULL)
        store_sums(sums, values);
    for (; mask != 0; mask &= mask - 1) {
        uint32_t at = (uint32_t)__builtin_ctz(mask);
        if (estimates != NULL)
            estimates[found] = values[at];
        rows[found++] = base + at;
    }
    return found;
}

/* Fetches what PAIRS_AT_ONCE have in a block. Beside their look-ups that is two instructions; a
 * loop of its own over the lines of a block was a tenth of the scan. */
INLINE void fetch_group(const uint8_t *ahead)
{
    _Static_assert(GROUP_BYTES == 128, "two lines");
    __builtin_prefetch(ahead, 0, 3);
    __builtin_prefetch(ahead + 64, 0, 3);
}

/* ivf_kernels_scan_fn */
INLINE uint32_t scan_blocks(const struct ivf_kernels_scan *scan, uint32_t first, uint32_t end,
                            uint32_t *rows, int16_t *estimates, uint64_t *blocks)
{
    const uint32_t pairs = scan->n_subs / 2;
    const size_t block_bytes = ivf_format_block_bytes(scan->n_subs);
    const int16_t bias = scan->bias, factor = scan->factor, bound = scan->bound;
    uint32_t found = 0, scanned = 0;
    uint32_t base = first - first % IVF_BLOCK;
    const uint8_t *codes = scan->codes + base / IVF_BLOCK * block_bytes;
    for (size_t at = 0; base < end; base += IVF_BLOCK, at += block_bytes) {
        uint32_t open = open_rows(scan, base, first, end);
        if (open == 0)
            continue;
        struct ivf_kernels_ahead ahead = {codes + at, scan->terms + base}; /* nothing to fetch */
        if (scanned < scan->n_ahead)
            ahead = scan->ahead[scanned];
        scanned++;
        __builtin_prefetch(ahead.terms, 0, 3);
        struct sums sums = sum_block(codes + at, scan->tables, pairs, bias, ahead.codes);
        sums = add_terms(sums, scan->terms + base, factor, scan->shift);
        uint32_t mask = above(sums, bound) & open;
        if (mask != 0)
            found +=
                give(mask, sums, base, rows + found, estimates == NULL ? NULL : estimates + found);
    }
    *blocks += scanned;
    return found;
}

/* ivf_kernels_scan_blocks_fn. Without a branch on what is found: a block in five has something, and
 * which one is hard to predict. */
INLINE uint32_t scan_some_blocks(const struct ivf_kernels_scan *scan, struct ivf_kernels_line line,
                                 uint32_t n, uint32_t n_known, struct ivf_kernels_found *found)
{
    const uint32_t pairs = scan->n_subs / 2;
    const size_t block_bytes = ivf_format_block_bytes(scan->n_subs);
    const int16_t bias = scan->bias, factor = scan->factor;
    uint32_t n_found = 0;
    for (uint32_t i = 0; i < n; i++) {
        const size_t at = line.blocks[i];
        const size_t then = line.blocks[i + IVF_KERNELS_LEAD < n_known ? i + IVF_KERNELS_LEAD : i];
        __builtin_prefetch(scan->terms + then * IVF_BLOCK, 0, 3);
        struct sums sums = sum_block(scan->codes + at * block_bytes, scan->tables, pairs, bias,
                                     scan->codes + then * block_bytes);
        sums = add_terms(sums, scan->terms + at * IVF_BLOCK, factor, scan->shift);
        uint32_t rows = above(sums, line.bounds[i]) & line.open[i];
        /* One by one, and not what was loaded: gcc would put both into a vector register. */
        found[n_found].block = (uint32_t)at;
        found[n_found].rows = rows;
        n_found += rows != 0;
    }
    return n_found;
}

#endif
