/* Exact scan.
 *
 * Rows are taken in blocks that stay in the L2 cache; every query of the search is run over a block
 * before the next block is touched. A query alone takes longer ones: each end of a block lets the
 * reads of memory pause, 3 % of the time at 640 rows of 100 numbers. For one query: kernel, then a
 * SIMD comparison of the block's ranks with the query's floor (its k-th best so far, its threshold,
 * or another thread's k-th best), then the few survivors go to the heap, and only those are named.
 *
 * Batches. A matrix product is several times faster than the kernels, but it adds in another order,
 * so its numbers may differ from theirs in the last bits, and a query would get other scores and,
 * at ties, other hits alone than in a batch. So the product only *chooses*: a row is ranked by the
 * kernel when its approximate rank is not below floor - margin, where margin bounds the sum of both
 * errors. A row left out is provably below the floor, so the result is that of the kernel.
 *
 * The margin. u = 2^-24, g = kernels_gamma(dim + 8), Q = |query|, R = the largest |row| of the
 * block; both computed in single precision and enlarged by their own error.
 *   inner product: each side is within g * sum |q_i r_i| <= g Q R (Cauchy-Schwarz), so 2 g Q R.
 *   squared L2, rank = 2 <q,r> - Q^2 - R^2, halved: the product is off by g Q R, half of the
 *     computed R^2 by g R^2 / 2, the kernel by g (Q + R)^2 / 2; together below g (Q + R)^2. The 8
 *     extra terms in g pay for the subtractions' own roundings.
 * Underflow adds at most 2^-149 per operation. When Q or R are so large that something could
 * overflow, the block is ranked by the kernel alone. In the worst case (all rows nearly equally far
 * compared with their distance from the origin) many rows pass, and the block is ranked as a whole:
 * as slow as queries one by one, never wrong.
 *
 * Half precision rows are widened into the scratch (exact) for the product. L1 has no product: its
 * batches share the block in cache.
 *
 * Lost: products' scores as they are (a query's score would depend on its neighbours in a batch).
 */
#include "shard/index/flat.h"

#include <float.h>
#include <math.h>
#include <stdatomic.h>
#include <stddef.h>

#include "common/kith_f16.h"
#include "common/kith_mem.h"
#include "shard/index/blas.h"
#include "shard/index/kernels_sum.h"

#define BLOCK_ROWS_MAX 1024u /* of a batch */
#define ALONE_ROWS_MAX 4096u /* of one query, whose block nobody comes back to */
#define BLOCK_ROWS_MIN 64u
#define BLOCK_BYTES    (256u * 1024) /* a quarter of a usual L2 cache */
#define PRODUCT_BYTES                                                                              \
    (1u << 20)               /* less: packing the queries costs per block; more: leaves the L2 */
#define PRODUCT_QUERIES 8u   /* fewer: the kernels over a cached block are faster */
#define SAFE_LENGTH     1e18 /* (Q + R)^2 stays far from FLT_MAX */

struct flat_scratch {
    uint32_t dim, n_queries; /* what it is large enough for */
    float *ranks;            /* ALONE_ROWS_MAX */
    float *products;         /* BLOCK_ROWS_MAX x n_queries */
    float *bounds;           /* n_queries: what a product has to reach */
    /* n_queries lists of up to BLOCK_ROWS_MAX: the rows whose product did. */
    uint32_t *counts, *lists;
    float *row_norms; /* squared, then halved */
    float *query_norms;
    float *wide; /* a block of rows in f32 */
    uint32_t *chosen, *list;
};

struct block {
    struct kernels_rows rows;
    uint32_t first, n; /* first: offset in the run */
    const uint32_t *list;
    uint32_t n_list; /* list NULL: all n rows, minus those not allowed */
};

void flat_scratch_free(struct flat_scratch *scratch)
{
    if (scratch == NULL)
        return;
    kith_free(scratch->ranks);
    kith_free(scratch->products);
    kith_free(scratch->bounds);
    kith_free(scratch->counts);
    kith_free(scratch->lists);
    kith_free(scratch->row_norms);
    kith_free(scratch->query_norms);
    kith_free(scratch->wide);
    kith_free(scratch->chosen);
    kith_free(scratch->list);
    kith_free(scratch);
}

static uint32_t clamp_rows(size_t bytes, size_t row_bytes)
{
    size_t rows = bytes / row_bytes;
    return rows < BLOCK_ROWS_MIN   ? BLOCK_ROWS_MIN
           : rows > BLOCK_ROWS_MAX ? BLOCK_ROWS_MAX
                                   : (uint32_t)rows / 64 * 64;
}

enum kith_err flat_scratch_fit(struct flat_scratch **scratch, uint32_t dim, uint32_t n_queries,
                               struct kith_diag *diag)
{
    kith_assert(n_queries <= FLAT_QUERIES_MAX);
    struct flat_scratch *old = *scratch;
    if (old != NULL && old->dim >= dim && old->n_queries >= n_queries)
        return KITH_OK;
    struct flat_scratch *s = kith_alloc(sizeof *s);
    if (s == NULL)
        return kith_fail(diag, KITH_NOMEM, "search scratch");
    s->dim = old != NULL && old->dim > dim ? old->dim : dim;
    s->n_queries = old != NULL && old->n_queries > n_queries ? old->n_queries : n_queries;
    size_t wide = (size_t)clamp_rows(PRODUCT_BYTES, (size_t)s->dim * 4) * s->dim;
    size_t narrow = PRODUCT_BYTES / sizeof(float); /* smaller dims may use more rows, same bytes */
    size_t pairs = (size_t)BLOCK_ROWS_MAX * s->n_queries;
    s->ranks = kith_alloc_aligned(64, sizeof(float) * ALONE_ROWS_MAX);
    s->products = kith_alloc_aligned(64, sizeof(float) * pairs);
    s->bounds = kith_alloc_aligned(64, sizeof(float) * s->n_queries);
    s->counts = kith_alloc_aligned(64, sizeof(uint32_t) * s->n_queries);
    s->lists = kith_alloc_aligned(64, sizeof(uint32_t) * pairs);
    s->row_norms = kith_alloc_aligned(64, sizeof(float) * BLOCK_ROWS_MAX);
    s->query_norms = kith_alloc_aligned(64, sizeof(float) * s->n_queries);
    s->wide = kith_alloc_aligned(64, sizeof(float) * (wide > narrow ? wide : narrow));
    s->chosen = kith_alloc(sizeof(uint32_t) * (ALONE_ROWS_MAX + KERNELS_SELECT_SLACK));
    s->list = kith_alloc(sizeof(uint32_t) * ALONE_ROWS_MAX);
    if (s->ranks == NULL || s->products == NULL || s->bounds == NULL || s->counts == NULL ||
        s->lists == NULL || s->row_norms == NULL || s->query_norms == NULL || s->wide == NULL ||
        s->chosen == NULL || s->list == NULL) {
        flat_scratch_free(s);
        return kith_fail(diag, KITH_NOMEM, "search scratch for %u queries of %u", n_queries, dim);
    }
    flat_scratch_free(old);
    *scratch = s;
    return KITH_OK;
}

/* ---- floors ---------------------------------------------------------------------------------- */

float flat_floor(const struct flat_search *search, uint32_t query)
{
    float own = search->tops[query].floor;
    if (search->floors == NULL)
        return own;
    /* Relaxed: a floor is a number by itself, a stale one only lets more rows through. */
    float shared = atomic_load_explicit(&search->floors[query], memory_order_relaxed);
    return own > shared ? own : shared;
}

static void share_floor(const struct flat_search *search, uint32_t query)
{
    const struct topk *top = &search->tops[query];
    if (search->floors == NULL || top->n < top->k)
        return;
    float shared = atomic_load_explicit(&search->floors[query], memory_order_relaxed);
    while (shared < top->floor &&
           !atomic_compare_exchange_weak_explicit(&search->floors[query], &shared, top->floor,
                                                  memory_order_relaxed, memory_order_relaxed))
        ;
}

/* ---- one block ------------------------------------------------------------------------------- */

static bool is_allowed(const struct flat_rows *run, uint32_t at)
{
    return run->allowed == NULL || (run->allowed[at / 64] >> (at % 64) & 1) != 0;
}

static void offer(const struct flat_rows *run, uint32_t at, float rank, struct topk *top)
{
    struct kith_hit hit = {.rank = rank};
    if (rank >= top->floor && run->name(run->name_ctx, run->first + at, &hit.id, &hit.seq))
        (void)topk_push(top, &hit);
}

/* Ranks of the block's rows for one query, by the kernel. */
static void rank_block(const struct flat_search *search, const struct flat_rows *run,
                       const struct block *block, uint32_t query, struct flat_scratch *scratch)
{
    const struct kernels *kernels = kernels_best();
    const float *vector = search->queries + (size_t)query * search->dim;
    uint32_t n = block->list == NULL ? block->n : block->n_list;
    if (block->list == NULL)
        kernels->scan[search->form][search->type](vector, block->rows, n, scratch->ranks);
    else
        kernels->pick[search->form][search->type](vector, block->rows, block->list, n,
                                                  scratch->ranks);
    struct topk *top = &search->tops[query];
    uint32_t n_chosen =
        kernels->select(scratch->ranks, n, flat_floor(search, query), scratch->chosen);
    for (uint32_t i = 0; i < n_chosen; i++) {
        uint32_t at = scratch->chosen[i];
        uint32_t row = block->first + (block->list == NULL ? at : block->list[at]);
        if (block->list != NULL || is_allowed(run, row))
            offer(run, row, scratch->ranks[at], top);
    }
    if (n_chosen > 0)
        share_floor(search, query);
}

/* What the product has to reach for a row to be ranked; -INFINITY: rank the whole block. */
static float product_bound(const struct flat_search *search, uint32_t query, double query_norm,
                           double row_norm_max)
{
    double g = kernels_gamma(search->dim + 8);
    double q = sqrt(query_norm * (1 + 2 * g)), r = sqrt(row_norm_max * (1 + 2 * g));
    double tiny = (double)search->dim * 0x1p-145;
    float floor = flat_floor(search, query);
    if (!(q + r < SAFE_LENGTH) || floor == -FLT_MAX)
        return -INFINITY;
    double bound;
    if (search->form == KERNELS_IP)
        bound = (double)floor - 2 * g * q * r - tiny;
    else
        bound = ((double)floor + query_norm * (1 - g)) / 2 - g * (q + r) * (q + r) - tiny;
    return nextafterf((float)bound, -INFINITY);
}

/* One query over the rows its products left. */
static void rank_chosen(const struct flat_search *search, const struct flat_rows *run,
                        const struct block *block, uint32_t query, struct flat_scratch *scratch)
{
    const uint32_t *chosen = scratch->lists + (size_t)query * block->n;
    uint32_t n_chosen = scratch->counts[query];
    struct block few = *block;
    if (n_chosen <= block->n / 2) {
        few.list = scratch->list;
        for (uint32_t i = 0; i < n_chosen; i++)
            if (is_allowed(run, block->first + chosen[i]))
                scratch->list[few.n_list++] = chosen[i];
    }
    if (few.list == NULL || few.n_list > 0)
        rank_block(search, run, &few, query, scratch);
}

/* The batch over one block without a list; scratch->query_norms are set. */
static void rank_by_product(const struct flat_search *search, const struct flat_rows *run,
                            const struct block *block, struct flat_scratch *scratch)
{
    const struct kernels *kernels = kernels_best();
    const float *rows = block->rows.data;
    if (search->type == KERNELS_F16) {
        kith_f16_unpack(scratch->wide, block->rows.data, (size_t)block->n * search->dim);
        rows = scratch->wide;
    }
    kernels->norms((struct kernels_rows){rows, search->dim}, block->n, scratch->row_norms);
    float norm_max = 0;
    for (uint32_t i = 0; i < block->n; i++) {
        if (!(scratch->row_norms[i] <= norm_max))
            norm_max = scratch->row_norms[i];
        scratch->row_norms[i] /= 2;
    }
    blas_products((struct blas_block){rows, block->n, search->dim},
                  (struct blas_block){search->queries, search->n_queries, search->dim},
                  scratch->products);
    for (uint32_t q = 0; q < search->n_queries; q++)
        scratch->bounds[q] =
            product_bound(search, q, (double)scratch->query_norms[q], (double)norm_max);
    struct kernels_products products = {scratch->products,
                                        search->form == KERNELS_L2 ? scratch->row_norms : NULL,
                                        block->n, search->n_queries};
    kernels->choose(&products, scratch->bounds, scratch->counts, scratch->lists);
    for (uint32_t q = 0; q < search->n_queries; q++)
        if (scratch->counts[q] > 0)
            rank_chosen(search, run, block, q, scratch);
}

/* ---- cutting a run into blocks --------------------------------------------------------------- */

/* Where few rows of the block are allowed: their list. */
static uint32_t list_allowed(const struct flat_rows *run, uint32_t first, uint32_t n,
                             uint32_t *list)
{
    uint32_t n_list = 0;
    for (uint32_t at = first; at < first + n;) {
        uint64_t word = run->allowed[at / 64] >> (at % 64);
        uint32_t span = 64 - at % 64;
        if (span > first + n - at)
            span = first + n - at;
        if (span < 64)
            word &= (UINT64_C(1) << span) - 1;
        for (; word != 0; word &= word - 1)
            list[n_list++] = at - first + (uint32_t)__builtin_ctzll(word);
        at += span;
    }
    return n_list;
}

static uint32_t block_rows(const struct flat_search *search, bool by_product)
{
    size_t row_bytes = (size_t)search->dim * 4;
    uint32_t rows = ALONE_ROWS_MAX;
    if (search->n_queries > 1)
        rows = clamp_rows(by_product ? PRODUCT_BYTES : BLOCK_BYTES, row_bytes);
    /* With no floor yet every row would be chosen: begin small, and double. */
    if (search->seen < rows)
        rows = search->seen < BLOCK_ROWS_MIN ? BLOCK_ROWS_MIN : (uint32_t)search->seen;
    return rows;
}

static void scan_dense(struct flat_search *search, const struct flat_rows *run,
                       struct flat_scratch *scratch)
{
    const uint8_t *data = run->data;
    size_t row_bytes = kernels_row_bytes(search->type, search->dim);
    bool by_product = search->form != KERNELS_L1 && search->n_queries >= PRODUCT_QUERIES;
    if (by_product)
        kernels_best()->norms((struct kernels_rows){search->queries, search->dim},
                              search->n_queries, scratch->query_norms);
    uint32_t n;
    for (uint32_t at = 0; at < run->n; at += n, search->seen += n) {
        n = block_rows(search, by_product);
        if (n > run->n - at)
            n = run->n - at;
        struct block block = {.rows = {data + at * row_bytes, search->dim}, .first = at, .n = n};
        uint32_t n_allowed = n;
        if (run->allowed != NULL)
            n_allowed = list_allowed(run, at, n, scratch->list);
        if (n_allowed == 0)
            continue;
        if (n_allowed < n / 2) {
            block.list = scratch->list;
            block.n_list = n_allowed;
        }
        if (by_product && block.list == NULL) {
            rank_by_product(search, run, &block, scratch);
            continue;
        }
        for (uint32_t q = 0; q < search->n_queries; q++)
            rank_block(search, run, &block, q, scratch);
    }
}

static void scan_list(struct flat_search *search, const struct flat_rows *run,
                      struct flat_scratch *scratch)
{
    uint32_t n;
    for (uint32_t at = 0; at < run->n_list; at += n, search->seen += n) {
        n = block_rows(search, false);
        if (n > run->n_list - at)
            n = run->n_list - at;
        struct block block = {
            .rows = {run->data, search->dim}, .n = run->n, .list = run->list + at, .n_list = n};
        for (uint32_t q = 0; q < search->n_queries; q++)
            rank_block(search, run, &block, q, scratch);
    }
}

void flat_scan(struct flat_search *search, const struct flat_rows *rows,
               struct flat_scratch *scratch)
{
    kith_assert(search->n_queries <= scratch->n_queries);
    kith_assert(search->dim <= scratch->dim);
    kith_assert(rows->allowed == NULL || rows->list == NULL);
    if (rows->list != NULL)
        scan_list(search, rows, scratch);
    else
        scan_dense(search, rows, scratch);
}

bool flat_name_number(void *ctx, uint32_t row, struct kith_id *id, uint64_t *seq)
{
    (void)ctx;
    *id = kith_id_number(row);
    *seq = 0;
    return true;
}
