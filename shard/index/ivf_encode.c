/* 32 rows at a time: rows and residuals are turned, so that each dimension of all 32 lies together,
 * which is what the encoder's lanes want; the terms are sums over dimensions of the same turned
 * values. They are neighbours, or, where others between them have codes already, the next 32 that
 * have none. Each block of codes is written by one thread. */
#include "shard/index/ivf_encode.h"

#include <float.h>
#include <string.h>

#include "common/kith_f16.h"
#include "common/kith_mem.h"
#include "shard/index/pq.h"

#define BLOCKS_A_PIECE 16u
#define TERM_RMS_MAX   64.0f /* larger terms are cut: one odd row must not blur all others */
#define TERM_MAX       32767.0f
#define PREFETCH_BYTES 512u   /* of each row of the next block; the hardware does the rest */
#define TINY           1e-30f /* rows whose largest value is below have no bytes */

/* Sums of one worker. */
struct errors {
    double codes, bytes; /* squared lengths */
    uint64_t rows;
};

struct run {
    const struct ivf_encode *encode;
    struct ivf_encoded *out;
    float *terms;  /* before they have a scale */
    float *halves; /* of the words */
    struct errors *errors;
    float *scratch; /* of each worker */
    size_t scratch_floats;
};

/* Rows that are encoded together. Turned arrays: [dimension][32]. */
struct block {
    uint32_t at[BUILD_LANES], n, list; /* at: ascending */
    float *rows;                       /* as they are */
    float *turned, *residual;          /* turned */
};

static uint32_t padded_dim(const struct codebook *codebook)
{
    uint32_t padded = codebook->n_subs * codebook->sub_dim;
    return padded > codebook->dim ? padded : codebook->dim;
}

/* Those of the next 32 that are to be encoded. */
static void prefetch_rows(const struct ivf_encode *encode, uint32_t first)
{
    const struct segment_source *source = encode->source;
    uint32_t in;
    size_t bytes = encode->codebook->dim * (encode->type == KITH_ROWS_F16 ? 2 : 4);
    bytes = bytes < PREFETCH_BYTES ? bytes : PREFETCH_BYTES;
    for (uint32_t i = first; i < first + BUILD_LANES && i < source->n_rows; i++) {
        if (ivf_reuse_find(encode->reuse, encode->order[i], &in) != NULL)
            continue;
        const uint8_t *row = source->row(source->ctx, encode->order[i]);
        for (size_t at = 0; at < bytes; at += 64)
            __builtin_prefetch(row + at);
    }
}

static void load_rows(const struct ivf_encode *encode, const struct block *block)
{
    uint32_t dim = encode->codebook->dim;
    for (uint32_t r = 0; r < block->n; r++) {
        const void *row = encode->source->row(encode->source->ctx, encode->order[block->at[r]]);
        float *out = block->rows + (size_t)r * dim;
        if (encode->type == KITH_ROWS_F16)
            kith_f16_unpack(out, row, dim);
        else
            memcpy(out, row, dim * sizeof *out);
    }
}

/* Lanes behind the last row keep what was in them: nobody reads their codes. */
static void turn_rows(const struct ivf_encode *encode, struct block *block)
{
    const struct codebook *codebook = encode->codebook;
    for (uint32_t r = 0; r < block->n; r++) {
        while (encode->lists[block->list + 1] <= block->at[r])
            block->list++;
        const float *row = block->rows + (size_t)r * codebook->dim;
        const float *centroid = codebook->centroids + (size_t)block->list * codebook->dim;
        for (uint32_t j = 0; j < codebook->dim; j++) {
            block->turned[j * BUILD_LANES + r] = row[j];
            block->residual[j * BUILD_LANES + r] = row[j] - centroid[j];
        }
    }
}

/* Sums over the dimensions of each row: x the row, r its residual, e what the code leaves of r. */
struct sums {
    float rx[BUILD_LANES], rr[BUILD_LANES], xe[BUILD_LANES], re[BUILD_LANES], ee[BUILD_LANES];
};

static void add_sub(struct sums *sums, const struct block *block, const struct codebook *codebook,
                    uint32_t sub, const uint8_t *codes)
{
    const float *words = codebook->subs + (size_t)sub * codebook->sub_dim * BUILD_WORDS;
    uint32_t first = sub * codebook->sub_dim;
    for (uint32_t j = first; j < first + codebook->sub_dim && j < codebook->dim; j++) {
        const float *x = block->turned + (size_t)j * BUILD_LANES;
        const float *residual = block->residual + (size_t)j * BUILD_LANES;
        float word[BUILD_LANES];
        for (uint32_t r = 0; r < BUILD_LANES; r++)
            word[r] = words[(j - first) * BUILD_WORDS + codes[r]];
        for (uint32_t r = 0; r < BUILD_LANES; r++) {
            float e = residual[r] - word[r];
            sums->rx[r] += residual[r] * x[r];
            sums->rr[r] += residual[r] * residual[r];
            sums->xe[r] += x[r] * e;
            sums->re[r] += residual[r] * e;
            sums->ee[r] += e * e;
        }
    }
}

static float numbers_only(float value)
{
    return isfinite(value) ? value : 0.0f;
}

static void make_terms(struct run *run, const struct sums *sums, const struct block *block,
                       struct errors *errors)
{
    bool euclid = run->encode->codebook->metric == KITH_EUCLID;
    for (uint32_t r = 0; r < block->n; r++) {
        float term = sums->xe[r] - (1.0f - IVF_EXACT_AT) * sums->re[r];
        if (euclid) /* (|x|^2 - |c|^2) / 2, which does not cancel far from the origin */
            term -= sums->rx[r] - sums->rr[r] / 2;
        run->terms[block->at[r]] = numbers_only(term);
        errors->codes += isfinite(sums->ee[r]) ? (double)sums->ee[r] : 0.0;
    }
}

static void encode_block(struct run *run, struct block *block, struct errors *errors)
{
    const struct codebook *codebook = run->encode->codebook;
    struct sums sums = {0};
    for (uint32_t sub = 0; sub < codebook->n_subs; sub++) {
        uint8_t codes[BUILD_LANES];
        size_t words = (size_t)sub * codebook->sub_dim;
        build_kernels()->encode(block->residual + words * BUILD_LANES,
                                codebook->subs + words * BUILD_WORDS,
                                run->halves + (size_t)sub * BUILD_WORDS, codebook->sub_dim, codes);
        add_sub(&sums, block, codebook, sub, codes);
        for (uint32_t r = 0; r < block->n; r++)
            run->out->codes[ivf_format_code(codebook->n_subs, block->at[r], sub / 2)] |=
                (uint8_t)(codes[r] << (sub % 2 * 4));
    }
    make_terms(run, &sums, block, errors);
}

static void store_tail(uint8_t *row8, uint32_t row8_bytes, float scale, float bias)
{
    uint8_t *tail = row8 + row8_bytes - IVF_ROW8_TAIL;
    uint32_t bits[2];
    memcpy(&bits[0], &scale, sizeof scale);
    memcpy(&bits[1], &bias, sizeof bias);
    kith_store_u32(tail, bits[0]);
    kith_store_u32(tail + 4, bits[1]);
}

static void common_bytes(const struct codebook *codebook, const float *row, uint8_t *out,
                         struct errors *errors)
{
    for (uint32_t j = 0; j < codebook->dim; j++) {
        out[j] = ivf_format_byte(codebook, row[j]);
        float error =
            row[j] - codebook->offset8 - ((float)out[j] - (float)IVF_BYTE_ZERO) * codebook->scale8;
        errors->bytes += isfinite(error) ? (double)error * (double)error : 0.0;
    }
}

/* The scale that leaves an error orthogonal to the row, so that products with queries along the row
 * come out right on average. */
static void scaled_bytes(const struct codebook *codebook, const float *row, uint8_t *out,
                         uint32_t row8_bytes, struct errors *errors)
{
    float most = ivf_format_largest(row, codebook->dim), scale = 0.0f;
    float xx = build_kernels()->square(row, codebook->dim);
    if (most > TINY && isfinite(xx)) {
        build_kernels()->bytes(row, codebook->dim, 127.0f / most, out);
        float xu = 0.0f;
        int32_t uu = 0;
        for (uint32_t j = 0; j < codebook->dim; j++) {
            int32_t u = out[j] - (int32_t)IVF_BYTE_ZERO;
            xu += row[j] * (float)u;
            uu += u * u;
        }
        scale = numbers_only(xx / xu);
        double left = (double)scale * (double)scale * uu - (double)xx;
        errors->bytes += left > 0.0 ? left : 0.0;
    }
    float bias = codebook->metric == KITH_EUCLID ? -xx / 2 : 0.0f;
    store_tail(out, row8_bytes, scale, bias > -FLT_MAX ? bias : -FLT_MAX);
}

static void make_bytes(struct run *run, const struct block *block, struct errors *errors)
{
    const struct codebook *codebook = run->encode->codebook;
    uint32_t stride = run->out->row8_bytes;
    for (uint32_t r = 0; r < block->n; r++) {
        uint8_t *out = run->out->rows8 + (size_t)block->at[r] * stride;
        const float *row = block->rows + (size_t)r * codebook->dim;
        memset(out, IVF_BYTE_ZERO, stride - IVF_ROW8_TAIL);
        if (codebook->metric == KITH_MANHATTAN) {
            common_bytes(codebook, row, out, errors);
            store_tail(out, stride, 0.0f, 0.0f);
        } else {
            scaled_bytes(codebook, row, out, stride, errors);
        }
    }
}

static void encode_rows(struct run *run, struct block *block, struct errors *errors)
{
    if (block->n == 0)
        return;
    load_rows(run->encode, block);
    prefetch_rows(run->encode, block->at[block->n - 1] + 1);
    if (run->out->codes != NULL) {
        turn_rows(run->encode, block);
        encode_block(run, block, errors);
    }
    make_bytes(run, block, errors);
    errors->rows += block->n;
    block->n = 0;
}

/* How many times the variance along one direction a squared error of bytes is. */
static double directions(const struct codebook *codebook)
{
    return codebook->metric == KITH_MANHATTAN ? 0.5 : codebook->dim;
}

/* Row i is row `in` of a segment. */
static void copy_row(struct run *run, uint32_t i, const struct ivf *from, uint32_t in,
                     struct errors *errors)
{
    const struct codebook *codebook = run->encode->codebook;
    size_t stride = run->out->row8_bytes;
    if (run->out->codes != NULL) {
        for (uint32_t pair = 0; pair < codebook->n_subs / 2; pair++)
            run->out->codes[ivf_format_code(codebook->n_subs, i, pair)] =
                from->codes[ivf_format_code(codebook->n_subs, in, pair)];
        run->terms[i] = (float)from->terms[in] * from->term_scale;
        errors->codes += (double)from->error * (double)from->error * codebook->dim;
    }
    memcpy(run->out->rows8 + i * stride, from->rows8 + in * stride, stride);
    errors->bytes += (double)from->error8 * (double)from->error8 * directions(codebook);
    errors->rows++;
}

static void encode_piece(void *ctx, uint32_t piece, uint32_t worker)
{
    struct run *run = ctx;
    const struct ivf_encode *encode = run->encode;
    const struct codebook *codebook = encode->codebook;
    uint32_t first = piece * BLOCKS_A_PIECE * IVF_BLOCK, end = first + BLOCKS_A_PIECE * IVF_BLOCK;
    uint32_t list = ivf_format_list_of(encode->lists, codebook->n_lists, first), in;
    struct block block = {.rows = run->scratch + worker * run->scratch_floats, .list = list};
    block.turned = block.rows + (size_t)codebook->dim * BUILD_LANES;
    block.residual = block.turned + (size_t)codebook->dim * BUILD_LANES;
    end = end < encode->source->n_rows ? end : encode->source->n_rows;
    if (workers_stopped(encode->workers))
        return;
    for (uint32_t i = first; i < end; i++) {
        const struct ivf *from = ivf_reuse_find(encode->reuse, encode->order[i], &in);
        while (encode->lists[list + 1] <= i)
            list++;
        if (from != NULL) {
            ivf_need_list(from, list); /* it has the same number there */
            copy_row(run, i, from, in, &run->errors[worker]);
            continue;
        }
        block.at[block.n++] = i;
        if (block.n == BUILD_LANES)
            encode_rows(run, &block, &run->errors[worker]);
    }
    encode_rows(run, &block, &run->errors[worker]);
}

static void scale_terms(struct run *run)
{
    uint32_t n = run->encode->source->n_rows;
    double squares = 0.0;
    float most = 0.0f;
    for (uint32_t i = 0; i < n; i++) {
        squares += (double)run->terms[i] * (double)run->terms[i];
        most = fabsf(run->terms[i]) > most ? fabsf(run->terms[i]) : most;
    }
    float limit = TERM_RMS_MAX * (float)sqrt(squares / n);
    most = most < limit ? most : limit;
    float scale = numbers_only(most / TERM_MAX);
    for (uint32_t i = 0; i < n && scale > 0.0f; i++) {
        float steps = nearbyintf(run->terms[i] / scale);
        steps = steps > TERM_MAX ? TERM_MAX : steps < -TERM_MAX ? -TERM_MAX : steps;
        run->out->terms[i] = (int16_t)steps;
    }
    run->out->term_scale = scale;
}

/* Standard deviation along one direction, from summed squared lengths. */
static float deviation(double squares, double n)
{
    double value = sqrt(squares / n);
    return value < (double)FLT_MAX ? (float)value : FLT_MAX;
}

static enum kith_err encode_all(struct run *run, struct kith_diag *diag)
{
    const struct ivf_encode *encode = run->encode;
    const struct codebook *codebook = encode->codebook;
    uint32_t rows = BLOCKS_A_PIECE * IVF_BLOCK;
    if (run->halves != NULL) {
        pq_halves(codebook->subs, codebook->sub_dim, codebook->n_subs, run->halves);
        /* The word whose mean is nearest: <r,w/s> - |w/s|^2/2 is largest where <r,w> - |w|^2/2s is.
         */
        for (size_t i = 0; i < (size_t)codebook->n_subs * BUILD_WORDS; i++)
            run->halves[i] /= codebook->stretch;
    }
    enum kith_err err = workers_run(encode->workers, (encode->source->n_rows + rows - 1) / rows,
                                    encode_piece, run, diag);
    if (err != KITH_OK)
        return err;
    struct errors all = {0};
    for (uint32_t i = 0; i < encode->workers->threads; i++) {
        all.codes += run->errors[i].codes;
        all.bytes += run->errors[i].bytes;
        all.rows += run->errors[i].rows;
    }
    run->out->error = deviation(all.codes, (double)all.rows * codebook->dim);
    run->out->error8 = deviation(all.bytes, (double)all.rows * directions(codebook));
    if (run->terms != NULL)
        scale_terms(run);
    return KITH_OK;
}

static bool make_room(struct run *run)
{
    const struct ivf_encode *encode = run->encode;
    const struct codebook *codebook = encode->codebook;
    size_t n = encode->source->n_rows, blocks = ivf_format_blocks(encode->source->n_rows);
    uint32_t threads = encode->workers->threads;
    struct ivf_encoded *out = run->out;
    bool fits = true;
    if (codebook->codes == CODEBOOK_PQ4) {
        out->codes = kith_alloc(blocks * ivf_format_block_bytes(codebook->n_subs));
        out->terms = kith_alloc(ivf_format_terms_bytes(encode->source->n_rows));
        run->terms = kith_alloc(n * sizeof *run->terms);
        run->halves = kith_alloc((size_t)codebook->n_subs * BUILD_WORDS * sizeof *run->halves);
        fits =
            out->codes != NULL && out->terms != NULL && run->terms != NULL && run->halves != NULL;
    }
    out->row8_bytes = ivf_format_row8_bytes(codebook->dim);
    out->rows8 = kith_alloc_aligned(IVF_ROW8_ALIGN, n * out->row8_bytes);
    run->errors = kith_alloc(threads * sizeof *run->errors);
    run->scratch_floats = BUILD_LANES * (2 * (size_t)codebook->dim + padded_dim(codebook));
    /* Zeroed: the columns behind the last dimension. */
    run->scratch = kith_alloc(threads * run->scratch_floats * sizeof *run->scratch);
    return fits && out->rows8 != NULL && run->errors != NULL && run->scratch != NULL;
}

enum kith_err ivf_encode_run(const struct ivf_encode *encode, struct ivf_encoded *out,
                             struct kith_diag *diag)
{
    struct ivf_encoded made = {0};
    struct run run = {.encode = encode, .out = &made};
    enum kith_err err = KITH_OK;
    if (encode->codebook->codes == CODEBOOK_ROWS) {
        *out = made;
        return KITH_OK;
    }
    if (!make_room(&run))
        err = kith_fail(diag, KITH_NOMEM, "codes of %u rows", encode->source->n_rows);
    else
        err = encode_all(&run, diag);
    kith_free(run.scratch);
    kith_free(run.errors);
    kith_free(run.halves);
    kith_free(run.terms);
    if (err == KITH_OK)
        *out = made;
    else
        ivf_encode_free(&made);
    return err;
}

void ivf_encode_free(struct ivf_encoded *encoded)
{
    kith_free(encoded->codes);
    kith_free(encoded->terms);
    kith_free(encoded->rows8);
    *encoded = (struct ivf_encoded){0};
}
