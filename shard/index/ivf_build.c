/* One lock guards the builder's lists; it is held for memory only. Codebooks of open segments are
 * known by hash, so that a thousand segments hold one copy. A build takes a reference to the
 * codebook it began with, and finishes with it whatever is set meanwhile. */
#include "shard/index/ivf_build.h"

#include <float.h>
#include <pthread.h>
#include <string.h>

#include "common/kith_mem.h"
#include "shard/index/codebook_format.h"
#include "shard/index/ivf_made.h"
#include "shard/index/kernels.h"

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
    struct opened *opened;      /* all open indexes */
};

/* An open index remembers whose it is, because close gets nothing else. */
struct opened {
    struct ivf ivf; /* first: the index is this */
    struct ivf_builder *builder;
    struct opened *next, **link; /* guarded by the builder's lock */
};

/* ---- building -------------------------------------------------------------------------------- */

static void note_energy(struct ivf_builder *builder, const struct ivf_made *made)
{
    (void)pthread_mutex_lock(&builder->lock);
    if (builder->codebook == made->codebook) {
        builder->energy += made->fresh_energy;
        builder->energy_rows += made->n_fresh;
        for (; builder->energy_rows > DRIFT_ROWS_MAX; builder->energy_rows /= 2)
            builder->energy /= 2;
    }
    (void)pthread_mutex_unlock(&builder->lock);
}

/* The targets of an open index with this codebook, of those measured in most rows. False: none. */
static bool best_known(struct ivf_builder *builder, const struct codebook *codebook,
                       struct ivf_calibration *out)
{
    const struct ivf *best = NULL;
    (void)pthread_mutex_lock(&builder->lock);
    for (const struct opened *o = builder->opened; o != NULL && codebook != NULL; o = o->next) {
        const struct ivf *ivf = &o->ivf;
        if (ivf->n_targets == 0 || ivf->codebook->hash != codebook->hash)
            continue;
        bool own = ivf->measured_rows == ivf->n_rows; /* and so is its energy */
        if (best == NULL || ivf->measured_rows > best->measured_rows ||
            (ivf->measured_rows == best->measured_rows && own))
            best = ivf;
    }
    if (best != NULL) {
        *out = (struct ivf_calibration){.n_targets = best->n_targets,
                                        .rows = best->measured_rows,
                                        .energy = best->residual_energy,
                                        .growth = best->growth};
        memcpy(out->targets, best->targets, sizeof out->targets);
        memcpy(out->far, best->far, sizeof out->far);
    }
    (void)pthread_mutex_unlock(&builder->lock);
    return best != NULL;
}

static uint32_t measure_rows(const struct ivf_builder *builder)
{
    return builder->options.min_rows > 0 ? builder->options.min_rows : IVF_MEASURE_ROWS;
}

/* Whether a segment of so many rows is given an index. */
static bool has_rows_for(const struct ivf_builder *builder, const struct codebook *codebook,
                         bool is_known, uint32_t n_rows)
{
    const struct slice_config *config = &builder->options.config;
    if (builder->options.min_rows > 0)
        return n_rows >= builder->options.min_rows;
    return (is_known || n_rows >= IVF_MEASURE_ROWS) &&
           ivf_pays(n_rows, kernels_row_bytes(kernels_type_of(config->rows), config->dim),
                    codebook->n_lists);
}

static bool takes_with(struct ivf_builder *builder, const struct codebook *codebook,
                       uint32_t n_rows)
{
    struct ivf_calibration known;
    return codebook != NULL &&
           has_rows_for(builder, codebook, best_known(builder, codebook, &known), n_rows);
}

static bool takes(void *self, uint32_t n_rows)
{
    const struct codebook *codebook = ivf_builder_codebook(self);
    bool would = takes_with(self, codebook, n_rows);
    codebook_unref(codebook);
    return would;
}

static enum kith_err begin(void *self, const struct slice_config *config,
                           const struct segment_source *source, uint32_t *order, void **made,
                           struct kith_diag *diag)
{
    struct ivf_builder *builder = self;
    *made = NULL;
    const struct codebook *codebook = ivf_builder_codebook(builder);
    enum kith_err err = KITH_OK;
    struct ivf_calibration known;
    bool is_known = best_known(builder, codebook, &known);
    if (codebook != NULL && has_rows_for(builder, codebook, is_known, source->n_rows) &&
        config->dim == codebook->dim && config->metric == codebook->metric) {
        struct ivf_make make = {.codebook = codebook,
                                .type = config->rows,
                                .source = source,
                                .threads = builder->options.threads,
                                .known = is_known ? &known : NULL,
                                .measure_rows = measure_rows(builder)};
        struct ivf_made *index;
        err = ivf_made_new(&index, &make, order, diag);
        if (err == KITH_OK) {
            note_energy(builder, index);
            *made = index;
        }
    }
    codebook_unref(codebook);
    return err;
}

static enum kith_err emit(void *made, segment_emit_fn out, void *ctx, struct kith_diag *diag)
{
    return ivf_made_emit(made, out, ctx, diag);
}

static void end(void *made)
{
    ivf_made_free(made);
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

static void link_opened(struct ivf_builder *builder, struct opened *opened)
{
    (void)pthread_mutex_lock(&builder->lock);
    opened->builder = builder;
    opened->next = builder->opened;
    opened->link = &builder->opened;
    if (opened->next != NULL)
        opened->next->link = &opened->next;
    builder->opened = opened;
    (void)pthread_mutex_unlock(&builder->lock);
}

static void unlink_opened(struct opened *opened)
{
    (void)pthread_mutex_lock(&opened->builder->lock);
    *opened->link = opened->next;
    if (opened->next != NULL)
        opened->next->link = opened->link;
    (void)pthread_mutex_unlock(&opened->builder->lock);
}

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
    link_opened(builder, opened);
    *index = opened;
    return KITH_OK;
}

static void close_index(void *index)
{
    struct opened *opened = index;
    unlink_opened(opened);
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

/* A segment with an older codebook is better with this one: a search over several codebooks ranks
 * lists once for each. One with a newer or the same one is not. */
static enum index_want wants(void *self, const struct segment *segment)
{
    struct ivf_builder *builder = self;
    struct kith_bytes bytes = segment_index_section(segment, IVF_SECTION_CODEBOOK);
    const struct codebook *codebook = ivf_builder_codebook(builder);
    enum index_want want = INDEX_WANT_NOTHING;
    if (takes_with(builder, codebook, segment_rows(segment))) {
        if (bytes.len < CODEBOOK_HEADER_BYTES + CODEBOOK_HASH_BYTES)
            want = INDEX_WANT_ANY;
        else if (is_older(bytes, codebook))
            want = INDEX_WANT_BETTER;
    }
    codebook_unref(codebook);
    return want;
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
    builder->hooks = (struct segment_index_hooks){.self = builder,
                                                  .begin = begin,
                                                  .emit = emit,
                                                  .end = end,
                                                  .open = open_index,
                                                  .close = close_index,
                                                  .takes = takes,
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
