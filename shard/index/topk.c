/* A binary heap with the worst kept hit on top (Williams 1964).
 *
 * Lost: a buffer of 2 k with selection when full. It moves less for k in the thousands, but scans
 * hand in very few hits once the floor has risen (about k ln(n / k)), and with the heap the floor
 * is exact after every push, which is what the scans' filter and the other threads live on. */
#include "shard/index/topk.h"

#include "proto/kith_err.h"

int topk_compare(const struct kith_hit *a, const struct kith_hit *b)
{
    if (a->rank != b->rank)
        return a->rank > b->rank ? -1 : 1;
    return kith_id_compare(&a->id, &b->id);
}

void topk_init(struct topk *top, uint32_t k, float floor, struct kith_hit *memory)
{
    kith_assert(k >= 1);
    *top = (struct topk){.k = k, .floor = floor, .hits = memory};
}

static void sift_up(struct kith_hit *hits, uint32_t at, const struct kith_hit *hit)
{
    while (at > 0) {
        uint32_t parent = (at - 1) / 2;
        if (topk_compare(hit, &hits[parent]) <= 0)
            break;
        hits[at] = hits[parent];
        at = parent;
    }
    hits[at] = *hit;
}

static void sift_down(struct kith_hit *hits, uint32_t n, const struct kith_hit *hit)
{
    uint32_t at = 0;
    for (;;) {
        uint32_t child = 2 * at + 1;
        if (child >= n)
            break;
        if (child + 1 < n && topk_compare(&hits[child + 1], &hits[child]) > 0)
            child++;
        if (topk_compare(hit, &hits[child]) >= 0)
            break;
        hits[at] = hits[child];
        at = child;
    }
    hits[at] = *hit;
}

bool topk_push(struct topk *top, const struct kith_hit *hit)
{
    if (!(hit->rank >= top->floor)) /* also a NaN */
        return false;
    if (top->n < top->k) {
        sift_up(top->hits, top->n++, hit);
    } else {
        if (topk_compare(hit, &top->hits[0]) >= 0)
            return false;
        sift_down(top->hits, top->n, hit);
    }
    if (top->n == top->k)
        top->floor = top->hits[0].rank;
    return true;
}

void topk_merge(struct topk *into, const struct topk *from)
{
    for (uint32_t i = 0; i < from->n; i++)
        (void)topk_push(into, &from->hits[i]);
}

void topk_sort(struct topk *top)
{
    for (uint32_t left = top->n; left > 1; left--) {
        struct kith_hit last = top->hits[left - 1];
        top->hits[left - 1] = top->hits[0];
        sift_down(top->hits, left - 1, &last);
    }
}
