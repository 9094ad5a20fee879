#include <float.h>

#include "common/kith_mem.h"
#include "shard/index/ivf_build.h"
#include "shard/query/search_job.h"

static struct filter_question question_of(const struct search_job *job,
                                          const struct search_unit *unit)
{
    return (struct filter_question){.view = unit->view,
                                    .part = unit->in_head ? unit->view->n_segments + unit->index
                                                          : unit->index,
                                    .filter = job->filter,
                                    .key = {job->filter_key.data, job->filter_key.len},
                                    .deadline_ms = job->request->deadline_ms};
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
    enum kith_err err = filter_cache_make(job->context->cache, &question, &answer, &diag);
    if (err != KITH_OK)
        search_job_fail_view(job, unit->view_index, err, &diag);
    else
        take_answer(unit, answer);
}

static bool is_left_out(const struct search_job *job, const struct segment *segment)
{
    return job->part->indexed_only && segment_index(segment) == NULL &&
           segment_rows(segment) >= IVF_TRAIN_ROWS;
}

static void list_view(struct search_job *job, uint32_t v)
{
    const struct view *view = job->request->views[v];
    for (uint32_t i = 0; i < view->n_segments; i++)
        if (!is_left_out(job, view->segments[i].segment))
            job->units[job->n_units++] =
                (struct search_unit){.view = view,
                                     .view_index = v,
                                     .index = i,
                                     .rows = segment_rows(view->segments[i].segment),
                                     .matched = view->segments[i].live};
    for (uint32_t i = 0; i < view->n_heads; i++)
        job->units[job->n_units++] = (struct search_unit){.view = view,
                                                          .view_index = v,
                                                          .index = i,
                                                          .in_head = true,
                                                          .rows = view->heads[i].rows,
                                                          .matched = view->heads[i].live};
}

static enum kith_err list_units(struct search_job *job, struct kith_diag *diag)
{
    const struct search_request *request = job->request;
    size_t need = 0;
    for (uint32_t v = 0; v < request->n_views; v++)
        need += request->views[v]->n_segments + request->views[v]->n_heads;
    if (!kith_grow((void **)&job->units, &job->units_cap, need, sizeof *job->units) ||
        !kith_grow((void **)&job->asking, &job->asking_cap, need, sizeof *job->asking))
        return kith_fail(diag, KITH_NOMEM, "search plan of %zu segments", need);
    job->n_units = 0;
    for (uint32_t v = 0; v < request->n_views; v++)
        if (request->failures == NULL || request->failures[v].err == KITH_OK)
            list_view(job, v);
    return KITH_OK;
}

/* Without a filter only deleted rows have to be left out, and of heads not even those: a row is
 * asked about when it is good enough to be a hit, which few rows of a head are. */
static bool must_ask(const struct search_job *job, const struct search_unit *unit)
{
    return job->filter != NULL || (!unit->in_head && unit->matched < unit->rows);
}

enum kith_err search_plan_choose_rows(struct search_job *job, struct search_explain *explain,
                                      struct kith_diag *diag)
{
    const struct search_part *part = job->part;
    enum kith_err err = list_units(job, diag);
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
        const struct filter_answer *answer = filter_cache_find(job->context->cache, &question);
        if (answer != NULL)
            take_answer(unit, answer);
        else
            job->asking[n_asking++] = unit;
        explain->filter_hits += answer != NULL;
        explain->filter_misses += answer == NULL;
    }
    kith_pool_run(job->context->pool, n_asking, ask_unit, job);
    return KITH_OK; /* failures are in the job */
}

/* ---- lists or not ------------------------------------------------------------------------------
 */

double search_plan_exact_ns(const struct search_job *job, const struct search_unit *unit)
{
    uint32_t row_bytes = kernels_row_bytes(kernels_type_of(job->config->rows), job->config->dim);
    const struct search_cost_run run = {unit->rows, row_bytes, unit->matched, unit->rows};
    return search_cost_exact(&job->context->cost, &run);
}

float search_plan_recall(const struct search_job *job)
{
    return job->part->recall > 0 ? job->part->recall : SEARCH_RECALL_DEFAULT;
}

/* NULL also when the lists of the segment are not known to reach the recall: it alone is scanned,
 * so that it does not cost the others theirs. */
static const struct ivf *index_of(const struct search_job *job, const struct search_unit *unit)
{
    if (unit->in_head || unit->matched == 0)
        return NULL;
    const struct ivf *index = ivf_of(unit->view->segments[unit->index].segment, job->config);
    if (index != NULL && job->part->effort == NULL && !ivf_reaches(index, search_plan_recall(job)))
        return NULL;
    return index;
}

static struct search_group *group_of(struct search_job *job, const struct codebook *codebook)
{
    for (uint32_t g = 0; g < job->n_groups; g++)
        if (job->groups[g].codebook->hash == codebook->hash)
            return &job->groups[g];
    job->groups[job->n_groups] = (struct search_group){
        .search = search_lists_query, .hash = codebook->hash, .codebook = codebook};
    return &job->groups[job->n_groups++];
}

/* A margin of 0 needs no second look, and stays so but for who wants all rows. */
static float widened(float margin, float factor)
{
    float wide = factor <= FLT_MAX ? margin * factor : FLT_MAX;
    return wide <= FLT_MAX ? wide : FLT_MAX;
}

/* The target over all segments of a codebook. */
static void set_target(struct search_job *job, struct search_group *group,
                       const struct ivf **indexes)
{
    uint32_t n = 0;
    for (uint32_t u = 0; u < job->n_units; u++) {
        const struct ivf *index = index_of(job, &job->units[u]);
        if (index != NULL && index->codebook->hash == group->codebook->hash)
            indexes[n++] = index;
    }
    group->target = ivf_target_for(indexes, n, search_plan_recall(job), job->k);
    if (job->part->effort != NULL)
        group->target.effort = *job->part->effort;
    else if (job->part->margin > 1)
        group->target.effort.margin = widened(group->target.effort.margin, job->part->margin);
}

/* With what was learnt. */
static double corrected(const struct search_job *job, const struct search_group *group,
                        double share, double ns, bool by_bytes)
{
    return search_cost_corrected(&job->context->cost, search_group_learner(group->hash, by_bytes),
                                 share, ns);
}

static bool is_of(const struct search_group *group, const struct ivf *index)
{
    return index != NULL && index->codebook->hash == group->hash;
}

/* Takes the segment when one of the two ways is cheaper than an exact scan. */
static void weigh_unit(const struct search_job *job, struct search_group *group,
                       struct search_unit *unit, const struct ivf *index, double ns[2])
{
    const struct search_cost *cost = &job->context->cost;
    double share = (double)unit->matched / unit->rows, exact = search_plan_exact_ns(job, unit);
    double by_lists = search_cost_lists(cost, index, unit->matched, group->target.rows_share);
    double by_bytes = search_cost_bytes(cost, index, unit->matched);
    if (job->part->effort == NULL && corrected(job, group, share, by_lists, false) >= exact &&
        corrected(job, group, share, by_bytes, true) >= exact)
        return;
    unit->lists = index;
    ns[0] += by_lists;
    ns[1] += by_bytes;
    group->exact_ns += exact;
    group->n++;
}

/* Each segment whichever way is cheaper for it; then the group, since what its segments share has
 * to pay, too. */
static void weigh(struct search_job *job, struct search_group *group)
{
    const struct search_cost *cost = &job->context->cost;
    uint32_t row_bytes = kernels_row_bytes(kernels_type_of(job->config->rows), job->config->dim);
    double ns[2] = {search_cost_lists_base(cost, group->codebook, job->k, row_bytes),
                    search_cost_bytes_base(cost, job->k, row_bytes)};
    bool forced = job->part->effort != NULL;
    uint64_t rows = 0, matched = 0;
    for (uint32_t u = 0; u < job->n_units; u++) {
        struct search_unit *unit = &job->units[u];
        const struct ivf *index = index_of(job, unit);
        if (!is_of(group, index))
            continue;
        weigh_unit(job, group, unit, index, ns);
        rows += unit->lists != NULL ? unit->rows : 0;
        matched += unit->lists != NULL ? unit->matched : 0;
    }
    if (group->n == 0)
        return;
    group->share = (double)matched / (double)rows;
    double expected[2] = {corrected(job, group, group->share, ns[0], false),
                          corrected(job, group, group->share, ns[1], true)};
    group->by_bytes = !forced && expected[1] < expected[0];
    group->estimated_ns = ns[group->by_bytes];
    group->expected_ns = expected[group->by_bytes];
    if (forced || group->expected_ns < group->exact_ns)
        return;
    for (uint32_t u = 0; u < job->n_units; u++)
        if (is_of(group, job->units[u].lists))
            job->units[u].lists = NULL;
    group->n = 0;
}

/* Drops groups without a segment, and lists the parts of the others. */
static void list_parts(struct search_job *job)
{
    uint32_t n_groups = 0;
    job->n_parts = 0;
    for (uint32_t g = 0; g < job->n_groups; g++) {
        struct search_group *group = &job->groups[g];
        if (group->n == 0)
            continue;
        group->first = job->n_parts;
        for (uint32_t u = 0; u < job->n_units; u++) {
            struct search_unit *unit = &job->units[u];
            if (unit->lists != NULL && unit->lists->codebook->hash == group->codebook->hash)
                job->parts[job->n_parts++] =
                    (struct ivf_part){.index = unit->lists,
                                      .allowed = unit->words,
                                      .n_allowed = unit->matched,
                                      .name = search_exact_name_segment_row,
                                      .fetch_name = search_exact_fetch_segment_name,
                                      .name_ctx = unit};
        }
        job->groups[n_groups++] = *group;
    }
    job->n_groups = n_groups;
}

static enum kith_err choose_groups(struct search_job *job, struct kith_diag *diag)
{
    const struct ivf **indexes = NULL;
    job->n_groups = job->n_parts = 0;
    if (job->part->exact || (job->part->effort == NULL && job->part->recall >= 1))
        return KITH_OK;
    if (job->config->index == KITH_INDEX_FAISS)
        return search_faiss_choose(job, diag);
    bool some = false;
    for (uint32_t u = 0; u < job->n_units && !some; u++)
        some = index_of(job, &job->units[u]) != NULL;
    if (!some)
        return KITH_OK;
    indexes = kith_alloc(job->n_units * sizeof *indexes);
    if (indexes == NULL ||
        !kith_grow((void **)&job->groups, &job->groups_cap, job->n_units, sizeof *job->groups) ||
        !kith_grow((void **)&job->parts, &job->parts_cap, job->n_units, sizeof *job->parts)) {
        kith_free(indexes);
        return kith_fail(diag, KITH_NOMEM, "search plan of %u segments", job->n_units);
    }
    for (uint32_t u = 0; u < job->n_units; u++)
        if (index_of(job, &job->units[u]) != NULL)
            (void)group_of(job, index_of(job, &job->units[u])->codebook);
    for (uint32_t g = 0; g < job->n_groups; g++) {
        set_target(job, &job->groups[g], indexes);
        weigh(job, &job->groups[g]);
    }
    list_parts(job);
    kith_free(indexes);
    return KITH_OK;
}

static enum search_plan plan_of(const struct search_job *job, uint64_t rows, uint64_t matched)
{
    bool masked = false;
    for (uint32_t p = 0; p < job->n_parts && job->n_groups > 0; p++)
        masked = masked || job->parts[p].allowed != NULL;
    if (matched == 0)
        return SEARCH_PLAN_NOTHING;
    if (job->n_groups > 0 && job->groups[0].codebook == NULL)
        return SEARCH_PLAN_FAISS;
    if (job->n_groups > 0 && job->groups[0].by_bytes)
        return SEARCH_PLAN_PICK_BYTES;
    if (job->n_groups > 0)
        return masked ? SEARCH_PLAN_LISTS_MASKED : SEARCH_PLAN_LISTS;
    return matched * 2 < rows ? SEARCH_PLAN_PICK : SEARCH_PLAN_SCAN;
}

enum kith_err search_plan_choose_lists(struct search_job *job, struct search_explain *explain,
                                       struct kith_diag *diag)
{
    uint64_t rows = 0, matched = 0;
    enum kith_err err = choose_groups(job, diag);
    if (err != KITH_OK)
        return err;
    job->expected_ns = job->exact_ns = 0;
    job->rows = 0;
    for (uint32_t u = 0; u < job->n_units; u++) {
        const struct search_unit *unit = &job->units[u];
        double exact = search_plan_exact_ns(job, unit);
        rows += unit->rows;
        matched += unit->matched;
        job->exact_ns += exact;
        explain->heads += unit->in_head;
        bool exactly = search_unit_is_exact(unit);
        explain->segments_indexed += !exactly;
        explain->segments_plain += !unit->in_head && exactly;
        if (exactly) {
            job->expected_ns += exact;
            job->rows += unit->matched;
        }
    }
    for (uint32_t g = 0; g < job->n_groups; g++)
        job->expected_ns += job->groups[g].expected_ns;
    explain->plan = plan_of(job, rows, matched);
    search_faiss_explain(job, explain);
    explain->recall = 1;
    for (uint32_t g = 0; g < job->n_groups; g++)
        if (job->groups[g].target.recall < explain->recall)
            explain->recall = job->groups[g].target.recall;
    return KITH_OK;
}

void search_plan_drop_units(struct search_job *job)
{
    for (uint32_t i = 0; i < job->n_units; i++)
        filter_answer_unref(job->units[i].answer);
    job->n_units = 0;
}
