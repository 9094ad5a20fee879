/* Which list each row of a segment belongs to: the one whose centroid is nearest.
 *
 * Owns: the centroids in the form nearest.h wants, a codebook's work for one build. Threads: one
 * build at a time, with the threads of its workers. Errors: KITH_NOMEM, KITH_CANCELLED. */
#ifndef IVF_ASSIGN_H
#define IVF_ASSIGN_H

#include "shard/index/codebook.h"
#include "shard/index/nearest.h"
#include "shard/index/workers.h"
#include "shard/storage/segment_index.h"

struct ivf_assign {
    const struct codebook *codebook; /* borrowed */
    struct nearest_space space;
    float *centroids;       /* prepared */
    struct nearest_set set; /* of them */
};

enum kith_err ivf_assign_init(struct ivf_assign *assign, const struct codebook *codebook,
                              struct kith_diag *diag);
void ivf_assign_fini(struct ivf_assign *assign); /* a zeroed one is allowed */

/* lists[i] of the source's row i, and the mean squared distance from their centroids. */
enum kith_err ivf_assign_run(const struct ivf_assign *assign, const struct segment_source *source,
                             enum kith_row_type type, struct workers *workers, uint32_t *lists,
                             float *residual_energy, struct kith_diag *diag);

#endif
