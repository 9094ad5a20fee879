/* An index by Faiss of an open segment, and the settings that were measured when it was built.
 *
 * Made by the hooks of faiss_build.h, held on the heap: about as many bytes as its section of the
 * file, KITH_FAISS_BYTES_MAX at most. Immutable; rows are numbered as in the segment.
 * Threads: any (faiss.h says who waits for whom). */
#ifndef FAISS_SEGMENT_H
#define FAISS_SEGMENT_H

#include "shard/index/faiss_format.h"
#include "shard/storage/segment.h"

struct faiss_segment {
    struct faiss_index *index;
    struct faiss_meta meta;
};

/* *out NULL: the segment has none, or one that this Faiss does not take, which is logged: it is
 * scanned then. KITH_CORRUPT: its bytes are not those that were written. KITH_NOMEM. */
enum kith_err faiss_segment_open(const struct segment *segment, const struct slice_config *config,
                                 struct faiss_segment **out, struct kith_diag *diag);
void faiss_segment_close(struct faiss_segment *index);

/* What segment_index is in a slice of this configuration; NULL: none, or one of lists. */
static inline struct faiss_segment *faiss_segment_of(const struct segment *segment,
                                                     const struct slice_config *config)
{
    return config->index == KITH_INDEX_FAISS ? segment_index(segment) : NULL;
}

/* The cheapest setting known to find the share `recall` of the `depth` nearest rows. NULL: none
 * is, only a scan is sure to. */
static inline const struct faiss_target *faiss_segment_target(const struct faiss_segment *index,
                                                              uint32_t depth, float recall)
{
    const struct faiss_target *best = NULL;
    for (uint32_t i = 0; i < index->meta.n_targets; i++) {
        const struct faiss_target *target = &index->meta.targets[i];
        if (target->depth >= depth && target->recall >= recall &&
            (best == NULL || target->cost_ns < best->cost_ns))
            best = target;
    }
    return best;
}

#endif
