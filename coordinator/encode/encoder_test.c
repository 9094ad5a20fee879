#include "coordinator/encode/encoder.h"

#include <setjmp.h>
#include <stdarg.h>
#include <string.h>
#include <cmocka.h>

static void test_encoder_refuses_bad_configs(void **state)
{
    (void)state;
    static const struct {
        struct encoder_config cfg;
        const char *says;
    } bad[] = {
        {{.kind = NULL}, "encoder.kind"},
        {{.kind = "bert"}, "encoder.kind \"bert\""},
        {{.kind = "ngram", .dim = 3}, "encoder.dim"},
        {{.kind = "ngram", .dim = 8193}, "encoder.dim"},
        {{.kind = "wordvec", .dir = "/tmp"}, "encoder.file"},
        {{.kind = "wordvec", .dir = "/tmp", .file = "x", .sif_a = -1}, "encoder.sif_a"},
    };
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        struct encoder *enc = NULL;
        struct kith_diag diag = {0};
        assert_int_equal(encoder_open(&enc, &bad[i].cfg, &diag), KITH_BAD_REQUEST);
        assert_null(enc);
        assert_non_null(strstr(diag.text, bad[i].says));
    }
}

static void test_encoder_knows_its_kinds(void **state)
{
    (void)state;
    assert_true(encoder_kind_known("ngram") && encoder_kind_known("wordvec"));
    assert_false(encoder_kind_known("ngra") || encoder_kind_known("") || encoder_kind_known(NULL));
    assert_true(encoder_kind_needs_file("wordvec"));
    assert_false(encoder_kind_needs_file("ngram"));
}

static enum kith_err zero_encode(const struct encoder *self, const char *text, size_t len,
                                 float *out, struct kith_diag *diag)
{
    (void)diag;
    for (uint32_t i = 0; i < self->dim; i++) {
        out[i] = len > 0 && text[0] == 'x' ? 2.0f : 0.0f;
    }
    return KITH_OK;
}

static void test_encoder_never_passes_a_zero_on(void **state)
{
    (void)state;
    static const struct encoder_ops ops = {"zero", zero_encode, NULL};
    struct encoder enc = {.ops = &ops, .dim = 4};
    float out[4] = {7, 7, 7, 7};
    struct kith_diag diag = {0};
    assert_int_equal(encoder_encode(&enc, "y", 1, out, &diag), KITH_UNPROCESSABLE);
    assert_memory_equal(diag.text, "cannot encode: ", 15);
    assert_true(out[0] == 7);
    assert_int_equal(encoder_encode(&enc, "x", 1, out, &diag), KITH_OK);
    assert_true(out[0] == 0.5f);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_encoder_refuses_bad_configs),
        cmocka_unit_test(test_encoder_knows_its_kinds),
        cmocka_unit_test(test_encoder_never_passes_a_zero_on),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
