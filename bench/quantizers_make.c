/* Kith's product quantizer, and RaBitQ, over the rows of a set (quantizers.h). */
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "common/kith_mem.h"
#include "quantizers.h"
#include "shard/index/ivf_reuse.h"
#include "shard/index/kernels.h"
#include "shard/index/pq.h"

#define PQ_ROWS  32768u /* as codebook_train takes */
#define OPQ_ROWS 10240u
#define WORDS    16u
#define DIMS     4u  /* of RaBitQ: a code has a bit of each */
#define STEPS    25u /* widths that are tried for a row */

static void shape(struct quantizer *out, const struct quantizers_world *world, uint32_t dim,
                  uint32_t sub_dim)
{
    uint32_t subs = (dim + sub_dim - 1) / sub_dim;
    out->codebook = (struct codebook){.metric = KITH_COSINE,
                                      .codes = CODEBOOK_PQ4,
                                      .dim = dim,
                                      .n_lists = world->codebook->n_lists,
                                      .sub_dim = sub_dim,
                                      .n_subs = subs + subs % 2};
    out->words = kith_xalloc((size_t)out->codebook.n_subs * sub_dim * WORDS * sizeof(float));
    out->codebook.subs = out->words;
    float **numbers[] = {&out->centre_times, &out->times, &out->plus, &out->errors};
    for (size_t i = 0; i < sizeof numbers / sizeof numbers[0]; i++)
        *numbers[i] = kith_xalloc(world->set.n * sizeof(float));
}

void quantizers_free(struct quantizer *quantizer)
{
    quantizers_rotation_free(&quantizer->rotation);
    kith_free(quantizer->words);
    kith_free(quantizer->codes);
    kith_free(quantizer->terms);
    kith_free(quantizer->centre_times);
    kith_free(quantizer->times);
    kith_free(quantizer->plus);
    kith_free(quantizer->errors);
    kith_free(quantizer->rows8);
}

/* ---- estimates ------------------------------------------------------------------------------- */

/* Products of a row's residual r, the vector y that stands for it, and the centroid c. */
struct products {
    float rr, rc, yr, yy, yc;
};

static struct products products_of(const float *r, const float *y, const float *c, uint32_t dim)
{
    struct products p = {0};
    for (uint32_t j = 0; j < dim; j++) {
        p.rr += r[j] * r[j];
        p.rc += r[j] * c[j];
        p.yr += y[j] * r[j];
        p.yy += y[j] * y[j];
        p.yc += y[j] * c[j];
    }
    return p;
}

/* |f y - r|^2 */
static float left_of(const struct products *p, float f)
{
    float left = f * f * p->yy - 2 * f * p->yr + p->rr;
    return left > 0 ? left : 0;
}

/* An error of this length has so large a product with a vector of length 1, about. */
static float share_of(float length2, uint32_t dim)
{
    return sqrtf(length2 / (float)(dim - 1));
}

/* RaBitQ's estimate, for any y. */
static void scale_rows(struct quantizer *out, const struct products *products, uint32_t n,
                       uint32_t dim)
{
    double left = 0;
    for (uint32_t i = 0; i < n; i++) {
        const struct products *p = &products[i];
        float f = p->yr > 0 ? p->rr / p->yr : 0;
        out->centre_times[i] = 1;
        out->times[i] = f;
        out->plus[i] = p->rc - f * p->yc;
        out->errors[i] = share_of(left_of(p, f), dim);
        left += (double)left_of(p, f);
    }
    for (uint32_t i = 0; i < n && out->bits == 0; i++)
        out->errors[i] = share_of((float)(left / n), dim);
}

/* The share of the row in what means (code words that are not stretched) leave of it. */
static void correct_along_rows(struct quantizer *out, const struct products *products, uint32_t n,
                               uint32_t dim)
{
    float stretch = out->codebook.stretch;
    double left = 0;
    for (uint32_t i = 0; i < n; i++) {
        const struct products *p = &products[i];
        float share = p->rc + p->rr - (p->yc + p->yr) / stretch; /* |x| = 1 */
        left += (double)(left_of(p, 1 / stretch) - share * share);
        out->centre_times[i] = 1 / (1 - share);
        out->times[i] = out->centre_times[i] / stretch;
    }
    for (uint32_t i = 0; i < n; i++)
        out->errors[i] = share_of((float)(left / n), dim) * out->centre_times[i];
}

/* ---- product quantizer ----------------------------------------------------------------------- */

/* Residuals of the first rows, which are in random order. */
static float *residuals(const struct quantizers_world *world, const float *rows,
                        const float *centroids, uint32_t n)
{
    uint32_t dim = world->set.dim;
    float *out = kith_xalloc((size_t)n * dim * sizeof *out);
    for (uint32_t i = 0; i < n; i++)
        for (uint32_t j = 0; j < dim; j++)
            out[(size_t)i * dim + j] =
                rows[(size_t)i * dim + j] - centroids[(size_t)world->list_of[i] * dim + j];
    return out;
}

static struct quantizers_rotation learn_rotation(const struct quantizers_world *world,
                                                 enum quantizers_turn turn, uint32_t subs)
{
    const struct ann_set *set = &world->set;
    if (turn != QUANTIZERS_PCA && turn != QUANTIZERS_OPQ)
        return quantizers_rotation_new(turn, set->dim);
    uint32_t n = set->n < OPQ_ROWS ? set->n : OPQ_ROWS;
    float *sample = residuals(world, set->base, world->codebook->centroids, n);
    struct blas_block rows = {sample, n, set->dim};
    struct quantizers_rotation rotation = quantizers_rotation_learn(turn, rows, subs);
    kith_free(sample);
    return rotation;
}

static void train_words(struct quantizer *out, struct quantizers_world *world, const float *rows,
                        const float *centroids)
{
    const struct codebook *codebook = &out->codebook;
    uint32_t n = (world->set.n < PQ_ROWS ? world->set.n : PQ_ROWS) / BUILD_LANES * BUILD_LANES;
    float *sample = residuals(world, rows, centroids, n);
    float *columns =
        kith_xalloc((size_t)codebook->n_subs * codebook->sub_dim * n * sizeof *columns);
    for (uint32_t i = 0; i < n; i++)
        for (uint32_t j = 0; j < codebook->dim; j++)
            columns[(size_t)j * n + i] = sample[(size_t)i * codebook->dim + j];
    kith_free(sample);
    struct kith_diag diag = {0};
    if (pq_train(columns, n, codebook->sub_dim, codebook->n_subs, out->words, &world->workers,
                 &diag) != KITH_OK)
        quantizers_die("code words", &diag);
    struct pq pq = {.sub_dim = codebook->sub_dim, .n_subs = codebook->n_subs, .words = out->words};
    out->codebook.stretch = pq_stretch(columns, n, &pq);
    for (size_t i = 0; i < (size_t)codebook->n_subs * codebook->sub_dim * WORDS; i++)
        out->words[i] *= codebook->stretch;
    kith_free(columns);
}

struct matrix {
    const float *rows;
    uint32_t dim;
};

static const void *row_of(const void *ctx, uint32_t i)
{
    const struct matrix *matrix = ctx;
    return matrix->rows + (size_t)i * matrix->dim;
}

/* What a code stands for. */
static void decode(const struct quantizer *quantizer, uint32_t row, float *y)
{
    const struct codebook *codebook = &quantizer->codebook;
    uint32_t sub_dim = codebook->sub_dim;
    for (uint32_t j = 0; j < codebook->dim; j++) {
        uint32_t sub = j / sub_dim;
        uint32_t code =
            quantizer->codes[ivf_format_code(codebook->n_subs, row, sub / 2)] >> sub % 2 * 4 & 15;
        y[j] = codebook->subs[(size_t)j * WORDS + code];
    }
}

static void correct(struct quantizer *out, const struct quantizers_world *world, const float *rows)
{
    uint32_t n = world->set.n, dim = world->set.dim;
    struct products *products = kith_xalloc(n * sizeof *products);
    float *y = kith_xalloc(2 * dim * sizeof *y), *r = y + dim;
    for (uint32_t i = 0; i < n; i++) {
        uint32_t number = world->order[i];
        const float *x = rows + (size_t)number * dim;
        const float *c = out->codebook.centroids + (size_t)world->list_of[number] * dim;
        for (uint32_t j = 0; j < dim; j++)
            r[j] = x[j] - c[j];
        decode(out, i, y);
        products[i] = products_of(r, y, c, dim);
    }
    if (out->estimate == QUANTIZERS_OWN_SCALE)
        scale_rows(out, products, n, dim);
    else
        correct_along_rows(out, products, n, dim);
    memset(out->terms, 0, ivf_format_terms_bytes(n));
    kith_free(products);
    kith_free(y);
}

static void encode(struct quantizer *out, struct quantizers_world *world, const float *rows)
{
    struct matrix matrix = {rows, world->set.dim};
    struct segment_source source = {.n_rows = world->set.n, .row = row_of, .ctx = &matrix};
    struct ivf_reuse none = {.n_parts = 0};
    struct ivf_encode job = {.codebook = &out->codebook,
                             .source = &source,
                             .type = KITH_ROWS_F32,
                             .order = world->order,
                             .lists = world->lists,
                             .reuse = &none,
                             .workers = &world->workers};
    struct ivf_encoded made;
    struct kith_diag diag = {0};
    if (ivf_encode_run(&job, &made, &diag) != KITH_OK)
        quantizers_die("codes", &diag);
    out->codes = made.codes;
    out->terms = made.terms;
    out->rows8 = made.rows8;
    out->row8_bytes = made.row8_bytes;
    for (uint32_t i = 0; i < world->set.n; i++) {
        out->times[i] = out->centre_times[i] = 1;
        out->plus[i] = (float)made.terms[i] * made.term_scale;
        out->errors[i] = made.error;
    }
}

static void make_pq(struct quantizer *out, struct quantizers_world *world, uint32_t sub_dim,
                    enum quantizers_turn turn)
{
    const struct ann_set *set = &world->set;
    out->error_by =
        out->estimate == QUANTIZERS_ALONG_ROW ? QUANTIZERS_BY_LENGTH : QUANTIZERS_BY_TENTH;
    shape(out, world, set->dim, sub_dim);
    double before = quantizers_cpu_s();
    out->rotation = learn_rotation(world, turn, set->dim / sub_dim);
    out->train_s = quantizers_cpu_s() - before;
    float *rows = quantizers_rotate_all(&out->rotation, set->base, set->n);
    float *centroids =
        quantizers_rotate_all(&out->rotation, world->codebook->centroids, world->codebook->n_lists);
    out->codebook.centroids = centroids;
    before = quantizers_cpu_s();
    train_words(out, world, rows, centroids);
    out->train_s += quantizers_cpu_s() - before;
    before = quantizers_cpu_s();
    encode(out, world, rows);
    out->encode_us_a_row = (quantizers_cpu_s() - before) / set->n * 1e6;
    if (out->estimate != QUANTIZERS_ONE_SCALE)
        correct(out, world, rows);
    out->codebook.centroids = NULL;
    kith_free(centroids);
    kith_free(rows);
    out->bytes_a_row = out->codebook.n_subs / 2.0 + (out->estimate == QUANTIZERS_OWN_SCALE ? 4 : 2);
}

/* ---- RaBitQ ---------------------------------------------------------------------------------- */

/* Gao and Long: RaBitQ, Quantizing high-dimensional vectors with a theoretical error bound
 * (SIGMOD 2024); Gao et al.: Practical and asymptotically optimal quantization of high-dimensional
 * vectors in Euclidean space (SIGMOD 2025) for more bits.
 *
 * A residual r, rotated, becomes the vector y of the grid {u - (2^b - 1) / 2} whose direction is
 * nearest to it. With f = |r|^2 / <y,r>, <r,q - c> is estimated by f <y,q - c>, without bias, and
 * e = f y - r is orthogonal to r, so the error is |e| |q - c| / sqrt(dim - 1) about. <y,c> is known
 * beforehand, so a query needs its tables once, not once for every list. Bit p of four dimensions
 * is a code of a sub-quantizer whose words are 2^p * (+-1/2): tables and scan are those of the
 * product quantizer. */

struct rabitq {
    struct quantizer *out;
    const struct quantizers_world *world;
    const float *centroids; /* rotated */
    struct products *products;
};

/* Codes of a row on a grid of such a step; the cosine of row and grid vector. */
static float on_grid(const float *row, uint32_t dim, float step, float top, float *codes)
{
    float product = 0, square = 0;
    for (uint32_t j = 0; j < dim; j++) {
        float u = rintf(row[j] / step + top / 2);
        codes[j] = u < 0 ? 0 : u > top ? top : u;
        product += (codes[j] - top / 2) * row[j];
        square += (codes[j] - top / 2) * (codes[j] - top / 2);
    }
    return product / sqrtf(square);
}

/* The grid vector nearest in direction: of the steps tried, about the best for normal numbers (Max:
 * Quantizing for minimum distortion, 1960), the one that suits the row. With one bit only signs
 * count. */
static void choose(const float *row, uint32_t dim, uint32_t bits, float *codes)
{
    static const float usual[] = {0, 1e-3f, 0.9957f, 0.586f, 0.3352f};
    float top = (float)((1u << bits) - 1), square = 1e-30f, best = -1, step = 0;
    for (uint32_t j = 0; j < dim; j++)
        square += row[j] * row[j];
    float unit = sqrtf(square / (float)dim) * usual[bits];
    for (uint32_t i = 0; i < STEPS && bits > 1; i++) {
        float width = unit * (0.7f + 0.6f * (float)i / (STEPS - 1));
        float cosine = on_grid(row, dim, width, top, codes);
        step = cosine > best ? width : step;
        best = cosine > best ? cosine : best;
    }
    on_grid(row, dim, bits > 1 ? step : unit, top, codes);
}

static void store_codes(struct quantizer *out, uint32_t row, const float *codes)
{
    uint32_t n_subs = out->codebook.n_subs;
    for (uint32_t sub = 0; sub < out->codebook.dim / DIMS; sub++) {
        uint32_t group = sub / out->bits, plane = sub % out->bits, code = 0;
        for (uint32_t i = 0; i < DIMS; i++)
            code |= ((uint32_t)codes[group * DIMS + i] >> plane & 1) << i;
        out->codes[ivf_format_code(n_subs, row, sub / 2)] |= (uint8_t)(code << sub % 2 * 4);
    }
}

/* `row`: in the order of lists. */
static void encode_row(struct rabitq *run, uint32_t list, uint32_t row, float *scratch)
{
    struct quantizer *out = run->out;
    uint32_t dim = run->world->set.dim;
    const float *x = run->world->set.base + (size_t)run->world->order[row] * dim;
    const float *centroid = run->world->codebook->centroids + (size_t)list * dim;
    float *residual = scratch, *r = scratch + dim, *codes = scratch + 2 * dim;
    for (uint32_t j = 0; j < dim; j++)
        residual[j] = x[j] - centroid[j];
    quantizers_rotate(&out->rotation, residual, r, codes);
    choose(r, dim, out->bits, codes);
    store_codes(out, row, codes);
    for (uint32_t j = 0; j < dim; j++)
        codes[j] -= (float)((1u << out->bits) - 1) / 2;
    run->products[row] = products_of(r, codes, run->centroids + (size_t)list * dim, dim);
}

static void encode_list(void *ctx, uint32_t list, uint32_t worker)
{
    (void)worker;
    struct rabitq *run = ctx;
    float *scratch = kith_xalloc((size_t)3 * run->world->set.dim * sizeof *scratch);
    for (uint32_t row = run->world->lists[list]; row < run->world->lists[list + 1]; row++)
        encode_row(run, list, row, scratch);
    kith_free(scratch);
}

static void fill_words(struct quantizer *out)
{
    for (uint32_t sub = 0; sub < out->codebook.dim / DIMS; sub++)
        for (uint32_t i = 0; i < DIMS; i++)
            for (uint32_t w = 0; w < WORDS; w++)
                out->words[(sub * DIMS + i) * WORDS + w] =
                    (float)(1u << sub % out->bits) * ((w >> i & 1) != 0 ? 0.5f : -0.5f);
}

static void make_rabitq(struct quantizer *out, struct quantizers_world *world, uint32_t bits)
{
    uint32_t n = world->set.n, dim = world->set.dim;
    struct kith_diag diag = {0};
    out->error_by = QUANTIZERS_BY_CENTRE;
    shape(out, world, dim * bits, DIMS);
    fill_words(out);
    out->codes = kith_xalloc(ivf_format_blocks(n) * ivf_format_block_bytes(out->codebook.n_subs));
    out->terms = kith_xalloc(ivf_format_terms_bytes(n));
    float *centroids =
        quantizers_rotate_all(&out->rotation, world->codebook->centroids, world->codebook->n_lists);
    struct rabitq run = {out, world, centroids, kith_xalloc(n * sizeof *run.products)};
    double before = quantizers_cpu_s();
    if (workers_run(&world->workers, world->codebook->n_lists, encode_list, &run, &diag) != KITH_OK)
        quantizers_die("codes", &diag);
    out->encode_us_a_row = (quantizers_cpu_s() - before) / n * 1e6;
    scale_rows(out, run.products, n, dim);
    kith_free(run.products);
    kith_free(centroids);
    out->bytes_a_row = out->codebook.n_subs / 2.0 + 4;
}

/* ---- both ------------------------------------------------------------------------------------ */

void quantizers_name(const struct quantizers_choice *choice, char name[48])
{
    static const char *const turns[] = {"", ", hadamard", ", random", ", pca", ", opq"};
    static const char *const estimates[] = {", along row", ", own scale", ""};
    if (choice->bits > 0)
        snprintf(name, 48, "rabitq %u bit%s%s", choice->bits, choice->bits > 1 ? "s" : "",
                 choice->turn == QUANTIZERS_HADAMARD ? "" : turns[choice->turn]);
    else
        snprintf(name, 48, "pq4 of %u%s%s", choice->sub_dim, turns[choice->turn],
                 estimates[choice->estimate]);
}

void quantizers_make(struct quantizer *out, struct quantizers_world *world,
                     const struct quantizers_choice *choice)
{
    *out = (struct quantizer){.bits = choice->bits, .estimate = choice->estimate};
    quantizers_name(choice, out->name);
    if (choice->bits == 0) {
        make_pq(out, world, choice->sub_dim, choice->turn);
        return;
    }
    out->rotation = quantizers_rotation_new(choice->turn, world->set.dim);
    make_rabitq(out, world, choice->bits);
}
