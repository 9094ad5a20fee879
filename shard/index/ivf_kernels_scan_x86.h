/* What AVX2 and AVX-512 share of the scan of codes: the sums of a block are two registers of 256
 * bits. Included after INLINE is defined, see ivf_kernels_scan.h. */
#ifndef IVF_KERNELS_SCAN_X86_H
#define IVF_KERNELS_SCAN_X86_H

#include <immintrin.h>

struct sums {
    __m256i even, odd; /* rows 0 to 15, rows 16 to 31 */
};

#include "shard/index/ivf_kernels_scan.h"

INLINE __m256i plus_terms(__m256i sum, const int16_t *terms, int16_t factor, uint32_t shift)
{
    __m256i term =
        _mm256_mulhrs_epi16(_mm256_loadu_si256((const void *)terms), _mm256_set1_epi16(factor));
    for (uint32_t i = 0; i < shift; i++)
        term = _mm256_adds_epi16(term, term);
    return _mm256_adds_epi16(sum, term);
}

INLINE struct sums add_terms(struct sums sums, const int16_t *terms, int16_t factor, uint32_t shift)
{
    return (struct sums){plus_terms(sums.even, terms, factor, shift),
                         plus_terms(sums.odd, terms + 16, factor, shift)};
}

INLINE void store_sums(struct sums sums, int16_t *values)
{
    _mm256_storeu_si256((void *)values, sums.even);
    _mm256_storeu_si256((void *)(values + 16), sums.odd);
}

#endif
