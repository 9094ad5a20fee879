#include "coordinator/encode/wordvec_convert.h"

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include "common/kith_buf.h"
#include "common/kith_mem.h"

/* A source in memory that gives `step` bytes a read, and a sink in memory. */
struct memory {
    const char *data;
    size_t len;
    size_t at;
    size_t step;
    int fail_read;
    int fail_write;
    uint8_t *out;
    size_t out_len;
};

static ssize_t memory_read(void *self, void *buf, size_t n)
{
    struct memory *m = self;
    if (m->fail_read) {
        errno = EIO;
        return -1;
    }
    size_t left = m->len - m->at;
    n = n < left ? n : left;
    n = n < m->step ? n : m->step;
    memcpy(buf, m->data + m->at, n);
    m->at += n;
    return (ssize_t)n;
}

static int memory_write(void *self, const void *data, size_t n, uint64_t at)
{
    struct memory *m = self;
    if (m->fail_write) {
        return ENOSPC;
    }
    if (at + n > m->out_len) {
        m->out = realloc(m->out, at + n);
        memset(m->out + m->out_len, 0, at + n - m->out_len);
        m->out_len = at + n;
    }
    memcpy(m->out + at, data, n);
    return 0;
}

static enum kith_err convert(struct memory *m, const char *data, size_t len, struct kith_diag *diag)
{
    struct wordvec_source source = {memory_read, m, len};
    struct wordvec_sink sink = {memory_write, m};
    struct wordvec_options options = {.source_bytes = len};
    m->data = data;
    m->len = len;
    m->at = 0;
    m->step = m->step != 0 ? m->step : 7;
    return wordvec_convert_stream(&source, &sink, &options, diag);
}

static void expect_word(const struct wordvec_file *file, const char *word, float first, float last)
{
    int64_t row = wordvec_file_find(file, word, strlen(word));
    assert_true(row >= 0);
    const float *vector = wordvec_file_row(file, (uint32_t)row);
    assert_true(vector[0] == first);
    assert_true(vector[file->head.dim - 1] == last);
}

static void test_wordvec_convert_reads_text_forms(void **state)
{
    (void)state;
    static const char *const texts[] = {
        "4 3\nthe 1 2 3\n好 -0.5 1e-2 +2.5E1 \nThe 9 9 9\nzero 0 0 0\n", /* word2vec text */
        "the 1 2 3\n好 -0.5 1e-2 +2.5E1\nThe 9 9 9\nzero 0 0 0",         /* GloVe, no last \n */
        "the\t1\t2\t3\r\n好 -.5 .01 25.\r\n\r\nTHE 9 9 9\r\nzero 0 0 -0\r\n",
    };
    for (size_t i = 0; i < 3; i++) {
        struct memory m = {0};
        struct wordvec_file file = {0};
        struct kith_diag diag = {0};
        assert_int_equal(convert(&m, texts[i], strlen(texts[i]), &diag), KITH_OK);
        assert_int_equal(wordvec_file_view(&file, m.out, m.out_len, &diag), KITH_OK);
        assert_int_equal(file.head.dim, 3);
        assert_int_equal(file.head.words, 2);
        assert_int_equal(file.head.skipped, 2); /* the same word again, and a zero vector */
        expect_word(&file, "the", 1, 3);
        expect_word(&file, "好", -0.5f, 25);
        assert_true(wordvec_file_find(&file, "zero", 4) < 0);
        free(m.out);
    }
}

static size_t binary(char *out, const char *header, int line_ends)
{
    size_t n = (size_t)sprintf(out, "%s", header);
    static const char *const words[] = {"the", "北京"};
    for (int i = 0; i < 2; i++) {
        float row[3] = {(float)i + 0.25f, 0, -2};
        n += (size_t)sprintf(out + n, "%s ", words[i]);
        memcpy(out + n, row, sizeof row);
        n += sizeof row;
        if (line_ends) {
            out[n++] = '\n';
        }
    }
    return n;
}

static void test_wordvec_convert_reads_the_binary_form(void **state)
{
    (void)state;
    for (int line_ends = 0; line_ends < 2; line_ends++) {
        char data[256];
        struct memory m = {0};
        struct wordvec_file file = {0};
        size_t n = binary(data, "2 3\n", line_ends);
        assert_int_equal(convert(&m, data, n, NULL), KITH_OK);
        assert_int_equal(wordvec_file_view(&file, m.out, m.out_len, NULL), KITH_OK);
        assert_int_equal(file.head.words, 2);
        expect_word(&file, "the", 0.25f, -2);
        expect_word(&file, "北京", 1.25f, -2);
        free(m.out);
        /* Each shorter file is refused. */
        for (size_t cut = 0; cut + 1 < n - (size_t)line_ends; cut++) {
            struct memory c = {0};
            assert_int_equal(convert(&c, data, cut, NULL), KITH_CORRUPT);
            free(c.out);
        }
    }
}

static void test_wordvec_convert_names_what_is_wrong(void **state)
{
    (void)state;
    static const struct {
        const char *text;
        const char *says;
    } bad[] = {
        {"", "dimensions"},
        {"\n", "dimensions"},
        {"the\n", "dimensions"},
        {"the 1\n", "dimensions"},
        {"the 1 2\nof 1\n", "record 2"},
        {"the 1 2\nof 1 x\n", "record 2"},
        {"the 1 2\nof 1 nan\n", "record 2"},
        {"the 1 2\nof 1 1e999\n", "record 2"},
        {"the 1 2\nof 1 1e\n", "record 2"},
        {"3 2\nthe 1 2\nof 1 2\n", "says 3 words, it holds 2"},
        {"1 2\nthe 1 2\nof 1 2\n", "says 1 words, it holds 2"},
        {"99999999999 2\nthe 1 2\n", "limit"},
        {"2 99999\nthe 1 2\n", "dimensions"},
        {"the 0 0\n", "no usable word"},
    };
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        struct memory m = {0};
        struct kith_diag diag = {0};
        assert_int_not_equal(convert(&m, bad[i].text, strlen(bad[i].text), &diag), KITH_OK);
        if (strstr(diag.text, bad[i].says) == NULL) {
            fail_msg("case %zu says \"%s\"", i, diag.text);
        }
        free(m.out);
    }
}

static void test_wordvec_convert_bounds_a_line(void **state)
{
    (void)state;
    size_t len = 3u << 20;
    char *text = malloc(len);
    struct memory m = {.step = 1u << 20};
    memset(text, 'x', len);
    assert_int_equal(convert(&m, text, len, NULL), KITH_CORRUPT);
    free(m.out);
    free(text);
}

/* 3000 words: the index doubles, the window and the out buffer wrap. */
static struct kith_buf many_words(void)
{
    struct kith_buf text = {0};
    for (int i = 0; i < 3000; i++) {
        kith_buf_printf(&text, "w%d", i);
        for (int d = 0; d < 200; d++) {
            kith_buf_printf(&text, " %d.%d", i + d, d % 10);
        }
        kith_buf_text(&text, "\n");
    }
    assert_false(text.failed);
    return text;
}

static void test_wordvec_convert_large_and_each_oom(void **state)
{
    (void)state;
    struct kith_buf text = many_words();
    long before = kith_mem_live();
    for (long n = 0;; n++) {
        struct memory m = {.step = 1u << 16};
        kith_mem_fail_after(n);
        enum kith_err err = convert(&m, (const char *)text.data, text.len, NULL);
        kith_mem_fail_after(-1);
        assert_int_equal(kith_mem_live(), before);
        if (err == KITH_OK) {
            struct wordvec_file file = {0};
            assert_int_equal(wordvec_file_view(&file, m.out, m.out_len, NULL), KITH_OK);
            assert_int_equal(file.head.words, 3000);
            expect_word(&file, "w0", 0.0f, 199.9f);
            expect_word(&file, "w2999", 2999.0f, 3198.9f);
            free(m.out);
            break;
        }
        assert_int_equal(err, KITH_NOMEM);
        free(m.out);
    }
    kith_buf_fini(&text);
}

static void test_wordvec_convert_reports_io(void **state)
{
    (void)state;
    const char *text = "the 1 2\n";
    struct memory m = {.fail_read = 1};
    assert_int_equal(convert(&m, text, strlen(text), NULL), KITH_IO);
    struct memory full = {.fail_write = 1};
    assert_int_equal(convert(&full, text, strlen(text), NULL), KITH_DISK_FULL);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_wordvec_convert_reads_text_forms),
        cmocka_unit_test(test_wordvec_convert_reads_the_binary_form),
        cmocka_unit_test(test_wordvec_convert_names_what_is_wrong),
        cmocka_unit_test(test_wordvec_convert_bounds_a_line),
        cmocka_unit_test(test_wordvec_convert_large_and_each_oom),
        cmocka_unit_test(test_wordvec_convert_reports_io),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
