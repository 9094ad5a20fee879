#include "coordinator/encode/textfold.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include "common/kith_mem.h"
#include "proto/kith_limits.h"

static void expect_fold(const char *in, const char *out)
{
    char got[256];
    size_t n = 0;
    assert_true(textfold_utf8(in, strlen(in), got, sizeof got, &n));
    got[n] = '\0';
    assert_string_equal(got, out);
}

static void test_textfold_folds_spellings_together(void **state)
{
    (void)state;
    expect_fold("Hello WORLD 42", "hello world 42");
    expect_fold("Café Ångström NAÏVE Łódź", "cafe angstrom naive lodz");
    expect_fold("ＡＢＣ１２３！　ｘ", "abc123! x");
    expect_fold("ΑΘΗΝΑ Ἀθήνα άέ", "αθηνα Ἀθηνα αε");
    expect_fold("МОСКВА Ёлка ёлка", "москва елка елка");
    expect_fold("e\xCC\x81", "e");                  /* combining acute */
    expect_fold("❤\xEF\xB8\x8F 👍🏽", "❤ 👍"); /* variation selector, skin tone */
    expect_fold("中文不变", "中文不变");
    expect_fold("don’t", "don't");
}

static void test_textfold_refuses_malformed_utf8(void **state)
{
    (void)state;
    /* Unicode 15, table 3-7: each of these is ill-formed. */
    static const char *const bad[] = {
        "\x80",
        "\xC0\x80",
        "\xC1\xBF",
        "\xE0\x80\x80",
        "\xED\xA0\x80",
        "\xF0\x80\x80\x80",
        "\xF4\x90\x80\x80",
        "\xF5\x80\x80\x80",
        "\xE4\xB8",
        "\xFF",
        "a\xC3",
        "\xE4\xB8\x41",
    };
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        struct textfold fold;
        struct kith_diag diag = {0};
        assert_int_equal(textfold_init(&fold, bad[i], strlen(bad[i]), &diag), KITH_BAD_REQUEST);
        assert_non_null(strstr(diag.text, "UTF-8"));
    }
}

static void test_textfold_decode_encode_agree_on_every_code_point(void **state)
{
    (void)state;
    for (uint32_t cp = 0; cp <= 0x10FFFF; cp++) {
        char bytes[4];
        uint32_t back = 0;
        if (cp >= 0xD800 && cp <= 0xDFFF) {
            continue;
        }
        size_t n = textfold_encode(cp, bytes);
        assert_int_equal(textfold_decode(bytes, n, &back), n);
        assert_int_equal(back, cp);
        /* Folding is idempotent, else a folded table could not be looked up. */
        uint32_t folded = textfold_fold(cp);
        assert_int_equal(textfold_fold(folded), folded);
    }
}

static void test_textfold_runs(void **state)
{
    (void)state;
    const char *text = "iPhone用不了,don't 😀😀 C++";
    static const struct {
        enum textfold_class cls;
        size_t len;
    } want[] = {
        {TEXTFOLD_WORD, 6},  {TEXTFOLD_CJK, 3},    {TEXTFOLD_BREAK, 1},  {TEXTFOLD_WORD, 5},
        {TEXTFOLD_BREAK, 1}, {TEXTFOLD_SYMBOL, 1}, {TEXTFOLD_SYMBOL, 1}, {TEXTFOLD_BREAK, 1},
        {TEXTFOLD_WORD, 1},  {TEXTFOLD_SYMBOL, 1}, {TEXTFOLD_SYMBOL, 1},
    };
    struct textfold fold;
    assert_int_equal(textfold_init(&fold, text, strlen(text), NULL), KITH_OK);
    size_t at = 0;
    for (size_t i = 0; i < sizeof want / sizeof want[0]; i++) {
        enum textfold_class cls;
        size_t end = textfold_run(&fold, at, &cls);
        assert_int_equal(cls, want[i].cls);
        assert_int_equal(end - at, want[i].len);
        at = end;
    }
    assert_int_equal(at, fold.n);
    textfold_fini(&fold);
}

static void test_textfold_bounds_and_memory(void **state)
{
    (void)state;
    long before = kith_mem_live();
    char *text = malloc(KITH_TEXT_MAX + 1);
    memset(text, 'a', KITH_TEXT_MAX + 1);
    struct textfold fold;
    assert_int_equal(textfold_init(&fold, text, KITH_TEXT_MAX + 1, NULL), KITH_TOO_BIG);
    assert_int_equal(textfold_init(&fold, text, KITH_TEXT_MAX, NULL), KITH_OK);
    assert_int_equal(fold.n, KITH_TEXT_MAX);
    textfold_fini(&fold);
    kith_mem_fail_after(0);
    assert_int_equal(textfold_init(&fold, text, KITH_TEXT_MAX, NULL), KITH_NOMEM);
    kith_mem_fail_after(-1);
    assert_int_equal(kith_mem_live(), before);
    free(text);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_textfold_folds_spellings_together),
        cmocka_unit_test(test_textfold_refuses_malformed_utf8),
        cmocka_unit_test(test_textfold_decode_encode_agree_on_every_code_point),
        cmocka_unit_test(test_textfold_runs),
        cmocka_unit_test(test_textfold_bounds_and_memory),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
