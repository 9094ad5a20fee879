/* Search in inverted lists.
 *
 * The lists are visited nearest first, list c of every part before the next list. What a list gives
 * goes through three sieves, each of which ranks fewer rows better:
 *
 *   codes      An estimate of the score from the code, by SIMD over 32 rows at a time, against the
 *              bound (the k-th best score known) less a margin of so many standard errors.
 *   bytes      The row of bytes, fetched while the next list's codes are scanned. Its score is good
 *              enough to raise the bound.
 *   rows       The exact rank, at the end, of the k best by bytes and half as many more: what is
 *              pushed to the top-k.
 *
 * With no bound yet every row would pass the first sieve. So the search opens by collecting
 * estimates until there are four times as many as will be kept, and takes the best of those to the
 * bytes: that is a bound nearly as good as after scanning a tenth of what follows.
 *
 * Which lists. The first few; then every list whose squared distance from the query is at most
 * `reach` times that of the k-th best hit, a test that is made again before each list because the
 * bound has risen. It adapts to the query (how far are its neighbours?) and to a filter (fewer rows
 * match, the k-th is farther, more lists are in reach). While fewer than k hits are known there is
 * no such distance, and ever larger portions of the lists are taken, at last all: a search without
 * threshold finds min(k, allowed rows) hits.
 *
 * Scores are those of ivf_format.h, in which larger is nearer and a rank can be turned into one.
 *
 * Lost: a fixed number of lists (a third more rows for the same recall); stopping after so many
 * lists without a new hit, or by the ratio to the nearest centroid (no better than a fixed number);
 * exact ranks for all that pass the codes (a row of floats is a cache miss every 16 dimensions). */
#include <float.h>
#include <math.h>
#include <stdatomic.h>
#include <stddef.h>
#include <string.h>

#include "common/kith_mem.h"
#include "shard/index/ivf_best.h"
#include "shard/index/ivf_format.h"
#include "shard/index/ivf_kernels.h"
#include "shard/index/ivf_lists.h"
#include "shard/index/ivf_tables.h"
#include "shard/index/kernels.h"

#define RUN_ROWS       1024u /* of a list at once: bounds the candidates between two checks */
#define OPENING_SHARE  4u    /* estimates for each entry that is kept, before the first bound */
#define PORTION_GROWTH 4u    /* of lists, while there are too few hits */
#define FIRST_LISTS    12u   /* when the effort does not say */
#define LISTS_A_STOP   16u   /* lists between two questions whether to stop */
#define PREFETCH_BYTES 1024u /* of a row; the hardware notices the stream and fetches the rest */
#define PENDING_MAX    64u   /* more than that would fall out of the L1 cache again */
#define LENGTH2_MAX    1e30f /* beyond, squares and products overflow */
#define ESTIMATE_MAX   1e9f  /* fits an int32_t with room for what a list adds */
#define FACTOR_ONE     32768.0f
#define SHIFT_MAX      15u
#define BYTE_ERRORS    4.0f /* standard errors by which bytes may misjudge a hit */

struct ivf_scratch {
    uint64_t codebook_hash;
    uint32_t k;
    struct ivf_lists lists;
    struct ivf_tables tables;
    uint8_t *query8;
    /* Candidates: those that wait for their bytes, or, in the opening, all with their estimates. */
    uint32_t *rows, *parts;
    int32_t *estimates;
    float *scores;
    uint32_t *run_rows;
    int16_t *run_estimates;
    struct ivf_best_entry *kept;
};

struct search {
    const struct ivf_query *query;
    const struct ivf_part *parts;
    uint32_t n_parts;
    struct ivf_scratch *scratch;
    const struct codebook *codebook;
    const struct ivf_kernels *kernels;
    struct ivf_stats stats;
    struct ivf_best best;
    struct ivf_kernels_rows8 rows8; /* the query as bytes; rows are set for each part */
    float length2, length;
    float bound;     /* the k-th best score known, of whoever; -INFINITY: none */
    float reach_key; /* lists with a lower key are out of reach */
    bool opening;
    uint32_t n, n_pending; /* candidates; the first n_pending have been fetched */
    uint32_t n_visited;
    const uint8_t *ahead; /* codes that will be scanned next */
};

/* ---- scratch --------------------------------------------------------------------------------- */

void ivf_scratch_free(struct ivf_scratch *scratch)
{
    if (scratch == NULL)
        return;
    ivf_lists_fini(&scratch->lists);
    ivf_tables_fini(&scratch->tables);
    kith_free(scratch->query8);
    kith_free(scratch->rows);
    kith_free(scratch->parts);
    kith_free(scratch->estimates);
    kith_free(scratch->scores);
    kith_free(scratch->run_rows);
    kith_free(scratch->run_estimates);
    kith_free(scratch->kept);
    kith_free(scratch);
}

static uint32_t opening_rows(uint32_t k)
{
    return OPENING_SHARE * ivf_best_kept(k);
}

enum kith_err ivf_scratch_fit(struct ivf_scratch **scratch, const struct codebook *codebook,
                              uint32_t k, struct kith_diag *diag)
{
    struct ivf_scratch *old = *scratch;
    if (old != NULL && old->codebook_hash == codebook->hash && old->k >= k)
        return KITH_OK;
    struct ivf_scratch *s = kith_alloc(sizeof *s);
    if (s == NULL)
        return kith_fail(diag, KITH_NOMEM, "search scratch");
    s->codebook_hash = codebook->hash;
    s->k = k;
    /* The opening may leave nearly all it has to wait for their bytes, while one more run comes. */
    size_t n = opening_rows(k) + 2 * RUN_ROWS;
    enum kith_err err = ivf_lists_init(&s->lists, codebook, diag);
    if (err == KITH_OK)
        err = ivf_tables_init(&s->tables, codebook, diag);
    s->query8 = kith_alloc_aligned(64, ivf_format_row8_bytes(codebook->dim));
    s->rows = kith_alloc(sizeof *s->rows * n);
    s->parts = kith_alloc(sizeof *s->parts * n);
    s->estimates = kith_alloc(sizeof *s->estimates * n);
    s->scores = kith_alloc(sizeof *s->scores * n);
    s->run_rows = kith_alloc(sizeof *s->run_rows * RUN_ROWS);
    s->run_estimates = kith_alloc(sizeof *s->run_estimates * RUN_ROWS);
    s->kept = kith_alloc(sizeof *s->kept * ivf_best_kept(k));
    if (err == KITH_OK &&
        (s->query8 == NULL || s->rows == NULL || s->parts == NULL || s->estimates == NULL ||
         s->scores == NULL || s->run_rows == NULL || s->run_estimates == NULL || s->kept == NULL))
        err = kith_fail(diag, KITH_NOMEM, "search scratch for %u hits", k);
    if (err != KITH_OK) {
        ivf_scratch_free(s);
        return err;
    }
    ivf_scratch_free(old);
    *scratch = s;
    return KITH_OK;
}

/* ---- bounds ---------------------------------------------------------------------------------- */

static float score_of_rank(const struct search *search, float rank)
{
    return search->codebook->metric == KITH_EUCLID ? (rank + search->length2) / 2 : rank;
}

/* Squared distance of the query from a row of this score; manhattan: the distance. */
static float distance_of(const struct search *search, float score)
{
    float distance;
    switch (search->codebook->metric) {
    case KITH_COSINE:
        distance = search->length2 + 1 - 2 * score;
        break;
    case KITH_DOT:
        distance = search->length2 + search->codebook->lift - 2 * score;
        break;
    case KITH_EUCLID:
        distance = search->length2 - 2 * score;
        break;
    case KITH_MANHATTAN:
    default:
        distance = -score;
        break;
    }
    return distance > 0 ? distance : 0;
}

static float floor_of(const struct ivf_query *query)
{
    float own = query->top->floor;
    if (query->floor == NULL)
        return own;
    /* Relaxed: a floor is a number by itself, a stale one only lets more rows through. */
    float shared = atomic_load_explicit(query->floor, memory_order_relaxed);
    return own > shared ? own : shared;
}

static void refresh_bound(struct search *search)
{
    const struct ivf_query *query = search->query;
    float floor = floor_of(query);
    float bound = floor > -FLT_MAX ? score_of_rank(search, floor) : -INFINITY;
    if (ivf_best_full(&search->best) && ivf_best_bound(&search->best) > bound)
        bound = ivf_best_bound(&search->best);
    if (!(bound > search->bound))
        return;
    search->bound = bound;
    float reach = query->effort.reach, distance = distance_of(search, bound);
    search->reach_key = search->codebook->metric == KITH_MANHATTAN
                            ? -sqrtf(reach) * distance
                            : (search->length2 - reach * distance) / 2;
}

static void share_floor(const struct ivf_query *query)
{
    if (query->floor == NULL || query->top->n < query->top->k)
        return;
    float shared = atomic_load_explicit(query->floor, memory_order_relaxed);
    while (shared < query->top->floor &&
           !atomic_compare_exchange_weak_explicit(query->floor, &shared, query->top->floor,
                                                  memory_order_relaxed, memory_order_relaxed))
        ;
}

/* ---- exact ranks ----------------------------------------------------------------------------- */

static const uint8_t *row_at(const struct search *search, const struct ivf *index, uint32_t row)
{
    if (index->row != NULL)
        return index->row(index->row_ctx, row);
    return (const uint8_t *)index->rows +
           (size_t)row * kernels_row_bytes(kernels_type_of(index->row_type), search->codebook->dim);
}

static void push_exact(struct search *search, const struct ivf_part *part, uint32_t row)
{
    static const uint32_t itself = 0;
    const struct ivf *index = part->index;
    struct kernels_rows one = {row_at(search, index, row), search->codebook->dim};
    struct topk *top = search->query->top;
    struct kith_hit hit = {0};
    kernels_best()
        ->pick[kernels_form_of(search->codebook->metric)][kernels_type_of(index->row_type)](
            search->query->vector, one, &itself, 1, &hit.rank);
    search->stats.exact++;
    if (hit.rank >= floor_of(search->query) && part->name(part->name_ctx, row, &hit.id, &hit.seq))
        (void)topk_push(top, &hit);
}

static void fetch(const uint8_t *at, size_t bytes)
{
    for (size_t line = 0; line < bytes && line < PREFETCH_BYTES; line += 64)
        __builtin_prefetch(at + line);
}

/* The kept ones that may be among the k best. */
static void push_kept(struct search *search, const struct ivf_best_entry *kept, uint32_t n,
                      float bound)
{
    for (uint32_t i = 0; i < n; i++)
        if (kept[i].score >= bound)
            fetch(row_at(search, search->parts[kept[i].part].index, kept[i].row),
                  kernels_row_bytes(kernels_type_of(search->parts[kept[i].part].index->row_type),
                                    search->codebook->dim));
    for (uint32_t i = 0; i < n; i++)
        if (kept[i].score >= bound)
            push_exact(search, &search->parts[kept[i].part], kept[i].row);
}

/* ---- bytes ----------------------------------------------------------------------------------- */

static void offer(struct search *search, uint32_t part, const uint32_t *rows, uint32_t n)
{
    const struct ivf *index = search->parts[part].index;
    float *scores = search->scratch->scores;
    search->rows8.rows = index->rows8;
    if (search->codebook->metric == KITH_MANHATTAN)
        search->kernels->sad8(&search->rows8, rows, n, scores);
    else
        search->kernels->dot8(&search->rows8, rows, n, scores);
    search->stats.reranked += n;
    for (uint32_t i = 0; i < n; i++)
        if (!ivf_best_refuses(&search->best, scores[i]))
            ivf_best_offer(&search->best, &(struct ivf_best_entry){scores[i], part, rows[i]});
}

/* The first n candidates, whose bytes are in the cache by now. */
static void offer_candidates(struct search *search, uint32_t n)
{
    struct ivf_scratch *s = search->scratch;
    for (uint32_t from = 0, to; from < n; from = to) {
        for (to = from + 1; to < n && s->parts[to] == s->parts[from]; to++)
            ;
        offer(search, s->parts[from], s->rows + from, to - from);
    }
    if (n > 0)
        refresh_bound(search);
    search->n -= n;
    memmove(s->rows, s->rows + n, sizeof *s->rows * search->n);
    memmove(s->parts, s->parts + n, sizeof *s->parts * search->n);
}

static void fetch_candidates(struct search *search, uint32_t from)
{
    const struct ivf_scratch *s = search->scratch;
    for (uint32_t i = from; i < search->n; i++) {
        const struct ivf *index = search->parts[s->parts[i]].index;
        fetch(index->rows8 + (size_t)s->rows[i] * index->row8_bytes, index->row8_bytes);
    }
}

/* ---- the opening ----------------------------------------------------------------------------- */

/* What an estimate has to be for about the best n to be above it: at most n are. */
static int32_t nth_estimate(const int32_t *estimates, uint32_t n_estimates, uint32_t n)
{
    int64_t low = INT32_MAX, high = INT32_MIN;
    for (uint32_t i = 0; i < n_estimates; i++) {
        low = estimates[i] < low ? estimates[i] : low;
        high = estimates[i] > high ? estimates[i] : high;
    }
    while (low < high) { /* at most n are above high, more than n above low - 1 */
        int64_t middle = low + (high - low) / 2;
        uint32_t above = 0;
        for (uint32_t i = 0; i < n_estimates; i++)
            above += estimates[i] > middle;
        if (above <= n)
            high = middle;
        else
            low = middle + 1;
    }
    return (int32_t)high;
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

/* Standard deviation of what codes leave of the score of a row at the bound. */
static float estimate_error(const struct search *search, const struct ivf *index)
{
    float length2 = search->length2;
    if (search->codebook->metric == KITH_EUCLID)
        length2 = distance_of(search, search->bound);
    float rounding = search->scratch->tables.error;
    return sqrtf(index->error * index->error * length2 + rounding * rounding);
}

/* The score an estimate has to reach. */
static float wanted(const struct search *search, const struct ivf *index)
{
    if (search->bound == -INFINITY)
        return -INFINITY;
    return search->bound - search->query->effort.margin * estimate_error(search, index);
}

static void end_opening(struct search *search)
{
    struct ivf_scratch *s = search->scratch;
    uint32_t n = ivf_best_kept(search->best.k), all = search->n;
    search->opening = false;
    if (n < all)
        best_in_front(s, all, n);
    else
        n = all;
    search->n = n;
    fetch_candidates(search, 0);
    offer_candidates(search, n);
    for (uint32_t i = n; i < all; i++) {
        float reach = wanted(search, search->parts[s->parts[i]].index) * s->tables.scale;
        if ((float)s->estimates[i] < reach)
            continue;
        s->rows[search->n] = s->rows[i];
        s->parts[search->n++] = s->parts[i];
    }
    fetch_candidates(search, 0);
    search->n_pending = search->n;
}

/* ---- codes ----------------------------------------------------------------------------------- */

static int16_t clamp_i16(float value, float low, float high)
{
    return (int16_t)(!(value > low) ? low : value < high ? floorf(value) : high);
}

/* What a term is multiplied by, in steps of the tables: the score itself for an inner product (at
 * the bound, as only what is near it matters), 1 under euclid. */
static void set_factor(const struct search *search, const struct ivf *index, float score,
                       struct ivf_kernels_scan *scan)
{
    float factor = search->scratch->tables.scale * index->term_scale * FACTOR_ONE;
    if (search->codebook->metric != KITH_EUCLID)
        factor *= score;
    scan->shift = 0;
    for (; fabsf(factor) > FACTOR_ONE - 1 && scan->shift < SHIFT_MAX; scan->shift++)
        factor /= 2;
    scan->factor = clamp_i16(factor + 0.5f, -FACTOR_ONE + 1, FACTOR_ONE - 1);
}

static void scan_codes(struct search *search, uint32_t number, uint32_t list)
{
    struct ivf_scratch *s = search->scratch;
    const struct ivf_part *part = &search->parts[number];
    const struct ivf *index = part->index;
    const struct ivf_tables *tables = &s->tables;
    bool euclid = search->codebook->metric == KITH_EUCLID;
    float center = s->lists.keys[list] + (euclid ? 0 : search->codebook->half_norms[list]);
    float base = (center + tables->base) * tables->scale - tables->bias;
    base = !(base > -ESTIMATE_MAX) ? -ESTIMATE_MAX : base < ESTIMATE_MAX ? base : ESTIMATE_MAX;
    struct ivf_kernels_scan scan = {.codes = index->codes,
                                    .terms = index->terms,
                                    .tables = tables->bytes,
                                    .allowed = part->allowed,
                                    .ahead = search->ahead,
                                    .n_subs = search->codebook->n_subs,
                                    .bias = tables->bias};
    for (uint32_t first = index->lists[list], end = index->lists[list + 1], to; first < end;
         first = to) {
        to = end - first > RUN_ROWS ? first + RUN_ROWS : end;
        /* With no bound: a good hit is a few deviations above the centroid's score. */
        float score = search->bound;
        if (score == -INFINITY)
            score = center + 2.5f * search->length *
                                 sqrtf(index->residual_energy / (float)search->codebook->dim);
        set_factor(search, index, score, &scan);
        /* A saturated estimate must pass. */
        scan.bound =
            clamp_i16(wanted(search, index) * tables->scale - base, INT16_MIN, INT16_MAX - 1);
        uint64_t blocks = 0;
        uint32_t n = search->kernels->scan(&scan, first, to, s->run_rows,
                                           search->opening ? s->run_estimates : NULL, &blocks);
        search->stats.rows += blocks * IVF_BLOCK;
        for (uint32_t i = 0; i < n; i++) {
            s->rows[search->n + i] = s->run_rows[i];
            s->parts[search->n + i] = number;
            if (search->opening)
                s->estimates[search->n + i] = s->run_estimates[i] + (int32_t)base;
        }
        search->n += n;
        if (search->opening) {
            if (search->n >= opening_rows(search->best.k))
                end_opening(search);
            continue;
        }
        fetch_candidates(search, search->n - n);
        offer_candidates(search, search->n > search->n_pending + PENDING_MAX ? search->n
                                                                             : search->n_pending);
        search->n_pending = search->n;
    }
}

/* ---- lists ----------------------------------------------------------------------------------- */

static bool is_allowed(const struct ivf_part *part, uint32_t row)
{
    return part->allowed == NULL || (part->allowed[row / 64] >> (row % 64) & 1) != 0;
}

/* No codes: the rows of bytes, or the rows themselves, one after another. */
static void scan_rows(struct search *search, uint32_t number, uint32_t list)
{
    struct ivf_scratch *s = search->scratch;
    const struct ivf_part *part = &search->parts[number];
    const struct ivf *index = part->index;
    bool by_bytes = search->codebook->codes == CODEBOOK_INT8;
    for (uint32_t row = index->lists[list], end = index->lists[list + 1]; row < end;) {
        uint32_t n = 0;
        for (; row < end && n < RUN_ROWS; row++)
            if (is_allowed(part, row))
                s->run_rows[n++] = row;
        search->stats.rows += n;
        if (by_bytes)
            offer(search, number, s->run_rows, n);
        for (uint32_t i = 0; i < n && !by_bytes; i++)
            push_exact(search, part, s->run_rows[i]);
    }
    refresh_bound(search);
}

static void visit(struct search *search, uint32_t list)
{
    search->n_visited++;
    for (uint32_t part = 0; part < search->n_parts; part++) {
        const uint32_t *lists = search->parts[part].index->lists;
        if (lists[list] == lists[list + 1])
            continue;
        search->stats.lists++;
        if (search->codebook->codes == CODEBOOK_PQ4)
            scan_codes(search, part, list);
        else
            scan_rows(search, part, list);
    }
}

static bool is_stopped(const struct search *search)
{
    return search->query->stop != NULL && search->query->stop(search->query->stop_ctx);
}

static void look_ahead(struct search *search, uint32_t list)
{
    const struct ivf *index = search->parts[0].index;
    search->ahead = NULL;
    if (search->codebook->codes != CODEBOOK_PQ4)
        return;
    size_t block = index->lists[list] / IVF_BLOCK;
    search->ahead = index->codes + block * ivf_format_block_bytes(search->codebook->n_subs);
    __builtin_prefetch(index->terms + block * IVF_BLOCK);
}

/* The first lists are visited in any case when the bound is that of others: reach is measured with
 * searches that find their own. */
static bool is_out_of_reach(const struct search *search, uint32_t list)
{
    const struct ivf_effort *effort = &search->query->effort;
    if (search->bound == -INFINITY ||
        (search->n_visited < effort->first_lists && !ivf_best_full(&search->best)))
        return false;
    return search->scratch->lists.keys[list] < search->reach_key ||
           (effort->lists_max > 0 && search->n_visited >= effort->lists_max);
}

/* False: stopped. */
static bool visit_portion(struct search *search)
{
    const struct ivf_lists *lists = &search->scratch->lists;
    for (uint32_t i = 0; i < lists->n; i++) {
        if (i % LISTS_A_STOP == 0 && is_stopped(search))
            return false;
        if (is_out_of_reach(search, lists->order[i]))
            continue;
        look_ahead(search, lists->order[i + 1 < lists->n ? i + 1 : i]);
        visit(search, lists->order[i]);
    }
    return true;
}

/* True when another portion is to be visited. */
static bool next_portion(struct search *search, uint32_t *portion)
{
    struct ivf_lists *lists = &search->scratch->lists;
    if (search->opening && search->n >= search->best.k)
        end_opening(search);
    if (ivf_lists_all_taken(lists))
        return false;
    if (search->bound == -INFINITY) {
        *portion *= PORTION_GROWTH;
        ivf_lists_take(lists, *portion);
        return true;
    }
    if (!(search->reach_key < lists->low))
        return false;
    ivf_lists_take_above(lists, search->reach_key);
    return true;
}

static bool visit_lists(struct search *search)
{
    uint32_t portion = search->query->effort.first_lists;
    if (portion == 0)
        portion = FIRST_LISTS;
    ivf_lists_take(&search->scratch->lists, portion);
    do
        if (!visit_portion(search))
            return false;
    while (next_portion(search, &portion));
    return true;
}

/* ---- the query ------------------------------------------------------------------------------- */

static void set_query8(struct search *search)
{
    const struct codebook *codebook = search->codebook;
    const float *vector = search->query->vector;
    uint8_t *bytes = search->scratch->query8;
    uint32_t row_bytes = ivf_format_row8_bytes(codebook->dim);
    search->rows8 = (struct ivf_kernels_rows8){.query = bytes, .row_bytes = row_bytes};
    if (codebook->metric == KITH_MANHATTAN) {
        memset(bytes, IVF_BYTE_ZERO, row_bytes - IVF_ROW8_TAIL);
        memset(bytes + row_bytes - IVF_ROW8_TAIL, 0, IVF_ROW8_TAIL);
        for (uint32_t i = 0; i < codebook->dim; i++)
            bytes[i] = ivf_format_byte(codebook, vector[i]);
        search->rows8.scale = codebook->scale8;
        return;
    }
    memset(bytes, 0, row_bytes);
    float largest = 1e-30f;
    for (uint32_t i = 0; i < codebook->dim; i++)
        largest = fabsf(vector[i]) > largest ? fabsf(vector[i]) : largest;
    search->kernels->round(vector, codebook->dim, 127 / largest, (int8_t *)bytes);
    for (uint32_t i = 0; i < codebook->dim; i++)
        search->rows8.minus += (int8_t)bytes[i];
    search->rows8.minus *= (int32_t)IVF_BYTE_ZERO;
    search->rows8.scale = largest / 127;
}

static void finish(struct search *search)
{
    if (search->opening)
        end_opening(search);
    offer_candidates(search, search->n);
    const struct ivf_best *best = &search->best;
    float error = 0;
    for (uint32_t i = 0; i < search->n_parts; i++)
        error = fmaxf(error, search->parts[i].index->error8);
    float length = search->length;
    if (search->codebook->metric == KITH_EUCLID && search->bound > -INFINITY)
        length = sqrtf(distance_of(search, search->bound));
    float bound = search->bound - BYTE_ERRORS * error * length;
    push_kept(search, best->first, best->n_first, bound);
    push_kept(search, best->second, best->n_second, bound);
}

/* Every row of every part: for numbers that no estimate can be trusted with. */
static bool search_all(struct search *search)
{
    for (uint32_t p = 0; p < search->n_parts; p++) {
        for (uint32_t row = 0; row < search->parts[p].index->n_rows; row++) {
            if (row % RUN_ROWS == 0 && is_stopped(search))
                return false;
            if (is_allowed(&search->parts[p], row))
                push_exact(search, &search->parts[p], row);
        }
        search->stats.rows += search->parts[p].index->n_rows;
    }
    return true;
}

static bool search_lists(struct search *search)
{
    struct ivf_scratch *s = search->scratch;
    if (!(search->length2 < LENGTH2_MAX) ||
        !ivf_lists_rank(&s->lists, search->codebook, search->query->vector, search->length2))
        return search_all(search);
    if (search->codebook->codes != CODEBOOK_ROWS)
        set_query8(search);
    if (search->codebook->codes == CODEBOOK_PQ4)
        ivf_tables_fill(&s->tables, search->codebook, search->query->vector);
    refresh_bound(search);
    if (!visit_lists(search))
        return false;
    if (search->codebook->codes != CODEBOOK_ROWS)
        finish(search);
    return true;
}

bool ivf_search(const struct ivf_query *query, const struct ivf_part *parts, uint32_t n_parts,
                struct ivf_scratch *scratch, struct ivf_stats *stats)
{
    if (n_parts == 0)
        return true;
    struct search search = {.query = query,
                            .parts = parts,
                            .n_parts = n_parts,
                            .scratch = scratch,
                            .codebook = parts[0].index->codebook,
                            .kernels = ivf_kernels_best(),
                            .bound = -INFINITY,
                            .reach_key = -INFINITY};
    search.opening = search.codebook->codes == CODEBOOK_PQ4;
    kith_assert(scratch->codebook_hash == search.codebook->hash && scratch->k >= query->top->k);
    ivf_best_init(&search.best, query->top->k, scratch->kept);
    kernels_best()->norms((struct kernels_rows){query->vector, search.codebook->dim}, 1,
                          &search.length2);
    search.length = sqrtf(search.length2);
    bool done = search_lists(&search);
    share_floor(query);
    stats->lists += search.stats.lists;
    stats->rows += search.stats.rows;
    stats->reranked += search.stats.reranked;
    stats->exact += search.stats.exact;
    return done;
}
