/* What a scan will take, in nanoseconds on this machine.
 *
 * Measured for some milliseconds when a context is opened: a byte of rows read in order, a byte of
 * rows picked here and there. What a search in lists reads is counted in such bytes; how far that
 * count is off, for one codebook and about one share of matching rows, is learnt from the searches
 * that were made. Threads: any, once measured; what is learnt is a number by itself. Errors:
 * KITH_NOMEM. */
#ifndef SEARCH_COST_H
#define SEARCH_COST_H

#include <stdatomic.h>
#include <stdint.h>

#include "shard/index/ivf.h"

#define SEARCH_COST_CODEBOOKS 8u /* told apart by hash; two that share a place learn together */
#define SEARCH_COST_SHARES    8u /* of rows that match: all, a fourth, a sixteenth, ... */

struct search_cost {
    float ordered_ns, picked_ns;                                      /* a byte */
    _Atomic float factors[SEARCH_COST_CODEBOOKS][SEARCH_COST_SHARES]; /* 0: nothing learnt yet */
};

enum kith_err search_cost_measure(struct search_cost *cost, struct kith_diag *diag);

/* Ranking `matched` of `rows` rows, one query. */
double search_cost_exact(const struct search_cost *cost, uint32_t rows, uint64_t matched,
                         uint32_t row_bytes);

/* Searching lists: what all segments of a codebook share, and what each adds. */
double search_cost_lists_base(const struct search_cost *cost, const struct codebook *codebook,
                              uint32_t k, uint32_t row_bytes);
double search_cost_lists(const struct search_cost *cost, const struct ivf *index, uint64_t matched,
                         float rows_share);
/* The same, corrected by what was learnt. share: of rows that match. */
double search_cost_corrected(const struct search_cost *cost, uint64_t codebook_hash, double share,
                             double ns);
void search_cost_learn(struct search_cost *cost, uint64_t codebook_hash, double share,
                       double estimated_ns, double ns);

#endif
