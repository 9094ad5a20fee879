/* A set of vectors for the `ann` benchmark: base rows, queries, and the exact answers.
 *
 * Rows have length 1, so that inner product, cosine and (reversed) distance rank alike and every
 * engine may use the metric it is best at. Files: bench/data/README.md. The answers are computed
 * once per number of rows and queries, by plain loops that share no code with Kith, and kept beside
 * the files.
 *
 * Owns: the mapped files. Threads: after ann_set_open, any may read. Errors: ends the program with
 * a message: nothing can be measured without a set. */
#ifndef ANN_SET_H
#define ANN_SET_H

#include <stdint.h>

#define ANN_TRUTH_K 100u

struct ann_set {
    char name[64];
    uint32_t dim, n, n_queries;
    const float *base, *queries; /* mapped */
    const uint32_t *truth;       /* n_queries * ANN_TRUTH_K rows, best first */
    const float *truth_scores;   /* their inner products */
};

/* The first n_max rows and n_queries_max queries of the set in `dir` (0: all). */
void ann_set_open(struct ann_set *set, const char *dir, uint32_t n_max, uint32_t n_queries_max);

/* How many of the n found rows are among the k best of the query. A row as good as the k-th counts.
 */
uint32_t ann_set_hits(const struct ann_set *set, uint32_t query, const uint32_t *found, uint32_t n,
                      uint32_t k);

#endif
