/* A set cut into so many segments of equal size that share a codebook, without a store around them:
 * what a search of one large segment costs more when the same rows lie in several.
 *
 * Threads: one. Errors: ends the program with a message. */
#ifndef ANN_SEGMENTS_H
#define ANN_SEGMENTS_H

#include "ann_set.h"
#include "shard/storage/view.h"

/* Rows i, i + n_segments, ... of the set go to segment i; a row's id is its number. The files are
 * in the folder "segments" of io. */
struct view *ann_segments_build(const struct ann_set *set, struct io *io,
                                const struct slice_config *config,
                                const struct segment_index_hooks *hooks, uint32_t n_segments);

#endif
