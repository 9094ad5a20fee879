#include "cli/sample.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "common/kith_mem.h"

static char path[64];

static const char *file_of(const void *bytes, size_t n)
{
    strcpy(path, "/tmp/kith-sample-XXXXXX");
    int fd = mkstemp(path);
    assert_true(fd >= 0);
    assert_int_equal(write(fd, bytes, n), n);
    close(fd);
    return path;
}

static enum kith_err read_text(struct sample *sample, const char *text, size_t max_bytes,
                               struct kith_diag *diag)
{
    enum kith_err err =
        sample_read(sample, file_of(text, strlen(text)), SOURCE_AUTO, max_bytes, diag);
    unlink(path);
    return err;
}

static void test_sample_has_all_vectors_of_a_file_once(void **state)
{
    (void)state;
    char text[8000] = "";
    for (int i = 0; i < 100; i++)
        sprintf(text + strlen(text), "{\"id\":%d,\"vector\":[%d,%d.5]}\n", i, i, i);
    struct sample sample;
    uint64_t seen[2] = {0};
    assert_int_equal(read_text(&sample, text, SIZE_MAX, NULL), KITH_OK);
    assert_int_equal(sample.n, 100);
    assert_int_equal(sample.dim, 2);
    assert_false(sample.cut);
    for (uint32_t i = 0; i < 100; i++) {
        uint32_t value = (uint32_t)sample.rows[2 * i];
        assert_true(sample.rows[2 * i + 1] == (float)value + 0.5f);
        seen[value / 64] |= UINT64_C(1) << (value % 64);
    }
    assert_true(seen[0] == UINT64_MAX && seen[1] == (UINT64_C(1) << 36) - 1);
    sample_fini(&sample);
    assert_int_equal(read_text(&sample, text, 10 * 2 * sizeof(float), NULL), KITH_OK);
    assert_true(sample.n == 10 && sample.cut);
    sample_fini(&sample);
}

static void test_sample_reads_fvecs(void **state)
{
    (void)state;
    const struct {
        int32_t dim;
        float values[2];
    } rows[] = {{2, {1, 2}}, {2, {3, 4}}};
    struct sample sample;
    file_of(rows, sizeof rows);
    char named[80];
    snprintf(named, sizeof named, "%s.fvecs", path);
    assert_int_equal(rename(path, named), 0);
    assert_int_equal(sample_read(&sample, named, SOURCE_FVECS, SIZE_MAX, NULL), KITH_OK);
    unlink(named);
    assert_true(sample.n == 2 && sample.dim == 2);
    assert_true(sample.rows[0] + sample.rows[1] + sample.rows[2] + sample.rows[3] == 10);
    sample_fini(&sample);
}

static void test_sample_says_what_is_wrong_with_a_file(void **state)
{
    (void)state;
    static const struct {
        const char *text, *word;
    } cases[] = {
        {"{\"id\":1,\"vector\":[1,2]}\n{\"id\":2,\"vector\":[1]}\n", "line 2"},
        {"{\"id\":1,\"vector\":{\"text\":\"a cat\"}}\n", "\"vector\" of numbers"},
        {"{\"id\":1}\n", "vector"},
        {"{\"id\":1,\"vector\":[]}\n", "numbers"},
        {"{\"id\":1,\"vector\":[1,\"a\"]}\n", "line 1"},
        {"{\"id\":1,\n", "line 1"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct sample sample = {.n = 0};
        struct kith_diag diag = {0};
        assert_int_not_equal(read_text(&sample, cases[i].text, SIZE_MAX, &diag), KITH_OK);
        if (strstr(diag.text, cases[i].word) == NULL)
            fail_msg("%s: %s", cases[i].text, diag.text);
        assert_null(sample.rows);
    }
    struct sample sample;
    struct kith_diag diag = {0};
    assert_int_equal(sample_read(&sample, "/nonexistent.jsonl", SOURCE_AUTO, SIZE_MAX, &diag),
                     KITH_NOT_FOUND);
}

/* Whatever is allocated when it fails, the sample is left as if nothing had been. */
static void test_sample_survives_every_allocation_failure(void **state)
{
    (void)state;
    static const char text[] = "{\"id\":1,\"vector\":[1,2]}\n{\"id\":2,\"vector\":[3,4]}\n";
    for (int made_up = 0; made_up < 2; made_up++) {
        enum kith_err err = KITH_NOMEM;
        for (long n = 0; err != KITH_OK; n++) {
            struct sample sample = {.n = 0};
            file_of(text, sizeof text - 1);
            kith_mem_fail_after(n);
            err = made_up ? sample_make_up(&sample, 100, 3, NULL)
                          : sample_read(&sample, path, SOURCE_AUTO, SIZE_MAX, NULL);
            kith_mem_fail_after(-1);
            unlink(path);
            assert_true(err == KITH_OK || sample.rows == NULL);
            assert_true(n > 0 || err != KITH_OK);
            sample_fini(&sample);
        }
    }
}

static void test_sample_makes_up_the_same_vectors_again(void **state)
{
    (void)state;
    struct sample a, b;
    double squares[3] = {0};
    assert_int_equal(sample_make_up(&a, 20000, 3, NULL), KITH_OK);
    assert_int_equal(sample_make_up(&b, 20000, 3, NULL), KITH_OK);
    assert_memory_equal(a.rows, b.rows, 20000 * 3 * sizeof(float));
    for (uint32_t i = 0; i < 20000 * 3; i++)
        squares[i % 3] += (double)a.rows[i] * (double)a.rows[i] / 20000;
    for (uint32_t j = 0; j < 3; j++)
        assert_true(squares[j] * (j + 1) > 0.9 && squares[j] * (j + 1) < 1.1);
    sample_fini(&a);
    sample_fini(&b);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_sample_has_all_vectors_of_a_file_once),
        cmocka_unit_test(test_sample_reads_fvecs),
        cmocka_unit_test(test_sample_says_what_is_wrong_with_a_file),
        cmocka_unit_test(test_sample_survives_every_allocation_failure),
        cmocka_unit_test(test_sample_makes_up_the_same_vectors_again),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
