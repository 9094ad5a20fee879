/* The k best scores of a search, whose worst one is a bound for the rest.
 *
 * A heap with the worst on top: exact after every offer, whatever k is, and for k = 10 that costs a
 * few comparisons.
 *
 * Owns: nothing; the caller gives memory for k scores. Threads: one at a time. */
#ifndef IVF_BEST_H
#define IVF_BEST_H

#include <stdbool.h>
#include <stdint.h>

struct ivf_best {
    float *scores;
    uint32_t k, n;
};

void ivf_best_init(struct ivf_best *best, uint32_t k, float *memory); /* k >= 1 */
void ivf_best_offer(struct ivf_best *best, float score);              /* not NaN */

static inline bool ivf_best_full(const struct ivf_best *best)
{
    return best->n == best->k;
}

/* The worst of the k best; only when full. */
static inline float ivf_best_bound(const struct ivf_best *best)
{
    return best->scores[0];
}

#endif
