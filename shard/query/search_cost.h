/* What a search will take, in nanoseconds of CPU on this machine.
 *
 * Measured for some milliseconds when a context is opened: a byte of rows read in order, a byte of
 * rows picked here and there, both from a cache. How far reality is from that is learnt from the
 * searches that were made: of exact ones by the size of the segment (whether it is in a cache), of
 * those in lists by codebook and by the share of rows that match. Threads: any, once measured; what
 * is learnt is a number by itself. Errors: KITH_NOMEM. */
#ifndef SEARCH_COST_H
#define SEARCH_COST_H

#include <stdatomic.h>
#include <stdint.h>

#include "shard/index/ivf.h"

#define SEARCH_COST_CODEBOOKS 8u /* told apart by hash; two that share a place learn together */
#define SEARCH_COST_SHARES    8u /* of rows that match: all, a fourth, a sixteenth, ... */

#define SEARCH_COST_SIZES 8u /* of a segment's rows: 1 MiB, 4 MiB, 16 MiB, ... */

struct search_cost {
    float ordered_ns, picked_ns; /* a byte */
    /* What estimates are multiplied by; 0: nothing learnt yet. */
    _Atomic float exact[SEARCH_COST_SIZES][2]; /* scanned, picked */
    _Atomic float lists[SEARCH_COST_CODEBOOKS][SEARCH_COST_SHARES];
};

enum kith_err search_cost_measure(struct search_cost *cost, struct kith_diag *diag);

/* Ranking those `matched` of a run of rows that match, one query. */
struct search_cost_run {
    uint32_t rows, row_bytes;
    uint64_t matched;
    uint64_t whole_rows; /* of the segment the run is from */
};
double search_cost_exact(const struct search_cost *cost, const struct search_cost_run *run);
void search_cost_learn_exact(struct search_cost *cost, const struct search_cost_run *run,
                             double ns);

/* Searching lists: what all segments of a codebook share, and what each adds. */
double search_cost_lists_base(const struct search_cost *cost, const struct codebook *codebook,
                              uint32_t k, uint32_t row_bytes);
double search_cost_lists(const struct search_cost *cost, const struct ivf *index, uint64_t matched,
                         float rows_share);
/* Ranking the rows that match by their bytes instead, as an index has them: what each segment adds;
 * INFINITY when it has none. And what all share. */
double search_cost_bytes(const struct search_cost *cost, const struct ivf *index, uint64_t matched);
double search_cost_bytes_base(const struct search_cost *cost, uint32_t k, uint32_t row_bytes);
/* Either, corrected by what was learnt. share: of rows that match. */
double search_cost_corrected(const struct search_cost *cost, uint64_t codebook_hash, double share,
                             double ns);
void search_cost_learn(struct search_cost *cost, uint64_t codebook_hash, double share,
                       double estimated_ns, double ns);

#endif
