#include "shard/query/search_cost.h"

#include <math.h>
#include <string.h>

#include "common/kith_clock.h"
#include "common/kith_mem.h"
#include "shard/index/kernels.h"

/* The estimates decide between plans that differ by a factor of ten or more nearly everywhere; near
 * the crossing, where they may be wrong, either plan will do.
 *
 * Lists. With a share s of the rows matching, the k-th best match lies as far away as the (k / s)th
 * best row, so more lists are in reach: about 1 / sqrt(s) times as many was seen on word vectors
 * (selectivities of 50 to 0.01 %). A block of 32 rows without a match is skipped, which costs its
 * word only; a list costs a cache miss or two however few rows of it match.
 *
 * Learning: a tenth of what a search was off, so that a search which lost its CPU for a while does
 * not decide the plan of those after it. */

#define MEASURE_BYTES                                                                              \
    (4u << 20) /* beyond the L2 cache, and read in a fraction of a millisecond                     \
                */
#define MEASURE_DIM    128u
#define MEASURE_ROUNDS 3u /* the best counts */
#define PICK_ONE_IN    5u
#define LIST_BYTES     1024.0 /* a list costs as much as picking so many: offsets, codes, centroid */
#define RERANKED_PER_K 50.0   /* rows of bytes looked at for each hit */
#define EXACT_PER_K    1.5
#define BLOCK_ROWS     32.0
#define BEGIN_BYTES    65536.0 /* to begin with bytes costs as much as picking so many */
#define LEARN          0.1f
#define SURPRISE_MAX   4.0f /* a search counts as at most so many times what was expected */
#define FACTOR_MAX     16.0f

static double best_ns(const float *rows, const uint32_t *list, uint32_t n, float *ranks)
{
    const struct kernels *kernels = kernels_best();
    const struct kernels_rows block = {rows, MEASURE_DIM};
    double best = INFINITY;
    for (uint32_t round = 0; round < MEASURE_ROUNDS; round++) {
        uint64_t begun = kith_now_ns();
        if (list == NULL)
            kernels->scan[KERNELS_IP][KERNELS_F32](rows, block, n, ranks);
        else
            kernels->pick[KERNELS_IP][KERNELS_F32](rows, block, list, n, ranks);
        double ns = (double)(kith_now_ns() - begun);
        best = ns < best ? ns : best;
    }
    return best / n / (MEASURE_DIM * sizeof(float));
}

enum kith_err search_cost_measure(struct search_cost *cost, struct kith_diag *diag)
{
    const uint32_t n = MEASURE_BYTES / (MEASURE_DIM * sizeof(float)), n_picked = n / PICK_ONE_IN;
    float *rows = kith_alloc(MEASURE_BYTES);
    float *ranks = kith_alloc(n * sizeof *ranks);
    uint32_t *list = kith_alloc(n_picked * sizeof *list);
    enum kith_err err = KITH_OK;
    if (rows != NULL && ranks != NULL && list != NULL) {
        memset(rows, 0, MEASURE_BYTES); /* pages of its own, not one zero page */
        for (uint32_t i = 0; i < n_picked; i++)
            list[i] = i * PICK_ONE_IN + i % 3;
        cost->ordered_ns = (float)best_ns(rows, NULL, n, ranks);
        cost->picked_ns = (float)best_ns(rows, list, n_picked, ranks);
        if (cost->picked_ns < cost->ordered_ns)
            cost->picked_ns = cost->ordered_ns;
    } else {
        err = kith_fail(diag, KITH_NOMEM, "measuring the machine");
    }
    kith_free(list);
    kith_free(ranks);
    kith_free(rows);
    return err;
}

/* ---- what was learnt --------------------------------------------------------------------------
 */

/* Relaxed, all of them: one number, of which any recent value will do. */
static double corrected(const _Atomic float *place, double ns)
{
    float factor = atomic_load_explicit(place, memory_order_relaxed);
    return factor > 0 ? ns * (double)factor : ns;
}

static void learn(_Atomic float *place, double estimated_ns, double ns)
{
    float factor = atomic_load_explicit(place, memory_order_relaxed);
    if (!(factor > 0))
        factor = 1;
    float seen = (float)(ns / estimated_ns);
    seen = seen < factor * SURPRISE_MAX ? seen : factor * SURPRISE_MAX;
    factor += LEARN * (seen - factor);
    factor = factor < FACTOR_MAX ? factor : FACTOR_MAX;
    factor = factor > 1 / FACTOR_MAX ? factor : 1 / FACTOR_MAX;
    atomic_store_explicit(place, factor, memory_order_relaxed);
}

/* ---- exact ------------------------------------------------------------------------------------
 */

static bool is_picked(const struct search_cost_run *run)
{
    return run->matched * 2 < run->rows;
}

static double plain_exact(const struct search_cost *cost, const struct search_cost_run *run)
{
    if (!is_picked(run))
        return (double)run->rows * run->row_bytes * (double)cost->ordered_ns;
    double words = (double)run->rows / 8 * (double)cost->ordered_ns;
    return words + (double)run->matched * run->row_bytes * (double)cost->picked_ns;
}

static uint32_t size_of(const struct search_cost_run *run)
{
    uint32_t size = 0;
    for (uint64_t bytes = run->whole_rows * run->row_bytes >> 20;
         bytes > 1 && size < SEARCH_COST_SIZES - 1; bytes /= 4)
        size++;
    return size;
}

double search_cost_exact(const struct search_cost *cost, const struct search_cost_run *run)
{
    return corrected(&cost->exact[size_of(run)][is_picked(run)], plain_exact(cost, run));
}

void search_cost_learn_exact(struct search_cost *cost, const struct search_cost_run *run, double ns)
{
    learn(&cost->exact[size_of(run)][is_picked(run)], plain_exact(cost, run), ns);
}

/* ---- lists ------------------------------------------------------------------------------------
 */

double search_cost_lists_base(const struct search_cost *cost, const struct codebook *codebook,
                              uint32_t k, uint32_t row_bytes)
{
    double centroids = (double)codebook->n_lists * codebook->dim * (double)cost->ordered_ns;
    double ranked = k * (RERANKED_PER_K * codebook->dim + EXACT_PER_K * row_bytes);
    return centroids + ranked * (double)cost->picked_ns;
}

double search_cost_lists(const struct search_cost *cost, const struct ivf *index, uint64_t matched,
                         float rows_share)
{
    const struct codebook *codebook = index->codebook;
    double share = (double)matched / index->n_rows;
    double reached = (double)rows_share / sqrt(share);
    reached = reached < 1 ? reached : 1;
    double row_bytes = codebook->codes == CODEBOOK_PQ4    ? codebook->n_subs / 2.0 + 2
                       : codebook->codes == CODEBOOK_INT8 ? codebook->dim
                                                          : 4.0 * codebook->dim;
    double blocks = codebook->codes == CODEBOOK_PQ4 ? 1 - pow(1 - share, BLOCK_ROWS) : share;
    double rows = reached * index->n_rows;
    return rows * (blocks * row_bytes + 1.0 / 8) * (double)cost->ordered_ns +
           reached * codebook->n_lists * LIST_BYTES * (double)cost->picked_ns;
}

double search_cost_bytes(const struct search_cost *cost, const struct ivf *index, uint64_t matched)
{
    if (index->row8_bytes == 0)
        return INFINITY;
    return (double)index->n_rows / 8 * (double)cost->ordered_ns +
           (double)matched * index->row8_bytes * (double)cost->picked_ns;
}

double search_cost_bytes_base(const struct search_cost *cost, uint32_t k, uint32_t row_bytes)
{
    return (BEGIN_BYTES + k * EXACT_PER_K * row_bytes) * (double)cost->picked_ns;
}

static uint32_t place_of(double share)
{
    uint32_t place = 0;
    for (; place < SEARCH_COST_SHARES - 1 && share <= 0.25; place++)
        share *= 4;
    return place;
}

double search_cost_corrected(const struct search_cost *cost, uint64_t codebook_hash, double share,
                             double ns)
{
    return corrected(&cost->lists[codebook_hash % SEARCH_COST_CODEBOOKS][place_of(share)], ns);
}

void search_cost_learn(struct search_cost *cost, uint64_t codebook_hash, double share,
                       double estimated_ns, double ns)
{
    learn(&cost->lists[codebook_hash % SEARCH_COST_CODEBOOKS][place_of(share)], estimated_ns, ns);
}
