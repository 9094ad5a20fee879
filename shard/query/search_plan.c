#include "common/kith_mem.h"
#include "shard/index/filter_set.h"
#include "shard/query/search_job.h"

static struct filter_question question_of(const struct search_job *job,
                                          const struct search_unit *unit)
{
    return (struct filter_question){.view = unit->view,
                                    .part = unit->in_head ? unit->view->n_segments + unit->index
                                                          : unit->index,
                                    .filter = job->filter,
                                    .key = {job->filter_key.data, job->filter_key.len},
                                    .deadline_ms = job->deadline_ms};
}

static void take_answer(struct search_unit *unit, const struct filter_answer *answer)
{
    unit->answer = answer;
    unit->matched = answer->count;
    unit->words = answer->count < unit->rows ? answer->words : NULL;
}

static void ask_unit(void *ctx, uint32_t index, uint32_t worker)
{
    (void)worker;
    struct search_job *job = ctx;
    struct search_unit *unit = job->asking[index];
    if (search_job_is_over(job))
        return;
    struct kith_diag diag = {0};
    const struct filter_question question = question_of(job, unit);
    const struct filter_answer *answer;
    enum kith_err err = filter_cache_make(job->cache, &question, &answer, &diag);
    if (err != KITH_OK)
        search_job_fail(job, err, &diag);
    else
        take_answer(unit, answer);
}

static enum kith_err list_units(struct search_job *job, const struct search_request *request,
                                struct kith_diag *diag)
{
    size_t need = 0;
    for (uint32_t v = 0; v < request->n_views; v++)
        need += request->views[v]->n_segments + request->views[v]->n_heads;
    if (!kith_grow((void **)&job->units, &job->units_cap, need, sizeof *job->units) ||
        !kith_grow((void **)&job->asking, &job->asking_cap, need, sizeof *job->asking))
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

/* Without a filter only deleted rows have to be left out, and of heads not even those: a row is
 * asked about when it is good enough to be a hit, which few rows of a head are. */
static bool must_ask(const struct search_job *job, const struct search_unit *unit)
{
    return job->filter != NULL || (!unit->in_head && unit->matched < unit->rows);
}

enum kith_err search_plan_choose_rows(struct search_context *context, struct search_job *job,
                                      const struct search_request *request,
                                      const struct search_part *part, struct kith_diag *diag)
{
    enum kith_err err = list_units(job, request, diag);
    job->filter = part->filter != NULL && part->filter->n_nodes > 0 ? part->filter : NULL;
    kith_buf_reset(&job->filter_key);
    if (err == KITH_OK)
        err = filter_cache_key(job->filter, &job->filter_key, diag);
    if (err != KITH_OK)
        return err;
    uint32_t n_asking = 0;
    for (uint32_t i = 0; i < job->n_units; i++) {
        struct search_unit *unit = &job->units[i];
        if (!must_ask(job, unit))
            continue;
        const struct filter_question question = question_of(job, unit);
        const struct filter_answer *answer = filter_cache_find(job->cache, &question);
        if (answer != NULL)
            take_answer(unit, answer);
        else
            job->asking[n_asking++] = unit;
    }
    kith_pool_run(context->pool, n_asking, ask_unit, job);
    return KITH_OK; /* failures are in job->err */
}

void search_plan_drop_units(struct search_job *job)
{
    for (uint32_t i = 0; i < job->n_units; i++)
        filter_answer_unref(job->units[i].answer);
    job->n_units = 0;
}
