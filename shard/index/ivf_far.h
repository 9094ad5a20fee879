/* Which lists to scan when a filter leaves out the rows nearest to a query.
 *
 * Owns: its memory. Threads: one at a time. Errors: KITH_NOMEM. */
#ifndef IVF_FAR_H
#define IVF_FAR_H

#include <stdint.h>

#include "shard/index/codebook.h"
#include "shard/index/ivf.h"

#define IVF_FAR_STEPS      512u
#define IVF_FAR_FIRST_REST 0.8f /* of the expected hits is left before the last round */

struct ivf_job;

struct ivf_far {      /* arrays by list */
    float *rows;      /* that may be found; 0 also when they have been scanned */
    float *blocks;    /* to be scanned for them, about; at least 1 */
    uint32_t *chosen; /* n_chosen lists, ascending */
    uint32_t n_chosen;
    float bound, left; /* by which the last ones were chosen, and the hits that were expected */
    int32_t *bases;    /* what estimates of rows are more than the kernel's, in steps of the tables;
                          cut off */
    /* Inside. */
    float *widths;   /* 1 / how far the list's rows are from its center: of the codebook */
    int32_t *steps;  /* of the tail */
    float *density;  /* hits expected in a block */
    float shift;     /* mean score of a list's rows less that of its center */
    float sharpness; /* of a list of width 1: 1 / standard deviation of scores within it */
    float tail[IVF_FAR_STEPS];
};

enum kith_err ivf_far_init(struct ivf_far *far, const struct codebook *codebook,
                           struct kith_diag *diag);
void ivf_far_fini(struct ivf_far *far); /* a zeroed one is allowed */

/* Begins a query: its lists are ranked, its tables filled. Raises its margin. */
void ivf_far_begin(struct ivf_job *job);
/* The part of all expected hits that may be left. */
float ivf_far_rest(const struct ivf_effort *effort);
/* The number of standard deviations that a normal deviate exceeds with this probability, at most a
 * half. */
float ivf_far_quantile(float probability);
/* Chooses lists that have not been scanned: the densest, until all others hold no more than a part
 * `rest` of the hits that are expected in those not scanned yet. There is a bound. */
void ivf_far_choose(struct ivf_job *job, float rest);
/* What it would have taken to find the hits of a search that has ended. */
void ivf_far_observe(struct ivf_job *job, struct ivf_far_seen *seen);

#endif
