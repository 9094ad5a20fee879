/* What a merge takes over from the indexes of its sources: rows whose segment has the codebook that
 * the new one is built with keep their lists, codes and bytes, so that they are neither assigned
 * nor encoded again.
 *
 * Owns: nothing; the source's segments stay open. Threads: any, once made. Errors: none; damaged
 * bytes are copied as they are, and their segment is marked (segment_check). */
#ifndef IVF_REUSE_H
#define IVF_REUSE_H

#include "shard/index/ivf.h"
#include "shard/storage/segment_index.h"

struct ivf_reuse {
    struct ivf_reuse_part {
        const struct ivf *index;
        struct segment_origin origin;
    } parts[SEGMENT_ORIGINS_MAX]; /* ascending */
    uint32_t n_parts;
    uint32_t n_rows; /* of all parts */
};

void ivf_reuse_init(struct ivf_reuse *reuse, const struct segment_source *source,
                    const struct codebook *codebook);

/* The index that the source's row i is in already, and its row there; NULL: none. */
const struct ivf *ivf_reuse_find(const struct ivf_reuse *reuse, uint32_t i, uint32_t *row);

/* The first row >= i that is in none, and *end, how far that goes on; n_rows of the source: none.
 */
uint32_t ivf_reuse_gap(const struct ivf_reuse *reuse, uint32_t i, uint32_t n_rows, uint32_t *end);

/* lists[i] of all rows that are in one, and the sum of their mean residual energies. */
double ivf_reuse_lists(const struct ivf_reuse *reuse, uint32_t *lists);

#endif
