/* Tests only: what every registry must do, run against each implementation.
 *
 * Including it needs cmocka.h first. The including file defines suite_open. Every wait is for an
 * event; a watchdog of 20 s ends a test whose event never comes. */
#ifndef KITH_REGISTRY_SUITE_H
#define KITH_REGISTRY_SUITE_H

#include <string.h>

#include "common/kith_registry.h"
#include "proto/kith_limits.h"

/* Another view of the same registry, or NULL when there can be only one. */
static struct kith_registry *suite_open(struct kith_loop *loop);

struct suite {
    struct kith_loop *loop;
    struct kith_registry *registry;
    struct kith_timer *watchdog;
    bool (*until)(struct suite *suite);
    size_t n_done;
    enum kith_err err;
    char text[KITH_DIAG_BYTES];
    size_t n_events;
};

static void suite_on_watchdog(void *ctx)
{
    (void)ctx;
    fail_msg("the event did not come within 20 s");
}

static void suite_check(struct suite *suite)
{
    if (suite->until && suite->until(suite)) {
        suite->until = NULL;
        kith_loop_stop(suite->loop);
    }
}

static void suite_on_event(void *ctx)
{
    struct suite *suite = ctx;
    suite->n_events++;
    suite_check(suite);
}

static void suite_on_done(void *ctx, enum kith_err err, const struct kith_diag *diag)
{
    struct suite *suite = ctx;
    suite->n_done++;
    suite->err = err;
    snprintf(suite->text, sizeof suite->text, "%s", diag->text);
    suite_check(suite);
}

static void suite_run_until(struct suite *suite, bool (*until)(struct suite *suite))
{
    suite->until = until;
    kith_timer_start(suite->watchdog, 20000, 0);
    suite_check(suite);
    kith_loop_run(suite->loop);
    kith_timer_stop(suite->watchdog);
}

static bool suite_is_synced(struct suite *suite)
{
    return kith_registry_synced(suite->registry) && kith_registry_connected(suite->registry);
}

static bool suite_is_done(struct suite *suite)
{
    return suite->n_done > 0;
}

static int suite_setup(void **state)
{
    struct suite *suite = calloc(1, sizeof *suite);
    assert_int_equal(kith_loop_open(&suite->loop, NULL), KITH_OK);
    assert_int_equal(kith_timer_new(&suite->watchdog, suite->loop, suite_on_watchdog, suite),
                     KITH_OK);
    suite->registry = suite_open(suite->loop);
    kith_registry_listen(suite->registry, suite_on_event, suite);
    suite_run_until(suite, suite_is_synced);
    *state = suite;
    return 0;
}

static int suite_teardown(void **state)
{
    struct suite *suite = *state;
    kith_registry_close(suite->registry);
    kith_timer_free(suite->watchdog);
    kith_loop_close(suite->loop);
    free(suite);
    return 0;
}

/* One transaction, until it is done. */
static enum kith_err suite_commit(struct suite *suite, const struct kith_registry_compare *compares,
                                  size_t n_compares, const struct kith_registry_change *changes,
                                  size_t n_changes)
{
    suite->n_done = 0;
    kith_registry_commit(suite->registry, compares, n_compares, changes, n_changes, suite_on_done,
                         suite);
    assert_int_equal(suite->n_done, 0); /* never from inside the call */
    suite_run_until(suite, suite_is_done);
    return suite->err;
}

static enum kith_err suite_put(struct suite *suite, const char *key, const char *value)
{
    const struct kith_registry_change change = {.key = key, .value = value};
    return suite_commit(suite, NULL, 0, &change, 1);
}

static uint64_t suite_revision(struct suite *suite, const char *key)
{
    struct kith_registry_value value;
    return kith_registry_get(suite->registry, key, &value) ? value.revision : 0;
}

static void suite_expect(struct suite *suite, const char *key, const char *text)
{
    struct kith_registry_value value;
    assert_true(kith_registry_get(suite->registry, key, &value));
    assert_string_equal(value.text, text);
    assert_int_equal(value.len, strlen(text));
    assert_true(value.revision > 0);
}

static void test_commit_reads_its_own_writes(void **state)
{
    struct suite *suite = *state;
    assert_int_equal(suite_put(suite, "own/a", "1"), KITH_OK);
    suite_expect(suite, "own/a", "1");
    const uint64_t before = suite_revision(suite, "own/a");
    assert_int_equal(suite_put(suite, "own/a", "{\"text\":\"\\u4f60\xe5\xa5\xbd\"}"), KITH_OK);
    suite_expect(suite, "own/a", "{\"text\":\"\\u4f60\xe5\xa5\xbd\"}");
    assert_true(suite_revision(suite, "own/a") > before);
    assert_int_equal(suite_put(suite, "own/a", NULL), KITH_OK);
    assert_int_equal(suite_revision(suite, "own/a"), 0);
    assert_int_equal(suite_put(suite, "own/a", NULL), KITH_OK); /* deleting nothing */
}

static void test_commit_compares(void **state)
{
    struct suite *suite = *state;
    const struct kith_registry_compare absent = {.key = "cas/a"};
    const struct kith_registry_change put[] = {{.key = "cas/a", .value = "1"},
                                               {.key = "cas/b", .value = "2"}};
    assert_int_equal(suite_commit(suite, &absent, 1, put, 2), KITH_OK);
    assert_int_equal(suite_commit(suite, &absent, 1, put, 2), KITH_CONFLICT);
    assert_true(suite->text[0] != 0);

    const struct kith_registry_compare both[] = {
        {.key = "cas/a", .revision = suite_revision(suite, "cas/a")},
        {.key = "cas/b", .revision = suite_revision(suite, "cas/b")}};
    assert_int_equal(both[0].revision, both[1].revision); /* one transaction, one revision */
    const struct kith_registry_change change = {.key = "cas/b", .value = "3"};
    assert_int_equal(suite_commit(suite, both, 2, &change, 1), KITH_OK);
    assert_int_equal(suite_commit(suite, both, 2, &change, 1), KITH_CONFLICT);
    suite_expect(suite, "cas/b", "3");
    suite_expect(suite, "cas/a", "1");
}

static void test_commit_refuses_what_is_too_big(void **state)
{
    struct suite *suite = *state;
    char *big = malloc(KITH_REGISTRY_VALUE_MAX + 2);
    memset(big, 'x', KITH_REGISTRY_VALUE_MAX + 1);
    big[KITH_REGISTRY_VALUE_MAX + 1] = 0;
    assert_int_equal(suite_put(suite, "big/a", big), KITH_TOO_BIG);
    big[KITH_REGISTRY_VALUE_MAX] = 0;
    assert_int_equal(suite_put(suite, "big/a", big), KITH_OK);
    big[KITH_REGISTRY_KEY_MAX + 1] = 0;
    assert_int_equal(suite_put(suite, big, "x"), KITH_TOO_BIG);
    assert_int_equal(suite_put(suite, "", "x"), KITH_TOO_BIG);
    assert_int_equal(suite_put(suite, "a b", "x"), KITH_TOO_BIG);
    free(big);
}

struct suite_list {
    size_t n;
    char keys[8][64];
};

static void suite_on_each(void *ctx, const char *key, const struct kith_registry_value *value)
{
    struct suite_list *list = ctx;
    (void)value;
    assert_true(list->n < 8);
    snprintf(list->keys[list->n++], sizeof list->keys[0], "%s", key);
}

static void test_each_walks_a_prefix_in_order(void **state)
{
    struct suite *suite = *state;
    const struct kith_registry_change put[] = {{.key = "each/b", .value = "1"},
                                               {.key = "each/a", .value = "1"},
                                               {.key = "each/c/d", .value = "1"},
                                               {.key = "eachx", .value = "1"},
                                               {.key = "each", .value = "1"}};
    assert_int_equal(suite_commit(suite, NULL, 0, put, 5), KITH_OK);
    struct suite_list list = {0};
    kith_registry_each(suite->registry, "each/", suite_on_each, &list);
    assert_int_equal(list.n, 3);
    assert_string_equal(list.keys[0], "each/a");
    assert_string_equal(list.keys[1], "each/b");
    assert_string_equal(list.keys[2], "each/c/d");
}

static void test_commits_keep_their_order(void **state)
{
    struct suite *suite = *state;
    for (int i = 0; i < 20; i++) {
        char key[32];
        char value[32];
        snprintf(key, sizeof key, "order/%02d", i);
        snprintf(value, sizeof value, "%d", i);
        assert_int_equal(suite_put(suite, key, value), KITH_OK);
    }
    for (int i = 1; i < 20; i++) {
        char key[2][32];
        snprintf(key[0], sizeof key[0], "order/%02d", i - 1);
        snprintf(key[1], sizeof key[1], "order/%02d", i);
        assert_true(suite_revision(suite, key[0]) < suite_revision(suite, key[1]));
    }
}

static bool suite_has_announced(struct suite *suite)
{
    struct kith_registry_value value;
    return kith_registry_get(suite->registry, "nodes/me", &value) &&
           strcmp(value.text, "ready") == 0;
}

static void test_announce_shows_and_changes(void **state)
{
    struct suite *suite = *state;
    assert_int_equal(kith_registry_announce(suite->registry, "nodes/me", "warming"), KITH_OK);
    assert_int_equal(kith_registry_announce(suite->registry, "nodes/me", "ready"), KITH_OK);
    suite_run_until(suite, suite_has_announced);
    assert_true(suite->n_events > 0);
}

static void test_leased_keys_go_and_others_stay(void **state)
{
    struct suite *suite = *state;
    const struct kith_registry_change put[] = {{.key = "lease/a", .value = "1", .leased = true},
                                               {.key = "lease/b", .value = "2"}};
    assert_int_equal(suite_commit(suite, NULL, 0, put, 2), KITH_OK);
    suite_expect(suite, "lease/a", "1");
    kith_registry_close(suite->registry);
    suite->registry = suite_open(suite->loop);
    kith_registry_listen(suite->registry, suite_on_event, suite);
    suite_run_until(suite, suite_is_synced);
    assert_int_equal(suite_revision(suite, "lease/a"), 0);
    suite_expect(suite, "lease/b", "2");
}

static void test_close_cancels_what_waits(void **state)
{
    struct suite *suite = *state;
    const struct kith_registry_change put = {.key = "late/a", .value = "1"};
    suite->n_done = 0;
    kith_registry_commit(suite->registry, NULL, 0, &put, 1, suite_on_done, suite);
    kith_registry_commit(suite->registry, NULL, 0, &put, 1, suite_on_done, suite);
    kith_registry_close(suite->registry);
    assert_int_equal(suite->n_done, 2);
    suite->registry = suite_open(suite->loop);
}

#define SUITE_TEST(test_) cmocka_unit_test_setup_teardown(test_, suite_setup, suite_teardown)
#define SUITE_TESTS                                                                                \
    SUITE_TEST(test_commit_reads_its_own_writes), SUITE_TEST(test_commit_compares),                \
        SUITE_TEST(test_commit_refuses_what_is_too_big),                                           \
        SUITE_TEST(test_each_walks_a_prefix_in_order), SUITE_TEST(test_commits_keep_their_order),  \
        SUITE_TEST(test_announce_shows_and_changes),                                               \
        SUITE_TEST(test_leased_keys_go_and_others_stay), SUITE_TEST(test_close_cancels_what_waits)

#endif
