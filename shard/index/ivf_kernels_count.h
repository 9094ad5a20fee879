/* Counting what a filter leaves of each list, as all variants share it: they differ in what the
 * compiler may use to count bits. Included after INLINE is defined, see ivf_kernels_scan.h. */
#ifndef IVF_KERNELS_COUNT_H
#define IVF_KERNELS_COUNT_H

#include <stdint.h>

#define COUNT_WORDS 512u /* of the filter, counted at once */

/* counts[i]: so many bits are set before words[i]. Returns how many are before words[n]. */
INLINE uint32_t count_before(const uint64_t *words, uint32_t n, uint32_t before, uint32_t *counts)
{
    for (uint32_t i = 0; i < n; i++) {
        counts[i] = before;
        before += (uint32_t)__builtin_popcountll(words[i]);
    }
    return before;
}

/* ivf_kernels_count_rows_fn. All words come first, and then the ends of lists among them: how many
 * words a list has is hard to predict. */
INLINE void count_list_rows(const uint64_t *allowed, const uint32_t *lists, uint32_t n,
                            uint32_t *rows)
{
    uint32_t counts[COUNT_WORDS], from = 0, to = 0, before = 0, last = 0;
    const uint32_t n_words = lists[n] / 64 + (lists[n] % 64 != 0);
    for (uint32_t list = 0; list < n; list++) {
        uint32_t end = lists[list + 1], up_to = 0;
        if (end > 0) {
            for (; (end - 1) / 64 >= to;
                 before = count_before(allowed + from, to - from, before, counts)) {
                from = to;
                to = n_words - from < COUNT_WORDS ? n_words : from + COUNT_WORDS;
            }
            uint64_t bits = allowed[(end - 1) / 64] & UINT64_MAX >> (63 - (end - 1) % 64);
            up_to = counts[(end - 1) / 64 - from] + (uint32_t)__builtin_popcountll(bits);
        }
        rows[list] = up_to - last;
        last = up_to;
    }
}

#endif
