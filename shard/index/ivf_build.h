/* Building the index of a segment, and the hooks by which a store does (segment_index.h).
 *
 * One ivf_builder per collection of a node, shared by its slices. It holds the codebook new
 * segments are built with, and knows all codebooks of open segments by hash, so that each is in
 * memory once. Building: assignment of rows to centroids by matrix products, order by list, codes,
 * bytes, then the calibration: some rows of the segment, held out of training, are queries whose
 * exact answers are known; or what that said of another segment with the codebook.
 *
 * Memory of a build: what it makes (dim 100: 147 bytes a row with PQ4, a third of the f32 rows), 8
 * bytes a row, and less than 1 MB for each thread; the rows themselves are read where they are.
 *
 * Owns: references to codebooks. Threads: any; source->row and source->stop are called by all
 * threads of a build. Errors: KITH_NOMEM, KITH_CANCELLED; KITH_CORRUPT when a segment is opened. */
#ifndef IVF_BUILD_H
#define IVF_BUILD_H

#include "shard/index/ivf.h"
#include "shard/storage/segment_index.h"

struct ivf_builder;

struct ivf_builder_options {
    struct slice_config config; /* slice is ignored */
    enum codebook_codes codes;
    uint32_t min_rows; /* segments with fewer have no index; 0: by what they cost, as below */
    uint32_t threads;  /* of one build, at least 1 */
};

/* A collection with fewer rows has no codebook: scanning all of them costs less than ranking lists.
 */
#define IVF_TRAIN_ROWS 20000u
/* With a codebook, a segment of fewer rows has no index unless they are IVF_PAYS_BYTES or more (a
 * tenth of a millisecond of scanning for each query), and one for each list (the index has a copy
 * of the codebook, which would else be the larger part). */
#define IVF_PAYS_BYTES (1u << 20)
static inline bool ivf_pays(uint64_t n_rows, uint64_t row_bytes, uint32_t n_lists)
{
    return n_rows >= IVF_TRAIN_ROWS || (n_rows >= n_lists && n_rows * row_bytes >= IVF_PAYS_BYTES);
}
/* Of fewer rows a measured effort is not to be trusted: they take that of another segment, or have
 * no index until there is one. */
#define IVF_MEASURE_ROWS 4096u

enum kith_err ivf_builder_new(struct ivf_builder **out, const struct ivf_builder_options *options,
                              struct kith_diag *diag);
void ivf_builder_free(struct ivf_builder *builder); /* NULL allowed; no store uses it any more */
/* What they make of an open segment (segment_index) is a const struct ivf *. */
const struct segment_index_hooks *ivf_builder_hooks(struct ivf_builder *builder);

/* The codebook of segments written from now on; NULL: none, segments get no index. The newest
 * one wins (codebook_is_newer): an older one is ignored. */
void ivf_builder_set_codebook(struct ivf_builder *builder, const struct codebook *codebook);
const struct codebook *ivf_builder_codebook(struct ivf_builder *builder); /* a reference, or NULL */

/* How rows fit that were given a list with the codebook lately: newer ones weigh more. Their mean
 * residual energy over the codebook's own (1: as trained), over all nodes, is the drift; above
 * IVF_DRIFT it is time for a new generation. */
struct ivf_fit {
    uint64_t hash; /* of the codebook; 0: none */
    uint64_t rows; /* 0: energy says nothing */
    float energy;
};
struct ivf_fit ivf_builder_fit(struct ivf_builder *builder);

#endif
