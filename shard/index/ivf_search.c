/* Search in inverted lists.
 *
 * The lists are visited nearest first, list c of every part before the next list. What a list gives
 * goes through three sieves, each of which ranks fewer rows better:
 *
 *   codes      An estimate of the score from the code, by SIMD over 32 rows at a time, against the
 *              bound (the k-th best score known) less a margin of so many standard errors.
 *   bytes      The row of bytes, fetched while the next list's codes are scanned. Its score is good
 *              enough to raise the bound.
 *   rows       The exact rank, at the end, of all that by their bytes are not below the bound by
 *              more than the bytes' error: what is pushed to the top-k.
 *
 * With no bound yet every row would pass the first sieve. So the search opens by collecting
 * estimates until there are four times as many as will be kept, and takes the best of those to the
 * bytes: that is a bound nearly as good as after scanning a tenth of what follows.
 *
 * Which lists. The first few; then every list whose squared distance from the query is at most
 * `reach` times the mean of how far the first few went and how far the k-th best hit is, a test
 * that is made again before each list because the bound has risen. It adapts to the query (how far
 * are its neighbours?) and to a filter (fewer rows match, the k-th is farther, more lists are in
 * reach). While fewer than k hits are known there is no such distance, and ever larger portions of
 * the lists are taken, at last all: a search without threshold finds min(k, allowed rows) hits.
 * Where a filter leaves too little in the first lists, others are chosen by the number of hits that
 * is expected in them (ivf_far.c).
 *
 * What is known before, a threshold or the k-th best hit of others, drops candidates only after
 * their bytes were scored. Reach and margin are measured with searches that find their own bound:
 * with one that is there from the start, lists of word vectors and sentences had 0.94 of the hits
 * for the 0.95 asked for, and with a threshold for the nearest alone 0.86 to 0.89.
 *
 * Scores are those of ivf_format.h, in which larger is nearer and a rank can be turned into one.
 *
 * Lost: a fixed number of lists (a third more rows for the same recall); the distance of the k-th
 * best alone (half as many more at recall 0.95, twice as many at 0.99); a regression of the reach
 * on distances of hits and lists (no better than the mean); stopping after so many
 * lists without a new hit, or by the ratio to the nearest centroid (no better than a fixed number);
 * exact ranks for all that pass the codes (a row of floats is a cache miss every 16 dimensions). */
#include "shard/index/ivf_job.h"

#include <string.h>

#include "common/kith_mem.h"
#include "shard/index/ivf_format.h"
#include "shard/index/kernels.h"

#define PORTION_GROWTH 4u    /* of lists, while there are too few hits */
#define LISTS_A_STOP   16u   /* lists between two questions whether to stop */
#define LENGTH2_MAX    1e30f /* beyond, squares and products overflow */

/* ---- scratch --------------------------------------------------------------------------------- */

void ivf_scratch_free(struct ivf_scratch *scratch)
{
    if (scratch == NULL)
        return;
    ivf_lists_fini(&scratch->lists);
    ivf_tables_fini(&scratch->tables);
    ivf_far_fini(&scratch->far);
    kith_free(scratch->asked);
    kith_free(scratch->query8);
    kith_free(scratch->rows);
    kith_free(scratch->parts);
    kith_free(scratch->estimates);
    kith_free(scratch->scores);
    kith_free(scratch->run_rows);
    kith_free(scratch->run_estimates);
    kith_free(scratch->best);
    kith_free(scratch->finalists);
    kith_free(scratch);
}

enum kith_err ivf_scratch_fit(struct ivf_scratch **scratch, const struct codebook *codebook,
                              uint32_t k, struct kith_diag *diag)
{
    struct ivf_scratch *old = *scratch;
    k = k < IVF_TARGET_HITS ? IVF_TARGET_HITS : k;
    if (old != NULL && old->codebook_hash == codebook->hash && old->k >= k)
        return KITH_OK;
    struct ivf_scratch *s = kith_alloc(sizeof *s);
    if (s == NULL)
        return kith_fail(diag, KITH_NOMEM, "search scratch");
    s->codebook_hash = codebook->hash;
    s->k = k;
    size_t n = ivf_codes_candidates(k);
    enum kith_err err = ivf_lists_init(&s->lists, codebook, diag);
    if (err == KITH_OK)
        err = ivf_far_init(&s->far, codebook, diag);
    if (err == KITH_OK)
        err = ivf_tables_init(&s->tables, codebook, diag);
    s->asked = kith_alloc(sizeof *s->asked * codebook->dim * IVF_BATCH);
    s->query8 = kith_alloc_aligned(64, ivf_format_row8_bytes(codebook->dim));
    s->rows = kith_alloc(sizeof *s->rows * n);
    s->parts = kith_alloc(sizeof *s->parts * n);
    s->estimates = kith_alloc(sizeof *s->estimates * n);
    s->scores = kith_alloc(sizeof *s->scores * n);
    s->run_rows = kith_alloc(sizeof *s->run_rows * IVF_RUN_ROWS);
    s->run_estimates = kith_alloc(sizeof *s->run_estimates * IVF_RUN_ROWS);
    s->best = kith_alloc(sizeof *s->best * k);
    s->finalists = kith_alloc(sizeof *s->finalists * ivf_rerank_finalists(k));
    if (err == KITH_OK &&
        (s->asked == NULL || s->query8 == NULL || s->rows == NULL || s->parts == NULL ||
         s->estimates == NULL || s->scores == NULL || s->run_rows == NULL ||
         s->run_estimates == NULL || s->best == NULL || s->finalists == NULL))
        err = kith_fail(diag, KITH_NOMEM, "search scratch for %u hits", k);
    if (err != KITH_OK) {
        ivf_scratch_free(s);
        return err;
    }
    ivf_scratch_free(old);
    *scratch = s;
    return KITH_OK;
}

/* ---- lists ----------------------------------------------------------------------------------- */

static void visit_part(struct ivf_job *job, uint32_t part, uint32_t list)
{
    const struct ivf *index = job->parts[part].index;
    job->stats.lists++;
    job->stats.listed += index->lists[list + 1] - index->lists[list];
    ivf_need_list(index, list);
    if (job->codebook->codes == CODEBOOK_PQ4)
        ivf_codes_scan(job, part, list);
    else
        ivf_rows_scan(job, part, list);
}

static void visit(struct ivf_job *job, uint32_t list)
{
    bool has_rows = false;
    for (uint32_t part = 0; part < job->n_parts; part++)
        if (ivf_front_has_rows(&job->parts[part], list)) {
            visit_part(job, part, list);
            has_rows = true;
        }
    job->n_visited += has_rows;
    if (job->far)
        job->scratch->far.rows[list] = 0;
}

static bool is_out_of_reach(const struct ivf_job *job, uint32_t list)
{
    const struct ivf_effort *effort = &job->query->effort;
    if (job->bound == -INFINITY || job->stats.listed < effort->least_rows)
        return false;
    return job->scratch->lists.keys[list] < job->reach_key ||
           (effort->lists_max > 0 && job->n_visited >= effort->lists_max);
}

/* False: stopped. */
static bool visit_portion(struct ivf_job *job)
{
    const struct ivf_lists *lists = &job->scratch->lists;
    ivf_ahead_begin(&job->ahead, job->parts, job->n_parts, lists->order, lists->n);
    for (uint32_t i = 0; i < lists->n; i++) {
        if (i % LISTS_A_STOP == 0 && ivf_job_is_stopped(job))
            return false;
        if (job->far && job->bound > -INFINITY)
            break;
        if (is_out_of_reach(job, lists->order[i]))
            continue;
        visit(job, lists->order[i]);
    }
    return true;
}

/* True when another portion is to be visited. */
static bool next_portion(struct ivf_job *job, uint32_t *portion)
{
    struct ivf_lists *lists = &job->scratch->lists;
    if (job->opening && job->n >= job->best.k)
        ivf_codes_end_opening(job);
    if (ivf_lists_all_taken(lists))
        return false;
    if (job->bound == -INFINITY) {
        *portion *= PORTION_GROWTH;
        ivf_lists_take(lists, *portion);
        return true;
    }
    if (!(job->reach_key < lists->low))
        return false;
    ivf_lists_take_above(lists, job->reach_key);
    return true;
}

static bool visit_lists(struct ivf_job *job)
{
    uint32_t portion = job->query->effort.first_lists;
    if (portion == 0)
        portion = IVF_FIRST_LISTS;
    ivf_front_take(job, portion);
    ivf_rerank_refresh(job); /* by what others know */
    do {
        if (!visit_portion(job))
            return false;
        if (job->far && job->bound > -INFINITY)
            return ivf_far_scan(job);
    } while (next_portion(job, &portion));
    return true;
}

/* ---- the query ------------------------------------------------------------------------------- */

/* Returns the stretched query: in `out`, or the query itself. */
static const float *stretch(const struct codebook *codebook, const float *query, float *length2,
                            float *factor, float *out)
{
    kernels_best()->norms((struct kernels_rows){query, codebook->dim}, 1, length2);
    *factor = ivf_format_stretch(codebook, *length2);
    if (*factor == 1.0f)
        return query;
    for (uint32_t i = 0; i < codebook->dim; i++)
        out[i] = query[i] * *factor;
    *length2 *= *factor * *factor;
    return out;
}

static void set_query8(struct ivf_job *job)
{
    const struct codebook *codebook = job->codebook;
    const float *vector = job->vector;
    uint8_t *bytes = job->scratch->query8;
    uint32_t row_bytes = ivf_format_row8_bytes(codebook->dim);
    job->rows8 = (struct ivf_kernels_rows8){.query = bytes, .row_bytes = row_bytes};
    if (codebook->metric == KITH_MANHATTAN) {
        memset(bytes, IVF_BYTE_ZERO, row_bytes - IVF_ROW8_TAIL);
        memset(bytes + row_bytes - IVF_ROW8_TAIL, 0, IVF_ROW8_TAIL);
        for (uint32_t i = 0; i < codebook->dim; i++)
            bytes[i] = ivf_format_byte(codebook, vector[i]);
        job->rows8.scale = codebook->scale8;
        return;
    }
    memset(bytes, 0, row_bytes);
    float largest = fmaxf(ivf_format_largest(vector, codebook->dim), 1e-30f);
    job->kernels->round(vector, codebook->dim, 127 / largest, (int8_t *)bytes);
    for (uint32_t i = 0; i < codebook->dim; i++)
        job->rows8.minus += (int8_t)bytes[i];
    job->rows8.minus *= (int32_t)IVF_BYTE_ZERO;
    job->rows8.scale = largest / 127;
}

/* Every row of every part: for numbers that no estimate can be trusted with. */
static bool search_all(struct ivf_job *job)
{
    for (uint32_t p = 0; p < job->n_parts; p++) {
        (void)ivf_verify_rows(job->parts[p].index, 0, job->parts[p].index->n_rows);
        for (uint32_t row = 0; row < job->parts[p].index->n_rows; row++) {
            if (row % IVF_RUN_ROWS == 0 && ivf_job_is_stopped(job))
                return false;
            if (ivf_rerank_allowed(&job->parts[p], row))
                (void)ivf_rerank_exact(job, &job->parts[p], row);
        }
        job->stats.rows += job->parts[p].index->n_rows;
    }
    return true;
}

static bool rank_lists(struct ivf_job *job)
{
    struct ivf_lists *lists = &job->scratch->lists;
    if (job->query->ranked == 0)
        return ivf_lists_rank(lists, job->codebook, job->vector, job->length2);
    ivf_lists_begin_ranked(lists, job->codebook, job->query->ranked - 1, job->length2);
    return true;
}

static bool search_lists(struct ivf_job *job)
{
    struct ivf_scratch *s = job->scratch;
    bool by_bytes = job->query->by_bytes;
    if (!(job->length2 < LENGTH2_MAX) || (!by_bytes && !rank_lists(job)))
        return search_all(job);
    if (job->codebook->codes != CODEBOOK_ROWS)
        set_query8(job);
    if (by_bytes)
        return ivf_rows_search(job);
    if (job->codebook->codes == CODEBOOK_PQ4)
        ivf_tables_fill(&s->tables, job->codebook, job->vector);
    if (!visit_lists(job))
        return false;
    if (job->codebook->codes != CODEBOOK_ROWS)
        ivf_rerank_finish(job);
    return true;
}

_Static_assert(IVF_BATCH == IVF_KERNELS_BATCH, "what the kernels take at once");

bool ivf_rank_batch(struct ivf_scratch *scratch, const struct codebook *codebook,
                    const float *const vectors[IVF_BATCH])
{
    kith_assert(scratch->codebook_hash == codebook->hash);
    const float *asked[IVF_BATCH];
    float length2, factor;
    for (uint32_t i = 0; i < IVF_BATCH; i++)
        asked[i] = stretch(codebook, vectors[i], &length2, &factor,
                           scratch->asked + (size_t)i * codebook->dim);
    return ivf_lists_rank_batch(&scratch->lists, codebook, asked);
}

bool ivf_search(const struct ivf_query *query, const struct ivf_part *parts, uint32_t n_parts,
                struct ivf_scratch *scratch, struct ivf_stats *stats)
{
    if (n_parts == 0)
        return true;
    struct ivf_job search = {.query = query,
                             .parts = parts,
                             .n_parts = n_parts,
                             .scratch = scratch,
                             .codebook = parts[0].index->codebook,
                             .kernels = ivf_kernels_best(),
                             .reach = query->effort.reach,
                             .margin = query->effort.margin,
                             .bound = -INFINITY,
                             .least = -INFINITY,
                             .keep = -INFINITY,
                             .reach_key = -INFINITY};
    search.opening = search.codebook->codes == CODEBOOK_PQ4;
    kith_assert(scratch->codebook_hash == search.codebook->hash && scratch->k >= query->top->k);
    /* The efforts were measured with so many hits: the nearest alone is so near that few lists
     * would be in its reach. */
    uint32_t k = query->top->k < IVF_TARGET_HITS ? IVF_TARGET_HITS : query->top->k;
    ivf_best_init(&search.best, k, scratch->best);
    search.vector =
        stretch(search.codebook, query->vector, &search.length2, &search.stretch, scratch->asked);
    search.length = sqrtf(search.length2);
    bool done = search_lists(&search);
    if (query->seen != NULL)
        ivf_far_observe(&search, query->seen);
    ivf_rerank_share(query);
    stats->lists += search.stats.lists;
    stats->listed += search.stats.listed;
    stats->rows += search.stats.rows;
    stats->reranked += search.stats.reranked;
    stats->exact += search.stats.exact;
    return done;
}
