/* The idf of common n-grams: a generated constant table, see ngram_idf.c for source and licence.
 * Threads: any; constant. */
#ifndef NGRAM_IDF_H
#define NGRAM_IDF_H

#include <stddef.h>
#include <stdint.h>

#define NGRAM_IDF_LEVELS 16u

/* Sorted. Upper 28 bits: bits 4..31 of the gram's hash; lower 4 bits: its level, 0 = commonest.
 * Grams of level 15 are not in the table. */
extern const uint32_t ngram_idf_entries[];
extern const size_t ngram_idf_n;

/* The idf of each level, scaled so that the highest is 1. */
extern const float ngram_idf_weight[NGRAM_IDF_LEVELS];

#endif
