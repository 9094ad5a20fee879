#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "common/kith_etcd_decode.h"
#include "common/kith_json.h"
#include "common/kith_mem.h"

/* Answers as etcd 3.4.23 gave them. */
#define HEADER                                                                                     \
    "\"header\":{\"cluster_id\":\"14841639068965178418\",\"member_id\":\"10276657743932975437\","  \
    "\"revision\":\"7\",\"raft_term\":\"2\"}"

static char padded[4096];

static const char *pad(const char *text)
{
    memset(padded, ' ', sizeof padded);
    memcpy(padded, text, strlen(text));
    return padded;
}

static void test_base64_matches_rfc4648(void **state)
{
    (void)state;
    static const char *const pairs[][2] = {{"", ""},
                                           {"f", "Zg=="},
                                           {"fo", "Zm8="},
                                           {"foo", "Zm9v"},
                                           {"foob", "Zm9vYg=="},
                                           {"fooba", "Zm9vYmE="},
                                           {"foobar", "Zm9vYmFy"}};
    for (size_t i = 0; i < sizeof pairs / sizeof *pairs; i++) {
        struct kith_buf buf = {0};
        kith_etcd_base64_encode(&buf, pairs[i][0], strlen(pairs[i][0]));
        assert_int_equal(buf.len, strlen(pairs[i][1]));
        assert_true(buf.len == 0 || memcmp(buf.data, pairs[i][1], buf.len) == 0);
        kith_buf_reset(&buf);
        assert_true(kith_etcd_base64_decode(&buf, pairs[i][1], strlen(pairs[i][1])));
        assert_int_equal(buf.len, strlen(pairs[i][0]));
        assert_true(buf.len == 0 || memcmp(buf.data, pairs[i][0], buf.len) == 0);
        kith_buf_fini(&buf);
    }
}

static void test_base64_refuses_what_is_none(void **state)
{
    (void)state;
    static const char *const bad[] = {
        "Z", "Zg", "Zg=", "Zg==Zg==", "=g==", "Z===", "Zg\n=", "Z-g_"};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        struct kith_buf buf = {0};
        assert_false(kith_etcd_base64_decode(&buf, bad[i], strlen(bad[i])));
        kith_buf_fini(&buf);
    }
}

struct seen {
    size_t n;
    bool deleted;
    char key[64], value[64];
    uint64_t revision, lease;
};

static enum kith_err on_kv(void *ctx, const struct kith_etcd_kv *kv)
{
    struct seen *seen = ctx;
    seen->n++;
    seen->deleted = kv->deleted;
    seen->revision = kv->revision;
    seen->lease = kv->lease;
    snprintf(seen->key, sizeof seen->key, "%s", kv->key);
    snprintf(seen->value, sizeof seen->value, "%s", kv->value);
    return KITH_OK;
}

static void test_range(void **state)
{
    (void)state;
    const char *text =
        "{" HEADER ",\"kvs\":[{\"key\":\"L2svYQ==\",\"create_revision\":\"3\",\"mod_revision\":"
        "\"5\",\"version\":\"2\",\"value\":\"eyJ4IjoxfQ==\",\"lease\":\"7587871362123457034\"}],"
        "\"more\":true,\"count\":\"9\"}";
    struct seen seen = {0};
    struct kith_etcd_header header;
    bool more = false;
    assert_int_equal(
        kith_etcd_read_range(pad(text), strlen(text), &header, &more, on_kv, &seen, NULL), KITH_OK);
    assert_true(more);
    assert_true(header.cluster == 14841639068965178418u);
    assert_int_equal(header.revision, 7);
    assert_int_equal(seen.n, 1);
    assert_string_equal(seen.key, "/k/a");
    assert_string_equal(seen.value, "{\"x\":1}");
    assert_int_equal(seen.revision, 5);
    assert_true(seen.lease == 7587871362123457034u);
}

static void test_watch(void **state)
{
    (void)state;
    struct seen seen = {0};
    struct kith_etcd_watch watch;
    const char *events =
        "{\"result\":{" HEADER ",\"events\":[{\"kv\":{\"key\":\"YQ==\",\"mod_revision\":\"6\"}},"
        "{\"type\":\"DELETE\",\"kv\":{\"key\":\"Yg==\",\"mod_revision\":\"7\"}}]}}";
    assert_int_equal(kith_etcd_read_watch(pad(events), strlen(events), &watch, on_kv, &seen, NULL),
                     KITH_OK);
    assert_int_equal(seen.n, 2);
    assert_true(seen.deleted);
    assert_string_equal(seen.key, "b");
    assert_false(watch.created || watch.canceled);

    const char *gone = "{\"result\":{" HEADER
                       ",\"canceled\":true,\"compact_revision\":\"5\",\"cancel_reason\":\"x\"}}";
    assert_int_equal(kith_etcd_read_watch(pad(gone), strlen(gone), &watch, on_kv, &seen, NULL),
                     KITH_OK);
    assert_true(watch.canceled);
    assert_int_equal(watch.compact_revision, 5);
}

static void test_txn_and_lease(void **state)
{
    (void)state;
    struct kith_etcd_txn txn;
    struct kith_etcd_lease lease;
    const char *put = "{" HEADER ",\"succeeded\":true,\"responses\":[{\"response_put\":{}}]}";
    assert_int_equal(kith_etcd_read_txn(pad(put), strlen(put), &txn, NULL), KITH_OK);
    assert_true(txn.succeeded && txn.changed);
    const char *none =
        "{" HEADER ",\"succeeded\":true,\"responses\":[{\"response_delete_range\":{}}]}";
    assert_int_equal(kith_etcd_read_txn(pad(none), strlen(none), &txn, NULL), KITH_OK);
    assert_true(txn.succeeded && !txn.changed);
    const char *lost = "{" HEADER "}";
    assert_int_equal(kith_etcd_read_txn(pad(lost), strlen(lost), &txn, NULL), KITH_OK);
    assert_false(txn.succeeded);
    const char *keep = "{\"result\":{" HEADER ",\"ID\":\"77\",\"TTL\":\"10\"}}";
    assert_int_equal(kith_etcd_read_lease(pad(keep), strlen(keep), &lease, NULL), KITH_OK);
    assert_int_equal(lease.id, 77);
    assert_int_equal(lease.ttl_s, 10);
    const char *dead = "{\"result\":{" HEADER ",\"ID\":\"77\"}}";
    assert_int_equal(kith_etcd_read_lease(pad(dead), strlen(dead), &lease, NULL), KITH_OK);
    assert_int_equal(lease.ttl_s, 0);
}

static void test_refuses_malformed_answers(void **state)
{
    (void)state;
    static const struct {
        const char *text;
        enum kith_err err;
    } cases[] = {
        {"", KITH_PROTOCOL},
        {"[]", KITH_PROTOCOL},
        {"{\"header\":3}", KITH_PROTOCOL},
        {"{\"header\":{\"revision\":\"-1\"}}", KITH_PROTOCOL},
        {"{\"header\":{\"revision\":\"18446744073709551616\"}}", KITH_PROTOCOL},
        {"{\"header\":{\"revision\":\"7x\"}}", KITH_PROTOCOL},
        {"{" HEADER ",\"kvs\":[{\"key\":\"YQ\",\"mod_revision\":\"1\"}]}", KITH_PROTOCOL},
        {"{" HEADER ",\"kvs\":[{\"key\":\"YQ==\"}]}", KITH_PROTOCOL},
        {"{" HEADER ",\"kvs\":[7]}", KITH_PROTOCOL},
        {"{\"error\":\"etcdserver: no leader\",\"code\":14}", KITH_UNAVAILABLE},
        {"{\"error\":{\"grpc_code\":14,\"message\":\"no leader\"}}", KITH_UNAVAILABLE},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct seen seen = {0};
        struct kith_etcd_header header = {.revision = 99};
        struct kith_diag diag = {0};
        bool more = false;
        assert_int_equal(kith_etcd_read_range(pad(cases[i].text), strlen(cases[i].text), &header,
                                              &more, on_kv, &seen, &diag),
                         cases[i].err);
        assert_int_equal(header.revision, 99);
        assert_true(diag.text[0] != 0);
    }
}

static void test_range_survives_each_oom(void **state)
{
    (void)state;
    const char *text =
        "{" HEADER
        ",\"kvs\":[{\"key\":\"L2svYQ==\",\"mod_revision\":\"5\",\"value\":\"eyJ4IjoxfQ==\"}]}";
    const long live = kith_mem_live();
    for (long n = 0; n < 100; n++) {
        struct seen seen = {0};
        struct kith_etcd_header header;
        bool more = false;
        kith_mem_fail_after(n);
        const enum kith_err err =
            kith_etcd_read_range(pad(text), strlen(text), &header, &more, on_kv, &seen, NULL);
        kith_mem_fail_after(-1);
        assert_true(err == KITH_OK || err == KITH_NOMEM);
        if (err == KITH_OK) {
            break;
        }
        assert_true(n < 99);
    }
    assert_true(kith_mem_live() <= live + 8); /* the JSON parser may keep its own */
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_base64_matches_rfc4648),
        cmocka_unit_test(test_base64_refuses_what_is_none),
        cmocka_unit_test(test_range),
        cmocka_unit_test(test_watch),
        cmocka_unit_test(test_txn_and_lease),
        cmocka_unit_test(test_refuses_malformed_answers),
        cmocka_unit_test(test_range_survives_each_oom),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
