/* An index for the tests of the store, to make mistakes in the order of rows visible: rows are
 * sorted by their first element (descending in odd generations, ascending in even ones, so that
 * each rewriting changes the order), and a section repeats that element for each row, so
 * that rows or sections out of step are KITH_CORRUPT at open. A segment wants another index when
 * the generation was raised since it was written. Included by *_test.c only; vectors of f32. */
#ifndef INDEX_TESTING_H
#define INDEX_TESTING_H

#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

#include "common/kith_mem.h"
#include "shard/storage/segment.h"
#include "shard/storage/segment_format.h"

struct test_index {
    struct segment_index_hooks hooks; /* .self is the test_index */
    atomic_uint generation;
    atomic_uint min_rows;      /* segments with fewer have no index */
    void (*during)(void *ctx); /* called while an index is being made; NULL: not */
    void *during_ctx;
    atomic_uint n_stopped; /* times it was told to give up */
};

struct test_index_made {
    const struct segment_source *source;
    uint32_t generation;
    uint32_t *order;
};

struct test_index_parsed {
    uint32_t generation;
};

enum { TEST_INDEX_META = SEGMENT_INDEX_FIRST, TEST_INDEX_FIRST_ELEMENT };

static inline float test_index_first(const void *row)
{
    float first;
    memcpy(&first, row, sizeof first);
    return first;
}

static inline int test_index_compare(const void *a, const void *b, void *ctx)
{
    const struct test_index_made *making = ctx;
    const struct segment_source *source = making->source;
    uint32_t x, y;
    memcpy(&x, a, 4);
    memcpy(&y, b, 4);
    float left = test_index_first(source->row(source->ctx, x));
    float right = test_index_first(source->row(source->ctx, y));
    int descending = left > right ? -1 : left < right;
    return making->generation % 2 == 1 ? descending : -descending;
}

static inline void test_index_end(void *made)
{
    struct test_index_made *building = made;
    kith_free(building->order);
    kith_free(building);
}

static inline enum kith_err test_index_begin(void *self, const struct slice_config *config,
                                             const struct segment_source *source, uint32_t *order,
                                             void **made, struct kith_diag *diag)
{
    struct test_index *index = self;
    (void)config;
    if (source->n_rows < index->min_rows)
        return KITH_OK;
    struct test_index_made *building = kith_alloc(sizeof *building);
    if (building == NULL)
        return kith_fail(diag, KITH_NOMEM, "test index");
    building->source = source;
    building->generation = atomic_load(&index->generation);
    building->order = kith_alloc((size_t)source->n_rows * sizeof *order);
    if (building->order == NULL) {
        kith_free(building);
        return kith_fail(diag, KITH_NOMEM, "test index");
    }
    for (uint32_t i = 0; i < source->n_rows; i++)
        order[i] = i;
    qsort_r(order, source->n_rows, sizeof *order, test_index_compare, building);
    memcpy(building->order, order, (size_t)source->n_rows * sizeof *order);
    *made = building;
    if (index->during != NULL)
        index->during(index->during_ctx);
    if (source->stop == NULL || !source->stop(source->ctx))
        return KITH_OK;
    *made = NULL;
    test_index_end(building);
    atomic_fetch_add(&index->n_stopped, 1);
    return kith_fail(diag, KITH_CANCELLED, "test index");
}

static inline enum kith_err test_index_emit(void *made, segment_emit_fn emit, void *ctx,
                                            struct kith_diag *diag)
{
    const struct test_index_made *building = made;
    const struct segment_source *source = building->source;
    enum kith_err err = emit(ctx, TEST_INDEX_META, &building->generation, 4, diag);
    for (uint32_t i = 0; i < source->n_rows && err == KITH_OK; i++) {
        float first = test_index_first(source->row(source->ctx, building->order[i]));
        err = emit(ctx, TEST_INDEX_FIRST_ELEMENT, &first, sizeof first, diag);
    }
    return err;
}

static inline enum kith_err test_index_open(void *self, const struct segment *segment, void **out,
                                            struct kith_diag *diag)
{
    (void)self;
    struct kith_bytes meta = segment_index_section(segment, TEST_INDEX_META);
    struct kith_bytes firsts = segment_index_section(segment, TEST_INDEX_FIRST_ELEMENT);
    if (meta.len == 0 && firsts.len == 0)
        return KITH_OK;
    uint32_t n = segment_rows(segment), bytes = segment_row_bytes(segment);
    const uint8_t *rows = segment_row_data(segment, 0, n);
    if (meta.len != 4 || firsts.len != (size_t)n * sizeof(float))
        return kith_fail(diag, KITH_CORRUPT, "test index: its size");
    uint32_t generation;
    memcpy(&generation, meta.data, 4);
    for (uint32_t i = 0; i < n; i++) {
        float first = test_index_first(rows + (size_t)i * bytes);
        float before = i > 0 ? test_index_first(rows + (size_t)(i - 1) * bytes) : first;
        if (memcmp(firsts.data + (size_t)i * 4, &first, 4) != 0 ||
            (generation % 2 == 1 ? first > before : first < before))
            return kith_fail(diag, KITH_CORRUPT, "test index: row %u is out of order", i);
    }
    struct test_index_parsed *parsed = kith_alloc(sizeof *parsed);
    if (parsed == NULL)
        return kith_fail(diag, KITH_NOMEM, "test index");
    parsed->generation = generation;
    *out = parsed;
    return KITH_OK;
}

static inline bool test_index_takes(void *self, uint32_t n_rows)
{
    const struct test_index *index = self;
    return n_rows >= index->min_rows;
}

static inline enum index_want test_index_wants(void *self, const struct segment *segment)
{
    struct test_index *index = self;
    const struct test_index_parsed *parsed = segment_index(segment);
    if (parsed == NULL)
        return segment_rows(segment) >= index->min_rows ? INDEX_WANT_ANY : INDEX_WANT_NOTHING;
    return parsed->generation != atomic_load(&index->generation) ? INDEX_WANT_BETTER
                                                                 : INDEX_WANT_NOTHING;
}

static inline void test_index_init(struct test_index *index, uint32_t min_rows)
{
    *index = (struct test_index){.hooks = {.self = index,
                                           .begin = test_index_begin,
                                           .emit = test_index_emit,
                                           .end = test_index_end,
                                           .open = test_index_open,
                                           .close = kith_free,
                                           .takes = test_index_takes,
                                           .wants = test_index_wants}};
    atomic_init(&index->min_rows, min_rows);
    atomic_init(&index->generation, 1);
    atomic_init(&index->n_stopped, 0);
}

#endif
