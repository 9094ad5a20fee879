#include "shard/index/ivf_best.h"

#include "proto/kith_err.h"

void ivf_best_init(struct ivf_best *best, uint32_t k, float *memory)
{
    kith_assert(k >= 1);
    *best = (struct ivf_best){.scores = memory, .k = k};
}

static void sift_up(float *heap, uint32_t at, float score)
{
    while (at > 0 && heap[(at - 1) / 2] > score) {
        heap[at] = heap[(at - 1) / 2];
        at = (at - 1) / 2;
    }
    heap[at] = score;
}

static void replace_worst(float *heap, uint32_t n, float score)
{
    uint32_t at = 0;
    for (uint32_t child = 1; child < n; child = 2 * at + 1) {
        if (child + 1 < n && heap[child + 1] < heap[child])
            child++;
        if (heap[child] >= score)
            break;
        heap[at] = heap[child];
        at = child;
    }
    heap[at] = score;
}

void ivf_best_offer(struct ivf_best *best, float score)
{
    if (best->n < best->k)
        sift_up(best->scores, best->n++, score);
    else if (score > best->scores[0])
        replace_worst(best->scores, best->k, score);
}
