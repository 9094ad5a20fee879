/* How hard a search has to look in an index for a recall, measured: some of its rows are queries,
 * each without itself, whose exact answers a scan finds; then the search runs with a grid of
 * efforts.
 *
 * The cost has a bound: the scan is a quarter of what assigning the rows cost, or 128 queries; the
 * searches are about 20 for each query. Threads: those of the workers. Memory: the best hits of all
 * queries for each thread, under 1 MB. Errors: KITH_NOMEM, KITH_CANCELLED. */
#ifndef IVF_CALIBRATE_H
#define IVF_CALIBRATE_H

#include "shard/index/ivf.h"
#include "shard/index/workers.h"

struct ivf_calibration {
    uint32_t n_targets;                         /* 0: too few rows to tell */
    struct ivf_far_effort far[IVF_FAR_EFFORTS]; /* 0: not measured */
    struct ivf_target targets[IVF_TARGETS]; /* recall ascending: a lower confidence bound (95 %) for
                                               the 10 nearest */
    uint32_t rows;                          /* of the segment it was measured in */
    float energy;                           /* and its residual_energy */
    float growth;                           /* of reach: ivf_growth.h */
};

enum kith_err ivf_calibrate_run(const struct ivf *index, struct workers *workers,
                                struct ivf_calibration *out, struct kith_diag *diag);

#endif
