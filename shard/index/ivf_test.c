#include "shard/index/ivf.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include "common/kith_mem.h"
#include "shard/index/ivf_format.h"
#include "shard/index/ivf_job.h"

#define ROWS  70u /* three blocks, the last one not full */
#define LISTS 4u
#define DIM   5u
#define SUBS  4u

static uint32_t lists[LISTS + 1] = {0, 10, 10, 40, ROWS};
static uint8_t codes[3 * SUBS / 2 * IVF_BLOCK], rows8[ROWS * 64], meta_bytes[IVF_META_BYTES_MAX];
static int16_t terms[3 * IVF_BLOCK];
static float rows[ROWS * DIM];

static const struct codebook codebook = {.metric = KITH_COSINE,
                                         .codes = CODEBOOK_PQ4,
                                         .dim = DIM,
                                         .n_lists = LISTS,
                                         .sub_dim = 2,
                                         .n_subs = SUBS,
                                         .hash = 77};

static struct ivf_source good_source(void)
{
    struct ivf_meta meta = {.n_rows = ROWS,
                            .row8_bytes = 64,
                            .codebook_hash = 77,
                            .term_scale = 0.5f,
                            .error = 0.25f,
                            .n_targets = 1,
                            .measured_rows = ROWS,
                            .targets = {{.recall = 0.9f, .effort = {.reach = 1.5f}}}};
    return (struct ivf_source){
        .meta = {meta_bytes, ivf_format_store_meta(meta_bytes, &meta)},
        .lists = {(const uint8_t *)lists, sizeof lists},
        .codes = {codes, sizeof codes},
        .terms = {(const uint8_t *)terms, sizeof terms},
        .rows8 = {rows8, sizeof rows8},
        .rows = rows,
        .n_rows = ROWS,
        .row_type = KITH_ROWS_F32,
    };
}

static void test_ivf_parses_what_fits(void **state)
{
    (void)state;
    struct ivf_source source = good_source();
    struct ivf ivf;
    assert_int_equal(ivf_parse(&ivf, &source, &codebook, NULL), KITH_OK);
    assert_ptr_equal(ivf.codebook, &codebook);
    assert_int_equal(ivf.n_rows, ROWS);
    assert_true(ivf.term_scale == 0.5f && ivf.error == 0.25f);
    assert_int_equal(ivf.n_targets, 1);
    assert_true(ivf.targets[0].effort.reach == 1.5f);
    /* The file may be cut later: the lists are as they were checked. */
    lists[2] = UINT32_MAX;
    assert_int_equal(ivf.lists[2], 10);
    lists[2] = 10;
    assert_memory_equal(ivf.lists, lists, sizeof lists);
    ivf_fini(&ivf);
    kith_mem_fail_after(0);
    assert_int_equal(ivf_parse(&ivf, &source, &codebook, NULL), KITH_NOMEM);
    kith_mem_fail_after(-1);
}

static void expect_corrupt(const struct ivf_source *source, const struct codebook *with)
{
    struct ivf ivf;
    struct kith_diag diag = {0};
    assert_int_equal(ivf_parse(&ivf, source, with, &diag), KITH_CORRUPT);
}

static void test_ivf_refuses_sections_of_other_sizes(void **state)
{
    (void)state;
    for (int longer = 0; longer < 2; longer++) {
        size_t change = longer ? 1 : (size_t)-1;
        struct ivf_source source = good_source();
        struct kith_bytes *sections[] = {&source.meta, &source.lists, &source.codes, &source.terms,
                                         &source.rows8};
        for (uint32_t i = 0; i < 5; i++) {
            sections[i]->len += change;
            expect_corrupt(&source, &codebook);
            sections[i]->len -= change;
        }
        source.n_rows += (uint32_t)change;
        expect_corrupt(&source, &codebook);
    }
}

static void test_ivf_refuses_lists_out_of_order(void **state)
{
    (void)state;
    struct ivf_source source = good_source();
    for (uint32_t i = 0; i <= LISTS; i++) {
        uint32_t was = lists[i];
        lists[i] = ROWS + 1;
        expect_corrupt(&source, &codebook);
        lists[i] = UINT32_MAX;
        expect_corrupt(&source, &codebook);
        lists[i] = was;
    }
    lists[0] = 1;
    expect_corrupt(&source, &codebook);
    lists[0] = 0;
    lists[3] = 9;
    expect_corrupt(&source, &codebook);
    lists[3] = 40;
}

static void test_ivf_refuses_the_codebook_of_another(void **state)
{
    (void)state;
    struct ivf_source source = good_source();
    struct codebook other = codebook;
    other.hash = 78;
    expect_corrupt(&source, &other);
    other = codebook;
    other.metric = KITH_MANHATTAN;
    expect_corrupt(&source, &other);
    other = codebook;
    other.n_subs = SUBS + 2;
    expect_corrupt(&source, &other);
    other = codebook;
    other.dim = 100; /* rows of bytes would be wider */
    expect_corrupt(&source, &other);
    other = codebook;
    other.codes = CODEBOOK_INT8; /* has no codes */
    expect_corrupt(&source, &other);
}

static void test_ivf_takes_the_mean_effort_of_segments(void **state)
{
    (void)state;
    static const struct ivf one = {
        .n_rows = 100,
        .measured_rows = 100,
        .n_targets = 2,
        .targets = {
            {0.9f, 0.01f, {.reach = 1.2f, .margin = 2.0f, .first_lists = 8, .lists_max = 50}},
            {0.95f, 0.02f, {.reach = 1.3f, .margin = 2.5f, .first_lists = 12, .lists_max = 0}}}};
    static const struct ivf two = {
        .n_rows = 300,
        .measured_rows = 300,
        .n_targets = 2,
        .targets = {
            {0.92f, 0.03f, {.reach = 1.1f, .margin = 3.0f, .first_lists = 10, .lists_max = 70}},
            {0.99f, 0.05f, {.reach = 1.5f, .margin = 2.0f, .first_lists = 16, .lists_max = 90}}}};
    const struct ivf *both[] = {&one, &two};
    struct ivf_target target = ivf_target_for(both, 2, 0.9f, IVF_TARGET_HITS);
    assert_true(target.recall == 0.9f);
    assert_true(fabsf(target.effort.reach - (1.2f + 3 * 1.1f) / 4) < 1e-5f);
    assert_true(fabsf(target.effort.margin - (2 + 3 * 3.0f) / 4) < 1e-5f);
    assert_int_equal(target.effort.first_lists, 10);
    assert_int_equal(target.effort.lists_max, 70);
    assert_true(fabsf(target.rows_share - 0.025f) < 1e-6f);
    target = ivf_target_for(both, 2, 0.94f, IVF_TARGET_HITS);
    assert_int_equal(target.effort.lists_max, 0); /* no limit is the largest */
    float first = 1.2f + 0.1f * 0.8f, other = 1.1f + 0.4f * 2 / 7;
    assert_true(fabsf(target.effort.reach - (first + 3 * other) / 4) < 1e-5f);
    /* Out of reach of the first: all of it, but nobody has seen that this is enough. */
    assert_true(ivf_reaches(&two, 0.99f) && !ivf_reaches(&one, 0.99f));
    target = ivf_target_for(both, 2, 0.99f, IVF_TARGET_HITS);
    assert_true(target.effort.reach > 1e38f && target.effort.margin > 5);
    assert_true(target.rows_share > 0.25f && target.recall == 0.95f);
    target = ivf_target_for(both, 0, 0.5f, IVF_TARGET_HITS);
    assert_true(target.effort.reach > 1e38f && target.recall == 0);
    static const struct ivf uncalibrated = {.n_rows = 100};
    assert_false(ivf_reaches(&uncalibrated, 0.1f));
}

static void test_ivf_opens_wider_beside_other_segments(void **state)
{
    (void)state;
    struct ivf one = {
        .n_rows = 100,
        .measured_rows = 100,
        .n_targets = 1,
        .targets = {
            {0.9f, 0.01f, {.reach = 1.2f, .margin = 2.0f, .first_lists = 8, .lists_max = 0}}}};
    struct ivf two = one;
    two.n_rows = two.measured_rows = 300;
    const struct ivf *both[] = {&one, &two};
    uint32_t opening = ivf_codes_opening(IVF_TARGET_HITS);
    assert_int_equal(ivf_target_for(both, 1, 0.9f, IVF_TARGET_HITS).effort.least_rows, 0);
    struct ivf_target target = ivf_target_for(both, 2, 0.9f, IVF_TARGET_HITS);
    assert_int_equal(target.effort.least_rows, 4 * opening);
    assert_true(target.effort.reach == 1.2f);
    one.measured_rows = 300; /* taken from the other */
    assert_int_equal(ivf_target_for(both, 2, 0.9f, IVF_TARGET_HITS).effort.least_rows,
                     opening * 4 / 3);
    assert_int_equal(ivf_target_for(both, 1, 0.9f, IVF_TARGET_HITS).effort.least_rows,
                     0); /* fewer than there */
}

/* What is enough for each segment; between what was measured, on a line of the logarithms. */
static void test_ivf_takes_what_is_enough_far_off_for_all_segments(void **state)
{
    (void)state;
    struct ivf one = {.n_rows = 100,
                      .measured_rows = 100,
                      .n_targets = 1,
                      .targets = {{0.995f, 0.01f, {.reach = 1.2f, .margin = 2.0f}}},
                      .far = {{1.5f, 0.08f}, {2.5f, 0.02f}}};
    struct ivf two = one;
    two.far[0] = (struct ivf_far_effort){1.75f, 0.16f};
    const struct ivf *both[] = {&one, &two};
    struct ivf_far_effort far = ivf_target_for(both, 1, 0.9f, 10).effort.far;
    assert_true(far.margin == 1.5f && far.rest == 0.08f);
    far = ivf_target_for(both, 2, 0.95f, 10).effort.far;
    assert_true(fabsf(far.margin - 1.75f) < 1e-3f && fabsf(far.rest - 0.08f) < 1e-3f);
    far = ivf_target_for(both, 1, 1 - 0.05f / sqrtf(5), 10).effort.far;
    assert_true(fabsf(far.margin - 2) < 1e-3f && fabsf(far.rest - 0.04f) < 1e-3f);
    far = ivf_target_for(both, 1, 0.998f, 10).effort.far; /* beyond the last target: everything */
    assert_true(far.margin == 0 && far.rest == 0);
    two.far[1].rest = 0; /* not measured: nobody knows what is enough */
    for (uint32_t i = 0; i < 2; i++) {
        both[i] = &two;
        both[1 - i] = &one;
        far = ivf_target_for(both, 2, 0.95f, 10).effort.far;
        assert_true(far.margin == 0 && far.rest == 0);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_ivf_opens_wider_beside_other_segments),
        cmocka_unit_test(test_ivf_parses_what_fits),
        cmocka_unit_test(test_ivf_refuses_sections_of_other_sizes),
        cmocka_unit_test(test_ivf_refuses_lists_out_of_order),
        cmocka_unit_test(test_ivf_refuses_the_codebook_of_another),
        cmocka_unit_test(test_ivf_takes_the_mean_effort_of_segments),
        cmocka_unit_test(test_ivf_takes_what_is_enough_far_off_for_all_segments),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
