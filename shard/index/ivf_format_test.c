#include "shard/index/ivf_format.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <string.h>
#include <cmocka.h>

static void test_ivf_format_gives_every_code_a_place_of_its_own(void **state)
{
    (void)state;
    enum { SUBS = 6, ROWS = 70 };
    bool taken[96 * SUBS / 2] = {false};
    assert_int_equal(ivf_format_blocks(ROWS), 3);
    assert_int_equal(ivf_format_blocks(UINT32_MAX), 1u << 27);
    assert_int_equal(ivf_format_block_bytes(SUBS) * 3, sizeof taken);
    for (uint32_t row = 0; row < ROWS; row++)
        for (uint32_t pair = 0; pair < SUBS / 2; pair++) {
            size_t at = ivf_format_code(SUBS, row, pair);
            assert_true(at < sizeof taken && !taken[at]);
            taken[at] = true;
        }
    assert_int_equal(ivf_format_code(SUBS, 33, 1), 96 + 32 + 2);
    assert_int_equal(ivf_format_code(SUBS, 16, 0), 1);
}

static void test_ivf_format_aligns_rows_of_bytes(void **state)
{
    (void)state;
    assert_int_equal(ivf_format_row8_bytes(1), 64);
    assert_int_equal(ivf_format_row8_bytes(56), 64);
    assert_int_equal(ivf_format_row8_bytes(57), 128);
    assert_int_equal(ivf_format_row8_bytes(100), 128);
    struct codebook codebook = {.scale8 = 0.5f, .offset8 = 10};
    assert_int_equal(ivf_format_byte(&codebook, 10), IVF_BYTE_ZERO);
    assert_int_equal(ivf_format_byte(&codebook, 11), IVF_BYTE_ZERO + 2);
    assert_int_equal(ivf_format_byte(&codebook, 1e30f), 255);
    assert_int_equal(ivf_format_byte(&codebook, -1e30f), 0);
    assert_int_equal(ivf_format_byte(&codebook, NAN), 0);
}

static struct ivf_meta sample(void)
{
    struct ivf_meta meta = {.n_rows = 12345,
                            .row8_bytes = 128,
                            .codebook_hash = 0x123456789abcdefu,
                            .term_scale = 0.25f,
                            .error = 1,
                            .error8 = 2,
                            .residual_energy = 3,
                            .n_targets = IVF_TARGETS,
                            .measured_rows = 54321,
                            .growth = 0.5f,
                            .far = {{1.5f, 0.125f}, {2.5f, 0}}};
    for (uint32_t i = 0; i < IVF_TARGETS; i++)
        meta.targets[i] = (struct ivf_target){
            .recall = 0.05f * (float)i,
            .rows_share = 0.01f * (float)i,
            .effort = {
                .reach = 1.0f + (float)i, .margin = 2, .first_lists = i, .lists_max = 7 * i}};
    return meta;
}

static void test_ivf_format_reads_the_meta_it_wrote(void **state)
{
    (void)state;
    uint8_t bytes[IVF_META_BYTES_MAX];
    for (uint32_t n = 0; n <= IVF_TARGETS; n++) {
        struct ivf_meta in = sample(), out;
        in.n_targets = n;
        memset(&in.targets[n], 0, (IVF_TARGETS - n) * sizeof in.targets[0]);
        size_t len = ivf_format_store_meta(bytes, &in);
        assert_int_equal(ivf_format_load_meta(&out, (struct kith_bytes){bytes, len}, NULL),
                         KITH_OK);
        assert_int_equal(out.codebook_hash, in.codebook_hash);
        assert_memory_equal(&out.targets, &in.targets, sizeof in.targets);
        assert_true(out.n_rows == in.n_rows && out.row8_bytes == in.row8_bytes &&
                    out.term_scale == in.term_scale && out.error == in.error &&
                    out.error8 == in.error8 && out.residual_energy == in.residual_energy &&
                    out.n_targets == n && out.measured_rows == in.measured_rows &&
                    out.growth == in.growth);
        assert_memory_equal(&out.far, &in.far, sizeof in.far);
    }
}

/* Neither has far efforts; in the first the growth was something else. */
static void test_ivf_format_reads_versions_before(void **state)
{
    (void)state;
    uint8_t bytes[IVF_META_BYTES_MAX];
    struct ivf_meta meta = sample(), out;
    size_t len = ivf_format_store_meta(bytes, &meta), far = IVF_META_HEADER_BYTES - IVF_META_FAR;
    memmove(bytes + IVF_META_FAR, bytes + IVF_META_HEADER_BYTES, len - IVF_META_HEADER_BYTES);
    memset(meta.far, 0, sizeof meta.far);
    for (uint32_t version = IVF_FORMAT_OLDEST; version < IVF_META_WITH_FAR; version++) {
        kith_store_u32(bytes + 4, version);
        assert_int_equal(ivf_format_load_meta(&out, (struct kith_bytes){bytes, len}, NULL),
                         KITH_CORRUPT);
        assert_int_equal(ivf_format_load_meta(&out, (struct kith_bytes){bytes, len - far}, NULL),
                         KITH_OK);
        assert_true(out.growth == (version == 4 ? IVF_GROWTH_USUAL : meta.growth));
        assert_memory_equal(&out.targets, &meta.targets, sizeof meta.targets);
        assert_memory_equal(&out.far, &meta.far, sizeof meta.far);
        assert_int_equal(out.measured_rows, meta.measured_rows);
    }
    kith_store_u32(bytes + 4, IVF_FORMAT_OLDEST - 1);
    assert_int_equal(ivf_format_load_meta(&out, (struct kith_bytes){bytes, len - far}, NULL),
                     KITH_CORRUPT);
}

static void test_ivf_format_refuses_a_damaged_meta(void **state)
{
    (void)state;
    uint8_t good[IVF_META_BYTES_MAX], bytes[IVF_META_BYTES_MAX];
    struct ivf_meta meta = sample(), out;
    size_t len = ivf_format_store_meta(good, &meta);
    for (size_t cut = 0; cut < len; cut++)
        assert_int_equal(ivf_format_load_meta(&out, (struct kith_bytes){good, cut}, NULL),
                         KITH_CORRUPT);
    static const struct {
        size_t at;
        uint32_t value;
    } damages[] = {{0, 1},
                   {4, IVF_FORMAT_VERSION + 1},
                   {12, 1u << 20},
                   {24, 0x7fc00000u},
                   {28, 0x7f800000u},
                   {32, 0xbf800000u},
                   {40, IVF_TARGETS + 1},
                   {44, 0x7fc00000u},
                   {44, 0xbf800000u},
                   {4, IVF_FORMAT_OLDEST - 1},
                   {IVF_META_FAR, 0x7f800000u},
                   {IVF_META_FAR + 4, 0x40000000u}, /* a rest of 2 */
                   {IVF_META_FAR + 8, 0xbf800000u},
                   {IVF_META_HEADER_BYTES, 0x3f800000u}, /* recall 1 before smaller ones */
                   {IVF_META_HEADER_BYTES + 4, 0x40000000u},
                   {IVF_META_HEADER_BYTES + 8, 0xff800000u}};
    for (size_t i = 0; i < sizeof damages / sizeof damages[0]; i++) {
        memcpy(bytes, good, len);
        kith_store_u32(bytes + damages[i].at, damages[i].value);
        assert_int_equal(ivf_format_load_meta(&out, (struct kith_bytes){bytes, len}, NULL),
                         KITH_CORRUPT);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_ivf_format_gives_every_code_a_place_of_its_own),
        cmocka_unit_test(test_ivf_format_aligns_rows_of_bytes),
        cmocka_unit_test(test_ivf_format_reads_the_meta_it_wrote),
        cmocka_unit_test(test_ivf_format_reads_versions_before),
        cmocka_unit_test(test_ivf_format_refuses_a_damaged_meta),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
