/* How far a search would have had to reach (struct ivf_effort) for hits that are known: the exact
 * answers say which lists hold them. Threads: one at a time with the same lists. */
#ifndef IVF_NEEDED_H
#define IVF_NEEDED_H

#include "shard/index/ivf.h"
#include "shard/index/ivf_lists.h"

#define IVF_NEEDED_MAX 1e6f /* of a hit that no reach finds */

struct ivf_needed {
    const struct ivf *index;
    struct ivf_lists *lists; /* scratch for its codebook */
};

/* Of the hits of a query that is row `own` of the index, best first and with itself among them: the
 * rank of the k-th best of the others, and needed[0..k), the reach for each when k are asked for.
 * k is below the number of hits. */
float ivf_needed_by(const struct ivf_needed *job, const float *query, uint32_t own,
                    const struct kith_hit *hits, uint32_t k, float *needed);

/* Writes n rows, evenly spread over the index, as f32, stretched as a search stretches its query
 * (ivf_format.h); which they are is ivf_needed_row. */
void ivf_needed_queries(const struct ivf *index, uint32_t n, float *out);
static inline uint32_t ivf_needed_row(const struct ivf *index, uint32_t n, uint32_t query)
{
    return (uint32_t)((uint64_t)query * index->n_rows / n);
}

/* What `share` of n sorted values do not exceed. */
static inline float ivf_needed_quantile(const float *sorted, uint32_t n, float share)
{
    return sorted[(uint32_t)(share * (float)(n - 1))];
}

#endif
