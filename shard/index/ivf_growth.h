/* How much farther a search has to reach for more hits than a calibration asks for
 * (IVF_TARGET_HITS): the k nearest are spread over more lists the more they are, which the distance
 * of the k-th does not make up for.
 *
 * Measured when an index is calibrated, without searching: exact answers to a few queries say which
 * reach finds a share of the 10, 100 and 1,000 nearest. What is stored is how much more that is for
 * ten times as many hits. Memory: the hits of 32 queries for each thread, half a MB. Threads:
 * those of the workers. Errors: KITH_NOMEM, KITH_CANCELLED. */
#ifndef IVF_GROWTH_H
#define IVF_GROWTH_H

#include "shard/index/ivf_needed.h"
#include "shard/index/workers.h"

enum kith_err ivf_growth_measure(const struct ivf_needed *job, struct workers *workers,
                                 float *growth, struct kith_diag *diag);

#endif
