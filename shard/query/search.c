/* Search over views, one part at a time: (1) every segment and head becomes a unit, with the rows
 * that match, so that `matched` is known before anything is ranked; (2) a plan says which units are
 * searched by their index and which are scanned (search_plan.c); (3) the queries are run
 * (search_queries.c).
 *
 * A view that fails, fails for all parts: the search starts again without it, which is rare, and
 * keeps every result about the same points. */
#include "shard/query/search.h"

#include <float.h>
#include <string.h>

#include "common/kith_clock.h"
#include "common/kith_mem.h"
#include "shard/query/search_job.h"

#define SHARE_BYTES_MIN                                                                            \
    (512u << 10) /* some 50 us; a thread that sleeps is awake after 10 to 50                       \
                  */

enum kith_err search_context_open(struct search_context **out, struct kith_pool *pool,
                                  struct kith_diag *diag)
{
    struct search_context *context = kith_alloc(sizeof *context);
    if (context == NULL)
        return kith_fail(diag, KITH_NOMEM, "search context");
    enum kith_err err = search_cost_measure(&context->cost, diag);
    if (err == KITH_OK)
        err = filter_cache_open(&context->cache, KITH_FILTER_CACHE_BYTES, diag);
    if (err != KITH_OK) {
        kith_free(context);
        return err;
    }
    context->pool = pool;
    context->n_workers = pool == NULL ? 1 : kith_pool_threads(pool) + 1;
    context->share_bytes_min = SHARE_BYTES_MIN;
    (void)pthread_mutex_init(&context->lock, NULL);
    *out = context;
    return KITH_OK;
}

void search_context_share_from(struct search_context *context, uint64_t bytes)
{
    context->share_bytes_min = bytes;
}

void search_context_close(struct search_context *context)
{
    if (context == NULL)
        return;
    while (context->spare != NULL) {
        struct search_job *job = context->spare;
        context->spare = job->next_spare;
        search_job_free(job);
    }
    filter_cache_close(context->cache);
    (void)pthread_mutex_destroy(&context->lock);
    kith_free(context);
}

void search_context_stats(struct search_context *context, struct search_stats *out)
{
    struct filter_cache_stats filters;
    filter_cache_stats(context->cache, &filters);
    (void)pthread_mutex_lock(&context->lock);
    *out = context->stats;
    (void)pthread_mutex_unlock(&context->lock);
    out->filters = filters;
}

const char *search_plan_name(enum search_plan plan)
{
    static const char *const names[SEARCH_PLANS] = {"nothing",      "scan",       "pick", "lists",
                                                    "lists_masked", "pick_bytes", "faiss"};
    return plan < SEARCH_PLANS ? names[plan] : "unknown";
}

static void explain(struct search_job *job, struct search_result *result, uint64_t begun_ns)
{
    struct search_explain *e = &result->explain;
    struct search_context *context = job->context;
    uint32_t n = result->n_queries;
    e->expected_ns = (uint64_t)(job->expected_ns * n);
    e->exact_ns = (uint64_t)(job->exact_ns * n);
    e->rows = job->rows * n + result->matched * e->fell_back;
    for (uint32_t i = 0; i < job->n_workers; i++) {
        const struct ivf_stats *stats = &job->workers[i].stats;
        e->lists.lists += stats->lists;
        e->lists.listed += stats->listed;
        e->lists.rows += stats->rows;
        e->lists.reranked += stats->reranked;
        e->lists.exact += stats->exact;
    }
    e->ns = kith_now_ns() - begun_ns;
    (void)pthread_mutex_lock(&context->lock);
    context->stats.queries[e->plan] += n;
    context->stats.fell_back += e->fell_back;
    context->stats.rows += e->rows;
    context->stats.lists.lists += e->lists.lists;
    context->stats.lists.listed += e->lists.listed;
    context->stats.lists.rows += e->lists.rows;
    context->stats.lists.reranked += e->lists.reranked;
    context->stats.lists.exact += e->lists.exact;
    (void)pthread_mutex_unlock(&context->lock);
}

static bool must_end(const struct search_job *job)
{
    return search_job_failed(job) || atomic_load_explicit(&job->view_failed, memory_order_relaxed);
}

static enum kith_err run_part(struct search_job *job, const struct search_part *part,
                              struct search_result *result, struct kith_diag *diag)
{
    uint64_t begun_ns = kith_now_ns();
    job->part = part;
    for (uint32_t i = 0; i < job->n_workers; i++)
        job->workers[i].stats = (struct ivf_stats){0};
    result->n_queries = part->n_queries;
    result->found = kith_alloc(part->n_queries * sizeof *result->found);
    if (result->found == NULL)
        return kith_fail(diag, KITH_NOMEM, "%u queries", part->n_queries);
    enum kith_err err = search_plan_choose_rows(job, &result->explain, diag);
    if (err != KITH_OK || must_end(job))
        return err;
    const struct search_request *request = job->request;
    for (uint32_t i = 0; i < job->n_units; i++)
        result->matched += job->units[i].matched;
    for (uint32_t v = 0; v < request->n_views; v++)
        if (request->failures == NULL || request->failures[v].err == KITH_OK)
            result->points += request->views[v]->live_points;
    job->k = part->k < result->matched ? part->k : (uint32_t)result->matched;
    job->threshold = part->has_threshold ? part->threshold : -FLT_MAX;
    err = search_plan_choose_lists(job, &result->explain, diag);
    if (err == KITH_OK && job->k > 0 && part->n_queries > 0)
        err = search_queries_run(job, result, diag);
    if (err == KITH_OK && !must_end(job))
        explain(job, result, begun_ns);
    return err;
}

static bool same_shape(const struct search_request *request)
{
    for (uint32_t v = 1; v < request->n_views; v++) {
        const struct slice_config *a = &request->views[0]->config, *b = &request->views[v]->config;
        if (a->dim != b->dim || a->metric != b->metric || a->rows != b->rows)
            return false;
    }
    return true;
}

void search_result_fini(struct search_result *result)
{
    kith_free(result->found);
    kith_free(result->memory);
    *result = (struct search_result){0};
}

static void drop_results(struct search_result *results, uint32_t n)
{
    for (uint32_t p = 0; p < n; p++)
        search_result_fini(&results[p]);
}

static enum kith_err run_parts(struct search_job *job, struct search_result *made,
                               struct kith_diag *diag)
{
    const struct search_request *request = job->request;
    enum kith_err err = KITH_OK;
    for (uint32_t p = 0; err == KITH_OK && p < request->n_parts; p++) {
        err = run_part(job, &request->parts[p], &made[p], diag);
        search_plan_drop_units(job);
        int failed = atomic_load_explicit(&job->err, memory_order_relaxed);
        if (err == KITH_OK && failed != KITH_OK)
            err = kith_fail(diag, (enum kith_err)failed, "%s", job->diag.text);
        if (err == KITH_OK &&
            atomic_exchange_explicit(&job->view_failed, false, memory_order_relaxed)) {
            drop_results(made, p + 1);
            p = UINT32_MAX; /* from the first part again, without the view */
        }
    }
    return err;
}

enum kith_err search_run(struct search_context *context, const struct search_request *request,
                         struct search_result *results, struct kith_diag *diag)
{
    kith_assert(same_shape(request));
    static const struct slice_config nothing = {
        .dim = 1, .metric = KITH_DOT, .rows = KITH_ROWS_F32};
    enum kith_err err = KITH_OK;
    struct search_job *job = search_job_take(context);
    struct search_result *made = kith_alloc(request->n_parts * sizeof *made);
    if (job == NULL || made == NULL) {
        err = kith_fail(diag, KITH_NOMEM, "search of %u parts", request->n_parts);
        goto out;
    }
    job->context = context;
    job->request = request;
    job->config = request->n_views > 0 ? &request->views[0]->config : &nothing;
    atomic_store_explicit(&job->err, KITH_OK, memory_order_relaxed);
    atomic_store_explicit(&job->view_failed, false, memory_order_relaxed);
    err = run_parts(job, made, diag);
    err = view_verdict(request->views, request->n_views, err, diag);
    if (err == KITH_OK)
        memcpy(results, made, request->n_parts * sizeof *made);
    else
        drop_results(made, request->n_parts);
out:
    kith_free(made);
    if (job != NULL)
        search_job_give(context, job);
    return err;
}
