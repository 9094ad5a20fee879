/* Kernels of the approximate index: ranking lists, filling look-up tables, scanning 4-bit codes,
 * ranking rows of bytes.
 *
 * Variants: scalar, AVX2, AVX-512 with VNNI and VBMI, NEON, NEON with dot products; the best that
 * the CPU can run is chosen once. All compute the same to the bit: sums are of integers, and the
 * few steps in floating point are in one order with fused multiply-adds. The scan of codes by
 * shuffles is that of Andre, Kermarrec, Le Scouarnec: Cache locality is not enough (2015), with
 * sums kept in bytes over IVF_KERNELS_GROUP sub-quantizers and then widened.
 *
 * Owns: nothing. Threads: any. */
#ifndef IVF_KERNELS_H
#define IVF_KERNELS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define IVF_KERNELS_LANES 16u  /* lists ranked together: the layout of codebook.centroids8 */
#define IVF_KERNELS_GROUP 8u   /* sub-quantizers whose table bytes sum to at most 255 */
#define IVF_KERNELS_SLACK 16u  /* outputs of pick and line_up may be so far behind the last */
#define IVF_KERNELS_LEAD  4u   /* blocks between the one that is scanned and the one fetched */
#define IVF_KERNELS_SPAN  128u /* lists that share 16 maxima */

/* Scores of all lists by bytes. */
struct ivf_kernels_lists {
    const int8_t *centroids; /* codebook.centroids8 */
    const float *minus;      /* codebook.minus; unused by l1 */
    const int8_t *query;     /* bytes, zero-padded to a multiple of 4 */
    uint32_t dim4;           /* ceil(dim / 4) */
    uint32_t n;              /* a multiple of IVF_KERNELS_LANES */
    float scale;             /* of a product of bytes (l1: of a difference) */
};
/* keys[c] = <query, centroid> * scale - minus[c]; l1: -sum |query - centroid| * scale.
 * maxima: lane l of span s (lists 128 s ..) has the largest of its 8 keys at [16 s + l]. */
typedef void (*ivf_kernels_rank_fn)(const struct ivf_kernels_lists *lists, float *keys,
                                    float *maxima);
/* The same for so many queries at once: `lists` differ in query and scale only. NULL: a variant
 * that gains nothing by it. */
#define IVF_KERNELS_BATCH 4u
typedef void (*ivf_kernels_rank_batch_fn)(const struct ivf_kernels_lists lists[IVF_KERNELS_BATCH],
                                          float *const keys[IVF_KERNELS_BATCH],
                                          float *const maxima[IVF_KERNELS_BATCH]);
/* How many of n values (a multiple of 16) are not below bound. */
typedef uint32_t (*ivf_kernels_count_fn)(const float *values, uint32_t n, float bound);
/* Writes the numbers of lists with low <= key < high, ascending, and returns how many. */
typedef uint32_t (*ivf_kernels_pick_fn)(const float *keys, const float *maxima, uint32_t n,
                                        float low, float high, uint32_t *out);

/* values[i] * scale rounded to the nearest, even at ties; |values[i] * scale| < 128. */
typedef void (*ivf_kernels_round_fn)(const float *values, uint32_t n, float scale, int8_t *out);

struct ivf_kernels_subs {
    const float *query; /* n_subs * sub_dim, zero-padded */
    const float *subs;  /* codebook.subs */
    uint32_t n_subs, sub_dim;
};
/* products[s][16]: the query with each code word; lows[s] and highs[s] their extremes. */
typedef void (*ivf_kernels_products_fn)(const struct ivf_kernels_subs *subs, float *products,
                                        float *lows, float *highs);
/* Look-up tables: of each sub-quantizer 16 bytes, twice; of four together first those that come
 * first in their pair, so that 64 bytes serve the lower, and the next 64 the upper halves of two
 * pairs of codes. */
static inline size_t ivf_kernels_table(uint32_t sub)
{
    return (sub / 4 * 4 + sub % 2 * 2 + sub / 2 % 2) * (size_t)32;
}
static inline size_t ivf_kernels_tables_bytes(uint32_t n_subs)
{
    return (n_subs + 3) / 4 * (size_t)128;
}
/* tables, 64-byte aligned: (products[s][i] - lows[s]) * scale rounded; 0 behind the last pair. */
typedef void (*ivf_kernels_tables_fn)(const float *products, const float *lows, uint32_t n_subs,
                                      float scale, uint8_t *tables);

/* A block that will be scanned later. */
struct ivf_kernels_ahead {
    const uint8_t *codes;
    const int16_t *terms;
};

/* Codes and terms as in ivf_format.h. The estimate of a row is
 *   sat(sat(sum of its table bytes + bias) + sat(mulhrs(term, factor) * 2^shift))
 * where sat clamps to i16 and mulhrs is (a * b + 2^14) >> 15. The sum with bias must fit i16; the
 * factor is not -32768. */
struct ivf_kernels_scan {
    const uint8_t *codes;
    const int16_t *terms;
    const uint8_t *tables;
    const uint64_t *allowed; /* bit r: row r; NULL: all */
    /* With each block that is scanned, one of these is fetched into the cache, in order. */
    const struct ivf_kernels_ahead *ahead;
    uint32_t n_ahead;
    uint32_t n_subs;
    int16_t bias, factor, bound;
    uint16_t shift;
};
/* Rows in [first, end) that are allowed and whose estimate is above bound, ascending, into rows
 * (room for all of them), their estimates into estimates unless that is NULL. Adds the blocks
 * looked at to *blocks. */
typedef uint32_t (*ivf_kernels_scan_fn)(const struct ivf_kernels_scan *scan, uint32_t first,
                                        uint32_t end, uint32_t *rows, int16_t *estimates,
                                        uint64_t *blocks);

/* Blocks that are scanned wherever they lie. */
struct ivf_kernels_line {
    uint32_t *blocks; /* their numbers */
    uint32_t *open;   /* of each, bit r: row r of it may be given out */
    int16_t *bounds;  /* instead of the scan's */
};
/* Lines up the blocks of rows [first, end), not none, that have some which are allowed (bit r: row
 * r; NULL: all), in order; returns how many. Of the arrays IVF_KERNELS_SLACK may be written behind
 * the last. */
typedef uint32_t (*ivf_kernels_line_up_fn)(const uint64_t *allowed, uint32_t first, uint32_t end,
                                           int16_t bound, struct ivf_kernels_line line);
struct ivf_kernels_found {
    uint32_t block;
    uint32_t rows; /* bit r: row r of it is open, and its estimate above the bound; not 0 */
};
/* Those of the first n blocks of a line that have such rows, in order, into found (room for n);
 * returns how many. The IVF_KERNELS_LEAD behind them, of n_known in all, are fetched into the
 * cache. Of scan, allowed, bound and ahead are not used. */
typedef uint32_t (*ivf_kernels_scan_blocks_fn)(const struct ivf_kernels_scan *scan,
                                               struct ivf_kernels_line line, uint32_t n,
                                               uint32_t n_known, struct ivf_kernels_found *found);

/* rows[c]: how many bits of `allowed` are set in [lists[c], lists[c + 1]), of n lists; lists[0] is
 * 0. */
typedef void (*ivf_kernels_count_rows_fn)(const uint64_t *allowed, const uint32_t *lists,
                                          uint32_t n, uint32_t *rows);

struct ivf_kernels_rows8 {
    const uint8_t *rows;
    const uint8_t *query; /* a row's shape; the last 8 bytes are 0. dot: signed bytes */
    uint32_t row_bytes;   /* a multiple of 64 */
    int32_t minus;        /* dot: 128 * sum of the query's bytes */
    float scale;
};
/* dot: score = (sum - minus) * scale * (row's scale) + (row's bias); sad: -SAD * scale. */
typedef void (*ivf_kernels_score_fn)(const struct ivf_kernels_rows8 *rows8, const uint32_t *list,
                                     uint32_t n, float *scores);

struct ivf_kernels {
    const char *name;
    ivf_kernels_rank_fn rank_lists, rank_lists_l1;
    ivf_kernels_rank_batch_fn rank_batch; /* not for l1 */
    ivf_kernels_count_fn count;
    ivf_kernels_pick_fn pick;
    ivf_kernels_round_fn round;
    ivf_kernels_products_fn products;
    ivf_kernels_tables_fn tables;
    ivf_kernels_scan_fn scan;
    ivf_kernels_line_up_fn line_up;
    ivf_kernels_scan_blocks_fn scan_blocks;
    ivf_kernels_count_rows_fn count_rows;
    ivf_kernels_score_fn dot8, sad8;
};

extern const struct ivf_kernels ivf_kernels_scalar;

const struct ivf_kernels *ivf_kernels_best(void);
/* The variants this CPU can run, scalar first; NULL past the last. For tests and benchmarks. */
const struct ivf_kernels *ivf_kernels_variant(uint32_t index);

#ifdef __x86_64__
extern const struct ivf_kernels ivf_kernels_avx2_table;
extern const struct ivf_kernels ivf_kernels_avx512_table;
#endif
#ifdef __aarch64__
extern const struct ivf_kernels ivf_kernels_neon_table;
extern const struct ivf_kernels ivf_kernels_dotprod_table;
#endif

#endif
