/* The queries of a part, a group at a time: small enough that the workers' top-k stay under
 * GROUP_BYTES_MAX. First the lists, whose hits are near the final ones and bound the rest; then the
 * pieces that are scanned; then the merge of what the workers found.
 *
 * The guarantee: a query whose lists ended with fewer hits than there are matches (min(k, matched),
 * which is known), or that ran far beyond what an exact scan would have taken, is done again from
 * nothing, exactly. */
#include <float.h>
#include <math.h>
#include <string.h>

#include "common/kith_mem.h"
#include "shard/query/search_job.h"

#define GROUP_BYTES_MAX (32u << 20)
#define TASK_NS                                                                                    \
    200000.0 /* of queries one worker takes at a time: beside it, a wake-up is small               \
              */

/* Copies the part's vectors, aligned; cosine: unit length, the zero vector stays. */
static enum kith_err take_queries(struct search_job *job, const struct search_part *part,
                                  struct kith_diag *diag)
{
    uint32_t dim = job->config->dim;
    size_t need = (size_t)part->n_queries * dim;
    if (!kith_grow((void **)&job->queries, &job->queries_cap, need, sizeof *job->queries))
        return kith_fail(diag, KITH_NOMEM, "%u queries", part->n_queries);
    if (need > 0)
        memcpy(job->queries, part->vectors, need * sizeof *job->queries);
    for (uint32_t q = 0; q < part->n_queries; q++) {
        float *vector = job->queries + (size_t)q * dim;
        double square = 0;
        for (uint32_t i = 0; i < dim; i++)
            square += (double)vector[i] * (double)vector[i];
        if (!isfinite(square)) /* no square of a float overflows a double */
            return kith_fail(diag, KITH_BAD_REQUEST, "query %u has a NaN or an infinity", q);
        if (job->config->metric != KITH_COSINE || square == 0)
            continue;
        double scale = 1 / sqrt(square);
        for (uint32_t i = 0; i < dim; i++)
            vector[i] = (float)((double)vector[i] * scale);
    }
    return KITH_OK;
}

/* From here on these are the queries in hand. */
static void begin(struct search_job *job, uint32_t first, uint32_t n)
{
    job->vectors = job->queries + (size_t)first * job->config->dim;
    job->n_queries = n;
    for (uint32_t i = 0; i < job->n_workers; i++)
        job->workers[i].ready = false;
    for (uint32_t q = 0; q < n; q++) {
        job->again[q] = false;
        atomic_store_explicit(&job->floors[q], -FLT_MAX, memory_order_relaxed);
    }
}

static void run_pieces(struct search_job *job, uint32_t n)
{
    bool alone = job->bytes * job->n_queries < job->context->share_bytes_min;
    kith_pool_run_short(alone ? NULL : job->context->pool, n, search_exact_run_piece, job);
}

static void finish(struct search_job *job, struct search_hits *found, struct kith_hit *memory)
{
    for (uint32_t q = 0; q < job->n_queries; q++) {
        struct topk top;
        topk_init(&top, job->k, job->threshold, memory + (size_t)q * job->k);
        for (uint32_t i = 0; i < job->n_workers; i++)
            if (job->workers[i].ready)
                topk_merge(&top, &job->workers[i].tops[q]);
        topk_sort(&top);
        found[q] = (struct search_hits){top.n, top.hits};
        job->again[q] =
            job->n_groups > 0 && (job->again[q] || (!job->part->has_threshold && top.n < job->k));
    }
}

/* Those queries of [first, first + n) that lists did not serve. */
static enum kith_err do_again(struct search_job *job, uint32_t first, uint32_t n,
                              struct search_result *result, struct kith_diag *diag)
{
    bool again[FLAT_QUERIES_MAX];
    enum kith_err err = KITH_OK;
    memcpy(again, job->again, sizeof again);
    for (uint32_t q = first; err == KITH_OK && q < first + n; q++) {
        if (!again[q - first])
            continue;
        if (job->n_pieces == job->n_exact_pieces)
            err = search_exact_cut(job, true, diag);
        if (err != KITH_OK)
            break;
        result->explain.fell_back++;
        begin(job, q, 1);
        run_pieces(job, job->n_pieces);
        if (search_job_failed(job))
            break;
        finish(job, result->found + q, result->memory + (size_t)q * job->k);
    }
    return err;
}

static enum kith_err run_group(struct search_job *job, uint32_t first, uint32_t n,
                               struct search_result *result, struct kith_diag *diag)
{
    begin(job, first, n);
    if (job->n_groups > 0)
        kith_pool_run_short(job->context->pool,
                            (n + job->queries_per_task - 1) / job->queries_per_task,
                            search_lists_run_task, job);
    if (!search_job_failed(job))
        run_pieces(job, job->n_exact_pieces);
    if (search_job_failed(job))
        return KITH_OK;
    finish(job, result->found + first, result->memory + (size_t)first * job->k);
    return do_again(job, first, n, result, diag);
}

/* Whole batches, where there are enough queries for all workers. */
static void set_task(struct search_job *job)
{
    double lists_ns = 1;
    for (uint32_t g = 0; g < job->n_groups; g++)
        lists_ns += job->groups[g].expected_ns;
    double queries = TASK_NS / lists_ns;
    uint32_t n = queries < 1                  ? 1
                 : queries > FLAT_QUERIES_MAX ? FLAT_QUERIES_MAX
                                              : (uint32_t)queries;
    if (n > 1 && job->part->n_queries >= IVF_BATCH * job->n_workers)
        n = (n + IVF_BATCH - 1) / IVF_BATCH * IVF_BATCH;
    job->queries_per_task = n;
}

enum kith_err search_queries_run(struct search_job *job, struct search_result *result,
                                 struct kith_diag *diag)
{
    const struct search_part *part = job->part;
    uint64_t hits = (uint64_t)part->n_queries * job->k;
    if (hits > KITH_FRAME_BODY_MAX / KITH_HIT_BYTES)
        return kith_fail(diag, KITH_TOO_BIG, "%u queries of %u hits do not fit one answer",
                         part->n_queries, job->k);
    result->memory = kith_alloc_aligned(64, hits * sizeof *result->memory);
    if (result->memory == NULL)
        return kith_fail(diag, KITH_NOMEM, "%llu hits", (unsigned long long)hits);
    enum kith_err err = take_queries(job, part, diag);
    job->n_pieces = 0;
    job->bytes = 0;
    if (err == KITH_OK)
        err = search_exact_cut(job, false, diag);
    job->n_exact_pieces = job->n_pieces;
    set_task(job);
    size_t per_query = (size_t)job->n_workers * job->k * sizeof(struct kith_hit);
    size_t group = GROUP_BYTES_MAX / per_query;
    group = group < 1 ? 1 : group > FLAT_QUERIES_MAX ? FLAT_QUERIES_MAX : group;
    uint32_t n;
    for (uint32_t at = 0; err == KITH_OK && !search_job_failed(job) && at < part->n_queries;
         at += n) {
        uint32_t left = part->n_queries - at;
        n = left < group ? left : (uint32_t)group;
        err = run_group(job, at, n, result, diag);
    }
    return err;
}
