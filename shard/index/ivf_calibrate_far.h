/* How hard a search has to look for hits that are far, measured: of some rows, as queries, the
 * nearest half of the lists is left out, and a search that looks nearly everywhere in the others
 * says how far codes misjudged the hits it found, and how few of the expected hits would have done.
 * At most 48 searches: about a hundredth of what building the index takes.
 *
 * Threads: those of the workers. Errors: KITH_NOMEM, KITH_CANCELLED. */
#ifndef IVF_CALIBRATE_FAR_H
#define IVF_CALIBRATE_FAR_H

#include "shard/index/ivf.h"
#include "shard/index/workers.h"

/* Zeroed, if there is nothing to measure: too few queries, or lists are never chosen so (under
 * euclid, or without codes). queries: n_queries of them, spread evenly over the rows. */
enum kith_err ivf_calibrate_far_run(const struct ivf *index, const float *queries,
                                    uint32_t n_queries, struct workers *workers,
                                    struct ivf_far_effort out[IVF_FAR_EFFORTS],
                                    struct kith_diag *diag);

#endif
