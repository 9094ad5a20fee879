#include "shard/index/ivf_ahead.h"

#include <string.h>

#include "shard/index/ivf_format.h"

/* Moves to a list that has blocks; false: there is none. */
static bool find_block(struct ivf_ahead *ahead)
{
    while (ahead->block == ahead->end) {
        if (ahead->list == ahead->n_lists)
            return false;
        ahead->of = &ahead->parts[ahead->part];
        const uint32_t *lists = ahead->of->index->lists;
        uint32_t list = ahead->order[ahead->list], first = lists[list], end = lists[list + 1];
        ahead->block = first / IVF_BLOCK;
        ahead->end = first == end ? ahead->block : (end - 1) / IVF_BLOCK + 1;
        if (++ahead->part == ahead->n_parts) {
            ahead->part = 0;
            ahead->list++;
        }
    }
    return true;
}

static bool is_open(const struct ivf_part *part, uint32_t block)
{
    uint32_t row = block * IVF_BLOCK;
    return part->allowed == NULL || (uint32_t)(part->allowed[row / 64] >> (row % 64)) != 0;
}

/* The next block that will be scanned. */
static bool next_block(struct ivf_ahead *ahead, struct ivf_kernels_ahead *out)
{
    while (find_block(ahead)) {
        const struct ivf_part *part = ahead->of;
        uint32_t block = ahead->block++;
        if (!is_open(part, block))
            continue;
        *out = (struct ivf_kernels_ahead){part->index->codes + block * ahead->block_bytes,
                                          part->index->terms + (size_t)block * IVF_BLOCK};
        return true;
    }
    return false;
}

void ivf_ahead_begin(struct ivf_ahead *ahead, const struct ivf_part *parts, uint32_t n_parts,
                     const uint32_t *order, uint32_t n_lists)
{
    const struct codebook *codebook = parts[0].index->codebook;
    struct ivf_kernels_ahead first;
    ahead->parts = parts;
    ahead->n_parts = n_parts;
    ahead->order = order;
    ahead->n_lists = codebook->codes == CODEBOOK_PQ4 ? n_lists : 0;
    ahead->block_bytes = ivf_format_block_bytes(codebook->n_subs);
    ahead->list = ahead->part = ahead->block = ahead->end = ahead->n = 0;
    for (uint32_t i = 0; i < IVF_AHEAD_LEAD && next_block(ahead, &first); i++) {
        for (size_t line = 0; line < ahead->block_bytes; line += 64)
            __builtin_prefetch(first.codes + line);
        __builtin_prefetch(first.terms);
    }
}

void ivf_ahead_fill(struct ivf_ahead *ahead, uint32_t blocks)
{
    while (ahead->n < blocks && ahead->n < IVF_AHEAD_RUN &&
           next_block(ahead, &ahead->entries[ahead->n]))
        ahead->n++;
}

void ivf_ahead_pass(struct ivf_ahead *ahead, uint32_t blocks)
{
    blocks = blocks < ahead->n ? blocks : ahead->n;
    ahead->n -= blocks;
    memmove(ahead->entries, ahead->entries + blocks, sizeof *ahead->entries * ahead->n);
}
