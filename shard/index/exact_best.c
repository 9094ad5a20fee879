#include "shard/index/exact_best.h"

#include <float.h>
#include <string.h>

#include "common/kith_mem.h"

#define SCAN_BYTES    (256u * 1024) /* of rows gathered for a scan */
#define SCAN_ROWS_MAX 1024u

struct worker {
    struct flat_scratch *flat;
    struct flat_search *searches; /* FLAT_QUERIES_MAX queries each */
    struct topk *tops;            /* of each query */
    struct kith_hit *hits;        /* k of each */
    uint8_t *rows;
};

struct run {
    const struct exact_best *job;
    struct workers *workers;
    struct worker *each;
    uint32_t row_bytes, scan_rows, n_searches;
};

static void scan_piece(void *ctx, uint32_t piece, uint32_t worker)
{
    struct run *run = ctx;
    const struct exact_best *job = run->job;
    struct worker *own = &run->each[worker];
    uint32_t first = piece * run->scan_rows, left = job->n_rows - first;
    uint32_t n = left < run->scan_rows ? left : run->scan_rows;
    if (workers_stopped(run->workers))
        return;
    for (uint32_t i = 0; i < n; i++)
        memcpy(own->rows + (size_t)i * run->row_bytes, job->row(job->ctx, first + i),
               run->row_bytes);
    struct flat_rows rows = {.data = own->rows, .first = first, .n = n, .name = flat_name_number};
    for (uint32_t s = 0; s < run->n_searches; s++)
        flat_scan(&own->searches[s], &rows, own->flat);
}

static void free_worker(struct worker *worker)
{
    flat_scratch_free(worker->flat);
    kith_free(worker->searches);
    kith_free(worker->tops);
    kith_free(worker->hits);
    kith_free(worker->rows);
}

static enum kith_err make_worker(const struct run *run, struct worker *worker,
                                 struct kith_diag *diag)
{
    const struct exact_best *job = run->job;
    uint32_t n = job->n_queries;
    worker->searches = kith_alloc(run->n_searches * sizeof *worker->searches);
    worker->tops = kith_alloc(n * sizeof *worker->tops);
    worker->hits = kith_alloc((size_t)n * job->k * sizeof *worker->hits);
    worker->rows = kith_alloc_aligned(64, (size_t)run->scan_rows * run->row_bytes);
    if (worker->searches == NULL || worker->tops == NULL || worker->hits == NULL ||
        worker->rows == NULL)
        return kith_fail(diag, KITH_NOMEM, "exact answers of %u queries", n);
    for (uint32_t q = 0; q < n; q++)
        topk_init(&worker->tops[q], job->k, -FLT_MAX, worker->hits + (size_t)q * job->k);
    for (uint32_t at = 0, s = 0; at < n; at += FLAT_QUERIES_MAX, s++)
        worker->searches[s] =
            (struct flat_search){.form = kernels_form_of(job->metric),
                                 .type = kernels_type_of(job->type),
                                 .dim = job->dim,
                                 .n_queries = n - at < FLAT_QUERIES_MAX ? n - at : FLAT_QUERIES_MAX,
                                 .queries = job->queries + (size_t)at * job->dim,
                                 .tops = worker->tops + at};
    return flat_scratch_fit(&worker->flat, job->dim, FLAT_QUERIES_MAX, diag);
}

static void gather(const struct run *run, struct kith_hit *hits)
{
    uint32_t k = run->job->k;
    for (uint32_t q = 0; q < run->job->n_queries; q++) {
        struct topk *top = &run->each[0].tops[q];
        for (uint32_t w = 1; w < run->workers->threads; w++)
            topk_merge(top, &run->each[w].tops[q]);
        kith_assert(top->n == k); /* no rank is a NaN or below the floor */
        topk_sort(top);
        memcpy(hits + (size_t)q * k, top->hits, k * sizeof *hits);
    }
}

enum kith_err exact_best_run(const struct exact_best *job, struct workers *workers,
                             struct kith_hit *hits, struct kith_diag *diag)
{
    kith_assert(job->k >= 1 && job->k <= job->n_rows && job->n_queries >= 1);
    struct run run = {.job = job, .workers = workers};
    enum kith_err err = KITH_OK;
    run.n_searches = (job->n_queries + FLAT_QUERIES_MAX - 1) / FLAT_QUERIES_MAX;
    run.row_bytes = kernels_row_bytes(kernels_type_of(job->type), job->dim);
    run.scan_rows = SCAN_BYTES / run.row_bytes;
    run.scan_rows = run.scan_rows < SCAN_ROWS_MAX ? run.scan_rows : SCAN_ROWS_MAX;
    run.each = kith_alloc(workers->threads * sizeof *run.each);
    if (run.each == NULL)
        return kith_fail(diag, KITH_NOMEM, "exact answers of %u queries", job->n_queries);
    for (uint32_t w = 0; w < workers->threads && err == KITH_OK; w++)
        err = make_worker(&run, &run.each[w], diag);
    if (err == KITH_OK)
        err = workers_run(workers, (job->n_rows + run.scan_rows - 1) / run.scan_rows, scan_piece,
                          &run, diag);
    if (err == KITH_OK)
        gather(&run, hits);
    for (uint32_t w = 0; w < workers->threads; w++)
        free_worker(&run.each[w]);
    kith_free(run.each);
    return err;
}
