#include "coordinator/encode/encoder_ngram.h"

#include <math.h>
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <string.h>
#include <cmocka.h>

#include "common/kith_mem.h"
#include "coordinator/encode/ngram_idf.h"

static struct encoder *open_ngram(uint32_t dim)
{
    struct encoder *enc = NULL;
    struct encoder_config cfg = {.kind = "ngram", .dim = dim};
    assert_int_equal(encoder_open(&enc, &cfg, NULL), KITH_OK);
    return enc;
}

static double likeness(const struct encoder *enc, const char *a, const char *b)
{
    float x[2048];
    float y[2048];
    double dot = 0;
    assert_int_equal(encoder_encode(enc, a, strlen(a), x, NULL), KITH_OK);
    assert_int_equal(encoder_encode(enc, b, strlen(b), y, NULL), KITH_OK);
    for (uint32_t i = 0; i < encoder_dim(enc); i++) {
        dot += (double)x[i] * (double)y[i];
    }
    return dot;
}

static void test_encoder_ngram_gives_unit_vectors(void **state)
{
    (void)state;
    static const char *const texts[] = {
        "a", "好", "😀", "How do I reset my password?", "怎么退货", "42", "mixed 中文 and English"};
    struct encoder *enc = open_ngram(0);
    assert_int_equal(encoder_dim(enc), ENCODER_NGRAM_DIM);
    for (size_t i = 0; i < sizeof texts / sizeof texts[0]; i++) {
        assert_true(fabs(likeness(enc, texts[i], texts[i]) - 1.0) < 1e-5);
    }
    encoder_close(enc);
}

static void test_encoder_ngram_finds_spellings_alike(void **state)
{
    (void)state;
    struct encoder *enc = open_ngram(1024);
    assert_true(likeness(enc, "Birthday CAKE", "birthday cake") > 0.999);
    assert_true(likeness(enc, "birthdays", "birthday") > 0.3);
    assert_true(likeness(enc, "ｃａｆé", "cafe") > 0.999);
    assert_true(likeness(enc, "我很开心", "开心") > likeness(enc, "我很开心", "开车"));
    assert_true(fabs(likeness(enc, "birthday", "生日快乐")) < 0.3);
    /* Common words weigh less than rare ones. */
    assert_true(likeness(enc, "the invoice", "an invoice") >
                likeness(enc, "the invoice", "the cat"));
    encoder_close(enc);
}

static void test_encoder_ngram_refuses_what_is_empty(void **state)
{
    (void)state;
    static const char *const empty[] = {"", " \t\n", "...", "，。！？", "\xEF\xB8\x8F"};
    struct encoder *enc = open_ngram(0);
    for (size_t i = 0; i < sizeof empty / sizeof empty[0]; i++) {
        float out[ENCODER_NGRAM_DIM];
        struct kith_diag diag = {0};
        out[0] = 7;
        assert_int_equal(encoder_encode(enc, empty[i], strlen(empty[i]), out, &diag),
                         KITH_UNPROCESSABLE);
        assert_memory_equal(diag.text, "cannot encode: ", 15);
        assert_true(out[0] == 7);
    }
    float out[ENCODER_NGRAM_DIM];
    assert_int_equal(encoder_encode(enc, "\xFF", 1, out, NULL), KITH_BAD_REQUEST);
    encoder_close(enc);
}

static void test_encoder_ngram_fingerprint_is_stable(void **state)
{
    (void)state;
    struct encoder *a = open_ngram(512);
    struct encoder *b = open_ngram(0);
    struct encoder *c = open_ngram(256);
    assert_true(encoder_fingerprint(a) == encoder_fingerprint(b));
    assert_true(encoder_fingerprint(a) != encoder_fingerprint(c));
    encoder_close(a);
    encoder_close(b);
    encoder_close(c);
}

static void test_encoder_ngram_table_is_sorted(void **state)
{
    (void)state;
    for (size_t i = 1; i < ngram_idf_n; i++) {
        assert_true(ngram_idf_entries[i - 1] >> 4 < ngram_idf_entries[i] >> 4);
    }
    for (size_t i = 1; i < NGRAM_IDF_LEVELS; i++) {
        assert_true(ngram_idf_weight[i - 1] < ngram_idf_weight[i]);
    }
    assert_true(ngram_idf_weight[0] > 0);
}

static void test_encoder_ngram_takes_long_words_and_texts(void **state)
{
    (void)state;
    static char text[65536 + 1];
    struct encoder *enc = open_ngram(64);
    float out[64];
    memset(text, 'x', sizeof text);
    assert_int_equal(encoder_encode(enc, text, sizeof text - 1, out, NULL), KITH_OK);
    assert_int_equal(encoder_encode(enc, text, sizeof text, out, NULL), KITH_TOO_BIG);
    encoder_close(enc);
}

static void *encode_often(void *arg)
{
    struct encoder *enc = arg;
    float first[ENCODER_NGRAM_DIM];
    float again[ENCODER_NGRAM_DIM];
    static const char text[] = "many threads, 一个编码器";
    if (encoder_encode(enc, text, strlen(text), first, NULL) != KITH_OK) {
        return enc;
    }
    for (int i = 0; i < 500; i++) {
        if (encoder_encode(enc, text, strlen(text), again, NULL) != KITH_OK ||
            memcmp(first, again, sizeof first) != 0) {
            return enc;
        }
    }
    return NULL;
}

static void test_encoder_ngram_is_shared_by_threads(void **state)
{
    (void)state;
    struct encoder *enc = open_ngram(0);
    pthread_t threads[4];
    for (int i = 0; i < 4; i++) {
        assert_int_equal(pthread_create(&threads[i], NULL, encode_often, enc), 0);
    }
    for (int i = 0; i < 4; i++) {
        void *wrong = NULL;
        pthread_join(threads[i], &wrong);
        assert_null(wrong);
    }
    encoder_close(enc);
}

static void test_encoder_ngram_survives_each_oom(void **state)
{
    (void)state;
    long before = kith_mem_live();
    char text[2000];
    float out[1500];
    memset(text, 'y', sizeof text);
    for (long n = 0;; n++) {
        struct encoder *enc = NULL;
        struct encoder_config cfg = {.kind = "ngram", .dim = 1500};
        kith_mem_fail_after(n);
        enum kith_err err = encoder_open(&enc, &cfg, NULL);
        if (err == KITH_OK) {
            err = encoder_encode(enc, text, sizeof text, out, NULL);
        }
        kith_mem_fail_after(-1);
        encoder_close(enc);
        assert_int_equal(kith_mem_live(), before);
        if (err == KITH_OK) {
            break;
        }
        assert_int_equal(err, KITH_NOMEM);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_encoder_ngram_gives_unit_vectors),
        cmocka_unit_test(test_encoder_ngram_finds_spellings_alike),
        cmocka_unit_test(test_encoder_ngram_refuses_what_is_empty),
        cmocka_unit_test(test_encoder_ngram_fingerprint_is_stable),
        cmocka_unit_test(test_encoder_ngram_table_is_sorted),
        cmocka_unit_test(test_encoder_ngram_takes_long_words_and_texts),
        cmocka_unit_test(test_encoder_ngram_is_shared_by_threads),
        cmocka_unit_test(test_encoder_ngram_survives_each_oom),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
