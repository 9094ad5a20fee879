/* An index made the straightforward way, for tests: k-means and product quantizer of a few rounds,
 * everything in scalar loops, all in memory. It follows ivf_format.h and shares nothing with the
 * builder. Owns: its memory (ivf_testing_free). */
#ifndef IVF_TESTING_H
#define IVF_TESTING_H

#include <float.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "common/kith_f16.h"
#include "common/kith_mem.h"
#include "common/kith_testing.h"
#include "shard/index/ivf_format.h"

struct ivf_testing_codebook {
    struct codebook codebook;
    float *centroids, *minus, *subs, *heights; /* heights: the coordinate added under dot */
    int8_t *centroids8;
};

struct ivf_testing_index {
    struct ivf ivf;
    uint32_t *order; /* order[row] = its number in what it was built from */
    uint32_t *lists;
    void *rows;
    uint8_t *codes, *rows8;
    int16_t *terms;
};

struct ivf_testing_shape {
    enum kith_metric metric;
    enum codebook_codes codes;
    enum kith_row_type row_type;
    uint32_t dim, n_lists, sub_dim;
    uint32_t rounds; /* of k-means */
};

static inline double ivf_testing_dot(const float *a, const float *b, uint32_t dim)
{
    double sum = 0;
    for (uint32_t i = 0; i < dim; i++)
        sum += (double)a[i] * (double)b[i];
    return sum;
}

static inline float ivf_testing_height(const struct codebook *codebook, const float *row)
{
    if (codebook->metric != KITH_DOT)
        return 0;
    double left = (double)codebook->lift - ivf_testing_dot(row, row, codebook->dim);
    return left > 0 ? (float)sqrt(left) : 0;
}

static inline uint32_t ivf_testing_nearest(const struct ivf_testing_codebook *made,
                                           const float *row)
{
    const struct codebook *codebook = &made->codebook;
    float height = ivf_testing_height(codebook, row);
    uint32_t best = 0;
    float best_key = -INFINITY;
    for (uint32_t c = 0; c < codebook->n_lists; c++) {
        const float *centroid = made->centroids + (size_t)c * codebook->dim;
        float key = 0;
        for (uint32_t j = 0; j < codebook->dim; j++)
            key += row[j] * centroid[j];
        key += height * made->heights[c] - made->minus[c] * codebook->weight;
        if (key > best_key) {
            best_key = key;
            best = c;
        }
    }
    return best;
}

static inline void ivf_testing_set_minus(struct ivf_testing_codebook *made)
{
    const struct codebook *codebook = &made->codebook;
    for (uint32_t c = 0; c < codebook->n_lists; c++) {
        const float *centroid = made->centroids + (size_t)c * codebook->dim;
        double length2 = ivf_testing_dot(centroid, centroid, codebook->dim) +
                         (double)made->heights[c] * (double)made->heights[c];
        made->minus[c] = (float)length2 / 2 / codebook->weight;
    }
    for (uint32_t c = codebook->n_lists; c < codebook->n_lists8; c++)
        made->minus[c] = FLT_MAX;
}

static inline void ivf_testing_means(struct ivf_testing_codebook *made, const float *rows,
                                     uint32_t n)
{
    const uint32_t dim = made->codebook.dim, n_lists = made->codebook.n_lists;
    double *sums = calloc((size_t)n_lists * (dim + 1), sizeof *sums);
    uint32_t *counts = calloc(n_lists, sizeof *counts);
    for (uint32_t i = 0; i < n; i++) {
        const float *row = rows + (size_t)i * dim;
        uint32_t c = ivf_testing_nearest(made, row);
        for (uint32_t j = 0; j < dim; j++)
            sums[(size_t)c * (dim + 1) + j] += (double)row[j];
        sums[(size_t)c * (dim + 1) + dim] += (double)ivf_testing_height(&made->codebook, row);
        counts[c]++;
    }
    for (uint32_t c = 0; c < n_lists; c++) {
        for (uint32_t j = 0; j < dim && counts[c] > 0; j++)
            made->centroids[(size_t)c * dim + j] =
                (float)(sums[(size_t)c * (dim + 1) + j] / counts[c]);
        if (counts[c] > 0)
            made->heights[c] = (float)(sums[(size_t)c * (dim + 1) + dim] / counts[c]);
    }
    free(counts);
    free(sums);
    ivf_testing_set_minus(made);
}

static inline uint32_t ivf_testing_sub_dims(const struct codebook *codebook, uint32_t sub)
{
    uint32_t first = sub * codebook->sub_dim;
    uint32_t end =
        first + codebook->sub_dim < codebook->dim ? first + codebook->sub_dim : codebook->dim;
    return end > first ? end - first : 0;
}

/* The code word of a residual's part. */
static inline uint32_t ivf_testing_word(const struct ivf_testing_codebook *made, uint32_t sub,
                                        const float *residual)
{
    const struct codebook *codebook = &made->codebook;
    const float *words = made->subs + (size_t)sub * codebook->sub_dim * 16;
    uint32_t best = 0;
    float best_gap = INFINITY;
    for (uint32_t w = 0; w < 16; w++) {
        float gap = 0;
        for (uint32_t j = 0; j < ivf_testing_sub_dims(codebook, sub); j++) {
            float d = residual[sub * codebook->sub_dim + j] - words[j * 16 + w];
            gap += d * d;
        }
        if (gap < best_gap) {
            best_gap = gap;
            best = w;
        }
    }
    return best;
}

static inline void ivf_testing_residual(const struct ivf_testing_codebook *made, const float *row,
                                        float *residual)
{
    const float *centroid =
        made->centroids + (size_t)ivf_testing_nearest(made, row) * made->codebook.dim;
    for (uint32_t j = 0; j < made->codebook.dim; j++)
        residual[j] = row[j] - centroid[j];
}

static inline void ivf_testing_train_subs(struct ivf_testing_codebook *made, const float *rows,
                                          uint32_t n)
{
    const struct codebook *codebook = &made->codebook;
    const uint32_t most = TEST_SCALE(4096, 1024), sample = n < most ? n : most, step = n / sample;
    float *residuals = calloc((size_t)sample * codebook->dim, sizeof *residuals);
    for (uint32_t i = 0; i < sample; i++)
        ivf_testing_residual(made, rows + (size_t)i * step * codebook->dim,
                             residuals + (size_t)i * codebook->dim);
    for (uint32_t s = 0; s < codebook->n_subs; s++) {
        float *words = made->subs + (size_t)s * codebook->sub_dim * 16;
        const uint32_t dims = ivf_testing_sub_dims(codebook, s);
        for (uint32_t w = 0; w < 16; w++)
            for (uint32_t j = 0; j < dims; j++)
                words[j * 16 + w] = residuals[(size_t)(w * 7919 % sample) * codebook->dim +
                                              s * codebook->sub_dim + j];
        for (uint32_t round = 0; round < TEST_SCALE(8u, 4u); round++) {
            double *sums = calloc(16u * (codebook->sub_dim + 1), sizeof *sums);
            for (uint32_t i = 0; i < sample; i++) {
                const float *residual = residuals + (size_t)i * codebook->dim;
                double *sum = sums + ivf_testing_word(made, s, residual) * (codebook->sub_dim + 1);
                for (uint32_t j = 0; j < dims; j++)
                    sum[j] += (double)residual[s * codebook->sub_dim + j];
                sum[codebook->sub_dim] += 1;
            }
            for (uint32_t w = 0; w < 16; w++)
                for (uint32_t j = 0; j < dims; j++)
                    if (sums[w * (codebook->sub_dim + 1) + codebook->sub_dim] > 0)
                        words[j * 16 + w] =
                            (float)(sums[w * (codebook->sub_dim + 1) + j] /
                                    sums[w * (codebook->sub_dim + 1) + codebook->sub_dim]);
            free(sums);
        }
    }
    free(residuals);
}

/* What a codebook derives from its centroids. */
static inline void ivf_testing_derive(struct ivf_testing_codebook *made)
{
    struct codebook *codebook = &made->codebook;
    const uint32_t dim = codebook->dim, dim4 = (dim + 3) / 4;
    float largest = 0;
    for (size_t i = 0; i < (size_t)codebook->n_lists * dim; i++)
        largest = fmaxf(largest, fabsf(made->centroids[i]));
    codebook->centroid_scale8 = largest / 127;
    for (uint32_t c = 0; c < codebook->n_lists; c++)
        for (uint32_t j = 0; j < dim && largest > 0; j++) {
            int8_t byte = (int8_t)lrintf(made->centroids[(size_t)c * dim + j] * 127 / largest);
            size_t at = (((size_t)c / 16 * dim4 + j / 4) * 16 + c % 16) * 4 + j % 4;
            made->centroids8[at] = byte;
        }
    codebook->centroids = made->centroids;
    codebook->minus = made->minus;
    codebook->subs = made->subs;
    codebook->centroids8 = made->centroids8;
}

/* centroids NULL: trained. */
static inline void ivf_testing_train(struct ivf_testing_codebook *made,
                                     const struct ivf_testing_shape *shape, const float *rows,
                                     uint32_t n, const float *centroids)
{
    static uint64_t number;
    const uint32_t dim = shape->dim, lists8 = (shape->n_lists + 15) / 16 * 16;
    struct codebook *codebook = &made->codebook;
    *codebook = (struct codebook){.metric = shape->metric,
                                  .codes = shape->codes,
                                  .dim = dim,
                                  .n_lists = shape->n_lists,
                                  .sub_dim = shape->sub_dim,
                                  .hash = ++number,
                                  .stretch = 1,
                                  .weight = codebook_weight(shape->metric),
                                  .n_lists8 = lists8,
                                  .scale8 = 1};
    if (shape->codes == CODEBOOK_PQ4)
        codebook->n_subs = ((dim + shape->sub_dim - 1) / shape->sub_dim + 1) & ~1u;
    made->centroids = calloc((size_t)shape->n_lists * dim, sizeof(float));
    made->heights = calloc(shape->n_lists, sizeof(float));
    made->minus = calloc(lists8, sizeof(float));
    made->subs = calloc((size_t)codebook->n_subs * shape->sub_dim * 16 + 1, sizeof(float));
    made->centroids8 = kith_alloc_aligned(64, (size_t)lists8 * ((dim + 3) / 4) * 4);
    memset(made->centroids8, 0, (size_t)lists8 * ((dim + 3) / 4) * 4);
    float low = FLT_MAX, high = -FLT_MAX;
    for (size_t i = 0; i < (size_t)n * dim; i++) {
        low = fminf(low, rows[i]);
        high = fmaxf(high, rows[i]);
    }
    if (shape->metric == KITH_MANHATTAN) {
        codebook->scale8 = high > low ? (high - low) / 254 : 1;
        codebook->offset8 = (low + high) / 2;
    }
    for (uint32_t i = 0; i < n && shape->metric == KITH_DOT; i++)
        codebook->lift = fmaxf(codebook->lift, (float)ivf_testing_dot(rows + (size_t)i * dim,
                                                                      rows + (size_t)i * dim, dim));
    for (uint32_t c = 0; c < shape->n_lists && centroids == NULL; c++) {
        const float *row = rows + (size_t)((uint64_t)c * n / shape->n_lists) * dim;
        memcpy(made->centroids + (size_t)c * dim, row, sizeof(float) * dim);
        made->heights[c] = ivf_testing_height(codebook, row);
    }
    if (centroids != NULL)
        memcpy(made->centroids, centroids, sizeof(float) * shape->n_lists * dim);
    ivf_testing_set_minus(made);
    for (uint32_t round = 0; round < shape->rounds && centroids == NULL; round++)
        ivf_testing_means(made, rows, n);
    if (shape->codes == CODEBOOK_PQ4)
        ivf_testing_train_subs(made, rows, n);
    ivf_testing_derive(made);
}

static inline void ivf_testing_free_codebook(struct ivf_testing_codebook *made)
{
    free(made->centroids);
    free(made->heights);
    free(made->minus);
    free(made->subs);
    kith_free(made->centroids8);
}

static inline void ivf_testing_store_tail(uint8_t *row8, uint32_t row8_bytes, float scale,
                                          float bias)
{
    memcpy(row8 + row8_bytes - IVF_ROW8_TAIL, &scale, sizeof scale);
    memcpy(row8 + row8_bytes - IVF_ROW8_TAIL + 4, &bias, sizeof bias);
}

static inline void ivf_testing_bytes(const struct codebook *codebook, const float *row,
                                     uint8_t *row8, uint32_t row8_bytes)
{
    memset(row8, IVF_BYTE_ZERO, row8_bytes);
    if (codebook->metric == KITH_MANHATTAN) {
        for (uint32_t j = 0; j < codebook->dim; j++)
            row8[j] = ivf_format_byte(codebook, row[j]);
        ivf_testing_store_tail(row8, row8_bytes, 0, 0);
        return;
    }
    float largest = 1e-30f;
    for (uint32_t j = 0; j < codebook->dim; j++)
        largest = fmaxf(largest, fabsf(row[j]));
    for (uint32_t j = 0; j < codebook->dim; j++)
        row8[j] = (uint8_t)(128 + lrintf(row[j] * (127 / largest)));
    /* The error is made orthogonal to the row. */
    double norm2 = ivf_testing_dot(row, row, codebook->dim), along = 0;
    for (uint32_t j = 0; j < codebook->dim; j++)
        along += (double)row[j] * (row8[j] - 128);
    ivf_testing_store_tail(row8, row8_bytes, along > 0 ? (float)(norm2 / along) : 0,
                           codebook->metric == KITH_EUCLID ? (float)(-norm2 / 2) : 0);
}

/* Codes of one row; returns its term, adds to the sums of squared errors. */
static inline float ivf_testing_code(const struct ivf_testing_codebook *made, uint32_t list,
                                     const float *row, uint8_t *words, double *error2)
{
    const struct codebook *codebook = &made->codebook;
    const uint32_t dim = codebook->dim;
    const float *centroid = made->centroids + (size_t)list * dim;
    float *residual = calloc(dim, sizeof *residual), *error = calloc(dim, sizeof *error);
    for (uint32_t j = 0; j < dim; j++)
        error[j] = residual[j] = row[j] - centroid[j];
    for (uint32_t s = 0; s < codebook->n_subs; s++) {
        words[s] = (uint8_t)ivf_testing_word(made, s, residual);
        for (uint32_t j = 0; j < ivf_testing_sub_dims(codebook, s); j++)
            error[s * codebook->sub_dim + j] -=
                made->subs[((size_t)s * codebook->sub_dim + j) * 16 + words[s]];
    }
    double term = ivf_testing_dot(centroid, error, dim) +
                  (double)IVF_EXACT_AT * ivf_testing_dot(residual, error, dim);
    if (codebook->metric == KITH_EUCLID)
        term -= (ivf_testing_dot(row, row, dim) - ivf_testing_dot(centroid, centroid, dim)) / 2;
    *error2 += ivf_testing_dot(error, error, dim) / dim;
    free(residual);
    free(error);
    return (float)term;
}

static inline void ivf_testing_encode(struct ivf_testing_index *made,
                                      const struct ivf_testing_codebook *codebook,
                                      const float *rows)
{
    struct ivf *ivf = &made->ivf;
    const uint32_t n_subs = codebook->codebook.n_subs, dim = codebook->codebook.dim;
    const size_t blocks = ivf_format_blocks(ivf->n_rows);
    made->codes = calloc(blocks + 1, ivf_format_block_bytes(n_subs));
    made->terms = calloc(blocks + 1, IVF_BLOCK * sizeof(int16_t));
    float *terms = calloc(ivf->n_rows + 1u, sizeof *terms);
    uint8_t *words = calloc(n_subs, 1);
    double error2 = 0;
    float largest = 0;
    for (uint32_t list = 0; list < codebook->codebook.n_lists; list++)
        for (uint32_t r = made->lists[list]; r < made->lists[list + 1]; r++) {
            terms[r] = ivf_testing_code(codebook, list, rows + (size_t)made->order[r] * dim, words,
                                        &error2);
            largest = fmaxf(largest, fabsf(terms[r]));
            for (uint32_t p = 0; p < n_subs / 2; p++)
                made->codes[ivf_format_code(n_subs, r, p)] =
                    (uint8_t)(words[2 * p] | words[2 * p + 1] << 4);
        }
    ivf->term_scale = largest / INT16_MAX;
    for (uint32_t r = 0; r < ivf->n_rows && largest > 0; r++)
        made->terms[r] = (int16_t)lrintf(terms[r] / ivf->term_scale);
    ivf->error = ivf->n_rows > 0 ? (float)sqrt(error2 / ivf->n_rows) : 0;
    free(words);
    free(terms);
    ivf->codes = made->codes;
    ivf->terms = made->terms;
}

static inline float ivf_testing_step(const struct codebook *codebook, const float *row)
{
    float largest = 0;
    for (uint32_t j = 0; j < codebook->dim; j++)
        largest = fmaxf(largest, fabsf(row[j]));
    return codebook->metric == KITH_MANHATTAN ? codebook->scale8 : largest / 127;
}

static inline void ivf_testing_build(struct ivf_testing_index *made,
                                     const struct ivf_testing_codebook *codebook,
                                     enum kith_row_type row_type, const float *rows, uint32_t n)
{
    const struct codebook *shape = &codebook->codebook;
    const uint32_t dim = shape->dim, row8_bytes = ivf_format_row8_bytes(dim);
    const uint32_t width = row_type == KITH_ROWS_F16 ? 2 : 4;
    struct ivf *ivf = &made->ivf;
    *made = (struct ivf_testing_index){
        .ivf = {.codebook = shape, .n_rows = n, .row_type = row_type, .row8_bytes = row8_bytes}};
    uint32_t *assigned = calloc(n + 1u, sizeof *assigned);
    made->order = calloc(n + 1u, sizeof *made->order);
    made->lists = calloc(shape->n_lists + 2u, sizeof *made->lists);
    made->rows = calloc((size_t)n * dim + 1, width);
    made->rows8 = kith_alloc_aligned(64, ((size_t)n + 1) * row8_bytes);
    double energy = 0;
    float *residual = calloc(dim, sizeof *residual);
    for (uint32_t i = 0; i < n; i++) {
        assigned[i] = ivf_testing_nearest(codebook, rows + (size_t)i * dim);
        made->lists[assigned[i] + 2]++;
        for (uint32_t j = 0; j < dim; j++)
            residual[j] =
                rows[(size_t)i * dim + j] - codebook->centroids[(size_t)assigned[i] * dim + j];
        energy += ivf_testing_dot(residual, residual, dim) / n;
    }
    free(residual);
    for (uint32_t c = 1; c < shape->n_lists + 2; c++)
        made->lists[c] += made->lists[c - 1];
    for (uint32_t i = 0; i < n; i++)
        made->order[made->lists[assigned[i] + 1]++] = i;
    free(assigned);
    float step = 0;
    for (uint32_t r = 0; r < n; r++) {
        const float *row = rows + (size_t)made->order[r] * dim;
        if (row_type == KITH_ROWS_F16)
            kith_f16_pack((uint16_t *)made->rows + (size_t)r * dim, row, dim);
        else
            memcpy((float *)made->rows + (size_t)r * dim, row, sizeof(float) * dim);
        ivf_testing_bytes(shape, row, made->rows8 + (size_t)r * row8_bytes, row8_bytes);
        step = fmaxf(step, ivf_testing_step(shape, row));
    }
    ivf->residual_energy = (float)energy;
    /* Of rounding to a step; under manhattan of a sum of so many. */
    ivf->error8 = 0.29f * step * (shape->metric == KITH_MANHATTAN ? sqrtf((float)dim) : 1);
    ivf->rows = made->rows;
    ivf->rows8 = made->rows8;
    ivf->lists = made->lists;
    if (shape->codes == CODEBOOK_PQ4)
        ivf_testing_encode(made, codebook, rows);
}

static inline void ivf_testing_free(struct ivf_testing_index *made)
{
    free(made->order);
    free(made->lists);
    free(made->rows);
    free(made->codes);
    free(made->terms);
    kith_free(made->rows8);
}

#endif
