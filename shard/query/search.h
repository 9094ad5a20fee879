/* Search over the views of a node's slices.
 *
 * A search gives, for each part, the exact number of points that match its filter and, for each
 * query, min(k, matched) of them (fewer only below a threshold), best first in the total order of
 * topk.h. Asked for exactness, or where no index helps, they are the best ones over all views: the
 * same answer on every run, however it was split over threads. Otherwise segments with an
 * approximate index may be searched by it, so that the share of the best ones that is found is, on
 * average, at least the recall asked for. docs/SEARCH.md says how a plan is chosen.
 *
 * Owns: the context owns scratch memory and kept answers of filters; results own their hits.
 * Borrows: the pool, views (hold a reference during the call), queries and filters. Threads: any
 * number of searches at the same time on one context. Errors: KITH_TIMEOUT after the deadline,
 * KITH_BAD_REQUEST for a query with NaN or infinity, KITH_TOO_BIG for an answer that would not fit
 * a frame, KITH_NOMEM, and what filters report unless `failures` takes it; results are untouched
 * then. */
#ifndef SEARCH_H
#define SEARCH_H

#include <stdbool.h>
#include <stdint.h>

#include "common/kith_pool.h"
#include "proto/kith_filter.h"
#include "proto/kith_msg.h"
#include "shard/index/faiss.h"
#include "shard/index/ivf.h"
#include "shard/query/filter_cache.h"
#include "shard/storage/view.h"

struct search_context;

/* pool NULL: everything on the caller. */
enum kith_err search_context_open(struct search_context **out, struct kith_pool *pool,
                                  struct kith_diag *diag);
/* Work on fewer bytes of rows than that is one thread's (512 KiB unless set): waking others takes
 * longer. Before the first search. */
void search_context_share_from(struct search_context *context, uint64_t bytes);
void search_context_close(struct search_context *context); /* NULL allowed; no search may run */

#define SEARCH_RECALL_DEFAULT 0.95f

/* Queries that share k, threshold, filter and effort. */
struct search_part {
    uint32_t n_queries, k;
    const uint8_t *vectors; /* n_queries * dim f32, any alignment */
    bool has_threshold;
    float threshold;                  /* a rank; hits below it are dropped */
    const struct kith_filter *filter; /* NULL or without nodes: every live point matches */
    bool exact;                       /* no index is used */
    bool indexed_only; /* segments that should have an index and have none yet are left out, also of
                          `matched` */
    bool no_rescore;   /* ranks of rows that lists find are those of their bytes, where they have
                          some: faster, and the rows stay out of memory */
    float recall;      /* the target in (0, 1]; 0: SEARCH_RECALL_DEFAULT */
    float margin;      /* times the effort's own, at least 1; infinity: codes leave no row of the
                          lists out; 0: 1 */
    const struct ivf_effort *effort; /* instead of a target: indexes are used whatever they cost */
};

struct search_request {
    struct view *const *views; /* of one collection: same dimension, metric and row type */
    uint32_t n_views;
    const struct search_part *parts;
    uint32_t n_parts;
    uint64_t deadline_ms; /* by kith_now_ms; 0: none */
    /* n_views, zeroed. A view whose filter cannot be evaluated gets its error here, has no part in
     * any result, and the others are searched. NULL: the whole search fails. */
    struct kith_diag *failures;
};

/* How a part was searched. */
enum search_plan {
    SEARCH_PLAN_NOTHING,      /* nothing matched, or nothing was asked for */
    SEARCH_PLAN_SCAN,         /* exact: all rows */
    SEARCH_PLAN_PICK,         /* exact: the rows that match */
    SEARCH_PLAN_LISTS,        /* indexes, where there are some */
    SEARCH_PLAN_LISTS_MASKED, /* the same, past rows that do not match */
    SEARCH_PLAN_PICK_BYTES,   /* the rows that match, by the bytes of their indexes */
    SEARCH_PLAN_FAISS,        /* indexes by Faiss, where there are some */
    SEARCH_PLANS,
};
const char *search_plan_name(enum search_plan plan); /* "lists_masked" */
/* Whether more may have been nearer than what was found. */
static inline bool search_plan_is_approximate(enum search_plan plan)
{
    return plan >= SEARCH_PLAN_LISTS;
}

struct search_explain {
    enum search_plan plan;
    uint32_t filter_hits, filter_misses; /* answers that were kept, and that had to be made */
    uint32_t segments_indexed, segments_plain, heads; /* searched by lists; exactly */
    uint32_t fell_back; /* queries whose lists gave too little, or took too long: done exactly */
    float recall;       /* the target; 1: exact */
    uint64_t rows;      /* ranked exactly one by one, by scan or pick */
    struct ivf_stats lists;
    struct faiss_effort faiss;      /* the most of any segment; 0: not used */
    uint64_t expected_ns, exact_ns; /* of this plan, and of an exact one */
    uint64_t ns;                    /* as it was; with more threads than one expected_ns is more */
};

struct search_hits {
    uint32_t n;
    struct kith_hit *hits; /* best first */
};

struct search_result {
    uint64_t points;  /* live points of all views */
    uint64_t matched; /* of those, how many match the filter */
    uint32_t n_queries;
    struct search_hits *found; /* one for each query */
    struct kith_hit *memory;   /* what found[].hits point into */
    struct search_explain explain;
};

/* results: n_parts. Each is freed with search_result_fini. */
enum kith_err search_run(struct search_context *context, const struct search_request *request,
                         struct search_result *results, struct kith_diag *diag);
void search_result_fini(struct search_result *result); /* a zeroed one is fine */

/* Since the context was opened, for metrics. */
struct search_stats {
    uint64_t queries[SEARCH_PLANS];
    uint64_t fell_back, rows;
    struct ivf_stats lists;
    struct filter_cache_stats filters;
};
void search_context_stats(struct search_context *context, struct search_stats *out);

#endif
