/* The times that `kith plan` tells: queries are tried with the sample, or with made-up vectors, and
 * what was tried is reckoned up to the size of the plan (shard/query/predict.h).
 *
 * Says on stderr what takes so long. Owns: nothing after the call. Threads: main; while it runs
 * SIGINT ends it. Errors: those of trial_run; KITH_CANCELLED after SIGINT. */
#ifndef PLAN_TIMES_H
#define PLAN_TIMES_H

#include "cli/sample.h"
#include "shard/query/predict.h"

struct plan_times {
    struct predict_times query; /* one query, one thread */
    uint32_t n_rows;            /* so many were tried */
    bool made_up;
    double recall; /* of the queries that were tried */
};

/* sample: n 0: none. */
enum kith_err plan_times_measure(const struct predict_shape *shape, const struct sample *sample,
                                 struct plan_times *out, struct kith_diag *diag);

#endif
