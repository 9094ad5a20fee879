/* Exact search over views.
 *
 * One part at a time: (1) every segment and head becomes a unit, with the filter's bitmap if there
 * is a filter, so that `matched` is known before anything is ranked; (2) units are cut into pieces
 * of about PIECE_BYTES of rows to be ranked; (3) the pieces run on the pool, each worker with its
 * own scratch and its own top-k, all of them sharing the best k-th rank known; (4) the workers'
 * top-k are merged. The order of hits is total, so neither the cutting nor the timing shows.
 *
 * Deleted rows: of segments, the delete bitmap masks the scan; of heads, a row is asked about only
 * when it is good enough to be a hit, because the head has no bitmap and few rows get that far.
 *
 * Memory: a job (the scratch of all workers) is taken from the context and put back, so a search
 * allocates its plan and its answer only. Queries are taken in groups small enough that the
 * workers' top-k stay under GROUP_BYTES_MAX.
 *
 * Lost: one top-k per query under a lock (workers wait for each other when many rows tie), and one
 * task per segment (one large segment would run on one core). */
#include "shard/query/search.h"

#include <float.h>
#include <math.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stddef.h>
#include <string.h>

#include "common/kith_clock.h"
#include "common/kith_mem.h"
#include "shard/index/filter_set.h"
#include "shard/index/flat.h"

#define PIECE_BYTES     (4u << 20) /* about 0.2 ms at memory speed: balance, and the deadline */
#define PIECE_ROWS_MAX  16384u     /* rows to be ranked, however narrow */
#define SPARSE_ONE_IN   16u        /* fewer matches than that: a list of rows, not words */
#define WORDS_MAX       (PIECE_ROWS_MAX * SPARSE_ONE_IN / 64u)
#define LIST_MAX        4096u
#define GROUP_BYTES_MAX (32u << 20)
#define SPARE_BYTES_MAX (1u << 20)
#define SPARE_JOBS_MAX  8u /* kept for the next searches; more only while they run */

struct unit {
    const struct view *view;
    uint32_t index; /* of the segment or head in its view */
    bool in_head;
    uint32_t rows;
    uint64_t matched;      /* live rows that match */
    struct bitmap *chosen; /* the filter's answer; NULL: no filter */
};

struct piece {
    const struct unit *unit;
    uint32_t first, n;
};

struct worker {
    bool ready; /* tops are set up for the group in hand */
    uint64_t seen;
    struct flat_scratch *flat;
    struct topk tops[FLAT_QUERIES_MAX];
    struct kith_hit *hits;
    size_t hits_cap;
    uint64_t words[WORDS_MAX];
    uint32_t list[LIST_MAX];
};

struct job {
    /* Immutable while pieces run. */
    struct job *next_spare;
    const struct kith_filter *filter;
    uint64_t deadline_ms;
    const struct slice_config *config;
    struct unit *units;
    size_t units_cap, pieces_cap, queries_cap;
    uint32_t n_units, n_pieces;
    struct piece *pieces;
    float *queries; /* of the part, normalised for cosine */
    const float *group;
    uint32_t n_group, k;
    float threshold;
    uint32_t n_workers;
    /* By worker number. */
    struct worker *workers;
    /* Any thread. The first to change err from KITH_OK writes diag; read after the pieces. */
    _Atomic int err;
    struct kith_diag diag;
    _Atomic float floors[FLAT_QUERIES_MAX];
};

struct search_context {
    struct kith_pool *pool;
    uint32_t n_workers;
    pthread_mutex_t lock;
    struct job *spare; /* guarded by lock */
    uint32_t n_spare;
};

/* ---- context and jobs ------------------------------------------------------------------------ */

static void job_free(struct job *job)
{
    if (job == NULL)
        return;
    for (uint32_t i = 0; job->workers != NULL && i < job->n_workers; i++) {
        flat_scratch_free(job->workers[i].flat);
        kith_free(job->workers[i].hits);
    }
    kith_free(job->workers);
    kith_free(job->units);
    kith_free(job->pieces);
    kith_free(job->queries);
    kith_free(job);
}

static struct job *job_new(uint32_t n_workers)
{
    struct job *job = kith_alloc(sizeof *job);
    if (job == NULL)
        return NULL;
    job->n_workers = n_workers;
    job->workers = kith_alloc(n_workers * sizeof *job->workers);
    if (job->workers == NULL) {
        job_free(job);
        return NULL;
    }
    return job;
}

enum kith_err search_context_open(struct search_context **out, struct kith_pool *pool,
                                  struct kith_diag *diag)
{
    struct search_context *context = kith_alloc(sizeof *context);
    if (context == NULL)
        return kith_fail(diag, KITH_NOMEM, "search context");
    context->pool = pool;
    context->n_workers = pool == NULL ? 1 : kith_pool_threads(pool) + 1;
    (void)pthread_mutex_init(&context->lock, NULL);
    *out = context;
    return KITH_OK;
}

void search_context_close(struct search_context *context)
{
    if (context == NULL)
        return;
    while (context->spare != NULL) {
        struct job *job = context->spare;
        context->spare = job->next_spare;
        job_free(job);
    }
    (void)pthread_mutex_destroy(&context->lock);
    kith_free(context);
}

static struct job *take_job(struct search_context *context)
{
    (void)pthread_mutex_lock(&context->lock);
    struct job *job = context->spare;
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

static void give_job(struct search_context *context, struct job *job)
{
    trim((void **)&job->queries, &job->queries_cap, sizeof *job->queries);
    trim((void **)&job->pieces, &job->pieces_cap, sizeof *job->pieces);
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
        job_free(job);
}

static void job_fail(struct job *job, enum kith_err err, const struct kith_diag *diag)
{
    int none = KITH_OK;
    /* Relaxed: who wins matters, and the pool orders the diag before its reader. */
    if (atomic_compare_exchange_strong_explicit(&job->err, &none, (int)err, memory_order_relaxed,
                                                memory_order_relaxed))
        job->diag = *diag;
}

/* True when the piece in hand should not be worked on. */
static bool job_is_over(struct job *job)
{
    if (atomic_load_explicit(&job->err, memory_order_relaxed) != KITH_OK)
        return true;
    if (job->deadline_ms == 0 || kith_now_ms() < job->deadline_ms)
        return false;
    struct kith_diag diag = {0};
    job_fail(job, kith_fail(&diag, KITH_TIMEOUT, "the search took longer than its deadline"),
             &diag);
    return true;
}

/* ---- who matches ----------------------------------------------------------------------------- */

static void filter_unit(void *ctx, uint32_t index, uint32_t worker)
{
    (void)worker;
    struct job *job = ctx;
    struct unit *unit = &job->units[index];
    if (job_is_over(job))
        return;
    struct kith_diag diag = {0};
    enum kith_err err =
        unit->in_head ? filter_head(job->filter, unit->view, unit->index, &unit->chosen, &diag)
                      : filter_segment(job->filter, unit->view, unit->index, &unit->chosen, &diag);
    if (err != KITH_OK)
        job_fail(job, err, &diag);
    else
        unit->matched = bitmap_count(unit->chosen);
}

static enum kith_err list_units(struct job *job, const struct search_request *request,
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
                (struct unit){.view = view,
                              .index = i,
                              .rows = segment_rows(view->segments[i].segment),
                              .matched = view->segments[i].live};
        for (uint32_t i = 0; i < view->n_heads; i++)
            job->units[job->n_units++] = (struct unit){.view = view,
                                                       .index = i,
                                                       .in_head = true,
                                                       .rows = view->heads[i].rows,
                                                       .matched = view->heads[i].live};
    }
    return KITH_OK;
}

static enum kith_err choose_rows(struct search_context *context, struct job *job,
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

static void drop_units(struct job *job)
{
    for (uint32_t i = 0; i < job->n_units; i++)
        bitmap_free(job->units[i].chosen);
    job->n_units = 0;
}

/* ---- pieces ---------------------------------------------------------------------------------- */

static bool is_sparse(const struct unit *unit)
{
    return unit->chosen != NULL && unit->matched * SPARSE_ONE_IN < unit->rows;
}

static uint32_t piece_rows(const struct unit *unit, uint32_t row_bytes)
{
    uint64_t ranked = PIECE_BYTES / row_bytes;
    if (ranked > PIECE_ROWS_MAX)
        ranked = PIECE_ROWS_MAX;
    /* With a filter, of the rows in a piece only the matching ones cost. */
    uint64_t rows = unit->chosen == NULL ? ranked : ranked * unit->rows / unit->matched;
    if (rows >= unit->rows)
        return unit->rows;
    return (uint32_t)(rows + 63) / 64 * 64;
}

static enum kith_err cut_pieces(struct job *job, struct kith_diag *diag)
{
    uint32_t row_bytes = kernels_row_bytes(kernels_type_of(job->config->rows), job->config->dim);
    job->n_pieces = 0;
    for (uint32_t u = 0; u < job->n_units; u++) {
        const struct unit *unit = &job->units[u];
        if (unit->matched == 0)
            continue;
        uint32_t rows = piece_rows(unit, row_bytes);
        for (uint32_t first = 0; first < unit->rows; first += rows) {
            if (!kith_grow((void **)&job->pieces, &job->pieces_cap, job->n_pieces + 1u,
                           sizeof *job->pieces))
                return kith_fail(diag, KITH_NOMEM, "search plan");
            uint32_t n = unit->rows - first < rows ? unit->rows - first : rows;
            job->pieces[job->n_pieces++] = (struct piece){unit, first, n};
        }
    }
    return KITH_OK;
}

static bool name_segment_row(void *ctx, uint32_t row, struct kith_id *id, uint64_t *seq)
{
    const struct unit *unit = ctx;
    const struct segment *segment = unit->view->segments[unit->index].segment;
    *id = segment_ids(segment)[row];
    *seq = segment_seqs(segment)[row];
    return true;
}

static bool name_head_row(void *ctx, uint32_t row, struct kith_id *id, uint64_t *seq)
{
    const struct unit *unit = ctx;
    struct head_row found;
    if (!head_row_at(unit->view->heads[unit->index].head, row, unit->view->seq, &found))
        return false;
    *id = *found.id;
    *seq = found.seq;
    return true;
}

/* A run of contiguous rows, with a list or words for those that matter. */
static void scan_run(struct flat_search *search, struct flat_rows run, const struct unit *unit,
                     struct worker *worker)
{
    if (is_sparse(unit)) {
        uint32_t from = run.first, end = run.first + run.n;
        for (;;) {
            size_t n = bitmap_read(unit->chosen, from, worker->list, LIST_MAX);
            uint32_t n_in = 0;
            while (n_in < n && worker->list[n_in] < end) {
                from = worker->list[n_in] + 1;
                worker->list[n_in++] -= run.first;
            }
            run.list = worker->list;
            run.n_list = n_in;
            flat_scan(search, &run, worker->flat);
            if (n_in < LIST_MAX || from >= end)
                return;
        }
    }
    const struct bitmap *deleted = unit->in_head ? NULL : unit->view->segments[unit->index].deleted;
    size_t n_words = (run.n + 63u) / 64;
    kith_assert(n_words <= WORDS_MAX);
    if (unit->chosen != NULL) {
        bitmap_words(unit->chosen, run.first, worker->words, n_words);
        run.allowed = worker->words;
    } else if (deleted != NULL) {
        bitmap_words(deleted, run.first, worker->words, n_words);
        for (size_t i = 0; i < n_words; i++)
            worker->words[i] = ~worker->words[i];
        run.allowed = worker->words;
    }
    flat_scan(search, &run, worker->flat);
}

static bool worker_begin(struct job *job, struct worker *worker)
{
    struct kith_diag diag = {0};
    size_t need = (size_t)job->n_group * job->k;
    if (!kith_grow((void **)&worker->hits, &worker->hits_cap, need, sizeof *worker->hits)) {
        job_fail(job, kith_fail(&diag, KITH_NOMEM, "%zu hits", need), &diag);
        return false;
    }
    enum kith_err err = flat_scratch_fit(&worker->flat, job->config->dim, job->n_group, &diag);
    if (err != KITH_OK) {
        job_fail(job, err, &diag);
        return false;
    }
    for (uint32_t q = 0; q < job->n_group; q++)
        topk_init(&worker->tops[q], job->k, job->threshold, worker->hits + (size_t)q * job->k);
    worker->seen = 0;
    worker->ready = true;
    return true;
}

static void run_piece(void *ctx, uint32_t index, uint32_t worker_index)
{
    struct job *job = ctx;
    struct worker *worker = &job->workers[worker_index];
    const struct piece *piece = &job->pieces[index];
    const struct unit *unit = piece->unit;
    if (job_is_over(job) || (!worker->ready && !worker_begin(job, worker)))
        return;
    struct flat_search search = {.form = kernels_form_of(job->config->metric),
                                 .type = kernels_type_of(job->config->rows),
                                 .dim = job->config->dim,
                                 .n_queries = job->n_group,
                                 .queries = job->group,
                                 .tops = worker->tops,
                                 .floors = job->floors,
                                 .seen = worker->seen};
    struct flat_rows run = {.first = piece->first, .n = piece->n, .name_ctx = (void *)unit};
    if (!unit->in_head) {
        const struct segment *segment = unit->view->segments[unit->index].segment;
        run.data = (const uint8_t *)segment_row_data(segment) +
                   (size_t)piece->first * segment_row_bytes(segment);
        run.name = name_segment_row;
        scan_run(&search, run, unit, worker);
    } else {
        const struct head *head = unit->view->heads[unit->index].head;
        run.name = name_head_row;
        for (uint32_t end = piece->first + piece->n; run.first < end; run.first += run.n) {
            run.data = head_run(head, run.first, &run.n);
            if (run.n > end - run.first)
                run.n = end - run.first;
            scan_run(&search, run, unit, worker);
        }
    }
    worker->seen = search.seen;
}

/* ---- one part -------------------------------------------------------------------------------- */

/* Copies the part's vectors, aligned; cosine: unit length, the zero vector stays. */
static enum kith_err take_queries(struct job *job, const struct search_part *part,
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

static void run_group(struct search_context *context, struct job *job, struct search_hits *found,
                      struct kith_hit *memory)
{
    for (uint32_t i = 0; i < job->n_workers; i++)
        job->workers[i].ready = false;
    for (uint32_t q = 0; q < job->n_group; q++)
        atomic_store_explicit(&job->floors[q], -FLT_MAX, memory_order_relaxed);
    kith_pool_run(context->pool, job->n_pieces, run_piece, job);
    if (atomic_load_explicit(&job->err, memory_order_relaxed) != KITH_OK)
        return;
    for (uint32_t q = 0; q < job->n_group; q++) {
        struct topk top;
        topk_init(&top, job->k, job->threshold, memory + (size_t)q * job->k);
        for (uint32_t i = 0; i < job->n_workers; i++)
            if (job->workers[i].ready)
                topk_merge(&top, &job->workers[i].tops[q]);
        topk_sort(&top);
        found[q] = (struct search_hits){top.n, top.hits};
    }
}

static enum kith_err run_queries(struct search_context *context, struct job *job,
                                 const struct search_part *part, struct search_result *result,
                                 struct kith_diag *diag)
{
    uint64_t hits = (uint64_t)part->n_queries * job->k;
    if (hits > KITH_FRAME_BODY_MAX / KITH_HIT_BYTES)
        return kith_fail(diag, KITH_TOO_BIG, "%u queries of %u hits do not fit one answer",
                         part->n_queries, job->k);
    result->memory = kith_alloc_aligned(64, hits * sizeof *result->memory);
    if (result->memory == NULL)
        return kith_fail(diag, KITH_NOMEM, "%llu hits", (unsigned long long)hits);
    enum kith_err err = take_queries(job, part, diag);
    if (err == KITH_OK)
        err = cut_pieces(job, diag);
    if (err != KITH_OK)
        return err;
    size_t per_query = (size_t)job->n_workers * job->k * sizeof(struct kith_hit);
    size_t group = GROUP_BYTES_MAX / per_query;
    group = group < 1 ? 1 : group > FLAT_QUERIES_MAX ? FLAT_QUERIES_MAX : group;
    for (uint32_t at = 0; at < part->n_queries; at += job->n_group) {
        uint32_t left = part->n_queries - at;
        job->n_group = left < group ? left : (uint32_t)group;
        job->group = job->queries + (size_t)at * job->config->dim;
        run_group(context, job, result->found + at, result->memory + (size_t)at * job->k);
    }
    return KITH_OK;
}

static enum kith_err run_part(struct search_context *context, struct job *job,
                              const struct search_request *request, const struct search_part *part,
                              struct search_result *result, struct kith_diag *diag)
{
    result->n_queries = part->n_queries;
    result->found = kith_alloc(part->n_queries * sizeof *result->found);
    if (result->found == NULL)
        return kith_fail(diag, KITH_NOMEM, "%u queries", part->n_queries);
    enum kith_err err = choose_rows(context, job, request, part, diag);
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
    return run_queries(context, job, part, result, diag);
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
    struct job *job = take_job(context);
    struct search_result *made = kith_alloc(request->n_parts * sizeof *made);
    if (job == NULL || made == NULL) {
        err = kith_fail(diag, KITH_NOMEM, "search of %u parts", request->n_parts);
        goto out;
    }
    job->config = request->n_views > 0 ? &request->views[0]->config : &nothing;
    job->deadline_ms = request->deadline_ms;
    atomic_store_explicit(&job->err, KITH_OK, memory_order_relaxed);
    for (uint32_t p = 0; err == KITH_OK && p < request->n_parts; p++) {
        err = run_part(context, job, request, &request->parts[p], &made[p], diag);
        drop_units(job);
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
        give_job(context, job);
    return err;
}
