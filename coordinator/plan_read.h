/* The plans of reads that do not score: retrieve, count, scroll, facet. */
#ifndef PLAN_READ_H
#define PLAN_READ_H

#include "coordinator/plan.h"
#include "coordinator/records.h"

struct retrieve_plan {
    struct kith_id *ids;
    uint32_t n_ids;
    bool single; /* GET points/{id}: one record or 404 */
    struct selector payload;
    bool with_vector;
    struct records records;
};

struct count_plan {
    struct kith_bytes filter;
    uint64_t count;
};

struct scroll_plan {
    struct kith_bytes filter;
    uint32_t limit;
    bool has_from;
    struct kith_id from;
    bool ordered;
    struct kith_bytes order_key;
    bool descending;
    struct kith_bytes start_from; /* msgpack */
    struct selector payload;
    bool with_vector;
    struct records records;
};

struct facet_hit {
    struct kith_bytes value; /* one msgpack scalar */
    uint64_t count;
};
struct facet_plan {
    struct kith_bytes filter;
    const char *key;
    uint32_t limit;
    struct facet_hit *hits;
    size_t n_hits, hits_cap;
};

extern const struct work run_retrieve_work, run_count_work, run_scroll_work; /* run_read.c */
extern const struct work run_facet_work;                                     /* run_facet.c */

#endif
