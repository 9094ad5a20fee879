#include "common/kith_mem.h"
#include "shard/index/filter_set.h"
#include "shard/query/search_job.h"

static void filter_unit(void *ctx, uint32_t index, uint32_t worker)
{
    (void)worker;
    struct search_job *job = ctx;
    struct search_unit *unit = &job->units[index];
    if (search_job_is_over(job))
        return;
    struct kith_diag diag = {0};
    enum kith_err err = unit->in_head ? filter_head(job->filter, unit->view, unit->index,
                                                    job->deadline_ms, &unit->chosen, &diag)
                                      : filter_segment(job->filter, unit->view, unit->index,
                                                       job->deadline_ms, &unit->chosen, &diag);
    if (err != KITH_OK)
        search_job_fail(job, err, &diag);
    else
        unit->matched = bitmap_count(unit->chosen);
}

static enum kith_err list_units(struct search_job *job, const struct search_request *request,
                                struct kith_diag *diag)
{
    size_t need = 0;
    for (uint32_t v = 0; v < request->n_views; v++)
        need += request->views[v]->n_segments + request->views[v]->n_heads;
    if (!kith_grow((void **)&job->units, &job->units_cap, need, sizeof *job->units))
        return kith_fail(diag, KITH_NOMEM, "search plan of %zu segments", need);
    job->n_units = 0;
    for (uint32_t v = 0; v < request->n_views; v++) {
        const struct view *view = request->views[v];
        for (uint32_t i = 0; i < view->n_segments; i++)
            job->units[job->n_units++] =
                (struct search_unit){.view = view,
                                     .index = i,
                                     .rows = segment_rows(view->segments[i].segment),
                                     .matched = view->segments[i].live};
        for (uint32_t i = 0; i < view->n_heads; i++)
            job->units[job->n_units++] = (struct search_unit){.view = view,
                                                              .index = i,
                                                              .in_head = true,
                                                              .rows = view->heads[i].rows,
                                                              .matched = view->heads[i].live};
    }
    return KITH_OK;
}

enum kith_err search_plan_choose_rows(struct search_context *context, struct search_job *job,
                                      const struct search_request *request,
                                      const struct search_part *part, struct kith_diag *diag)
{
    enum kith_err err = list_units(job, request, diag);
    if (err != KITH_OK || part->filter == NULL || part->filter->n_nodes == 0)
        return err;
    job->filter = part->filter;
    kith_pool_run(context->pool, job->n_units, filter_unit, job);
    return KITH_OK; /* failures are in job->err */
}

void search_plan_drop_units(struct search_job *job)
{
    for (uint32_t i = 0; i < job->n_units; i++)
        bitmap_free(job->units[i].chosen);
    job->n_units = 0;
}
