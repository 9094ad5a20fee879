/* Builds indexes by Faiss into segments, from a factory string: the other set of hooks that a store
 * is given (segment_index.h), beside ivf_build.h's.
 *
 * Each segment trains on a sample of its own rows. Some rows are held out: they come last in the
 * segment, are the queries of the calibration, and are added after it. RFlat at the end of a string
 * is taken off before: the rows of the segment rank what Faiss found, always, and need no copy.
 * Rows that no index can be made of (values beyond FAISS_NORM_MAX, a training that fails) are
 * logged, leave a note in the segment, and are scanned.
 *
 * Building takes one thread for Faiss and several for the calibration. Memory: the sample
 * (KITH_FAISS_SAMPLE_BYTES), the index, and what faiss_calibrate.h says.
 *
 * Threads: any. Errors: KITH_NOMEM, KITH_CANCELLED; KITH_CORRUPT when a segment is opened. A stop
 * waits for a training that has begun: Faiss cannot be interrupted there. */
#ifndef FAISS_BUILD_H
#define FAISS_BUILD_H

#include "shard/index/faiss_segment.h"

/* Whether a collection may be given an index by this factory string; an empty one is made.
 * KITH_BAD_REQUEST, KITH_UNSUPPORTED, KITH_TOO_BIG with a text for whoever asked for it. */
enum kith_err faiss_build_check(const char *factory, uint32_t dim, enum kith_metric metric,
                                struct kith_diag *diag);

struct faiss_builder;

struct faiss_builder_options {
    struct slice_config config; /* slice is ignored; index is KITH_INDEX_FAISS */
    uint32_t min_rows;          /* segments with fewer have no index; nor have those with fewer than
                                   the training takes */
    uint32_t threads;           /* of one build, at least 1 */
};

/* KITH_BAD_REQUEST and others as faiss_build_check. */
enum kith_err faiss_builder_new(struct faiss_builder **out,
                                const struct faiss_builder_options *options,
                                struct kith_diag *diag);
void faiss_builder_free(
    struct faiss_builder *builder); /* NULL allowed; no store uses it any more */
/* What they make of an open segment (segment_index) is a struct faiss_segment *. */
const struct segment_index_hooks *faiss_builder_hooks(struct faiss_builder *builder);

#endif
