#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "cli/npy.h"
#include "cli/source.h"
#include "common/kith_mem.h"

static char path[64];

static struct source *opened(const void *bytes, size_t n, const struct source_options *options)
{
    struct source *source = NULL;
    struct kith_diag diag = {0};
    int fd;

    strcpy(path, "/tmp/kith-source-XXXXXX");
    fd = mkstemp(path);
    assert_true(fd >= 0);
    assert_int_equal(write(fd, bytes, n), n);
    close(fd);
    if (source_open(&source, path, options, &diag) != KITH_OK)
        print_message("%s\n", diag.text);
    unlink(path);
    return source;
}

static enum source_result step(struct source *source, char *text, size_t bytes)
{
    struct kith_buf out = {0};
    struct kith_diag diag = {0};
    enum source_result result = source_next(source, &out, &diag);

    if (result == SOURCE_POINT)
        snprintf(text, bytes, "%.*s", (int)out.len, (const char *)out.data);
    else
        snprintf(text, bytes, "%s", diag.text);
    kith_buf_fini(&out);
    return result;
}

static void expect(struct source *source, enum source_result result, const char *want)
{
    char text[1024];

    assert_int_equal(step(source, text, sizeof text), result);
    assert_string_equal(text, want);
}

static void expect_bad(struct source *source, uint64_t row, const char *word)
{
    char text[1024];

    assert_int_equal(step(source, text, sizeof text), SOURCE_BAD);
    assert_int_equal(source_row(source), row);
    if (strstr(text, word) == NULL)
        fail_msg("\"%s\" does not say \"%s\"", text, word);
}

static void test_source_jsonl_names_each_bad_line(void **state)
{
    static const char text[] = "\xef\xbb\xbf{\"id\":1,\"vector\":[1,2]}\r\n"
                               "\n"
                               "{\"id\":2\n"
                               "[1]\n"
                               "{\"vector\":[1]}\n"
                               "{\"id\":3}\n"
                               "{\"id\":-1,\"vector\":[1]}\n"
                               "{\"id\":4,\"vector\":7}\n"
                               "{\"id\":5,\"vector\":[1],\"colour\":1}\n"
                               "{\"id\":\"6\",\"vector\":{\"text\":\"\xff\"}}\n"
                               "{\"id\":7,\"vector\":{\"text\":\"x\"},\"payload\":{}}";
    struct source_options options = {.format = SOURCE_JSONL};
    struct source *source = opened(text, sizeof text - 1, &options);

    (void)state;
    expect(source, SOURCE_POINT, "{\"id\":1,\"vector\":[1,2]}");
    expect_bad(source, 3, "");
    expect_bad(source, 4, "object");
    expect_bad(source, 5, "id is missing");
    expect_bad(source, 6, "vector is missing");
    expect_bad(source, 7, "id: want");
    expect_bad(source, 8, "vector: want");
    expect_bad(source, 9, "colour");
    expect_bad(source, 10, "UTF-8");
    expect(source, SOURCE_POINT, "{\"id\":7,\"vector\":{\"text\":\"x\"},\"payload\":{}}");
    expect(source, SOURCE_END, "");
    expect(source, SOURCE_END, "");
    assert_int_equal(source_at(source), sizeof text - 1);
    source_close(source);
}

static void test_source_text_field(void **state)
{
    static const char text[] = "{\"title\":\"a\",\"n\":[1,{\"b\":null}]}\n"
                               "{\"id\":9,\"title\":\"b\"}\n"
                               "{\"title\":\"\"}\n"
                               "{\"other\":1}\n";
    struct source_options options = {.text_field = "title", .has_first_id = true, .first_id = 100};
    struct source *source = opened(text, sizeof text - 1, &options);

    (void)state;
    expect(source, SOURCE_POINT,
           "{\"id\":100,\"vector\":{\"text\":\"a\"},"
           "\"payload\":{\"title\":\"a\",\"n\":[1,{\"b\":null}]}}");
    expect(source, SOURCE_POINT,
           "{\"id\":9,\"vector\":{\"text\":\"b\"},\"payload\":{\"title\":\"b\"}}");
    expect_bad(source, 3, "not empty");
    expect_bad(source, 4, "title is missing");
    expect(source, SOURCE_END, "");
    source_close(source);
}

static void test_source_text_lines(void **state)
{
    static const char text[] = "a \"b\"\n\n\xff\nlast";
    struct source_options options = {.format = SOURCE_TEXT};
    struct source *source = opened(text, sizeof text - 1, &options);

    (void)state;
    expect(source, SOURCE_POINT,
           "{\"id\":1,\"vector\":{\"text\":\"a \\\"b\\\"\"},"
           "\"payload\":{\"text\":\"a \\\"b\\\"\"}}");
    expect_bad(source, 3, "UTF-8");
    expect(source, SOURCE_POINT,
           "{\"id\":4,\"vector\":{\"text\":\"last\"},\"payload\":{\"text\":\"last\"}}");
    expect(source, SOURCE_END, "");
    source_close(source);
}

static void test_source_long_line_is_left_out(void **state)
{
    size_t n = SOURCE_LINE_MAX + 100;
    char *text = malloc(n + 2);
    struct source_options options = {.format = SOURCE_TEXT};
    struct source *source;

    (void)state;
    assert_non_null(text);
    memset(text, 'a', n);
    text[n] = '\n';
    text[n + 1] = 'b';
    source = opened(text, n + 2, &options);
    expect_bad(source, 1, "longer than");
    expect(source, SOURCE_POINT,
           "{\"id\":2,\"vector\":{\"text\":\"b\"},\"payload\":{\"text\":\"b\"}}");
    source_close(source);
    free(text);
}

static size_t npy_make(uint8_t *out, const char *header, const float *numbers, size_t n)
{
    size_t len = strlen(header);

    memcpy(out, "\x93NUMPY\x01\x00", 8);
    out[8] = (uint8_t)(len & 255);
    out[9] = (uint8_t)(len >> 8);
    memcpy(out + 10, header, len);
    if (n > 0)
        memcpy(out + 10 + len, numbers, n * sizeof *numbers);
    return 10 + len + n * sizeof *numbers;
}

static void test_source_npy(void **state)
{
    static const float numbers[] = {0.5f, -1, 0.1f, 3, 1.0f / 0.0f, 0};
    uint8_t bytes[512];
    size_t n = npy_make(bytes, "{'descr': '<f4', 'fortran_order': False, 'shape': (3, 2), }   \n",
                        numbers, 6);
    struct source_options options = {0};
    struct source *source = opened(bytes, n, &options);
    uint64_t at, row;

    (void)state;
    expect(source, SOURCE_POINT, "{\"id\":0,\"vector\":[0.5,-1]}");
    at = source_at(source);
    row = source_row(source);
    expect(source, SOURCE_POINT, "{\"id\":1,\"vector\":[0.1,3]}");
    expect_bad(source, 3, "finite");
    expect(source, SOURCE_END, "");
    assert_true(source_seek(source, at, row));
    expect(source, SOURCE_POINT, "{\"id\":1,\"vector\":[0.1,3]}");
    source_close(source);

    assert_null(opened(bytes, n - 1, &options)); /* shorter than promised */
}

static enum kith_err npy_of(const char *header, struct npy *npy)
{
    uint8_t bytes[512];
    struct kith_diag diag;

    return npy_read(npy, bytes, npy_make(bytes, header, NULL, 0), &diag);
}

static void test_npy_headers(void **state)
{
    struct npy npy = {0};
    uint8_t bytes[64] = "\x93NUMPY\x02\x00\xff\xff\xff\xff";
    struct kith_diag diag;

    (void)state;
    assert_int_equal(npy_of("{\"shape\":(7,4),\"fortran_order\":False,\"descr\":\"<f4\"}", &npy),
                     KITH_OK);
    assert_int_equal(npy.rows, 7);
    assert_int_equal(npy.dim, 4);
    assert_int_equal(npy_of("{'descr': '<f8', 'fortran_order': False, 'shape': (3, 2), }", &npy),
                     KITH_UNSUPPORTED);
    assert_int_equal(npy_of("{'descr': '<f4', 'fortran_order': True, 'shape': (3, 2), }", &npy),
                     KITH_UNSUPPORTED);
    assert_int_equal(npy_of("{'descr': '<f4', 'fortran_order': False, 'shape': (3,), }", &npy),
                     KITH_UNSUPPORTED);
    assert_int_equal(npy_of("{'descr': '<f4', 'fortran_order': False, 'shape': (3, 9999), }", &npy),
                     KITH_TOO_BIG);
    assert_int_equal(npy_of("{'descr': '<f4', 'shape': (3, 2), }", &npy), KITH_CORRUPT);
    assert_int_equal(npy_of("{'descr': '<f4', 'fortran_order': False, 'shape': (3, 2)", &npy),
                     KITH_CORRUPT);
    assert_int_equal(npy_of("", &npy), KITH_CORRUPT);
    assert_int_equal(npy_read(&npy, bytes, sizeof bytes, &diag), KITH_CORRUPT);
    assert_int_equal(npy_read(&npy, bytes, 5, &diag), KITH_CORRUPT);
}

static void test_source_fvecs(void **state)
{
    static const uint32_t rows[] = {2, 0x3f800000, 0x40000000, 2, 0, 0xbf800000, 3, 0, 0, 0};
    struct source_options options = {.format = SOURCE_FVECS};
    struct source *source = opened(rows, sizeof rows, &options);
    char text[1024];

    (void)state;
    expect(source, SOURCE_POINT, "{\"id\":0,\"vector\":[1,2]}");
    expect(source, SOURCE_POINT, "{\"id\":1,\"vector\":[0,-1]}");
    assert_int_equal(step(source, text, sizeof text), SOURCE_ERROR); /* another dimension */
    source_close(source);

    source = opened(rows, 20, &options);
    expect(source, SOURCE_POINT, "{\"id\":0,\"vector\":[1,2]}");
    assert_int_equal(step(source, text, sizeof text), SOURCE_ERROR); /* cut inside a row */
    source_close(source);
}

static void test_source_open_survives_each_oom(void **state)
{
    static const char text[] = "{\"id\":1,\"vector\":[1,2]}\n";
    struct source_options options = {0};

    (void)state;
    for (long n = 0;; n++) {
        struct source *source;

        kith_mem_fail_after(n);
        source = opened(text, sizeof text - 1, &options);
        kith_mem_fail_after(-1);
        source_close(source);
        assert_int_equal(kith_mem_live(), 0);
        if (source != NULL)
            break;
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_source_open_survives_each_oom),
        cmocka_unit_test(test_source_jsonl_names_each_bad_line),
        cmocka_unit_test(test_source_text_field),
        cmocka_unit_test(test_source_text_lines),
        cmocka_unit_test(test_source_long_line_is_left_out),
        cmocka_unit_test(test_source_npy),
        cmocka_unit_test(test_npy_headers),
        cmocka_unit_test(test_source_fvecs),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
