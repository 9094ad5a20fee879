/* The best candidates of a search by their approximate scores: the k best, whose worst one is the
 * bound of the search, and behind them some more, because the exact order may differ.
 *
 * Two heaps with the worst on top: what falls out of the first goes into the second. Both are exact
 * after every offer, whatever k is, and for k = 10 that costs a few comparisons.
 *
 * Owns: nothing; the caller gives memory for n_max entries. Threads: one at a time. */
#ifndef IVF_BEST_H
#define IVF_BEST_H

#include <stdbool.h>
#include <stdint.h>

struct ivf_best_entry {
    float score;
    uint32_t part, row;
};

struct ivf_best {
    struct ivf_best_entry *first;  /* n_first of k */
    struct ivf_best_entry *second; /* n_second of n_more, behind the first's memory */
    uint32_t k, n_first, n_more, n_second;
};

/* How many are kept for k hits. */
static inline uint32_t ivf_best_kept(uint32_t k)
{
    return k + k / 2 + 1;
}

/* memory: ivf_best_kept(k) entries. */
void ivf_best_init(struct ivf_best *best, uint32_t k, struct ivf_best_entry *memory);
void ivf_best_offer(struct ivf_best *best, const struct ivf_best_entry *entry);

static inline bool ivf_best_full(const struct ivf_best *best)
{
    return best->n_first == best->k;
}

/* The worst score of the k best; only when full. */
static inline float ivf_best_bound(const struct ivf_best *best)
{
    return best->first[0].score;
}

/* An entry with this score or less cannot change anything. */
static inline bool ivf_best_refuses(const struct ivf_best *best, float score)
{
    return best->n_second == best->n_more && !(score > best->second[0].score);
}

#endif
