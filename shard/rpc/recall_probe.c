#include "shard/rpc/recall_probe.h"

#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "common/kith_clock.h"
#include "common/kith_log.h"
#include "common/kith_mem.h"
#include "common/kith_thread.h"

#define APART_NS   UINT64_C(500000000)
#define PROBE_NICE 19
#define ROWS_MAX   1024u /* collections times plans times shares; then the oldest is forgotten */
#define MEAN_OVER  50.0f /* queries */

struct job {
    struct recall_probe_query query;
    struct rpc_views views;
    float *vector;
    float *found; /* ranks, best first */
    uint8_t *filter;
};

struct row {
    uint64_t collection, queries, used;
    enum search_plan plan;
    uint32_t share;
    float recall;
};

struct recall_probe {
    /* Immutable after open. */
    struct rpc_env *env;
    struct search_context *context;
    uint32_t one_in;
    bool background;
    pthread_t thread;
    bool has_thread;
    atomic_uint_fast64_t seen; /* relaxed: a count */
    pthread_mutex_t lock;
    pthread_cond_t wake;
    /* Guarded by lock. */
    bool closing, working;
    struct job *job; /* offered */
    uint64_t last_ns;
    uint64_t clock; /* of rows: which was used last */
    struct row *rows;
    uint32_t n_rows;
};

static bool is_idle(const struct recall_probe *probe)
{
    return !probe->background || kith_pool_waiting(probe->env->workers) == 0;
}

static bool is_closing(struct recall_probe *probe)
{
    (void)pthread_mutex_lock(&probe->lock);
    bool closing = probe->closing;
    (void)pthread_mutex_unlock(&probe->lock);
    return closing;
}

bool recall_probe_wants(struct recall_probe *probe)
{
    if (probe == NULL || probe->one_in == 0 ||
        (atomic_fetch_add_explicit(&probe->seen, 1, memory_order_relaxed) + 1) % probe->one_in != 0)
        return false;
    (void)pthread_mutex_lock(&probe->lock);
    bool wants =
        probe->job == NULL && !probe->working && !probe->closing &&
        (!probe->background || probe->last_ns == 0 || kith_now_ns() - probe->last_ns >= APART_NS);
    (void)pthread_mutex_unlock(&probe->lock);
    return wants && is_idle(probe);
}

/* ---- the query in hand ----------------------------------------------------------------------- */

static void job_free(struct recall_probe *probe, struct job *job)
{
    if (job == NULL)
        return;
    rpc_give_views(probe->env, &job->views);
    kith_free(job->vector);
    kith_free(job->found);
    kith_free(job->filter);
    kith_free(job);
}

static struct job *job_of(const struct recall_probe_query *query)
{
    struct job *job = kith_alloc(sizeof *job);
    size_t vector = query->dim * sizeof(float);
    if (job == NULL)
        return NULL;
    job->query = *query;
    job->vector = kith_alloc(vector);
    job->found = kith_alloc((query->n_hits > 0 ? query->n_hits : 1) * sizeof(float));
    job->filter = kith_alloc(query->filter.len > 0 ? query->filter.len : 1);
    if (job->vector == NULL || job->found == NULL || job->filter == NULL) {
        job_free(NULL, job); /* it has no views yet */
        return NULL;
    }
    memcpy(job->vector, query->vector, vector);
    if (query->filter.len > 0)
        memcpy(job->filter, query->filter.data, query->filter.len);
    for (uint32_t i = 0; i < query->n_hits; i++)
        job->found[i] = query->hits[i].rank;
    job->query.vector = (const uint8_t *)job->vector;
    job->query.filter.data = job->filter;
    job->query.hits = NULL;
    return job;
}

bool recall_probe_offer(struct recall_probe *probe, const struct recall_probe_query *query,
                        struct rpc_views *views)
{
    if (query->k == 0 || views->n_views == 0)
        return false;
    struct job *job = job_of(query);
    if (job == NULL)
        return false;
    (void)pthread_mutex_lock(&probe->lock);
    bool taken = probe->job == NULL && !probe->working && !probe->closing;
    if (taken) {
        job->views = *views;
        views->n_views = 0;
        probe->job = job;
        probe->last_ns = kith_now_ns();
        (void)pthread_cond_signal(&probe->wake);
    }
    (void)pthread_mutex_unlock(&probe->lock);
    if (!taken)
        job_free(probe, job);
    return taken;
}

/* ---- comparing ------------------------------------------------------------------------------- */

struct best {
    float *ranks; /* room for 2 k */
    uint32_t n, k;
};

static int falling(const void *a, const void *b)
{
    float x = *(const float *)a, y = *(const float *)b;
    return x > y ? -1 : x < y;
}

static void add_hits(struct best *best, const struct search_result *result)
{
    for (uint32_t i = 0; result->n_queries > 0 && i < result->found[0].n; i++)
        best->ranks[best->n++] = result->found[0].hits[i].rank;
    qsort(best->ranks, best->n, sizeof *best->ranks, falling);
    best->n = best->n < best->k ? best->n : best->k;
}

/* One segment, or all heads, of a view. */
static enum kith_err search_part_of(struct recall_probe *probe, struct view *view,
                                    const struct search_part *part, uint64_t deadline_ms,
                                    struct best *best)
{
    struct search_result result = {0};
    const struct search_request request = {
        .views = &view, .n_views = 1, .parts = part, .n_parts = 1, .deadline_ms = deadline_ms};
    if (is_closing(probe) || !is_idle(probe))
        return KITH_CANCELLED;
    enum kith_err err = search_run(probe->context, &request, &result, NULL);
    if (err == KITH_OK)
        add_hits(best, &result);
    search_result_fini(&result);
    return err;
}

static enum kith_err search_view(struct recall_probe *probe, const struct view *view,
                                 const struct search_part *part, uint64_t deadline_ms,
                                 struct best *best)
{
    enum kith_err err = KITH_OK;
    for (uint32_t i = 0; err == KITH_OK && i < view->n_segments; i++) {
        struct view one = *view;
        one.segments = &view->segments[i];
        one.n_segments = 1;
        one.n_heads = 0;
        one.live_points = view->segments[i].live;
        err = search_part_of(probe, &one, part, deadline_ms, best);
    }
    struct view heads = *view;
    heads.n_segments = 0;
    return err == KITH_OK && view->n_heads > 0
               ? search_part_of(probe, &heads, part, deadline_ms, best)
               : err;
}

/* Ranks are exact in both answers, so a hit counts if it is no worse than the last of the true
 * ones: ties are as good as each other. */
static float share_found(const struct job *job, const struct best *best)
{
    uint32_t n = 0;
    float last = best->ranks[best->n - 1];
    while (n < job->query.n_hits && n < best->n && job->found[n] >= last)
        n++;
    return (float)n / (float)best->n;
}

static enum kith_err compare(struct recall_probe *probe, const struct job *job, float *recall)
{
    struct kith_filter *filter = kith_alloc(sizeof *filter);
    struct best best = {.ranks = kith_alloc((size_t)job->query.k * 2 * sizeof(float)),
                        .k = job->query.k};
    enum kith_err err = filter != NULL && best.ranks != NULL ? KITH_OK : KITH_NOMEM;
    if (err == KITH_OK && job->query.filter.len > 0)
        err = kith_filter_parse(filter, job->query.filter, "filter", NULL);
    struct search_part part = {.n_queries = 1,
                               .k = job->query.k,
                               .vectors = job->query.vector,
                               .has_threshold = job->query.has_threshold,
                               .threshold = job->query.threshold,
                               .filter = job->query.filter.len > 0 ? filter : NULL,
                               .exact = true};
    uint64_t deadline_ms = kith_now_ms() + RECALL_PROBE_MS;
    for (uint32_t v = 0; err == KITH_OK && v < job->views.n_views; v++)
        err = search_view(probe, job->views.views[v], &part, deadline_ms, &best);
    if (err == KITH_OK)
        err = view_verdict(job->views.views, job->views.n_views, KITH_OK, NULL);
    if (err == KITH_OK && best.n == 0)
        err = KITH_NOT_FOUND;
    if (err == KITH_OK)
        *recall = share_found(job, &best);
    kith_free(best.ranks);
    kith_free(filter);
    return err;
}

/* ---- what was seen --------------------------------------------------------------------------- */

static const char *const share_names[] = {"1", "0.1", "0.01", "0"}; /* at least so many match */

static uint32_t share_of(const struct recall_probe_query *query)
{
    if (query->matched >= query->points)
        return 0;
    if (query->matched * 10 >= query->points)
        return 1;
    return query->matched * 100 >= query->points ? 2 : 3;
}

static struct row *row_locked(struct recall_probe *probe, const struct recall_probe_query *query)
{
    struct row *oldest = &probe->rows[0];
    uint32_t share = share_of(query);
    for (uint32_t i = 0; i < probe->n_rows; i++) {
        struct row *row = &probe->rows[i];
        if (row->collection == query->collection && row->plan == query->plan && row->share == share)
            return row;
        oldest = row->used < oldest->used ? row : oldest;
    }
    struct row *row = probe->n_rows < ROWS_MAX ? &probe->rows[probe->n_rows++] : oldest;
    *row = (struct row){.collection = query->collection, .plan = query->plan, .share = share};
    return row;
}

static void note(struct recall_probe *probe, const struct recall_probe_query *query, float recall)
{
    (void)pthread_mutex_lock(&probe->lock);
    struct row *row = row_locked(probe, query);
    row->queries++;
    row->used = ++probe->clock;
    float over = (float)row->queries < MEAN_OVER ? (float)row->queries : MEAN_OVER;
    row->recall += (recall - row->recall) / over;
    (void)pthread_mutex_unlock(&probe->lock);
}

uint32_t recall_probe_read(struct recall_probe *probe, uint64_t collection,
                           struct kith_msg_info_recall *out, uint32_t max)
{
    uint32_t n = 0;
    (void)pthread_mutex_lock(&probe->lock);
    for (uint32_t i = 0; i < probe->n_rows && n < max; i++) {
        const struct row *row = &probe->rows[i];
        const char *plan = search_plan_name(row->plan), *share = share_names[row->share];
        if (row->collection != collection)
            continue;
        out[n++] = (struct kith_msg_info_recall){.plan = {(const uint8_t *)plan, strlen(plan)},
                                                 .share = {(const uint8_t *)share, strlen(share)},
                                                 .queries = row->queries,
                                                 .recall = row->recall};
    }
    (void)pthread_mutex_unlock(&probe->lock);
    return n;
}

/* ---- its thread ------------------------------------------------------------------------------ */

void recall_probe_run(struct recall_probe *probe)
{
    (void)pthread_mutex_lock(&probe->lock);
    struct job *job = probe->job;
    probe->job = NULL;
    probe->working = job != NULL;
    (void)pthread_mutex_unlock(&probe->lock);
    if (job == NULL)
        return;
    float recall = 0;
    enum kith_err err = compare(probe, job, &recall);
    if (err == KITH_OK)
        note(probe, &job->query, recall);
    else
        kith_log(DEBUG, "recall.given_up", "collection=%016llx error=%s",
                 (unsigned long long)job->query.collection, kith_err_name(err));
    job_free(probe, job);
    (void)pthread_mutex_lock(&probe->lock);
    probe->working = false;
    (void)pthread_mutex_unlock(&probe->lock);
}

static void *probe_on(void *ctx)
{
    struct recall_probe *probe = ctx;
    (void)pthread_setname_np(pthread_self(), "kith-recall");
    kith_thread_behind(PROBE_NICE);
    (void)pthread_mutex_lock(&probe->lock);
    while (!probe->closing) {
        if (probe->job == NULL) {
            (void)pthread_cond_wait(&probe->wake, &probe->lock);
            continue;
        }
        (void)pthread_mutex_unlock(&probe->lock);
        recall_probe_run(probe);
        (void)pthread_mutex_lock(&probe->lock);
    }
    (void)pthread_mutex_unlock(&probe->lock);
    return NULL;
}

enum kith_err recall_probe_open(struct recall_probe **out,
                                const struct recall_probe_options *options, struct kith_diag *diag)
{
    struct recall_probe *probe = kith_alloc(sizeof *probe);
    if (probe == NULL)
        return kith_fail(diag, KITH_NOMEM, "no memory for comparing queries");
    probe->env = options->env;
    probe->one_in = options->one_in;
    probe->background = options->background;
    (void)pthread_mutex_init(&probe->lock, NULL);
    (void)pthread_cond_init(&probe->wake, NULL);
    enum kith_err err = KITH_OK;
    probe->rows = kith_alloc(ROWS_MAX * sizeof *probe->rows);
    if (probe->rows == NULL)
        err = kith_fail(diag, KITH_NOMEM, "no memory for comparing queries");
    if (err == KITH_OK && probe->one_in > 0)
        err = search_context_open(&probe->context, NULL, diag);
    if (err == KITH_OK && probe->background && probe->one_in > 0) {
        probe->has_thread = pthread_create(&probe->thread, NULL, probe_on, probe) == 0;
        if (!probe->has_thread)
            err = kith_fail(diag, KITH_NOMEM, "cannot start a thread");
    }
    if (err == KITH_OK)
        *out = probe;
    else
        recall_probe_close(probe);
    return err;
}

void recall_probe_close(struct recall_probe *probe)
{
    if (probe == NULL)
        return;
    (void)pthread_mutex_lock(&probe->lock);
    probe->closing = true;
    (void)pthread_cond_signal(&probe->wake);
    (void)pthread_mutex_unlock(&probe->lock);
    if (probe->has_thread)
        (void)pthread_join(probe->thread, NULL);
    job_free(probe, probe->job);
    search_context_close(probe->context);
    (void)pthread_cond_destroy(&probe->wake);
    (void)pthread_mutex_destroy(&probe->lock);
    kith_free(probe->rows);
    kith_free(probe);
}
