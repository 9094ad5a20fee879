/* A filter may leave out just what is nearest to a query. What is left is then about equally far,
 * the best of it is spread over hundreds of lists, and how far a list's center is says little of
 * whether it holds some. So lists are chosen by how many hits a block of them is expected to have.
 *
 * The scores of a list's rows are taken as normally distributed around that of its center; their
 * variance in the direction of this query is measured by the codes of a few hundred rows from all
 * over the segments, and in proportion to how far the list's rows are from its center. With the
 * number of rows that may be found, and the bound, that gives the hits expected in each list. Their
 * sum is far from k, for the tail of no such distribution is normal, but shares of it hold: lists
 * are scanned until the others have no more than a part of the sum, which follows from the recall:
 * ten times the square of the misses that it allows. Against true distances (50, 10 and 1 %
 * farthest rows of word vectors, sentence vectors and tight clusters) a part of 0.03 misses 0.03 to
 * 0.05 of the hits, one of 0.01 0.01 to 0.03, one of 0.001 up to 0.005.
 *
 * The codes' margin was measured among the nearest rows, whose best are far above the k-th best.
 * Here all hits are close to it, and they are rows that lie far from their centers, of which codes
 * know less: with the margin of 0.95, codes lost 6 % of the hits of sentence vectors. So the margin
 * is that which a normal error exceeds as rarely as the square of the misses.
 *
 * The bound rises while lists are scanned, so they are chosen in a few rounds. Within a round they
 * are scanned in the order they lie in memory: there are so many that reading ahead, which the
 * hardware does, is worth more than a bound that rises a little sooner.
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

enum kith_err ivf_far_init(struct ivf_far *far, const struct codebook *codebook,
                           struct kith_diag *diag)
{
    size_t n = codebook->n_lists;
    *far = (struct ivf_far){0};
    far->rows = kith_alloc(sizeof *far->rows * n);
    far->blocks = kith_alloc(sizeof *far->blocks * n);
    far->chosen = kith_alloc(sizeof *far->chosen * (n + 1));
    far->sharpness = kith_alloc(sizeof *far->sharpness * n);
    far->density = kith_alloc(sizeof *far->density * n);
    if (far->rows == NULL || far->blocks == NULL || far->chosen == NULL || far->sharpness == NULL ||
        far->density == NULL) {
        ivf_far_fini(far);
        return kith_fail(diag, KITH_NOMEM, "choice of %zu lists", n);
    }
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
    kith_free(far->sharpness);
    kith_free(far->density);
    *far = (struct ivf_far){0};
}

/* ---- what may be found ----------------------------------------------------------------------- */

static void count_part(const struct ivf_job *job, const struct ivf_part *part, struct ivf_far *far)
{
    const uint32_t *lists = part->index->lists;
    uint32_t *found = far->chosen, n = job->codebook->n_lists; /* nothing is chosen yet */
    if (part->allowed != NULL)
        job->kernels->count_rows(part->allowed, lists, n, found);
    for (uint32_t list = 0; list < n; list++) {
        uint32_t first = lists[list], end = lists[list + 1];
        uint32_t rows = part->allowed != NULL ? found[list] : end - first;
        uint32_t blocks = (end + IVF_BLOCK - 1) / IVF_BLOCK - first / IVF_BLOCK;
        far->rows[list] += rows;
        far->blocks[list] += blocks < rows ? blocks : rows;
    }
}

/* ---- how far scores are spread --------------------------------------------------------------- */

struct moments {
    double n, sum, squares, energy;
};

/* The mean squared distance of a list's rows from its center: what they have in length beside it,
 * since all rows have one length. */
static float energy_of(const struct codebook *codebook, uint32_t list)
{
    float length2 = codebook->metric == KITH_COSINE ? 1 : codebook->lift;
    return fmaxf(length2 - 2 * codebook->half_norms[list], ENERGY_MIN * length2);
}

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

/* The number of standard deviations that a normal deviate exceeds with this probability, at most a
 * half (Abramowitz and Stegun 26.2.23: within 0.003). */
static float quantile(float probability)
{
    float t = sqrtf(-2 * logf(probability));
    return t - (2.30753f + 0.27061f * t) / (1 + t * (0.99229f + 0.04481f * t));
}

void ivf_far_begin(struct ivf_job *job)
{
    float misses = job->query->effort.misses;
    job->margin = fmaxf(job->margin, quantile(misses * misses));
    struct ivf_far *far = &job->scratch->far;
    uint32_t n = job->codebook->n_lists;
    memset(far->rows, 0, sizeof *far->rows * n);
    memset(far->blocks, 0, sizeof *far->blocks * n);
    for (uint32_t p = 0; p < job->n_parts; p++)
        count_part(job, &job->parts[p], far);
    struct moments m = sample(job);
    double mean = m.sum / m.n, variance = m.squares / m.n - mean * mean;
    float of_energy = (float)(variance / (m.energy / m.n));
    far->shift = (float)mean;
    for (uint32_t list = 0; list < n; list++)
        far->sharpness[list] =
            1 / sqrtf(fmaxf(of_energy * energy_of(job->codebook, list), FLT_MIN));
}

/* ---- choice ---------------------------------------------------------------------------------- */

/* Sets densities; `expected` gets the hits by bucket of density. Returns their sum. */
static float expect(struct ivf_job *job, float *expected)
{
    struct ivf_far *far = &job->scratch->far;
    const struct codebook *codebook = job->codebook;
    const float *keys = job->scratch->lists.keys;
    float least = job->bound - far->shift, all = 0;
    for (uint32_t list = 0; list < codebook->n_lists; list++) {
        float center = keys[list] + codebook->half_norms[list];
        float step = ((least - center) * far->sharpness[list] - TAIL_LOW) * TAIL_STEPS;
        step = step > 0 ? step : 0;
        step = step < IVF_FAR_STEPS - 1 ? step : IVF_FAR_STEPS - 1;
        float hits = (float)far->rows[list] * far->tail[(int32_t)step];
        float density = hits / (float)(far->blocks[list] + (far->blocks[list] == 0));
        far->density[list] = density;
        expected[kith_f32_bits(density) >> BUCKET_BITS] += hits;
        all += hits;
    }
    return all;
}

float ivf_far_rest(float misses)
{
    return fminf(misses, MISSES_PART * misses * misses);
}

void ivf_far_choose(struct ivf_job *job, float rest)
{
    struct ivf_far *far = &job->scratch->far;
    float expected[BUCKETS] = {0}, all = expect(job, expected), above = 0;
    uint32_t bucket = BUCKETS, n = 0;
    while (bucket > 0 && above < (1 - rest) * all)
        above += expected[--bucket];
    float least =
        fmaxf(kith_f32_of_bits(bucket << BUCKET_BITS), FLT_MIN); /* without rows it is 0 */
    for (uint32_t list = 0; list < job->codebook->n_lists; list++) {
        far->chosen[n] = list;
        n += far->density[list] >= least;
    }
    far->n_chosen = n;
}
