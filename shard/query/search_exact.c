/* Exact scan of the matching rows.
 *
 * Units are cut into pieces of about PIECE_BYTES of rows to be ranked; the pieces run on the pool,
 * each worker with its own scratch and its own top-k, all of them sharing the best k-th rank known;
 * then the workers' top-k are merged. The order of hits is total, so neither the cutting nor the
 * timing shows.
 *
 * Queries are taken in groups small enough that the workers' top-k stay under GROUP_BYTES_MAX.
 *
 * Lost: one top-k per query under a lock (workers wait for each other when many rows tie), and one
 * task per segment (one large segment would run on one core). */
#include <float.h>
#include <math.h>
#include <string.h>

#include "common/kith_mem.h"
#include "shard/query/search_job.h"

#define PIECE_BYTES     (4u << 20) /* about 0.2 ms at memory speed: balance, and the deadline */
#define GROUP_BYTES_MAX (32u << 20)

static bool is_sparse(const struct search_unit *unit)
{
    return unit->words != NULL && unit->matched * SEARCH_SPARSE_ONE_IN < unit->rows;
}

static uint32_t piece_rows(const struct search_unit *unit, uint32_t row_bytes)
{
    uint64_t ranked = PIECE_BYTES / row_bytes;
    if (ranked > SEARCH_PIECE_ROWS_MAX)
        ranked = SEARCH_PIECE_ROWS_MAX;
    /* With a filter, of the rows in a piece only the matching ones cost. */
    uint64_t rows = unit->words == NULL ? ranked : ranked * unit->rows / unit->matched;
    if (rows >= unit->rows)
        return unit->rows;
    return (uint32_t)(rows + 63) / 64 * 64;
}

static enum kith_err cut_pieces(struct search_job *job, struct kith_diag *diag)
{
    uint32_t row_bytes = kernels_row_bytes(kernels_type_of(job->config->rows), job->config->dim);
    job->n_pieces = 0;
    job->bytes = 0;
    for (uint32_t u = 0; u < job->n_units; u++) {
        const struct search_unit *unit = &job->units[u];
        if (unit->matched == 0)
            continue;
        uint32_t rows = piece_rows(unit, row_bytes);
        job->bytes += unit->matched * row_bytes;
        for (uint32_t first = 0; first < unit->rows; first += rows) {
            if (!kith_grow((void **)&job->pieces, &job->pieces_cap, job->n_pieces + 1u,
                           sizeof *job->pieces))
                return kith_fail(diag, KITH_NOMEM, "search plan");
            uint32_t n = unit->rows - first < rows ? unit->rows - first : rows;
            job->pieces[job->n_pieces++] = (struct search_piece){unit, first, n};
        }
    }
    return KITH_OK;
}

static bool name_segment_row(void *ctx, uint32_t row, struct kith_id *id, uint64_t *seq)
{
    const struct search_unit *unit = ctx;
    const struct segment *segment = unit->view->segments[unit->index].segment;
    *id = segment_ids(segment)[row];
    *seq = segment_seqs(segment)[row];
    return true;
}

static bool name_head_row(void *ctx, uint32_t row, struct kith_id *id, uint64_t *seq)
{
    const struct search_unit *unit = ctx;
    struct head_row found;
    if (!head_row_at(unit->view->heads[unit->index].head, row, unit->view->seq, &found))
        return false;
    *id = *found.id;
    *seq = found.seq;
    return true;
}

/* Of rows [*at, end) those whose bit is set, less `base`, as many as fit; *at moves behind them. */
static uint32_t list_rows(const uint64_t *words, uint32_t *at, uint32_t end, uint32_t base,
                          uint32_t *list)
{
    uint32_t n = 0;
    while (*at < end && n <= SEARCH_LIST_MAX - 64) {
        uint64_t word = words[*at / 64] >> *at % 64;
        uint32_t span = 64 - *at % 64;
        if (span > end - *at) {
            span = end - *at;
            word &= (UINT64_C(1) << span) - 1;
        }
        for (; word != 0; word &= word - 1)
            list[n++] = *at - base + (uint32_t)__builtin_ctzll(word);
        *at += span;
    }
    return n;
}

/* Rows from `first` on as words; runs of a head begin anywhere. */
static const uint64_t *words_from(const struct search_unit *unit, uint32_t first, uint32_t n,
                                  uint64_t *memory)
{
    const uint64_t *words = unit->words + first / 64;
    uint32_t shift = first % 64, n_words = (n + 63) / 64, last = (unit->rows - 1) / 64;
    if (shift == 0)
        return words;
    kith_assert(n_words <= SEARCH_WORDS_MAX);
    for (uint32_t w = 0; w < n_words; w++) {
        memory[w] = words[w] >> shift;
        if (first / 64 + w < last)
            memory[w] |= words[w + 1] << (64 - shift);
    }
    return memory;
}

/* A run of contiguous rows, with a list or words for those that matter. */
static void scan_run(struct flat_search *search, struct flat_rows run,
                     const struct search_unit *unit, struct search_worker *worker)
{
    if (!is_sparse(unit)) {
        if (unit->words != NULL)
            run.allowed = words_from(unit, run.first, run.n, worker->words);
        flat_scan(search, &run, worker->flat);
        return;
    }
    uint32_t at = run.first, end = run.first + run.n;
    run.list = worker->list;
    while (at < end) {
        run.n_list = list_rows(unit->words, &at, end, run.first, worker->list);
        flat_scan(search, &run, worker->flat);
    }
}

static bool worker_begin(struct search_job *job, struct search_worker *worker)
{
    struct kith_diag diag = {0};
    size_t need = (size_t)job->n_group * job->k;
    if (!kith_grow((void **)&worker->hits, &worker->hits_cap, need, sizeof *worker->hits)) {
        search_job_fail(job, kith_fail(&diag, KITH_NOMEM, "%zu hits", need), &diag);
        return false;
    }
    enum kith_err err = flat_scratch_fit(&worker->flat, job->config->dim, job->n_group, &diag);
    if (err != KITH_OK) {
        search_job_fail(job, err, &diag);
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
    struct search_job *job = ctx;
    struct search_worker *worker = &job->workers[worker_index];
    const struct search_piece *piece = &job->pieces[index];
    const struct search_unit *unit = piece->unit;
    if (search_job_is_over(job) || (!worker->ready && !worker_begin(job, worker)))
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

static void run_group(struct search_context *context, struct search_job *job,
                      struct search_hits *found, struct kith_hit *memory)
{
    for (uint32_t i = 0; i < job->n_workers; i++)
        job->workers[i].ready = false;
    for (uint32_t q = 0; q < job->n_group; q++)
        atomic_store_explicit(&job->floors[q], -FLT_MAX, memory_order_relaxed);
    bool alone = job->bytes * job->n_group < context->share_bytes_min;
    kith_pool_run(alone ? NULL : context->pool, job->n_pieces, run_piece, job);
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

enum kith_err search_exact_run(struct search_context *context, struct search_job *job,
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
