#include "shard/index/ivf_best.h"

#include "proto/kith_err.h"

void ivf_best_init(struct ivf_best *best, uint32_t k, struct ivf_best_entry *memory)
{
    kith_assert(k >= 1);
    *best = (struct ivf_best){
        .first = memory, .second = memory + k, .k = k, .n_more = ivf_best_kept(k) - k};
}

static void push(struct ivf_best_entry *heap, uint32_t n, const struct ivf_best_entry *entry)
{
    uint32_t at = n;
    while (at > 0 && heap[(at - 1) / 2].score > entry->score) {
        heap[at] = heap[(at - 1) / 2];
        at = (at - 1) / 2;
    }
    heap[at] = *entry;
}

static void replace_worst(struct ivf_best_entry *heap, uint32_t n,
                          const struct ivf_best_entry *entry)
{
    uint32_t at = 0;
    for (uint32_t child = 1; child < n; child = 2 * at + 1) {
        if (child + 1 < n && heap[child + 1].score < heap[child].score)
            child++;
        if (heap[child].score >= entry->score)
            break;
        heap[at] = heap[child];
        at = child;
    }
    heap[at] = *entry;
}

void ivf_best_offer(struct ivf_best *best, const struct ivf_best_entry *entry)
{
    if (best->n_first < best->k) {
        push(best->first, best->n_first++, entry);
        return;
    }
    struct ivf_best_entry out = *entry;
    if (entry->score > best->first[0].score) {
        out = best->first[0];
        replace_worst(best->first, best->k, entry);
    }
    if (best->n_second < best->n_more)
        push(best->second, best->n_second++, &out);
    else if (out.score > best->second[0].score)
        replace_worst(best->second, best->n_more, &out);
}
