#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "common/kith_config.h"
#include "common/kith_mem.h"

static char path[] = "/tmp/kith-config-XXXXXX";

static void write_file(const char *text)
{
    FILE *file = fopen(path, "w");
    fputs(text, file);
    fclose(file);
}

struct given {
    struct kith_config config;
    struct kith_diag diag;
    enum kith_err err;
};

static struct given read_config(enum kith_config_role role, char *const *args, char *const *env)
{
    struct given given = {0};
    int n = 0;
    while (args[n]) {
        n++;
    }
    given.err = kith_config_read(&given.config, role, n, args, env, &given.diag);
    return given;
}

#define ARGS(...) ((char *[]){__VA_ARGS__, NULL})
#define NONE      ((char *[]){NULL})

static void test_config_has_defaults_by_role(void **state)
{
    (void)state;
    struct given given = read_config(KITH_CONFIG_UP, NONE, NONE);
    assert_int_equal(given.err, KITH_OK);
    assert_string_equal(given.config.listen, "127.0.0.1:6333");
    assert_string_equal(given.config.registry, "file");
    assert_string_equal(given.config.data, "kith-data");
    assert_true(given.config.node_name[0]);
    kith_config_fini(&given.config);
    given = read_config(KITH_CONFIG_SHARD, NONE, NONE);
    assert_string_equal(given.config.listen, "127.0.0.1:6343");
    assert_string_equal(given.config.registry, "etcd");
    kith_config_fini(&given.config);
}

static void test_config_precedence(void **state)
{
    (void)state;
    write_file("data: file\nthreads: 1\nnode_name: file\ninsecure: true\netcd: http://e:1\n");
    char *const env[] = {"KITH_THREADS=2", "KITH_NODE_NAME=env", "OTHER=1", NULL};
    struct given given =
        read_config(KITH_CONFIG_UP, ARGS("--node-name=flag", "--config", path), env);
    assert_int_equal(given.err, KITH_OK);
    assert_string_equal(given.config.data, "file");      /* file > default */
    assert_int_equal(given.config.threads, 2);           /* environment > file */
    assert_string_equal(given.config.node_name, "flag"); /* flag > environment */
    assert_true(given.config.insecure);
    kith_config_fini(&given.config);

    char file[64];
    snprintf(file, sizeof file, "KITH_CONFIG=%s", path);
    given = read_config(KITH_CONFIG_UP, ARGS("--insecure=false"), ARGS(file));
    assert_int_equal(given.err, KITH_OK);
    assert_string_equal(given.config.data, "file");
    assert_false(given.config.insecure);
    kith_config_fini(&given.config);
}

static void expect(struct given given, const char *text)
{
    if (given.err != KITH_BAD_REQUEST || !strstr(given.diag.text, text)) {
        fail_msg("expected \"%s\", got %d \"%s\"", text, given.err, given.diag.text);
    }
    kith_config_fini(&given.config);
}

static void test_config_names_what_is_wrong(void **state)
{
    (void)state;
    char where[128];
    char *const config[] = {"--config", path, NULL};
    expect(read_config(KITH_CONFIG_UP, ARGS("--nothing"), NONE), "--nothing: no such option");
    expect(read_config(KITH_CONFIG_UP, ARGS("--node_name", "x"), NONE), "--node_name: no such");
    expect(read_config(KITH_CONFIG_UP, ARGS("--etcd", "x"), NONE), "--etcd: not an option");
    expect(read_config(KITH_CONFIG_UP, ARGS("--data"), NONE), "--data: a value is missing");
    expect(read_config(KITH_CONFIG_UP, ARGS("data"), NONE), "unexpected argument \"data\"");
    expect(read_config(KITH_CONFIG_UP, ARGS("--threads", "x"), NONE),
           "--threads: expected a number");
    expect(read_config(KITH_CONFIG_UP, ARGS("--threads", "-1"), NONE), "--threads: expected");
    expect(read_config(KITH_CONFIG_UP, ARGS("--threads", "65"), NONE), "--threads: at most 64");
    expect(read_config(KITH_CONFIG_UP, ARGS("--listen", "6333"), NONE), "--listen: expected HOST");
    expect(read_config(KITH_CONFIG_UP, NONE, ARGS("KITH_LISTEN=x:y")),
           "KITH_LISTEN: expected HOST");
    expect(read_config(KITH_CONFIG_UP, ARGS("--log-level", "x"), NONE), "log_level: expected");
    expect(read_config(KITH_CONFIG_UP, ARGS("--config", "/none"), NONE), "config /none: ");
    expect(read_config(KITH_CONFIG_SHARD, ARGS("--registry", "file"), NONE), "registry: only etcd");
    expect(read_config(KITH_CONFIG_SHARD, ARGS("--cluster", "a/b"), NONE), "cluster: 1 to");

    write_file("listen: somewhere\n");
    snprintf(where, sizeof where, "config %s: listen: expected HOST:PORT", path);
    expect(read_config(KITH_CONFIG_UP, config, NONE), where);
    write_file("lisen: 127.0.0.1:1\n");
    expect(read_config(KITH_CONFIG_UP, config, NONE), "lisen");
    write_file("listen: [1, 2]\n");
    snprintf(where, sizeof where, "config %s: ", path);
    expect(read_config(KITH_CONFIG_UP, config, NONE), where);
    write_file("{{{");
    expect(read_config(KITH_CONFIG_UP, config, NONE), where);
}

static void test_config_keeps_to_loopback(void **state)
{
    (void)state;
    static char *const inside[] = {"127.0.0.1:1", "127.9.9.9:0", "localhost:5", "[::1]:65535"};
    static char *const outside[] = {"0.0.0.0:1", "10.0.0.1:1", "[::]:1", "example.org:1",
                                    "128.0.0.1:1"};
    for (size_t i = 0; i < 4; i++) {
        struct given given = read_config(KITH_CONFIG_UP, ARGS("--listen", inside[i]), NONE);
        assert_int_equal(given.err, KITH_OK);
        kith_config_fini(&given.config);
    }
    for (size_t i = 0; i < 5; i++) {
        expect(read_config(KITH_CONFIG_UP, ARGS("--listen", outside[i]), NONE), "--insecure");
        struct given given =
            read_config(KITH_CONFIG_UP, ARGS("--insecure", "--listen", outside[i]), NONE);
        assert_int_equal(given.err, KITH_OK);
        kith_config_fini(&given.config);
    }
    expect(read_config(KITH_CONFIG_SHARD, ARGS("--insecure", "--listen", "0.0.0.0:1"), NONE),
           "advertise: needed");
    expect(read_config(KITH_CONFIG_SHARD, ARGS("--metrics", "0.0.0.0:1"), NONE),
           "metrics 0.0.0.0:1: others could reach");
    expect(read_config(KITH_CONFIG_UP, ARGS("--metrics", "127.0.0.1:1"), NONE),
           "--metrics: not an option");
}

static void test_config_splits_addresses(void **state)
{
    (void)state;
    static const char *const bad[] = {
        "",      ":1",     "a",     "a:",         "a:65536", "a:1x",
        "::1:1", "[::1]1", "a b:1", "http://a:1", "a:-1",    "a:000001"};
    char host[16];
    uint16_t port = 0;
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        assert_false(kith_config_split(bad[i], host, sizeof host, &port));
    }
    assert_false(kith_config_split("aaaaaaaaaaaaaaaa:1", host, sizeof host, &port));
    assert_true(kith_config_split("[fe80::1]:65535", host, sizeof host, &port));
    assert_string_equal(host, "fe80::1");
    assert_int_equal(port, 65535);
}

static void test_config_help_checks_nothing(void **state)
{
    (void)state;
    struct given given = read_config(KITH_CONFIG_UP, ARGS("--help", "--config", "/none"), NONE);
    assert_int_equal(given.err, KITH_OK);
    assert_true(given.config.help);
    kith_config_fini(&given.config);
    struct kith_config_key keys[32];
    const size_t n = kith_config_keys(KITH_CONFIG_SHARD, keys, 32);
    assert_true(n > 5 && n < 32);
    for (size_t i = 0; i < n; i++) {
        assert_string_not_equal(keys[i].name, "encoders");
    }
}

static void test_config_survives_each_oom(void **state)
{
    (void)state;
    write_file("data: file\nthreads: 1\n");
    const long live = kith_mem_live();
    enum kith_err err = KITH_NOMEM;
    for (long n = 0; err && n < 2000; n++) {
        kith_mem_fail_after(n);
        struct given given = read_config(KITH_CONFIG_UP, ARGS("--config", path), NONE);
        kith_mem_fail_after(-1);
        err = given.err;
        kith_config_fini(&given.config);
        assert_int_equal(kith_mem_live(), live);
    }
    assert_int_equal(err, KITH_OK);
}

int main(void)
{
    const int fd = mkstemp(path);
    if (fd < 0) {
        return 1;
    }
    close(fd);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_config_has_defaults_by_role),
        cmocka_unit_test(test_config_precedence),
        cmocka_unit_test(test_config_names_what_is_wrong),
        cmocka_unit_test(test_config_keeps_to_loopback),
        cmocka_unit_test(test_config_splits_addresses),
        cmocka_unit_test(test_config_help_checks_nothing),
        cmocka_unit_test(test_config_survives_each_oom),
    };
    const int failed = cmocka_run_group_tests(tests, NULL, NULL);
    unlink(path);
    return failed;
}
