/* The scalar variant, which is the definition of what the others compute, and the choice among
 * them. */
#include "shard/index/ivf_kernels.h"

#include <math.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#ifdef __aarch64__
#include <sys/auxv.h>
#endif

#include "shard/index/ivf_format.h"

#define INLINE static inline
#include "shard/index/ivf_kernels_count.h"
#include "shard/index/ivf_kernels_line.h"

/* ---- lists ----------------------------------------------------------------------------------- */

static int8_t centroid_byte(const struct ivf_kernels_lists *lists, uint32_t list, uint32_t j)
{
    size_t lanes = (size_t)list / IVF_KERNELS_LANES * lists->dim4 + j / 4;
    return lists->centroids[(lanes * IVF_KERNELS_LANES + list % IVF_KERNELS_LANES) * 4 + j % 4];
}

static void keep_maximum(uint32_t list, float key, float *maxima)
{
    float *maximum =
        &maxima[list / IVF_KERNELS_SPAN * IVF_KERNELS_LANES + list % IVF_KERNELS_LANES];
    if (list % IVF_KERNELS_SPAN < IVF_KERNELS_LANES || key > *maximum)
        *maximum = key;
}

static void rank_lists(const struct ivf_kernels_lists *lists, float *keys, float *maxima)
{
    for (uint32_t c = 0; c < lists->n; c++) {
        int32_t sum = 0;
        for (uint32_t j = 0; j < lists->dim4 * 4; j++)
            sum += lists->query[j] * centroid_byte(lists, c, j);
        keys[c] = fmaf((float)sum, lists->scale, -lists->minus[c]);
        keep_maximum(c, keys[c], maxima);
    }
}

static void rank_lists_l1(const struct ivf_kernels_lists *lists, float *keys, float *maxima)
{
    for (uint32_t c = 0; c < lists->n; c++) {
        int32_t sum = 0;
        for (uint32_t j = 0; j < lists->dim4 * 4; j++)
            sum += abs(lists->query[j] - centroid_byte(lists, c, j));
        keys[c] = (float)sum * -lists->scale;
        keep_maximum(c, keys[c], maxima);
    }
}

static uint32_t count(const float *values, uint32_t n, float bound)
{
    uint32_t found = 0;
    for (uint32_t i = 0; i < n; i++)
        found += values[i] >= bound;
    return found;
}

static uint32_t pick(const float *keys, const float *maxima, uint32_t n, float low, float high,
                     uint32_t *out)
{
    (void)maxima; /* only a shortcut */
    uint32_t found = 0;
    for (uint32_t i = 0; i < n; i++)
        if (keys[i] >= low && keys[i] < high)
            out[found++] = i;
    return found;
}

/* ---- the query ------------------------------------------------------------------------------- */

static void round_bytes(const float *values, uint32_t n, float scale, int8_t *out)
{
    for (uint32_t i = 0; i < n; i++)
        out[i] = (int8_t)lrintf(values[i] * scale);
}

static void products(const struct ivf_kernels_subs *subs, float *out, float *lows, float *highs)
{
    for (uint32_t s = 0; s < subs->n_subs; s++, out += 16) {
        const float *words = subs->subs + (size_t)s * subs->sub_dim * 16;
        const float *query = subs->query + (size_t)s * subs->sub_dim;
        for (uint32_t i = 0; i < 16; i++) {
            out[i] = 0.0f;
            for (uint32_t j = 0; j < subs->sub_dim; j++)
                out[i] = fmaf(words[j * 16 + i], query[j], out[i]);
        }
        lows[s] = highs[s] = out[0];
        for (uint32_t i = 1; i < 16; i++) {
            lows[s] = out[i] < lows[s] ? out[i] : lows[s];
            highs[s] = out[i] > highs[s] ? out[i] : highs[s];
        }
    }
}

static void tables(const float *values, const float *lows, uint32_t n_subs, float scale,
                   uint8_t *out)
{
    memset(out, 0, ivf_kernels_tables_bytes(n_subs));
    for (uint32_t s = 0; s < n_subs; s++) {
        uint8_t *table = out + ivf_kernels_table(s);
        for (uint32_t i = 0; i < 16; i++)
            table[i] = table[16 + i] = (uint8_t)lrintf((values[s * 16 + i] - lows[s]) * scale);
    }
}

/* ---- codes ----------------------------------------------------------------------------------- */

static int32_t saturate(int32_t value)
{
    return value < INT16_MIN ? INT16_MIN : value > INT16_MAX ? INT16_MAX : value;
}

static int16_t estimate(const struct ivf_kernels_scan *scan, uint32_t row)
{
    int32_t sum = scan->bias;
    for (uint32_t pair = 0; pair < scan->n_subs / 2; pair++) {
        uint8_t codes = scan->codes[ivf_format_code(scan->n_subs, row, pair)];
        sum += scan->tables[ivf_kernels_table(2 * pair) + (codes & 15)];
        sum += scan->tables[ivf_kernels_table(2 * pair + 1) + (codes >> 4)];
    }
    int32_t term = (scan->terms[row] * scan->factor + (1 << 14)) >> 15;
    for (uint32_t i = 0; i < scan->shift; i++)
        term = saturate(2 * term);
    return (int16_t)saturate(sum + term);
}

static uint32_t scan_codes(const struct ivf_kernels_scan *scan, uint32_t first, uint32_t end,
                           uint32_t *rows, int16_t *estimates, uint64_t *blocks)
{
    uint32_t found = 0, last = UINT32_MAX;
    for (uint32_t row = first; row < end; row++) {
        if (scan->allowed != NULL && (scan->allowed[row / 64] >> (row % 64) & 1) == 0)
            continue;
        *blocks += row / IVF_BLOCK != last;
        last = row / IVF_BLOCK;
        int16_t value = estimate(scan, row);
        if (value <= scan->bound)
            continue;
        if (estimates != NULL)
            estimates[found] = value;
        rows[found++] = row;
    }
    return found;
}

static uint32_t line_up(const uint64_t *allowed, uint32_t first, uint32_t end, int16_t bound,
                        struct ivf_kernels_line line)
{
    return line_up_blocks(allowed, first, end, bound, line);
}

static uint32_t scan_listed(const struct ivf_kernels_scan *scan, struct ivf_kernels_line line,
                            uint32_t n, uint32_t n_known, struct ivf_kernels_found *found)
{
    uint32_t n_found = 0;
    (void)n_known;
    for (uint32_t i = 0; i < n; i++) {
        uint32_t rows = 0;
        for (uint32_t open = line.open[i]; open != 0; open &= open - 1) {
            uint32_t row = (uint32_t)__builtin_ctz(open);
            if (estimate(scan, line.blocks[i] * IVF_BLOCK + row) > line.bounds[i])
                rows |= 1u << row;
        }
        if (rows != 0)
            found[n_found++] = (struct ivf_kernels_found){line.blocks[i], rows};
    }
    return n_found;
}

static void count_rows(const uint64_t *allowed, const uint32_t *lists, uint32_t n, uint32_t *rows)
{
    count_list_rows(allowed, lists, n, rows);
}

/* ---- rows of bytes --------------------------------------------------------------------------- */

static void dot8(const struct ivf_kernels_rows8 *rows8, const uint32_t *list, uint32_t n,
                 float *scores)
{
    for (uint32_t i = 0; i < n; i++) {
        const uint8_t *row = rows8->rows + (size_t)list[i] * rows8->row_bytes;
        int32_t sum = -rows8->minus;
        for (uint32_t j = 0; j < rows8->row_bytes; j++)
            sum += row[j] * (int8_t)rows8->query[j];
        float tail[2];
        memcpy(tail, ivf_format_tail(row, rows8->row_bytes), sizeof tail);
        scores[i] = fmaf((float)sum * rows8->scale, tail[0], tail[1]);
    }
}

static void sad8(const struct ivf_kernels_rows8 *rows8, const uint32_t *list, uint32_t n,
                 float *scores)
{
    for (uint32_t i = 0; i < n; i++) {
        const uint8_t *row = rows8->rows + (size_t)list[i] * rows8->row_bytes;
        int32_t sum = 0;
        for (uint32_t j = 0; j < rows8->row_bytes; j++)
            sum += abs(row[j] - rows8->query[j]);
        scores[i] = (float)sum * -rows8->scale;
    }
}

const struct ivf_kernels ivf_kernels_scalar = {
    .name = "scalar",
    .rank_lists = rank_lists,
    .rank_lists_l1 = rank_lists_l1,
    .count = count,
    .pick = pick,
    .round = round_bytes,
    .products = products,
    .tables = tables,
    .scan = scan_codes,
    .line_up = line_up,
    .scan_blocks = scan_listed,
    .count_rows = count_rows,
    .dot8 = dot8,
    .sad8 = sad8,
};

const struct ivf_kernels *ivf_kernels_variant(uint32_t index)
{
    const struct ivf_kernels *found[3] = {&ivf_kernels_scalar};
    uint32_t n = 1;
#ifdef __x86_64__
    bool avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") &&
                __builtin_cpu_supports("bmi") && __builtin_cpu_supports("bmi2");
    if (avx2)
        found[n++] = &ivf_kernels_avx2_table;
    if (avx2 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
        __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq") &&
        __builtin_cpu_supports("avx512vbmi") && __builtin_cpu_supports("avx512vnni"))
        found[n++] = &ivf_kernels_avx512_table;
#endif
#ifdef __aarch64__
    found[n++] = &ivf_kernels_neon_table;
    if ((getauxval(AT_HWCAP) & HWCAP_ASIMDDP) != 0)
        found[n++] = &ivf_kernels_dotprod_table;
#endif
    return index < n ? found[index] : NULL;
}

const struct ivf_kernels *ivf_kernels_best(void)
{
    /* As in kernels_best: whoever comes first stores the same pointer to a constant. */
    static _Atomic(const struct ivf_kernels *) chosen;
    const struct ivf_kernels *best = atomic_load_explicit(&chosen, memory_order_relaxed);
    if (best != NULL)
        return best;
    for (uint32_t i = 0; ivf_kernels_variant(i) != NULL; i++)
        best = ivf_kernels_variant(i);
    atomic_store_explicit(&chosen, best, memory_order_relaxed);
    return best;
}
