/* Which lists to scan when a filter leaves out the rows nearest to a query.
 *
 * Owns: its memory. Threads: one at a time. Errors: KITH_NOMEM. */
#ifndef IVF_FAR_H
#define IVF_FAR_H

#include <stdint.h>

#include "shard/index/codebook.h"

#define IVF_FAR_STEPS 512u

struct ivf_job;

struct ivf_far {      /* arrays by list */
    float *rows;      /* that may be found; 0 also when they have been scanned */
    float *blocks;    /* to be scanned for them, about; at least 1 */
    uint32_t *chosen; /* n_chosen lists, ascending */
    uint32_t n_chosen;
    int32_t *bases; /* what estimates of rows are more than the kernel's, in steps of the tables;
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
/* The part of all expected hits that may be left, when such a share of the hits may be missed. */
float ivf_far_rest(float misses);
/* Chooses lists that have not been scanned: the densest, until all others hold no more than a part
 * `rest` of the hits that are expected in those not scanned yet. There is a bound. */
void ivf_far_choose(struct ivf_job *job, float rest);

#endif
