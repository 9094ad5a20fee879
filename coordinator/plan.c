#include "coordinator/plan.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "common/kith_mem.h"

enum kith_err plan_wrong_type(struct kith_diag *diag, const char *where, const char *expected,
                              struct kith_json got)
{
    return kith_fail(diag, KITH_BAD_REQUEST, "%s: expected %s, got %s", *where ? where : "body",
                     expected, kith_json_type_name(kith_json_type(got)));
}

/* Four of these are made for every point of an upsert, nearly all in vain: no printf here. */
static const char *join(struct request *req, const char *where, const char *more, size_t n)
{
    size_t where_n = strlen(where);
    char *text = kith_arena_alloc(req->arena, where_n + n + 1);
    if (!text)
        return "";
    memcpy(text, where, where_n);
    memcpy(text + where_n, more, n);
    text[where_n + n] = '\0';
    return text;
}

const char *plan_where(struct request *req, const char *where, const char *name)
{
    if (!*where)
        return name;
    char more[64] = ".";
    size_t n = strlen(name);
    if (n >= sizeof(more)) /* a user's own name of a vector */
        return request_text_of(req, "%s.%s", where, name);
    memcpy(more + 1, name, n);
    return join(req, where, more, n + 1);
}

const char *plan_where_at(struct request *req, const char *where, size_t index)
{
    char more[24];
    size_t at = sizeof(more);
    more[--at] = ']';
    do {
        more[--at] = (char)('0' + index % 10);
        index /= 10;
    } while (index > 0);
    more[--at] = '[';
    return join(req, where, more + at, sizeof(more) - at);
}

static const struct plan_field *field_named(const struct plan_field *fields, size_t n,
                                            const char *key, size_t len)
{
    for (size_t i = 0; i < n; i++)
        if (strlen(fields[i].name) == len && memcmp(fields[i].name, key, len) == 0)
            return &fields[i];
    return NULL;
}

enum kith_err plan_fields(struct kith_json object, const char *where,
                          const struct plan_field *fields, size_t n, struct kith_diag *diag)
{
    if (kith_json_type(object) != KITH_JSON_OBJECT)
        return plan_wrong_type(diag, where, "an object", object);
    const char *dot = *where ? "." : "";
    struct kith_json_iter iter = kith_json_iterate(object);
    const char *key;
    size_t len;
    struct kith_json value;
    while (kith_json_next_member(&iter, &key, &len, &value)) {
        const struct plan_field *field = field_named(fields, n, key, len);
        if (!field)
            return kith_fail(diag, KITH_BAD_REQUEST, "%s%s%.*s: unknown field", where, dot,
                             (int)(len > 64 ? 64 : len), key);
        if (field->use == PLAN_REFUSED && kith_json_type(value) != KITH_JSON_NULL)
            return kith_fail(diag, KITH_UNSUPPORTED, "%s%s%s: not supported", where, dot,
                             field->name);
    }
    return KITH_OK;
}

enum kith_err plan_body(struct request *req, struct kith_diag *diag)
{
    if (!req->has_body)
        return kith_fail(diag, KITH_BAD_REQUEST, "body: expected a JSON object, got nothing");
    if (kith_json_type(req->body) != KITH_JSON_OBJECT)
        return plan_wrong_type(diag, "body", "an object", req->body);
    return KITH_OK;
}

bool plan_name_ok(const char *name)
{
    size_t len = strlen(name);
    if (len == 0 || len > KITH_NAME_MAX)
        return false;
    for (size_t i = 0; i < len; i++) {
        char c = name[i];
        bool ok = (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') ||
                  c == '_' || c == '-';
        if (!ok)
            return false;
    }
    return true;
}

/* ---- scalars -------------------------------------------------------------------------------- */

enum kith_err plan_u32(struct kith_json object, const char *name, const char *where, uint32_t min,
                       uint32_t max, uint32_t *out, struct kith_diag *diag)
{
    struct kith_json value;
    if (!kith_json_opt(object, name, &value))
        return KITH_OK;
    const char *dot = *where ? "." : "";
    uint64_t number;
    if (!kith_json_u64(value, &number))
        return kith_fail(diag, KITH_BAD_REQUEST, "%s%s%s: expected an integer >= %u, got %s", where,
                         dot, name, min, kith_json_type_name(kith_json_type(value)));
    if (number < min)
        return kith_fail(diag, KITH_BAD_REQUEST, "%s%s%s: must be at least %u", where, dot, name,
                         min);
    if (number > max)
        return kith_fail(diag, KITH_BAD_REQUEST, "%s%s%s: at most %u allowed", where, dot, name,
                         max);
    *out = (uint32_t)number;
    return KITH_OK;
}

enum kith_err plan_bool(struct kith_json object, const char *name, const char *where, bool *out,
                        struct kith_diag *diag)
{
    struct kith_json value;
    if (!kith_json_opt(object, name, &value) || kith_json_bool(value, out))
        return KITH_OK;
    return kith_fail(diag, KITH_BAD_REQUEST, "%s%s%s: expected true or false, got %s", where,
                     *where ? "." : "", name, kith_json_type_name(kith_json_type(value)));
}

/* ---- ids ------------------------------------------------------------------------------------ */

enum kith_err plan_id(struct kith_json value, const char *where, struct kith_id *out,
                      struct kith_diag *diag)
{
    uint64_t number;
    if (kith_json_u64(value, &number)) {
        *out = kith_id_number(number);
        return KITH_OK;
    }
    const char *text;
    size_t len;
    if (kith_json_str(value, &text, &len) && kith_id_parse_uuid(text, len, out))
        return KITH_OK;
    return kith_fail(diag, KITH_BAD_REQUEST,
                     "%s: expected a point id (an unsigned integer or a UUID)", where);
}

enum kith_err plan_id_text(const char *text, const char *where, struct kith_id *out,
                           struct kith_diag *diag)
{
    size_t len = strlen(text);
    size_t digits = strspn(text, "0123456789");
    if (len > 0 && digits == len && len <= 20) {
        uint64_t number = 0;
        bool fits = true;
        for (size_t i = 0; i < len && fits; i++) {
            uint64_t digit = (uint64_t)(text[i] - '0');
            fits = number <= (UINT64_MAX - digit) / 10;
            number = fits ? number * 10 + digit : number;
        }
        if (fits) {
            *out = kith_id_number(number);
            return KITH_OK;
        }
    }
    if (kith_id_parse_uuid(text, len, out))
        return KITH_OK;
    return kith_fail(diag, KITH_BAD_REQUEST,
                     "%s: expected a point id (an unsigned integer or a UUID)", where);
}

enum kith_err plan_ids(struct request *req, struct kith_json array, const char *where,
                       struct kith_id **out, uint32_t *n, struct kith_diag *diag)
{
    if (kith_json_type(array) != KITH_JSON_ARRAY)
        return plan_wrong_type(diag, where, "an array of point ids", array);
    size_t count = kith_json_count(array);
    if (count > KITH_POINTS_PER_BATCH_MAX)
        return kith_fail(diag, KITH_TOO_BIG, "%s: %zu ids, at most %u allowed", where, count,
                         KITH_POINTS_PER_BATCH_MAX);
    struct kith_id *ids = kith_arena_array(req->arena, count ? count : 1, sizeof(*ids));
    if (!ids)
        return kith_fail(diag, KITH_NOMEM, "%s: out of memory", where);
    struct kith_json_iter iter = kith_json_iterate(array);
    struct kith_json value;
    for (uint32_t i = 0; kith_json_next(&iter, &value); i++)
        if (plan_id(value, "", &ids[i], NULL))
            return plan_id(value, plan_where_at(req, where, i), &ids[i], diag);
    *out = ids;
    *n = (uint32_t)count;
    return KITH_OK;
}

/* ---- msgpack: filters and payloads ----------------------------------------------------------- */

enum kith_err plan_msgpack(struct request *req, struct kith_json value, struct kith_bytes *out,
                           struct kith_diag *diag)
{
    kith_buf_reset(&req->scratch);
    struct kith_writer w = {.write = kith_buf_sink, .sink = &req->scratch};
    kith_json_to_msgpack(value, &w);
    void *copy = NULL;
    if (!w.failed && !req->scratch.failed)
        copy = kith_arena_dup(req->arena, req->scratch.data, req->scratch.len);
    if (!copy)
        return kith_fail(diag, KITH_NOMEM, "request: out of memory");
    *out = (struct kith_bytes){copy, req->scratch.len};
    return KITH_OK;
}

enum kith_err plan_filter(struct request *req, struct kith_json object, const char *name,
                          const char *where, struct kith_bytes *out, struct kith_diag *diag)
{
    struct kith_json value;
    *out = (struct kith_bytes){NULL, 0};
    if (!kith_json_opt(object, name, &value))
        return KITH_OK;
    const char *at = plan_where(req, where, name);
    if (kith_json_type(value) != KITH_JSON_OBJECT)
        return plan_wrong_type(diag, at, "an object", value);
    struct kith_bytes bytes;
    enum kith_err err = plan_msgpack(req, value, &bytes, diag);
    if (err)
        return err;
    /* 40 KiB, of which the parser writes what it fills in: not zeroed. */
    struct kith_filter *parsed = kith_alloc_aligned(_Alignof(struct kith_filter), sizeof(*parsed));
    if (!parsed)
        return kith_fail(diag, KITH_NOMEM, "%s: out of memory", at);
    err = kith_filter_parse(parsed, bytes, at, diag);
    bool any = !err && parsed->n_nodes > 0;
    kith_free(parsed);
    if (!err && any)
        *out = bytes;
    return err;
}

static bool depth_within(struct kith_json value, uint32_t left)
{
    enum kith_json_type type = kith_json_type(value);
    if (type != KITH_JSON_ARRAY && type != KITH_JSON_OBJECT)
        return true;
    if (left == 0)
        return false;
    struct kith_json_iter iter = kith_json_iterate(value);
    struct kith_json item;
    const char *key;
    size_t len;
    if (type == KITH_JSON_ARRAY) {
        while (kith_json_next(&iter, &item))
            if (!depth_within(item, left - 1))
                return false;
    } else {
        while (kith_json_next_member(&iter, &key, &len, &item))
            if (!depth_within(item, left - 1))
                return false;
    }
    return true;
}

enum kith_err plan_payload(struct request *req, struct kith_json value, const char *where,
                           struct kith_bytes *out, struct kith_diag *diag)
{
    if (kith_json_type(value) != KITH_JSON_OBJECT)
        return plan_wrong_type(diag, where, "an object", value);
    if (!depth_within(value, KITH_PAYLOAD_DEPTH_MAX))
        return kith_fail(diag, KITH_TOO_BIG, "%s: nested deeper than %u levels", where,
                         KITH_PAYLOAD_DEPTH_MAX);
    enum kith_err err = plan_msgpack(req, value, out, diag);
    if (err)
        return err;
    if (out->len > KITH_PAYLOAD_MAX)
        return kith_fail(diag, KITH_TOO_BIG, "%s: %zu bytes as stored, at most %u allowed", where,
                         out->len, KITH_PAYLOAD_MAX);
    return KITH_OK;
}

/* ---- vectors -------------------------------------------------------------------------------- */

static const struct plan_field text_fields[] = {
    {"text", PLAN_TAKEN},
    {"model", PLAN_TAKEN}, /* whatever its name, the collection's encoder answers */
    {"options", PLAN_REFUSED},
};

static enum kith_err new_floats(struct request *req, const char *where, float **out,
                                struct kith_diag *diag)
{
    *out = kith_arena_array(req->arena, req->target.dim, sizeof(float));
    return *out ? KITH_OK : kith_fail(diag, KITH_NOMEM, "%s: out of memory", where);
}

enum kith_err plan_text(struct request *req, struct kith_json object, const char *where,
                        float **out, struct kith_diag *diag)
{
    enum kith_err err = PLAN_FIELDS(object, where, text_fields, diag);
    if (err)
        return err;
    struct kith_json value, model;
    const char *text, *model_name;
    size_t len, model_len;
    if (!kith_json_get(object, "text", &value) || !kith_json_str(value, &text, &len))
        return kith_fail(diag, KITH_BAD_REQUEST, "%s.text: expected a text", where);
    if (kith_json_opt(object, "model", &model) && !kith_json_str(model, &model_name, &model_len))
        return kith_fail(diag, KITH_BAD_REQUEST, "%s.model: expected a text", where);
    if (!req->target.has_encoder)
        return kith_fail(diag, KITH_BAD_REQUEST,
                         "%s.text: collection `%s` has no encoder; send a vector", where,
                         req->target.name);
    if (len == 0)
        return kith_fail(diag, KITH_UNPROCESSABLE, "%s.text: is empty", where);
    if (len > KITH_TEXT_MAX)
        return kith_fail(diag, KITH_TOO_BIG, "%s.text: %zu bytes, at most %u allowed", where, len,
                         KITH_TEXT_MAX);
    if ((req->n_texts + 1) * req->target.dim * sizeof(float) > KITH_FRAME_BODY_MAX)
        return kith_fail(diag, KITH_TOO_BIG, "%s: too many texts in one request", where);
    struct request_text *texts =
        request_grow(req, req->texts, req->n_texts, &req->texts_cap, sizeof(*texts));
    if (!texts)
        return kith_fail(diag, KITH_NOMEM, "%s: out of memory", where);
    req->texts = texts;
    err = new_floats(req, where, out, diag);
    if (err)
        return err;
    texts[req->n_texts++] = (struct request_text){
        .text = text, .len = len, .out = *out, .where = request_text_of(req, "%s.text", where)};
    return KITH_OK;
}

/* {name: vector} for a collection with a named vector. */
static enum kith_err unwrap_named(struct request *req, struct kith_json *value, const char **where,
                                  struct kith_diag *diag)
{
    const char *name = req->target.vector_name;
    struct kith_json inner;
    if (!kith_json_get(*value, name, &inner) || kith_json_count(*value) != 1)
        return kith_fail(diag, KITH_BAD_REQUEST, "%s: expected one vector, named `%s`", *where,
                         name);
    *where = plan_where(req, *where, name);
    *value = inner;
    return KITH_OK;
}

static enum kith_err refuse_object(struct kith_json value, const char *where,
                                   struct kith_diag *diag)
{
    static const char *const kinds[] = {"indices", "image", "object"};
    struct kith_json member;
    for (size_t i = 0; i < sizeof(kinds) / sizeof(kinds[0]); i++)
        if (kith_json_get(value, kinds[i], &member))
            return kith_fail(diag, KITH_UNSUPPORTED, "%s.%s: not supported", where, kinds[i]);
    return kith_fail(diag, KITH_BAD_REQUEST, "%s: expected numbers or {\"text\": ...}", where);
}

enum kith_err plan_vector(struct request *req, struct kith_json value, const char *where,
                          float **out, struct kith_diag *diag)
{
    struct kith_json member;
    bool named = *req->target.vector_name != '\0';
    if (named && kith_json_type(value) == KITH_JSON_OBJECT &&
        (!kith_json_get(value, "text", &member) || strcmp(req->target.vector_name, "text") == 0)) {
        enum kith_err err = unwrap_named(req, &value, &where, diag);
        if (err)
            return err;
    }
    if (kith_json_type(value) == KITH_JSON_OBJECT)
        return kith_json_get(value, "text", &member) ? plan_text(req, value, where, out, diag)
                                                     : refuse_object(value, where, diag);
    if (kith_json_type(value) != KITH_JSON_ARRAY)
        return plan_wrong_type(diag, where, "an array of numbers", value);
    struct kith_json_iter iter = kith_json_iterate(value);
    if (kith_json_next(&iter, &member) && kith_json_type(member) == KITH_JSON_ARRAY)
        return kith_fail(diag, KITH_UNSUPPORTED, "%s: multivectors are not supported", where);
    if (kith_json_count(value) != req->target.dim) /* before any memory is taken for it */
        return kith_fail(diag, KITH_BAD_REQUEST, "%s: expected %u numbers, got %zu", where,
                         req->target.dim, kith_json_count(value));
    enum kith_err err = new_floats(req, where, out, diag);
    return err ? err : kith_json_f32s(value, *out, req->target.dim, where, diag);
}

enum kith_err plan_using(struct request *req, struct kith_json object, const char *where,
                         struct kith_diag *diag)
{
    struct kith_json value;
    const char *at = plan_where(req, where, "using");
    if (!kith_json_opt(object, "using", &value))
        return *req->target.vector_name
                   ? kith_fail(diag, KITH_BAD_REQUEST,
                               "%s: required, because the vector has a name: `%s`", at,
                               req->target.vector_name)
                   : KITH_OK;
    const char *text;
    size_t len;
    if (!kith_json_str(value, &text, &len))
        return plan_wrong_type(diag, at, "a text", value);
    if (strcmp(text, req->target.vector_name) != 0)
        return kith_fail(diag, KITH_BAD_REQUEST, "%s: there is no vector named `%.64s`", at, text);
    return KITH_OK;
}

/* ---- params --------------------------------------------------------------------------------- */

static const struct plan_field params_fields[] = {
    {"min_coverage", PLAN_TAKEN},
    {"deadline_ms", PLAN_TAKEN},
    {"coverage", PLAN_TAKEN},
    /* Of searches (plan_effort.c); whatever else is asked has an exact answer anyway. */
    {"hnsw_ef", PLAN_TAKEN},
    {"exact", PLAN_TAKEN},
    {"indexed_only", PLAN_TAKEN},
    {"quantization", PLAN_TAKEN},
    {"recall", PLAN_TAKEN},
    {"explain", PLAN_TAKEN},
    {"acorn", PLAN_IGNORED}, /* how filters are searched, which the node's planner decides */
    {"idf", PLAN_REFUSED},
};

enum kith_err plan_params(struct request *req, struct kith_json object, const char *where,
                          struct kith_diag *diag)
{
    struct kith_json params, value;
    if (!kith_json_opt(object, "params", &params))
        return KITH_OK;
    const char *at = plan_where(req, where, "params");
    enum kith_err err = PLAN_FIELDS(params, at, params_fields, diag);
    if (!err)
        err = plan_bool(params, "coverage", at, &req->want_coverage, diag);
    if (!err)
        err = plan_u32(params, "deadline_ms", at, 1, KITH_DEADLINE_MAX_MS, &req->timeout_ms, diag);
    if (err || !kith_json_opt(params, "min_coverage", &value))
        return err;
    double share;
    if (!kith_json_f64(value, &share) || !(share >= 0.0 && share <= 1.0))
        return kith_fail(diag, KITH_BAD_REQUEST, "%s.min_coverage: expected a number from 0 to 1",
                         at);
    req->allow_partial = share < 1.0;
    req->min_coverage = share;
    return KITH_OK;
}
