/* A product quantizer with 16 code words for every sub_dim dimensions (codebook.h): training, and
 * blocks of codes.
 *
 * Threads: any. Errors: KITH_NOMEM, KITH_CANCELLED. */
#ifndef PQ_H
#define PQ_H

#include "shard/index/build_kernels.h"
#include "shard/index/workers.h"

struct pq {
    uint32_t sub_dim, n_subs;
    const float *words;  /* n_subs * sub_dim * BUILD_WORDS */
    const float *halves; /* n_subs * BUILD_WORDS: |word|^2 / 2 */
};

/* Fills words from n rows, given by columns: value j of row i at columns[j * n + i], n_subs *
 * sub_dim columns. n is a positive multiple of BUILD_LANES, the rows are in random order. */
enum kith_err pq_train(const float *columns, uint32_t n, uint32_t sub_dim, uint32_t n_subs,
                       float *words, struct workers *workers, struct kith_diag *diag);
/* By how much all code words are to be multiplied for a product of a word with the row it stands
 * for to be right on average: words are means, and shorter than the rows. At least 1. */
float pq_stretch(const float *columns, uint32_t n, const struct pq *pq);
void pq_halves(const float *words, uint32_t sub_dim, uint32_t n_subs, float *halves);

#endif
