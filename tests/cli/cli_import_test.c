/* `kith import` as a process of its own (this program runs itself), against a gateway whose handler
 * stands for the API: it stores ids, refuses whole batches for one bad point, is busy or away when
 * told to. */
#include <fcntl.h>
#include <pthread.h>
#include <semaphore.h>
#include <setjmp.h>
#include <spawn.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#include "cli/commands.h"
#include "common/kith_json.h"
#include "coordinator/gateway/gateway.h"

#define POINTS 1000u

/* Written by the test while no import runs, read by the handler; and the other way round. */
struct server {
    struct kith_loop *loop;
    struct gateway *gateway;
    pthread_t thread;
    atomic_uint busy_left;    /* requests to answer with 429 */
    atomic_uint batches_left; /* then 503 */
    atomic_uint stored[POINTS + 1];
    atomic_uint requests;
};

static struct server server;
static char folder[64];

static void answer(struct gateway_request *request, const char *text)
{
    struct kith_buf body = {0};

    kith_buf_text(&body, text);
    gateway_reply(request, 200, NULL, &body, NULL, 0);
}

/* All ids of the body; false when one of the points is bad. */
static bool read_points(struct kith_json root, uint64_t *ids, size_t *n)
{
    struct kith_json points, point, value;

    assert_true(kith_json_get(root, "points", &points));
    for (struct kith_json_iter it = kith_json_iterate(points); kith_json_next(&it, &point);) {
        assert_true(kith_json_get(point, "id", &value));
        assert_true(kith_json_u64(value, &ids[(*n)++]));
        if (kith_json_get(point, "payload", &value))
            return false;
    }
    return true;
}

static void upsert(struct gateway_request *request)
{
    static uint64_t ids[POINTS];
    struct kith_json_doc *doc;
    size_t n = 0;
    bool good;

    assert_int_equal(kith_json_open(&doc, request->body, request->body_bytes, NULL), KITH_OK);
    good = read_points(kith_json_root(doc), ids, &n);
    kith_json_close(doc);
    if (!good) {
        gateway_reply_error(request, KITH_BAD_REQUEST, "a point I do not like");
        return;
    }
    for (size_t i = 0; i < n; i++)
        atomic_fetch_add(&server.stored[ids[i]], 1);
    answer(request, "{\"result\":{\"status\":\"completed\"},\"status\":\"ok\",\"time\":0.0}");
}

static void handle(void *ctx, struct gateway_request *request)
{
    (void)ctx;
    if (request->method != GATEWAY_PUT) {
        answer(request, "{\"result\":{\"status\":\"green\"},\"status\":\"ok\",\"time\":0.0}");
        return;
    }
    atomic_fetch_add(&server.requests, 1);
    if (atomic_load(&server.busy_left) > 0) {
        atomic_fetch_sub(&server.busy_left, 1);
        gateway_reply_error(request, KITH_BUSY, "busy");
    } else if (atomic_load(&server.batches_left) == 0) {
        gateway_reply_error(request, KITH_UNAVAILABLE, "a shard is away");
    } else {
        atomic_fetch_sub(&server.batches_left, 1);
        upsert(request);
    }
}

static void *server_run(void *arg)
{
    (void)arg;
    kith_loop_run(server.loop);
    return NULL;
}

static int setup(void **state)
{
    struct gateway_options options = {.listen = "127.0.0.1:0", .handle = handle};

    (void)state;
    memset(&server, 0, sizeof server);
    server.batches_left = 1000000;
    strcpy(folder, "/tmp/kith-import-XXXXXX");
    assert_non_null(mkdtemp(folder));
    setenv("XDG_STATE_HOME", folder, 1);
    assert_int_equal(kith_loop_open(&server.loop, NULL), KITH_OK);
    assert_int_equal(gateway_open(&server.gateway, server.loop, &options, NULL), KITH_OK);
    setenv("KITH_URL", gateway_url(server.gateway), 1);
    return pthread_create(&server.thread, NULL, server_run, NULL);
}

static int teardown(void **state)
{
    char command[128];

    (void)state;
    kith_loop_stop(server.loop);
    pthread_join(server.thread, NULL);
    gateway_close(server.gateway);
    kith_loop_close(server.loop);
    snprintf(command, sizeof command, "rm -r %s", folder);
    return system(command);
}

static char *path_of(const char *name)
{
    static char path[128];

    snprintf(path, sizeof path, "%s/%s", folder, name);
    return path;
}

/* Ids 1 to POINTS on lines of the same number; some lines are spoilt. */
static void write_points(unsigned no_json, unsigned bad_a, unsigned bad_b)
{
    FILE *file = fopen(path_of("points.jsonl"), "w");

    assert_non_null(file);
    for (unsigned i = 1; i <= POINTS; i++) {
        if (i == no_json)
            fprintf(file, "{\"id\":%u,,}\n", i);
        else
            fprintf(file, "{\"id\":%u,\"vector\":[1,%u]%s}\n", i, i,
                    i == bad_a || i == bad_b ? ",\"payload\":{}" : "");
    }
    fclose(file);
}

/* Runs `kith import c points.jsonl --batch 50 flag value`; what it said on stderr is in `said`. */
static int import_run(const char *flag, const char *value, char *said, size_t said_bytes)
{
    char points[128], log[128];
    char *args[] = {"self", "import",     "c",           points, "--batch",
                    "50",   (char *)flag, (char *)value, NULL};
    posix_spawn_file_actions_t actions;
    pid_t pid;
    int status, fd;
    ssize_t n;

    strcpy(points, path_of("points.jsonl"));
    strcpy(log, path_of("log"));
    posix_spawn_file_actions_init(&actions);
    posix_spawn_file_actions_addopen(&actions, 2, log, O_WRONLY | O_CREAT | O_TRUNC, 0600);
    assert_int_equal(posix_spawn(&pid, "/proc/self/exe", &actions, NULL, args, environ), 0);
    posix_spawn_file_actions_destroy(&actions);
    assert_int_equal(waitpid(pid, &status, 0), pid);
    fd = open(log, O_RDONLY);
    n = read(fd, said, said_bytes - 1);
    close(fd);
    said[n > 0 ? n : 0] = '\0';
    print_message("%s", said);
    assert_true(WIFEXITED(status));
    return WEXITSTATUS(status);
}

static void assert_stored(unsigned from, unsigned to, const unsigned *without, size_t without_n)
{
    for (unsigned i = from; i <= to; i++) {
        bool out = false;
        for (size_t k = 0; k < without_n; k++)
            out = out || without[k] == i;
        if (out == (server.stored[i] > 0))
            fail_msg("point %u is stored %u times", i, server.stored[i]);
    }
}

static void test_import_names_bad_lines_and_stores_the_rest(void **state)
{
    static const unsigned bad[] = {137, 500, 850};
    char said[4096];

    (void)state;
    write_points(500, 137, 850);
    assert_int_equal(import_run(NULL, NULL, said, sizeof said), 3);
    assert_non_null(strstr(said, "line 137: a point I do not like\n"));
    assert_non_null(strstr(said, "line 850: a point I do not like\n"));
    assert_non_null(strstr(said, "line 500: "));
    assert_stored(1, POINTS, bad, 3);
    for (unsigned i = 1; i <= POINTS; i++)
        assert_true(server.stored[i] <= 1); /* halving sends no good point twice */
    assert_true(server.requests < 20 + 2 * 16);
}

static void test_import_strict_stops_at_a_line_that_is_no_json(void **state)
{
    static const unsigned none[] = {0};
    char said[4096];

    (void)state;
    write_points(500, 0, 0);
    assert_int_equal(import_run("--strict", NULL, said, sizeof said), 1);
    assert_non_null(strstr(said, "line 500: "));
    assert_stored(1, 499, none, 0);
    for (unsigned i = 500; i <= POINTS; i++)
        assert_int_equal(server.stored[i], 0);
}

static void test_import_strict_stops_at_a_refused_line(void **state)
{
    char said[4096];

    (void)state;
    write_points(0, 300, 0);
    assert_int_equal(import_run("--strict", NULL, said, sizeof said), 1);
    assert_non_null(strstr(said, "line 300: "));
    assert_int_equal(server.stored[300], 0);
}

static void test_import_waits_for_a_busy_server(void **state)
{
    char said[4096];

    (void)state;
    write_points(0, 0, 0);
    server.busy_left = 3;
    assert_int_equal(import_run(NULL, NULL, said, sizeof said), 0);
    assert_stored(1, POINTS, NULL, 0);
}

static void test_import_goes_on_where_it_was_cut(void **state)
{
    unsigned sent_twice = 0;
    char said[4096];

    (void)state;
    write_points(137, 0, 0);
    server.batches_left = 8;
    assert_int_equal(import_run("--retry", "0", said, sizeof said), 1);
    assert_non_null(strstr(said, "a shard is away"));
    server.batches_left = 1000000;
    assert_int_equal(import_run("--retry", "0", said, sizeof said), 3); /* line 137 still counts */
    assert_non_null(strstr(said, "going on behind line "));
    assert_stored(1, POINTS, (unsigned[]){137}, 1);
    for (unsigned i = 1; i <= POINTS; i++)
        sent_twice += server.stored[i] > 1;
    assert_true(sent_twice <= 4 * 50); /* what was in flight */

    /* Done: the next run begins at the first line again. */
    assert_int_equal(import_run(NULL, NULL, said, sizeof said), 3);
    assert_null(strstr(said, "going on"));
}

static void test_import_does_not_go_on_in_another_file(void **state)
{
    char said[4096];

    (void)state;
    write_points(0, 0, 0);
    server.batches_left = 8;
    assert_int_equal(import_run("--retry", "0", said, sizeof said), 1);
    write_points(0, 0, 7); /* the same name, other bytes */
    server.batches_left = 1000000;
    assert_int_equal(import_run(NULL, NULL, said, sizeof said), 3);
    assert_null(strstr(said, "going on"));
    assert_non_null(strstr(said, "line 7: "));
}

static void test_import_gives_up_after_too_many_errors(void **state)
{
    char said[4096];

    (void)state;
    write_points(0, 137, 850);
    assert_int_equal(import_run("--max-errors", "2", said, sizeof said), 1);
    assert_non_null(strstr(said, "giving up"));
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_import_names_bad_lines_and_stores_the_rest, setup,
                                        teardown),
        cmocka_unit_test_setup_teardown(test_import_strict_stops_at_a_line_that_is_no_json, setup,
                                        teardown),
        cmocka_unit_test_setup_teardown(test_import_strict_stops_at_a_refused_line, setup,
                                        teardown),
        cmocka_unit_test_setup_teardown(test_import_waits_for_a_busy_server, setup, teardown),
        cmocka_unit_test_setup_teardown(test_import_goes_on_where_it_was_cut, setup, teardown),
        cmocka_unit_test_setup_teardown(test_import_does_not_go_on_in_another_file, setup,
                                        teardown),
        cmocka_unit_test_setup_teardown(test_import_gives_up_after_too_many_errors, setup,
                                        teardown),
    };

    if (argc > 1)
        return command_import(argc - 1, argv + 1);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
