/* The bytes of an index's sections (ivf.h), for those who write them and those who scan them. Disk
 * values, little endian: never change without a new IVF_FORMAT_VERSION.
 *
 * Scores. With row x, centroid c, coded residual y and query q, what is estimated is the score
 *
 *   cosine, dot   s = <q,x>               = rank
 *   euclid        s = <q,x> - |x|^2 / 2    rank = 2 s - |q|^2
 *
 * because both are <q,c> + <q,y> + something known of the row alone.
 *
 *   PQ4    cosine, dot   <q,c> + <q,y> + t             t = <c + h r,e>, e = r - y, r = x - c
 *          euclid        <q,c> - |c|^2/2 + <q,y> + t   the same less (|x|^2 - |c|^2)/2
 *
 * where t = term * meta.term_scale and h = IVF_EXACT_AT. The error left is <q - c - h r,e>. A row
 * worth finding lies along q - c, and code words are means, so r - y would lie along r: words are
 * stretched (codebook.stretch) until e is orthogonal to r on average over all rows (RaBitQ's
 * unbiased estimator, Gao and Long, SIGMOD 2024, with one scale for all rows). What single rows are
 * off is right for queries a share h of the way from c to x. The standard deviation of the error
 * is meta.error, for a query of length 1 under dot, else for |q - x| = 1.
 *
 *   bytes  cosine, dot, euclid   <q,u - 128> * scale + bias, u the row's bytes; bias is 0 or
 *                                -|x|^2/2; the scale makes the error orthogonal to the row.
 *                                Standard deviation of the rest, for a query of length 1
 *                                (euclid: for |q - x| = 1): meta.error8.
 *          manhattan             rank = -SAD(u, v) * codebook.scale8 about, v the query's bytes
 * made by ivf_format_byte. scale and bias of the row are 0;
 *                                error8 is the standard deviation of the rank.
 *
 * PQ4 is not used for manhattan. Threads: no state. */
#ifndef IVF_FORMAT_H
#define IVF_FORMAT_H

#include <float.h>
#include <math.h>
#include <stddef.h>
#include <stdint.h>

#include "proto/kith_limits.h"
#include "proto/kith_wire.h"
#include "shard/index/ivf.h"

#define IVF_FORMAT_VERSION 6u
#define IVF_FORMAT_OLDEST  4u /* that is read, too */
#define IVF_EXACT_AT       0.3f
#define IVF_BLOCK          32u /* rows of a block of codes and terms */
#define IVF_ROW8_ALIGN     64u
#define IVF_ROW8_TAIL      8u   /* f32 scale, f32 bias: the last bytes of a row */
#define IVF_BYTE_ZERO      128u /* the byte of a 0, and of the padding behind the last dimension */

static inline uint32_t ivf_format_blocks(uint32_t n_rows)
{
    return n_rows / IVF_BLOCK + (n_rows % IVF_BLOCK != 0);
}

/* Bytes of a block of codes. */
static inline size_t ivf_format_block_bytes(uint32_t n_subs)
{
    return (size_t)n_subs / 2 * IVF_BLOCK;
}

/* Where in the 32 bytes of a pair the row of a block is: rows 0 to 15 in the even bytes, 16 to 31
 * in the odd ones. So sums that were widened from bytes to u16 by masking and by shifting are 16
 * rows each in order, as are the bits of a comparison and the terms. */
static inline uint32_t ivf_format_slot(uint32_t row)
{
    return (row & 15) * 2 + (row >> 4 & 1);
}

/* The last list that begins at or before a row. */
static inline uint32_t ivf_format_list_of(const uint32_t *lists, uint32_t n_lists, uint32_t row)
{
    uint32_t low = 0, high = n_lists;
    while (high - low > 1) {
        uint32_t middle = low + (high - low) / 2;
        if (lists[middle] <= row)
            low = middle;
        else
            high = middle;
    }
    return low;
}

/* The byte with the codes of sub-quantizers 2 * pair (low bits) and 2 * pair + 1 (high). */
static inline size_t ivf_format_code(uint32_t n_subs, uint32_t row, uint32_t pair)
{
    return row / IVF_BLOCK * ivf_format_block_bytes(n_subs) + (size_t)pair * IVF_BLOCK +
           ivf_format_slot(row);
}

/* Terms are in row order. Rows behind the last one of the last block: code and term 0. */
static inline size_t ivf_format_terms_bytes(uint32_t n_rows)
{
    return (size_t)ivf_format_blocks(n_rows) * IVF_BLOCK * sizeof(int16_t);
}

static inline uint32_t ivf_format_row8_bytes(uint32_t dim)
{
    return (dim + IVF_ROW8_TAIL + IVF_ROW8_ALIGN - 1) & ~(IVF_ROW8_ALIGN - 1);
}

/* The largest absolute value; NaN if there is one. By bits, which are in the same order: a loop
 * that compilers turn into vectors. */
static inline float ivf_format_largest(const float *values, uint32_t n)
{
    uint32_t most = 0;
    for (uint32_t i = 0; i < n; i++) {
        uint32_t bits = kith_f32_bits(values[i]) & 0x7fffffff;
        most = bits > most ? bits : most;
    }
    return kith_f32_of_bits(most);
}

/* The scale and, behind it, the bias. */
static inline const uint8_t *ivf_format_tail(const uint8_t *row8, uint32_t row8_bytes)
{
    return row8 + row8_bytes - IVF_ROW8_TAIL;
}

/* Squared distance of a row of this score from a query whose squared length is length2; manhattan:
 * the distance. Roundings can make it negative. */
static inline float ivf_format_distance(const struct codebook *codebook, float length2, float score)
{
    switch (codebook->metric) {
    case KITH_COSINE:
        return length2 + 1 - 2 * score;
    case KITH_DOT:
        return length2 + codebook->lift - 2 * score;
    case KITH_EUCLID:
        return length2 - 2 * score;
    case KITH_MANHATTAN:
        break;
    }
    return -score;
}

/* What a query is multiplied by when lists and codes are asked. Under dot its length is nothing to
 * its hits, but lists are ranked by <q,c> - |c|^2 / 2, and reach is measured by distances: so it
 * gets the length of the lifted rows. 1: as it is. */
static inline float ivf_format_stretch(const struct codebook *codebook, float length2)
{
    float stretch = codebook->metric == KITH_DOT ? sqrtf(codebook->lift / length2) : 1.0f;
    return stretch > FLT_MIN && stretch < FLT_MAX ? stretch : 1.0f;
}

/* The byte of a value on the codebook's common scale (manhattan). */
static inline uint8_t ivf_format_byte(const struct codebook *codebook, float value)
{
    float steps = nearbyintf((value - codebook->offset8) / codebook->scale8);
    return !(steps > -128.0f)  ? 0
           : !(steps < 127.0f) ? 255
                               : (uint8_t)((int)steps + (int)IVF_BYTE_ZERO);
}

/* IVF_SECTION_META, without padding: magic u32, version u32, n_rows u32, row8_bytes u32,
 * codebook_hash u64, term_scale f32, error f32, error8 f32, residual_energy f32, n_targets u32,
 * growth f32, measured_rows u32; of each ivf_far_effort margin f32, rest f32; then for each target
 * recall f32, rows_share f32, reach f32, margin f32, first_lists u32, lists_max u32. Version 4 has
 * a number without a meaning for the growth, and it and version 5 have nothing of far efforts. */
#define IVF_META_MAGIC        0x4d465649u /* "IVFM" */
#define IVF_META_HEADER_BYTES 68u
#define IVF_META_FAR          52u /* offset of far efforts; of targets where there are none */
#define IVF_META_WITH_GROWTH  5u  /* versions */
#define IVF_META_WITH_FAR     6u
#define IVF_META_TARGET_BYTES 24u
#define IVF_META_BYTES_MAX    (IVF_META_HEADER_BYTES + IVF_TARGETS * IVF_META_TARGET_BYTES)

struct ivf_meta {
    uint32_t n_rows;
    uint32_t row8_bytes; /* 0: no bytes (CODEBOOK_ROWS) */
    uint64_t codebook_hash;
    float term_scale, error, error8; /* finite, not negative */
    float residual_energy;           /* mean |x - centroid|^2 of the segment's rows */
    uint32_t n_targets;              /* 0: not calibrated */
    uint32_t measured_rows;          /* the targets hold for a segment of so many */
    float growth;                    /* finite, not negative */
    struct ivf_target targets[IVF_TARGETS];
    struct ivf_far_effort far[IVF_FAR_EFFORTS]; /* finite, not negative, rest at most 1 */
};
_Static_assert(IVF_META_HEADER_BYTES == IVF_META_FAR + IVF_FAR_EFFORTS * 8, "two numbers each");

/* Returns how many bytes were written, at most IVF_META_BYTES_MAX. */
size_t ivf_format_store_meta(uint8_t *out, const struct ivf_meta *meta);
/* Checks all that can be checked without the codebook: KITH_CORRUPT. */
enum kith_err ivf_format_load_meta(struct ivf_meta *out, struct kith_bytes bytes,
                                   struct kith_diag *diag);

#endif
