#include "shard/index/faiss_calibrate.h"

#include <pthread.h>
#include <string.h>

#include "common/kith_clock.h"
#include "common/kith_mem.h"

#define PIECE        8u  /* queries of a piece */
#define TIMED        16u /* queries that a setting is timed by */
#define ENOUGH       0.999f
#define STEPS_MAX    40u
#define GRAPH_EF_MAX 1024u /* its candidates are a heap that Faiss walks: the time is quadratic */
#define FACTORS      3u
#define RANKED_NS    150.0 /* of a row ranked exactly: a cache miss or two */
#define ROWS_A_DEPTH 10u   /* a depth is tried in so many times as many rows at the least */

static const struct depth {
    uint32_t depth;
    uint32_t queries;           /* many hits of few queries say as much as few of many */
    uint32_t k_factor[FACTORS]; /* of codes; else what is found is ranked rightly: 1 */
} depths[FAISS_FORMAT_DEPTHS] = {{10, FAISS_CALIBRATE_QUERIES, {3, 12, 48}},
                                 {30, FAISS_CALIBRATE_QUERIES / 2, {3, 12, 36}},
                                 {100, FAISS_CALIBRATE_QUERIES / 4, {2, 6, 18}},
                                 {300, FAISS_CALIBRATE_QUERIES / 4, {2, 4, 8}}};
#define FETCH_MAX 2400u /* the largest product */

struct trial {
    struct recall_trial got; /* first; cost in ns */
    struct faiss_effort effort;
};

struct worker {
    int64_t rows[FETCH_MAX];
    float ranks[FETCH_MAX];
    double ns;
};

struct run {
    struct faiss_index *index;
    struct faiss_factory_shape shape;
    const struct exact_best *scan;
    struct workers *workers;
    struct worker *each;
    struct kith_hit *answers;
    float *found; /* recall of each query, by the trial that runs */
    uint32_t n_answers, n_depths;
    /* The trial that runs. */
    struct faiss_effort effort;
    uint32_t depth, fetch, n_queries;
    bool timing;
    /* The first failure of any thread. */
    pthread_mutex_t lock;
    struct kith_diag failure;
};

static void fail(struct run *run, enum kith_err err, const struct kith_diag *diag)
{
    (void)pthread_mutex_lock(&run->lock);
    if (run->failure.err == KITH_OK) {
        run->failure = *diag;
        run->failure.err = err;
    }
    (void)pthread_mutex_unlock(&run->lock);
}

/* Those of a trial are spread over all. */
static uint32_t query_of(const struct run *run, uint32_t i)
{
    return (uint32_t)((uint64_t)i * run->scan->n_queries / run->n_queries);
}

/* ---- one query ------------------------------------------------------------------------------- */

static float rank_of(const struct exact_best *scan, const float *query, int64_t row)
{
    struct kernels_rows one = {scan->row(scan->ctx, (uint32_t)row), scan->dim};
    float rank;
    kernels_best()->scan[kernels_form_of(scan->metric)][kernels_type_of(scan->type)](query, one, 1,
                                                                                     &rank);
    return rank;
}

/* The share of the nearest that is among what was fetched; equal ranks are as good. */
static float recall_of(const struct run *run, const struct worker *own, uint32_t q)
{
    const float *query = run->scan->queries + (size_t)q * run->scan->dim;
    float worst = run->answers[(size_t)q * run->n_answers + run->depth - 1].rank;
    uint32_t good = 0;
    for (uint32_t i = 0; i < run->fetch && own->rows[i] >= 0 && good < run->depth; i++)
        good += rank_of(run->scan, query, own->rows[i]) >= worst;
    return (float)good / (float)run->depth;
}

static void try_piece(void *ctx, uint32_t piece, uint32_t worker)
{
    struct run *run = ctx;
    struct worker *own = &run->each[worker];
    for (uint32_t i = piece * PIECE; i < (piece + 1) * PIECE && i < run->n_queries; i++) {
        if (workers_stopped(run->workers))
            return;
        const float *vector = run->scan->queries + (size_t)query_of(run, i) * run->scan->dim;
        const struct blas_block query = {vector, 1, run->scan->dim};
        struct kith_diag diag = {0};
        uint64_t begun = kith_thread_ns();
        enum kith_err err = faiss_index_search(run->index, query, run->fetch, run->effort,
                                               (struct faiss_hits){own->rows, own->ranks}, &diag);
        own->ns += (double)(kith_thread_ns() - begun);
        if (err != KITH_OK) {
            fail(run, err, &diag);
            return;
        }
        if (!run->timing)
            run->found[i] = recall_of(run, own, query_of(run, i));
    }
}

/* *ns: of a query, on average. */
static enum kith_err try_queries(struct run *run, uint32_t n_queries, double *ns,
                                 struct kith_diag *diag)
{
    run->n_queries = n_queries;
    for (uint32_t w = 0; w < run->workers->threads; w++)
        run->each[w].ns = 0;
    enum kith_err err =
        workers_run(run->workers, (n_queries + PIECE - 1) / PIECE, try_piece, run, diag);
    if (err == KITH_OK && run->failure.err != KITH_OK)
        err = kith_fail(diag, run->failure.err, "calibration: %s", run->failure.text);
    *ns = 0;
    for (uint32_t w = 0; w < run->workers->threads; w++)
        *ns += run->each[w].ns / n_queries;
    return err;
}

/* ---- one depth ------------------------------------------------------------------------------- */

/* 1, 2, 3, 5, 8, 12 ... of lists; 16, 32, 64 ... of a graph's candidates. */
static uint32_t next_step(const struct run *run, uint32_t step)
{
    if (run->shape.lists > 0)
        return step == run->shape.lists                   ? 0
               : step + (step + 1) / 2 > run->shape.lists ? run->shape.lists
                                                          : step + (step + 1) / 2;
    return run->shape.graph && step < GRAPH_EF_MAX ? 2 * step : 0;
}

static struct faiss_effort effort_of(const struct run *run, uint32_t step)
{
    if (run->shape.lists == 0)
        return (struct faiss_effort){.ef_search = run->shape.graph ? step : 0};
    uint32_t wide = step < 8 ? 16 : 2 * step; /* a graph of centroids has to find `step` of them */
    wide = wide < KITH_FAISS_EF_MAX ? wide : KITH_FAISS_EF_MAX;
    return (struct faiss_effort){.nprobe = step, .ef_search = run->shape.graph ? wide : 0};
}

/* One step; up to FACTORS trials more. Each is a search of its own: what Faiss finds first depends
 * on how much it is asked for, for graphs and for 4-bit codes, where it was worse by 0.05. */
static enum kith_err try_step(struct run *run, uint32_t step, const struct depth *of,
                              struct trial *trials, uint32_t *n, struct kith_diag *diag)
{
    float bound = 0;
    enum kith_err err = KITH_OK;
    run->effort = effort_of(run, step);
    for (uint32_t f = 0; f < (run->shape.coded ? FACTORS : 1) && bound < ENOUGH; f++) {
        double ns;
        uint32_t k_factor = run->shape.coded ? of->k_factor[f] : 1;
        run->fetch = of->depth * k_factor;
        err = try_queries(run, of->queries, &ns, diag);
        if (err != KITH_OK)
            break;
        bound = recall_levels_bound(run->found, of->queries, of->depth);
        struct trial *trial = &trials[(*n)++];
        *trial = (struct trial){.got = {bound, ns + run->fetch * RANKED_NS}, .effort = run->effort};
        trial->effort.k_factor = k_factor;
    }
    return err;
}

/* *step: where to begin; becomes where something was found, for larger depths need no less. */
static enum kith_err try_depth(struct run *run, const struct depth *of, uint32_t *step,
                               struct trial *trials, uint32_t *n, struct kith_diag *diag)
{
    uint32_t at = *step;
    bool began = false;
    float best = 0;
    enum kith_err err = KITH_OK;
    for (uint32_t i = 0; err == KITH_OK && best < ENOUGH && at != 0 && i < STEPS_MAX; i++) {
        uint32_t before = *n;
        err = try_step(run, at, of, trials, n, diag);
        for (uint32_t t = before; err == KITH_OK && t < *n; t++)
            best = trials[t].got.bound > best ? trials[t].got.bound : best;
        if (!began && best >= recall_levels_all[0]) {
            *step = at;
            began = true;
        }
        at = next_step(run, at);
    }
    return err;
}

static uint32_t choose(uint32_t depth, const struct trial *trials, uint32_t n_trials,
                       struct faiss_target *targets)
{
    const struct recall_trial *chosen[RECALL_LEVELS];
    uint32_t n = recall_levels_choose(trials, sizeof *trials, n_trials, chosen);
    for (uint32_t i = 0; i < n; i++)
        targets[i] = (struct faiss_target){.depth = depth,
                                           .recall = chosen[i]->bound,
                                           .effort = ((const struct trial *)chosen[i])->effort};
    return n;
}

static enum kith_err time_target(struct run *run, struct faiss_target *target,
                                 struct kith_diag *diag)
{
    double ns;
    run->effort = target->effort;
    run->effort.k_factor = 0; /* ours, not Faiss's */
    run->fetch = target->depth * target->effort.k_factor;
    run->timing = true;
    enum kith_err err = try_queries(run, TIMED, &ns, diag);
    run->timing = false;
    target->cost_ns = (float)ns;
    return err;
}

static enum kith_err measure(struct run *run, struct faiss_target *targets, uint32_t *n,
                             struct kith_diag *diag)
{
    uint32_t step = run->shape.lists > 0 ? 1 : 16;
    struct trial *trials = kith_alloc(STEPS_MAX * FACTORS * sizeof *trials);
    if (trials == NULL)
        return kith_fail(diag, KITH_NOMEM, "calibration");
    enum kith_err err = KITH_OK;
    for (uint32_t d = 0; d < run->n_depths && err == KITH_OK; d++) {
        uint32_t n_trials = 0;
        run->depth = depths[d].depth;
        err = try_depth(run, &depths[d], &step, trials, &n_trials, diag);
        uint32_t more = err == KITH_OK ? choose(run->depth, trials, n_trials, targets + *n) : 0;
        for (uint32_t i = 0; i < more && err == KITH_OK; i++)
            err = time_target(run, &targets[*n + i], diag);
        *n += more;
    }
    kith_free(trials);
    return err;
}

enum kith_err faiss_calibrate_run(struct faiss_index *index, struct faiss_factory_shape shape,
                                  const struct exact_best *scan, struct workers *workers,
                                  struct faiss_target targets[FAISS_FORMAT_TARGETS], uint32_t *n,
                                  struct kith_diag *diag)
{
    struct run run = {.index = index, .shape = shape, .scan = scan, .workers = workers};
    *n = 0;
    while (run.n_depths < FAISS_FORMAT_DEPTHS &&
           depths[run.n_depths].depth * ROWS_A_DEPTH <= scan->n_rows)
        run.n_answers = depths[run.n_depths++].depth;
    if (run.n_depths == 0)
        return KITH_OK;
    kith_assert(scan->n_queries == FAISS_CALIBRATE_QUERIES);
    struct exact_best exact = *scan;
    exact.k = run.n_answers;
    run.answers = kith_alloc((size_t)scan->n_queries * exact.k * sizeof *run.answers);
    run.found = kith_alloc(scan->n_queries * sizeof *run.found);
    run.each = kith_alloc(workers->threads * sizeof *run.each);
    (void)pthread_mutex_init(&run.lock, NULL);
    enum kith_err err = KITH_OK;
    if (run.answers == NULL || run.found == NULL || run.each == NULL)
        err = kith_fail(diag, KITH_NOMEM, "calibration");
    if (err == KITH_OK)
        err = exact_best_run(&exact, workers, run.answers, diag);
    if (err == KITH_OK)
        err = measure(&run, targets, n, diag);
    (void)pthread_mutex_destroy(&run.lock);
    kith_free(run.each);
    kith_free(run.found);
    kith_free(run.answers);
    return err;
}
