/* Search by the approximate indexes: one query on one worker, since it takes tens of microseconds;
 * the queries of a batch on as many workers as are free.
 *
 * The planner's estimate may be wrong (matches that lie in the farthest lists, a query far from
 * everything). A search that has taken GIVE_UP times what an exact scan of the matches would take
 * is ended, and the query is done exactly: the price of a wrong plan is bounded. Time of the CPU,
 * since a thread that lost it has not worked in vain. Time that went into reading pages from the
 * disk does not count: an exact search would read all of them, for every query until the index is
 * in memory, and never let it be; and the plan is not to blame. */
#include <sys/resource.h>

#include "common/kith_clock.h"
#include "shard/query/search_job.h"

#define GIVE_UP    2.0
#define GIVE_UP_NS 100000.0

#define SLOW 2.0 /* times what was expected: worth to ask why */

struct clocked {
    struct search_job *job;
    uint64_t cpu_end_ns; /* 0: none */
    uint64_t end_ns;     /* when to look at the CPU's clock, which is dear */
    uint64_t allowance_ns;
    bool read_disk; /* it had to */
};

/* Whether this thread has read pages from the disk since it was last asked. */
static bool has_read_disk(void)
{
    static _Thread_local long seen;
    struct rusage usage;
    if (getrusage(RUSAGE_THREAD, &usage) != 0 || usage.ru_majflt == seen)
        return false;
    seen = usage.ru_majflt;
    return true;
}

static bool must_stop(void *ctx)
{
    struct clocked *clocked = ctx;
    uint64_t now_ns = kith_now_ns();
    if (search_job_is_over(clocked->job))
        return true;
    if (clocked->cpu_end_ns == 0 || now_ns < clocked->end_ns)
        return false;
    uint64_t cpu_ns = kith_thread_ns();
    if (cpu_ns >= clocked->cpu_end_ns) {
        if (!has_read_disk())
            return true;
        clocked->read_disk = true;
        clocked->cpu_end_ns = cpu_ns + clocked->allowance_ns;
    }
    clocked->end_ns = now_ns + clocked->cpu_end_ns - cpu_ns; /* others had the CPU meanwhile */
    return false;
}

/* The worker's tables for a codebook; NULL: the job failed. */
static struct ivf_scratch *scratch_for(struct search_job *job, struct search_worker *worker,
                                       const struct codebook *codebook)
{
    struct search_tables *tables = NULL;
    for (uint32_t i = 0; tables == NULL && i < SEARCH_SCRATCHES; i++)
        if (worker->tables[i].scratch != NULL && worker->tables[i].hash == codebook->hash)
            tables = &worker->tables[i];
    if (tables == NULL) {
        tables = &worker->tables[worker->next_tables++ % SEARCH_SCRATCHES];
        tables->hash = codebook->hash;
    }
    struct kith_diag diag = {0};
    enum kith_err err = ivf_scratch_fit(&tables->scratch, codebook, job->k, &diag);
    if (err != KITH_OK) {
        search_job_fail(job, err, &diag);
        tables->hash = 0; /* what is there, if anything, is of another codebook */
        ivf_scratch_free(tables->scratch);
        tables->scratch = NULL;
        return NULL;
    }
    return tables->scratch;
}

bool search_lists_query(struct search_job *job, struct search_worker *worker, uint32_t q,
                        const struct search_group *group, const struct search_stop *stop)
{
    struct ivf_scratch *scratch = scratch_for(job, worker, group->codebook);
    if (scratch == NULL)
        return false;
    const struct ivf_query query = {.vector = job->vectors + (size_t)q * job->config->dim,
                                    .top = &worker->tops[q],
                                    .floor = &job->floors[q],
                                    .effort = group->target.effort,
                                    .by_bytes = group->by_bytes,
                                    .no_rescore = job->part->no_rescore,
                                    .stop = stop->fn,
                                    .stop_ctx = stop->ctx,
                                    .ranked = worker->ranked ? q - worker->first_ranked + 1 : 0};
    return ivf_search(&query, job->parts + group->first, group->n, scratch, &worker->stats);
}

/* What it took, for each of them. */
static double rank_batch(struct search_job *job, struct search_worker *worker, uint32_t first,
                         const struct search_group *group)
{
    uint64_t begun = kith_thread_ns();
    struct ivf_scratch *scratch = scratch_for(job, worker, group->codebook);
    const float *vectors[IVF_BATCH];
    for (uint32_t i = 0; i < IVF_BATCH; i++)
        vectors[i] = job->vectors + (size_t)(first + i) * job->config->dim;
    worker->first_ranked = first;
    worker->ranked = scratch != NULL && ivf_rank_batch(scratch, group->codebook, vectors);
    return (double)(kith_thread_ns() - begun) / IVF_BATCH;
}

static void search_group(struct search_job *job, struct search_worker *worker, uint32_t q,
                         const struct search_group *group, double ranked_ns)
{
    uint64_t begun = kith_thread_ns(),
             allowance = (uint64_t)(GIVE_UP * group->exact_ns + GIVE_UP_NS);
    struct clocked clocked = {.job = job, .allowance_ns = allowance};
    if (job->part->effort == NULL) {
        clocked.cpu_end_ns = begun + allowance;
        clocked.end_ns = kith_now_ns() + allowance;
    }
    bool done = group->search(job, worker, q, group, &(struct search_stop){must_stop, &clocked});
    job->again[q] = job->again[q] || !done;
    double ns = (double)(kith_thread_ns() - begun) + ranked_ns;
    if (clocked.read_disk || (ns > SLOW * group->expected_ns && has_read_disk()))
        return;
    if (done && !(job->part->margin > 1)) /* a wide margin says nothing about the usual one */
        search_cost_learn(&job->context->cost, search_group_learner(group->hash, group->by_bytes),
                          group->share, group->estimated_ns, ns);
}

/* A whole batch has its lists ranked at once. */
static void search_queries(struct search_job *job, struct search_worker *worker, uint32_t first,
                           uint32_t n)
{
    for (uint32_t g = 0; g < job->n_groups; g++) {
        const struct search_group *group = &job->groups[g];
        double ranked_ns = 0;
        worker->ranked = false;
        if (n == IVF_BATCH && group->search == search_lists_query && !group->by_bytes)
            ranked_ns = rank_batch(job, worker, first, group);
        for (uint32_t q = first; q < first + n && !search_job_failed(job); q++)
            if (!job->again[q])
                search_group(job, worker, q, group, ranked_ns);
    }
}

void search_lists_run_task(void *ctx, uint32_t task, uint32_t worker_index)
{
    struct search_job *job = ctx;
    struct search_worker *worker = &job->workers[worker_index];
    if (search_job_is_over(job) || !search_job_begin_worker(job, worker))
        return;
    uint32_t first = task * job->queries_per_task, end = first + job->queries_per_task;
    end = end < job->n_queries ? end : job->n_queries;
    for (uint32_t n; first < end; first += n) {
        n = end - first < IVF_BATCH ? end - first : IVF_BATCH;
        search_queries(job, worker, first, n);
    }
}
