#include "common/kith_etcd_encode.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "common/kith_etcd_decode.h"
#include "common/kith_json.h"

static void put_bytes(struct kith_json_writer *w, const char *name, const char *prefix,
                      const char *rest)
{
    struct kith_buf plain = {0};
    struct kith_buf coded = {0};
    kith_buf_text(&plain, prefix);
    kith_buf_text(&plain, rest);
    kith_etcd_base64_encode(&coded, plain.data, plain.len);
    w->buf->failed |= plain.failed || coded.failed;
    kith_jw_key(w, name);
    kith_jw_str(w, (const char *)coded.data, coded.len);
    kith_buf_fini(&plain);
    kith_buf_fini(&coded);
}

/* The first key after all keys with the prefix. A prefix ends with '/', so the last byte can grow.
 */
static void put_range_end(struct kith_json_writer *w, const char *prefix)
{
    struct kith_buf end = {0};
    kith_buf_text(&end, prefix);
    kith_buf_byte(&end, 0);
    if (end.failed || end.len < 2) {
        w->buf->failed = true;
    } else {
        end.data[end.len - 2]++;
        put_bytes(w, "range_end", (const char *)end.data, "");
    }
    kith_buf_fini(&end);
}

static void put_u64(struct kith_json_writer *w, const char *name, uint64_t value)
{
    char text[24];
    snprintf(text, sizeof text, "%" PRIu64, value);
    kith_jw_key(w, name);
    kith_jw_cstr(w, text);
}

void kith_etcd_write_range(struct kith_buf *buf, const char *prefix, const char *from,
                           uint64_t revision, uint32_t limit)
{
    struct kith_json_writer w = {.buf = buf};
    kith_jw_begin_object(&w);
    put_bytes(&w, "key", prefix, from);
    put_range_end(&w, prefix);
    put_u64(&w, "limit", limit);
    if (revision) {
        put_u64(&w, "revision", revision);
    }
    kith_jw_end_object(&w);
}

void kith_etcd_write_check(struct kith_buf *buf, const char *prefix)
{
    struct kith_json_writer w = {.buf = buf};
    kith_jw_begin_object(&w);
    put_bytes(&w, "key", prefix, "");
    kith_jw_key(&w, "count_only");
    kith_jw_bool(&w, true);
    kith_jw_end_object(&w);
}

void kith_etcd_write_watch(struct kith_buf *buf, const char *prefix, uint64_t start_revision)
{
    struct kith_json_writer w = {.buf = buf};
    kith_jw_begin_object(&w);
    kith_jw_key(&w, "create_request");
    kith_jw_begin_object(&w);
    put_bytes(&w, "key", prefix, "");
    put_range_end(&w, prefix);
    put_u64(&w, "start_revision", start_revision);
    kith_jw_end_object(&w);
    kith_jw_end_object(&w);
}

static void put_change(struct kith_json_writer *w, const char *prefix,
                       const struct kith_registry_change *change, uint64_t lease)
{
    kith_jw_begin_object(w);
    kith_jw_key(w, change->value ? "request_put" : "request_delete_range");
    kith_jw_begin_object(w);
    put_bytes(w, "key", prefix, change->key);
    if (change->value) {
        put_bytes(w, "value", change->value, "");
        if (change->leased) {
            put_u64(w, "lease", lease);
        }
    }
    kith_jw_end_object(w);
    kith_jw_end_object(w);
}

void kith_etcd_write_txn(struct kith_buf *buf, const char *prefix,
                         const struct kith_etcd_txn_spec *txn)
{
    struct kith_json_writer w = {.buf = buf};
    kith_jw_begin_object(&w);
    kith_jw_key(&w, "compare");
    kith_jw_begin_array(&w);
    for (size_t i = 0; i < txn->n_compares; i++) {
        kith_jw_begin_object(&w);
        put_bytes(&w, "key", prefix, txn->compares[i].key);
        kith_jw_key(&w, "target");
        kith_jw_cstr(&w, "MOD");
        kith_jw_key(&w, "result");
        kith_jw_cstr(&w, "EQUAL");
        put_u64(&w, "mod_revision", txn->compares[i].revision); /* of an absent key: 0 */
        kith_jw_end_object(&w);
    }
    kith_jw_end_array(&w);
    kith_jw_key(&w, "success");
    kith_jw_begin_array(&w);
    for (size_t i = 0; i < txn->n_changes; i++) {
        put_change(&w, prefix, &txn->changes[i], txn->lease);
    }
    kith_jw_end_array(&w);
    kith_jw_end_object(&w);
}

void kith_etcd_write_grant(struct kith_buf *buf, uint64_t ttl_s)
{
    struct kith_json_writer w = {.buf = buf};
    kith_jw_begin_object(&w);
    put_u64(&w, "TTL", ttl_s);
    kith_jw_end_object(&w);
}

void kith_etcd_write_lease(struct kith_buf *buf, uint64_t lease)
{
    struct kith_json_writer w = {.buf = buf};
    kith_jw_begin_object(&w);
    put_u64(&w, "ID", lease);
    kith_jw_end_object(&w);
}
