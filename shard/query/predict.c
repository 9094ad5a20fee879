#include "shard/query/predict.h"

#include <math.h>
#include <string.h>
#include <sys/mman.h>

#include "common/kith_clock.h"
#include "common/kith_mem.h"
#include "proto/kith_limits.h"
#include "shard/index/codebook_format.h"
#include "shard/index/ivf_build.h"
#include "shard/index/ivf_format.h"
#include "shard/index/kernels.h"
#include "shard/index/sketch.h"
#include "shard/query/search_cost.h"
#include "shard/storage/column_format.h"
#include "shard/storage/segment_format.h"
#include "shard/storage/segment_names.h"
#include "shard/storage/wal.h"
#include "shard/storage/write_record.h"

#define TIER_FULL     8u /* segments of a size that become one: merge_policy.c */
#define HEAD_CHUNK    1024u
#define WRITE_ROWS    100u /* of one write, about: each has a record's head in the log */
#define MEMORY_DIM    128u
#define MEMORY_BYTES  (64u << 20) /* more than the caches hold */
#define MEMORY_PAGE   (2u << 20)
#define MEMORY_ROUNDS 5u
/* The power of the number of rows that the rows looked at grow with, where two trials do not tell:
 * that of word vectors (docs/SCALING.md). Below the least one a trial was of too few rows to tell.
 */
#define GROWTH       0.75
#define GROWTH_LEAST 0.3

static uint32_t row_bytes_of(const struct predict_shape *shape)
{
    return shape->dim * (shape->row_type == KITH_ROWS_F16 ? 2 : 4);
}

/* ---- heads and the log ----------------------------------------------------------------------- */

static uint64_t head_row_bytes(const struct predict_shape *shape)
{
    const struct slice_config config = {
        .dim = shape->dim, .metric = shape->metric, .rows = shape->row_type};
    struct head_sketch sketch;
    sketch_where_it_pays(&config, &sketch);
    return row_bytes_of(shape) + sketch.bytes + sizeof(struct kith_id) + sizeof(struct kith_bytes) +
           2 * sizeof(uint64_t) + sizeof(uint32_t) + shape->payload_bytes;
}

static uint64_t log_row_bytes(const struct predict_shape *shape)
{
    uint64_t op = 1 + KITH_ID_WIRE_BYTES + 4 + row_bytes_of(shape) + shape->payload_bytes;
    return op + (WAL_RECORD_BYTES + WRITE_RECORD_HEAD_BYTES) / WRITE_ROWS;
}

static uint64_t least(uint64_t a, uint64_t b)
{
    return a < b ? a : b;
}

/* Rows at which a head is sealed. */
static uint64_t seal_rows(const struct predict_shape *shape)
{
    uint64_t by_bytes = KITH_HEAD_BYTES_MAX / head_row_bytes(shape);
    uint64_t by_log = KITH_WAL_FILE_MAX / log_row_bytes(shape);
    uint64_t rows = least(KITH_HEAD_ROWS_MAX, least(by_bytes, by_log));
    return rows > 0 ? rows : 1;
}

static void add_head(const struct predict_shape *shape, uint64_t rows, struct memory_use *uses)
{
    uint64_t slots = 16, chunks = (rows + HEAD_CHUNK - 1) / HEAD_CHUNK * HEAD_CHUNK;
    while (slots < 4ull * KITH_HEAD_ROWS_MAX)
        slots *= 2;
    uint64_t heap = slots * sizeof(uint32_t) + chunks * head_row_bytes(shape);
    uses[MEMORY_HEADS].mapped += heap;
    uses[MEMORY_WAL].file += WAL_HEADER_BYTES + rows * log_row_bytes(shape);
}

/* ---- segments -------------------------------------------------------------------------------- */

static struct codebook_parts codebook_of(const struct predict_shape *shape, uint64_t rows)
{
    struct codebook_parts parts = {
        .metric = shape->metric, .dim = shape->dim, .n_lists = codebook_lists_for(rows)};
    parts.codes = shape->index == KITH_INDEX_PQ4    ? CODEBOOK_PQ4
                  : shape->index == KITH_INDEX_INT8 ? CODEBOOK_INT8
                                                    : CODEBOOK_ROWS;
    if (parts.codes == CODEBOOK_PQ4) {
        parts.sub_dim = codebook_sub_dim_for(shape->dim);
        parts.n_subs = codebook_format_subs(shape->dim, parts.sub_dim);
    }
    return parts;
}

static void add_section(struct memory_use *uses, enum memory_kind kind, uint64_t bytes)
{
    uses[kind].file += bytes;
    uses[kind].mapped += bytes;
    uint64_t padding = segment_format_align(bytes) - bytes;
    uses[MEMORY_OTHER].file += padding;
    uses[MEMORY_OTHER].mapped += padding;
}

static void add_index(const struct predict_shape *shape, uint32_t rows, struct memory_use *uses)
{
    struct codebook_parts parts = codebook_of(shape, shape->rows);
    add_section(uses, MEMORY_CODEBOOK, codebook_format_bytes(&parts));
    add_section(uses, MEMORY_LISTS, IVF_META_BYTES_MAX);
    add_section(uses, MEMORY_LISTS, ((uint64_t)parts.n_lists + 1) * sizeof(uint32_t));
    if (parts.codes == CODEBOOK_PQ4) {
        add_section(uses, MEMORY_CODES,
                    ivf_format_blocks(rows) * ivf_format_block_bytes(parts.n_subs));
        add_section(uses, MEMORY_CODES, ivf_format_terms_bytes(rows));
    }
    if (parts.codes != CODEBOOK_ROWS)
        add_section(uses, MEMORY_ROWS8, (uint64_t)rows * ivf_format_row8_bytes(shape->dim));
}

static uint64_t sum_of_files(const struct memory_use *uses)
{
    uint64_t sum = 0;
    for (uint32_t i = 0; i < MEMORY_KINDS; i++)
        sum += i == MEMORY_WAL ? 0 : uses[i].file;
    return sum;
}

/* A segment of so many of the rows has an index. */
static bool is_indexed(const struct predict_shape *shape, uint64_t rows)
{
    return shape->index != KITH_INDEX_NONE && shape->rows >= IVF_TRAIN_ROWS &&
           ivf_pays(rows, row_bytes_of(shape), codebook_lists_for(shape->rows));
}

static void add_segment(const struct predict_shape *shape, uint32_t rows, struct memory_use *uses)
{
    uint64_t slots = 16, before = sum_of_files(uses);
    while (slots * 2 < (uint64_t)rows * 3)
        slots *= 2;
    uint64_t blocks = (uint64_t)rows * shape->payload_bytes / SEGMENT_PAYLOAD_BLOCK;
    add_section(uses, MEMORY_ROWS, (uint64_t)rows * row_bytes_of(shape));
    add_section(uses, MEMORY_IDS,
                (uint64_t)rows * (shape->uuids ? SEGMENT_ID_UUID : SEGMENT_ID_NUMBER));
    add_section(uses, MEMORY_IDS, slots * sizeof(uint32_t));
    add_section(uses, MEMORY_IDS, (uint64_t)rows * sizeof(uint32_t));
    add_section(uses, MEMORY_IDS, (uint64_t)rows * SEGMENT_SEQ_NARROW);
    add_section(uses, MEMORY_COLUMNS, sizeof(struct column_format_header));
    add_section(uses, MEMORY_PAYLOADS, (uint64_t)rows * shape->payload_bytes);
    if (shape->payload_bytes > 0)
        add_section(uses, MEMORY_PAYLOADS, (uint64_t)rows * sizeof(uint64_t));
    add_section(uses, MEMORY_PAYLOADS, blocks * SEGMENT_BLOCK_ENTRY);
    if (is_indexed(shape, rows))
        add_index(shape, rows, uses);
    uint64_t body = sum_of_files(uses) - before + SEGMENT_HEADER_BYTES;
    uint64_t checksums = (body / KITH_SEGMENT_BLOCK + 2) * sizeof(uint32_t);
    uses[MEMORY_OTHER].file += SEGMENT_HEADER_BYTES + checksums;
    uses[MEMORY_OTHER].mapped += SEGMENT_HEADER_BYTES + checksums;
}

/* Sealed rows as segments: eight of a size are merged, and with an index to be had, fewer of a size
 * are as well, once it is quiet. The last ones stay in the head, unless they are to be indexed. */
static void add_slice(const struct predict_shape *shape, uint64_t rows, struct memory_use *uses)
{
    uint64_t unit = seal_rows(shape), sealed = rows / unit;
    uint64_t last = rows - sealed * unit;
    bool rests = is_indexed(shape, last);
    add_head(shape, rests ? 0 : last, uses);
    if (rests)
        add_segment(shape, (uint32_t)last, uses);
    for (uint64_t left = sealed, size = unit; left > 0; left /= TIER_FULL, size *= TIER_FULL) {
        uint64_t n = left % TIER_FULL;
        bool together = is_indexed(shape, size);
        for (uint64_t i = 0; i < n; i = together ? n : i + 1)
            add_segment(shape, (uint32_t)least(together ? n * size : size, SEGMENT_ROWS_MAX), uses);
    }
}

static bool has_index(const struct predict_shape *shape)
{
    return is_indexed(shape, shape->rows / shape->n_slices);
}

void predict_bytes(const struct predict_shape *shape, struct memory_use *uses)
{
    kith_assert(shape->n_slices > 0 && shape->dim > 0);
    for (uint32_t i = 0; i < MEMORY_KINDS; i++)
        uses[i] = (struct memory_use){0};
    for (uint32_t i = 0; i < shape->n_slices; i++)
        add_slice(shape, (shape->rows + i) / shape->n_slices, uses);
    if (has_index(shape)) {
        struct codebook_parts parts = codebook_of(shape, shape->rows);
        uint64_t lists = ((uint64_t)parts.n_lists + 15) / 16 * 16;
        uint64_t made = lists * ((shape->dim + 3) / 4 * 4 + sizeof(float));
        uses[MEMORY_CODEBOOKS].mapped += codebook_format_bytes(&parts) + made;
    }
    for (uint32_t i = 0; i < MEMORY_KINDS; i++)
        uses[i].resident = uses[i].mapped;
}

uint64_t predict_hot_bytes(const struct predict_shape *shape, const struct memory_use *uses)
{
    uint64_t hot = uses[MEMORY_HEADS].mapped + uses[MEMORY_CODEBOOKS].mapped +
                   uses[MEMORY_CODES].mapped + uses[MEMORY_LISTS].mapped +
                   uses[MEMORY_ROWS8].mapped + uses[MEMORY_IDS].mapped;
    bool scans = !has_index(shape) || shape->index == KITH_INDEX_ROWS;
    return hot + (scans ? uses[MEMORY_ROWS].mapped : 0);
}

/* ---- times ----------------------------------------------------------------------------------- */

/* The planner measures what the caches hold, and learns the rest from searches. Nothing of this
 * size was searched, so memory is read: the best of some rounds, since others may be at work. */
static enum kith_err measure_memory(struct search_cost *cost, struct kith_diag *diag)
{
    uint8_t *data = kith_alloc_aligned(MEMORY_PAGE, MEMORY_BYTES);
    const struct kernels_rows rows = {data, MEMORY_DIM};
    const uint32_t n = MEMORY_BYTES / (MEMORY_DIM * sizeof(float));
    float query[MEMORY_DIM] = {0}, *ranks = kith_alloc(n * sizeof *ranks), best = INFINITY;
    enum kith_err err = KITH_OK;
    if (data != NULL && ranks != NULL) {
        (void)madvise(data, MEMORY_BYTES, MADV_HUGEPAGE); /* as a segment's mostly are */
        memset(data, 0, MEMORY_BYTES);                    /* pages of its own */
        for (uint32_t round = 0; round < MEMORY_ROUNDS; round++) {
            uint64_t begun = kith_now_ns();
            kernels_best()->scan[KERNELS_IP][KERNELS_F32](query, rows, n, ranks);
            best = fminf(best, (float)(kith_now_ns() - begun) / MEMORY_BYTES);
        }
        cost->ordered_ns = fmaxf(cost->ordered_ns, best);
        cost->picked_ns = fmaxf(cost->picked_ns, best);
    } else {
        err = kith_fail(diag, KITH_NOMEM, "measuring the machine");
    }
    kith_free(ranks);
    kith_free(data);
    return err;
}

/* By the index, with so many rows, of which such a share is looked at. */
static double lists_ns(const struct predict_shape *shape, const struct search_cost *cost,
                       uint64_t rows, double share)
{
    struct codebook_parts parts = codebook_of(shape, rows);
    struct codebook codebook = {.metric = shape->metric,
                                .codes = parts.codes,
                                .dim = shape->dim,
                                .n_lists = parts.n_lists,
                                .sub_dim = parts.sub_dim,
                                .n_subs = parts.n_subs};
    struct ivf index = {.codebook = &codebook, .n_rows = (uint32_t)least(rows, UINT32_MAX)};
    return search_cost_lists_base(cost, &codebook, TRIAL_K, row_bytes_of(shape)) +
           search_cost_lists(cost, &index, index.n_rows, (float)share);
}

static double growth_of(const struct trial_found *trials, uint32_t n_trials)
{
    if (n_trials < 2 || !(trials[1].rows_share > 0))
        return GROWTH;
    double rows = (double)trials[0].n_rows / trials[1].n_rows;
    double growth = 1 + log(trials[0].rows_share / trials[1].rows_share) / log(rows);
    return fmin(fmax(growth, GROWTH_LEAST), 1);
}

enum kith_err predict_times(const struct predict_shape *shape, const struct trial_found *trials,
                            uint32_t n_trials, struct predict_times *out, struct kith_diag *diag)
{
    const struct trial_found *most = &trials[0];
    struct predict_times times = {most->exact_ns, most->lists_ns};
    kith_assert(n_trials > 0 && most->n_rows > 0 && most->n_rows <= shape->rows);
    if (most->n_rows < shape->rows) {
        struct search_cost cost = {.ordered_ns = 0};
        enum kith_err err = search_cost_measure(&cost, diag);
        if (err == KITH_OK)
            err = measure_memory(&cost, diag);
        if (err != KITH_OK)
            return err;
        double more = (double)shape->rows / most->n_rows;
        double bytes = (double)most->n_rows * row_bytes_of(shape);
        double memory_ns = (double)shape->rows * row_bytes_of(shape) * (double)cost.ordered_ns;
        times.exact_ns = most->exact_ns * more;
        if (bytes < MEMORY_BYTES) /* what was scanned was in a cache */
            times.exact_ns = fmax(times.exact_ns, memory_ns);
        if (most->lists_ns > 0) {
            double share = most->rows_share * pow(more, growth_of(trials, n_trials) - 1);
            times.lists_ns *= lists_ns(shape, &cost, shape->rows, share) /
                              lists_ns(shape, &cost, most->n_rows, most->rows_share);
        }
    }
    *out = times;
    return KITH_OK;
}
