#include "common/kith_keys.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <sys/random.h>

#include "proto/kith_limits.h"

/* ---- keys ------------------------------------------------------------------------------------ */

void kith_keys_node(char key[KITH_KEY_BYTES], uint64_t node)
{
    snprintf(key, KITH_KEY_BYTES, KITH_KEYS_NODES "%016" PRIx64, node);
}

void kith_keys_collection(char key[KITH_KEY_BYTES], const char *name)
{
    kith_assert(strlen(name) <= KITH_NAME_MAX);
    snprintf(key, KITH_KEY_BYTES, KITH_KEYS_COLLECTIONS "%s", name);
}

void kith_keys_slice(char key[KITH_KEY_BYTES], uint64_t collection, uint32_t slice)
{
    snprintf(key, KITH_KEY_BYTES, KITH_KEYS_SLICES "%016" PRIx64 "/%04" PRIu32, collection, slice);
}

void kith_keys_dropped(char key[KITH_KEY_BYTES], uint64_t collection)
{
    snprintf(key, KITH_KEY_BYTES, KITH_KEYS_DROPPED "%016" PRIx64, collection);
}

static bool parse_hex(const char *text, size_t len, uint64_t *id)
{
    uint64_t number = 0;
    if (len != 16) {
        return false;
    }
    for (size_t i = 0; i < len; i++) {
        const char c = text[i];
        const int digit = c >= '0' && c <= '9' ? c - '0' : c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
        if (digit < 0) {
            return false;
        }
        number = number << 4 | (uint64_t)digit;
    }
    if (number == 0) {
        return false;
    }
    *id = number;
    return true;
}

bool kith_keys_parse_id(const char *text, uint64_t *id)
{
    return parse_hex(text, strlen(text), id);
}

static const char *after(const char *key, const char *prefix)
{
    const size_t len = strlen(prefix);
    return strncmp(key, prefix, len) == 0 ? key + len : NULL;
}

bool kith_keys_parse_node(const char *key, uint64_t *node)
{
    const char *rest = after(key, KITH_KEYS_NODES);
    return rest && kith_keys_parse_id(rest, node);
}

bool kith_keys_parse_dropped(const char *key, uint64_t *collection)
{
    const char *rest = after(key, KITH_KEYS_DROPPED);
    return rest && kith_keys_parse_id(rest, collection);
}

bool kith_keys_parse_slice(const char *key, uint64_t *collection, uint32_t *slice)
{
    const char *rest = after(key, KITH_KEYS_SLICES);
    uint64_t id = 0;
    uint32_t number = 0;
    if (!rest || strlen(rest) != 16 + 1 + 4 || !parse_hex(rest, 16, &id) || rest[16] != '/') {
        return false;
    }
    for (const char *c = rest + 17; *c; c++) {
        if (*c < '0' || *c > '9') {
            return false;
        }
        number = number * 10 + (uint32_t)(*c - '0');
    }
    if (number >= KITH_SLICES_PER_COLLECTION_MAX) {
        return false;
    }
    *collection = id;
    *slice = number;
    return true;
}

uint64_t kith_keys_random_id(void)
{
    uint64_t id = 0;
    while (id == 0) {
        const ssize_t n = getrandom(&id, sizeof id, 0);
        kith_assert(n == (ssize_t)sizeof id || (n < 0 && errno == EINTR));
        id = n == (ssize_t)sizeof id ? id : 0;
    }
    return id;
}

/* ---- writing --------------------------------------------------------------------------------- */

static void put_id(struct kith_json_writer *w, const char *name, uint64_t id)
{
    char text[20];
    snprintf(text, sizeof text, "%016" PRIx64, id);
    if (name) {
        kith_jw_key(w, name);
    }
    kith_jw_cstr(w, text);
}

static void put_text(struct kith_json_writer *w, const char *name, const char *text)
{
    kith_jw_key(w, name);
    kith_jw_cstr(w, text);
}

void kith_keys_write_node(struct kith_buf *buf, const struct kith_node_value *value)
{
    struct kith_json_writer w = {.buf = buf};
    kith_jw_begin_object(&w);
    put_text(&w, "url", value->url);
    put_text(&w, "name", value->name);
    put_text(&w, "state", value->ready ? "ready" : "warming");
    put_text(&w, "version", value->version);
    kith_jw_end_object(&w);
    kith_buf_byte(buf, 0);
}

static void put_ids(struct kith_json_writer *w, const char *name, const uint64_t *ids, uint32_t n)
{
    kith_jw_key(w, name);
    kith_jw_begin_array(w);
    for (uint32_t i = 0; i < n; i++) {
        put_id(w, NULL, ids[i]);
    }
    kith_jw_end_array(w);
}

void kith_keys_write_slice(struct kith_buf *buf, const struct kith_slice_value *value)
{
    struct kith_json_writer w = {.buf = buf};
    kith_jw_begin_object(&w);
    kith_jw_key(&w, "term");
    kith_jw_u64(&w, value->term);
    put_id(&w, "primary", value->primary);
    put_ids(&w, "in_sync", value->in_sync, value->n_in_sync);
    put_ids(&w, "replicas", value->replicas, value->n_replicas);
    kith_jw_key(&w, "opened");
    kith_jw_bool(&w, value->opened);
    if (value->error) {
        kith_jw_key(&w, "error");
        kith_jw_u64(&w, (uint64_t)value->error);
    }
    kith_jw_end_object(&w);
    kith_buf_byte(buf, 0);
}

void kith_keys_write_leader(struct kith_buf *buf, const struct kith_leader_value *value)
{
    struct kith_json_writer w = {.buf = buf};
    kith_jw_begin_object(&w);
    put_id(&w, "id", value->id);
    put_text(&w, "url", value->url);
    kith_jw_end_object(&w);
    kith_buf_byte(buf, 0);
}

void kith_keys_write_cluster(struct kith_buf *buf, uint64_t id)
{
    struct kith_json_writer w = {.buf = buf};
    kith_jw_begin_object(&w);
    put_id(&w, "id", id);
    kith_jw_end_object(&w);
    kith_buf_byte(buf, 0);
}

void kith_keys_write_dropped(struct kith_buf *buf, const char *name)
{
    struct kith_json_writer w = {.buf = buf};
    kith_jw_begin_object(&w);
    put_text(&w, "name", name);
    kith_jw_end_object(&w);
    kith_buf_byte(buf, 0);
}

/* ---- reading --------------------------------------------------------------------------------- */

enum kith_err kith_keys_open(struct kith_json_doc **doc, struct kith_buf *copy, const char *text,
                             size_t len)
{
    kith_buf_reset(copy);
    kith_buf_append(copy, text, len);
    if (!kith_buf_reserve(copy, KITH_JSON_PADDING)) {
        return KITH_NOMEM;
    }
    return kith_json_open(doc, (const char *)copy->data, len, NULL);
}

bool kith_keys_text(struct kith_json object, const char *name, char *out, size_t out_bytes)
{
    struct kith_json value;
    const char *text = NULL;
    size_t len = 0;
    if (!kith_json_opt(object, name, &value) || !kith_json_str(value, &text, &len) ||
        len >= out_bytes || strlen(text) != len) {
        return false;
    }
    memcpy(out, text, len + 1);
    return true;
}

bool kith_keys_id(struct kith_json object, const char *name, uint64_t *out)
{
    struct kith_json value;
    const char *text = NULL;
    size_t len = 0;
    return kith_json_opt(object, name, &value) && kith_json_str(value, &text, &len) &&
           parse_hex(text, len, out);
}

static bool read_node(struct kith_json root, void *out)
{
    struct kith_node_value value = {0};
    struct kith_json state;
    if (!kith_keys_text(root, "url", value.url, sizeof value.url) ||
        !kith_json_opt(root, "state", &state)) {
        return false;
    }
    (void)kith_keys_text(root, "name", value.name, sizeof value.name);
    (void)kith_keys_text(root, "version", value.version, sizeof value.version);
    value.ready = kith_json_is(state, "ready");
    *(struct kith_node_value *)out = value;
    return true;
}

static bool get_ids(struct kith_json root, const char *name, uint64_t *ids, uint32_t *n)
{
    struct kith_json list;
    struct kith_json item;
    if (!kith_json_opt(root, name, &list)) {
        return true;
    }
    struct kith_json_iter iter = kith_json_iterate(list);
    while (kith_json_next(&iter, &item)) {
        const char *text = NULL;
        size_t len = 0;
        if (*n == KITH_REPLICAS_MAX || !kith_json_str(item, &text, &len) ||
            !parse_hex(text, len, &ids[*n])) {
            return false;
        }
        ++*n;
    }
    return true;
}

static bool read_slice(struct kith_json root, void *out)
{
    struct kith_slice_value value = {0};
    struct kith_json field;
    if (!kith_json_opt(root, "term", &field) || !kith_json_u64(field, &value.term) ||
        !kith_keys_id(root, "primary", &value.primary) ||
        !get_ids(root, "in_sync", value.in_sync, &value.n_in_sync) ||
        !get_ids(root, "replicas", value.replicas, &value.n_replicas)) {
        return false;
    }
    value.opened = kith_json_opt(root, "opened", &field) && kith_json_bool(field, &value.opened) &&
                   value.opened;
    uint64_t error = 0;
    if (kith_json_opt(root, "error", &field) && kith_json_u64(field, &error)) {
        value.error = kith_err_from_wire(error);
    }
    *(struct kith_slice_value *)out = value;
    return true;
}

static bool read_leader(struct kith_json root, void *out)
{
    struct kith_leader_value value = {0};
    if (!kith_keys_id(root, "id", &value.id)) {
        return false;
    }
    (void)kith_keys_text(root, "url", value.url, sizeof value.url);
    *(struct kith_leader_value *)out = value;
    return true;
}

static bool read_cluster(struct kith_json root, void *out)
{
    return kith_keys_id(root, "id", out);
}

static enum kith_err read_with(const char *text, size_t len, bool (*read)(struct kith_json, void *),
                               void *out)
{
    struct kith_json_doc *doc = NULL;
    struct kith_buf copy = {0};
    enum kith_err err = kith_keys_open(&doc, &copy, text, len);
    if (!err && !read(kith_json_root(doc), out)) {
        err = KITH_CORRUPT;
    }
    kith_json_close(doc);
    kith_buf_fini(&copy);
    return err == KITH_OK || err == KITH_NOMEM ? err : KITH_CORRUPT;
}

enum kith_err kith_keys_read_node(const char *text, size_t len, struct kith_node_value *out)
{
    return read_with(text, len, read_node, out);
}

enum kith_err kith_keys_read_slice(const char *text, size_t len, struct kith_slice_value *out)
{
    return read_with(text, len, read_slice, out);
}

enum kith_err kith_keys_read_leader(const char *text, size_t len, struct kith_leader_value *out)
{
    return read_with(text, len, read_leader, out);
}

enum kith_err kith_keys_read_cluster(const char *text, size_t len, uint64_t *out)
{
    return read_with(text, len, read_cluster, out);
}

uint64_t kith_keys_cluster(struct kith_registry *registry)
{
    struct kith_registry_value value;
    uint64_t id = 0;
    if (kith_registry_get(registry, KITH_KEYS_CLUSTER, &value)) {
        return kith_keys_read_cluster(value.text, value.len, &id) ? 0 : id;
    }
    if (kith_registry_synced(registry) && kith_registry_connected(registry)) {
        /* Several may try at once; the comparison lets one win. */
        struct kith_buf text = {0};
        kith_keys_write_cluster(&text, kith_keys_random_id());
        if (!text.failed) {
            const struct kith_registry_compare absent = {.key = KITH_KEYS_CLUSTER};
            const struct kith_registry_change put = {.key = KITH_KEYS_CLUSTER,
                                                     .value = (const char *)text.data};
            kith_registry_commit(registry, &absent, 1, &put, 1, NULL, NULL);
        }
        kith_buf_fini(&text);
    }
    return 0;
}
