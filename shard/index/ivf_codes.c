/* The first sieve: estimates from codes, and the opening, in which there is no bound to hold them
 * against. */
#include "shard/index/ivf_job.h"

#include <string.h>

#include "shard/index/ivf_format.h"

#define OPENING_SHARE 4u  /* estimates for each that is chosen, before the first bound */
#define PENDING_MAX   64u /* more than that would fall out of the L1 cache again */
#define FACTOR_ONE    32768.0f
#define SHIFT_MAX     15u

uint32_t ivf_codes_opening(uint32_t k)
{
    return OPENING_SHARE * ivf_codes_chosen(k);
}

/* The opening may leave nearly all it has to wait for their bytes, while one more run comes. */
size_t ivf_codes_candidates(uint32_t k)
{
    return ivf_codes_opening(k) + 2 * IVF_RUN_ROWS;
}

/* ---- the opening ----------------------------------------------------------------------------- */

/* What an estimate has to be for about the best n to be above it: at most n are. By bisection,
 * because counting is what vector units do best, and no input is slow. */
static int32_t nth_estimate(const int32_t *estimates, uint32_t n_estimates, uint32_t n)
{
    int32_t low = INT32_MAX, high = INT32_MIN;
    for (uint32_t i = 0; i < n_estimates; i++) {
        low = estimates[i] < low ? estimates[i] : low;
        high = estimates[i] > high ? estimates[i] : high;
    }
    while (low < high) { /* at most n are above high, more than n above low - 1 */
        int32_t middle = (int32_t)(((int64_t)low + high) >> 1);
        int32_t above = 0;
        for (uint32_t i = 0; i < n_estimates; i++)
            above += estimates[i] > middle;
        if ((uint32_t)above <= n)
            high = middle;
        else
            low = middle + 1;
    }
    return high;
}

static void swap_candidates(struct ivf_scratch *s, uint32_t a, uint32_t b)
{
    uint32_t row = s->rows[a], part = s->parts[a];
    int32_t estimate = s->estimates[a];
    s->rows[a] = s->rows[b];
    s->parts[a] = s->parts[b];
    s->estimates[a] = s->estimates[b];
    s->rows[b] = row;
    s->parts[b] = part;
    s->estimates[b] = estimate;
}

/* Puts the n best candidates, by estimate, in front. */
static void best_in_front(struct ivf_scratch *s, uint32_t n_candidates, uint32_t n)
{
    int32_t above = nth_estimate(s->estimates, n_candidates, n);
    uint32_t front = 0;
    for (uint32_t i = 0; i < n_candidates; i++)
        if (s->estimates[i] > above)
            swap_candidates(s, i, front++);
    for (uint32_t i = front; i < n_candidates && front < n; i++)
        if (s->estimates[i] == above)
            swap_candidates(s, i, front++);
}

float ivf_codes_error(const struct ivf_job *job, const struct ivf *index)
{
    float length2 = job->length2;
    if (job->codebook->metric != KITH_DOT)
        length2 = ivf_rerank_distance(job, job->bound);
    float tables = job->scratch->tables.error, lists = job->scratch->lists.error;
    return sqrtf(index->error * index->error * length2 + tables * tables + lists * lists);
}

/* Rounded down; without floorf, which is a call where the target has no instruction for it. */
static int16_t clamp_i16(float value, float low, float high)
{
    float within = !(value > low) ? low : value < high ? value : high;
    int32_t whole = (int32_t)within;
    return (int16_t)(whole - ((float)whole > within));
}

/* What a term is multiplied by: a score in steps of the tables. */
static void set_factor(struct ivf_sieve *sieve, float scale)
{
    float factor = scale * sieve->index->term_scale * FACTOR_ONE;
    sieve->shift = 0;
    for (; fabsf(factor) > FACTOR_ONE - 1 && sieve->shift < SHIFT_MAX; sieve->shift++)
        factor /= 2;
    sieve->factor = clamp_i16(factor + 0.5f, -FACTOR_ONE + 1, FACTOR_ONE - 1);
}

static const struct ivf_sieve *sieve_for(struct ivf_job *job, const struct ivf *index)
{
    struct ivf_sieve *sieve = &job->sieve;
    if (sieve->index == index && sieve->bound == job->bound)
        return sieve;
    sieve->index = index;
    sieve->bound = sieve->wanted = job->bound;
    if (job->bound > -INFINITY)
        sieve->wanted -= job->margin * ivf_codes_error(job, index);
    set_factor(sieve, job->scratch->tables.scale);
    return sieve;
}

void ivf_codes_end_opening(struct ivf_job *job)
{
    struct ivf_scratch *s = job->scratch;
    uint32_t n = ivf_codes_chosen(job->best.k), all = job->n;
    job->opening = false;
    if (n < all)
        best_in_front(s, all, n);
    else
        n = all;
    job->n = n;
    ivf_rerank_fetch(job, 0);
    ivf_rerank_candidates(job, n);
    for (uint32_t i = n; i < all; i++) { /* the bound does not change here */
        const struct ivf *index = job->parts[s->parts[i]].index;
        if ((float)s->estimates[i] < sieve_for(job, index)->wanted * s->tables.scale)
            continue;
        s->rows[job->n] = s->rows[i];
        s->parts[job->n++] = s->parts[i];
    }
    ivf_rerank_fetch(job, 0);
    job->n_pending = job->n;
}

/* ---- codes ----------------------------------------------------------------------------------- */

struct ivf_kernels_scan ivf_codes_kernel_scan(struct ivf_job *job, const struct ivf *index)
{
    const struct ivf_sieve *sieve = sieve_for(job, index);
    return (struct ivf_kernels_scan){.codes = index->codes,
                                     .terms = index->terms,
                                     .tables = job->scratch->tables.bytes,
                                     .ahead = job->ahead.entries,
                                     .n_subs = job->codebook->n_subs,
                                     .bias = job->scratch->tables.bias,
                                     .factor = sieve->factor,
                                     .shift = sieve->shift};
}

int32_t ivf_codes_wanted(struct ivf_job *job, const struct ivf *index)
{
    float wanted = sieve_for(job, index)->wanted * job->scratch->tables.scale;
    wanted = !(wanted > -IVF_ESTIMATE_MAX) ? -IVF_ESTIMATE_MAX
             : wanted < IVF_ESTIMATE_MAX   ? wanted
                                           : IVF_ESTIMATE_MAX;
    return (int32_t)wanted - 2; /* this one and the base it is compared with are cut off */
}

void ivf_codes_scan(struct ivf_job *job, uint32_t number, uint32_t list)
{
    struct ivf_scratch *s = job->scratch;
    const struct ivf_part *part = &job->parts[number];
    const struct ivf *index = part->index;
    const struct ivf_tables *tables = &s->tables;
    bool euclid = job->codebook->metric == KITH_EUCLID;
    float center = s->lists.keys[list] + (euclid ? 0 : job->codebook->minus[list]);
    float base = (center + tables->base) * tables->scale - tables->bias;
    base = !(base > -IVF_ESTIMATE_MAX) ? -IVF_ESTIMATE_MAX
           : base < IVF_ESTIMATE_MAX   ? base
                                       : IVF_ESTIMATE_MAX;
    struct ivf_kernels_scan scan = ivf_codes_kernel_scan(job, index);
    scan.allowed = part->allowed;
    for (uint32_t first = index->lists[list], end = index->lists[list + 1], to; first < end;
         first = to) {
        to = end - first > IVF_RUN_ROWS ? first + IVF_RUN_ROWS : end;
        /* A saturated estimate must pass. */
        scan.bound = clamp_i16(sieve_for(job, index)->wanted * tables->scale - base, INT16_MIN,
                               INT16_MAX - 1);
        uint64_t blocks = 0;
        ivf_ahead_fill(&job->ahead, (to - 1) / IVF_BLOCK + 1 - first / IVF_BLOCK);
        scan.n_ahead = job->ahead.n;
        uint32_t n = job->kernels->scan(&scan, first, to, s->run_rows,
                                        job->opening ? s->run_estimates : NULL, &blocks);
        ivf_ahead_pass(&job->ahead, (uint32_t)blocks);
        job->stats.rows += blocks * IVF_BLOCK;
        for (uint32_t i = 0; i < n; i++) {
            s->rows[job->n + i] = s->run_rows[i];
            s->parts[job->n + i] = number;
            if (job->opening)
                s->estimates[job->n + i] = s->run_estimates[i] + (int32_t)base;
        }
        job->n += n;
        if (job->opening) {
            if (job->n >= ivf_codes_opening(job->best.k))
                ivf_codes_end_opening(job);
            continue;
        }
        ivf_rerank_fetch(job, job->n - n);
        ivf_rerank_candidates(job, job->n > job->n_pending + PENDING_MAX ? job->n : job->n_pending);
        job->n_pending = job->n;
    }
}

void ivf_codes_spread(struct ivf_job *job, const struct ivf *index, uint32_t first, uint32_t end,
                      float *scores)
{
    struct ivf_scratch *s = job->scratch;
    const struct ivf_tables *tables = &s->tables;
    struct ivf_kernels_scan scan = ivf_codes_kernel_scan(job, index);
    uint64_t blocks = 0;
    scan.bound = INT16_MIN; /* what is so far off that it is clamped to that tells nothing */
    uint32_t n = job->kernels->scan(&scan, first, end, s->run_rows, s->run_estimates, &blocks);
    job->stats.rows += blocks * IVF_BLOCK;
    memset(scores, 0, sizeof *scores * (end - first));
    for (uint32_t i = 0; i < n; i++)
        scores[s->run_rows[i] - first] =
            (s->run_estimates[i] - (float)tables->bias) / tables->scale + tables->base;
}
