/* What a candidate is worth: by its bytes, and at last exactly; and the bound all sieves share.
 *
 * Lost: exact ranks of a fixed number of the best by bytes (too many where bytes tell rows apart
 * well, and recall is lost where they do not, as for rows far from the origin). */
#include "shard/index/ivf_job.h"

#include <stdatomic.h>
#include <string.h>

#include "shard/index/ivf_format.h"
#include "shard/index/kernels.h"

#define PREFETCH_BYTES 1024u /* of a row; the hardware notices the stream and fetches the rest */
#define ROUNDING_ERROR                                                                             \
    0.2887f                /* standard deviation of a uniform error of one step: 1 / sqrt 12       \
                            */
#define FLOAT_ERRORS 5e-7f /* roundings of a float */
#define BYTE_ERRORS  4.0f  /* standard errors by which bytes may misjudge a hit */

/* ---- bounds ---------------------------------------------------------------------------------- */

float ivf_rerank_score(const struct ivf_job *job, float rank)
{
    return job->codebook->metric == KITH_EUCLID ? (rank + job->length2) / 2 : rank * job->stretch;
}

/* By bytes a squared distance may come out below 0. */
static float rank_of(const struct ivf_job *job, float score)
{
    if (job->codebook->metric != KITH_EUCLID)
        return score / job->stretch;
    return fminf(2 * score - job->length2, 0);
}

/* Squared distance of the query from a row of this score; manhattan: the distance. */
float ivf_rerank_distance(const struct ivf_job *job, float score)
{
    float distance = ivf_format_distance(job->codebook, job->length2, score);
    return distance > 0 ? distance : 0;
}

/* What a rank has to be for a hit. */
static float floor_of(const struct ivf_query *query)
{
    float own = query->top->floor;
    if (query->floor == NULL)
        return own;
    /* Relaxed: a floor is a number by itself, a stale one only lets more rows through. */
    float shared = atomic_load_explicit(query->floor, memory_order_relaxed);
    return own > shared ? own : shared;
}

/* By how much the bytes of a hit may say too little: those of the row, and those of the query. */
static float byte_error(const struct ivf_job *job, float score)
{
    float error = 0, length = job->length, row_length = 1;
    for (uint32_t i = 0; i < job->n_parts; i++)
        error = fmaxf(error, job->parts[i].index->error8);
    if (job->codebook->metric == KITH_MANHATTAN)
        return BYTE_ERRORS * error + FLOAT_ERRORS * fabsf(score);
    if (job->codebook->metric == KITH_DOT)
        row_length = sqrtf(job->codebook->lift);
    if (job->codebook->metric == KITH_EUCLID) {
        length = sqrtf(ivf_rerank_distance(job, score));
        row_length = job->length; /* of a hit, about */
    }
    float rounding = ROUNDING_ERROR * job->rows8.scale * row_length;
    /* Scores are differences of products about as large as the query's square. */
    return BYTE_ERRORS * sqrtf(error * error * length * length + rounding * rounding) +
           FLOAT_ERRORS * (job->length2 + fabsf(score));
}

static void raise_keep(struct ivf_job *job)
{
    float floor = floor_of(job->query), least = job->bound;
    if (floor > -FLT_MAX)
        least = fmaxf(least, ivf_rerank_score(job, floor));
    if (!(least > job->least))
        return;
    job->least = least;
    job->keep = job->query->no_rescore ? least : least - byte_error(job, least);
}

static void raise_reach(struct ivf_job *job)
{
    bool sums = job->codebook->metric == KITH_MANHATTAN;
    float reach = job->reach, hit = ivf_lists_hit_distance(job->codebook, job->length2, job->bound);
    float distance = (sums ? sqrtf(reach) : reach) * ivf_lists_unit(hit, job->front);
    if (job->filtered)
        distance = fmaxf(distance, hit);
    job->reach_key = sums ? -distance : (job->codebook->weight * job->length2 - distance) / 2;
}

void ivf_rerank_refresh(struct ivf_job *job)
{
    if (ivf_best_full(&job->best) && ivf_best_bound(&job->best) > job->bound) {
        job->bound = ivf_best_bound(&job->best);
        raise_reach(job);
    }
    raise_keep(job);
}

void ivf_rerank_share(const struct ivf_query *query)
{
    if (query->floor == NULL || query->top->n < query->top->k)
        return;
    float shared = atomic_load_explicit(query->floor, memory_order_relaxed);
    while (shared < query->top->floor &&
           !atomic_compare_exchange_weak_explicit(query->floor, &shared, query->top->floor,
                                                  memory_order_relaxed, memory_order_relaxed))
        ;
}

bool ivf_rerank_allowed(const struct ivf_part *part, uint32_t row)
{
    return part->allowed == NULL || (part->allowed[row / 64] >> (row % 64) & 1) != 0;
}

/* ---- exact ranks ----------------------------------------------------------------------------- */

static void push(struct ivf_job *job, const struct ivf_part *part, uint32_t row, float rank)
{
    struct kith_hit hit = {.rank = rank};
    if (rank >= floor_of(job->query) && part->name(part->name_ctx, row, &hit.id, &hit.seq))
        (void)topk_push(job->query->top, &hit);
}

float ivf_rerank_exact(struct ivf_job *job, const struct ivf_part *part, uint32_t row)
{
    static const uint32_t itself = 0;
    const struct ivf *index = part->index;
    struct kernels_rows one = {ivf_row(index, row), job->codebook->dim};
    float rank;
    kernels_best()->pick[kernels_form_of(job->codebook->metric)][kernels_type_of(index->row_type)](
        job->query->vector, one, &itself, 1, &rank);
    job->stats.exact++;
    push(job, part, row, rank);
    return rank;
}

static void fetch(const uint8_t *at, size_t bytes)
{
    for (size_t line = 0; line < bytes && line < PREFETCH_BYTES; line += 64)
        __builtin_prefetch(at + line);
}

/* ---- finalists ------------------------------------------------------------------------------- */

/* Room for some that the rising bound will drop again. */
size_t ivf_rerank_finalists(uint32_t k)
{
    return 4 * (size_t)k + 64;
}

static void drop_finalists(struct ivf_job *job)
{
    struct ivf_finalist *finalists = job->scratch->finalists;
    uint32_t kept = 0;
    for (uint32_t i = 0; i < job->n_finalists; i++)
        if (finalists[i].score >= job->keep)
            finalists[kept++] = finalists[i];
    job->n_finalists = kept;
}

static void fetch_finalist(const struct ivf_job *job, const struct ivf_finalist *finalist)
{
    const struct ivf_part *part = &job->parts[finalist->part];
    const struct ivf *index = part->index;
    if (part->fetch_name != NULL)
        part->fetch_name(part->name_ctx, finalist->row);
    if (job->query->no_rescore)
        return;
    (void)ivf_verify_rows(index, finalist->row, 1);
    fetch(ivf_row(index, finalist->row),
          kernels_row_bytes(kernels_type_of(index->row_type), job->codebook->dim));
}

static void rank_finalist(struct ivf_job *job, const struct ivf_finalist *finalist)
{
    const struct ivf_part *part = &job->parts[finalist->part];
    if (job->query->no_rescore)
        push(job, part, finalist->row, rank_of(job, finalist->score));
    else
        (void)ivf_rerank_exact(job, part, finalist->row);
}

static void rank_finalists(struct ivf_job *job)
{
    const struct ivf_finalist *finalists = job->scratch->finalists;
    for (uint32_t i = 0; i < job->n_finalists; i++)
        fetch_finalist(job, &finalists[i]);
    for (uint32_t i = 0; i < job->n_finalists; i++)
        rank_finalist(job, &finalists[i]);
    job->n_finalists = 0;
}

static void add_finalist(struct ivf_job *job, struct ivf_finalist finalist)
{
    size_t room = ivf_rerank_finalists(job->best.k);
    if (job->n_finalists == room) {
        ivf_rerank_refresh(job);
        drop_finalists(job);
        /* Bytes that cannot tell so many apart: so be it. */
        if (job->n_finalists > room / 2)
            rank_finalists(job);
    }
    job->scratch->finalists[job->n_finalists++] = finalist;
}

/* ---- bytes ----------------------------------------------------------------------------------- */

void ivf_rerank_bytes(struct ivf_job *job, uint32_t part, const uint32_t *rows, uint32_t n)
{
    const struct ivf *index = job->parts[part].index;
    float *scores = job->scratch->scores;
    job->rows8.rows = index->rows8;
    if (job->codebook->metric == KITH_MANHATTAN)
        job->kernels->sad8(&job->rows8, rows, n, scores);
    else
        job->kernels->dot8(&job->rows8, rows, n, scores);
    job->stats.reranked += n;
    for (uint32_t i = 0; i < n; i++) {
        float score = scores[i] >= -FLT_MAX ? scores[i] : -INFINITY; /* of damaged bytes: NaN */
        ivf_best_offer(&job->best, score);
        if (score >= job->keep)
            add_finalist(job, (struct ivf_finalist){score, part, rows[i]});
    }
}

/* The first n candidates, whose bytes are in the cache by now. */
void ivf_rerank_candidates(struct ivf_job *job, uint32_t n)
{
    struct ivf_scratch *s = job->scratch;
    for (uint32_t from = 0, to; from < n; from = to) {
        for (to = from + 1; to < n && s->parts[to] == s->parts[from]; to++)
            ;
        ivf_rerank_bytes(job, s->parts[from], s->rows + from, to - from);
    }
    if (n > 0)
        ivf_rerank_refresh(job);
    job->n -= n;
    memmove(s->rows, s->rows + n, sizeof *s->rows * job->n);
    memmove(s->parts, s->parts + n, sizeof *s->parts * job->n);
}

void ivf_rerank_fetch_row(const struct ivf *index, uint32_t row)
{
    fetch(index->rows8 + (size_t)row * index->row8_bytes, index->row8_bytes);
}

void ivf_rerank_fetch(struct ivf_job *job, uint32_t from)
{
    const struct ivf_scratch *s = job->scratch;
    for (uint32_t i = from; i < job->n; i++)
        ivf_rerank_fetch_row(job->parts[s->parts[i]].index, s->rows[i]);
}

void ivf_rerank_finish(struct ivf_job *job)
{
    if (job->opening)
        ivf_codes_end_opening(job);
    ivf_rerank_candidates(job, job->n);
    ivf_rerank_refresh(job);
    drop_finalists(job);
    rank_finalists(job);
}
