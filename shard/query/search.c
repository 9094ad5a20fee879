/* Search over views, one part at a time: (1) every segment and head becomes a unit, with the
 * filter's answer if there is a filter, so that `matched` is known before anything is ranked
 * (search_plan.c); (2) the units are searched (search_exact.c). */
#include "shard/query/search.h"

#include <float.h>
#include <string.h>

#include "common/kith_mem.h"
#include "shard/query/search_job.h"

#define SHARE_BYTES_MIN (512u << 10) /* some 50 us; a thread that sleeps is awake after 10 to 50   \
                                      */

enum kith_err search_context_open(struct search_context **out, struct kith_pool *pool,
                                  struct kith_diag *diag)
{
    struct search_context *context = kith_alloc(sizeof *context);
    if (context == NULL)
        return kith_fail(diag, KITH_NOMEM, "search context");
    enum kith_err err = filter_cache_open(&context->cache, KITH_FILTER_CACHE_BYTES, diag);
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

static enum kith_err run_part(struct search_context *context, struct search_job *job,
                              const struct search_request *request, const struct search_part *part,
                              struct search_result *result, struct kith_diag *diag)
{
    result->n_queries = part->n_queries;
    result->found = kith_alloc(part->n_queries * sizeof *result->found);
    if (result->found == NULL)
        return kith_fail(diag, KITH_NOMEM, "%u queries", part->n_queries);
    enum kith_err err = search_plan_choose_rows(context, job, request, part, diag);
    if (err != KITH_OK || atomic_load_explicit(&job->err, memory_order_relaxed) != KITH_OK)
        return err;
    for (uint32_t i = 0; i < job->n_units; i++)
        result->matched += job->units[i].matched;
    for (uint32_t v = 0; v < request->n_views; v++)
        result->points += request->views[v]->live_points;
    job->k = part->k < result->matched ? part->k : (uint32_t)result->matched;
    job->threshold = part->has_threshold ? part->threshold : -FLT_MAX;
    if (job->k == 0 || part->n_queries == 0)
        return KITH_OK;
    return search_exact_run(context, job, part, result, diag);
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
    job->config = request->n_views > 0 ? &request->views[0]->config : &nothing;
    job->cache = context->cache;
    job->deadline_ms = request->deadline_ms;
    atomic_store_explicit(&job->err, KITH_OK, memory_order_relaxed);
    for (uint32_t p = 0; err == KITH_OK && p < request->n_parts; p++) {
        err = run_part(context, job, request, &request->parts[p], &made[p], diag);
        search_plan_drop_units(job);
        int failed = atomic_load_explicit(&job->err, memory_order_relaxed);
        if (err == KITH_OK && failed != KITH_OK)
            err = kith_fail(diag, (enum kith_err)failed, "%s", job->diag.text);
    }
    if (err == KITH_OK)
        memcpy(results, made, request->n_parts * sizeof *made);
out:
    for (uint32_t p = 0; err != KITH_OK && made != NULL && p < request->n_parts; p++)
        search_result_fini(&made[p]);
    kith_free(made);
    if (job != NULL)
        search_job_give(context, job);
    return err;
}
