#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

#include "common/kith_mem.h"
#include "common/kith_registry_suite.h"

static char dir[] = "/tmp/kith-registry-XXXXXX";
static char path[64];

static struct kith_registry *suite_open(struct kith_loop *loop)
{
    struct kith_registry *registry = NULL;
    struct kith_diag diag = {0};
    if (kith_registry_open_file(&registry, loop, path, &diag)) {
        fail_msg("%s", diag.text);
    }
    return registry;
}

static void reopen(struct suite *suite)
{
    kith_registry_close(suite->registry);
    suite->registry = suite_open(suite->loop);
}

static void test_file_keeps_keys_and_revisions(void **state)
{
    struct suite *suite = *state;
    assert_int_equal(suite_put(suite, "keep/a", "\"\\\n\t\x01 \xe4\xbd\xa0"), KITH_OK);
    const uint64_t revision = suite_revision(suite, "keep/a");
    reopen(suite);
    suite_expect(suite, "keep/a", "\"\\\n\t\x01 \xe4\xbd\xa0");
    assert_int_equal(suite_revision(suite, "keep/a"), revision);
    assert_true(kith_registry_revision(suite->registry) >= revision);
}

static void test_file_is_for_one_process(void **state)
{
    struct suite *suite = *state;
    struct kith_registry *second = NULL;
    struct kith_diag diag = {0};
    assert_int_equal(kith_registry_open_file(&second, suite->loop, path, &diag), KITH_EXISTS);
    assert_non_null(strstr(diag.text, "in use"));
    assert_null(second);
}

static void test_file_refuses_damage_at_every_byte(void **state)
{
    struct suite *suite = *state;
    assert_int_equal(suite_put(suite, "damage/a", "value"), KITH_OK);
    kith_registry_close(suite->registry);

    static uint8_t good[1 << 20];
    FILE *file = fopen(path, "r+b");
    const size_t len = fread(good, 1, sizeof good, file);
    assert_true(len > 0 && len < sizeof good);
    const size_t step = len > 4000 ? len / 2000 : 1; /* the values of earlier tests are large */
    for (size_t i = 0; i < len; i += i < 200 ? 1 : step) {
        fseek(file, (long)i, SEEK_SET);
        fputc(good[i] ^ 0x10, file);
        fflush(file);
        struct kith_registry *registry = NULL;
        assert_int_equal(kith_registry_open_file(&registry, suite->loop, path, NULL), KITH_CORRUPT);
        assert_null(registry);
        fseek(file, (long)i, SEEK_SET);
        fputc(good[i], file);
        fflush(file);
    }
    assert_int_equal(ftruncate(fileno(file), (off_t)len - 1), 0);
    struct kith_registry *registry = NULL;
    assert_int_equal(kith_registry_open_file(&registry, suite->loop, path, NULL), KITH_CORRUPT);
    assert_int_equal(ftruncate(fileno(file), 0), 0);
    assert_int_equal(kith_registry_open_file(&registry, suite->loop, path, NULL), KITH_CORRUPT);
    fclose(file);
    unlink(path);
    suite->registry = suite_open(suite->loop);
}

static void test_file_write_that_fails_changes_nothing(void **state)
{
    struct suite *suite = *state;
    assert_int_equal(suite_put(suite, "fail/a", "1"), KITH_OK);
    char tmp[80];
    snprintf(tmp, sizeof tmp, "%s.tmp", path);
    assert_int_equal(mkdir(tmp, 0700), 0); /* so the temporary file cannot be created */
    assert_int_equal(suite_put(suite, "fail/a", "2"), KITH_IO);
    suite_expect(suite, "fail/a", "1");
    assert_int_equal(rmdir(tmp), 0);
    assert_int_equal(suite_put(suite, "fail/a", "3"), KITH_OK);
    reopen(suite);
    suite_expect(suite, "fail/a", "3");
}

static void test_file_open_survives_each_oom(void **state)
{
    struct suite *suite = *state;
    assert_int_equal(suite_put(suite, "oom/a", "1"), KITH_OK);
    kith_registry_close(suite->registry);
    suite->registry = NULL;
    enum kith_err err = KITH_NOMEM;
    for (long n = 0; err && n < 2000; n++) {
        kith_mem_fail_after(n);
        err = kith_registry_open_file(&suite->registry, suite->loop, path, NULL);
        kith_mem_fail_after(-1);
        assert_true(err == KITH_OK || err == KITH_NOMEM);
    }
    assert_int_equal(err, KITH_OK);
}

static void test_file_commit_survives_each_oom(void **state)
{
    struct suite *suite = *state;
    enum kith_err err = KITH_NOMEM;
    for (long n = 0; err && n < 2000; n++) {
        const struct kith_registry_change change = {.key = "oom/b", .value = "1"};
        suite->n_done = 0;
        kith_mem_fail_after(n);
        kith_registry_commit(suite->registry, NULL, 0, &change, 1, suite_on_done, suite);
        suite_run_until(suite, suite_is_done);
        kith_mem_fail_after(-1);
        err = suite->err;
        assert_true(err == KITH_OK || err == KITH_NOMEM);
        assert_int_equal(suite_revision(suite, "oom/b") > 0, err == KITH_OK);
    }
    assert_int_equal(err, KITH_OK);
}

int main(void)
{
    if (!mkdtemp(dir)) {
        return 1;
    }
    snprintf(path, sizeof path, "%s/registry", dir);
    const struct CMUnitTest tests[] = {
        SUITE_TESTS,
        SUITE_TEST(test_file_keeps_keys_and_revisions),
        SUITE_TEST(test_file_is_for_one_process),
        SUITE_TEST(test_file_refuses_damage_at_every_byte),
        SUITE_TEST(test_file_write_that_fails_changes_nothing),
        SUITE_TEST(test_file_open_survives_each_oom),
        SUITE_TEST(test_file_commit_survives_each_oom),
    };
    const int failed = cmocka_run_group_tests(tests, NULL, NULL);
    char command[128];
    snprintf(command, sizeof command, "rm -rf %s", dir);
    return system(command) ? 1 : failed;
}
