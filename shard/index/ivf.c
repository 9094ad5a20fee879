#include "shard/index/ivf.h"

#include <float.h>
#include <math.h>
#include <string.h>

#include "common/kith_mem.h"
#include "shard/index/ivf_format.h"
#include "shard/index/ivf_job.h"
#include "shard/index/kernels.h"

#define WIDEST_MARGIN 8.0f /* standard errors */
#define ROWS_GROWTH   0.3f /* a power: 2 to 4 times as many rows for 1,000 hits were seen */

struct ivf_source ivf_source_of(const struct segment *segment, const struct slice_config *config)
{
    return (struct ivf_source){
        .segment = segment,
        .meta = segment_index_section(segment, IVF_SECTION_META),
        .lists = segment_index_section(segment, IVF_SECTION_LISTS),
        .codes = segment_place(segment, IVF_SECTION_CODES),
        .terms = segment_place(segment, IVF_SECTION_TERMS),
        .rows8 = segment_place(segment, IVF_SECTION_ROWS8),
        .rows = segment_place(segment, SEGMENT_ROWS).data,
        .n_rows = segment_rows(segment),
        .row_type = config->rows,
    };
}

static enum kith_err check_lists(const uint32_t *lists, uint32_t n_lists, uint32_t n_rows,
                                 struct kith_diag *diag)
{
    for (uint32_t c = 0; c < n_lists; c++)
        if (lists[c] > lists[c + 1])
            return kith_fail(diag, KITH_CORRUPT, "list %u ends before it begins", c);
    if (lists[0] != 0 || lists[n_lists] != n_rows)
        return kith_fail(diag, KITH_CORRUPT, "lists hold other rows than the segment's %u", n_rows);
    return KITH_OK;
}

/* A copy: a file that is cut under its map reads as zeros from then on, and a run of rows taken
 * from bounds before and after would be of any length. */
static enum kith_err copy_lists(uint32_t **out, struct kith_bytes bytes, uint32_t n_lists,
                                uint32_t n_rows, struct kith_diag *diag)
{
    if (bytes.len != ((size_t)n_lists + 1) * sizeof(uint32_t))
        return kith_fail(diag, KITH_CORRUPT, "%zu bytes for %u lists", bytes.len, n_lists);
    uint32_t *lists = kith_memdup(bytes.data, bytes.len);
    if (lists == NULL)
        return kith_fail(diag, KITH_NOMEM, "%u lists", n_lists);
    enum kith_err err = check_lists(lists, n_lists, n_rows, diag);
    if (err == KITH_OK)
        *out = lists;
    else
        kith_free(lists);
    return err;
}

/* The sections whose sizes follow from the shape. */
static bool sizes_fit(const struct ivf_source *source, const struct codebook *codebook,
                      uint32_t row8_bytes)
{
    size_t codes = 0, terms = 0, rows8 = 0;
    if (codebook->codes == CODEBOOK_PQ4) {
        codes = ivf_format_blocks(source->n_rows) * ivf_format_block_bytes(codebook->n_subs);
        terms = ivf_format_terms_bytes(source->n_rows);
    }
    if (codebook->codes != CODEBOOK_ROWS)
        rows8 = (size_t)source->n_rows * ivf_format_row8_bytes(codebook->dim);
    return source->codes.len == codes && source->terms.len == terms && source->rows8.len == rows8 &&
           (uintptr_t)source->terms.data % sizeof(int16_t) == 0 &&
           row8_bytes ==
               (codebook->codes == CODEBOOK_ROWS ? 0 : ivf_format_row8_bytes(codebook->dim));
}

enum kith_err ivf_parse(struct ivf *out, const struct ivf_source *source,
                        const struct codebook *codebook, struct kith_diag *diag)
{
    struct ivf_meta meta;
    enum kith_err err = ivf_format_load_meta(&meta, source->meta, diag);
    if (err != KITH_OK)
        return err;
    if (meta.n_rows != source->n_rows || meta.codebook_hash != codebook->hash)
        return kith_fail(diag, KITH_CORRUPT, "an index of other rows or of another codebook");
    if (codebook->codes == CODEBOOK_PQ4 && codebook->metric == KITH_MANHATTAN)
        return kith_fail(diag, KITH_CORRUPT, "products say nothing of manhattan distances");
    if (!sizes_fit(source, codebook, meta.row8_bytes))
        return kith_fail(diag, KITH_CORRUPT, "a section of the index has a wrong size");
    uint32_t *lists = NULL;
    err = copy_lists(&lists, source->lists, codebook->n_lists, meta.n_rows, diag);
    if (err != KITH_OK)
        return err;
    _Atomic uint64_t *verified =
        kith_alloc(((size_t)codebook->n_lists + 63) / 64 * sizeof *verified);
    if (verified == NULL) {
        kith_free(lists);
        return kith_fail(diag, KITH_NOMEM, "%u lists", codebook->n_lists);
    }
    *out = (struct ivf){
        .codebook = codebook,
        .segment = source->segment,
        .verified = verified,
        .n_rows = meta.n_rows,
        .rows = source->rows,
        .row_type = source->row_type,
        .lists = lists,
        .codes = source->codes.data,
        .terms = (const int16_t *)(const void *)source->terms.data,
        .rows8 = source->rows8.data,
        .row8_bytes = meta.row8_bytes,
        .term_scale = meta.term_scale,
        .error = meta.error,
        .error8 = meta.error8,
        .residual_energy = meta.residual_energy,
        .n_targets = meta.n_targets,
        .measured_rows = meta.measured_rows,
        .growth = meta.growth,
    };
    memcpy(out->targets, meta.targets, sizeof out->targets);
    memcpy(out->far, meta.far, sizeof out->far);
    return KITH_OK;
}

void ivf_fini(struct ivf *ivf)
{
    kith_free((void *)(uintptr_t)ivf->lists);
    kith_free(ivf->verified);
    ivf->lists = NULL;
    ivf->verified = NULL;
}

/* ---- verifying -------------------------------------------------------------------------------
 */

bool ivf_verify_rows(const struct ivf *index, uint32_t first, uint32_t n)
{
    if (index->segment == NULL)
        return true;
    uint64_t bytes = segment_row_bytes(index->segment);
    return segment_need(index->segment, SEGMENT_ROWS, first * bytes, n * bytes);
}

static bool verify_codes(const struct ivf *index, uint32_t first, uint32_t end)
{
    uint64_t block_bytes = ivf_format_block_bytes(index->codebook->n_subs);
    uint64_t from = first / IVF_BLOCK, n = (end - 1) / IVF_BLOCK + 1 - from;
    uint64_t term_bytes = IVF_BLOCK * sizeof *index->terms;
    bool codes =
        segment_need(index->segment, IVF_SECTION_CODES, from * block_bytes, n * block_bytes);
    return segment_need(index->segment, IVF_SECTION_TERMS, from * term_bytes, n * term_bytes) &&
           codes;
}

void ivf_verify_list(const struct ivf *index, uint32_t list)
{
    uint32_t first = index->lists[list], n = index->lists[list + 1] - first;
    uint64_t row8_bytes = index->row8_bytes;
    enum codebook_codes kind = index->codebook->codes;
    bool good = true;
    if (n > 0 && kind == CODEBOOK_PQ4)
        good = verify_codes(index, first, first + n);
    if (n > 0 && kind == CODEBOOK_ROWS)
        good = ivf_verify_rows(index, first, n);
    else if (n > 0)
        good =
            segment_need(index->segment, IVF_SECTION_ROWS8, first * row8_bytes, n * row8_bytes) &&
            good;
    if (good) /* else it is looked at again, for the same answer */
        (void)atomic_fetch_or_explicit(&index->verified[list / 64], UINT64_C(1) << (list % 64),
                                       memory_order_relaxed);
}

const void *ivf_row(const struct ivf *ivf, uint32_t i)
{
    uint32_t row_bytes = kernels_row_bytes(kernels_type_of(ivf->row_type), ivf->codebook->dim);
    return ivf->row != NULL ? ivf->row(ivf->row_ctx, i)
                            : (const uint8_t *)ivf->rows + (size_t)i * row_bytes;
}

/* ---- effort ---------------------------------------------------------------------------------- */

/* Every list: the reach is as long as a float can say. Codes may still hide a row, so that what it
 * finds is not known to be all. */
static const struct ivf_target everything = {
    .recall = 0, .rows_share = 1, .effort = {.reach = FLT_MAX, .margin = WIDEST_MARGIN}};

static float best_recall(const struct ivf *segment)
{
    return segment->n_targets > 0 ? segment->targets[segment->n_targets - 1].recall : 0;
}

bool ivf_reaches(const struct ivf *segment, float recall)
{
    return best_recall(segment) >= recall;
}

/* Recall rises ever slower with the effort, so that on the line between two points there is more of
 * it than the line says. */
static struct ivf_target between(const struct ivf_target *low, const struct ivf_target *high,
                                 float recall)
{
    struct ivf_target target = *high;
    float part = (recall - low->recall) / (high->recall - low->recall);
    target.recall = recall;
    target.rows_share = low->rows_share + part * (high->rows_share - low->rows_share);
    target.effort.reach = low->effort.reach + part * (high->effort.reach - low->effort.reach);
    target.effort.margin = low->effort.margin + part * (high->effort.margin - low->effort.margin);
    return target;
}

/* Where targets were measured, the opening visited lists until it had so many rows: two where a
 * list is small, because it has a part of a cluster. Among more rows the first list is enough for
 * an opening, and a short reach asks for no other. */
static uint32_t least_rows(const struct ivf *segment, double all_rows)
{
    double times = all_rows / (double)segment->measured_rows;
    double rows = ivf_codes_opening(IVF_TARGET_HITS) * times;
    return times <= 1 ? 0 : rows < UINT32_MAX ? (uint32_t)rows : UINT32_MAX;
}

static struct ivf_target target_of(const struct ivf *segment, float recall)
{
    const struct ivf_target *targets = segment->targets;
    for (uint32_t i = 0; i < segment->n_targets; i++)
        if (targets[i].recall >= recall)
            return i == 0 ? targets[0] : between(&targets[i - 1], &targets[i], recall);
    struct ivf_target all = everything;
    all.recall = best_recall(segment);
    return all;
}

/* Adds the segment's part of the whole to a mean. What nobody has seen to be enough, in any of
 * them, is everything. */
static void mix(struct ivf_effort *mean, const struct ivf_effort *one, float part)
{
    mean->reach =
        one->reach < FLT_MAX && mean->reach < FLT_MAX ? mean->reach + part * one->reach : FLT_MAX;
    mean->margin = one->reach < FLT_MAX && mean->reach < FLT_MAX ? mean->margin + part * one->margin
                                                                 : WIDEST_MARGIN;
    if (one->first_lists > mean->first_lists)
        mean->first_lists = one->first_lists;
    if (one->least_rows > mean->least_rows)
        mean->least_rows = one->least_rows;
    if (one->lists_max == 0 || (mean->lists_max != 0 && one->lists_max > mean->lists_max))
        mean->lists_max = one->lists_max;
}

/* Measured for two shares of misses; between and beyond them, what is linear in their logarithm. */
static struct ivf_far_effort far_effort(const struct ivf *segment, float misses)
{
    static const float measured[IVF_FAR_EFFORTS] = IVF_FAR_MISSES;
    const struct ivf_far_effort *few = &segment->far[0], *fewer = &segment->far[1];
    if (!(few->margin > 0 && few->rest > 0 && fewer->margin > 0 && fewer->rest > 0))
        return (struct ivf_far_effort){0};
    if (misses >= measured[0])
        return *few;
    float part = logf(misses / measured[0]) / logf(measured[1] / measured[0]);
    return (struct ivf_far_effort){.margin = few->margin + part * (fewer->margin - few->margin),
                                   .rest = few->rest * powf(fewer->rest / few->rest, part)};
}

/* What is enough for each of them; nothing where one does not say. */
static struct ivf_far_effort far_efforts(const struct ivf *const *segments, uint32_t n,
                                         float misses)
{
    struct ivf_far_effort all = {.margin = 0, .rest = 1};
    for (uint32_t i = 0; i < n; i++) {
        struct ivf_far_effort one = far_effort(segments[i], misses);
        if (!(one.margin > 0))
            return (struct ivf_far_effort){0};
        all.margin = fmaxf(all.margin, one.margin);
        all.rest = fminf(all.rest, one.rest);
    }
    return all;
}

/* For more hits than were asked for when it was measured: reach grows as was measured, too. */
static void widen(struct ivf_target *target, float growth, uint32_t k)
{
    if (k <= IVF_TARGET_HITS || !(target->effort.reach < FLT_MAX))
        return;
    float times = (float)k / IVF_TARGET_HITS, decades = log10f(times);
    target->effort.reach += growth * decades;
    target->effort.margin += IVF_MARGIN_GROWTH * decades;
    if (target->effort.far.margin > 0)
        target->effort.far.margin += IVF_MARGIN_GROWTH * decades;
    target->rows_share = fminf(target->rows_share * powf(times, ROWS_GROWTH), 1);
}

struct ivf_target ivf_target_for(const struct ivf *const *segments, uint32_t n, float recall,
                                 uint32_t k)
{
    struct ivf_target all = everything;
    float growth = 0;
    double rows = 0;
    for (uint32_t i = 0; i < n; i++)
        rows += (double)segments[i]->n_rows;
    for (uint32_t i = 0; i < n && rows > 0; i++) {
        float part = (float)((double)segments[i]->n_rows / rows);
        struct ivf_target one = target_of(segments[i], recall);
        one.effort.least_rows = least_rows(segments[i], rows);
        if (i == 0)
            all =
                (struct ivf_target){.recall = one.recall, .effort.lists_max = one.effort.lists_max};
        mix(&all.effort, &one.effort, part);
        growth += part * segments[i]->growth;
        all.recall = one.recall < all.recall ? one.recall : all.recall;
        all.rows_share += part * one.rows_share;
    }
    if (all.effort.reach < FLT_MAX && recall < 1) {
        all.effort.misses = 1 - recall;
        all.effort.growth = growth;
        all.effort.far = far_efforts(segments, n, all.effort.misses);
    }
    widen(&all, growth, k);
    return all;
}
