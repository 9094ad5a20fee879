/* The scan of codes as AVX2 and AVX-512 share it. Only for ivf_kernels_avx*.c, which define INLINE
 * (static, always inlined, with the target's attribute) before they include this, and after it
 * what differs: how the codes of a block become sums, and which of them are above the bound. */
#ifndef IVF_KERNELS_SCAN_H
#define IVF_KERNELS_SCAN_H

#include <immintrin.h>
#include <stddef.h>

#include "shard/index/ivf_format.h"
#include "shard/index/ivf_kernels.h"

struct sums {
    __m256i even, odd; /* rows 0 to 15, rows 16 to 31 */
};

/* bias plus the table entries of each row; the tables of a pair are 64 bytes. */
INLINE struct sums sum_block(const uint8_t *codes, const uint8_t *tables, uint32_t pairs,
                             __m256i bias);
/* Bit r: row r. */
INLINE uint32_t above(struct sums sums, __m256i bound);

INLINE __m256i add_terms(__m256i sum, const int16_t *terms, __m256i factor, uint32_t shift)
{
    __m256i term = _mm256_mulhrs_epi16(_mm256_loadu_si256((const void *)terms), factor);
    for (uint32_t i = 0; i < shift; i++)
        term = _mm256_adds_epi16(term, term);
    return _mm256_adds_epi16(sum, term);
}

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
    int16_t values[32] __attribute__((aligned(32)));
    if (estimates != NULL) {
        _mm256_store_si256((void *)values, sums.even);
        _mm256_store_si256((void *)(values + 16), sums.odd);
    }
    for (; mask != 0; mask &= mask - 1) {
        uint32_t at = (uint32_t)__builtin_ctz(mask);
        if (estimates != NULL)
            estimates[found] = values[at];
        rows[found++] = base + at;
    }
    return found;
}

INLINE void fetch_ahead(const struct ivf_kernels_ahead *ahead, size_t block_bytes)
{
    for (size_t line = 0; line < block_bytes; line += 64)
        _mm_prefetch((const char *)ahead->codes + line, _MM_HINT_T0);
    _mm_prefetch((const char *)ahead->terms, _MM_HINT_T0);
}

/* ivf_kernels_scan_fn */
INLINE uint32_t scan_blocks(const struct ivf_kernels_scan *scan, uint32_t first, uint32_t end,
                            uint32_t *rows, int16_t *estimates, uint64_t *blocks)
{
    const uint32_t pairs = scan->n_subs / 2;
    const size_t block_bytes = ivf_format_block_bytes(scan->n_subs);
    const __m256i bias = _mm256_set1_epi16(scan->bias), bound = _mm256_set1_epi16(scan->bound),
                  factor = _mm256_set1_epi16(scan->factor);
    uint32_t found = 0, scanned = 0;
    uint32_t base = first - first % IVF_BLOCK;
    const uint8_t *codes = scan->codes + base / IVF_BLOCK * block_bytes;
    for (size_t at = 0; base < end; base += IVF_BLOCK, at += block_bytes) {
        uint32_t open = open_rows(scan, base, first, end);
        if (open == 0)
            continue;
        if (scanned < scan->n_ahead)
            fetch_ahead(&scan->ahead[scanned], block_bytes);
        scanned++;
        struct sums sums = sum_block(codes + at, scan->tables, pairs, bias);
        sums.even = add_terms(sums.even, scan->terms + base, factor, scan->shift);
        sums.odd = add_terms(sums.odd, scan->terms + base + 16, factor, scan->shift);
        uint32_t mask = above(sums, bound) & open;
        if (mask != 0)
            found +=
                give(mask, sums, base, rows + found, estimates == NULL ? NULL : estimates + found);
    }
    *blocks += scanned;
    return found;
}

#endif
