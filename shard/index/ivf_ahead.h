/* The blocks of codes a search will scan next, in the order of its lists and parts, so that they
 * can be fetched while others are scanned. A list has a few blocks in each part, fewer than cover
 * the time a fetch takes: so this runs a number of blocks ahead, not a list.
 *
 * Owns: nothing. Threads: one at a time. */
#ifndef IVF_AHEAD_H
#define IVF_AHEAD_H

#include "shard/index/ivf.h"
#include "shard/index/ivf_kernels.h"

#define IVF_AHEAD_RUN  33u /* blocks of the longest run that is scanned at once */
#define IVF_AHEAD_LEAD 12u /* blocks: about 200 ns of scanning, and small beside the L1 cache */

struct ivf_ahead {
    const struct ivf_part *parts;
    uint32_t n_parts;
    const uint32_t *order; /* of lists */
    uint32_t n_lists;
    size_t block_bytes;
    /* Where the next entry comes from. */
    uint32_t list, part, block, end;
    const struct ivf_part *of; /* whose blocks they are */
    /* Blocks that have not been fetched; entries[0] lies IVF_AHEAD_LEAD ahead of the scan. */
    struct ivf_kernels_ahead entries[IVF_AHEAD_RUN];
    uint32_t n;
};

/* Begins a portion of lists, whose first blocks are fetched at once. No parts or no codes: never
 * an entry. */
void ivf_ahead_begin(struct ivf_ahead *ahead, const struct ivf_part *parts, uint32_t n_parts,
                     const uint32_t *order, uint32_t n_lists);
/* Makes entries for a run of so many blocks, fewer at the end of the portion. */
void ivf_ahead_fill(struct ivf_ahead *ahead, uint32_t blocks);
/* So many blocks have been scanned, and as many entries fetched. */
void ivf_ahead_pass(struct ivf_ahead *ahead, uint32_t blocks);

#endif
