/* A filter may leave out just what is nearest to a query. What is left is then about equally far,
 * the best of it is spread over hundreds of lists, and how far a list's center is says little of
 * whether it holds some. So lists are chosen by how many hits a block of them is expected to have.
 *
 * The scores of a list's rows are taken as normally distributed around that of its center; their
 * variance in the direction of this query is measured by the codes of a few hundred rows from all
 * over the segments, and in proportion to how far the list's rows are from its center. With the
 * number of rows that may be found, and the bound, that gives the hits expected in each list. Their
 * sum is far from k, for the tail of no such distribution is normal, but shares of it hold: lists
 * are scanned until the others have no more than a part of the sum, the rest.
 *
 * The codes' margin was measured among the nearest rows, whose best are far above the k-th best.
 * Here all hits are close to it, and they are rows that lie far from their centers, of which codes
 * know less: with the margin of 0.95, codes lost 6 % of the hits of sentence vectors.
 *
 * What rest and margin have to be for a recall is measured when an index is built
 * (ivf_calibrate_far.c), for it differs: a rest of 0.1 misses 0.02 of the far hits of word vectors
 * and 0.06 of those of sentence vectors. Where nothing was measured the rest is ten times the
 * square of the misses that the recall allows, the margin that which a normal error exceeds as
 * rarely as that square: enough for the hardest of the data that was tried, and a waste for others.
 *
 * Choosing is done for all lists and three times a query: its loops are such that compilers turn
 * them into vectors, each with little in it.
 *
 * Under euclid rows differ in length, and with one variance for all lists recall was 0.91 where
 * 0.95 was asked for (made-up rows, the half that is farthest): there, lists go by distance.
 *
 * Lost: order and reach by distance (15 to 30 % more blocks of word vectors for no more recall);
 * one variance for all lists (10 % more); the variance from the code words (off by a half where
 * what is left of neighbouring dimensions is correlated) or from energy and dimension (too small by
 * a tenth to three fifths). The variance of each list in each dimension would save another 10 %,
 * and has to be stored. */
#include "shard/index/ivf_far.h"

#include <string.h>

#include "common/kith_mem.h"
#include "proto/kith_wire.h"
#include "shard/index/ivf_format.h"
#include "shard/index/ivf_job.h"

#define TAIL_LOW    (-4.0f) /* standard deviations, of the first step of the tail */
#define TAIL_STEPS  32.0f   /* for each of them; the last step is at 12 */
#define SAMPLES     16u     /* blocks: the variance of 512 rows is known to 6 % */
#define ENERGY_MIN  0.02f   /* of a row's length: a list of one row has none */
#define MISSES_PART 10.0f
#define BUCKETS     1024u /* of densities */
#define BUCKET_BITS 21u   /* a float less so many: its exponent, and quarters between */

/* The mean squared distance of a list's rows from its center: what they have in length beside it,
 * since all rows have one length. */
static float energy_of(const struct codebook *codebook, uint32_t list)
{
    float length2 = codebook->metric == KITH_COSINE ? 1 : codebook->lift;
    return fmaxf(length2 - 2 * codebook->weight * codebook->minus[list],
                 fmaxf(ENERGY_MIN * length2, FLT_MIN));
}

enum kith_err ivf_far_init(struct ivf_far *far, const struct codebook *codebook,
                           struct kith_diag *diag)
{
    size_t n = codebook->n_lists;
    *far = (struct ivf_far){0};
    far->rows = kith_alloc(sizeof *far->rows * n);
    far->blocks = kith_alloc(sizeof *far->blocks * n);
    far->chosen = kith_alloc(sizeof *far->chosen * (n + 1));
    far->widths = kith_alloc(sizeof *far->widths * n);
    far->steps = kith_alloc(sizeof *far->steps * n);
    far->bases = kith_alloc(sizeof *far->bases * n);
    far->density = kith_alloc(sizeof *far->density * n);
    if (far->rows == NULL || far->blocks == NULL || far->chosen == NULL || far->widths == NULL ||
        far->steps == NULL || far->bases == NULL || far->density == NULL) {
        ivf_far_fini(far);
        return kith_fail(diag, KITH_NOMEM, "choice of %zu lists", n);
    }
    for (uint32_t list = 0; list < n; list++)
        far->widths[list] = 1 / sqrtf(energy_of(codebook, list));
    for (uint32_t i = 0; i < IVF_FAR_STEPS; i++) {
        float at = TAIL_LOW + ((float)i + 0.5f) / TAIL_STEPS;
        far->tail[i] = 0.5f * erfcf(at * 0.70710678f);
    }
    return KITH_OK;
}

void ivf_far_fini(struct ivf_far *far)
{
    kith_free(far->rows);
    kith_free(far->blocks);
    kith_free(far->chosen);
    kith_free(far->widths);
    kith_free(far->steps);
    kith_free(far->bases);
    kith_free(far->density);
    *far = (struct ivf_far){0};
}

/* ---- what may be found ----------------------------------------------------------------------- */

static void count_part(const struct ivf_job *job, const struct ivf_part *part, struct ivf_far *far)
{
    const uint32_t *restrict lists = part->index->lists;
    uint32_t *restrict found = far->chosen; /* nothing is chosen yet */
    float *restrict rows_of = far->rows, *restrict blocks_of = far->blocks;
    const uint32_t n = job->codebook->n_lists;
    if (part->allowed != NULL)
        job->kernels->count_rows(part->allowed, lists, n, found);
    else
        for (uint32_t list = 0; list < n; list++)
            found[list] = lists[list + 1] - lists[list];
    for (uint32_t list = 0; list < n; list++) { /* signed and float: what vectors have */
        int32_t first = (int32_t)(lists[list] / IVF_BLOCK);
        int32_t end = (int32_t)((lists[list + 1] + IVF_BLOCK - 1) / IVF_BLOCK);
        float rows = (float)(int32_t)found[list], blocks = (float)(end - first);
        rows_of[list] += rows;
        blocks_of[list] += blocks < rows ? blocks : rows;
    }
}

static void count_all(struct ivf_job *job, struct ivf_far *far)
{
    const uint32_t n = job->codebook->n_lists;
    memset(far->rows, 0, sizeof *far->rows * n);
    memset(far->blocks, 0, sizeof *far->blocks * n);
    for (uint32_t p = 0; p < job->n_parts; p++)
        count_part(job, &job->parts[p], far);
    for (uint32_t list = 0; list < n; list++) { /* it is divided by */
        float blocks = far->blocks[list];
        far->blocks[list] = blocks > 1 ? blocks : 1;
    }
}

/* Of all lists at once: a loop that compilers turn into vectors. */
static void find_bases(struct ivf_job *job)
{
    const struct ivf_tables *tables = &job->scratch->tables;
    const float *restrict keys = job->scratch->lists.keys;
    const float *restrict minus = job->codebook->minus;
    int32_t *restrict bases = job->scratch->far.bases;
    const float from = tables->base, scale = tables->scale, bias = tables->bias;
    const uint32_t n = job->codebook->n_lists;
    for (uint32_t list = 0; list < n; list++) {
        float base = (keys[list] + minus[list] + from) * scale - bias;
        base = base > -IVF_ESTIMATE_MAX ? base : -IVF_ESTIMATE_MAX;
        bases[list] = (int32_t)(base < IVF_ESTIMATE_MAX ? base : IVF_ESTIMATE_MAX);
    }
}

/* ---- how far scores are spread --------------------------------------------------------------- */

struct moments {
    double n, sum, squares, energy;
};

/* Those of the row's block that are in its list. */
static void add_block(struct ivf_job *job, const struct ivf *index, uint32_t row,
                      struct moments *moments)
{
    const float *scores = job->scratch->scores;
    uint32_t list = ivf_format_list_of(index->lists, job->codebook->n_lists, row);
    uint32_t first = row - row % IVF_BLOCK, end = first + IVF_BLOCK;
    first = first > index->lists[list] ? first : index->lists[list];
    end = end < index->lists[list + 1] ? end : index->lists[list + 1];
    ivf_need_list(index, list);
    ivf_codes_spread(job, index, first, end, job->scratch->scores);
    for (uint32_t i = 0; i < end - first; i++) {
        moments->sum += (double)scores[i];
        moments->squares += (double)scores[i] * (double)scores[i];
    }
    moments->n += end - first;
    moments->energy += (end - first) * (double)energy_of(job->codebook, list);
}

static struct moments sample(struct ivf_job *job)
{
    struct moments moments = {0};
    uint64_t rows = 0, before = 0;
    for (uint32_t p = 0; p < job->n_parts; p++)
        rows += job->parts[p].index->n_rows;
    uint32_t i = 0;
    for (uint32_t p = 0; p < job->n_parts; p++) {
        const struct ivf *index = job->parts[p].index;
        for (; i < SAMPLES && (2 * i + 1) * rows / (2 * SAMPLES) < before + index->n_rows; i++)
            add_block(job, index, (uint32_t)((2 * i + 1) * rows / (2 * SAMPLES) - before),
                      &moments);
        before += index->n_rows;
    }
    return moments;
}

/* Abramowitz and Stegun 26.2.23: within 0.003. */
float ivf_far_quantile(float probability)
{
    float t = sqrtf(-2 * logf(probability));
    return t - (2.30753f + 0.27061f * t) / (1 + t * (0.99229f + 0.04481f * t));
}

void ivf_far_begin(struct ivf_job *job)
{
    const struct ivf_effort *effort = &job->query->effort;
    float margin = effort->far.margin > 0 ? effort->far.margin
                                          : ivf_far_quantile(effort->misses * effort->misses);
    job->margin = fmaxf(job->margin, margin);
    struct ivf_far *far = &job->scratch->far;
    count_all(job, far);
    find_bases(job);
    struct moments m = sample(job);
    double mean = m.sum / m.n, variance = m.squares / m.n - mean * mean;
    far->shift = (float)mean;
    far->sharpness = 1 / sqrtf(fmaxf((float)(variance / (m.energy / m.n)), FLT_MIN));
}

/* ---- choice ---------------------------------------------------------------------------------- */

/* Where the bound is in the distribution of each list's scores: in a loop of its own, which
 * compilers turn into vectors. */
static void find_steps(struct ivf_job *job)
{
    struct ivf_far *far = &job->scratch->far;
    const float *restrict keys = job->scratch->lists.keys;
    const float *restrict minus = job->codebook->minus, *restrict widths = far->widths;
    int32_t *restrict steps = far->steps;
    const float least = job->bound - far->shift, sharpness = far->sharpness * TAIL_STEPS;
    const uint32_t n = job->codebook->n_lists;
    for (uint32_t list = 0; list < n; list++) {
        float center = keys[list] + minus[list];
        float step = (least - center) * widths[list] * sharpness - TAIL_LOW * TAIL_STEPS;
        step = step > 0 ? step : 0;
        step = step < IVF_FAR_STEPS - 1 ? step : IVF_FAR_STEPS - 1;
        steps[list] = (int32_t)step;
    }
}

/* Sets densities; `expected` gets the hits by bucket of density. Returns their sum; *top becomes a
 * bucket above all that have some. */
static float expect(struct ivf_job *job, float *expected, uint32_t *top)
{
    struct ivf_far *far = &job->scratch->far;
    float *restrict densities = far->density, all = 0, densest = 0;
    const uint32_t n = job->codebook->n_lists;
    find_steps(job);
    for (uint32_t list = 0; list < n; list++) {
        float hits = far->rows[list] * far->tail[far->steps[list]];
        float density = hits / far->blocks[list];
        densities[list] = density;
        expected[kith_f32_bits(density) >> BUCKET_BITS] += hits;
        densest = density > densest ? density : densest;
        all += hits;
    }
    *top = (kith_f32_bits(densest) >> BUCKET_BITS) + 1;
    return all;
}

float ivf_far_rest(const struct ivf_effort *effort)
{
    float misses = effort->misses;
    return effort->far.rest > 0 ? effort->far.rest : fminf(misses, MISSES_PART * misses * misses);
}

void ivf_far_choose(struct ivf_job *job, float rest)
{
    struct ivf_far *far = &job->scratch->far;
    uint32_t *restrict chosen = far->chosen, bucket, n = 0;
    const float *restrict densities = far->density;
    const uint32_t n_lists = job->codebook->n_lists;
    float expected[BUCKETS] = {0}, all = expect(job, expected, &bucket), above = 0;
    far->bound = job->bound;
    far->left = all;
    while (bucket > 0 && above < (1 - rest) * all)
        above += expected[--bucket];
    float least =
        fmaxf(kith_f32_of_bits(bucket << BUCKET_BITS), FLT_MIN); /* without rows it is 0 */
    for (uint32_t list = 0; list < n_lists; list++) {
        chosen[n] = list;
        n += densities[list] >= least;
    }
    far->n_chosen = n;
}

/* ---- what it takes ---------------------------------------------------------------------------
 */

static float expected_below(const struct ivf_job *job, float density)
{
    const struct ivf_far *far = &job->scratch->far;
    float below = 0;
    for (uint32_t list = 0; list < job->codebook->n_lists; list++)
        below += far->density[list] < density ? far->density[list] * far->blocks[list] : 0;
    return below;
}

void ivf_far_observe(struct ivf_job *job, struct ivf_far_seen *seen)
{
    const struct topk *top = job->query->top;
    const struct ivf *index = job->parts[0].index;
    struct ivf_far *far = &job->scratch->far;
    float expected[BUCKETS] = {0}, error = ivf_codes_error(job, index);
    uint32_t bucket;
    seen->n = 0;
    if (!job->far || top->n < IVF_TARGET_HITS || !(error > 0))
        return;
    job->bound = far->bound;
    count_all(job, far); /* those that were scanned, too */
    (void)expect(job, expected, &bucket);
    for (; seen->n < IVF_TARGET_HITS; seen->n++) {
        const struct kith_hit *hit = &top->hits[seen->n];
        uint32_t row = (uint32_t)hit->id.lo;
        uint32_t list = ivf_format_list_of(index->lists, job->codebook->n_lists, row);
        float center = job->scratch->lists.keys[list] + job->codebook->minus[list], estimate;
        ivf_codes_spread(job, index, row, row + 1, &estimate);
        estimate += center;
        seen->errors[seen->n] = (estimate - ivf_rerank_score(job, hit->rank)) / error;
        float below = expected_below(job, far->density[list]) / fmaxf(far->left, FLT_MIN);
        seen->rests[seen->n] = fminf(IVF_FAR_FIRST_REST * below, 1);
    }
}
