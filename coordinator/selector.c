#include "coordinator/selector.h"

#include <string.h>

#include "common/kith_arena.h"
#include "coordinator/plan.h"

/* "a[].b" and "a.b" name the same place: arrays are walked into wherever they stand. */
static const char *path_of(struct request *req, const char *text, size_t len)
{
    char *path = kith_arena_text(req->arena, text, len);
    if (!path)
        return NULL;
    size_t n = 0;
    for (size_t i = 0; i < len; i++) {
        if (path[i] == '[' && i + 1 < len && path[i + 1] == ']')
            i++;
        else
            path[n++] = path[i];
    }
    path[n] = '\0';
    return path;
}

static enum kith_err read_paths(struct request *req, struct kith_json list, const char *where,
                                enum selector_kind kind, struct selector *out,
                                struct kith_diag *diag)
{
    if (kith_json_type(list) != KITH_JSON_ARRAY)
        return plan_wrong_type(diag, where, "an array of field names", list);
    size_t n = kith_json_count(list);
    if (n > KITH_FIELDS_INDEXED_MAX)
        return kith_fail(diag, KITH_TOO_BIG, "%s: %zu fields, at most %u allowed", where, n,
                         KITH_FIELDS_INDEXED_MAX);
    const char **paths = kith_arena_array(req->arena, n ? n : 1, sizeof(*paths));
    if (!paths)
        return kith_fail(diag, KITH_NOMEM, "%s: out of memory", where);
    struct kith_json_iter iter = kith_json_iterate(list);
    struct kith_json item;
    for (size_t i = 0; kith_json_next(&iter, &item); i++) {
        const char *text;
        size_t len;
        if (!kith_json_str(item, &text, &len))
            return plan_wrong_type(diag, plan_where_at(req, where, i), "a field name", item);
        if (len == 0 || len > KITH_FIELD_PATH_MAX)
            return kith_fail(diag, KITH_BAD_REQUEST, "%s[%zu]: a field name has 1 to %u bytes",
                             where, i, KITH_FIELD_PATH_MAX);
        paths[i] = path_of(req, text, len);
        if (!paths[i])
            return kith_fail(diag, KITH_NOMEM, "%s: out of memory", where);
    }
    *out = (struct selector){.kind = kind, .n_paths = (uint32_t)n, .paths = paths};
    return KITH_OK;
}

static const struct plan_field selector_fields[] = {{"include", PLAN_TAKEN},
                                                    {"exclude", PLAN_TAKEN}};

enum kith_err selector_payload(struct request *req, struct kith_json object, const char *name,
                               const char *where, struct selector *out, struct kith_diag *diag)
{
    struct kith_json value, list;
    if (!kith_json_opt(object, name, &value))
        return KITH_OK;
    const char *at = plan_where(req, where, name);
    bool all;
    if (kith_json_bool(value, &all)) {
        *out = (struct selector){.kind = all ? SELECTOR_ALL : SELECTOR_NONE};
        return KITH_OK;
    }
    if (kith_json_type(value) == KITH_JSON_ARRAY)
        return read_paths(req, value, at, SELECTOR_INCLUDE, out, diag);
    if (kith_json_type(value) != KITH_JSON_OBJECT)
        return plan_wrong_type(diag, at, "true, false, an array of fields, or include/exclude",
                               value);
    enum kith_err err = PLAN_FIELDS(value, at, selector_fields, diag);
    if (err)
        return err;
    bool include = kith_json_opt(value, "include", &list);
    struct kith_json other;
    if (include && kith_json_opt(value, "exclude", &other))
        return kith_fail(diag, KITH_BAD_REQUEST, "%s: include and exclude exclude each other", at);
    if (!include && !kith_json_opt(value, "exclude", &list))
        return kith_fail(diag, KITH_BAD_REQUEST, "%s: expected include or exclude", at);
    const char *member = include ? "include" : "exclude";
    return read_paths(req, list, plan_where(req, at, member),
                      include ? SELECTOR_INCLUDE : SELECTOR_EXCLUDE, out, diag);
}

enum kith_err selector_vector(struct request *req, struct kith_json object, const char *where,
                              bool *out, struct kith_diag *diag)
{
    const char *name = "with_vector";
    struct kith_json value, item;
    if (!kith_json_opt(object, name, &value)) {
        name = "with_vectors";
        if (!kith_json_opt(object, name, &value))
            return KITH_OK;
    }
    if (kith_json_bool(value, out))
        return KITH_OK;
    const char *at = plan_where(req, where, name);
    if (kith_json_type(value) != KITH_JSON_ARRAY)
        return plan_wrong_type(diag, at, "true, false, or an array of vector names", value);
    struct kith_json_iter iter = kith_json_iterate(value);
    bool any = false;
    while (kith_json_next(&iter, &item)) {
        if (!kith_json_is(item, req->target.vector_name))
            return kith_fail(diag, KITH_BAD_REQUEST, "%s: there is no such vector", at);
        any = true;
    }
    *out = any;
    return KITH_OK;
}

/* ---- writing --------------------------------------------------------------------------------- */

enum match { MATCH_NONE, MATCH_BELOW /* something deeper is named */, MATCH_HERE };

static enum match match_path(const struct selector *selector, const char *path, size_t len)
{
    enum match best = MATCH_NONE;
    for (uint32_t i = 0; i < selector->n_paths; i++) {
        const char *named = selector->paths[i];
        if (strncmp(named, path, len) != 0)
            continue;
        if (named[len] == '\0')
            return MATCH_HERE;
        if (named[len] == '.')
            best = MATCH_BELOW;
    }
    return best;
}

struct walk {
    const struct selector *selector;
    struct kith_json_writer *w;
    char path[KITH_FIELD_PATH_MAX + 1];
};

static void walk_value(struct walk *walk, struct kith_bytes bytes, size_t path_len);

static void walk_map(struct walk *walk, struct kith_cursor *c, uint32_t count, size_t path_len)
{
    bool include = walk->selector->kind == SELECTOR_INCLUDE;
    kith_jw_begin_object(walk->w);
    for (uint32_t i = 0; i < count; i++) {
        struct kith_bytes key, value;
        if (!kith_read_str(c, &key) || !kith_read_skip(c, &value))
            break;
        size_t dot = path_len ? 1 : 0;
        size_t len = path_len + dot + key.len;
        enum match match = MATCH_NONE;
        if (len <= KITH_FIELD_PATH_MAX) { /* a longer one cannot be named */
            if (dot)
                walk->path[path_len] = '.';
            memcpy(walk->path + path_len + dot, key.data, key.len);
            match = match_path(walk->selector, walk->path, len);
        }
        if (match == (include ? MATCH_NONE : MATCH_HERE))
            continue;
        kith_jw_key_n(walk->w, (const char *)key.data, key.len);
        if (match == MATCH_BELOW)
            walk_value(walk, value, len);
        else
            (void)kith_jw_msgpack(walk->w, value);
    }
    kith_jw_end_object(walk->w);
}

/* A value under a path of which only a part is wanted (or unwanted). Depth is bounded by the
 * msgpack reader, which refuses what is deeper than KITH_MSGPACK_DEPTH_MAX. */
static void walk_value(struct walk *walk, struct kith_bytes bytes, size_t path_len)
{
    struct kith_cursor c = kith_cursor_of(bytes.data, bytes.len);
    struct kith_value value;
    enum kith_wire_type type = kith_read_peek(&c);
    if (type == KITH_WIRE_MAP && kith_read_value(&c, &value)) {
        walk_map(walk, &c, value.count, path_len);
    } else if (type == KITH_WIRE_ARRAY && kith_read_value(&c, &value)) {
        kith_jw_begin_array(walk->w);
        struct kith_bytes item;
        for (uint32_t i = 0; i < value.count && kith_read_skip(&c, &item); i++)
            walk_value(walk, item, path_len);
        kith_jw_end_array(walk->w);
    } else if (!kith_jw_msgpack(walk->w, bytes)) {
        kith_jw_null(walk->w);
    }
}

void selector_write(const struct selector *selector, struct kith_bytes payload,
                    struct kith_json_writer *w)
{
    if (payload.len == 0) {
        kith_jw_begin_object(w);
        kith_jw_end_object(w);
    } else if (selector->kind == SELECTOR_ALL) {
        if (!kith_jw_msgpack(w, payload))
            kith_jw_null(w);
    } else {
        struct walk walk = {.selector = selector, .w = w};
        walk_value(&walk, payload, 0);
    }
}
