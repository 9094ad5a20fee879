/* Of the misses that are allowed, lists get all and codes a quarter more, because lists that are
 * left out as a whole are a harder filter than others: at rest 0.1 so measured 5 to 7 % of the hits
 * of word vectors are missed, 4 % of text and of tight clusters, 8 % of sentence vectors; past
 * filters that cut lists 2 to 3, 3, 2, and 6 %. (Rows are no harder queries than others.)
 *
 * Codes: the errors of hits are taken as normal. Their mean is not 0 where hits are rows of which
 * code words, which are means, say too little (sentence vectors: 0.5 standard errors). A hit is on
 * average well above the bound, so an error at the bound is more frequent than a miss: 6 times in
 * sentence vectors where a tenth matches, 9 to 13 times elsewhere. 3 is what leaves 0.95 to the
 * first 200 sentence vectors past a filter for a tenth; 4 gave them 0.949, and 5 would take another
 * tenth of the time off text.
 *
 * Lists: the part of all expected hits in lists that come after that of
 * the hit, by quantile, by the bound that the last round of a search begins with.
 *
 * Lost: the farthest tenth of the lists (of sentence vectors it has errors that no other filter
 * shows, and twice as many lists would be scanned for them). Filters like those that are used
 * (nearest of random rows, the farthest half of them): with as many of them as lists 5 % of the
 * hits are missed at rests of 0.14 to 0.21, 0.08 and 0.15 of word vectors, sentence vectors and
 * text, which is right for a half, but sentence vectors past a filter for a tenth need 0.06, and
 * with a fourth as many, or a twentieth, it is twice to three times as much. Lists that are
 * allowed in part, the more the farther: anything from 0.07 to 0.3. Lists chosen to the bit, not by
 * buckets of density: the same curve, but buckets leave less than is asked for, which is the slack
 * that text needs (0.948 without it). */
#include "shard/index/ivf_calibrate_far.h"

#include <string.h>

#include "common/kith_mem.h"
#include "common/kith_sort.h"
#include "shard/index/flat.h"
#include "shard/index/ivf_job.h"
#include "shard/index/kernels.h"

#define K            IVF_TARGET_HITS
#define QUERIES_MAX  48u
#define QUERIES_MIN  32u
#define PIECE        4u     /* queries of a piece */
#define LEAST_MISSES 0.001f /* of the search that finds what is to be found */
#define OF_CODES     0.25f
#define OF_LISTS     1.0f
#define AT_BOUND     3.0f /* errors that are too large at the bound, for each hit that is missed */
#define REST_MAX     0.5f
#define REST_MIN     1e-5f
#define MARGIN_MAX   8.0f /* of rows whose numbers overflow it comes out infinite */

struct worker {
    struct ivf_scratch *scratch;
    uint64_t *allowed;
    float *keys; /* of lists, to be sorted */
};

struct run {
    const struct ivf *index;
    struct workers *workers;
    struct worker *each;
    const float *queries;
    uint32_t n_queries; /* taken evenly from so many: */
    uint32_t n_given;
    struct ivf_far_seen *seen; /* by each query */
};

/* Allows the rows of the farthest lists; returns how many. Lists must be ranked. */
static uint32_t allow_far(const struct run *run, struct worker *own, uint32_t n_far)
{
    const uint32_t *lists = run->index->lists, n = run->index->codebook->n_lists;
    const float *keys = own->scratch->lists.keys;
    uint32_t allowed = 0;
    memcpy(own->keys, keys, n * sizeof *keys);
    kith_sort_floats(own->keys, n);
    memset(own->allowed, 0, (run->index->n_rows / 64 + 1) * sizeof *own->allowed);
    for (uint32_t list = 0; list < n; list++) {
        if (keys[list] >= own->keys[n_far])
            continue;
        for (uint32_t row = lists[list]; row < lists[list + 1]; row++)
            own->allowed[row / 64] |= UINT64_C(1) << (row % 64);
        allowed += lists[list + 1] - lists[list];
    }
    return allowed;
}

static void ask(const struct run *run, struct worker *own, uint32_t q)
{
    const struct codebook *codebook = run->index->codebook;
    uint32_t at = (uint32_t)((uint64_t)q * run->n_given / run->n_queries);
    const float *query = run->queries + (size_t)at * codebook->dim;
    struct kith_hit hits[K];
    struct topk top;
    struct ivf_stats stats = {0};
    run->seen[q].n = 0;
    float length2;
    kernels_best()->norms((struct kernels_rows){query, codebook->dim}, 1, &length2);
    if (!ivf_lists_rank(&own->scratch->lists, codebook, query, length2))
        return;
    uint32_t n_allowed = allow_far(run, own, codebook->n_lists / 2);
    struct ivf_part part = {.index = run->index,
                            .allowed = own->allowed,
                            .n_allowed = n_allowed,
                            .name = flat_name_number};
    struct ivf_query search = {
        .vector = query,
        .top = &top,
        .effort = {.reach = 1, .first_lists = IVF_FIRST_LISTS, .misses = LEAST_MISSES},
        .seen = &run->seen[q]};
    topk_init(&top, K, -FLT_MAX, hits);
    (void)ivf_search(&search, &part, 1, own->scratch, &stats);
}

static void ask_piece(void *ctx, uint32_t piece, uint32_t worker)
{
    struct run *run = ctx;
    uint32_t first = piece * PIECE;
    for (uint32_t q = first; q < first + PIECE && q < run->n_queries; q++) {
        if (workers_stopped(run->workers))
            return;
        ask(run, &run->each[worker], q);
    }
}

/* ---- what was seen --------------------------------------------------------------------------- */

static void conclude(const struct run *run, float *rests, struct ivf_far_effort *out)
{
    static const float misses[IVF_FAR_EFFORTS] = IVF_FAR_MISSES;
    double sum = 0, squares = 0;
    uint32_t n = 0;
    for (uint32_t q = 0; q < run->n_queries; q++)
        for (uint32_t i = 0; i < run->seen[q].n; i++) {
            double error = (double)run->seen[q].errors[i];
            sum += error;
            squares += error * error;
            rests[n++] = run->seen[q].rests[i];
        }
    if (n < QUERIES_MIN * K)
        return;
    double mean = sum / n, deviation = sqrt(fmax(squares / n - mean * mean, 0));
    kith_sort_floats(rests, n);
    for (uint32_t i = 0; i < IVF_FAR_EFFORTS; i++) {
        float margin =
            (float)-mean + ivf_far_quantile(AT_BOUND * OF_CODES * misses[i]) * (float)deviation;
        float rest = rests[(uint32_t)(OF_LISTS * misses[i] * (float)n)];
        rest = rest < REST_MAX ? rest : REST_MAX;
        margin = margin < MARGIN_MAX ? margin : MARGIN_MAX;
        out[i] = (struct ivf_far_effort){.margin = margin > 0.5f ? margin : 0.5f,
                                         .rest = rest > REST_MIN ? rest : REST_MIN};
    }
}

/* ---- memory ---------------------------------------------------------------------------------- */

static enum kith_err make_worker(const struct run *run, struct worker *worker,
                                 struct kith_diag *diag)
{
    const struct codebook *codebook = run->index->codebook;
    worker->allowed = kith_alloc((run->index->n_rows / 64 + 1) * sizeof *worker->allowed);
    worker->keys = kith_alloc(codebook->n_lists * sizeof *worker->keys);
    if (worker->allowed == NULL || worker->keys == NULL)
        return kith_fail(diag, KITH_NOMEM, "calibration");
    return ivf_scratch_fit(&worker->scratch, codebook, K, diag);
}

static enum kith_err measure(struct run *run, struct ivf_far_effort *out, struct kith_diag *diag)
{
    float *rests = kith_alloc((size_t)run->n_queries * K * sizeof *rests);
    run->seen = kith_alloc(run->n_queries * sizeof *run->seen);
    run->each = kith_alloc(run->workers->threads * sizeof *run->each);
    enum kith_err err = KITH_OK;
    if (rests == NULL || run->seen == NULL || run->each == NULL)
        err = kith_fail(diag, KITH_NOMEM, "calibration");
    for (uint32_t w = 0; w < run->workers->threads && err == KITH_OK; w++)
        err = make_worker(run, &run->each[w], diag);
    if (err == KITH_OK)
        err = workers_run(run->workers, (run->n_queries + PIECE - 1) / PIECE, ask_piece, run, diag);
    if (err == KITH_OK)
        conclude(run, rests, out);
    for (uint32_t w = 0; w < run->workers->threads && run->each != NULL; w++) {
        ivf_scratch_free(run->each[w].scratch);
        kith_free(run->each[w].allowed);
        kith_free(run->each[w].keys);
    }
    kith_free(run->each);
    kith_free(run->seen);
    kith_free(rests);
    return err;
}

enum kith_err ivf_calibrate_far_run(const struct ivf *index, const float *queries,
                                    uint32_t n_queries, struct workers *workers,
                                    struct ivf_far_effort out[IVF_FAR_EFFORTS],
                                    struct kith_diag *diag)
{
    struct run run = {.index = index,
                      .workers = workers,
                      .queries = queries,
                      .n_given = n_queries,
                      .n_queries = n_queries < QUERIES_MAX ? n_queries : QUERIES_MAX};
    memset(out, 0, sizeof *out * IVF_FAR_EFFORTS);
    if (n_queries < QUERIES_MIN || index->codebook->codes != CODEBOOK_PQ4 ||
        index->codebook->metric == KITH_EUCLID)
        return KITH_OK;
    return measure(&run, out, diag);
}
