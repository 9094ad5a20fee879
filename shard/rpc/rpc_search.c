/* Searches: the parts of one message over the views of all slices asked for. */
#include <stddef.h>
#include <string.h>

#include "common/kith_arena.h"
#include "common/kith_log.h"
#include "common/kith_mem.h"
#include "shard/rpc/recall_probe.h"
#include "shard/rpc/rpc.h"

/* Of 1000 parts with filters of 256 nodes each; beyond that the message is refused. */
#define ARENA_BYTES_MAX (64u << 20)

struct searching {
    struct kith_arena arena;
    struct kith_msg_search msg;
    struct search_part *parts;
    struct search_result *results;
    bool *explained; /* parts that asked how they were searched */
    uint32_t n_explained;
    struct kith_diag *failures; /* of views */
    struct kith_filter filter;  /* 40 KiB: parsed here, then kept at its real size */
    struct rpc_views views;
};

/* Filter and views are some 60 KiB that most searches use little of: they are not zeroed. */
static struct searching *searching_new(void)
{
    struct searching *s = kith_alloc_aligned(_Alignof(struct searching), sizeof *s);
    if (s == NULL)
        return NULL;
    s->arena = (struct kith_arena){.limit = ARENA_BYTES_MAX};
    s->msg.n_parts = 0;
    s->parts = NULL;
    s->results = NULL;
    s->n_explained = 0;
    s->views.n_views = 0;
    return s;
}

static enum kith_err keep_filter(struct searching *s, struct kith_bytes msgpack,
                                 const struct kith_filter **out, struct kith_diag *diag)
{
    *out = NULL;
    if (msgpack.len == 0)
        return KITH_OK;
    enum kith_err err = kith_filter_parse(&s->filter, msgpack, "filter", diag);
    if (err != KITH_OK || s->filter.n_nodes == 0)
        return err;
    size_t bytes =
        offsetof(struct kith_filter, nodes) + s->filter.n_nodes * sizeof *s->filter.nodes;
    *out = kith_arena_dup(&s->arena, &s->filter, bytes);
    return *out != NULL ? KITH_OK : kith_fail(diag, KITH_TOO_BIG, "too many filters in one batch");
}

static enum kith_err read_parts(struct searching *s, struct kith_diag *diag)
{
    uint32_t n = s->msg.n_parts;
    s->parts = kith_arena_array(&s->arena, n, sizeof *s->parts);
    s->results = kith_arena_array(&s->arena, n, sizeof *s->results);
    s->explained = kith_arena_array(&s->arena, n, sizeof *s->explained);
    if (s->parts == NULL || s->results == NULL || s->explained == NULL)
        return kith_fail(diag, KITH_NOMEM, "no memory for %u searches", n);
    struct kith_cursor cursor = {.at = s->msg.parts.data,
                                 .end = s->msg.parts.data + s->msg.parts.len};
    for (uint32_t i = 0; i < n; i++) {
        struct kith_msg_search_part part;
        if (!kith_msg_search_next(&cursor, s->msg.dim, &part))
            return kith_fail(diag, KITH_PROTOCOL, "search %u is malformed", i);
        s->parts[i] = (struct search_part){.n_queries = part.n_queries,
                                           .k = part.k,
                                           .vectors = part.vectors.data,
                                           .has_threshold = part.has_threshold,
                                           .threshold = part.threshold,
                                           .exact = part.exact,
                                           .indexed_only = part.indexed_only,
                                           .no_rescore = part.no_rescore,
                                           .recall = part.recall,
                                           .margin = part.margin};
        s->explained[i] = part.explain;
        s->n_explained += part.explain;
        enum kith_err err = keep_filter(s, part.filter, &s->parts[i].filter, diag);
        if (err != KITH_OK)
            return err;
    }
    return KITH_OK;
}

/* The slices of views that failed say so, and have no part in the answer. */
static void tell_failures(struct searching *s)
{
    uint32_t view = 0;
    for (uint32_t i = 0; i < s->views.slices.n_slices; i++) {
        struct kith_msg_slice *slice = &s->views.slices.slices[i];
        if (slice->err != KITH_OK)
            continue;
        const struct kith_diag *failure = &s->failures[view++];
        if (failure->err == KITH_OK)
            continue;
        kith_log(ERROR, "search.slice_failed", "collection=%llu slice=%u error=\"%s\"",
                 (unsigned long long)s->msg.scope.collection, slice->slice, failure->text);
        rpc_set_slice(slice, slice->slice, failure->err, failure->text);
    }
}

static enum kith_err run(struct rpc_call *call, struct searching *s, struct kith_diag *diag)
{
    for (uint32_t i = 0; i < s->views.n_views; i++)
        if (s->views.views[i]->config.dim != s->msg.dim)
            return kith_fail(diag, KITH_BAD_REQUEST,
                             "the vectors have %u dimensions, the collection has %u", s->msg.dim,
                             s->views.views[i]->config.dim);
    if (s->views.n_views == 0)
        return KITH_OK; /* nobody can answer: results stay empty, the slices say why */
    s->failures = kith_arena_array(&s->arena, s->views.n_views, sizeof *s->failures);
    if (s->failures == NULL)
        return kith_fail(diag, KITH_NOMEM, "no memory for %u slices", s->views.n_views);
    struct search_request request = {.views = s->views.views,
                                     .n_views = s->views.n_views,
                                     .parts = s->parts,
                                     .n_parts = s->msg.n_parts,
                                     .deadline_ms = call->deadline_ms,
                                     .failures = s->failures};
    enum kith_err err = search_run(call->env->search, &request, s->results, diag);
    if (err == KITH_OK)
        tell_failures(s);
    return err;
}

/* A query that an index answered, to see later what an exact search finds. */
static void offer_part(struct rpc_env *env, struct searching *s, uint32_t index,
                       const struct kith_msg_search_part *part)
{
    const struct search_result *result = &s->results[index];
    enum search_plan plan = result->explain.plan;
    if (!search_plan_is_approximate(plan) || part->indexed_only || result->n_queries == 0 ||
        !recall_probe_wants(env->recall))
        return;
    const struct recall_probe_query query = {.collection = s->msg.scope.collection,
                                             .dim = s->msg.dim,
                                             .k = part->k,
                                             .vector = part->vectors.data,
                                             .has_threshold = part->has_threshold,
                                             .threshold = part->threshold,
                                             .filter = part->filter,
                                             .plan = plan,
                                             .matched = result->matched,
                                             .points = result->points,
                                             .hits = result->found[0].hits,
                                             .n_hits = result->found[0].n};
    (void)recall_probe_offer(env->recall, &query, &s->views);
}

static void offer(struct rpc_env *env, struct searching *s)
{
    struct kith_cursor cursor = {.at = s->msg.parts.data,
                                 .end = s->msg.parts.data + s->msg.parts.len};
    struct kith_msg_search_part part;
    for (uint32_t i = 0; i < s->views.slices.n_slices; i++)
        if (s->views.slices.slices[i].err != KITH_OK)
            return;
    for (uint32_t i = 0; i < s->msg.n_parts && s->views.n_views > 0 &&
                         kith_msg_search_next(&cursor, s->msg.dim, &part);
         i++)
        offer_part(env, s, i, &part);
}

static void write_explains(struct rpc_reply *reply, const struct searching *s)
{
    kith_msg_write_found_explains(&reply->w, s->n_explained);
    for (uint32_t i = 0; s->n_explained > 0 && i < s->msg.n_parts; i++) {
        const struct search_explain *e = &s->results[i].explain;
        if (!s->explained[i])
            continue;
        const char *plan = search_plan_name(e->plan);
        struct kith_msg_explain explain = {.part = i,
                                           .plan = {(const uint8_t *)plan, strlen(plan)},
                                           .filter_hits = e->filter_hits,
                                           .filter_misses = e->filter_misses,
                                           .segments_indexed = e->segments_indexed,
                                           .segments_plain = e->segments_plain,
                                           .heads = e->heads,
                                           .fell_back = e->fell_back,
                                           .recall = e->recall,
                                           .rows = e->rows,
                                           .lists = e->lists.lists,
                                           .list_rows = e->lists.rows,
                                           .reranked = e->lists.reranked,
                                           .reranked_exactly = e->lists.exact,
                                           .nprobe = e->faiss.nprobe,
                                           .ef_search = e->faiss.ef_search,
                                           .k_factor = e->faiss.k_factor,
                                           .expected_ns = e->expected_ns,
                                           .exact_ns = e->exact_ns,
                                           .ns = e->ns};
        kith_msg_write_found_explain(&reply->w, &explain);
    }
}

static enum kith_err write_found(struct rpc_reply *reply, const struct searching *s)
{
    rpc_begin(reply);
    if (reply->w.failed)
        return KITH_NOMEM;
    kith_msg_write_found(&reply->w, &s->views.slices, s->msg.n_parts);
    for (uint32_t i = 0; i < s->msg.n_parts; i++) {
        const struct search_result *result = &s->results[i];
        uint32_t n_queries = s->parts[i].n_queries;
        kith_msg_write_found_part(&reply->w, result->matched, n_queries);
        for (uint32_t q = 0; q < n_queries; q++) {
            bool found = q < result->n_queries;
            enum kith_err err = kith_msg_write_found_hits(
                &reply->w, found ? result->found[q].hits : NULL, found ? result->found[q].n : 0);
            if (err != KITH_OK)
                return err;
        }
    }
    write_explains(reply, s);
    return KITH_OK;
}

void rpc_search_run(struct rpc_call *call)
{
    struct searching *s = searching_new();
    if (s == NULL) {
        rpc_fail(call, KITH_NOMEM, "no memory for the search");
        return;
    }
    struct kith_diag diag = {0};
    struct rpc_reply reply = {0};
    enum kith_err err = KITH_OK;
    if (!kith_msg_read_search(call->body, &s->msg))
        err = kith_fail(&diag, KITH_PROTOCOL, "the request's body is malformed");
    if (err == KITH_OK)
        err = read_parts(s, &diag);
    if (err == KITH_OK) {
        rpc_take_views(call->env, &s->msg.scope, &s->views);
        do
            err = run(call, s, &diag);
        while (err == KITH_CORRUPT && rpc_retake_views(call->env, &s->msg.scope, &s->views));
        if (err == KITH_OK)
            offer(call->env, s);
        rpc_give_views(call->env, &s->views);
    }
    if (err == KITH_OK)
        err = write_found(&reply, s);
    for (uint32_t i = 0; s->results != NULL && i < s->msg.n_parts; i++)
        search_result_fini(&s->results[i]);
    kith_arena_fini(&s->arena);
    kith_free(s);
    if (err == KITH_OK || reply.w.failed)
        rpc_send(call, &reply);
    else
        rpc_fail_with(call, &reply, err, &diag);
}
