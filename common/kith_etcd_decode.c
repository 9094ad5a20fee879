#include "common/kith_etcd_decode.h"

#include <string.h>

#include "common/kith_json.h"
#include "common/kith_mem.h"

static const char alphabet[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

void kith_etcd_base64_encode(struct kith_buf *out, const void *data, size_t len)
{
    const uint8_t *in = data;
    size_t groups = 0;
    if (!kith_add(len, 2, &groups) || !kith_mul(groups / 3, 4, &groups)) {
        out->failed = true;
        return;
    }
    uint8_t *to = kith_buf_reserve(out, groups);
    if (!to) {
        return;
    }
    for (size_t i = 0; i < len; i += 3) {
        const size_t n = len - i < 3 ? len - i : 3;
        const uint32_t bits = (uint32_t)in[i] << 16 | (n > 1 ? (uint32_t)in[i + 1] << 8 : 0) |
                              (n > 2 ? (uint32_t)in[i + 2] : 0);
        *to++ = (uint8_t)alphabet[bits >> 18];
        *to++ = (uint8_t)alphabet[bits >> 12 & 63];
        *to++ = (uint8_t)(n > 1 ? alphabet[bits >> 6 & 63] : '=');
        *to++ = (uint8_t)(n > 2 ? alphabet[bits & 63] : '=');
    }
    out->len += groups;
}

static int digit(char c)
{
    if (c >= 'A' && c <= 'Z') {
        return c - 'A';
    }
    if (c >= 'a' && c <= 'z') {
        return c - 'a' + 26;
    }
    if (c >= '0' && c <= '9') {
        return c - '0' + 52;
    }
    return c == '+' ? 62 : c == '/' ? 63 : -1;
}

bool kith_etcd_base64_decode(struct kith_buf *out, const char *text, size_t len)
{
    if (len % 4 != 0) {
        return false;
    }
    for (size_t i = 0; i < len; i += 4) {
        const bool last = i + 4 == len;
        const size_t pads = last && text[i + 3] == '=' ? 1 + (text[i + 2] == '=') : 0;
        uint32_t bits = 0;
        for (size_t j = 0; j < 4; j++) {
            const int d = j >= 4 - pads ? 0 : digit(text[i + j]);
            if (d < 0) {
                return false;
            }
            bits = bits << 6 | (uint32_t)d;
        }
        const uint8_t bytes[3] = {(uint8_t)(bits >> 16), (uint8_t)(bits >> 8), (uint8_t)bits};
        kith_buf_append(out, bytes, 3 - pads);
    }
    return !out->failed;
}

/* ---- fields ---------------------------------------------------------------------------------- */

static enum kith_err malformed(struct kith_diag *diag, const char *what)
{
    return kith_fail(diag, KITH_PROTOCOL, "etcd: malformed answer: %s", what);
}

/* Absent is 0. Numbers come as strings; plain numbers are taken too. Negative ones are refused. */
static bool get_u64(struct kith_json object, const char *key, uint64_t *out)
{
    struct kith_json value;
    const char *text = NULL;
    size_t len = 0;
    *out = 0;
    if (!kith_json_opt(object, key, &value) || kith_json_u64(value, out)) {
        return true;
    }
    if (!kith_json_str(value, &text, &len) || len == 0 || len > 20) {
        return false;
    }
    uint64_t number = 0;
    for (size_t i = 0; i < len; i++) {
        const uint64_t d = (uint64_t)text[i] - '0';
        if (d > 9 || number > (UINT64_MAX - d) / 10) {
            return false;
        }
        number = number * 10 + d;
    }
    *out = number;
    return true;
}

static bool get_flag(struct kith_json object, const char *key)
{
    struct kith_json value;
    bool flag = false;
    return kith_json_opt(object, key, &value) && kith_json_bool(value, &flag) && flag;
}

static bool get_header(struct kith_json object, struct kith_etcd_header *out)
{
    struct kith_json header;
    return kith_json_get(object, "header", &header) && kith_json_type(header) == KITH_JSON_OBJECT &&
           get_u64(header, "cluster_id", &out->cluster) &&
           get_u64(header, "revision", &out->revision);
}

/* {"error": "text", "code": 14} or {"error": {"message": "text"}}: etcd's own refusals. */
static enum kith_err open_doc(struct kith_json_doc **doc, const char *text, size_t len,
                              struct kith_json *root, struct kith_diag *diag)
{
    struct kith_diag inner = {0};
    const enum kith_err err = kith_json_open(doc, text, len, &inner);
    if (err == KITH_NOMEM) {
        return kith_fail(diag, err, "etcd: out of memory");
    }
    if (err) {
        return malformed(diag, inner.text);
    }
    *root = kith_json_root(*doc);
    if (kith_json_type(*root) != KITH_JSON_OBJECT) {
        return malformed(diag, "expected an object");
    }
    struct kith_json error;
    struct kith_json message;
    if (!kith_json_opt(*root, "error", &error)) {
        return KITH_OK;
    }
    if (!kith_json_get(error, "message", &message)) {
        message = error;
    }
    const char *said = NULL;
    size_t said_len = 0;
    if (!kith_json_str(message, &said, &said_len)) {
        said = "an error without text";
    }
    return kith_fail(diag, KITH_UNAVAILABLE, "etcd: %s", said);
}

/* ---- keys and values ------------------------------------------------------------------------- */

static bool get_bytes(struct kith_json object, const char *key, struct kith_buf *out)
{
    struct kith_json value;
    const char *text = NULL;
    size_t len = 0;
    kith_buf_reset(out);
    if (kith_json_opt(object, key, &value) &&
        (!kith_json_str(value, &text, &len) || !kith_etcd_base64_decode(out, text, len))) {
        return false;
    }
    kith_buf_byte(out, 0);
    return !out->failed;
}

struct kv_reader {
    struct kith_buf key, value;
    kith_etcd_kv_fn fn;
    void *ctx;
    struct kith_diag *diag;
};

static void reader_fini(struct kv_reader *reader)
{
    kith_buf_fini(&reader->key);
    kith_buf_fini(&reader->value);
}

static enum kith_err read_kv(struct kv_reader *reader, struct kith_json object, bool deleted)
{
    struct kith_etcd_kv kv = {.deleted = deleted};
    if (!get_bytes(object, "key", &reader->key) || !get_bytes(object, "value", &reader->value)) {
        return reader->key.failed || reader->value.failed
                   ? kith_fail(reader->diag, KITH_NOMEM, "etcd: out of memory")
                   : malformed(reader->diag, "a key or value is not base64");
    }
    if (!get_u64(object, "mod_revision", &kv.revision) || !get_u64(object, "lease", &kv.lease) ||
        kv.revision == 0) {
        return malformed(reader->diag, "mod_revision or lease");
    }
    kv.key = (const char *)reader->key.data;
    kv.key_len = reader->key.len - 1;
    kv.value = (const char *)reader->value.data;
    kv.value_len = reader->value.len - 1;
    return reader->fn(reader->ctx, &kv);
}

enum kith_err kith_etcd_read_range(const char *text, size_t len, struct kith_etcd_header *header,
                                   bool *more, kith_etcd_kv_fn fn, void *ctx,
                                   struct kith_diag *diag)
{
    struct kith_json_doc *doc = NULL;
    struct kith_json root;
    struct kith_json list;
    struct kith_json item;
    struct kith_etcd_header head = {0};
    struct kv_reader reader = {.fn = fn, .ctx = ctx, .diag = diag};
    enum kith_err err = open_doc(&doc, text, len, &root, diag);
    if (err) {
        goto out;
    }
    if (!get_header(root, &head)) {
        err = malformed(diag, "header");
        goto out;
    }
    if (kith_json_opt(root, "kvs", &list)) {
        struct kith_json_iter iter = kith_json_iterate(list);
        while (!err && kith_json_next(&iter, &item)) {
            err = read_kv(&reader, item, false);
        }
    }
    if (!err) {
        *header = head;
        *more = get_flag(root, "more");
    }
out:
    reader_fini(&reader);
    kith_json_close(doc);
    return err;
}

static enum kith_err read_event(struct kv_reader *reader, struct kith_json event)
{
    struct kith_json type;
    struct kith_json kv;
    const bool deleted = kith_json_opt(event, "type", &type) && kith_json_is(type, "DELETE");
    if (!kith_json_get(event, "kv", &kv)) {
        return malformed(reader->diag, "an event without kv");
    }
    return read_kv(reader, kv, deleted);
}

enum kith_err kith_etcd_read_watch(const char *text, size_t len, struct kith_etcd_watch *out,
                                   kith_etcd_kv_fn fn, void *ctx, struct kith_diag *diag)
{
    struct kith_json_doc *doc = NULL;
    struct kith_json root;
    struct kith_json result;
    struct kith_json list;
    struct kith_json item;
    struct kith_etcd_watch watch = {0};
    struct kv_reader reader = {.fn = fn, .ctx = ctx, .diag = diag};
    enum kith_err err = open_doc(&doc, text, len, &root, diag);
    if (err) {
        goto out;
    }
    if (!kith_json_get(root, "result", &result) || !get_header(result, &watch.header) ||
        !get_u64(result, "compact_revision", &watch.compact_revision)) {
        err = malformed(diag, "watch result");
        goto out;
    }
    watch.created = get_flag(result, "created");
    watch.canceled = get_flag(result, "canceled");
    if (kith_json_opt(result, "events", &list)) {
        struct kith_json_iter iter = kith_json_iterate(list);
        while (!err && kith_json_next(&iter, &item)) {
            err = read_event(&reader, item);
        }
    }
    if (!err) {
        *out = watch;
    }
out:
    reader_fini(&reader);
    kith_json_close(doc);
    return err;
}

enum kith_err kith_etcd_read_txn(const char *text, size_t len, struct kith_etcd_txn *out,
                                 struct kith_diag *diag)
{
    struct kith_json_doc *doc = NULL;
    struct kith_json root;
    struct kith_json list;
    struct kith_json item;
    struct kith_etcd_txn txn = {0};
    enum kith_err err = open_doc(&doc, text, len, &root, diag);
    if (err) {
        goto out;
    }
    if (!get_header(root, &txn.header)) {
        err = malformed(diag, "header");
        goto out;
    }
    txn.succeeded = get_flag(root, "succeeded");
    if (kith_json_opt(root, "responses", &list)) {
        struct kith_json_iter iter = kith_json_iterate(list);
        while (kith_json_next(&iter, &item)) {
            struct kith_json inner;
            uint64_t deleted = 0;
            txn.changed |= kith_json_get(item, "response_put", &inner) ||
                           (kith_json_get(item, "response_delete_range", &inner) &&
                            get_u64(inner, "deleted", &deleted) && deleted > 0);
        }
    }
    *out = txn;
out:
    kith_json_close(doc);
    return err;
}

enum kith_err kith_etcd_read_lease(const char *text, size_t len, struct kith_etcd_lease *out,
                                   struct kith_diag *diag)
{
    struct kith_json_doc *doc = NULL;
    struct kith_json root;
    struct kith_json result;
    struct kith_etcd_lease lease = {0};
    enum kith_err err = open_doc(&doc, text, len, &root, diag);
    if (err) {
        goto out;
    }
    if (!kith_json_get(root, "result", &result)) { /* keepalive is a stream, grant is not */
        result = root;
    }
    if (!get_u64(result, "ID", &lease.id) || !get_u64(result, "TTL", &lease.ttl_s) ||
        lease.id == 0) {
        err = malformed(diag, "lease");
        goto out;
    }
    *out = lease;
out:
    kith_json_close(doc);
    return err;
}
