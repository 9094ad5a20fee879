/* Which efforts are tried is not fixed: reach means different things for different data (1.1 here
 * finds as much as 1.5 there). But the exact answers say which lists hold them, so how far a search
 * must reach for each hit is known without searching; quantiles of that are the reaches tried, each
 * with two margins. Of the efforts whose recall is certain enough the cheapest is kept. */
#include "shard/index/ivf_calibrate.h"

#include <float.h>
#include <math.h>
#include <string.h>

#include "common/kith_mem.h"
#include "common/kith_sort.h"
#include "shard/index/exact_best.h"
#include "shard/index/ivf_calibrate_far.h"
#include "shard/index/ivf_growth.h"
#include "shard/index/ivf_job.h"
#include "shard/index/ivf_needed.h"
#include "shard/index/recall_levels.h"

#define K             IVF_TARGET_HITS
#define HITS          (K + 1) /* with the query itself */
#define QUERIES_MIN   32u     /* fewer tell nothing */
#define QUERIES_LEAST 128u
#define QUERIES_MAX   1024u
#define PIECE         16u /* queries of a piece */
/* Costs in rows scanned: a row ranked by bytes is a cache miss. */
#define COST_RERANK 32.0

/* Quantiles of the reach a hit needs. */
static const float shares[] = {0.75f,  0.85f,  0.9f,   0.93f,  0.95f, 0.965f,
                               0.978f, 0.988f, 0.994f, 0.998f, 1.0f};
#define N_REACHES (sizeof shares / sizeof shares[0])

/* Margins for reaches up to `share`: a wide one is wasted where lists are missed anyway. */
static const struct {
    float share, margins[2];
} margins[] = {{0.94f, {1.0f, 1.5f}}, {0.98f, {1.25f, 1.75f}}, {1.0f, {1.75f, 3.0f}}};
#define MARGIN_ROWS 2.5f /* without codes there is nothing to save */

_Static_assert(RECALL_LEVELS <= IVF_TARGETS, "a target for each level");

struct trial {
    struct recall_trial got; /* first */
    struct ivf_effort effort;
    double rows;
};

struct worker {
    struct ivf_scratch *scratch;
    uint64_t *allowed;
    struct ivf_stats stats;
};

struct run {
    const struct ivf *index;
    struct workers *workers;
    struct worker *each;
    uint32_t n_queries;
    float *queries;
    struct kith_hit *answers; /* HITS of each query, exact */
    float *worst;             /* of each query: the rank of its K-th hit */
    float *needed;            /* of each hit: the reach that finds it */
    float *found;             /* of each query, by the trial that runs */
    struct ivf_effort effort;
};

static uint32_t row_of(const struct run *run, uint32_t query)
{
    return ivf_needed_row(run->index, run->n_queries, query);
}

static const void *row_at(const void *ctx, uint32_t row)
{
    return ivf_row(((const struct run *)ctx)->index, row);
}

/* ---- exact answers --------------------------------------------------------------------------- */

static enum kith_err find_answers(struct run *run, struct kith_diag *diag)
{
    const struct exact_best scan = {.metric = run->index->codebook->metric,
                                    .type = run->index->row_type,
                                    .dim = run->index->codebook->dim,
                                    .n_rows = run->index->n_rows,
                                    .row = row_at,
                                    .ctx = run,
                                    .queries = run->queries,
                                    .n_queries = run->n_queries,
                                    .k = HITS};
    return exact_best_run(&scan, run->workers, run->answers, diag);
}

static struct ivf_needed needed_of(const struct run *run)
{
    return (struct ivf_needed){run->index, &run->each[0].scratch->lists};
}

/* The K best without the query itself, and what their lists ask for. */
static void note_answers(struct run *run)
{
    const struct ivf_needed needed = needed_of(run);
    for (uint32_t q = 0; q < run->n_queries; q++)
        run->worst[q] = ivf_needed_by(&needed, run->queries + (size_t)q * run->index->codebook->dim,
                                      row_of(run, q), run->answers + (size_t)q * HITS, K,
                                      run->needed + (size_t)q * K);
}

/* ---- trials ---------------------------------------------------------------------------------- */

static void try_query(struct run *run, struct worker *own, uint32_t query)
{
    struct kith_hit hits[K];
    struct topk top;
    uint32_t row = row_of(run, query), found = 0;
    topk_init(&top, K, -FLT_MAX, hits);
    struct ivf_part part = {.index = run->index,
                            .allowed = own->allowed,
                            .n_allowed = run->index->n_rows - 1,
                            .name = flat_name_number};
    struct ivf_query search = {.vector = run->queries + (size_t)query * run->index->codebook->dim,
                               .top = &top,
                               .effort = run->effort};
    own->allowed[row / 64] &= ~(UINT64_C(1) << (row % 64));
    (void)ivf_search(&search, &part, 1, own->scratch, &own->stats);
    own->allowed[row / 64] |= UINT64_C(1) << (row % 64);
    for (uint32_t i = 0; i < top.n; i++)
        found += top.hits[i].rank >= run->worst[query];
    run->found[query] = (float)found / K;
}

static void try_piece(void *ctx, uint32_t piece, uint32_t worker)
{
    struct run *run = ctx;
    uint32_t first = piece * PIECE;
    for (uint32_t q = first; q < first + PIECE && q < run->n_queries; q++) {
        if (workers_stopped(run->workers))
            return;
        try_query(run, &run->each[worker], q);
    }
}

static enum kith_err try_effort(struct run *run, struct trial *trial, struct kith_diag *diag)
{
    for (uint32_t w = 0; w < run->workers->threads; w++)
        run->each[w].stats = (struct ivf_stats){0};
    run->effort = trial->effort;
    enum kith_err err =
        workers_run(run->workers, (run->n_queries + PIECE - 1) / PIECE, try_piece, run, diag);
    if (err != KITH_OK)
        return err;
    trial->got.bound = recall_levels_bound(run->found, run->n_queries, K);
    trial->rows = trial->got.cost = 0.0;
    for (uint32_t w = 0; w < run->workers->threads; w++) {
        trial->rows += (double)run->each[w].stats.rows / run->n_queries;
        trial->got.cost += (double)run->each[w].stats.reranked / run->n_queries * COST_RERANK;
    }
    trial->got.cost += trial->rows;
    return KITH_OK;
}

static float margin_of(const struct run *run, float share, uint32_t which)
{
    uint32_t i = 0;
    while (margins[i].share < share)
        i++;
    return run->index->codebook->codes == CODEBOOK_PQ4 ? margins[i].margins[which] : MARGIN_ROWS;
}

static enum kith_err run_trials(struct run *run, struct trial *trials, uint32_t *n_trials,
                                struct kith_diag *diag)
{
    uint32_t n = run->n_queries * K,
             n_margins = run->index->codebook->codes == CODEBOOK_PQ4 ? 2 : 1;
    kith_sort_floats(run->needed, n);
    *n_trials = 0;
    for (size_t i = 0; i < N_REACHES; i++) {
        for (uint32_t m = 0; m < n_margins; m++) {
            struct trial *trial = &trials[(*n_trials)++];
            trial->effort =
                (struct ivf_effort){.reach = ivf_needed_quantile(run->needed, n, shares[i]),
                                    .margin = margin_of(run, shares[i], m),
                                    .first_lists = IVF_FIRST_LISTS};
            enum kith_err err = try_effort(run, trial, diag);
            if (err != KITH_OK)
                return err;
        }
    }
    return KITH_OK;
}

static uint32_t choose(const struct run *run, const struct trial *trials, uint32_t n_trials,
                       struct ivf_target *targets)
{
    const struct recall_trial *chosen[RECALL_LEVELS];
    uint32_t n = recall_levels_choose(trials, sizeof *trials, n_trials, chosen);
    for (uint32_t i = 0; i < n; i++) {
        const struct trial *trial = (const void *)chosen[i];
        double share = trial->rows / run->index->n_rows;
        targets[i] = (struct ivf_target){.recall = trial->got.bound,
                                         .rows_share = share < 1.0 ? (float)share : 1.0f,
                                         .effort = trial->effort};
    }
    return n;
}

/* ---- memory ---------------------------------------------------------------------------------- */

static void free_worker(struct worker *worker)
{
    ivf_scratch_free(worker->scratch);
    kith_free(worker->allowed);
}

static enum kith_err make_worker(const struct run *run, struct worker *worker,
                                 struct kith_diag *diag)
{
    uint32_t words = run->index->n_rows / 64 + 1;
    worker->allowed = kith_alloc(words * sizeof *worker->allowed);
    if (worker->allowed == NULL)
        return kith_fail(diag, KITH_NOMEM, "calibration");
    memset(worker->allowed, 0xff, words * sizeof *worker->allowed);
    return ivf_scratch_fit(&worker->scratch, run->index->codebook, K, diag);
}

static enum kith_err make_run(struct run *run, struct kith_diag *diag)
{
    const struct ivf *index = run->index;
    uint32_t n = run->n_queries, dim = index->codebook->dim;
    run->queries = kith_alloc((size_t)n * dim * sizeof *run->queries);
    run->answers = kith_alloc((size_t)n * HITS * sizeof *run->answers);
    run->worst = kith_alloc(n * sizeof *run->worst);
    run->needed = kith_alloc((size_t)n * K * sizeof *run->needed);
    run->found = kith_alloc(n * sizeof *run->found);
    run->each = kith_alloc(run->workers->threads * sizeof *run->each);
    if (run->queries == NULL || run->answers == NULL || run->worst == NULL || run->needed == NULL ||
        run->found == NULL || run->each == NULL)
        return kith_fail(diag, KITH_NOMEM, "calibration");
    ivf_needed_queries(index, n, run->queries);
    enum kith_err err = KITH_OK;
    for (uint32_t w = 0; w < run->workers->threads && err == KITH_OK; w++)
        err = make_worker(run, &run->each[w], diag);
    return err;
}

static uint32_t queries_for(const struct ivf *index)
{
    uint32_t n = index->codebook->n_lists * 2 / 3;
    n = n < QUERIES_LEAST ? QUERIES_LEAST : n > QUERIES_MAX ? QUERIES_MAX : n;
    return n < index->n_rows / 4 ? n : index->n_rows / 4;
}

enum kith_err ivf_calibrate_run(const struct ivf *index, struct workers *workers,
                                struct ivf_calibration *out, struct kith_diag *diag)
{
    struct run run = {.index = index, .workers = workers, .n_queries = queries_for(index)};
    struct trial trials[N_REACHES * 2];
    uint32_t n_trials = 0;
    *out = (struct ivf_calibration){.rows = index->n_rows, .energy = index->residual_energy};
    if (run.n_queries < QUERIES_MIN)
        return KITH_OK;
    enum kith_err err = make_run(&run, diag);
    if (err == KITH_OK)
        err = find_answers(&run, diag);
    if (err == KITH_OK) {
        note_answers(&run);
        err = run_trials(&run, trials, &n_trials, diag);
    }
    if (err == KITH_OK) {
        const struct ivf_needed needed = needed_of(&run);
        err = ivf_growth_measure(&needed, workers, &out->growth, diag);
    }
    if (err == KITH_OK)
        err = ivf_calibrate_far_run(index, run.queries, run.n_queries, workers, out->far, diag);
    if (err == KITH_OK)
        out->n_targets = choose(&run, trials, n_trials, out->targets);
    for (uint32_t w = 0; w < workers->threads && run.each != NULL; w++)
        free_worker(&run.each[w]);
    kith_free(run.each);
    kith_free(run.found);
    kith_free(run.needed);
    kith_free(run.worst);
    kith_free(run.answers);
    kith_free(run.queries);
    return err;
}
