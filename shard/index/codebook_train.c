/* Training: centroids by k-means, then a product quantizer of what they leave of some rows, then
 * the residual energy of rows that had no part in either. */
#include <float.h>
#include <math.h>
#include <string.h>

#include "common/kith_mem.h"
#include "common/kith_sort.h"
#include "proto/kith_limits.h"
#include "shard/index/codebook_format.h"
#include "shard/index/kmeans.h"
#include "shard/index/pq.h"

#define ROWS_PER_LIST     256u /* the last stage of k-means */
#define ROWS_PER_LIST_MIN 8u   /* fewer lists rather than emptier ones */
#define SAMPLE_BYTES_MAX  (1u << 30)
#define PQ_ROWS           32768u
#define PQ_BYTES_MAX      (128u << 20)
#define NARROW_DIM        200u /* up to here three dimensions for each sub-quantizer, above eight */
#define NORM_MAX          1e30f /* squared length of a row: sums of many stay finite */

/* Held out to measure the residual energy: its error is about 1/sqrt of them, more when a few rows
 * have most of the energy. */
#define HELD_SHARE     32u
#define HELD_MAX       4096u
#define HELD_SHARE_MAX 8u /* of small samples */
#define HELD_WANTED    1024u

static uint32_t held_of(uint32_t n_rows)
{
    uint32_t held = n_rows / HELD_SHARE_MAX;
    held = held < HELD_WANTED ? held : HELD_WANTED;
    held = n_rows / HELD_SHARE > held ? n_rows / HELD_SHARE : held;
    return held < HELD_MAX ? held : HELD_MAX;
}

uint32_t codebook_lists_for(uint64_t collection_rows)
{
    double lists = 2.0 * sqrt((double)collection_rows);
    uint32_t whole = lists < (double)CODEBOOK_LISTS_MAX ? (uint32_t)lists : CODEBOOK_LISTS_MAX;
    whole = (whole + 15) & ~15u; /* the kernels rank 16 at a time */
    return whole < 16 ? 16 : whole;
}

uint32_t codebook_sub_dim_for(uint32_t dim)
{
    return dim <= NARROW_DIM ? 3 : 8;
}

uint32_t codebook_sample_rows(uint64_t collection_rows, uint32_t dim)
{
    uint64_t rows = (uint64_t)codebook_lists_for(collection_rows) * ROWS_PER_LIST;
    rows += HELD_MAX;
    uint64_t room = SAMPLE_BYTES_MAX / ((uint64_t)dim * sizeof(float));
    rows = rows < room ? rows : room;
    return (uint32_t)(rows < collection_rows ? rows : collection_rows);
}

struct run {
    const struct codebook_training *training;
    struct codebook_parts parts;
    struct nearest_space space;
    struct workers workers;
    uint32_t n_train, n_held; /* the first and the last of the rows */
    float *centroids;         /* prepared */
    struct nearest_set set;   /* of them */
    uint8_t *bytes;
};

static enum kith_err check(const struct codebook_training *t, struct kith_diag *diag)
{
    if (t->n_rows == 0)
        return kith_fail(diag, KITH_UNPROCESSABLE, "no rows to train on");
    if (t->codes == CODEBOOK_PQ4 && t->config->metric == KITH_MANHATTAN)
        return kith_fail(diag, KITH_UNSUPPORTED, "no product quantizer under manhattan");
    if (t->n_lists > CODEBOOK_LISTS_MAX || t->sub_dim > CODEBOOK_SUB_DIM_MAX)
        return kith_fail(diag, KITH_TOO_BIG, "at most %u lists and %u dimensions a code",
                         CODEBOOK_LISTS_MAX, CODEBOOK_SUB_DIM_MAX);
    return KITH_OK;
}

static void choose_shape(struct run *run)
{
    const struct codebook_training *t = run->training;
    const struct slice_config *config = t->config;
    run->n_held = held_of(t->n_rows);
    run->n_train = t->n_rows - run->n_held;
    uint32_t lists = t->n_lists > 0 ? t->n_lists : codebook_lists_for(t->collection_rows);
    uint32_t most = run->n_train / ROWS_PER_LIST_MIN;
    if (most < 1)
        most = 1;
    struct codebook_parts *parts = &run->parts;
    parts->metric = config->metric;
    parts->codes = t->codes;
    parts->dim = config->dim;
    parts->n_lists = lists < most ? lists : most;
    parts->generation = t->generation;
    parts->trained_rows = t->collection_rows;
    parts->scale8 = parts->stretch = 1.0f;
    if (t->codes == CODEBOOK_PQ4) {
        parts->sub_dim = t->sub_dim > 0 ? t->sub_dim : codebook_sub_dim_for(config->dim);
        parts->n_subs = codebook_format_subs(config->dim, parts->sub_dim);
    }
}

/* The longest row decides the lift; KITH_UNPROCESSABLE for rows that are no numbers. */
static enum kith_err measure(struct run *run, struct kith_diag *diag)
{
    const struct codebook_training *t = run->training;
    float most = 0.0f;
    for (uint32_t i = 0; i < t->n_rows; i++) {
        float length =
            build_kernels()->square(t->rows + (size_t)i * run->parts.dim, run->parts.dim);
        if (!(length <= NORM_MAX))
            return kith_fail(diag, KITH_UNPROCESSABLE, "a row is too long to train on");
        most = length > most ? length : most;
    }
    run->parts.lift = run->parts.metric == KITH_DOT ? most : 0.0f;
    run->space = nearest_space_of(run->parts.metric, run->parts.dim, run->parts.lift);
    return KITH_OK;
}

/* The common scale of bytes holds all values but the outermost ones. */
static enum kith_err choose_scale(struct run *run, struct kith_diag *diag)
{
    enum { VALUES_MAX = 1 << 16, OUTSIDE = 2000 };
    if (run->parts.metric != KITH_MANHATTAN)
        return KITH_OK;
    size_t all = (size_t)run->training->n_rows * run->parts.dim;
    size_t n = all < VALUES_MAX ? all : VALUES_MAX, step = all / n;
    float *values = kith_alloc(n * sizeof *values);
    if (values == NULL)
        return kith_fail(diag, KITH_NOMEM, "training");
    step += step > 1 && step % run->parts.dim == 0; /* all dimensions have their turn */
    for (size_t i = 0; i < n; i++)
        values[i] = run->training->rows[i * step % all];
    kith_sort_floats(values, n);
    float low = values[n / OUTSIDE], high = values[n - 1 - n / OUTSIDE];
    kith_free(values);
    run->parts.offset8 = low + (high - low) / 2;
    run->parts.scale8 = high > low ? (high - low) / 254.0f : 1.0f;
    return KITH_OK;
}

/* What centroids leave of rows first .. first + n of the sample: by columns, or only its energy. */
struct residuals {
    struct run *run;
    uint32_t first, n;
    uint32_t have;  /* rows there are; row i is i % have: a tiny sample is repeated */
    float *columns; /* n_subs * sub_dim columns of n; NULL: not wanted */
    double *energy; /* of each piece */
    float *scratch; /* of each worker */
    size_t scratch_floats;
};

static void residual_piece(void *ctx, uint32_t piece, uint32_t worker)
{
    const struct residuals *r = ctx;
    const struct nearest_space *space = &r->run->space;
    uint32_t at = piece * NEAREST_ROWS, lists[NEAREST_ROWS];
    uint32_t n = r->n - at < NEAREST_ROWS ? r->n - at : NEAREST_ROWS;
    float lengths[NEAREST_ROWS], scores[NEAREST_ROWS];
    float *rows = r->scratch + worker * r->scratch_floats;
    if (workers_stopped(&r->run->workers))
        return;
    for (uint32_t i = 0; i < n; i++) {
        size_t row = r->first + (at + i) % r->have;
        lengths[i] = nearest_prepare(space, r->run->training->rows + row * space->dim,
                                     KITH_ROWS_F32, rows + (size_t)i * space->width);
    }
    struct nearest_rows prepared = {rows, lengths, n};
    nearest_find(&r->run->set, &prepared, rows + (size_t)NEAREST_ROWS * space->width, lists,
                 scores);
    r->energy[piece] = 0.0;
    for (uint32_t i = 0; i < n; i++) {
        float energy = lengths[i] - 2 * scores[i];
        r->energy[piece] += energy > 0.0f ? (double)energy : 0.0;
        const float *centroid = r->run->centroids + (size_t)lists[i] * space->width;
        for (uint32_t j = 0; j < space->dim && r->columns != NULL; j++)
            r->columns[(size_t)j * r->n + at + i] =
                rows[(size_t)i * space->width + j] - centroid[j];
    }
}

static enum kith_err find_residuals(struct residuals *r, double *mean, struct kith_diag *diag)
{
    uint32_t pieces = (r->n + NEAREST_ROWS - 1) / NEAREST_ROWS;
    r->scratch_floats = (size_t)NEAREST_ROWS * r->run->space.width +
                        nearest_scratch_bytes(&r->run->set) / sizeof(float);
    r->energy = kith_alloc(pieces * sizeof *r->energy);
    r->scratch =
        kith_alloc_aligned(64, r->run->workers.threads * r->scratch_floats * sizeof *r->scratch);
    enum kith_err err;
    if (r->energy == NULL || r->scratch == NULL)
        err = kith_fail(diag, KITH_NOMEM, "training");
    else
        err = workers_run(&r->run->workers, pieces, residual_piece, r, diag);
    *mean = 0.0;
    for (uint32_t i = 0; i < pieces && err == KITH_OK; i++)
        *mean += r->energy[i] / r->n;
    kith_free(r->scratch);
    kith_free(r->energy);
    return err;
}

static enum kith_err train_words(struct run *run, float *words, struct kith_diag *diag)
{
    struct codebook_parts *parts = &run->parts;
    size_t width = (size_t)parts->n_subs * parts->sub_dim;
    size_t n = PQ_BYTES_MAX / (width * sizeof(float));
    n = n < PQ_ROWS ? n : PQ_ROWS;
    n = (n < run->n_train ? n : run->n_train) / BUILD_LANES * BUILD_LANES;
    n = n < BUILD_LANES ? BUILD_LANES : n;
    uint32_t have = run->n_train < n ? run->n_train : (uint32_t)n;
    /* Zeroed: columns behind the last dimension. The last rows: k-means saw them least. */
    struct residuals residuals = {.run = run,
                                  .first = run->n_train - have,
                                  .n = (uint32_t)n,
                                  .have = have,
                                  .columns = kith_alloc(width * n * sizeof(float))};
    if (residuals.columns == NULL)
        return kith_fail(diag, KITH_NOMEM, "training");
    double mean;
    enum kith_err err = find_residuals(&residuals, &mean, diag);
    if (err == KITH_OK)
        err = pq_train(residuals.columns, residuals.n, parts->sub_dim, parts->n_subs, words,
                       &run->workers, diag);
    if (err == KITH_OK) {
        struct pq pq = {.sub_dim = parts->sub_dim, .n_subs = parts->n_subs, .words = words};
        parts->stretch = pq_stretch(residuals.columns, residuals.n, &pq);
    }
    for (size_t i = 0; i < width * CODEBOOK_WORDS; i++)
        words[i] *= parts->stretch;
    kith_free(residuals.columns);
    return err;
}

static enum kith_err find_energy(struct run *run, struct kith_diag *diag)
{
    bool all = run->n_held == 0; /* too few to hold any out */
    struct residuals held = {.run = run, .first = all ? 0 : run->n_train};
    held.n = held.have = all ? run->n_train : run->n_held;
    double mean;
    enum kith_err err = find_residuals(&held, &mean, diag);
    run->parts.residual_energy = (float)mean;
    return err;
}

/* The bytes of the codebook, without its hash. */
static enum kith_err fill(struct run *run, struct kith_diag *diag)
{
    const struct nearest_space *space = &run->space;
    const struct codebook_parts *parts = &run->parts;
    float *at = (void *)(run->bytes + CODEBOOK_HEADER_BYTES);
    for (uint32_t c = 0; c < parts->n_lists; c++, at += space->dim)
        memcpy(at, run->centroids + (size_t)c * space->width, space->dim * sizeof *at);
    for (uint32_t c = 0; c < parts->n_lists && parts->metric == KITH_DOT; c++)
        *at++ = run->centroids[(size_t)c * space->width + space->dim];
    enum kith_err err = parts->codes == CODEBOOK_PQ4 ? train_words(run, at, diag) : KITH_OK;
    if (err == KITH_OK)
        err = find_energy(run, diag);
    if (err == KITH_OK)
        codebook_format_store_header(run->bytes, parts);
    return err;
}

static enum kith_err train(struct run *run, struct codebook **out, struct kith_diag *diag)
{
    size_t len = codebook_format_bytes(&run->parts);
    run->bytes = kith_alloc_aligned(64, len);
    run->centroids =
        kith_alloc((size_t)run->parts.n_lists * run->space.width * sizeof *run->centroids);
    if (run->bytes == NULL || run->centroids == NULL)
        return kith_fail(diag, KITH_NOMEM, "codebook of %u lists", run->parts.n_lists);
    struct kmeans kmeans = {.space = run->space,
                            .rows = run->training->rows,
                            .n_rows = run->n_train,
                            .n_lists = run->parts.n_lists,
                            .workers = &run->workers};
    enum kith_err err = kmeans_train(&kmeans, run->centroids, diag);
    if (err == KITH_OK)
        err = nearest_set_init(&run->set, &run->space, run->centroids, run->parts.n_lists, diag);
    if (err == KITH_OK) {
        nearest_set_renew(&run->set);
        err = fill(run, diag);
    }
    if (err != KITH_OK)
        return err;
    kith_store_u64(run->bytes + len - CODEBOOK_HASH_BYTES,
                   codebook_hash(run->bytes, len - CODEBOOK_HASH_BYTES));
    err = codebook_adopt(out, run->bytes, len, run->training->config, diag);
    if (err == KITH_OK)
        run->bytes = NULL;
    return err;
}

enum kith_err codebook_train(struct codebook **out, const struct codebook_training *training,
                             struct kith_diag *diag)
{
    struct run run = {.training = training};
    enum kith_err err = check(training, diag);
    if (err != KITH_OK)
        return err;
    err = workers_init(&run.workers, training->threads, training->stop, training->stop_ctx, diag);
    if (err != KITH_OK)
        return err;
    choose_shape(&run);
    err = measure(&run, diag);
    if (err == KITH_OK)
        err = choose_scale(&run, diag);
    if (err == KITH_OK)
        err = train(&run, out, diag);
    nearest_set_fini(&run.set);
    kith_free(run.centroids);
    kith_free(run.bytes);
    workers_fini(&run.workers);
    return err;
}
