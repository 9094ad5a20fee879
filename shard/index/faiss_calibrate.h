/* Which settings of an index by Faiss find which share of the nearest rows: measured with queries
 * that are not in the index, as ivf_calibrate.h does it for ours.
 *
 * For each of the depths of faiss_format.h, nprobe (IVF) or efSearch (HNSW) is raised step by step
 * until nearly all is found, with a few k_factors each. Of the settings that are sure to reach a
 * level the cheapest is kept, and timed.
 *
 * The cost has a bound: a scan of all rows for the queries, then some 30 searches of each. Threads:
 * those of the workers. Memory: under 10 MB a thread. Errors: KITH_NOMEM, KITH_CANCELLED, and what
 * faiss_index_search says. */
#ifndef FAISS_CALIBRATE_H
#define FAISS_CALIBRATE_H

#include "shard/index/exact_best.h"
#include "shard/index/faiss_factory.h"
#include "shard/index/faiss_format.h"

#define FAISS_CALIBRATE_QUERIES 256u /* of each calibration */

/* scan: the rows of the index, and queries that are not among them; k is set here. *n: 0, when
 * there are too few rows to tell. */
enum kith_err faiss_calibrate_run(struct faiss_index *index, struct faiss_factory_shape shape,
                                  const struct exact_best *scan, struct workers *workers,
                                  struct faiss_target targets[FAISS_FORMAT_TARGETS], uint32_t *n,
                                  struct kith_diag *diag);

#endif
