/* The k best hits of a stream, in a total order: rank descending, then id ascending.
 *
 * Because the order is total and every id is offered at most once, the result does not depend on
 * the order in which hits come, nor on how they were split over threads, segments or slices.
 * Owns: nothing; the caller gives memory for k hits. Threads: one at a time. Limits: k >= 1. */
#ifndef TOPK_H
#define TOPK_H

#include <stdbool.h>
#include <stdint.h>

#include "proto/kith_msg.h"

struct topk {
    uint32_t k, n;
    float floor; /* hits below are not wanted; rises to the k-th best rank once k are held */
    struct kith_hit *hits; /* a heap, the worst first, until topk_sort */
};

/* `floor`: -FLT_MAX for no threshold. memory: k hits. */
void topk_init(struct topk *top, uint32_t k, float floor, struct kith_hit *memory);
/* True when the hit is among the best so far; a NaN never is. */
bool topk_push(struct topk *top, const struct kith_hit *hit);
void topk_merge(struct topk *into, const struct topk *from);
/* hits[0 .. n) best first. The struct then takes no more pushes. */
void topk_sort(struct topk *top);
/* <0: a comes before b. */
int topk_compare(const struct kith_hit *a, const struct kith_hit *b);

#endif
