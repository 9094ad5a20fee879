/* Exact scan of the matching rows. Of a head one query reads the sketches (sketch.h) first.
 *
 * Units are cut into pieces of about PIECE_BYTES of rows to be ranked; the pieces run on the pool,
 * each worker with its own scratch and its own top-k, all of them sharing the best k-th rank known;
 * later the workers' top-k are merged. The order of hits is total, so neither the cutting nor
 * the timing shows.
 *
 * Lost: one top-k per query under a lock (workers wait for each other when many rows tie), and one
 * task per segment (one large segment would run on one core). */
#include <float.h>

#include "common/kith_clock.h"
#include "common/kith_mem.h"
#include "shard/query/search_job.h"

#define LEARN_BYTES_MIN (64u << 10)
#define SKETCHED_ROWS   256u       /* the floor rises meanwhile */
#define PIECE_BYTES     (4u << 20) /* about 0.2 ms at memory speed: balance, and the deadline */

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

enum kith_err search_exact_cut(struct search_job *job, bool by_lists, struct kith_diag *diag)
{
    uint32_t row_bytes = kernels_row_bytes(kernels_type_of(job->config->rows), job->config->dim);
    for (uint32_t u = 0; u < job->n_units; u++) {
        const struct search_unit *unit = &job->units[u];
        if (unit->matched == 0 || search_unit_is_exact(unit) == by_lists)
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

bool search_exact_name_segment_row(void *ctx, uint32_t row, struct kith_id *id, uint64_t *seq)
{
    const struct search_unit *unit = ctx;
    const struct segment *segment = unit->view->segments[unit->index].segment;
    *id = segment_id(segment, row);
    *seq = segment_seq(segment, row);
    return true;
}

void search_exact_fetch_segment_name(void *ctx, uint32_t row)
{
    const struct search_unit *unit = ctx;
    segment_fetch_name(unit->view->segments[unit->index].segment, row);
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

static bool is_wanted(const struct search_unit *unit, uint32_t row)
{
    return unit->words == NULL || (unit->words[row / 64] >> row % 64 & 1) != 0;
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

/* A run of a head of which the rows that cannot be hits are left out by their sketches. */
static void scan_sketched(struct flat_search *search, struct flat_rows run,
                          const struct search_unit *unit, struct search_worker *worker)
{
    const uint8_t *sketches = head_sketches(unit->view->heads[unit->index].head, run.first);
    uint32_t row_bytes = worker->sketch.rows8.row_bytes, n, all = run.n;
    const uint8_t *rows = run.data;
    for (uint32_t at = 0; at < all; at += n) {
        float floor = flat_floor(search, 0);
        n = all - at < SKETCHED_ROWS ? all - at : SKETCHED_ROWS;
        struct flat_rows some = {.data = rows + (size_t)at * search->dim * sizeof(float),
                                 .first = run.first + at,
                                 .n = n,
                                 .name = run.name,
                                 .name_ctx = run.name_ctx};
        if (floor == -FLT_MAX) { /* all may be hits */
            scan_run(search, some, unit, worker);
            continue;
        }
        uint32_t chosen = sketch_choose(&worker->sketch, sketches + (size_t)at * row_bytes, n,
                                        floor, worker->list);
        some.list = worker->list;
        for (uint32_t i = 0; i < chosen; i++)
            if (is_wanted(unit, some.first + worker->list[i]))
                worker->list[some.n_list++] = worker->list[i];
        if (some.n_list > 0)
            flat_scan(search, &some, worker->flat);
    }
}

static bool is_sketched(const struct search_job *job, const struct search_unit *unit)
{
    return unit->in_head && job->n_queries == 1 && !is_sparse(unit) &&
           head_sketches(unit->view->heads[unit->index].head, 0) != NULL;
}

/* Whether its sketches were of use. */
static bool scan_piece(struct search_job *job, struct search_worker *worker,
                       const struct search_piece *piece)
{
    const struct search_unit *unit = piece->unit;
    struct flat_search search = {.form = kernels_form_of(job->config->metric),
                                 .type = kernels_type_of(job->config->rows),
                                 .dim = job->config->dim,
                                 .n_queries = job->n_queries,
                                 .queries = job->vectors,
                                 .tops = worker->tops,
                                 .floors = job->floors,
                                 .seen = worker->seen};
    struct flat_rows run = {.first = piece->first, .n = piece->n, .name_ctx = (void *)unit};
    bool sketched = is_sketched(job, unit) &&
                    sketch_query_init(&worker->sketch, search.form, job->vectors, job->config->dim);
    if (!unit->in_head) {
        const struct segment *segment = unit->view->segments[unit->index].segment;
        run.data = segment_row_data(segment, piece->first, piece->n);
        run.name = search_exact_name_segment_row;
        scan_run(&search, run, unit, worker);
    } else {
        const struct head *head = unit->view->heads[unit->index].head;
        run.name = name_head_row;
        for (uint32_t end = piece->first + piece->n; run.first < end; run.first += run.n) {
            run.data = head_run(head, run.first, &run.n);
            if (run.n > end - run.first)
                run.n = end - run.first;
            if (sketched)
                scan_sketched(&search, run, unit, worker);
            else
                scan_run(&search, run, unit, worker);
        }
    }
    worker->seen = search.seen;
    return sketched;
}

void search_exact_run_piece(void *ctx, uint32_t index, uint32_t worker_index)
{
    struct search_job *job = ctx;
    struct search_worker *worker = &job->workers[worker_index];
    const struct search_piece *piece = &job->pieces[index];
    struct kith_diag diag = {0};
    if (search_job_is_over(job) || !search_job_begin_worker(job, worker))
        return;
    enum kith_err err = flat_scratch_fit(&worker->flat, job->config->dim, job->n_queries, &diag);
    if (err != KITH_OK) {
        search_job_fail(job, err, &diag);
        return;
    }
    const struct search_cost_run cost = {
        .rows = piece->n,
        .row_bytes = kernels_row_bytes(kernels_type_of(job->config->rows), job->config->dim),
        .matched = piece->unit->matched * piece->n / piece->unit->rows,
        .whole_rows = piece->unit->rows};
    /* A batch has other costs, and of a short run the clock is a good part. */
    bool learns = job->n_queries == 1 && cost.matched * cost.row_bytes >= LEARN_BYTES_MIN;
    uint64_t begun = learns ? kith_thread_ns() : 0;
    if (!scan_piece(job, worker, piece) && learns)
        search_cost_learn_exact(&job->context->cost, &cost, (double)(kith_thread_ns() - begun));
}
