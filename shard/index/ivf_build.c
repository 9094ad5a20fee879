/* One lock guards the builder's lists; it is held for memory only. Codebooks of open segments are
 * known by hash, so that a thousand segments hold one copy. A build takes a reference to the
 * codebook it began with, and finishes with it whatever is set meanwhile. */
#include "shard/index/ivf_build.h"

#include <float.h>
#include <pthread.h>
#include <string.h>

#include "common/kith_mem.h"
#include "shard/index/codebook_format.h"
#include "shard/index/ivf_assign.h"
#include "shard/index/ivf_calibrate.h"
#include "shard/index/ivf_encode.h"
#include "shard/index/ivf_reuse.h"

#define DRIFT_ROWS_MAX 1000000.0 /* older rows count half each time so many were added */

struct known {
    const struct codebook *codebook; /* a reference */
    uint32_t segments;               /* open ones: while there are any, the codebook stays */
};

struct ivf_builder {
    struct ivf_builder_options options;
    struct segment_index_hooks hooks;
    pthread_mutex_t lock;
    /* Guarded by lock. */
    const struct codebook *codebook;
    struct known *known;
    size_t n_known, known_cap;
    double energy, energy_rows; /* of rows written with the codebook, newer ones weigh more */
};

/* An index between begin and end. */
struct built {
    const struct codebook *codebook; /* a reference */
    uint32_t *lists;
    struct ivf_encoded encoded;
    struct ivf_meta meta;
    uint32_t n_fresh; /* rows that no segment had a list for */
    double fresh_energy;
};

/* What one is made of. */
struct building {
    const struct segment_source *source;
    enum kith_row_type type;
    struct workers *workers;
    struct ivf_reuse reuse;
};

/* ---- building -------------------------------------------------------------------------------- */

static void free_built(void *made)
{
    struct built *built = made;
    codebook_unref(built->codebook);
    kith_free(built->lists);
    ivf_encode_free(&built->encoded);
    kith_free(built);
}

/* Counting sort: where lists begin, and the rows in their order, ascending within a list. */
static void sort_rows(const uint32_t *list_of, uint32_t n_rows, uint32_t n_lists, uint32_t *lists,
                      uint32_t *order)
{
    for (uint32_t i = 0; i < n_rows; i++)
        lists[list_of[i] + 1]++;
    for (uint32_t c = 0; c < n_lists; c++)
        lists[c + 1] += lists[c];
    for (uint32_t i = 0; i < n_rows; i++)
        order[lists[list_of[i]]++] = i;
    memmove(lists + 1, lists, n_lists * sizeof *lists); /* each was moved to the end of its list */
    lists[0] = 0;
}

/* Some of the rows of a source. */
struct stretch {
    const struct segment_source *source;
    uint32_t first;
};

static const void *stretch_row(const void *ctx, uint32_t i)
{
    const struct stretch *stretch = ctx;
    return stretch->source->row(stretch->source->ctx, stretch->first + i);
}

/* The rows that have no list yet. */
static enum kith_err assign_fresh(struct built *built, const struct building *building,
                                  uint32_t *list_of, struct kith_diag *diag)
{
    struct ivf_assign assign = {0};
    uint32_t end, n_rows = building->source->n_rows;
    enum kith_err err = ivf_assign_init(&assign, built->codebook, diag);
    for (uint32_t i = 0; i < n_rows && err == KITH_OK; i = end) {
        struct stretch stretch = {building->source,
                                  ivf_reuse_gap(&building->reuse, i, n_rows, &end)};
        uint32_t n = end - stretch.first;
        struct segment_source rows = {.n_rows = n, .row = stretch_row, .ctx = &stretch};
        float energy = 0.0f;
        if (n > 0)
            err = ivf_assign_run(&assign, &rows, building->type, building->workers,
                                 list_of + stretch.first, &energy, diag);
        built->fresh_energy += (double)energy * n;
        built->n_fresh += n;
    }
    ivf_assign_fini(&assign);
    return err;
}

static enum kith_err assign_rows(struct built *built, const struct building *building,
                                 uint32_t *order, struct kith_diag *diag)
{
    uint32_t n = building->source->n_rows, *list_of = kith_alloc((size_t)n * sizeof *list_of);
    if (list_of == NULL)
        return kith_fail(diag, KITH_NOMEM, "lists of %u rows", n);
    double energy = ivf_reuse_lists(&building->reuse, list_of);
    enum kith_err err = KITH_OK;
    if (building->reuse.n_rows < n)
        err = assign_fresh(built, building, list_of, diag);
    energy = (energy + built->fresh_energy) / n;
    built->meta.residual_energy = energy < (double)FLT_MAX ? (float)energy : FLT_MAX;
    if (err == KITH_OK)
        sort_rows(list_of, n, built->codebook->n_lists, built->lists, order);
    kith_free(list_of);
    return err;
}

/* The rows of the segment to be, for calibration. */
struct ordered {
    const struct segment_source *source;
    const uint32_t *order;
};

static const void *ordered_row(const void *ctx, uint32_t i)
{
    const struct ordered *ordered = ctx;
    return ordered->source->row(ordered->source->ctx, ordered->order[i]);
}

static enum kith_err calibrate(struct built *built, const struct ordered *rows,
                               enum kith_row_type type, struct workers *workers,
                               struct kith_diag *diag)
{
    struct ivf_meta *meta = &built->meta;
    struct ivf index = {.codebook = built->codebook,
                        .n_rows = meta->n_rows,
                        .row = ordered_row,
                        .row_ctx = rows,
                        .row_type = type,
                        .lists = built->lists,
                        .codes = built->encoded.codes,
                        .terms = built->encoded.terms,
                        .rows8 = built->encoded.rows8,
                        .row8_bytes = meta->row8_bytes,
                        .term_scale = meta->term_scale,
                        .error = meta->error,
                        .error8 = meta->error8,
                        .residual_energy = meta->residual_energy};
    struct ivf_calibration found;
    enum kith_err err = ivf_calibrate_run(&index, workers, &found, diag);
    if (err != KITH_OK)
        return err;
    meta->n_targets = found.n_targets;
    memcpy(meta->targets, found.targets, sizeof meta->targets);
    meta->local_dim = found.local_dim;
    return KITH_OK;
}

static enum kith_err build(struct built *built, const struct building *building, uint32_t *order,
                           struct kith_diag *diag)
{
    const struct segment_source *source = building->source;
    built->lists = kith_alloc(((size_t)built->codebook->n_lists + 1) * sizeof *built->lists);
    if (built->lists == NULL)
        return kith_fail(diag, KITH_NOMEM, "index of %u rows", source->n_rows);
    enum kith_err err = assign_rows(built, building, order, diag);
    if (err != KITH_OK)
        return err;
    struct ivf_encode encode = {.codebook = built->codebook,
                                .source = source,
                                .type = building->type,
                                .order = order,
                                .lists = built->lists,
                                .reuse = &building->reuse,
                                .workers = building->workers};
    err = ivf_encode_run(&encode, &built->encoded, diag);
    built->meta.n_rows = source->n_rows;
    built->meta.row8_bytes = built->encoded.row8_bytes;
    built->meta.codebook_hash = built->codebook->hash;
    built->meta.term_scale = built->encoded.term_scale;
    built->meta.error = built->encoded.error;
    built->meta.error8 = built->encoded.error8;
    struct ordered rows = {source, order};
    return err == KITH_OK ? calibrate(built, &rows, building->type, building->workers, diag) : err;
}

static void note_energy(struct ivf_builder *builder, const struct built *built)
{
    (void)pthread_mutex_lock(&builder->lock);
    if (builder->codebook == built->codebook) {
        builder->energy += built->fresh_energy;
        builder->energy_rows += built->n_fresh;
        for (; builder->energy_rows > DRIFT_ROWS_MAX; builder->energy_rows /= 2)
            builder->energy /= 2;
    }
    (void)pthread_mutex_unlock(&builder->lock);
}

static enum kith_err begin(void *self, const struct slice_config *config,
                           const struct segment_source *source, uint32_t *order, void **made,
                           struct kith_diag *diag)
{
    struct ivf_builder *builder = self;
    *made = NULL;
    const struct codebook *codebook = ivf_builder_codebook(builder);
    if (codebook == NULL || source->n_rows < builder->options.min_rows ||
        config->dim != codebook->dim || config->metric != codebook->metric) {
        codebook_unref(codebook);
        return KITH_OK;
    }
    struct built *built = kith_alloc(sizeof *built);
    if (built == NULL) {
        codebook_unref(codebook);
        return kith_fail(diag, KITH_NOMEM, "index of %u rows", source->n_rows);
    }
    built->codebook = codebook;
    struct workers workers;
    struct building building = {.source = source, .type = config->rows, .workers = &workers};
    ivf_reuse_init(&building.reuse, source, codebook);
    enum kith_err err =
        workers_init(&workers, builder->options.threads, source->stop, source->ctx, diag);
    if (err == KITH_OK) {
        err = build(built, &building, order, diag);
        workers_fini(&workers);
    }
    if (err != KITH_OK) {
        free_built(built);
        return err;
    }
    note_energy(builder, built);
    *made = built;
    return KITH_OK;
}

static enum kith_err emit(void *made, segment_emit_fn out, void *ctx, struct kith_diag *diag)
{
    const struct built *built = made;
    const struct codebook *codebook = built->codebook;
    uint8_t meta[IVF_META_BYTES_MAX];
    size_t n = built->meta.n_rows, subs = codebook->n_subs;
    bool pq = codebook->codes == CODEBOOK_PQ4;
    const struct {
        enum ivf_section kind;
        const void *data;
        size_t bytes;
    } sections[] = {
        {IVF_SECTION_CODEBOOK, codebook_bytes(codebook).data, codebook_bytes(codebook).len},
        {IVF_SECTION_META, meta, ivf_format_store_meta(meta, &built->meta)},
        {IVF_SECTION_LISTS, built->lists, ((size_t)codebook->n_lists + 1) * sizeof(uint32_t)},
        {IVF_SECTION_CODES, built->encoded.codes,
         pq ? ivf_format_blocks(built->meta.n_rows) * ivf_format_block_bytes((uint32_t)subs) : 0},
        {IVF_SECTION_TERMS, built->encoded.terms,
         pq ? ivf_format_terms_bytes(built->meta.n_rows) : 0},
        {IVF_SECTION_ROWS8, built->encoded.rows8, n * built->encoded.row8_bytes},
    };
    enum kith_err err = KITH_OK;
    for (size_t i = 0; i < sizeof sections / sizeof sections[0] && err == KITH_OK; i++)
        if (sections[i].bytes > 0)
            err = out(ctx, sections[i].kind, sections[i].data, sections[i].bytes, diag);
    return err;
}

/* ---- open segments --------------------------------------------------------------------------- */

static bool same_bytes(const struct codebook *codebook, struct kith_bytes bytes)
{
    struct kith_bytes own = codebook_bytes(codebook);
    return own.len == bytes.len && memcmp(own.data, bytes.data, own.len) == 0;
}

static struct known *find_locked(struct ivf_builder *builder, struct kith_bytes bytes)
{
    for (size_t i = 0; i < builder->n_known; i++)
        if (same_bytes(builder->known[i].codebook, bytes))
            return &builder->known[i];
    return NULL;
}

/* For one more segment, until forget; NULL: not known, or no memory to know it. `fresh`: the
 * codebook of these bytes, when the caller has made one. */
static const struct codebook *know(struct ivf_builder *builder, struct kith_bytes bytes,
                                   const struct codebook *fresh)
{
    const struct codebook *found = NULL;
    (void)pthread_mutex_lock(&builder->lock);
    if (builder->codebook != NULL && same_bytes(builder->codebook, bytes))
        fresh = builder->codebook;
    struct known *known = find_locked(builder, bytes);
    if (known == NULL && fresh != NULL &&
        kith_grow((void **)&builder->known, &builder->known_cap, builder->n_known + 1,
                  sizeof *builder->known)) {
        known = &builder->known[builder->n_known++];
        *known = (struct known){fresh, 0};
        codebook_ref(fresh);
    }
    if (known != NULL) {
        known->segments++;
        found = known->codebook;
    }
    (void)pthread_mutex_unlock(&builder->lock);
    return found;
}

static void forget(struct ivf_builder *builder, const struct codebook *codebook)
{
    const struct codebook *unused = NULL;
    (void)pthread_mutex_lock(&builder->lock);
    for (size_t i = 0; i < builder->n_known; i++)
        if (builder->known[i].codebook == codebook && --builder->known[i].segments == 0) {
            unused = codebook;
            builder->known[i] = builder->known[--builder->n_known];
            break;
        }
    (void)pthread_mutex_unlock(&builder->lock);
    codebook_unref(unused);
}

/* An open index remembers whose it is, because close gets nothing else. */
struct opened {
    struct ivf ivf; /* first: the index is this */
    struct ivf_builder *builder;
};

static enum kith_err intern(struct ivf_builder *builder, struct kith_bytes bytes,
                            const struct codebook **out, struct kith_diag *diag)
{
    const struct codebook *known = know(builder, bytes, NULL);
    if (known == NULL) {
        struct codebook *fresh;
        enum kith_err err = codebook_load(&fresh, bytes, &builder->options.config, diag);
        if (err != KITH_OK)
            return err;
        known = know(builder, bytes, fresh); /* another thread may have been first */
        codebook_unref(fresh);
        if (known == NULL)
            return kith_fail(diag, KITH_NOMEM, "codebook");
    }
    *out = known;
    return KITH_OK;
}

static enum kith_err open_index(void *self, const struct segment *segment, void **index,
                                struct kith_diag *diag)
{
    struct ivf_builder *builder = self;
    struct kith_bytes bytes = segment_index_section(segment, IVF_SECTION_CODEBOOK);
    *index = NULL;
    if (bytes.len == 0)
        return KITH_OK;
    struct opened *opened = kith_alloc(sizeof *opened);
    if (opened == NULL)
        return kith_fail(diag, KITH_NOMEM, "index");
    const struct codebook *codebook = NULL;
    enum kith_err err = intern(builder, bytes, &codebook, diag);
    if (err == KITH_OK) {
        struct ivf_source source = ivf_source_of(segment, &builder->options.config);
        err = ivf_parse(&opened->ivf, &source, codebook, diag);
        if (err != KITH_OK)
            forget(builder, codebook);
    }
    if (err != KITH_OK) {
        kith_free(opened);
        return err;
    }
    opened->builder = builder;
    *index = opened;
    return KITH_OK;
}

static void close_index(void *index)
{
    struct opened *opened = index;
    forget(opened->builder, opened->ivf.codebook);
    ivf_fini(&opened->ivf);
    kith_free(opened);
}

static bool is_older(struct kith_bytes bytes, const struct codebook *than)
{
    uint32_t generation = codebook_format_generation(bytes.data);
    uint64_t hash = codebook_format_hash(bytes);
    return codebook_is_newer(than->generation, than->hash,
                             &(struct codebook){.generation = generation, .hash = hash});
}

/* A segment with an older codebook is worth rewriting: a search over several codebooks ranks lists
 * once for each. One with a newer or the same one is not. */
static bool wants(void *self, const struct segment *segment)
{
    struct ivf_builder *builder = self;
    struct kith_bytes bytes = segment_index_section(segment, IVF_SECTION_CODEBOOK);
    (void)pthread_mutex_lock(&builder->lock);
    const struct codebook *codebook = builder->codebook;
    bool wanted = codebook != NULL && segment_rows(segment) >= builder->options.min_rows &&
                  (bytes.len < CODEBOOK_HEADER_BYTES + CODEBOOK_HASH_BYTES ||
                   is_older(bytes, codebook));
    (void)pthread_mutex_unlock(&builder->lock);
    return wanted;
}

/* ---- the builder ----------------------------------------------------------------------------- */

enum kith_err ivf_builder_new(struct ivf_builder **out, const struct ivf_builder_options *options,
                              struct kith_diag *diag)
{
    kith_assert(options->threads >= 1);
    struct ivf_builder *builder = kith_alloc(sizeof *builder);
    if (builder == NULL)
        return kith_fail(diag, KITH_NOMEM, "index builder");
    builder->options = *options;
    if (builder->options.min_rows == 0)
        builder->options.min_rows = IVF_MIN_ROWS;
    builder->hooks = (struct segment_index_hooks){.self = builder,
                                                  .begin = begin,
                                                  .emit = emit,
                                                  .end = free_built,
                                                  .open = open_index,
                                                  .close = close_index,
                                                  .wants = wants};
    (void)pthread_mutex_init(&builder->lock, NULL);
    *out = builder;
    return KITH_OK;
}

void ivf_builder_free(struct ivf_builder *builder)
{
    if (builder == NULL)
        return;
    kith_assert(builder->n_known == 0); /* or a segment is still open */
    codebook_unref(builder->codebook);
    kith_free(builder->known);
    (void)pthread_mutex_destroy(&builder->lock);
    kith_free(builder);
}

const struct segment_index_hooks *ivf_builder_hooks(struct ivf_builder *builder)
{
    return &builder->hooks;
}

void ivf_builder_set_codebook(struct ivf_builder *builder, const struct codebook *codebook)
{
    const struct codebook *unused = codebook;
    if (codebook != NULL)
        codebook_ref(codebook);
    (void)pthread_mutex_lock(&builder->lock);
    if (codebook == NULL ||
        codebook_is_newer(codebook->generation, codebook->hash, builder->codebook)) {
        unused = builder->codebook;
        builder->codebook = codebook;
        struct known *known =
            codebook != NULL ? find_locked(builder, codebook_bytes(codebook)) : NULL;
        if (known != NULL && known->codebook != codebook) { /* one copy, the one in use */
            builder->codebook = known->codebook;
            codebook_ref(known->codebook);
            codebook_unref(codebook);
        }
        builder->energy = builder->energy_rows = 0.0;
    }
    (void)pthread_mutex_unlock(&builder->lock);
    codebook_unref(unused);
}

const struct codebook *ivf_builder_codebook(struct ivf_builder *builder)
{
    (void)pthread_mutex_lock(&builder->lock);
    const struct codebook *codebook = builder->codebook;
    if (codebook != NULL)
        codebook_ref(codebook);
    (void)pthread_mutex_unlock(&builder->lock);
    return codebook;
}

struct ivf_fit ivf_builder_fit(struct ivf_builder *builder)
{
    struct ivf_fit fit = {0};
    (void)pthread_mutex_lock(&builder->lock);
    if (builder->codebook != NULL)
        fit.hash = builder->codebook->hash;
    if (builder->energy_rows > 0.0) {
        double mean = builder->energy / builder->energy_rows;
        fit.energy = mean < (double)FLT_MAX ? (float)mean : FLT_MAX;
        fit.rows = (uint64_t)builder->energy_rows;
    }
    (void)pthread_mutex_unlock(&builder->lock);
    return fit;
}
