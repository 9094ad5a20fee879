/* Which plan serves a method and path: one table. Threads: any (constant data). */
#ifndef ROUTES_H
#define ROUTES_H

#include "coordinator/plan.h"

#define ROUTES_ALLOW_BYTES 64

struct route {
    enum gateway_method method;
    const char *pattern; /* "/collections/{collection}/points"; a label of metrics */
    plan_fn plan;
    bool needs_collection; /* segment 1 names one that must exist */
    bool takes_body;
};

/* KITH_OK; KITH_NOT_FOUND; KITH_METHOD with allow = "GET, PUT". */
enum kith_err routes_find(enum gateway_method method, const char *const *segments,
                          uint32_t segments_n, const struct route **out,
                          char allow[ROUTES_ALLOW_BYTES]);
uint32_t routes_count(void);
const struct route *routes_at(uint32_t index);
uint32_t routes_index(const struct route *route);

#endif
