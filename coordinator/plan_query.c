#include "coordinator/plan_query.h"

#include <string.h>

#include "common/kith_arena.h"

/* Hits in one answer, all queries of a batch together: they must fit one message. */
#define HITS_MAX (KITH_FRAME_BODY_MAX / KITH_HIT_BYTES / 2)

static const struct plan_field query_fields[] = {
    {"query", PLAN_TAKEN},        {"using", PLAN_TAKEN},           {"filter", PLAN_TAKEN},
    {"params", PLAN_TAKEN},       {"score_threshold", PLAN_TAKEN}, {"limit", PLAN_TAKEN},
    {"offset", PLAN_TAKEN},       {"with_payload", PLAN_TAKEN},    {"with_vector", PLAN_TAKEN},
    {"with_vectors", PLAN_TAKEN}, {"prefetch", PLAN_REFUSED},      {"lookup_from", PLAN_REFUSED},
    {"shard_key", PLAN_REFUSED},
};
static const struct plan_field search_fields[] = {
    {"vector", PLAN_TAKEN},       {"filter", PLAN_TAKEN},          {"params", PLAN_TAKEN},
    {"top", PLAN_TAKEN},          {"score_threshold", PLAN_TAKEN}, {"limit", PLAN_TAKEN},
    {"offset", PLAN_TAKEN},       {"with_payload", PLAN_TAKEN},    {"with_vector", PLAN_TAKEN},
    {"with_vectors", PLAN_TAKEN}, {"shard_key", PLAN_REFUSED},
};

/* ---- the vector ------------------------------------------------------------------------------ */

static enum kith_err by_id(struct request *req, struct kith_json value, const char *where,
                           struct query *query, struct kith_diag *diag)
{
    enum kith_err err = plan_id(value, where, &query->id, diag);
    if (err)
        return err;
    struct request_lookup *lookups =
        request_grow(req, req->lookups, req->n_lookups, &req->lookups_cap, sizeof(*lookups));
    float *out = kith_arena_array(req->arena, req->target.dim, sizeof(*out));
    if (!lookups || !out)
        return kith_fail(diag, KITH_NOMEM, "%s: out of memory", where);
    req->lookups = lookups;
    lookups[req->n_lookups++] =
        (struct request_lookup){.id = query->id, .out = out, .where = where};
    query->by_id = true;
    query->vector = out;
    return KITH_OK;
}

static const char *const other_kinds[] = {
    "recommend", "discover", "context", "order_by",           "fusion", "rrf", "formula",
    "sample",    "mmr",      "indices", "relevance_feedback",
};

static enum kith_err nearest(struct request *req, struct kith_json value, const char *where,
                             struct query *query, struct kith_diag *diag)
{
    enum kith_json_type type = kith_json_type(value);
    if (type == KITH_JSON_INT || type == KITH_JSON_STR)
        return by_id(req, value, where, query, diag);
    if (type != KITH_JSON_ARRAY && type != KITH_JSON_OBJECT)
        return plan_wrong_type(diag, where, "a vector, a point id, or {\"text\": ...}", value);
    struct kith_json member;
    if (type == KITH_JSON_OBJECT && kith_json_get(value, "nearest", &member))
        return kith_fail(diag, KITH_BAD_REQUEST, "%s.nearest: is inside nearest already", where);
    float *floats;
    enum kith_err err;
    if (type == KITH_JSON_OBJECT) /* the name is given by `using` here, so no {name: vector} */
        err = kith_json_get(value, "text", &member)
                  ? plan_text(req, value, where, &floats, diag)
                  : kith_fail(diag, KITH_BAD_REQUEST, "%s: expected {\"text\": ...}", where);
    else
        err = plan_vector(req, value, where, &floats, diag);
    if (!err)
        query->vector = floats;
    return err;
}

static const struct plan_field nearest_fields[] = {{"nearest", PLAN_TAKEN}, {"mmr", PLAN_REFUSED}};

static enum kith_err query_vector(struct request *req, struct kith_json object, const char *where,
                                  struct query *query, struct kith_diag *diag)
{
    struct kith_json value, member;
    const char *at = plan_where(req, where, "query");
    if (!kith_json_opt(object, "query", &value))
        return kith_fail(diag, KITH_UNSUPPORTED,
                         "%s: required; a query without one is not supported, use scroll", at);
    if (kith_json_type(value) != KITH_JSON_OBJECT)
        return nearest(req, value, at, query, diag);
    for (size_t i = 0; i < sizeof(other_kinds) / sizeof(other_kinds[0]); i++)
        if (kith_json_opt(value, other_kinds[i], &member))
            return kith_fail(diag, KITH_UNSUPPORTED, "%s.%s: not supported", at, other_kinds[i]);
    if (!kith_json_get(value, "nearest", &member))
        return nearest(req, value, at, query, diag);
    enum kith_err err = PLAN_FIELDS(value, at, nearest_fields, diag);
    return err ? err : nearest(req, member, plan_where(req, at, "nearest"), query, diag);
}

static const struct plan_field named_fields[] = {{"name", PLAN_TAKEN}, {"vector", PLAN_TAKEN}};

/* search: [numbers], {"name":, "vector":}, or {"text":}. */
static enum kith_err search_vector(struct request *req, struct kith_json object, const char *where,
                                   struct query *query, struct kith_diag *diag)
{
    struct kith_json value, inner;
    const char *at = plan_where(req, where, "vector");
    if (!kith_json_opt(object, "vector", &value))
        return kith_fail(diag, KITH_BAD_REQUEST, "%s: required", at);
    const char *name = "";
    size_t len = 0;
    if (kith_json_get(value, "vector", &inner)) {
        struct kith_json name_value;
        enum kith_err err = PLAN_FIELDS(value, at, named_fields, diag);
        if (err)
            return err;
        if (!kith_json_get(value, "name", &name_value) || !kith_json_str(name_value, &name, &len))
            return kith_fail(diag, KITH_BAD_REQUEST, "%s.name: expected a text", at);
        at = plan_where(req, at, "vector");
        value = inner;
    }
    if (strcmp(name, req->target.vector_name) != 0)
        return kith_fail(diag, KITH_BAD_REQUEST, "%s: the vector of `%s` is named `%s`", at,
                         req->target.name, req->target.vector_name);
    if (kith_json_type(value) != KITH_JSON_ARRAY && kith_json_type(value) != KITH_JSON_OBJECT)
        return plan_wrong_type(diag, at, "a vector or {\"text\": ...}", value);
    return nearest(req, value, at, query, diag);
}

/* ---- one query ------------------------------------------------------------------------------- */

static enum kith_err threshold_of(struct kith_json object, const char *where, struct query *query,
                                  struct kith_diag *diag)
{
    struct kith_json value;
    if (!kith_json_opt(object, "score_threshold", &value))
        return KITH_OK;
    double score;
    if (!kith_json_f64(value, &score) || score > 3.4e38 || score < -3.4e38)
        return kith_fail(diag, KITH_BAD_REQUEST, "%s%sscore_threshold: expected a number", where,
                         *where ? "." : "");
    query->has_threshold = true;
    query->threshold = (float)score;
    return KITH_OK;
}

static enum kith_err page_of(struct kith_json object, const char *where, bool old_search,
                             struct query *query, struct kith_diag *diag)
{
    struct kith_json value;
    const char *dot = *where ? "." : "";
    const char *name = old_search && !kith_json_opt(object, "limit", &value) ? "top" : "limit";
    if (old_search && !kith_json_opt(object, name, &value))
        return kith_fail(diag, KITH_BAD_REQUEST, "%s%slimit: required", where, dot);
    query->limit = 10;
    enum kith_err err =
        plan_u32(object, name, where, old_search ? 0 : 1, KITH_K_MAX, &query->limit, diag);
    if (!err)
        err = plan_u32(object, "offset", where, 0, KITH_K_MAX, &query->offset, diag);
    if (err)
        return err;
    query->k = query->limit + query->offset + (query->by_id ? 1 : 0);
    if (query->k > KITH_K_MAX)
        return kith_fail(diag, KITH_BAD_REQUEST,
                         "%s%slimit: offset + limit is %u, at most %u allowed", where, dot,
                         query->k, KITH_K_MAX);
    return KITH_OK;
}

static enum kith_err effort_of(struct request *req, struct kith_json object, const char *where,
                               struct query *query, struct kith_diag *diag)
{
    struct kith_json params;
    if (!kith_json_opt(object, "params", &params))
        return KITH_OK;
    return plan_effort_read(params, plan_where(req, where, "params"), query->k, &query->effort,
                            diag);
}

static enum kith_err one(struct request *req, struct kith_json object, const char *where,
                         const struct query_plan *plan, struct query *query, struct kith_diag *diag)
{
    enum kith_err err = plan->old_search ? PLAN_FIELDS(object, where, search_fields, diag)
                                         : PLAN_FIELDS(object, where, query_fields, diag);
    if (!err && plan->old_search)
        err = search_vector(req, object, where, query, diag);
    if (!err && !plan->old_search)
        err = plan_using(req, object, where, diag);
    if (!err && !plan->old_search)
        err = query_vector(req, object, where, query, diag);
    if (!err)
        err = plan_filter(req, object, "filter", where, &query->filter, diag);
    if (!err)
        err = plan_params(req, object, where, diag);
    if (!err)
        err = threshold_of(object, where, query, diag);
    if (!err)
        err = page_of(object, where, plan->old_search, query, diag);
    if (!err)
        err = effort_of(req, object, where, query, diag);
    if (!err)
        err = selector_payload(req, object, "with_payload", where, &query->payload, diag);
    if (!err)
        err = selector_vector(req, object, where, &query->with_vector, diag);
    return err;
}

static enum kith_err plan_new(struct request *req, uint32_t n, bool batch, bool old_search,
                              struct query_plan **out, struct kith_diag *diag)
{
    struct query_plan *plan = kith_arena_alloc(req->arena, sizeof(*plan));
    struct query *queries = kith_arena_array(req->arena, n ? n : 1, sizeof(*queries));
    if (!plan || !queries)
        return kith_fail(diag, KITH_NOMEM, "request: out of memory");
    plan->queries = queries;
    plan->n = n;
    plan->batch = batch;
    plan->bare_hits = old_search;
    plan->old_search = old_search;
    req->plan = plan;
    req->work = &run_query_work;
    *out = plan;
    return KITH_OK;
}

static enum kith_err single(struct request *req, bool old_search, struct kith_diag *diag)
{
    struct query_plan *plan = NULL;
    enum kith_err err = plan_body(req, diag);
    if (!err)
        err = plan_new(req, 1, false, old_search, &plan, diag);
    return err ? err : one(req, req->body, "", plan, &plan->queries[0], diag);
}

static const struct plan_field batch_fields[] = {{"searches", PLAN_TAKEN}};

static enum kith_err batch(struct request *req, bool old_search, struct kith_diag *diag)
{
    struct kith_json searches, item;
    enum kith_err err = plan_body(req, diag);
    if (!err)
        err = PLAN_FIELDS(req->body, "", batch_fields, diag);
    if (err)
        return err;
    if (!kith_json_get(req->body, "searches", &searches))
        return kith_fail(diag, KITH_BAD_REQUEST, "searches: required");
    if (kith_json_type(searches) != KITH_JSON_ARRAY)
        return plan_wrong_type(diag, "searches", "an array", searches);
    size_t n = kith_json_count(searches);
    if (n > KITH_SEARCH_BATCH_MAX)
        return kith_fail(diag, KITH_TOO_BIG, "searches: %zu queries, at most %u allowed", n,
                         KITH_SEARCH_BATCH_MAX);
    struct query_plan *plan = NULL;
    err = plan_new(req, (uint32_t)n, true, old_search, &plan, diag);
    struct kith_json_iter iter = kith_json_iterate(searches);
    uint64_t hits = 0;
    bool all_partial = true; /* one answer for all: as complete as the strictest asks for */
    double share = 0.0;
    for (uint32_t i = 0; !err && kith_json_next(&iter, &item); i++) {
        req->allow_partial = false;
        const char *where = plan_where_at(req, "searches", i);
        err = one(req, item, where, plan, &plan->queries[i], diag);
        hits += plan->queries[i].k;
        all_partial = all_partial && req->allow_partial;
        share = req->min_coverage > share ? req->min_coverage : share;
    }
    req->allow_partial = all_partial;
    req->min_coverage = share;
    if (!err && hits > HITS_MAX)
        err = kith_fail(diag, KITH_TOO_BIG, "searches: %llu hits in all, at most %u allowed",
                        (unsigned long long)hits, (unsigned)HITS_MAX);
    return err;
}

enum kith_err plan_query_query(struct request *req, struct kith_diag *diag)
{
    return single(req, false, diag);
}

enum kith_err plan_query_query_batch(struct request *req, struct kith_diag *diag)
{
    return batch(req, false, diag);
}

enum kith_err plan_query_search(struct request *req, struct kith_diag *diag)
{
    return single(req, true, diag);
}

enum kith_err plan_query_search_batch(struct request *req, struct kith_diag *diag)
{
    return batch(req, true, diag);
}
