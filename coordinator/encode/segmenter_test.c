#include "coordinator/encode/segmenter.h"

#include <setjmp.h>
#include <stdarg.h>
#include <string.h>
#include <cmocka.h>

#include "common/kith_mem.h"
#include "coordinator/encode/textfold.h"

static const char dictionary[] = "北京 300 ns\n北京大学 20 nt\n大学 100 n\n大学生 50 n\n生活 80 n\n"
                                 "ＡＢ 1\n\n开心 49\n开心 400 a\r\n";

static struct segmenter *load(const char *text)
{
    struct segmenter *seg = NULL;
    struct kith_diag diag = {0};
    assert_int_equal(segmenter_load(&seg, text, strlen(text), &diag), KITH_OK);
    return seg;
}

static void test_segmenter_takes_the_longest(void **state)
{
    (void)state;
    struct segmenter *seg = load(dictionary);
    struct segmenter_words words = segmenter_words(seg);
    static const size_t want[] = {4, 2, 0}; /* 北京大学 | 生活 | (好) */
    struct textfold fold;
    const char *text = "北京大学生活好";
    assert_int_equal(textfold_init(&fold, text, strlen(text), NULL), KITH_OK);
    size_t at = 0;
    for (size_t i = 0; i < 3; i++) {
        assert_int_equal(segmenter_longest(&words, fold.cps + at, fold.n - at, 1), want[i]);
        at += want[i];
    }
    assert_int_equal(segmenter_longest(&words, fold.cps, 3, 3), 0); /* 北京大: only 北京 fits */
    textfold_fini(&fold);
    segmenter_free(seg);
}

static void test_segmenter_counts(void **state)
{
    (void)state;
    struct segmenter *seg = load(dictionary);
    assert_int_equal(segmenter_n(seg), 7);
    double p = segmenter_probability(seg, "开心", strlen("开心"));
    assert_true(p > 0.4489 && p < 0.4491); /* 449 of 1000; lines add up, \r is no part of it */
    assert_true(segmenter_probability(seg, "ab", 2) > 0); /* folded */
    assert_true(segmenter_probability(seg, "没有", strlen("没有")) < 0);
    segmenter_free(seg);
    seg = load("无\n计数\n");
    assert_true(segmenter_probability(seg, "计数", strlen("计数")) < 0);
    segmenter_free(seg);
}

static void test_segmenter_names_the_bad_line(void **state)
{
    (void)state;
    static const char *const bad[] = {"好 1\n坏 x\n", "好\n\xFF\xFE 3\n",
                                      "好 1\n坏 99999999999999999\n"};
    for (size_t i = 0; i < 3; i++) {
        struct segmenter *seg = NULL;
        struct kith_diag diag = {0};
        assert_int_equal(segmenter_load(&seg, bad[i], strlen(bad[i]), &diag), KITH_CORRUPT);
        assert_null(seg);
        assert_non_null(strstr(diag.text, "line 2"));
    }
    struct segmenter *seg = NULL;
    assert_int_equal(segmenter_load(&seg, "\n\n", 2, NULL), KITH_CORRUPT);
}

static void test_segmenter_survives_each_oom(void **state)
{
    (void)state;
    long before = kith_mem_live();
    char text[4096] = "";
    for (int i = 0; i < 200; i++) { /* enough words to grow everything */
        char line[16] = {(char)('a' + i % 26), (char)('a' + i / 26), ' ', '1', '\n', 0};
        strcat(text, line);
    }
    for (long n = 0;; n++) {
        struct segmenter *seg = NULL;
        kith_mem_fail_after(n);
        enum kith_err err = segmenter_load(&seg, text, strlen(text), NULL);
        kith_mem_fail_after(-1);
        if (err == KITH_OK) {
            assert_int_equal(segmenter_n(seg), 200);
            segmenter_free(seg);
            assert_int_equal(kith_mem_live(), before);
            break;
        }
        assert_true(err == KITH_NOMEM && seg == NULL && kith_mem_live() == before);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_segmenter_takes_the_longest),
        cmocka_unit_test(test_segmenter_counts),
        cmocka_unit_test(test_segmenter_names_the_bad_line),
        cmocka_unit_test(test_segmenter_survives_each_oom),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
