/* Searches on their way: neighbouring queries of a batch that share filter, k, threshold and effort
 * travel as one part, so that a shard scans its rows once for all of them; those that want to know
 * how they were searched travel alone. How queries fall into parts
 * depends on the plan alone; the reply is read by the same rule. */
#include <string.h>

#include "common/kith_arena.h"
#include "coordinator/plan_query.h"

static struct query_plan *plan_of(const struct request *req)
{
    return req->plan;
}

static bool same_part(const struct query *a, const struct query *b)
{
    return !a->effort.explain && plan_effort_equal(&a->effort, &b->effort) && a->k == b->k &&
           a->has_threshold == b->has_threshold &&
           (!a->has_threshold || a->threshold == b->threshold) && a->filter.len == b->filter.len &&
           (a->filter.len == 0 || memcmp(a->filter.data, b->filter.data, a->filter.len) == 0);
}

static uint32_t part_end(const struct query_plan *plan, uint32_t first)
{
    uint32_t end = first + 1;
    while (end < plan->n && same_part(&plan->queries[first], &plan->queries[end]))
        end++;
    return end;
}

static bool wants(struct request *req, uint32_t slice)
{
    (void)slice;
    return plan_of(req)->n > 0;
}

static void write_body(struct request *req, struct scatter_ask *ask, struct kith_writer *w)
{
    const struct query_plan *plan = plan_of(req);
    uint32_t dim = req->target.dim, n_parts = 0;
    for (uint32_t i = 0; i < plan->n; i = part_end(plan, i))
        n_parts++;
    kith_msg_write_search(w, &ask->scope, dim, n_parts);
    for (uint32_t i = 0, end; i < plan->n; i = end) {
        const struct query *first = &plan->queries[i];
        end = part_end(plan, i);
        kith_buf_reset(&req->scratch);
        for (uint32_t j = i; j < end; j++)
            kith_buf_append(&req->scratch, plan->queries[j].vector, dim * sizeof(float));
        if (req->scratch.failed) {
            w->failed = true;
            return;
        }
        struct kith_msg_search_part part = {
            .n_queries = end - i,
            .vectors = {req->scratch.data, req->scratch.len},
            .k = first->k,
            .has_threshold = first->has_threshold,
            .threshold =
                first->has_threshold ? merge_threshold(req->target.metric, first->threshold) : 0.0F,
            .filter = first->filter,
            .exact = first->effort.exact,
            .indexed_only = first->effort.indexed_only,
            .explain = first->effort.explain,
            .no_rescore = first->effort.no_rescore,
            .recall = first->effort.recall,
            .margin = first->effort.margin,
        };
        kith_msg_write_search_part(w, &part, dim);
    }
}

/* Room for the lists, once; k of the largest query bounds the scratch. */
static enum kith_err prepare_lists(struct request *req, struct kith_diag *diag)
{
    struct query_plan *plan = plan_of(req);
    if (plan->scratch.table)
        return KITH_OK;
    uint32_t k_max = 0;
    for (uint32_t i = 0; i < plan->n; i++) {
        struct query *query = &plan->queries[i];
        enum kith_err err = merge_list_init(&query->list, req->arena, query->k, diag);
        if (err)
            return err;
        k_max = query->k > k_max ? query->k : k_max;
    }
    return merge_scratch_init(&plan->scratch, req->arena, k_max, diag);
}

static enum kith_err add_explain(struct request *req, const struct scatter_ask *ask,
                                 struct query *query, uint64_t matched, struct kith_diag *diag)
{
    struct query_explain *explain = kith_arena_alloc(req->arena, sizeof(*explain));
    struct query_explain **last = &query->explains;
    if (!explain)
        return kith_fail(diag, KITH_NOMEM, "request: out of memory");
    *explain = (struct query_explain){.node = ask->node, .matched = matched};
    while (*last)
        last = &(*last)->next;
    *last = explain;
    return KITH_OK;
}

/* What follows the parts: each names the part it belongs to, of those that asked. */
static enum kith_err take_explains(struct request *req, const struct scatter_ask *ask,
                                   struct kith_cursor *cursor, bool merge, struct kith_diag *diag)
{
    const struct query_plan *plan = plan_of(req);
    uint32_t n = 0, part = 0, at = 0;
    if (!kith_msg_found_explains(cursor, &n))
        return kith_fail(diag, KITH_PROTOCOL, "malformed answer to a search");
    for (uint32_t i = 0; i < n; i++) {
        struct kith_msg_explain how;
        if (!kith_msg_found_explain(cursor, &how))
            return kith_fail(diag, KITH_PROTOCOL, "malformed account of a search");
        for (; at < plan->n && part < how.part; at = part_end(plan, at))
            part++;
        if (at >= plan->n || part != how.part || !plan->queries[at].effort.explain)
            return kith_fail(diag, KITH_PROTOCOL, "an account of a search nobody asked for");
        for (struct query_explain *e = plan->queries[at].explains; merge && e; e = e->next) {
            if (e->node == ask->node) {
                e->how = how;
                e->known = true;
            }
        }
    }
    return KITH_OK;
}

/* Two passes over the reply: nothing of it is merged unless all of it is well formed, since its
 * slices count as answered or failed as a whole. */
static enum kith_err take_parts(struct request *req, const struct scatter_ask *ask,
                                struct kith_msg_found *found, bool merge, struct kith_diag *diag)
{
    struct query_plan *plan = plan_of(req);
    struct merge_source source = {ask->scope.slices, ask->scope.n_slices,
                                  req->collection->n_slices};
    struct kith_cursor parts = found->parts;
    uint32_t n_parts = 0;
    for (uint32_t i = 0, end; i < plan->n; i = end, n_parts++) {
        uint64_t matched;
        uint32_t n_queries;
        end = part_end(plan, i);
        if (!kith_msg_found_part(&parts, &matched, &n_queries) || n_queries != end - i)
            return kith_fail(diag, KITH_PROTOCOL, "malformed part of an answer");
        for (uint32_t j = i; j < end; j++) {
            struct kith_bytes packed;
            uint32_t n_hits;
            struct merge_list *list = &plan->queries[j].list;
            if (!kith_msg_found_hits(&parts, &packed, &n_hits))
                return kith_fail(diag, KITH_PROTOCOL, "malformed hits");
            enum kith_err err =
                merge ? merge_add(list, packed, n_hits, &source, &plan->scratch, diag)
                      : merge_check(list, packed, n_hits, &source, &plan->scratch, diag);
            if (!err && merge && plan->queries[j].effort.explain)
                err = add_explain(req, ask, &plan->queries[j], matched, diag);
            if (err)
                return err;
        }
    }
    if (n_parts != found->n_parts)
        return kith_fail(diag, KITH_PROTOCOL, "%u parts, asked for %u", found->n_parts, n_parts);
    return found->has_explains ? take_explains(req, ask, &parts, merge, diag) : KITH_OK;
}

static enum kith_err take(struct request *req, struct scatter_ask *ask, struct kith_bytes body,
                          struct kith_diag *diag)
{
    struct kith_msg_found found;
    if (!kith_msg_read_found(body, &found))
        return kith_fail(diag, KITH_PROTOCOL, "malformed answer to a search");
    enum kith_err err = prepare_lists(req, diag);
    if (!err)
        err = take_parts(req, ask, &found, false, diag);
    if (!err)
        err = scatter_verdicts(ask, &found.slices, diag);
    return err ? err : take_parts(req, ask, &found, true, diag);
}

/* ---- after the last answer ------------------------------------------------------------------- */

static void finish_list(struct request *req, struct query *query)
{
    struct merge_list *list = &query->list;
    if (query->by_id)
        merge_remove(list, &query->id);
    uint32_t want = query->limit + query->offset;
    list->n = list->n < want ? list->n : want;
    enum kith_metric metric = req->target.metric;
    while (
        query->has_threshold && list->n > 0 &&
        !merge_passes(metric, merge_score(metric, list->hits[list->n - 1].rank), query->threshold))
        list->n--;
}

static enum kith_err merge(struct request *req, struct kith_diag *diag)
{
    struct query_plan *plan = plan_of(req);
    size_t n = 0;
    for (uint32_t i = 0; i < plan->n; i++) {
        struct query *query = &plan->queries[i];
        finish_list(req, query);
        if (query->payload.kind != SELECTOR_NONE || query->with_vector)
            n += query->list.n > query->offset ? query->list.n - query->offset : 0;
    }
    plan->fetch_ids = kith_arena_array(req->arena, n ? n : 1, sizeof(*plan->fetch_ids));
    if (!plan->fetch_ids)
        return kith_fail(diag, KITH_NOMEM, "request: out of memory");
    for (uint32_t i = 0; i < plan->n; i++) {
        const struct query *query = &plan->queries[i];
        if (query->payload.kind == SELECTOR_NONE && !query->with_vector)
            continue;
        plan->fetch_payload = plan->fetch_payload || query->payload.kind != SELECTOR_NONE;
        plan->fetch_vector = plan->fetch_vector || query->with_vector;
        for (uint32_t j = query->offset; j < query->list.n; j++)
            plan->fetch_ids[plan->n_fetch_ids++] = query->list.hits[j].id;
    }
    return KITH_OK;
}

static bool fetch_wants(struct request *req, uint32_t slice)
{
    const struct query_plan *plan = plan_of(req);
    for (size_t i = 0; i < plan->n_fetch_ids; i++)
        if (kith_id_slice(&plan->fetch_ids[i], req->collection->n_slices) == slice)
            return true;
    return false;
}

static void fetch_body(struct request *req, struct scatter_ask *ask, struct kith_writer *w)
{
    const struct query_plan *plan = plan_of(req);
    records_write_fetch(req, ask, plan->fetch_ids, plan->n_fetch_ids, plan->fetch_payload,
                        plan->fetch_vector, w);
}

static enum kith_err fetch_take(struct request *req, struct scatter_ask *ask,
                                struct kith_bytes body, struct kith_diag *diag)
{
    return records_take(req, &plan_of(req)->records, ask, body, diag);
}

/* ---- the answer ------------------------------------------------------------------------------ */

static void write_hits(struct request *req, const struct query *query, struct kith_json_writer *w)
{
    struct query_plan *plan = plan_of(req);
    bool full = query->payload.kind != SELECTOR_NONE || query->with_vector;
    kith_jw_begin_array(w);
    for (uint32_t i = query->offset; i < query->list.n; i++) {
        const struct kith_hit *hit = &query->list.hits[i];
        const struct kith_record *record = NULL;
        if (full) {
            record = records_find(req, &plan->records, &hit->id);
            if (!record) /* deleted between search and fetch: it is no answer any more */
                continue;
        }
        kith_jw_begin_object(w);
        kith_jw_key(w, "id");
        kith_jw_id(w, &hit->id);
        kith_jw_key(w, "version");
        kith_jw_u64(w, hit->seq);
        kith_jw_key(w, "score");
        kith_jw_f32(w, merge_score(req->target.metric, hit->rank));
        if (record)
            records_write_members(req, record, &query->payload, query->with_vector, w);
        kith_jw_end_object(w);
    }
    kith_jw_end_array(w);
}

static void write_answer(struct request *req, const struct query *query, struct kith_json_writer *w)
{
    if (plan_of(req)->bare_hits) {
        write_hits(req, query, w);
        return;
    }
    kith_jw_begin_object(w);
    kith_jw_key(w, "points");
    write_hits(req, query, w);
    kith_jw_end_object(w);
}

static void write_result(struct request *req, struct kith_json_writer *w)
{
    const struct query_plan *plan = plan_of(req);
    if (!plan->batch) {
        write_answer(req, &plan->queries[0], w);
        return;
    }
    kith_jw_begin_array(w);
    for (uint32_t i = 0; i < plan->n; i++)
        write_answer(req, &plan->queries[i], w);
    kith_jw_end_array(w);
}

static void write_u64(struct kith_json_writer *w, const char *key, uint64_t value)
{
    kith_jw_key(w, key);
    kith_jw_u64(w, value);
}

static void write_us(struct kith_json_writer *w, const char *key, uint64_t ns)
{
    kith_jw_key(w, key);
    kith_jw_f64(w, (double)(ns / 100u) / 10);
}

static void write_how(const struct kith_msg_explain *how, struct kith_json_writer *w)
{
    kith_jw_key(w, "plan");
    kith_jw_str(w, (const char *)how->plan.data, how->plan.len);
    kith_jw_key(w, "recall");
    kith_jw_f32(w, how->recall);
    write_u64(w, "filters_kept", how->filter_hits);
    write_u64(w, "filters_made", how->filter_misses);
    write_u64(w, "segments_indexed", how->segments_indexed);
    write_u64(w, "segments_plain", how->segments_plain);
    write_u64(w, "heads", how->heads);
    write_u64(w, "rows", how->rows);
    write_u64(w, "lists", how->lists);
    write_u64(w, "list_rows", how->list_rows);
    write_u64(w, "reranked", how->reranked);
    write_u64(w, "reranked_exactly", how->reranked_exactly);
    if (how->k_factor > 0) {
        write_u64(w, "nprobe", how->nprobe);
        write_u64(w, "ef_search", how->ef_search);
        write_u64(w, "k_factor", how->k_factor);
    }
    kith_jw_key(w, "fell_back");
    kith_jw_bool(w, how->fell_back > 0);
    write_us(w, "expected_us", how->expected_ns);
    write_us(w, "exact_us", how->exact_ns);
    write_us(w, "took_us", how->ns);
}

static void write_explain(const struct query *query, struct kith_json_writer *w)
{
    uint64_t matched = 0;
    for (const struct query_explain *e = query->explains; e; e = e->next)
        matched += e->matched;
    kith_jw_begin_object(w);
    write_u64(w, "matched", matched);
    kith_jw_key(w, "recall_asked");
    if (query->effort.exact)
        kith_jw_u64(w, 1);
    else if (query->effort.recall > 0)
        kith_jw_f32(w, query->effort.recall);
    else
        kith_jw_null(w);
    kith_jw_key(w, "nodes");
    kith_jw_begin_array(w);
    for (const struct query_explain *e = query->explains; e; e = e->next) {
        kith_jw_begin_object(w);
        kith_jw_key(w, "node");
        kith_jw_cstr(w, e->node ? e->node->name : "");
        write_u64(w, "matched", e->matched);
        if (e->known)
            write_how(&e->how, w);
        kith_jw_end_object(w);
    }
    kith_jw_end_array(w);
    kith_jw_end_object(w);
}

/* One for each query, null for those that did not ask. */
static void write_beside(struct request *req, struct kith_json_writer *w)
{
    const struct query_plan *plan = plan_of(req);
    bool any = false;
    for (uint32_t i = 0; i < plan->n; i++)
        any = any || plan->queries[i].effort.explain;
    if (!any)
        return;
    kith_jw_key(w, "explain");
    kith_jw_begin_array(w);
    for (uint32_t i = 0; i < plan->n; i++) {
        if (plan->queries[i].effort.explain)
            write_explain(&plan->queries[i], w);
        else
            kith_jw_null(w);
    }
    kith_jw_end_array(w);
}

static const struct scatter_round search_round = {
    .message = KITH_MSG_SEARCH, .write_body = write_body, .take = take};
static const struct scatter_round fetch_round = {
    .message = KITH_MSG_FETCH, .write_body = fetch_body, .take = fetch_take};

const struct work run_query_work = {
    .name = "search",
    .cache_texts = true,
    .round = &search_round,
    .wants = wants,
    .merge = merge,
    .fetch = &fetch_round,
    .fetch_wants = fetch_wants,
    .write_result = write_result,
    .write_beside = write_beside,
};
