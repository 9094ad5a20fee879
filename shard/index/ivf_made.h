/* The index of a segment to be, in memory: made from rows and a codebook, then written as sections.
 *
 * Owns: a reference to the codebook, and what it made. Threads: one, and those of the build, which
 * call source->row and source->stop. Errors: KITH_NOMEM, KITH_CANCELLED. Memory: ivf_build.h. */
#ifndef IVF_MADE_H
#define IVF_MADE_H

#include "shard/index/ivf_calibrate.h"
#include "shard/index/ivf_encode.h"
#include "shard/index/ivf_format.h"
#include "shard/storage/segment_index.h"

/* What one is made of. */
struct ivf_make {
    const struct codebook *codebook; /* of the rows' dimension and metric */
    const struct segment_source *source;
    enum kith_row_type type;
    uint32_t threads; /* at least 1 */
    /* What is known of efforts from another segment with the codebook; NULL: nothing. */
    const struct ivf_calibration *known;
    uint32_t measure_rows; /* with fewer the segment takes what is known, whatever its rows are */
};

struct ivf_made {
    const struct codebook *codebook; /* a reference */
    uint32_t *lists;
    struct ivf_encoded encoded;
    struct ivf_meta meta;
    uint32_t n_fresh; /* rows that no segment had a list for */
    double fresh_energy;
};

/* order: source->n_rows; becomes the order of the rows in the segment. */
enum kith_err ivf_made_new(struct ivf_made **out, const struct ivf_make *make, uint32_t *order,
                           struct kith_diag *diag);
void ivf_made_free(struct ivf_made *made);

enum kith_err ivf_made_emit(const struct ivf_made *made, segment_emit_fn out, void *ctx,
                            struct kith_diag *diag);

#endif
