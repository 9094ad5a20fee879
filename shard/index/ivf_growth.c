#include "shard/index/ivf_growth.h"

#include <math.h>

#include "common/kith_mem.h"
#include "common/kith_sort.h"
#include "shard/index/exact_best.h"

#define QUERIES    48u
#define MOST       1000u /* hits */
#define ROWS_LEAST 20u   /* of the index, for each hit: the nearest of all rows are asked about */
#define GROWTH_MAX 2.0f  /* a search for 1,000 that reaches five times as far reads all lists */

/* Lost: visiting every list nearer than the k-th hit, as under a filter: in tight clusters a third
 * of the rows, but 1.7 to 4 times those of word and sentence vectors.
 *
 * Of the hits, around the targets that are asked for. */
static const float shares[] = {0.9f, 0.95f, 0.98f, 0.99f};
#define N_SHARES (sizeof shares / sizeof shares[0])

struct answers {
    float *queries, *needed;
    struct kith_hit *hits;
    uint32_t k; /* the most that is asked for, hits has one more of each query */
};

static const void *row_at(const void *ctx, uint32_t row)
{
    return ivf_row(ctx, row);
}

/* The reaches that find each of the shares of the k nearest. */
static void reaches_for(const struct ivf_needed *job, const struct answers *answers, uint32_t k,
                        float out[N_SHARES])
{
    uint32_t dim = job->index->codebook->dim;
    for (uint32_t q = 0; q < QUERIES; q++)
        (void)ivf_needed_by(
            job, answers->queries + (size_t)q * dim, ivf_needed_row(job->index, QUERIES, q),
            answers->hits + (size_t)q * (answers->k + 1), k, answers->needed + (size_t)q * k);
    kith_sort_floats(answers->needed, QUERIES * k);
    for (size_t i = 0; i < N_SHARES; i++)
        out[i] = ivf_needed_quantile(answers->needed, QUERIES * k, shares[i]);
}

static float growth_of(const struct ivf_needed *job, const struct answers *answers)
{
    float few[N_SHARES], many[N_SHARES], growth = 0;
    reaches_for(job, answers, IVF_TARGET_HITS, few);
    for (uint32_t k = answers->k; k > IVF_TARGET_HITS; k /= 10) {
        reaches_for(job, answers, k, many);
        float decades = log10f((float)k / IVF_TARGET_HITS);
        for (size_t i = 0; i < N_SHARES; i++)
            growth = fmaxf(growth, (many[i] - few[i]) / decades);
    }
    return fminf(growth, GROWTH_MAX);
}

static enum kith_err measure(const struct ivf_needed *job, struct answers *answers,
                             struct workers *workers, float *growth, struct kith_diag *diag)
{
    const struct ivf *index = job->index;
    size_t dim = index->codebook->dim, n_hits = (size_t)QUERIES * (answers->k + 1);
    answers->queries = kith_alloc(QUERIES * dim * sizeof *answers->queries);
    answers->needed = kith_alloc(n_hits * sizeof *answers->needed);
    answers->hits = kith_alloc(n_hits * sizeof *answers->hits);
    if (answers->queries == NULL || answers->needed == NULL || answers->hits == NULL)
        return kith_fail(diag, KITH_NOMEM, "calibration");
    ivf_needed_queries(index, QUERIES, answers->queries);
    const struct exact_best scan = {.metric = index->codebook->metric,
                                    .type = index->row_type,
                                    .dim = index->codebook->dim,
                                    .n_rows = index->n_rows,
                                    .row = row_at,
                                    .ctx = index,
                                    .queries = answers->queries,
                                    .n_queries = QUERIES,
                                    .k = answers->k + 1};
    enum kith_err err = exact_best_run(&scan, workers, answers->hits, diag);
    if (err == KITH_OK)
        *growth = growth_of(job, answers);
    return err;
}

enum kith_err ivf_growth_measure(const struct ivf_needed *job, struct workers *workers,
                                 float *growth, struct kith_diag *diag)
{
    uint32_t most = job->index->n_rows / ROWS_LEAST;
    struct answers answers = {.k = most < MOST ? most : MOST};
    *growth = IVF_GROWTH_USUAL;
    if (answers.k < 2 * IVF_TARGET_HITS)
        return KITH_OK;
    enum kith_err err = measure(job, &answers, workers, growth, diag);
    kith_free(answers.queries);
    kith_free(answers.needed);
    kith_free(answers.hits);
    return err;
}
