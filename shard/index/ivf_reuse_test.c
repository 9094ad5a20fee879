/* What is taken over is what would have been made. */
#include "shard/index/ivf_reuse.h"

#include "shard/index/ivf_build_testing.h"

#define SOURCES 2u

/* Rows of two segments without some, and rows of none. */
static struct merged {
    const struct world *world;
    struct segment *segments[SOURCES];
    struct segment_origin origins[SOURCES];
    uint32_t rows[ROWS_MAX];
    uint32_t n_old; /* rows of segments */
} merged;

static const void *merged_row(const void *ctx, uint32_t i)
{
    const struct merged *m = ctx;
    for (uint32_t k = 0; k < SOURCES; k++)
        if (i - m->origins[k].first < m->origins[k].n)
            return segment_row_data(m->segments[k], m->rows[i], 1);
    return row_at(m->world, i);
}

/* n: rows of each. */
static void make_sources(struct world *w, struct io *io, struct ivf_builder *builder,
                         const uint32_t n_of[SOURCES])
{
    static struct world part;
    uint32_t from = 0;
    merged = (struct merged){.world = w};
    for (uint32_t k = 0; k < SOURCES; k++) {
        uint32_t dim = w->config.dim, n = n_of[k];
        part = (struct world){.config = w->config, .codes = w->codes, .n = n, .stop_after = -1};
        memcpy(part.rows, w->rows + (size_t)from * dim, (size_t)n * dim * sizeof *w->rows);
        memcpy(part.halves, w->halves + (size_t)from * dim, (size_t)n * dim * sizeof *w->halves);
        assert_int_equal(write_segment(&part, io, builder, 10 + k), KITH_OK);
        merged.segments[k] = open_segment(w, io, builder, 10 + k);
        uint32_t first = merged.n_old;
        from += n;
        for (uint32_t i = 0; i < n; i++)
            if (random_u32() % 8 != 0)
                merged.rows[merged.n_old++] = i;
        merged.origins[k] = (struct segment_origin){merged.segments[k], merged.rows + first, first,
                                                    merged.n_old - first};
    }
}

/* n rows: those of the segments, and what is more from the world. */
static struct segment *merge(struct world *w, struct io *io, struct ivf_builder *builder,
                             uint64_t number, bool reuse)
{
    struct segment_build build = {
        .writer = {.io = io, .dir = "s", .config = &w->config, .number = number, .n_rows = w->n},
        .rows = {.n_rows = w->n, .row = merged_row, .ctx = &merged},
        .points = write_points,
        .points_ctx = w,
        .index = ivf_builder_hooks(builder)};
    if (reuse) {
        build.rows.origins = merged.origins;
        build.rows.n_origins = SOURCES;
    }
    uint32_t *place = NULL;
    uint64_t bytes;
    assert_int_equal(segment_build_run(&build, &place, &bytes, NULL), KITH_OK);
    kith_free(place);
    return open_segment(w, io, builder, number);
}

static void check_same(const struct segment *a, const struct segment *b)
{
    const struct ivf *x = segment_index(a), *y = segment_index(b);
    static const unsigned same[] = {SEGMENT_ROWS, IVF_SECTION_LISTS, IVF_SECTION_CODES,
                                    IVF_SECTION_ROWS8};
    for (size_t i = 0; i < sizeof same / sizeof *same; i++) {
        struct kith_bytes left = segment_place(a, same[i]), right = segment_place(b, same[i]);
        assert_int_equal(left.len, right.len);
        assert_true(left.len == 0 || memcmp(left.data, right.data, left.len) == 0);
    }
    float step = 0.51f * x->term_scale + 1.01f * y->term_scale;
    for (uint32_t i = 0; i < x->n_rows && x->terms != NULL; i++)
        assert_true(
            fabsf((float)x->terms[i] * x->term_scale - (float)y->terms[i] * y->term_scale) <= step);
    assert_true(fabsf(x->error - y->error) <= 0.1f * x->error);
    assert_true(fabsf(x->error8 - y->error8) <= 0.1f * x->error8);
    assert_true(fabsf(x->residual_energy - y->residual_energy) <= 0.1f * x->residual_energy);
}

static void test_ivf_reuse_is_as_if_made_anew(void **state)
{
    (void)state;
    static const enum codebook_codes kinds[] = {CODEBOOK_ROWS, CODEBOOK_INT8, CODEBOOK_PQ4};
    for (uint32_t round = 0; round < 12; round++) {
        enum codebook_codes kind = kinds[round % 3];
        enum kith_metric metric = (enum kith_metric)(1 + round % (kind == CODEBOOK_PQ4 ? 3 : 4));
        make_world(&world, metric, kind, 1000 + random_u32() % 200);
        struct io *io = new_disk();
        struct codebook *codebook = train(&world, 1), *newer = train(&world, 2);
        struct ivf_builder *builder = new_builder(&world), *anew = new_builder(&world);
        ivf_builder_set_codebook(builder, codebook);
        ivf_builder_set_codebook(anew, codebook);
        make_sources(&world, io, builder, (uint32_t[]){world.n / 2, world.n / 4});
        uint64_t assigned = ivf_builder_fit(builder).rows;
        uint32_t n = world.n;
        world.n = round % 2 == 0 ? n : merged.n_old; /* with rows of no segment, or without */
        struct segment *taken = merge(&world, io, builder, 1, true);
        struct segment *made = merge(&world, io, anew, 2, false);
        check_same(made, taken);
        assert_int_equal(ivf_builder_fit(builder).rows - assigned, world.n - merged.n_old);
        assert_int_equal(ivf_builder_fit(anew).rows, world.n);
        /* Another codebook: nothing can be taken over. */
        ivf_builder_set_codebook(builder, newer);
        segment_unref(taken);
        taken = merge(&world, io, builder, 3, true);
        assert_int_equal(((const struct ivf *)segment_index(taken))->codebook->generation, 2);
        assert_int_equal(ivf_builder_fit(builder).rows, world.n);
        segment_unref(taken);
        segment_unref(made);
        for (uint32_t k = 0; k < SOURCES; k++)
            segment_unref(merged.segments[k]);
        ivf_builder_free(builder);
        ivf_builder_free(anew);
        codebook_unref(codebook);
        codebook_unref(newer);
        io_fake_free(io);
    }
}

/* Bytes that were not read since the start are verified before they are copied. */
static void test_ivf_reuse_marks_what_is_damaged(void **state)
{
    (void)state;
    make_world(&world, KITH_EUCLID, CODEBOOK_INT8, 2500);
    struct rig rig = new_rig(&world);
    make_sources(&world, rig.io, rig.builder, (uint32_t[]){2100, 300});
    struct kith_bytes place = segment_place(merged.segments[0], IVF_SECTION_ROWS8);
    assert_true(place.len > 2 * KITH_SEGMENT_BLOCK);        /* the middle was not read at open */
    ((uint8_t *)(uintptr_t)place.data)[place.len / 2] ^= 4; /* the fake disk maps memory */
    struct segment *taken = merge(&world, rig.io, rig.builder, 1, true);
    assert_int_equal(segment_check(merged.segments[0], NULL), KITH_CORRUPT);
    assert_int_equal(segment_check(merged.segments[1], NULL), KITH_OK);
    segment_unref(taken);
    for (uint32_t k = 0; k < SOURCES; k++)
        segment_unref(merged.segments[k]);
    free_rig(&rig);
    assert_int_equal(kith_mem_live(), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_ivf_reuse_is_as_if_made_anew),
        cmocka_unit_test(test_ivf_reuse_marks_what_is_damaged),
    };
    return cmocka_run_group_tests(tests, random_set_up, NULL);
}
