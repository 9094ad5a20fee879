#include "shard/storage/field_path.h"

#include <string.h>

static bool take_quoted(struct kith_bytes *rest, struct kith_bytes *key)
{
    const uint8_t *start = rest->data + 1;
    const uint8_t *end = memchr(start, '"', rest->len - 1);
    if (end == NULL)
        return false;
    *key = (struct kith_bytes){start, (size_t)(end - start)};
    rest->len -= (size_t)(end + 1 - rest->data);
    rest->data = end + 1;
    return true;
}

static bool take_key(struct kith_bytes *rest, struct kith_bytes *key)
{
    if (rest->len > 0 && rest->data[0] == '"')
        return take_quoted(rest, key);
    size_t n = 0;
    while (n < rest->len && rest->data[n] != '.' && rest->data[n] != '[' && rest->data[n] != ']' &&
           rest->data[n] != '"')
        n++;
    *key = (struct kith_bytes){rest->data, n};
    rest->data += n;
    rest->len -= n;
    return n > 0;
}

/* "[]" or "[12]", the bracket being the first byte. */
static bool take_bracket(struct kith_bytes *rest, struct field_step *out)
{
    uint64_t index = 0;
    size_t n = 1;
    for (; n < rest->len && n < 11 && rest->data[n] >= '0' && rest->data[n] <= '9'; n++)
        index = index * 10 + (uint64_t)(rest->data[n] - '0');
    if (n >= rest->len || rest->data[n] != ']' || index > UINT32_MAX)
        return false;
    out->kind = n == 1 ? FIELD_STEP_EACH : FIELD_STEP_INDEX;
    out->index = (uint32_t)index;
    rest->data += n + 1;
    rest->len -= n + 1;
    return true;
}

/* What may stand between this step and the next: '.' before a key, nothing before a bracket. The
 * dot is taken here, so that the next call begins at a key or a bracket. */
static bool take_join(struct kith_bytes *rest)
{
    if (rest->len == 0 || rest->data[0] == '[')
        return true;
    if (rest->data[0] != '.' || rest->len < 2 || rest->data[1] == '[')
        return false;
    rest->data++;
    rest->len--;
    return true;
}

bool field_path_next(struct kith_bytes *rest, struct field_step *out)
{
    struct kith_bytes left = *rest;
    struct field_step step = {.kind = FIELD_STEP_KEY};
    if (left.len == 0)
        return false;
    bool ok = left.data[0] == '[' ? take_bracket(&left, &step) : take_key(&left, &step.key);
    if (!ok || !take_join(&left))
        return false;
    *rest = left;
    *out = step;
    return true;
}

bool field_path_valid(struct kith_bytes path)
{
    struct field_step step;
    if (path.len == 0 || path.data[0] == '[')
        return false;
    while (field_path_next(&path, &step)) {
    }
    return path.len == 0;
}

/* ---- walking ------------------------------------------------------------------------------- */

struct visit {
    field_value_fn on_value;
    void *ctx;
};

static bool descend(const struct visit *visit, struct kith_bytes value, struct kith_bytes path);

static bool descend_key(const struct visit *visit, struct kith_cursor *c, uint32_t pairs,
                        struct kith_bytes key, struct kith_bytes rest)
{
    for (uint32_t i = 0; i < pairs; i++) {
        struct kith_bytes name, value;
        if (!kith_read_str(c, &name))
            return false;
        bool hit = name.len == key.len && memcmp(name.data, key.data, key.len) == 0;
        if (!kith_read_skip(c, &value))
            return false;
        if (hit && descend(visit, value, rest))
            return true;
    }
    return false;
}

static bool descend_elements(const struct visit *visit, struct kith_cursor *c, uint32_t count,
                             const struct field_step *step, struct kith_bytes rest)
{
    for (uint32_t i = 0; i < count; i++) {
        struct kith_bytes value;
        if (!kith_read_skip(c, &value))
            return false;
        if (step->kind == FIELD_STEP_EACH || step->index == i)
            if (descend(visit, value, rest))
                return true;
    }
    return false;
}

/* Recursion is bounded by the steps of the path, and each step consumes a byte of it. */
static bool descend(const struct visit *visit, struct kith_bytes value, struct kith_bytes path)
{
    struct field_step step;
    struct kith_value head;
    if (path.len == 0)
        return visit->on_value(visit->ctx, value);
    struct kith_cursor c = kith_cursor_of(value.data, value.len);
    if (!field_path_next(&path, &step) || !kith_read_value(&c, &head))
        return false;
    if (step.kind == FIELD_STEP_KEY)
        return head.type == KITH_WIRE_MAP && descend_key(visit, &c, head.count, step.key, path);
    return head.type == KITH_WIRE_ARRAY && descend_elements(visit, &c, head.count, &step, path);
}

bool field_path_visit(struct kith_bytes payload, struct kith_bytes path, field_value_fn on_value,
                      void *ctx)
{
    const struct visit visit = {on_value, ctx};
    if (payload.len == 0 || path.len == 0)
        return false;
    return descend(&visit, payload, path);
}

/* ---- spelling ------------------------------------------------------------------------------ */

static void put(struct field_path_text *text, const void *data, size_t len)
{
    if (len > FIELD_PATH_ROOM - text->len) {
        text->too_long = true;
        return;
    }
    if (len > 0)
        memcpy(text->text + text->len, data, len);
    text->len += len;
}

bool field_path_append(struct field_path_text *text, struct kith_bytes key)
{
    bool quote = key.len == 0;
    for (size_t i = 0; i < key.len; i++) {
        if (key.data[i] == '"')
            return false;
        quote = quote || key.data[i] == '.' || key.data[i] == '[' || key.data[i] == ']';
    }
    put(text, ".", text->len > 0 ? 1 : 0);
    put(text, "\"", quote ? 1 : 0);
    put(text, key.data, key.len);
    put(text, "\"", quote ? 1 : 0);
    return true;
}

void field_path_append_each(struct field_path_text *text)
{
    put(text, "[]", 2);
}

static enum field_path_form append_path(struct field_path_text *out, struct kith_bytes path)
{
    struct field_step step;
    bool odd = false;
    bool each = false;
    if (!field_path_valid(path))
        return FIELD_PATH_INVALID;
    while (field_path_next(&path, &step)) {
        odd = odd || step.kind == FIELD_STEP_INDEX || (each && step.kind == FIELD_STEP_EACH);
        each = step.kind == FIELD_STEP_EACH;
        if (step.kind == FIELD_STEP_KEY)
            (void)field_path_append(out, step.key); /* a key of a valid path has no quote */
        else
            field_path_append_each(out);
    }
    return odd || each ? FIELD_PATH_ODD : FIELD_PATH_PLAIN;
}

enum field_path_form field_path_normal(struct kith_bytes prefix, struct kith_bytes path,
                                       struct field_path_text *out)
{
    enum field_path_form form = FIELD_PATH_PLAIN;
    out->len = 0;
    out->too_long = false;
    if (prefix.len > 0) {
        form = append_path(out, prefix);
        if (form == FIELD_PATH_INVALID)
            return form;
        field_path_append_each(out);
    }
    enum field_path_form own = append_path(out, path);
    if (own == FIELD_PATH_INVALID)
        return own;
    if (form == FIELD_PATH_ODD || out->too_long || out->len > KITH_FIELD_PATH_MAX)
        return FIELD_PATH_ODD;
    return own;
}
