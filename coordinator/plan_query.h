/* The plan of searches: one request holds one query or a batch of them. */
#ifndef PLAN_QUERY_H
#define PLAN_QUERY_H

#include "coordinator/merge.h"
#include "coordinator/plan.h"
#include "coordinator/plan_effort.h"
#include "coordinator/records.h"

/* How one node searched for a query that asked. */
struct query_explain {
    struct query_explain *next;
    const struct topology_node *node;
    uint64_t matched;
    bool known; /* false: an older node, which does not say */
    struct kith_msg_explain how;
};

struct query {
    const float *vector; /* dim floats, filled in at the latest by encode or lookup */
    uint32_t limit, offset;
    uint32_t k; /* asked of each slice */
    bool has_threshold;
    float threshold; /* a score, as users say it */
    struct kith_bytes filter;
    struct plan_effort effort;
    bool by_id;
    struct kith_id id; /* not part of its own answer */
    struct selector payload;
    bool with_vector;
    struct merge_list list;
    struct query_explain *explains; /* in the order of the answers */
};

struct query_plan {
    struct query *queries;
    uint32_t n;
    bool batch;      /* the result is a list of answers */
    bool bare_hits;  /* search: a bare list of hits; query: {"points": hits} */
    bool old_search; /* the words of search, not of query */
    /* Work */
    struct merge_scratch scratch;
    struct kith_id *fetch_ids;
    size_t n_fetch_ids;
    bool fetch_payload, fetch_vector;
    struct records records;
};

extern const struct work run_query_work; /* run_query.c */

#endif
