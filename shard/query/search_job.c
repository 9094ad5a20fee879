#include "shard/query/search_job.h"

#include "common/kith_aside.h"
#include "common/kith_clock.h"
#include "common/kith_mem.h"

#define SPARE_BYTES_MAX (1u << 20)
#define SPARE_JOBS_MAX  8u /* kept for the next searches; more only while they run */

void search_job_free(struct search_job *job)
{
    if (job == NULL)
        return;
    for (uint32_t i = 0; job->workers != NULL && i < job->n_workers; i++) {
        for (uint32_t t = 0; t < SEARCH_SCRATCHES; t++)
            ivf_scratch_free(job->workers[i].tables[t].scratch);
        flat_scratch_free(job->workers[i].flat);
        kith_free(job->workers[i].found.rows);
        kith_free(job->workers[i].found.ranks);
        kith_free(job->workers[i].found.list);
        kith_free(job->workers[i].hits);
    }
    kith_free(job->workers);
    kith_free(job->units);
    kith_free(job->asking);
    kith_free(job->pieces);
    kith_free(job->groups);
    kith_free(job->parts);
    kith_free(job->queries);
    kith_buf_fini(&job->filter_key);
    kith_free(job);
}

static struct search_job *job_new(uint32_t n_workers)
{
    struct search_job *job = kith_alloc(sizeof *job);
    if (job == NULL)
        return NULL;
    job->n_workers = n_workers;
    job->workers = kith_alloc(n_workers * sizeof *job->workers);
    if (job->workers == NULL) {
        search_job_free(job);
        return NULL;
    }
    return job;
}

struct search_job *search_job_take(struct search_context *context)
{
    (void)pthread_mutex_lock(&context->lock);
    struct search_job *job = context->spare;
    if (job != NULL) {
        context->spare = job->next_spare;
        context->n_spare--;
    }
    (void)pthread_mutex_unlock(&context->lock);
    return job != NULL ? job : job_new(context->n_workers);
}

/* A spare job keeps what usual searches need, not what the largest one ever needed. */
static void trim(void **memory, size_t *cap, size_t elem)
{
    if (*cap * elem <= SPARE_BYTES_MAX)
        return;
    kith_free(*memory);
    *memory = NULL;
    *cap = 0;
}

void search_job_give(struct search_context *context, struct search_job *job)
{
    trim((void **)&job->queries, &job->queries_cap, sizeof *job->queries);
    trim((void **)&job->parts, &job->parts_cap, sizeof *job->parts);
    trim((void **)&job->pieces, &job->pieces_cap, sizeof *job->pieces);
    if (job->filter_key.cap > SPARE_BYTES_MAX)
        kith_buf_fini(&job->filter_key);
    for (uint32_t i = 0; i < job->n_workers; i++)
        trim((void **)&job->workers[i].hits, &job->workers[i].hits_cap,
             sizeof *job->workers[i].hits);
    (void)pthread_mutex_lock(&context->lock);
    bool keep = context->n_spare < SPARE_JOBS_MAX;
    if (keep) {
        job->next_spare = context->spare;
        context->spare = job;
        context->n_spare++;
    }
    (void)pthread_mutex_unlock(&context->lock);
    if (!keep)
        search_job_free(job);
}

void search_job_fail(struct search_job *job, enum kith_err err, const struct kith_diag *diag)
{
    int none = KITH_OK;
    /* Relaxed: who wins matters, and the pool orders the diag before its reader. */
    if (atomic_compare_exchange_strong_explicit(&job->err, &none, (int)err, memory_order_relaxed,
                                                memory_order_relaxed))
        job->diag = *diag;
}

void search_job_fail_view(struct search_job *job, uint32_t view, enum kith_err err,
                          const struct kith_diag *diag)
{
    struct kith_diag *failures = job->request->failures;
    if (failures == NULL || err == KITH_NOMEM || err == KITH_TIMEOUT) {
        search_job_fail(job, err, diag);
        return;
    }
    (void)pthread_mutex_lock(&job->context->lock);
    if (failures[view].err == KITH_OK) {
        failures[view] = *diag;
        failures[view].err = err;
    }
    (void)pthread_mutex_unlock(&job->context->lock);
    /* Relaxed: read after the tasks. */
    atomic_store_explicit(&job->view_failed, true, memory_order_relaxed);
}

bool search_job_failed(const struct search_job *job)
{
    return atomic_load_explicit(&job->err, memory_order_relaxed) != KITH_OK;
}

bool search_job_is_over(struct search_job *job)
{
    kith_aside_look();
    if (search_job_failed(job))
        return true;
    uint64_t deadline_ms = job->request->deadline_ms;
    if (deadline_ms == 0 || kith_now_ms() < deadline_ms)
        return false;
    struct kith_diag diag = {0};
    search_job_fail(job, kith_fail(&diag, KITH_TIMEOUT, "the search took longer than its deadline"),
                    &diag);
    return true;
}

bool search_job_begin_worker(struct search_job *job, struct search_worker *worker)
{
    struct kith_diag diag = {0};
    size_t need = (size_t)job->n_queries * job->k;
    if (worker->ready)
        return true;
    if (!kith_grow((void **)&worker->hits, &worker->hits_cap, need, sizeof *worker->hits)) {
        search_job_fail(job, kith_fail(&diag, KITH_NOMEM, "%zu hits", need), &diag);
        return false;
    }
    for (uint32_t q = 0; q < job->n_queries; q++)
        topk_init(&worker->tops[q], job->k, job->threshold, worker->hits + (size_t)q * job->k);
    worker->seen = 0;
    worker->ready = true;
    return true;
}
