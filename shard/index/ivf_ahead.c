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

/* Adds the next blocks that will be scanned to n of them, until there are `want`. */
static uint32_t add_blocks(struct ivf_ahead *ahead, struct ivf_kernels_ahead *out, uint32_t n,
                           uint32_t want)
{
    while (n < want && find_block(ahead)) {
        const struct ivf_part *part = ahead->of;
        uint32_t block = ahead->block;
        const uint8_t *codes = part->index->codes + block * ahead->block_bytes;
        const int16_t *terms = part->index->terms + (size_t)block * IVF_BLOCK;
        for (; block < ahead->end && n < want; block++) {
            out[n] = (struct ivf_kernels_ahead){codes, terms};
            n += is_open(part, block);
            codes += ahead->block_bytes;
            terms += IVF_BLOCK;
        }
        ahead->block = block;
    }
    return n;
}

void ivf_ahead_begin(struct ivf_ahead *ahead, const struct ivf_part *parts, uint32_t n_parts,
                     const uint32_t *order, uint32_t n_lists)
{
    const struct codebook *codebook = parts[0].index->codebook;
    struct ivf_kernels_ahead first[IVF_AHEAD_LEAD];
    ahead->parts = parts;
    ahead->n_parts = n_parts;
    ahead->order = order;
    ahead->n_lists = codebook->codes == CODEBOOK_PQ4 ? n_lists : 0;
    ahead->block_bytes = ivf_format_block_bytes(codebook->n_subs);
    ahead->list = ahead->part = ahead->block = ahead->end = ahead->n = 0;
    uint32_t n = add_blocks(ahead, first, 0, IVF_AHEAD_LEAD);
    for (uint32_t i = 0; i < n; i++) {
        for (size_t line = 0; line < ahead->block_bytes; line += 64)
            __builtin_prefetch(first[i].codes + line);
        __builtin_prefetch(first[i].terms);
    }
}

void ivf_ahead_fill(struct ivf_ahead *ahead, uint32_t blocks)
{
    ahead->n = add_blocks(ahead, ahead->entries, ahead->n,
                          blocks < IVF_AHEAD_RUN ? blocks : IVF_AHEAD_RUN);
}

void ivf_ahead_pass(struct ivf_ahead *ahead, uint32_t blocks)
{
    blocks = blocks < ahead->n ? blocks : ahead->n;
    ahead->n -= blocks;
    memmove(ahead->entries, ahead->entries + blocks, sizeof *ahead->entries * ahead->n);
}
