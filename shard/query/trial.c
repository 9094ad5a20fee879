#include "shard/query/trial.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "common/kith_clock.h"
#include "common/kith_mem.h"
#include "shard/index/ivf_build.h"
#include "shard/query/search.h"
#include "shard/storage/io.h"
#include "shard/storage/row_codec.h"
#include "shard/storage/segment_build.h"
#include "shard/storage/view_build.h"

#define FOLDER        "kith-trial-XXXXXX"
#define DIR           "segments"
#define NUMBER        1u /* of the segment */
#define ROUNDS        5u
#define EXACT_QUERIES 200u /* at most; those take long */
#define EXACT_NS      1e9  /* and no more once they took so long */
#define ROUND_NS      5e7  /* a round is as many passes as take so long */

/* What is built up, and torn down in reverse. */
struct bed {
    const struct trial *trial;
    uint8_t *stored; /* the rows, as a segment has them */
    uint32_t row_bytes;
    char dir[4096]; /* "": none */
    struct io *io;
    struct ivf_builder *builder; /* NULL: no index */
    struct segment *segment;
    struct view *view;
    struct search_context *context;
};

static bool is_stopped(const struct trial *trial)
{
    return trial->stop != NULL && trial->stop(trial->stop_ctx);
}

/* ---- the segment ----------------------------------------------------------------------------- */

static const void *row_of(const void *ctx, uint32_t i)
{
    const struct bed *bed = ctx;
    return bed->stored + (size_t)i * bed->row_bytes;
}

static bool stop_of(const void *ctx)
{
    return is_stopped(((const struct bed *)ctx)->trial);
}

static struct kith_bytes vector_of(const struct trial *trial, uint32_t i)
{
    size_t bytes = trial->config.dim * sizeof(float);
    return (struct kith_bytes){(const uint8_t *)trial->rows + i * bytes, bytes};
}

static enum kith_err store_rows(struct bed *bed, struct kith_diag *diag)
{
    const struct trial *trial = bed->trial;
    bed->row_bytes = row_codec_bytes(&trial->config);
    bed->stored = kith_alloc_aligned(64, (size_t)trial->n_rows * bed->row_bytes);
    if (bed->stored == NULL)
        return kith_fail(diag, KITH_NOMEM, "%u rows", trial->n_rows);
    for (uint32_t i = 0; i < trial->n_rows + trial->n_queries; i++) {
        struct kith_diag why = {0};
        if (row_codec_check(&trial->config, vector_of(trial, i), &why) != KITH_OK)
            return kith_fail(diag, why.err, "vector %u: %s", i, why.text);
        if (i < trial->n_rows)
            row_codec_encode(&trial->config, vector_of(trial, i),
                             bed->stored + (size_t)i * bed->row_bytes);
    }
    return KITH_OK;
}

/* Every so manyth row, decoded. The sample is in no order, so that will do. */
static enum kith_err train(struct bed *bed, struct kith_diag *diag)
{
    const struct trial *trial = bed->trial;
    uint32_t dim = trial->config.dim, n = codebook_sample_rows(trial->n_rows, dim);
    n = n < trial->n_rows ? n : trial->n_rows;
    float *rows = kith_alloc((size_t)n * dim * sizeof *rows);
    if (rows == NULL)
        return kith_fail(diag, KITH_NOMEM, "%u rows to train on", n);
    for (uint32_t i = 0; i < n; i++)
        row_codec_decode(&trial->config, row_of(bed, (uint32_t)((uint64_t)i * trial->n_rows / n)),
                         rows + (size_t)i * dim);
    struct codebook_training training = {.config = &trial->config,
                                         .codes = (enum codebook_codes)trial->config.index,
                                         .rows = rows,
                                         .n_rows = n,
                                         .collection_rows = trial->n_rows,
                                         .generation = 1,
                                         .threads = trial->threads,
                                         .stop = trial->stop,
                                         .stop_ctx = trial->stop_ctx};
    struct codebook *codebook = NULL;
    enum kith_err err = codebook_train(&codebook, &training, diag);
    if (err == KITH_OK)
        ivf_builder_set_codebook(bed->builder, codebook);
    codebook_unref(codebook);
    kith_free(rows);
    return err;
}

static enum kith_err make_index(struct bed *bed, struct kith_diag *diag)
{
    const struct trial *trial = bed->trial;
    if (trial->config.index == KITH_INDEX_NONE || trial->n_rows < IVF_TRAIN_ROWS)
        return KITH_OK;
    struct ivf_builder_options options = {.config = trial->config,
                                          .codes = (enum codebook_codes)trial->config.index,
                                          .threads = trial->threads};
    enum kith_err err = ivf_builder_new(&bed->builder, &options, diag);
    return err == KITH_OK ? train(bed, diag) : err;
}

static enum kith_err write_points(void *ctx, struct segment_building *building,
                                  struct kith_diag *diag)
{
    const struct bed *bed = ctx;
    enum kith_err err = KITH_OK;
    for (uint32_t i = 0; i < bed->trial->n_rows && err == KITH_OK; i++) {
        struct kith_id id = kith_id_number(i);
        struct segment_point point = {.id = &id, .seq = (uint64_t)i + 1};
        err = segment_build_point(building, i, &point, diag);
    }
    return err;
}

/* Once it is mapped the file needs no name. */
static enum kith_err make_segment(struct bed *bed, struct kith_diag *diag)
{
    const struct segment_index_hooks *hooks =
        bed->builder != NULL ? ivf_builder_hooks(bed->builder) : NULL;
    struct segment_build build = {
        .writer = {.io = bed->io,
                   .dir = DIR,
                   .config = &bed->trial->config,
                   .number = NUMBER,
                   .n_rows = bed->trial->n_rows},
        .rows = {.n_rows = bed->trial->n_rows, .row = row_of, .ctx = bed, .stop = stop_of},
        .stop = stop_of,
        .points = write_points,
        .points_ctx = bed,
        .index = hooks};
    uint32_t *place = NULL;
    uint64_t bytes;
    enum kith_err err = segment_build_run(&build, &place, &bytes, diag);
    kith_free(place);
    if (err == KITH_OK)
        err = segment_open(&bed->segment, bed->io, DIR, NUMBER, &bed->trial->config, diag);
    if (err == KITH_OK && hooks != NULL)
        err = segment_index_open(bed->segment, hooks, diag);
    return err;
}

static enum kith_err make_view(struct bed *bed, struct kith_diag *diag)
{
    struct view_part part = {.segment = bed->segment};
    struct view_parts parts = {.config = bed->trial->config,
                               .seq = bed->trial->n_rows,
                               .n_segments = 1,
                               .segments = &part};
    enum kith_err err = view_new(&bed->view, &parts, diag);
    return err == KITH_OK ? search_context_open(&bed->context, NULL, diag) : err;
}

static enum kith_err open_folder(struct bed *bed, struct kith_diag *diag)
{
    int n = snprintf(bed->dir, sizeof bed->dir, "%s/" FOLDER, bed->trial->parent);
    if (n < 0 || (size_t)n >= sizeof bed->dir || mkdtemp(bed->dir) == NULL) {
        bed->dir[0] = '\0';
        return kith_fail(diag, KITH_IO, "no folder can be made in %s: %s", bed->trial->parent,
                         strerror(errno));
    }
    return io_real_open(&bed->io, bed->dir, diag);
}

static enum kith_err set_up(struct bed *bed, struct kith_diag *diag)
{
    enum kith_err err = store_rows(bed, diag);
    if (err == KITH_OK)
        err = open_folder(bed, diag);
    if (err == KITH_OK)
        err = bed->io->make_dir(bed->io->self, DIR, diag);
    if (err == KITH_OK)
        err = make_index(bed, diag);
    if (err == KITH_OK)
        err = make_segment(bed, diag);
    return err == KITH_OK ? make_view(bed, diag) : err;
}

static void remove_file(void *ctx, const char *name)
{
    const struct bed *bed = ctx;
    char path[300];
    snprintf(path, sizeof path, DIR "/%s", name);
    (void)bed->io->unlink(bed->io->self, path, NULL);
}

static void tear_down(struct bed *bed)
{
    search_context_close(bed->context);
    view_unref(bed->view);
    segment_unref(bed->segment);
    ivf_builder_free(bed->builder);
    if (bed->io != NULL) {
        (void)bed->io->list(bed->io->self, DIR, remove_file, bed, NULL);
        (void)bed->io->remove_dir(bed->io->self, DIR, NULL);
        (void)bed->io->unlink(bed->io->self, "LOCK", NULL); /* of io_real_open */
        io_real_close(bed->io);
    }
    if (bed->dir[0] != '\0')
        (void)rmdir(bed->dir);
    kith_free(bed->stored);
}

/* ---- the queries ----------------------------------------------------------------------------- */

struct answer {
    uint64_t ids[TRIAL_K];
    uint32_t n;
};

static enum kith_err ask(struct bed *bed, uint32_t query, bool exact, struct answer *answer,
                         double *rows, struct kith_diag *diag)
{
    struct search_part part = {.n_queries = 1,
                               .k = TRIAL_K,
                               .vectors = vector_of(bed->trial, bed->trial->n_rows + query).data,
                               .exact = exact};
    struct search_request request = {
        .views = &bed->view, .n_views = 1, .parts = &part, .n_parts = 1};
    struct search_result result = {0};
    enum kith_err err = search_run(bed->context, &request, &result, diag);
    if (err != KITH_OK)
        return err;
    answer->n = result.found[0].n;
    for (uint32_t i = 0; i < answer->n; i++)
        answer->ids[i] = result.found[0].hits[i].id.lo;
    *rows += (double)result.explain.lists.rows;
    search_result_fini(&result);
    return KITH_OK;
}

static uint32_t common(const struct answer *a, const struct answer *b)
{
    uint32_t n = 0;
    for (uint32_t i = 0; i < a->n; i++)
        for (uint32_t j = 0; j < b->n; j++)
            n += a->ids[i] == b->ids[j];
    return n;
}

static int by_value(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static double median(double *values, uint32_t n)
{
    qsort(values, n, sizeof *values, by_value);
    return values[n / 2];
}

/* Exactly, and whether the index finds the same. */
static enum kith_err compare(struct bed *bed, struct trial_found *found, struct kith_diag *diag)
{
    double times[EXACT_QUERIES], spent = 0, ignored = 0;
    uint64_t hits = 0, wanted = 0;
    uint32_t n = 0;
    for (; n < bed->trial->n_queries && n < EXACT_QUERIES && spent < EXACT_NS; n++) {
        struct answer exact = {.n = 0}, listed = {.n = 0};
        if (is_stopped(bed->trial))
            return kith_fail(diag, KITH_CANCELLED, "stopped");
        enum kith_err err = ask(bed, n, false, &listed, &ignored, diag);
        uint64_t begun = kith_thread_ns();
        if (err == KITH_OK)
            err = ask(bed, n, true, &exact, &ignored, diag);
        if (err != KITH_OK)
            return err;
        times[n] = (double)(kith_thread_ns() - begun);
        spent += times[n];
        hits += common(&exact, &listed);
        wanted += exact.n;
    }
    found->exact_ns = median(times, n);
    found->recall = wanted > 0 ? (double)hits / (double)wanted : 1;
    return KITH_OK;
}

/* A round: all queries, again and again until it took long enough to be told from noise. */
static enum kith_err run_round(struct bed *bed, double *ns, double *rows, struct kith_diag *diag)
{
    struct answer answer;
    uint64_t begun = kith_thread_ns(), n = 0;
    double spent = 0;
    *rows = 0;
    do {
        for (uint32_t i = 0; i < bed->trial->n_queries; i++, n++) {
            enum kith_err err = ask(bed, i, false, &answer, rows, diag);
            if (err != KITH_OK)
                return err;
        }
        spent = (double)(kith_thread_ns() - begun);
        if (is_stopped(bed->trial))
            return kith_fail(diag, KITH_CANCELLED, "stopped");
    } while (spent < ROUND_NS);
    *ns = spent / (double)n;
    *rows /= (double)n;
    return KITH_OK;
}

static enum kith_err measure(struct bed *bed, struct trial_found *found, struct kith_diag *diag)
{
    double times[ROUNDS], rows = 0;
    enum kith_err err = compare(bed, found, diag);
    if (err != KITH_OK || segment_index(bed->segment) == NULL)
        return err;
    for (uint32_t i = 0; i < ROUNDS && err == KITH_OK; i++)
        err = run_round(bed, &times[i], &rows, diag);
    if (err != KITH_OK)
        return err;
    found->lists_ns = median(times, ROUNDS);
    found->rows_share = rows / bed->trial->n_rows;
    return KITH_OK;
}

enum kith_err trial_run(const struct trial *trial, struct trial_found *out, struct kith_diag *diag)
{
    struct bed bed = {.trial = trial};
    struct trial_found found = {.n_rows = trial->n_rows};
    enum kith_err err = set_up(&bed, diag);
    if (err == KITH_OK)
        err = measure(&bed, &found, diag);
    tear_down(&bed);
    if (err == KITH_OK)
        *out = found;
    return err;
}
