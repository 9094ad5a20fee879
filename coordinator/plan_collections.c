#include "coordinator/plan_collections.h"

#include <string.h>

#include "common/kith_arena.h"
#include "coordinator/plan_quantization.h"

static enum kith_err name_of(struct request *req, const char **out, struct kith_diag *diag)
{
    *out = req->http->segments[1];
    if (plan_name_ok(*out))
        return KITH_OK;
    return kith_fail(diag, KITH_BAD_REQUEST,
                     "collection_name: expected 1 to %u of the characters A-Z a-z 0-9 _ -",
                     KITH_NAME_MAX);
}

const char *plan_collections_json(struct request *req, struct kith_json value)
{
    struct kith_bytes bytes;
    if (plan_msgpack(req, value, &bytes, NULL))
        return NULL;
    kith_buf_reset(&req->scratch);
    struct kith_json_writer w = {.buf = &req->scratch};
    if (!kith_jw_msgpack(&w, bytes) || req->scratch.failed)
        return NULL;
    return kith_arena_text(req->arena, (const char *)req->scratch.data, req->scratch.len);
}

static enum kith_err json_text(struct request *req, struct kith_json value, const char *where,
                               const char **out, struct kith_diag *diag)
{
    const char *text = plan_collections_json(req, value);
    if (!text)
        return kith_fail(diag, KITH_NOMEM, "%s: out of memory", where);
    if (strlen(text) > KITH_REGISTRY_VALUE_MAX / 4)
        return kith_fail(diag, KITH_TOO_BIG, "%s: %zu bytes, at most %u allowed", where,
                         strlen(text), KITH_REGISTRY_VALUE_MAX / 4);
    *out = text;
    return KITH_OK;
}

/* ---- create ---------------------------------------------------------------------------------- */

static const struct plan_field create_fields[] = {
    {"vectors", PLAN_TAKEN},
    {"encoder", PLAN_TAKEN},
    {"shard_number", PLAN_TAKEN},
    {"sharding_method", PLAN_TAKEN},
    {"replication_factor", PLAN_TAKEN},
    {"write_consistency_factor", PLAN_TAKEN},
    {"metadata", PLAN_TAKEN},
    {"strict_mode_config", PLAN_TAKEN},
    {"sparse_vectors", PLAN_TAKEN},
    {"index", PLAN_TAKEN},
    {"quantization", PLAN_TAKEN},
    {"quantization_config", PLAN_TAKEN},
    {"hnsw_config", PLAN_TAKEN},
    {"on_disk_payload", PLAN_IGNORED}, /* how, not what: these change no answer */
    {"payload", PLAN_IGNORED},
    {"wal_config", PLAN_IGNORED},
    {"optimizers_config", PLAN_IGNORED},
};
static const struct plan_field vector_fields[] = {
    {"size", PLAN_TAKEN},      {"distance", PLAN_TAKEN},
    {"datatype", PLAN_TAKEN},  {"quantization_config", PLAN_TAKEN},
    {"on_disk", PLAN_IGNORED}, {"multivector_config", PLAN_REFUSED},
    {"memory", PLAN_IGNORED},  {"hnsw_config", PLAN_TAKEN},
    {"index", PLAN_TAKEN},
};

static enum kith_err distance_of(struct kith_json vector, const char *where, bool required,
                                 enum kith_metric *out, struct kith_diag *diag)
{
    struct kith_json value;
    *out = KITH_COSINE;
    if (!kith_json_opt(vector, "distance", &value))
        return required ? kith_fail(diag, KITH_BAD_REQUEST, "%s.distance: required", where)
                        : KITH_OK;
    static const struct {
        const char *name;
        enum kith_metric metric;
    } names[] = {{"Cosine", KITH_COSINE},
                 {"Dot", KITH_DOT},
                 {"Euclid", KITH_EUCLID},
                 {"Manhattan", KITH_MANHATTAN}};
    for (size_t i = 0; i < sizeof(names) / sizeof(names[0]); i++) {
        if (kith_json_is(value, names[i].name)) {
            *out = names[i].metric;
            return KITH_OK;
        }
    }
    const char *text;
    size_t len;
    if (!kith_json_str(value, &text, &len))
        return kith_fail(diag, KITH_BAD_REQUEST, "%s.distance: expected a text, got %s", where,
                         kith_json_type_name(kith_json_type(value)));
    return kith_fail(diag, KITH_BAD_REQUEST,
                     "%s.distance: expected Cosine, Dot, Euclid or Manhattan, got `%.32s`", where,
                     text);
}

static enum kith_err datatype_of(struct kith_json vector, const char *where,
                                 enum kith_row_type *out, struct kith_diag *diag)
{
    struct kith_json value;
    *out = KITH_ROWS_F32;
    if (!kith_json_opt(vector, "datatype", &value) || kith_json_is(value, "float32"))
        return KITH_OK;
    if (kith_json_is(value, "float16")) {
        *out = KITH_ROWS_F16;
        return KITH_OK;
    }
    if (kith_json_is(value, "uint8") || kith_json_is(value, "turbo4"))
        return kith_fail(diag, KITH_UNSUPPORTED,
                         "%s.datatype: not supported; use float32 or float16", where);
    return kith_fail(diag, KITH_BAD_REQUEST, "%s.datatype: expected float32 or float16", where);
}

/* After the metric and the rows are known. */
static enum kith_err quantization_of(struct create_plan *plan, struct kith_json body,
                                     bool has_vector, struct kith_json vector,
                                     struct kith_diag *diag)
{
    struct plan_quantization q;
    enum kith_err err = plan_quantization_read(body, has_vector, vector, &q, diag);
    if (!err)
        err = plan_quantization_fits(&q, plan->spec.metric, diag);
    if (err)
        return err;
    plan->spec.index = q.has_index ? q.index : kith_index_default(plan->spec.metric);
    plan->spec.factory = q.factory;
    if (q.has_rows)
        plan->spec.rows = q.rows;
    return KITH_OK;
}

static enum kith_err one_vector(struct create_plan *plan, struct kith_json body,
                                struct kith_json vector, const char *where, struct kith_diag *diag)
{
    enum kith_err err = PLAN_FIELDS(vector, where, vector_fields, diag);
    uint32_t dim = 0;
    if (!err)
        err = plan_u32(vector, "size", where, 1, KITH_DIM_MAX, &dim, diag);
    if (!err && dim == 0 && !plan->spec.encoder)
        err = kith_fail(diag, KITH_BAD_REQUEST, "%s.size: required", where);
    if (!err)
        err = distance_of(vector, where, !plan->spec.encoder, &plan->spec.metric, diag);
    if (!err)
        err = datatype_of(vector, where, &plan->spec.rows, diag);
    plan->spec.dim = dim;
    plan->has_dim = dim != 0;
    return err ? err : quantization_of(plan, body, true, vector, diag);
}

/* Either the parameters of the unnamed vector, or a map with one name. */
static enum kith_err vectors_of(struct request *req, struct create_plan *plan,
                                struct kith_diag *diag)
{
    struct kith_json vectors = {.doc = NULL}, value;
    const char *name;
    size_t len;
    if (!kith_json_opt(req->body, "vectors", &vectors)) {
        if (!plan->spec.encoder)
            return kith_fail(diag, KITH_BAD_REQUEST, "vectors: required");
        plan->spec.metric = KITH_COSINE;
        plan->spec.rows = KITH_ROWS_F32;
        return quantization_of(plan, req->body, false, vectors, diag);
    }
    if (kith_json_type(vectors) != KITH_JSON_OBJECT)
        return plan_wrong_type(diag, "vectors", "an object", vectors);
    struct kith_json_iter iter = kith_json_iterate(vectors);
    bool any = kith_json_next_member(&iter, &name, &len, &value);
    bool is_map = any && !kith_json_get(vectors, "size", &value) &&
                  !kith_json_get(vectors, "distance", &value);
    if (!is_map)
        return one_vector(plan, req->body, vectors, "vectors", diag);
    if (kith_json_count(vectors) != 1)
        return kith_fail(diag, KITH_UNSUPPORTED,
                         "vectors: more than one named vector is not "
                         "supported");
    if (len > KITH_VECTOR_NAME_MAX || strlen(name) != len)
        return kith_fail(diag, KITH_BAD_REQUEST, "vectors: a name has at most %u bytes",
                         KITH_VECTOR_NAME_MAX);
    plan->spec.vector_name = name;
    (void)kith_json_get(vectors, name, &value);
    return one_vector(plan, req->body, value, plan_where(req, "vectors", len ? name : "\"\""),
                      diag);
}

static enum kith_err strict_mode_of(struct kith_json body, struct kith_diag *diag)
{
    struct kith_json value;
    bool enabled = false;
    if (!kith_json_opt(body, "strict_mode_config", &value))
        return KITH_OK;
    enum kith_err err = plan_bool(value, "enabled", "strict_mode_config", &enabled, diag);
    return !err && enabled
               ? kith_fail(diag, KITH_UNSUPPORTED, "strict_mode_config.enabled: not supported")
               : err;
}

static enum kith_err placement_of(struct request *req, struct create_plan *plan,
                                  struct kith_diag *diag)
{
    struct kith_json value;
    uint32_t copies = 1;
    enum kith_err err = plan_u32(req->body, "shard_number", "", 1, KITH_SLICES_PER_COLLECTION_MAX,
                                 &plan->spec.n_slices, diag);
    if (!err && kith_json_opt(req->body, "sharding_method", &value) && !kith_json_is(value, "auto"))
        err = kith_fail(diag, KITH_UNSUPPORTED, "sharding_method: only auto is supported");
    if (!err)
        err = plan_u32(req->body, "replication_factor", "", 1, UINT32_MAX, &copies, diag);
    if (!err && copies != 1)
        err = kith_fail(diag, KITH_UNSUPPORTED, "replication_factor: only 1 is supported");
    if (!err)
        err = plan_u32(req->body, "write_consistency_factor", "", 1, UINT32_MAX, &copies, diag);
    if (!err && copies != 1)
        err = kith_fail(diag, KITH_UNSUPPORTED, "write_consistency_factor: only 1 is supported");
    if (!err && kith_json_opt(req->body, "sparse_vectors", &value) && kith_json_count(value) > 0)
        err = kith_fail(diag, KITH_UNSUPPORTED, "sparse_vectors: not supported");
    return err ? err : strict_mode_of(req->body, diag);
}

static enum kith_err metadata_of(struct request *req, const char **out, struct kith_diag *diag)
{
    struct kith_json value;
    struct kith_bytes bytes;
    if (!kith_json_opt(req->body, "metadata", &value))
        return KITH_OK;
    enum kith_err err = plan_payload(req, value, "metadata", &bytes, diag);
    return err ? err : json_text(req, value, "metadata", out, diag);
}

enum kith_err plan_collections_create(struct request *req, struct kith_diag *diag)
{
    struct kith_json encoder;
    struct create_plan *plan = kith_arena_alloc(req->arena, sizeof(*plan));
    if (!plan)
        return kith_fail(diag, KITH_NOMEM, "request: out of memory");
    req->plan = plan;
    req->work = &run_create_work;
    enum kith_err err = name_of(req, &plan->spec.name, diag);
    if (!err)
        err = plan_body(req, diag);
    if (!err)
        err = PLAN_FIELDS(req->body, "", create_fields, diag);
    if (!err && kith_json_opt(req->body, "encoder", &encoder)) {
        err = text_models_check(encoder, "encoder", diag);
        if (!err)
            err = json_text(req, encoder, "encoder", &plan->spec.encoder, diag);
    }
    if (!err)
        err = vectors_of(req, plan, diag);
    if (!err)
        err = placement_of(req, plan, diag);
    if (!err)
        err = metadata_of(req, &plan->spec.metadata, diag);
    return err ? err : json_text(req, req->body, "body", &plan->spec.options, diag);
}

/* ---- the rest -------------------------------------------------------------------------------- */

static enum kith_err simple(struct request *req, const struct work *work, struct kith_diag *diag)
{
    const char *name;
    req->work = work;
    return req->http->segments_n > 1 ? name_of(req, &name, diag) : KITH_OK;
}

enum kith_err plan_collections_list(struct request *req, struct kith_diag *diag)
{
    return simple(req, &run_list_work, diag);
}

enum kith_err plan_collections_exists(struct request *req, struct kith_diag *diag)
{
    return simple(req, &run_exists_work, diag);
}

enum kith_err plan_collections_delete(struct request *req, struct kith_diag *diag)
{
    struct drop_plan *plan = kith_arena_alloc(req->arena, sizeof(*plan));
    if (!plan)
        return kith_fail(diag, KITH_NOMEM, "request: out of memory");
    req->plan = plan;
    return simple(req, &run_drop_work, diag);
}

enum kith_err plan_collections_info(struct request *req, struct kith_diag *diag)
{
    struct info_plan *plan = kith_arena_alloc(req->arena, sizeof(*plan));
    if (!plan)
        return kith_fail(diag, KITH_NOMEM, "request: out of memory");
    req->plan = plan;
    req->work = &run_info_work;
    req->allow_partial = true; /* what is away shows as status red */
    return KITH_OK;
}

static const struct plan_field update_fields[] = {
    {"vectors", PLAN_IGNORED},
    {"optimizers_config", PLAN_IGNORED},
    {"params", PLAN_IGNORED},
    {"hnsw_config", PLAN_IGNORED},
    {"quantization_config", PLAN_REFUSED},
    {"sparse_vectors", PLAN_REFUSED},
    {"strict_mode_config", PLAN_TAKEN},
    {"metadata", PLAN_TAKEN},
};

static enum kith_err change_new(struct request *req, struct change_plan **out,
                                struct kith_diag *diag)
{
    struct change_plan *plan = kith_arena_alloc(req->arena, sizeof(*plan));
    if (!plan)
        return kith_fail(diag, KITH_NOMEM, "request: out of memory");
    req->plan = plan;
    *out = plan;
    return KITH_OK;
}

enum kith_err plan_collections_update(struct request *req, struct kith_diag *diag)
{
    struct change_plan *plan = NULL;
    enum kith_err err = plan_body(req, diag);
    if (!err)
        err = PLAN_FIELDS(req->body, "", update_fields, diag);
    if (!err)
        err = strict_mode_of(req->body, diag);
    if (!err)
        err = change_new(req, &plan, diag);
    if (err)
        return err;
    req->work = &run_change_work;
    return metadata_of(req, &plan->metadata, diag);
}

static const struct plan_field index_fields[] = {{"field_name", PLAN_TAKEN},
                                                 {"field_schema", PLAN_TAKEN}};

/* Of a payload index: every field has one anyway; the type is kept for info. */
static enum kith_err schema_of(struct kith_json schema, const char **out, struct kith_diag *diag)
{
    static const char *const types[] = {"keyword", "integer", "float", "bool", "datetime", "uuid"};
    struct kith_json type = schema;
    if (kith_json_type(schema) == KITH_JSON_OBJECT && !kith_json_get(schema, "type", &type))
        return kith_fail(diag, KITH_BAD_REQUEST, "field_schema.type: required");
    for (size_t i = 0; i < sizeof(types) / sizeof(types[0]); i++) {
        if (kith_json_is(type, types[i])) {
            *out = types[i];
            return KITH_OK;
        }
    }
    if (kith_json_is(type, "geo") || kith_json_is(type, "text"))
        return kith_fail(diag, KITH_UNSUPPORTED, "field_schema: geo and text are not supported");
    return kith_fail(diag, KITH_BAD_REQUEST,
                     "field_schema: expected keyword, integer, float, bool, datetime or uuid");
}

enum kith_err plan_collections_index_create(struct request *req, struct kith_diag *diag)
{
    struct kith_json value;
    struct change_plan *plan = NULL;
    size_t len;
    enum kith_err err = plan_body(req, diag);
    if (!err)
        err = PLAN_FIELDS(req->body, "", index_fields, diag);
    if (!err)
        err = change_new(req, &plan, diag);
    if (err)
        return err;
    req->work = &run_index_work;
    if (!kith_json_get(req->body, "field_name", &value) ||
        !kith_json_str(value, &plan->field, &len) || len == 0 || len > KITH_FIELD_PATH_MAX)
        return kith_fail(diag, KITH_BAD_REQUEST,
                         "field_name: expected a field name of 1 to %u bytes", KITH_FIELD_PATH_MAX);
    plan->field_type = "keyword";
    return kith_json_opt(req->body, "field_schema", &value)
               ? schema_of(value, &plan->field_type, diag)
               : KITH_OK;
}

enum kith_err plan_collections_index_delete(struct request *req, struct kith_diag *diag)
{
    struct change_plan *plan = NULL;
    enum kith_err err = change_new(req, &plan, diag);
    if (err)
        return err;
    plan->field = req->http->segments[3];
    req->work = &run_index_work;
    return KITH_OK;
}
