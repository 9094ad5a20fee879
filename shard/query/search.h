/* Exact search over the views of a node's slices.
 *
 * A search gives, for each part, the exact number of points that match its filter and, for each
 * query, the best min(k, matched) of them over all views (fewer only below a threshold), in the
 * total order of topk.h: the same answer on every run, however it was split over threads.
 *
 * Owns: the context owns scratch memory; results own their hits. Borrows: the pool, views (hold a
 * reference during the call), queries and filters. Threads: any number of searches at the same time
 * on one context. Errors: KITH_TIMEOUT after the deadline, KITH_BAD_REQUEST for a query with NaN or
 * infinity, KITH_TOO_BIG for an answer that would not fit a frame, what filters report, KITH_NOMEM;
 * results are untouched then. */
#ifndef SEARCH_H
#define SEARCH_H

#include <stdbool.h>
#include <stdint.h>

#include "common/kith_pool.h"
#include "proto/kith_filter.h"
#include "proto/kith_msg.h"
#include "shard/storage/view.h"

struct search_context;

/* pool NULL: everything on the caller. */
enum kith_err search_context_open(struct search_context **out, struct kith_pool *pool,
                                  struct kith_diag *diag);
/* Work on fewer bytes of rows than that is one thread's (512 KiB unless set): waking others takes
 * longer. Before the first search. */
void search_context_share_from(struct search_context *context, uint64_t bytes);
void search_context_close(struct search_context *context); /* NULL allowed; no search may run */

/* Queries that share k, threshold and filter. */
struct search_part {
    uint32_t n_queries, k;
    const uint8_t *vectors; /* n_queries * dim f32, any alignment */
    bool has_threshold;
    float threshold;                  /* a rank; hits below it are dropped */
    const struct kith_filter *filter; /* NULL or without nodes: every live point matches */
};

struct search_request {
    struct view *const *views; /* of one collection: same dimension, metric and row type */
    uint32_t n_views;
    const struct search_part *parts;
    uint32_t n_parts;
    uint64_t deadline_ms; /* by kith_now_ms; 0: none */
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
};

/* results: n_parts. Each is freed with search_result_fini. */
enum kith_err search_run(struct search_context *context, const struct search_request *request,
                         struct search_result *results, struct kith_diag *diag);
void search_result_fini(struct search_result *result); /* a zeroed one is fine */

#endif
