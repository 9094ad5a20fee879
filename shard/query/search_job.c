#include "shard/query/search_job.h"

#include "common/kith_clock.h"
#include "common/kith_mem.h"

#define SPARE_BYTES_MAX (1u << 20)
#define SPARE_JOBS_MAX  8u /* kept for the next searches; more only while they run */

void search_job_free(struct search_job *job)
{
    if (job == NULL)
        return;
    for (uint32_t i = 0; job->workers != NULL && i < job->n_workers; i++) {
        flat_scratch_free(job->workers[i].flat);
        kith_free(job->workers[i].hits);
    }
    kith_free(job->workers);
    kith_free(job->units);
    kith_free(job->asking);
    kith_free(job->pieces);
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

/* True when the piece in hand should not be worked on. */
bool search_job_is_over(struct search_job *job)
{
    if (atomic_load_explicit(&job->err, memory_order_relaxed) != KITH_OK)
        return true;
    if (job->deadline_ms == 0 || kith_now_ms() < job->deadline_ms)
        return false;
    struct kith_diag diag = {0};
    search_job_fail(job, kith_fail(&diag, KITH_TIMEOUT, "the search took longer than its deadline"),
                    &diag);
    return true;
}
