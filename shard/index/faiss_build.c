#include "shard/index/faiss_build.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "common/kith_f16.h"
#include "common/kith_log.h"
#include "common/kith_mem.h"
#include "proto/kith_crc32c.h"
#include "proto/kith_limits.h"
#include "shard/index/faiss_calibrate.h"
#include "shard/index/faiss_factory.h"

#define ADD_BYTES   (8u << 20) /* of rows handed to Faiss at once */
#define SAMPLE_ROWS 16384u     /* at the least, if there are so many: for rotations and ranges */

/* Immutable. */
struct faiss_builder {
    struct faiss_builder_options options;
    struct segment_index_hooks hooks;
    struct faiss_factory_shape shape;
    char factory[KITH_FAISS_FACTORY_MAX + 1]; /* without RFlat */
};

/* An index between begin and end. */
struct built {
    struct faiss_index *index; /* NULL: none could be made */
    struct faiss_meta meta;
};

/* A build under way. */
struct building {
    const struct faiss_builder *builder;
    const struct segment_source *source;
    const uint32_t *order;
    struct workers *workers;
    uint32_t n_indexed; /* rows before those held out */
    float *rows;        /* of a chunk */
    uint32_t chunk;
};

/* ---- what may be asked for ------------------------------------------------------------------- */

/* Rows that training takes, so many for each centroid, and as memory. */
static uint64_t sample_bytes(struct faiss_factory_shape shape, uint32_t dim)
{
    return (uint64_t)shape.centroids * FAISS_ROWS_A_CENTROID * dim * sizeof(float);
}

enum kith_err faiss_build_check(const char *factory, uint32_t dim, enum kith_metric metric,
                                struct kith_diag *diag)
{
    if (metric == KITH_MANHATTAN)
        return kith_fail(diag, KITH_UNSUPPORTED,
                         "indexes by Faiss are for Cosine, Dot and Euclid, not for Manhattan");
    struct faiss_index *index;
    enum kith_err err = faiss_index_new(factory, dim, metric, &index, diag);
    if (err != KITH_OK)
        return err;
    faiss_index_free(index);
    struct faiss_factory_shape shape = faiss_factory_shape_of(factory);
    if (shape.lists > KITH_FAISS_LISTS_MAX)
        return kith_fail(diag, KITH_TOO_BIG, "IVF%u: segments are indexed in at most %u lists",
                         shape.lists, KITH_FAISS_LISTS_MAX);
    if (sample_bytes(shape, dim) > KITH_FAISS_SAMPLE_BYTES)
        return kith_fail(diag, KITH_TOO_BIG,
                         "training %u centroids of dimension %u takes %" PRIu64
                         " MiB of rows; the limit is %u MiB",
                         shape.centroids, dim, sample_bytes(shape, dim) >> 20,
                         KITH_FAISS_SAMPLE_BYTES >> 20);
    return KITH_OK;
}

static bool has_rows_for(const struct faiss_builder *builder, uint32_t n_rows)
{
    uint64_t held_out = FAISS_CALIBRATE_QUERIES;
    return n_rows >= builder->options.min_rows &&
           n_rows >= (uint64_t)builder->shape.centroids * FAISS_ROWS_A_CENTROID + held_out;
}

/* ---- building -------------------------------------------------------------------------------- */

/* Rows held out are spread evenly over the source and come last; the others keep their order. */
static void hold_out(uint32_t n, uint32_t n_held, uint32_t *order)
{
    uint32_t at = 0;
    for (uint32_t i = 0, held = 0; i < n; i++) {
        bool is_next = held < n_held && i == (uint32_t)((uint64_t)held * n / n_held);
        if (is_next)
            order[n - n_held + held++] = i;
        else
            order[at++] = i;
    }
    kith_assert(at == n - n_held);
}

static const void *row_at(const void *ctx, uint32_t i)
{
    const struct building *building = ctx;
    return building->source->row(building->source->ctx, building->order[i]);
}

static void read_row(const struct building *building, uint32_t i, float *out)
{
    const struct slice_config *config = &building->builder->options.config;
    if (config->rows == KITH_ROWS_F16)
        kith_f16_unpack(out, row_at(building, i), config->dim);
    else
        memcpy(out, row_at(building, i), config->dim * sizeof *out);
}

static enum kith_err poll_stop(void *ctx, struct kith_diag *diag)
{
    return workers_stopped(ctx) ? kith_fail(diag, KITH_CANCELLED, "stopped") : KITH_OK;
}

static enum kith_err train(const struct building *building, struct faiss_index *index,
                           struct kith_diag *diag)
{
    const struct faiss_builder *builder = building->builder;
    uint32_t dim = builder->options.config.dim, most = KITH_FAISS_SAMPLE_BYTES / (dim * 4);
    uint64_t want = (uint64_t)builder->shape.centroids * FAISS_SAMPLE_A_CENTROID;
    want = want < SAMPLE_ROWS ? SAMPLE_ROWS : want;
    uint32_t n = want < most ? (uint32_t)want : most;
    n = n < building->n_indexed ? n : building->n_indexed;
    float *rows = kith_alloc((size_t)n * dim * sizeof *rows);
    if (rows == NULL)
        return kith_fail(diag, KITH_NOMEM, "%u rows to train on", n);
    for (uint32_t i = 0; i < n; i++)
        read_row(building, (uint32_t)((uint64_t)i * building->n_indexed / n),
                 rows + (size_t)i * dim);
    enum kith_err err = poll_stop(building->workers, diag);
    if (err == KITH_OK)
        err = faiss_index_train(index, (struct blas_block){rows, n, dim}, diag);
    kith_free(rows);
    return err;
}

/* Rows [first, end) of the segment to be. */
static enum kith_err add(const struct building *building, uint32_t first, uint32_t end,
                         struct faiss_index *index, struct kith_diag *diag)
{
    uint32_t dim = building->builder->options.config.dim;
    const struct faiss_poll poll = {poll_stop, building->workers};
    enum kith_err err = KITH_OK;
    for (uint32_t n; err == KITH_OK && first < end; first += n) {
        n = end - first < building->chunk ? end - first : building->chunk;
        for (uint32_t i = 0; i < n; i++)
            read_row(building, first + i, building->rows + (size_t)i * dim);
        err = faiss_index_add(index, (struct blas_block){building->rows, n, dim}, poll, diag);
    }
    return err;
}

static enum kith_err calibrate(const struct building *building, struct built *built,
                               struct kith_diag *diag)
{
    const struct slice_config *config = &building->builder->options.config;
    uint32_t n = building->source->n_rows - building->n_indexed;
    float *queries = kith_alloc((size_t)n * config->dim * sizeof *queries);
    if (queries == NULL)
        return kith_fail(diag, KITH_NOMEM, "calibration");
    for (uint32_t q = 0; q < n; q++)
        read_row(building, building->n_indexed + q, queries + (size_t)q * config->dim);
    const struct exact_best scan = {.metric = config->metric,
                                    .type = config->rows,
                                    .dim = config->dim,
                                    .n_rows = building->n_indexed,
                                    .row = row_at,
                                    .ctx = building,
                                    .queries = queries,
                                    .n_queries = n};
    enum kith_err err =
        faiss_calibrate_run(built->index, building->builder->shape, &scan, building->workers,
                            built->meta.targets, &built->meta.n_targets, diag);
    kith_free(queries);
    return err;
}

static enum kith_err count_bytes(void *ctx, const void *data, size_t bytes, struct kith_diag *diag)
{
    struct faiss_meta *meta = ctx;
    meta->bytes += bytes;
    meta->crc = kith_crc32c(meta->crc, data, bytes);
    if (meta->bytes > KITH_FAISS_BYTES_MAX)
        return kith_fail(diag, KITH_TOO_BIG, "the index is larger than %" PRIu64 " bytes",
                         KITH_FAISS_BYTES_MAX);
    return KITH_OK;
}

static enum kith_err build(const struct building *building, struct built *built,
                           struct kith_diag *diag)
{
    const struct slice_config *config = &building->builder->options.config;
    uint32_t n = building->source->n_rows;
    enum kith_err err = faiss_index_new(building->builder->factory, config->dim, config->metric,
                                        &built->index, diag);
    if (err == KITH_OK)
        err = train(building, built->index, diag);
    if (err == KITH_OK)
        err = add(building, 0, building->n_indexed, built->index, diag);
    if (err == KITH_OK)
        err = calibrate(building, built, diag);
    if (err == KITH_OK)
        err = add(building, building->n_indexed, n, built->index, diag);
    if (err == KITH_OK)
        err = faiss_index_write(built->index, (struct faiss_sink){count_bytes, &built->meta}, diag);
    return err;
}

/* A note instead of an index: there is no use in trying again. */
static void note_failure(struct built *built, const struct slice_config *config, const char *why)
{
    kith_log(WARN, "index.faiss_failed", "collection=%016" PRIx64 " rows=%u factory=%s text=\"%s\"",
             config->collection, built->meta.n_rows, config->factory, why);
    faiss_index_free(built->index);
    built->index = NULL;
    built->meta.bytes = 0;
    built->meta.n_targets = 0;
}

static void free_built(void *made)
{
    struct built *built = made;
    faiss_index_free(built->index);
    kith_free(built);
}

static enum kith_err make(const struct faiss_builder *builder, struct building *building,
                          struct built *built, struct kith_diag *diag)
{
    const struct slice_config *config = &builder->options.config;
    size_t row_bytes = config->dim * sizeof(float);
    building->chunk = (uint32_t)(ADD_BYTES / row_bytes);
    building->rows = kith_alloc(building->chunk * row_bytes);
    if (building->rows == NULL)
        return kith_fail(diag, KITH_NOMEM, "rows to index");
    struct kith_diag why = {0};
    enum kith_err err = build(building, built, &why);
    kith_free(building->rows);
    if (err == KITH_NOMEM || err == KITH_CANCELLED)
        return kith_fail(diag, err, "%s", why.text);
    if (err != KITH_OK)
        note_failure(built, config, why.text);
    return KITH_OK;
}

static enum kith_err begin(void *self, const struct slice_config *config,
                           const struct segment_source *source, uint32_t *order, void **made,
                           struct kith_diag *diag)
{
    const struct faiss_builder *builder = self;
    *made = NULL;
    if (!has_rows_for(builder, source->n_rows) || config->dim != builder->options.config.dim)
        return KITH_OK;
    struct built *built = kith_alloc(sizeof *built);
    if (built == NULL)
        return kith_fail(diag, KITH_NOMEM, "index of %u rows", source->n_rows);
    built->meta.n_rows = source->n_rows;
    built->meta.factory = faiss_format_hash(builder->options.config.factory);
    struct workers workers;
    enum kith_err err =
        workers_init(&workers, builder->options.threads, source->stop, source->ctx, diag);
    if (err == KITH_OK) {
        struct building building = {.builder = builder,
                                    .source = source,
                                    .order = order,
                                    .workers = &workers,
                                    .n_indexed = source->n_rows - FAISS_CALIBRATE_QUERIES};
        hold_out(source->n_rows, FAISS_CALIBRATE_QUERIES, order);
        err = make(builder, &building, built, diag);
        workers_fini(&workers);
    }
    if (err != KITH_OK) {
        free_built(built);
        return err;
    }
    *made = built;
    return KITH_OK;
}

struct emitting {
    segment_emit_fn out;
    void *ctx;
};

static enum kith_err emit_bytes(void *ctx, const void *data, size_t bytes, struct kith_diag *diag)
{
    const struct emitting *emitting = ctx;
    return emitting->out(emitting->ctx, FAISS_SECTION_BYTES, data, bytes, diag);
}

static enum kith_err emit(void *made, segment_emit_fn out, void *ctx, struct kith_diag *diag)
{
    const struct built *built = made;
    struct emitting emitting = {out, ctx};
    uint8_t meta[FAISS_FORMAT_BYTES_MAX];
    enum kith_err err =
        out(ctx, FAISS_SECTION_META, meta, faiss_format_store(meta, &built->meta), diag);
    if (err == KITH_OK && built->index != NULL)
        err = faiss_index_write(built->index, (struct faiss_sink){emit_bytes, &emitting}, diag);
    return err;
}

/* ---- open segments --------------------------------------------------------------------------- */

static enum kith_err open_index(void *self, const struct segment *segment, void **index,
                                struct kith_diag *diag)
{
    const struct faiss_builder *builder = self;
    struct faiss_segment *opened = NULL;
    enum kith_err err = faiss_segment_open(segment, &builder->options.config, &opened, diag);
    *index = opened;
    return err;
}

static void close_index(void *index)
{
    faiss_segment_close(index);
}

static bool takes(void *self, uint32_t n_rows)
{
    return has_rows_for(self, n_rows);
}

/* A segment with a note that none can be made is let be, until a merge makes another of it. */
static enum index_want wants(void *self, const struct segment *segment)
{
    const struct faiss_builder *builder = self;
    if (segment_index(segment) != NULL || !has_rows_for(builder, segment_rows(segment)))
        return INDEX_WANT_NOTHING;
    struct faiss_meta meta;
    struct kith_bytes bytes = segment_index_section(segment, FAISS_SECTION_META);
    bool noted =
        bytes.len > 0 && faiss_format_load(&meta, bytes, NULL) == KITH_OK && meta.bytes == 0;
    return noted ? INDEX_WANT_NOTHING : INDEX_WANT_ANY;
}

static const struct segment_index_hooks hooks = {.begin = begin,
                                                 .emit = emit,
                                                 .end = free_built,
                                                 .open = open_index,
                                                 .close = close_index,
                                                 .takes = takes,
                                                 .wants = wants};

/* ---- the builder ----------------------------------------------------------------------------- */

enum kith_err faiss_builder_new(struct faiss_builder **out,
                                const struct faiss_builder_options *options, struct kith_diag *diag)
{
    const struct slice_config *config = &options->config;
    kith_assert(options->threads >= 1 && config->index == KITH_INDEX_FAISS);
    enum kith_err err = faiss_build_check(config->factory, config->dim, config->metric, diag);
    if (err != KITH_OK)
        return err;
    struct faiss_builder *builder = kith_alloc(sizeof *builder);
    if (builder == NULL)
        return kith_fail(diag, KITH_NOMEM, "index builder");
    builder->options = *options;
    builder->shape = faiss_factory_shape_of(config->factory);
    (void)snprintf(builder->factory, sizeof builder->factory, "%.*s",
                   (int)builder->shape.ranked_len, config->factory);
    builder->hooks = hooks;
    builder->hooks.self = builder;
    *out = builder;
    return KITH_OK;
}

void faiss_builder_free(struct faiss_builder *builder)
{
    kith_free(builder);
}

const struct segment_index_hooks *faiss_builder_hooks(struct faiss_builder *builder)
{
    return &builder->hooks;
}
