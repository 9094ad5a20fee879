#include "coordinator/encode/encoder_files.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <cmocka.h>

#include "common/kith_mem.h"
#include "proto/kith_limits.h"

static void test_encoder_files_check_takes_plain_names_only(void **state)
{
    (void)state;
    static const char *const good[] = {"a", "glove.6B.100d.txt", "词向量.bin", "with space",
                                       "a..b"};
    static const char *const bad[] = {"",     ".",    "..",   ".a",    "a/b",  "/a",
                                      "../a", "a\\b", "a\nb", "a\x7F", "a\x01"};
    for (size_t i = 0; i < sizeof good / sizeof good[0]; i++) {
        assert_int_equal(encoder_files_check("f", good[i], NULL), KITH_OK);
    }
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        assert_int_equal(encoder_files_check("f", bad[i], NULL), KITH_BAD_REQUEST);
    }
    char name[KITH_ENCODER_FILE_NAME_MAX + 2];
    memset(name, 'a', sizeof name);
    name[KITH_ENCODER_FILE_NAME_MAX] = '\0';
    assert_int_equal(encoder_files_check("f", name, NULL), KITH_OK);
    name[KITH_ENCODER_FILE_NAME_MAX] = 'a';
    name[KITH_ENCODER_FILE_NAME_MAX + 1] = '\0';
    assert_int_equal(encoder_files_check("f", name, NULL), KITH_BAD_REQUEST);
}

static void test_encoder_files_read_bounds_and_memory(void **state)
{
    (void)state;
    char dir[] = "/tmp/kith-encoder-files-XXXXXX";
    char path[64];
    int dir_fd = -1;
    assert_non_null(mkdtemp(dir));
    snprintf(path, sizeof path, "%s/data", dir);
    FILE *file = fopen(path, "w");
    assert_non_null(file);
    for (int i = 0; i < 100000; i++) {
        fputs("0123456789", file);
    }
    fclose(file);
    assert_int_equal(encoder_files_open_dir(dir, &dir_fd, NULL), KITH_OK);

    long before = kith_mem_live();
    for (long n = 0;; n++) {
        struct kith_buf buf = {.limit = 2u << 20};
        kith_mem_fail_after(n);
        enum kith_err err = encoder_files_read(dir_fd, "f", "data", &buf, NULL);
        kith_mem_fail_after(-1);
        size_t len = buf.len;
        kith_buf_fini(&buf);
        assert_int_equal(kith_mem_live(), before);
        if (err == KITH_OK) {
            assert_int_equal(len, 1000000);
            break;
        }
        assert_int_equal(err, KITH_NOMEM);
    }
    struct kith_buf small = {.limit = 500000};
    assert_int_equal(encoder_files_read(dir_fd, "f", "data", &small, NULL), KITH_TOO_BIG);
    kith_buf_fini(&small);
    struct kith_buf none = {0};
    assert_int_equal(encoder_files_read(dir_fd, "f", "missing", &none, NULL), KITH_NOT_FOUND);
    close(dir_fd);
    unlink(path);
    rmdir(dir);
    assert_int_equal(encoder_files_open_dir(dir, &dir_fd, NULL), KITH_NOT_FOUND);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_encoder_files_check_takes_plain_names_only),
        cmocka_unit_test(test_encoder_files_read_bounds_and_memory),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
