/* The registry on a real etcd: the common suite, then what etcd can do to it - die, restart, stall,
 * compact, come back from an old backup, lose the lease. Fails when etcd is not installed. */
#include <arpa/inet.h>
#include <inttypes.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#include "common/kith_etcd_decode.h"
#include "common/kith_etcd_encode.h"
#include "common/kith_http_client.h"
#include "common/kith_registry_suite.h"

#define PREFIX "/kith/test/"

static char root[] = "/tmp/kith-etcd-XXXXXX";
static char endpoint[64];
static char other_endpoint[64]; /* the same etcd where the registry does not look */
static char peer[64];
static pid_t etcd_pid;
static const char *data_dir = "data";

static int free_port(void)
{
    struct sockaddr_in addr = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t len = sizeof addr;
    const int fd = socket(AF_INET, SOCK_STREAM, 0);
    assert_int_equal(bind(fd, (struct sockaddr *)&addr, len), 0);
    assert_int_equal(getsockname(fd, (struct sockaddr *)&addr, &len), 0);
    close(fd);
    return ntohs(addr.sin_port);
}

static void etcd_start(const char *client)
{
    char dir[128];
    char cluster[128];
    char log[128];
    snprintf(dir, sizeof dir, "%s/%s", root, data_dir);
    snprintf(cluster, sizeof cluster, "default=%s", peer);
    snprintf(log, sizeof log, "%s/log", root);
    etcd_pid = fork();
    if (etcd_pid == 0) {
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        if (!freopen(log, "a", stdout) || !freopen(log, "a", stderr)) {
            _exit(126);
        }
        execlp("etcd", "etcd", "--data-dir", dir, "--listen-client-urls", client,
               "--advertise-client-urls", client, "--listen-peer-urls", peer,
               "--initial-advertise-peer-urls", peer, "--initial-cluster", cluster, NULL);
        _exit(127);
    }
    assert_true(etcd_pid > 0);
}

static void etcd_kill(void)
{
    kill(etcd_pid, SIGKILL);
    waitpid(etcd_pid, NULL, 0);
    etcd_pid = 0;
}

/* A question past the registry. Retries until the etcd there is up. */
static void ask_etcd(const char *where, const char *path, struct kith_buf *body,
                     struct kith_http_response *response)
{
    char url[128];
    struct kith_http_session *session = NULL;
    assert_int_equal(kith_http_session_open(&session, NULL), KITH_OK);
    snprintf(url, sizeof url, "%s%s", where, path);
    const struct kith_http_request request = {.method = "POST",
                                              .url = url,
                                              .body = body->data,
                                              .body_len = body->len,
                                              .timeout_ms = 2000};
    enum kith_err err = KITH_UNAVAILABLE;
    for (int i = 0; i < 200 && (err || response->status != 200); i++) {
        err = kith_http_session_ask(session, &request, response, NULL);
        if (err || response->status != 200) {
            usleep(50000); /* a process that starts has no event to wait for */
        }
    }
    assert_int_equal(err, KITH_OK);
    assert_int_equal(response->status, 200);
    kith_http_session_close(session);
}

static uint64_t put_past(const char *where, const char *key, const char *value)
{
    struct kith_buf body = {0};
    struct kith_http_response response = {0};
    struct kith_etcd_txn txn;
    const struct kith_registry_change change = {.key = key, .value = value};
    const struct kith_etcd_txn_spec spec = {.changes = &change, .n_changes = 1};
    kith_etcd_write_txn(&body, PREFIX, &spec);
    ask_etcd(where, "/v3/kv/txn", &body, &response);
    assert_int_equal(kith_etcd_read_txn((char *)response.body.data, response.body.len, &txn, NULL),
                     KITH_OK);
    kith_buf_fini(&body);
    kith_http_response_fini(&response);
    return txn.header.revision;
}

static void shell(const char *format, ...)
{
    char command[512];
    va_list args;
    va_start(args, format);
    vsnprintf(command, sizeof command, format, args);
    va_end(args);
    assert_int_equal(system(command), 0);
}

static struct kith_registry *suite_open(struct kith_loop *loop)
{
    struct kith_registry *registry = NULL;
    struct kith_diag diag = {0};
    char endpoints[160];
    /* The first endpoint is never there: it must be passed over. */
    snprintf(endpoints, sizeof endpoints, "http://127.0.0.1:1/,%s", endpoint);
    if (kith_registry_open_etcd(&registry, loop, endpoints, PREFIX, &diag)) {
        fail_msg("%s", diag.text);
    }
    return registry;
}

static bool is_away(struct suite *suite)
{
    return !kith_registry_connected(suite->registry);
}

static void test_restart_is_survived(void **state)
{
    struct suite *suite = *state;
    assert_int_equal(suite_put(suite, "restart/a", "1"), KITH_OK);
    etcd_kill();
    suite_run_until(suite, is_away);
    suite_expect(suite, "restart/a", "1"); /* readers notice nothing */
    assert_int_equal(suite_put(suite, "restart/a", "2"), KITH_UNAVAILABLE);
    etcd_start(endpoint);
    suite_run_until(suite, suite_is_synced);
    suite_expect(suite, "restart/a", "1");
    assert_int_equal(suite_put(suite, "restart/a", "3"), KITH_OK);
}

static void test_stall_is_noticed(void **state)
{
    struct suite *suite = *state;
    assert_int_equal(suite_put(suite, "stall/a", "1"), KITH_OK);
    kill(etcd_pid, SIGSTOP);
    suite_run_until(suite, is_away);
    suite_expect(suite, "stall/a", "1");
    kill(etcd_pid, SIGCONT);
    suite_run_until(suite, suite_is_synced);
    assert_int_equal(suite_put(suite, "stall/a", "2"), KITH_OK);
}

static bool has_compacted(struct suite *suite)
{
    struct kith_registry_value value;
    return suite_is_synced(suite) && kith_registry_get(suite->registry, "compact/b", &value) &&
           strcmp(value.text, "new") == 0;
}

static void test_compaction_reads_again(void **state)
{
    struct suite *suite = *state;
    assert_int_equal(suite_put(suite, "compact/a", "1"), KITH_OK);
    etcd_kill();
    suite_run_until(suite, is_away);
    etcd_start(other_endpoint);
    put_past(other_endpoint, "compact/a", NULL);
    const uint64_t revision = put_past(other_endpoint, "compact/b", "new");
    struct kith_buf body = {0};
    struct kith_http_response response = {0};
    kith_buf_printf(&body, "{\"revision\":\"%" PRIu64 "\"}", revision);
    ask_etcd(other_endpoint, "/v3/kv/compaction", &body, &response);
    kith_buf_fini(&body);
    kith_http_response_fini(&response);
    etcd_kill();
    etcd_start(endpoint);
    suite_run_until(suite, has_compacted);
    assert_int_equal(suite_revision(suite, "compact/a"), 0);
}

static bool is_refusing(struct suite *suite)
{
    return kith_registry_trouble(suite->registry) != NULL;
}

static bool is_content(struct suite *suite)
{
    return suite_is_synced(suite) && !is_refusing(suite);
}

static void test_old_backup_is_refused(void **state)
{
    struct suite *suite = *state;
    assert_int_equal(suite_put(suite, "backup/a", "old"), KITH_OK);
    etcd_kill();
    suite_run_until(suite, is_away);
    shell("cp -r %s/data %s/backup", root, root);
    etcd_start(endpoint);
    suite_run_until(suite, suite_is_synced);
    for (int i = 0; i < 20; i++) { /* further than what a lease's grant may add */
        assert_int_equal(suite_put(suite, "backup/a", "new"), KITH_OK);
    }
    etcd_kill();
    suite_run_until(suite, is_away);

    data_dir = "backup";
    etcd_start(endpoint);
    suite_run_until(suite, is_refusing);
    assert_non_null(strstr(kith_registry_trouble(suite->registry), "went back"));
    assert_false(kith_registry_connected(suite->registry));
    suite_expect(suite, "backup/a", "new");
    assert_int_equal(suite_put(suite, "backup/a", "x"), KITH_UNAVAILABLE);
    etcd_kill();

    data_dir = "empty"; /* wiped */
    etcd_start(endpoint);
    struct kith_buf body = {0};
    struct kith_http_response response = {0};
    kith_buf_text(&body, "{\"key\":\"YQ==\"}");
    ask_etcd(endpoint, "/v3/kv/range", &body, &response); /* it is there */
    kith_buf_fini(&body);
    kith_http_response_fini(&response);
    assert_true(is_refusing(suite));
    suite_expect(suite, "backup/a", "new");
    etcd_kill();

    data_dir = "data"; /* put right */
    etcd_start(endpoint);
    suite_run_until(suite, is_content);
    suite_expect(suite, "backup/a", "new");
    assert_int_equal(suite_put(suite, "backup/a", "newer"), KITH_OK);
}

static uint64_t first_revision;

static bool is_announced(struct suite *suite)
{
    return suite_revision(suite, "nodes/lost") > first_revision;
}

struct lease_seen {
    uint64_t lease;
};

static enum kith_err on_lease_kv(void *ctx, const struct kith_etcd_kv *kv)
{
    struct lease_seen *seen = ctx;
    if (strcmp(kv->key, PREFIX "nodes/lost") == 0) {
        seen->lease = kv->lease;
    }
    return KITH_OK;
}

static void test_lost_lease_is_announced_again(void **state)
{
    struct suite *suite = *state;
    first_revision = 0;
    assert_int_equal(kith_registry_announce(suite->registry, "nodes/lost", "ready"), KITH_OK);
    suite_run_until(suite, is_announced);
    first_revision = suite_revision(suite, "nodes/lost");

    struct kith_buf body = {0};
    struct kith_http_response response = {0};
    struct kith_etcd_header header;
    struct lease_seen seen = {0};
    bool more = false;
    kith_etcd_write_range(&body, PREFIX, "nodes/lost", 0, 10);
    ask_etcd(endpoint, "/v3/kv/range", &body, &response);
    assert_int_equal(kith_etcd_read_range((char *)response.body.data, response.body.len, &header,
                                          &more, on_lease_kv, &seen, NULL),
                     KITH_OK);
    assert_true(seen.lease != 0);
    kith_buf_reset(&body);
    kith_etcd_write_lease(&body, seen.lease);
    ask_etcd(endpoint, "/v3/lease/revoke", &body, &response);
    kith_buf_fini(&body);
    kith_http_response_fini(&response);
    suite_run_until(suite, is_announced);
    suite_expect(suite, "nodes/lost", "ready");
}

static bool shows_second(struct suite *suite)
{
    struct kith_registry_value value;
    return kith_registry_get(suite->registry, "nodes/twin", &value) &&
           strcmp(value.text, "second") == 0;
}

static bool shows_first(struct suite *suite)
{
    return suite_revision(suite, "nodes/twin") > 0;
}

static bool shows_marker(struct suite *suite)
{
    return suite_revision(suite, "nodes/marker") > 0;
}

static void test_a_held_key_is_not_taken_over(void **state)
{
    struct suite *suite = *state;
    assert_int_equal(kith_registry_announce(suite->registry, "nodes/twin", "first"), KITH_OK);
    suite_run_until(suite, shows_first);

    struct kith_registry *first = suite->registry;
    suite->registry = suite_open(suite->loop);
    kith_registry_listen(suite->registry, suite_on_event, suite);
    suite_run_until(suite, suite_is_synced);
    assert_int_equal(kith_registry_announce(suite->registry, "nodes/twin", "second"), KITH_OK);
    assert_int_equal(kith_registry_announce(suite->registry, "nodes/marker", "x"), KITH_OK);
    suite_run_until(suite, shows_marker);
    suite_expect(suite, "nodes/twin", "first");
    kith_registry_unlisten(first, suite_on_event, suite);
    kith_registry_close(first); /* gives its lease back */
    suite_run_until(suite, shows_second);
}

static bool shows_last_of_many(struct suite *suite)
{
    return suite_is_synced(suite) && suite_revision(suite, "many/1299") > 0;
}

static void count_key(void *ctx, const char *key, const struct kith_registry_value *value)
{
    (void)key;
    (void)value;
    ++*(size_t *)ctx;
}

static void test_many_keys_are_read_by_pages(void **state)
{
    struct suite *suite = *state;
    for (size_t i = 0; i < 1300; i += 100) {
        char keys[100][32];
        struct kith_registry_change changes[100];
        for (size_t j = 0; j < 100; j++) {
            snprintf(keys[j], sizeof keys[j], "many/%04zu", i + j);
            changes[j] = (struct kith_registry_change){.key = keys[j], .value = "x"};
        }
        assert_int_equal(suite_commit(suite, NULL, 0, changes, 100), KITH_OK);
    }
    kith_registry_close(suite->registry);
    suite->registry = suite_open(suite->loop);
    kith_registry_listen(suite->registry, suite_on_event, suite);
    suite_run_until(suite, shows_last_of_many);
    size_t n = 0;
    kith_registry_each(suite->registry, "many/", count_key, &n);
    assert_int_equal(n, 1300);
}

int main(void)
{
    if (system("command -v etcd >/dev/null 2>&1") != 0) {
        fprintf(stderr, "FAILED: etcd is not installed (Debian: apt-get install etcd-server)\n");
        return 1;
    }
    signal(SIGPIPE, SIG_IGN);
    if (!mkdtemp(root)) {
        return 1;
    }
    snprintf(endpoint, sizeof endpoint, "http://127.0.0.1:%d", free_port());
    snprintf(other_endpoint, sizeof other_endpoint, "http://127.0.0.1:%d", free_port());
    snprintf(peer, sizeof peer, "http://127.0.0.1:%d", free_port());
    etcd_start(endpoint);
    const struct CMUnitTest tests[] = {
        SUITE_TESTS,
        SUITE_TEST(test_many_keys_are_read_by_pages),
        SUITE_TEST(test_restart_is_survived),
        SUITE_TEST(test_stall_is_noticed),
        SUITE_TEST(test_compaction_reads_again),
        SUITE_TEST(test_old_backup_is_refused),
        SUITE_TEST(test_lost_lease_is_announced_again),
        SUITE_TEST(test_a_held_key_is_not_taken_over),
    };
    const int failed = cmocka_run_group_tests(tests, NULL, NULL);
    etcd_kill();
    char command[128];
    snprintf(command, sizeof command, "rm -rf %s", root);
    return system(command) ? 1 : failed;
}
