/* A shard's membership over a registry in a file: identity, joining, clearing what was dropped. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

#include "cli/identity.h"
#include "cli/member.h"
#include "common/kith_keys.h"
#include "common/kith_mem.h"
#include "common/kith_registry.h"

struct rig {
    char dir[40];
    char data[64];
    char registry_path[64];
    struct kith_loop *loop;
    struct kith_timer *watchdog;
    struct kith_registry *registry;
    struct member *member;
    bool (*until)(struct rig *rig);
    size_t n_ready;
    enum kith_err failed;
    char text[KITH_DIAG_BYTES];
};

static void on_watchdog(void *ctx)
{
    (void)ctx;
    fail_msg("the event did not come within 20 s");
}

static void check(void *ctx)
{
    struct rig *rig = ctx;
    if (rig->until && rig->until(rig)) {
        rig->until = NULL;
        kith_loop_stop(rig->loop);
    }
}

static void run_until(struct rig *rig, bool (*until)(struct rig *rig))
{
    rig->until = until;
    kith_timer_start(rig->watchdog, 20000, 0);
    check(rig);
    kith_loop_run(rig->loop);
    kith_timer_stop(rig->watchdog);
}

static void on_ready(void *ctx)
{
    struct rig *rig = ctx;
    rig->n_ready++;
    check(rig);
}

static void on_failed(void *ctx, enum kith_err err, const struct kith_diag *diag)
{
    struct rig *rig = ctx;
    rig->failed = err;
    snprintf(rig->text, sizeof rig->text, "%s", diag->text);
    check(rig);
}

static void rig_open(struct rig *rig)
{
    assert_int_equal(kith_loop_open(&rig->loop, NULL), KITH_OK);
    assert_int_equal(kith_timer_new(&rig->watchdog, rig->loop, on_watchdog, rig), KITH_OK);
    assert_int_equal(kith_registry_open_file(&rig->registry, rig->loop, rig->registry_path, NULL),
                     KITH_OK);
    char url[64];
    char data[64];
    snprintf(url, sizeof url, "inproc://%s", rig->dir + 5);
    snprintf(data, sizeof data, "%s", rig->data);
    struct kith_diag diag = {0};
    const struct member_cfg cfg = {
        .loop = rig->loop,
        .registry = rig->registry,
        .data_dir = data,
        .listen_url = url,
        .name = "one",
        .threads = 1,
        .ready = on_ready,
        .failed = on_failed,
        .ctx = rig,
    };
    rig->n_ready = 0;
    rig->failed = KITH_OK;
    if (member_open(&rig->member, &cfg, &diag)) {
        fail_msg("%s", diag.text);
    }
    memset(url, 'x', sizeof url - 1); /* the member has its own copies */
    memset(data, 'x', sizeof data - 1);
    kith_registry_listen(rig->registry, check, rig);
}

static void rig_close(struct rig *rig)
{
    kith_registry_close(rig->registry);
    member_close(rig->member);
    kith_timer_free(rig->watchdog);
    kith_loop_close(rig->loop);
}

static int setup(void **state)
{
    struct rig *rig = calloc(1, sizeof *rig);
    snprintf(rig->dir, sizeof rig->dir, "/tmp/kith-member-XXXXXX");
    assert_non_null(mkdtemp(rig->dir));
    snprintf(rig->data, sizeof rig->data, "%s/a/b", rig->dir);
    snprintf(rig->registry_path, sizeof rig->registry_path, "%s/registry", rig->dir);
    rig_open(rig);
    *state = rig;
    return 0;
}

static int teardown(void **state)
{
    struct rig *rig = *state;
    rig_close(rig);
    char command[64];
    snprintf(command, sizeof command, "rm -rf %s", rig->dir);
    const int failed = system(command);
    free(rig);
    return failed;
}

static uint64_t node_id(const struct rig *rig)
{
    struct identity identity = {0};
    assert_int_equal(identity_load(&identity, rig->data, NULL), KITH_OK);
    assert_true(identity.node != 0);
    return identity.node;
}

static bool is_announced_ready(struct rig *rig)
{
    char key[KITH_KEY_BYTES];
    struct kith_registry_value text;
    struct kith_node_value value;
    kith_keys_node(key, node_id(rig));
    return kith_registry_get(rig->registry, key, &text) &&
           !kith_keys_read_node(text.text, text.len, &value) && value.ready &&
           strcmp(value.url, member_url(rig->member)) == 0 && strcmp(value.name, "one") == 0;
}

static bool has_failed(struct rig *rig)
{
    return rig->failed != KITH_OK;
}

static void test_member_joins_and_keeps_its_id(void **state)
{
    struct rig *rig = *state;
    run_until(rig, is_announced_ready);
    assert_int_equal(rig->n_ready, 1);
    const uint64_t id = node_id(rig);
    rig_close(rig);
    rig_open(rig);
    run_until(rig, is_announced_ready);
    assert_true(node_id(rig) == id);
}

static void test_member_refuses_another_clusters_folder(void **state)
{
    struct rig *rig = *state;
    run_until(rig, is_announced_ready);
    rig_close(rig);
    assert_int_equal(unlink(rig->registry_path), 0); /* a new registry: a new cluster */
    rig_open(rig);
    run_until(rig, has_failed);
    assert_int_equal(rig->failed, KITH_CONFLICT);
    assert_non_null(strstr(rig->text, "another cluster"));
}

static const uint64_t collection = 0x77;

/* The tombstone is there, and our slice is not any more. */
static bool is_cleared(struct rig *rig)
{
    char key[KITH_KEY_BYTES];
    struct kith_registry_value text;
    kith_keys_dropped(key, collection);
    if (!kith_registry_get(rig->registry, key, &text)) {
        return false;
    }
    kith_keys_slice(key, collection, 0);
    return !kith_registry_get(rig->registry, key, &text);
}

static void test_member_clears_only_what_is_dropped_and_its_own(void **state)
{
    struct rig *rig = *state;
    run_until(rig, is_announced_ready);
    char keys[4][KITH_KEY_BYTES];
    struct kith_buf texts[4] = {0};
    struct kith_registry_change changes[4];
    const uint64_t me = node_id(rig);
    struct kith_slice_value mine = {.term = 1, .primary = me, .opened = true};
    struct kith_slice_value others = {.term = 1, .primary = me + 1, .opened = true};
    kith_keys_slice(keys[0], collection, 0);
    kith_keys_write_slice(&texts[0], &mine);
    kith_keys_slice(keys[1], collection, 1);
    kith_keys_write_slice(&texts[1], &others);
    kith_keys_slice(keys[2], collection + 1, 0); /* of a collection that is not dropped */
    kith_keys_write_slice(&texts[2], &mine);
    kith_keys_dropped(keys[3], collection);
    kith_keys_write_dropped(&texts[3], "c");
    for (size_t i = 0; i < 4; i++) {
        changes[i] =
            (struct kith_registry_change){.key = keys[i], .value = (const char *)texts[i].data};
    }
    kith_registry_commit(rig->registry, NULL, 0, changes, 4, NULL, NULL);
    for (size_t i = 0; i < 4; i++) {
        kith_buf_fini(&texts[i]);
    }
    struct kith_registry_value text;
    run_until(rig, is_cleared);
    assert_true(kith_registry_get(rig->registry, keys[1], &text));
    assert_true(kith_registry_get(rig->registry, keys[2], &text));
    assert_true(kith_registry_get(rig->registry, keys[3], &text)); /* the leader's to remove */
}

static void test_identity_refuses_damage(void **state)
{
    struct rig *rig = *state;
    struct identity identity = {.node = 5, .cluster = 6};
    struct identity again = {0};
    char dir[64];
    char path[80];
    snprintf(dir, sizeof dir, "%s/x", rig->dir);
    snprintf(path, sizeof path, "%s/node", dir);
    assert_int_equal(mkdir(dir, 0700), 0);
    assert_int_equal(identity_save(&identity, dir, NULL), KITH_OK);
    assert_int_equal(identity_load(&again, dir, NULL), KITH_OK);
    assert_true(again.node == 5 && again.cluster == 6);

    char good[256];
    FILE *file = fopen(path, "r+b");
    const size_t len = fread(good, 1, sizeof good, file);
    for (size_t i = 0; i < len; i++) {
        fseek(file, (long)i, SEEK_SET);
        fputc(good[i] ^ 1, file);
        fflush(file);
        assert_int_equal(identity_load(&again, dir, NULL), KITH_CORRUPT);
        fseek(file, (long)i, SEEK_SET);
        fputc(good[i], file);
        fflush(file);
    }
    assert_int_equal(ftruncate(fileno(file), 0), 0);
    assert_int_equal(identity_load(&again, dir, NULL), KITH_CORRUPT);
    fclose(file);
}

#define T(test_) cmocka_unit_test_setup_teardown(test_, setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        T(test_member_joins_and_keeps_its_id),
        T(test_member_refuses_another_clusters_folder),
        T(test_member_clears_only_what_is_dropped_and_its_own),
        T(test_identity_refuses_damage),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
