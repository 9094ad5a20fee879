/* Search in segments that are indexed by Faiss: which of them, and one query in one segment.
 *
 * A query asks Faiss for so many of a segment's nearest rows that enough of them should match,
 * drops those that do not, and ranks the rest by the segment's rows: scores are exact. How many
 * that are, and with which setting, was measured when the segment was built (faiss_calibrate.h),
 * for several numbers of nearest rows: with a share s of the rows matching, k matches are among
 * about the k / s nearest rows, if the filter has nothing to do with the query. If it has, fewer
 * come back: then, and when the measured settings do not go so far, the segment is scanned. So a
 * filter that keeps little is served by a scan of what it keeps, which is cheap.
 *
 * Faiss's own filters (IDSelector) cannot be reached by its C interface. */
#include <math.h>
#include <stdlib.h>

#include "common/kith_mem.h"
#include "shard/query/search_job.h"

#define CHECK_NS                                                                                   \
    5.0 /* of a row that Faiss found: whether it matches, and its place in the order               \
         */

/* So many of the nearest rows hold k matches, all but certainly: two standard deviations of how
 * many match, and a few. */
static uint32_t depth_for(uint32_t k, const struct search_unit *unit)
{
    double share = (double)unit->matched / unit->rows;
    double depth = unit->words == NULL ? k : ceil((k + 2 * sqrt((double)k) + 4) / share);
    return depth < KITH_K_MAX ? (uint32_t)depth : KITH_K_MAX;
}

/* A wider margin is what more candidates are here. */
static uint32_t fetch_for(const struct search_job *job, const struct faiss_target *setting,
                          uint32_t rows)
{
    double fetch = (double)setting->depth * setting->effort.k_factor;
    if (job->part->margin > 1)
        fetch = ceil(fetch * (double)job->part->margin);
    fetch = fetch < KITH_K_MAX ? fetch : KITH_K_MAX;
    return fetch < rows ? (uint32_t)fetch : rows;
}

static double ranking_ns(const struct search_job *job, const struct search_unit *unit,
                         uint32_t fetch)
{
    double row_bytes = kernels_row_bytes(kernels_type_of(job->config->rows), job->config->dim);
    double share = (double)unit->matched / unit->rows;
    return fetch * (CHECK_NS + share * row_bytes * (double)job->context->cost.picked_ns);
}

static void weigh(struct search_job *job, struct search_unit *unit)
{
    const struct segment *segment = unit->view->segments[unit->index].segment;
    const struct faiss_segment *index = faiss_segment_of(segment, job->config);
    const struct faiss_target *setting = NULL;
    if (index != NULL)
        setting = faiss_segment_target(index, depth_for(job->k, unit), search_plan_recall(job));
    if (setting == NULL)
        return;
    struct search_group group = {.search = search_faiss_query,
                                 .unit = unit,
                                 .setting = setting,
                                 .fetch = fetch_for(job, setting, unit->rows),
                                 .hash = index->meta.factory,
                                 .n = 1,
                                 .target = {.recall = setting->recall},
                                 .share = (double)unit->matched / unit->rows,
                                 .exact_ns = search_plan_exact_ns(job, unit)};
    group.estimated_ns = (double)setting->cost_ns + ranking_ns(job, unit, group.fetch);
    group.expected_ns =
        search_cost_corrected(&job->context->cost, group.hash, group.share, group.estimated_ns);
    if (job->part->effort == NULL && group.expected_ns >= group.exact_ns)
        return;
    unit->faiss = index;
    job->groups[job->n_groups++] = group;
}

enum kith_err search_faiss_choose(struct search_job *job, struct kith_diag *diag)
{
    /* With an infinite margin no estimate may hide a row, and here all are estimates. */
    if (job->part->margin > FAISS_MARGIN_MAX)
        return KITH_OK;
    if (!kith_grow((void **)&job->groups, &job->groups_cap, job->n_units, sizeof *job->groups))
        return kith_fail(diag, KITH_NOMEM, "search plan of %u segments", job->n_units);
    for (uint32_t u = 0; u < job->n_units; u++)
        if (!job->units[u].in_head && job->units[u].matched > 0)
            weigh(job, &job->units[u]);
    return KITH_OK;
}

void search_faiss_explain(const struct search_job *job, struct search_explain *explain)
{
    for (uint32_t g = 0; g < job->n_groups; g++) {
        const struct faiss_target *setting = job->groups[g].setting;
        if (setting == NULL)
            continue;
        const struct faiss_effort *one = &setting->effort;
        struct faiss_effort *most = &explain->faiss;
        most->nprobe = one->nprobe > most->nprobe ? one->nprobe : most->nprobe;
        most->ef_search = one->ef_search > most->ef_search ? one->ef_search : most->ef_search;
        most->k_factor = one->k_factor > most->k_factor ? one->k_factor : most->k_factor;
    }
}

/* ---- one query ------------------------------------------------------------------------------- */

static int compare_rows(const void *a, const void *b)
{
    uint32_t x = *(const uint32_t *)a, y = *(const uint32_t *)b;
    return (x > y) - (x < y);
}

/* Into found.list those of found.rows that match, ascending; each row's bytes are verified. */
static uint32_t list_matches(const struct search_unit *unit, struct search_found *found, uint32_t n)
{
    const struct segment *segment = unit->view->segments[unit->index].segment;
    uint32_t n_list = 0;
    for (uint32_t i = 0; i < n && found->rows[i] >= 0; i++) {
        uint32_t row = (uint32_t)found->rows[i];
        if (row >= unit->rows ||
            (unit->words != NULL && (unit->words[row / 64] >> row % 64 & 1) == 0))
            continue;
        (void)segment_row_data(segment, row, 1);
        found->list[n_list++] = row;
    }
    qsort(found->list, n_list, sizeof *found->list, compare_rows);
    return n_list;
}

static void rank(struct search_job *job, struct search_worker *worker, uint32_t q,
                 const struct search_unit *unit, uint32_t n_list)
{
    struct flat_search search = {.form = kernels_form_of(job->config->metric),
                                 .type = kernels_type_of(job->config->rows),
                                 .dim = job->config->dim,
                                 .n_queries = 1,
                                 .queries = job->vectors + (size_t)q * job->config->dim,
                                 .tops = &worker->tops[q],
                                 .floors = &job->floors[q]};
    const struct flat_rows rows = {
        .data = segment_row_data(unit->view->segments[unit->index].segment, 0, 0),
        .n = unit->rows,
        .list = worker->found.list,
        .n_list = n_list,
        .name = search_exact_name_segment_row,
        .name_ctx = (void *)(uintptr_t)unit};
    flat_scan(&search, &rows, worker->flat);
    worker->stats.exact += n_list;
}

static enum kith_err fit(struct search_job *job, struct search_worker *worker, uint32_t fetch,
                         struct kith_diag *diag)
{
    struct search_found *found = &worker->found;
    if (!kith_grow((void **)&found->rows, &found->rows_cap, fetch, sizeof *found->rows) ||
        !kith_grow((void **)&found->ranks, &found->ranks_cap, fetch, sizeof *found->ranks) ||
        !kith_grow((void **)&found->list, &found->list_cap, fetch, sizeof *found->list))
        return kith_fail(diag, KITH_NOMEM, "%u candidates", fetch);
    return flat_scratch_fit(&worker->flat, job->config->dim, 1, diag);
}

bool search_faiss_query(struct search_job *job, struct search_worker *worker, uint32_t q,
                        const struct search_group *group, const struct search_stop *stop)
{
    const struct search_unit *unit = group->unit;
    struct faiss_effort effort = group->setting->effort;
    struct kith_diag diag = {0};
    effort.k_factor = 0; /* it is in fetch */
    enum kith_err err = fit(job, worker, group->fetch, &diag);
    if (err == KITH_OK && stop->fn(stop->ctx))
        return false;
    const struct blas_block query = {job->vectors + (size_t)q * job->config->dim, 1,
                                     job->config->dim};
    if (err == KITH_OK)
        err =
            faiss_index_search(unit->faiss->index, query, group->fetch, effort,
                               (struct faiss_hits){worker->found.rows, worker->found.ranks}, &diag);
    if (err == KITH_NOMEM)
        search_job_fail(job, err, &diag);
    if (err != KITH_OK)
        return false; /* a query of huge numbers: Faiss does not take it */
    uint32_t n_list = list_matches(unit, &worker->found, group->fetch);
    rank(job, worker, q, unit, n_list);
    return n_list >= job->k || n_list >= unit->matched;
}
