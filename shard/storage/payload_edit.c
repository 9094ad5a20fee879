#include "shard/storage/payload_edit.h"

#include <math.h>
#include <string.h>

#include "proto/kith_limits.h"

/* Field by field comparison is fine for payloads of people; a patch of 100,000 fields on as many
 * would be 10^10 comparisons, so work is capped. */
#define COMPARISONS_MAX (8u << 20)

static bool next_key(struct kith_bytes *path, struct kith_bytes *key)
{
    if (path->len == 0)
        return false;
    const uint8_t *dot = memchr(path->data, '.', path->len);
    size_t len = dot != NULL ? (size_t)(dot - path->data) : path->len;
    *key = (struct kith_bytes){path->data, len};
    size_t skip = dot != NULL ? len + 1 : len;
    *path = (struct kith_bytes){path->data + skip, path->len - skip};
    return true;
}

static bool same(struct kith_bytes a, struct kith_bytes b)
{
    return a.len == b.len && (a.len == 0 || memcmp(a.data, b.data, a.len) == 0);
}

static enum kith_err check_value(struct kith_cursor *c, unsigned depth, struct kith_diag *diag)
{
    struct kith_value value;
    if (!kith_read_value(c, &value))
        return kith_fail(diag, KITH_BAD_REQUEST, "payload: malformed");
    if (value.type == KITH_WIRE_BIN)
        return kith_fail(diag, KITH_BAD_REQUEST, "payload: binary values are not JSON");
    if (value.type == KITH_WIRE_FLOAT && !isfinite(value.f))
        return kith_fail(diag, KITH_BAD_REQUEST, "payload: NaN and infinity are not JSON");
    if (value.type != KITH_WIRE_ARRAY && value.type != KITH_WIRE_MAP)
        return KITH_OK;
    if (depth >= KITH_PAYLOAD_DEPTH_MAX)
        return kith_fail(diag, KITH_TOO_BIG, "payload: nested deeper than %u",
                         KITH_PAYLOAD_DEPTH_MAX);
    for (uint32_t i = 0; i < value.count; i++) {
        struct kith_bytes key;
        if (value.type == KITH_WIRE_MAP && !kith_read_str(c, &key))
            return kith_fail(diag, KITH_BAD_REQUEST, "payload: a key is not text");
        enum kith_err err = check_value(c, depth + 1, diag);
        if (err != KITH_OK)
            return err;
    }
    return KITH_OK;
}

enum kith_err payload_edit_check(struct kith_bytes payload, struct kith_diag *diag)
{
    if (payload.len == 0)
        return KITH_OK;
    if (payload.len > KITH_PAYLOAD_MAX)
        return kith_fail(diag, KITH_TOO_BIG, "payload: %zu bytes, at most %u", payload.len,
                         KITH_PAYLOAD_MAX);
    struct kith_cursor c = kith_cursor_of(payload.data, payload.len);
    if (kith_read_peek(&c) != KITH_WIRE_MAP)
        return kith_fail(diag, KITH_BAD_REQUEST, "payload: must be an object");
    enum kith_err err = check_value(&c, 0, diag);
    if (err == KITH_OK && !kith_cursor_done(&c))
        err = kith_fail(diag, KITH_BAD_REQUEST, "payload: bytes behind its end");
    return err;
}

enum kith_err payload_edit_check_path(struct kith_bytes path, struct kith_diag *diag)
{
    if (path.len > KITH_FIELD_PATH_MAX)
        return kith_fail(diag, KITH_TOO_BIG, "key: longer than %u bytes", KITH_FIELD_PATH_MAX);
    unsigned depth = 0;
    struct kith_bytes key;
    bool dot_at_end = path.len > 0 && path.data[path.len - 1] == '.';
    while (next_key(&path, &key)) {
        if (key.len == 0 || dot_at_end)
            return kith_fail(diag, KITH_BAD_REQUEST, "key: empty part");
        if (++depth >= KITH_PAYLOAD_DEPTH_MAX)
            return kith_fail(diag, KITH_TOO_BIG, "key: deeper than %u", KITH_PAYLOAD_DEPTH_MAX);
    }
    return KITH_OK;
}

/* Opens a map value; bytes that are empty or no map read as an empty map. */
static struct kith_cursor open_map(struct kith_bytes value, uint32_t *count)
{
    struct kith_cursor c = kith_cursor_of(value.data, value.len);
    *count = 0;
    if (value.len > 0 && kith_read_peek(&c) == KITH_WIRE_MAP)
        (void)kith_read_map(&c, count);
    return c;
}

static bool map_has(struct kith_bytes map, struct kith_bytes wanted)
{
    uint32_t count;
    struct kith_cursor c = open_map(map, &count);
    struct kith_bytes key;
    for (uint32_t i = 0; i < count && kith_read_str(&c, &key) && kith_read_skip(&c, NULL); i++)
        if (same(key, wanted))
            return true;
    return false;
}

static void write_pair(struct kith_writer *w, struct kith_bytes key, struct kith_bytes value)
{
    kith_write_str(w, (const char *)key.data, key.len);
    kith_write_raw(w, value.data, value.len);
}

static enum kith_err merge_here(struct kith_bytes base, struct kith_bytes patch,
                                struct kith_writer *w, struct kith_diag *diag)
{
    uint32_t n_base, n_patch, kept = 0;
    struct kith_cursor b = open_map(base, &n_base);
    struct kith_cursor p = open_map(patch, &n_patch);
    if ((uint64_t)n_base * n_patch > COMPARISONS_MAX)
        return kith_fail(diag, KITH_TOO_BIG, "payload: %u fields set among %u", n_patch, n_base);
    struct kith_cursor count = b;
    struct kith_bytes key, value;
    for (uint32_t i = 0; i < n_base && kith_read_str(&count, &key) && kith_read_skip(&count, NULL);
         i++)
        kept += !map_has(patch, key);
    kith_write_map(w, kept + n_patch);
    for (uint32_t i = 0; i < n_base && kith_read_str(&b, &key) && kith_read_skip(&b, &value); i++)
        if (!map_has(patch, key))
            write_pair(w, key, value);
    for (uint32_t i = 0; i < n_patch && kith_read_str(&p, &key) && kith_read_skip(&p, &value); i++)
        write_pair(w, key, value);
    return b.err == KITH_OK && p.err == KITH_OK
               ? KITH_OK
               : kith_fail(diag, KITH_BAD_REQUEST, "payload: malformed");
}

/* Recursion is bounded by payload_edit_check_path. */
static enum kith_err merge_at(struct kith_bytes base, struct kith_bytes patch,
                              struct kith_bytes path, struct kith_writer *w, struct kith_diag *diag)
{
    struct kith_bytes wanted;
    if (!next_key(&path, &wanted))
        return merge_here(base, patch, w, diag);
    uint32_t n;
    struct kith_cursor c = open_map(base, &n);
    bool present = map_has(base, wanted);
    kith_write_map(w, n + (present ? 0 : 1));
    enum kith_err err = KITH_OK;
    struct kith_bytes key, value;
    for (uint32_t i = 0;
         i < n && err == KITH_OK && kith_read_str(&c, &key) && kith_read_skip(&c, &value); i++) {
        if (!same(key, wanted)) {
            write_pair(w, key, value);
            continue;
        }
        kith_write_str(w, (const char *)key.data, key.len);
        err = merge_at(value, patch, path, w, diag);
    }
    if (err == KITH_OK && !present) {
        kith_write_str(w, (const char *)wanted.data, wanted.len);
        err = merge_at((struct kith_bytes){NULL, 0}, patch, path, w, diag);
    }
    return err;
}

static enum kith_err finish(const struct kith_writer *w, const struct kith_buf *out, size_t before,
                            struct kith_diag *diag)
{
    if (w->failed || out->failed)
        return kith_fail(diag, KITH_NOMEM, "payload");
    /* The result may be larger and deeper than each part was. */
    return payload_edit_check((struct kith_bytes){out->data + before, out->len - before}, diag);
}

enum kith_err payload_edit_merge(struct kith_bytes base, struct kith_bytes patch,
                                 struct kith_bytes path, struct kith_buf *out,
                                 struct kith_diag *diag)
{
    size_t before = out->len;
    struct kith_writer w = {.write = kith_buf_sink, .sink = out};
    enum kith_err err = merge_at(base, patch, path, &w, diag);
    return err == KITH_OK ? finish(&w, out, before, diag) : err;
}

static bool path_exists(struct kith_bytes base, struct kith_bytes path)
{
    struct kith_bytes wanted;
    if (!next_key(&path, &wanted))
        return true;
    uint32_t n;
    struct kith_cursor c = open_map(base, &n);
    struct kith_bytes key, value;
    for (uint32_t i = 0; i < n && kith_read_str(&c, &key) && kith_read_skip(&c, &value); i++)
        if (same(key, wanted) && path_exists(value, path))
            return true;
    return false;
}

static void remove_at(struct kith_bytes base, struct kith_bytes path, struct kith_writer *w)
{
    struct kith_bytes wanted = {NULL, 0};
    (void)next_key(&path, &wanted);
    bool here = path.len == 0;
    uint32_t n, gone = 0;
    struct kith_cursor c = open_map(base, &n);
    struct kith_cursor count = c;
    struct kith_bytes key, value;
    for (uint32_t i = 0; here && i < n && kith_read_str(&count, &key); i++) {
        gone += same(key, wanted);
        if (!kith_read_skip(&count, NULL))
            break;
    }
    kith_write_map(w, n - gone);
    for (uint32_t i = 0; i < n && kith_read_str(&c, &key) && kith_read_skip(&c, &value); i++) {
        if (!same(key, wanted)) {
            write_pair(w, key, value);
        } else if (!here) {
            kith_write_str(w, (const char *)key.data, key.len);
            if (path_exists(value, path))
                remove_at(value, path, w);
            else
                kith_write_raw(w, value.data, value.len);
        }
    }
}

enum kith_err payload_edit_remove(struct kith_bytes base, struct kith_bytes path,
                                  struct kith_buf *out, bool *changed, struct kith_diag *diag)
{
    *changed = path.len > 0 && path_exists(base, path);
    if (!*changed) {
        kith_buf_append(out, base.data, base.len);
        return out->failed ? kith_fail(diag, KITH_NOMEM, "payload") : KITH_OK;
    }
    size_t before = out->len;
    struct kith_writer w = {.write = kith_buf_sink, .sink = out};
    remove_at(base, path, &w);
    return finish(&w, out, before, diag);
}
