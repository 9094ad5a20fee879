#include "cli/plan_times.h"

#include <signal.h>
#include <stdio.h>
#include <stdlib.h>

#include "common/kith_pool.h"
#include "shard/index/ivf_build.h"

#define QUERIES_MAX    1000u /* the last rows of a sample are asked for: so many, */
#define QUERIES_ONE_IN 10u   /* or so much of it */
#define PART           4u    /* the second trial, to see growth, has one row in so many */
#define LIKE           1.1   /* so many times more rows than were tried need no second one */

/* Made-up vectors: so many take some seconds, and are more than an L2 cache holds. Of wide ones, as
 * many as an index has at least. */
#define MADE_UP_FLOATS (16u << 20)
#define MADE_UP_MIN    (IVF_TRAIN_ROWS + QUERIES_MAX)

static volatile sig_atomic_t interrupted;

static void on_interrupt(int number)
{
    (void)number;
    interrupted = 1;
}

static bool is_interrupted(const void *ctx)
{
    (void)ctx;
    return interrupted != 0;
}

/* The last n_queries rows of the sample, and the n_rows before them. */
static enum kith_err try_rows(const struct predict_shape *shape, const struct sample *sample,
                              uint32_t n_rows, uint32_t n_queries, struct trial_found *out,
                              struct kith_diag *diag)
{
    const char *parent = getenv("TMPDIR");
    size_t first = sample->n - n_queries - n_rows;
    struct trial trial = {.config = {.collection = 1,
                                     .dim = shape->dim,
                                     .metric = shape->metric,
                                     .rows = shape->row_type,
                                     .index = shape->index},
                          .rows = sample->rows + first * sample->dim,
                          .n_rows = n_rows,
                          .n_queries = n_queries,
                          .parent = parent != NULL && *parent != '\0' ? parent : "/tmp",
                          .threads = kith_pool_cpus(),
                          .stop = is_interrupted};
    fprintf(stderr, "indexing and searching %u vectors...\n", n_rows);
    return trial_run(&trial, out, diag);
}

static enum kith_err try_sample(const struct predict_shape *shape, const struct sample *sample,
                                struct plan_times *out, struct kith_diag *diag)
{
    struct trial_found found[2];
    uint32_t n_queries = sample->n / QUERIES_ONE_IN, n_trials = 1;
    n_queries = n_queries > QUERIES_MAX ? QUERIES_MAX : n_queries > 0 ? n_queries : 1;
    uint32_t n_rows = sample->n - n_queries;
    n_rows = n_rows < shape->rows ? n_rows : (uint32_t)shape->rows;
    enum kith_err err = try_rows(shape, sample, n_rows, n_queries, &found[0], diag);
    if (err == KITH_OK && (double)shape->rows > LIKE * n_rows && n_rows / PART >= IVF_TRAIN_ROWS)
        err = try_rows(shape, sample, n_rows / PART, n_queries, &found[n_trials++], diag);
    if (err != KITH_OK)
        return err;
    out->n_rows = n_rows;
    out->recall = found[0].recall;
    return predict_times(shape, found, n_trials, &out->query, diag);
}

static enum kith_err try_made_up(const struct predict_shape *shape, struct plan_times *out,
                                 struct kith_diag *diag)
{
    struct sample sample;
    uint32_t n = MADE_UP_FLOATS / shape->dim;
    n = n > MADE_UP_MIN ? n : MADE_UP_MIN;
    if (n - QUERIES_MAX > shape->rows)
        n = (uint32_t)shape->rows + QUERIES_MAX;
    enum kith_err err = sample_make_up(&sample, n, shape->dim, diag);
    if (err != KITH_OK)
        return err;
    err = try_sample(shape, &sample, out, diag);
    sample_fini(&sample);
    out->made_up = true;
    return err;
}

enum kith_err plan_times_measure(const struct predict_shape *shape, const struct sample *sample,
                                 struct plan_times *out, struct kith_diag *diag)
{
    struct plan_times times = {.made_up = false};
    struct sigaction action = {.sa_handler = on_interrupt}, before;
    (void)sigaction(SIGINT, &action, &before);
    enum kith_err err =
        sample->n > 0 ? try_sample(shape, sample, &times, diag) : try_made_up(shape, &times, diag);
    (void)sigaction(SIGINT, &before, NULL);
    if (err == KITH_OK)
        *out = times;
    return err;
}
