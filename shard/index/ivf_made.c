#include "shard/index/ivf_made.h"

#include <float.h>
#include <string.h>

#include "common/kith_mem.h"
#include "shard/index/ivf_assign.h"
#include "shard/index/ivf_reuse.h"

/* Measuring an effort costs more than all the rest of a small index, and says less the fewer rows
 * there are to ask for. The codebook is the same, so what was measured in another segment holds for
 * this one as well, as long as its rows fit the codebook as well as those did: it is taken from
 * segments of at least half the size, so that a merge, which makes larger ones, measures anew. */
#define KNOWN_GROWTH 2u

/* What one is made of. */
struct building {
    const struct ivf_make *make;
    struct workers *workers;
    struct ivf_reuse reuse;
};

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
static enum kith_err assign_fresh(struct ivf_made *made, const struct building *building,
                                  uint32_t *list_of, struct kith_diag *diag)
{
    struct ivf_assign assign = {0};
    uint32_t end, n_rows = building->make->source->n_rows;
    enum kith_err err = ivf_assign_init(&assign, made->codebook, diag);
    for (uint32_t i = 0; i < n_rows && err == KITH_OK; i = end) {
        struct stretch stretch = {building->make->source,
                                  ivf_reuse_gap(&building->reuse, i, n_rows, &end)};
        uint32_t n = end - stretch.first;
        struct segment_source rows = {.n_rows = n, .row = stretch_row, .ctx = &stretch};
        float energy = 0.0f;
        if (n > 0)
            err = ivf_assign_run(&assign, &rows, building->make->type, building->workers,
                                 list_of + stretch.first, &energy, diag);
        made->fresh_energy += (double)energy * n;
        made->n_fresh += n;
    }
    ivf_assign_fini(&assign);
    return err;
}

static enum kith_err assign_rows(struct ivf_made *made, const struct building *building,
                                 uint32_t *order, struct kith_diag *diag)
{
    uint32_t n = building->make->source->n_rows, *list_of = kith_alloc((size_t)n * sizeof *list_of);
    if (list_of == NULL)
        return kith_fail(diag, KITH_NOMEM, "lists of %u rows", n);
    double energy = ivf_reuse_lists(&building->reuse, list_of);
    enum kith_err err = KITH_OK;
    if (building->reuse.n_rows < n)
        err = assign_fresh(made, building, list_of, diag);
    energy = (energy + made->fresh_energy) / n;
    made->meta.residual_energy = energy < (double)FLT_MAX ? (float)energy : FLT_MAX;
    if (err == KITH_OK)
        sort_rows(list_of, n, made->codebook->n_lists, made->lists, order);
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

static enum kith_err measure(const struct ivf_made *made, const struct ordered *rows,
                             const struct building *building, struct ivf_calibration *found,
                             struct kith_diag *diag)
{
    const struct ivf_meta *meta = &made->meta;
    struct ivf index = {.codebook = made->codebook,
                        .n_rows = meta->n_rows,
                        .row = ordered_row,
                        .row_ctx = rows,
                        .row_type = building->make->type,
                        .lists = made->lists,
                        .codes = made->encoded.codes,
                        .terms = made->encoded.terms,
                        .rows8 = made->encoded.rows8,
                        .row8_bytes = meta->row8_bytes,
                        .term_scale = meta->term_scale,
                        .error = meta->error,
                        .error8 = meta->error8,
                        .residual_energy = meta->residual_energy};
    return ivf_calibrate_run(&index, building->workers, found, diag);
}

static bool is_known(const struct ivf_made *made, const struct ivf_make *make)
{
    const struct ivf_calibration *known = make->known;
    uint32_t n_rows = made->meta.n_rows;
    return known != NULL && (n_rows < make->measure_rows ||
                             (n_rows / KNOWN_GROWTH <= known->rows &&
                              made->meta.residual_energy <= IVF_DRIFT * known->energy));
}

static enum kith_err calibrate(struct ivf_made *made, const struct ordered *rows,
                               const struct building *building, struct kith_diag *diag)
{
    struct ivf_meta *meta = &made->meta;
    struct ivf_calibration found;
    enum kith_err err = KITH_OK;
    if (is_known(made, building->make))
        found = *building->make->known;
    else
        err = measure(made, rows, building, &found, diag);
    if (err != KITH_OK)
        return err;
    meta->n_targets = found.n_targets;
    memcpy(meta->targets, found.targets, sizeof meta->targets);
    memcpy(meta->far, found.far, sizeof meta->far);
    meta->measured_rows = found.rows;
    meta->growth = found.growth;
    return KITH_OK;
}

static enum kith_err build(struct ivf_made *made, const struct building *building, uint32_t *order,
                           struct kith_diag *diag)
{
    const struct segment_source *source = building->make->source;
    made->lists = kith_alloc(((size_t)made->codebook->n_lists + 1) * sizeof *made->lists);
    if (made->lists == NULL)
        return kith_fail(diag, KITH_NOMEM, "index of %u rows", source->n_rows);
    enum kith_err err = assign_rows(made, building, order, diag);
    if (err != KITH_OK)
        return err;
    struct ivf_encode encode = {.codebook = made->codebook,
                                .source = source,
                                .type = building->make->type,
                                .order = order,
                                .lists = made->lists,
                                .reuse = &building->reuse,
                                .workers = building->workers};
    err = ivf_encode_run(&encode, &made->encoded, diag);
    made->meta.n_rows = source->n_rows;
    made->meta.row8_bytes = made->encoded.row8_bytes;
    made->meta.codebook_hash = made->codebook->hash;
    made->meta.term_scale = made->encoded.term_scale;
    made->meta.error = made->encoded.error;
    made->meta.error8 = made->encoded.error8;
    struct ordered rows = {source, order};
    return err == KITH_OK ? calibrate(made, &rows, building, diag) : err;
}

enum kith_err ivf_made_new(struct ivf_made **out, const struct ivf_make *make, uint32_t *order,
                           struct kith_diag *diag)
{
    const struct segment_source *source = make->source;
    struct ivf_made *made = kith_alloc(sizeof *made);
    if (made == NULL)
        return kith_fail(diag, KITH_NOMEM, "index of %u rows", source->n_rows);
    made->codebook = make->codebook;
    codebook_ref(make->codebook);
    struct workers workers;
    struct building building = {.make = make, .workers = &workers};
    ivf_reuse_init(&building.reuse, source, make->codebook);
    enum kith_err err = workers_init(&workers, make->threads, source->stop, source->ctx, diag);
    if (err == KITH_OK) {
        err = build(made, &building, order, diag);
        workers_fini(&workers);
    }
    if (err != KITH_OK) {
        ivf_made_free(made);
        return err;
    }
    *out = made;
    return KITH_OK;
}

void ivf_made_free(struct ivf_made *made)
{
    codebook_unref(made->codebook);
    kith_free(made->lists);
    ivf_encode_free(&made->encoded);
    kith_free(made);
}

enum kith_err ivf_made_emit(const struct ivf_made *made, segment_emit_fn out, void *ctx,
                            struct kith_diag *diag)
{
    const struct codebook *codebook = made->codebook;
    uint8_t meta[IVF_META_BYTES_MAX];
    size_t n = made->meta.n_rows, subs = codebook->n_subs;
    bool pq = codebook->codes == CODEBOOK_PQ4;
    const struct {
        enum ivf_section kind;
        const void *data;
        size_t bytes;
    } sections[] = {
        {IVF_SECTION_CODEBOOK, codebook_bytes(codebook).data, codebook_bytes(codebook).len},
        {IVF_SECTION_META, meta, ivf_format_store_meta(meta, &made->meta)},
        {IVF_SECTION_LISTS, made->lists, ((size_t)codebook->n_lists + 1) * sizeof(uint32_t)},
        {IVF_SECTION_CODES, made->encoded.codes,
         pq ? ivf_format_blocks(made->meta.n_rows) * ivf_format_block_bytes((uint32_t)subs) : 0},
        {IVF_SECTION_TERMS, made->encoded.terms,
         pq ? ivf_format_terms_bytes(made->meta.n_rows) : 0},
        {IVF_SECTION_ROWS8, made->encoded.rows8, n * made->encoded.row8_bytes},
    };
    enum kith_err err = KITH_OK;
    for (size_t i = 0; i < sizeof sections / sizeof sections[0] && err == KITH_OK; i++)
        if (sections[i].bytes > 0)
            err = out(ctx, sections[i].kind, sections[i].data, sections[i].bytes, diag);
    return err;
}
