#include "coordinator/plan_points.h"

#include <string.h>

#include "common/kith_arena.h"
#include "common/kith_aside.h"

static struct write_plan *plan_of(struct request *req)
{
    return req->plan;
}

static enum kith_err begin(struct request *req, struct kith_diag *diag)
{
    enum kith_err err = plan_body(req, diag);
    if (err)
        return err;
    struct write_plan *plan = kith_arena_alloc(req->arena, sizeof(*plan));
    if (!plan)
        return kith_fail(diag, KITH_NOMEM, "request: out of memory");
    req->plan = plan;
    req->work = &run_write_work;
    return KITH_OK;
}

static enum kith_err add_op(struct request *req, const char *where, struct write_op **out,
                            struct kith_diag *diag)
{
    struct write_plan *plan = plan_of(req);
    struct write_op *ops = request_grow(req, plan->ops, plan->n_ops, &plan->ops_cap, sizeof(*ops));
    if (!ops)
        return kith_fail(diag, KITH_NOMEM, "%s: out of memory", where);
    plan->ops = ops;
    *out = &ops[plan->n_ops++];
    **out = (struct write_op){.kind = KITH_OP_PUT};
    return KITH_OK;
}

static enum kith_err count_points(struct request *req, size_t n, const char *where,
                                  struct kith_diag *diag)
{
    struct write_plan *plan = plan_of(req);
    if (n > KITH_POINTS_PER_BATCH_MAX || plan->n_points + n > KITH_POINTS_PER_BATCH_MAX)
        return kith_fail(diag, KITH_TOO_BIG, "%s: %zu points in one request, at most %u allowed",
                         where, plan->n_points + n, KITH_POINTS_PER_BATCH_MAX);
    plan->n_points += (uint32_t)n;
    return KITH_OK;
}

/* ---- upsert ---------------------------------------------------------------------------------- */

static enum kith_err mode_of(struct kith_json object, const char *where, enum kith_put_mode *out,
                             struct kith_diag *diag)
{
    struct kith_json value;
    *out = KITH_PUT_UPSERT;
    if (!kith_json_opt(object, "update_mode", &value) || kith_json_is(value, "upsert"))
        return KITH_OK;
    if (kith_json_is(value, "insert_only"))
        *out = KITH_PUT_INSERT_ONLY;
    else if (kith_json_is(value, "update_only"))
        *out = KITH_PUT_UPDATE_ONLY;
    else
        return kith_fail(diag, KITH_BAD_REQUEST,
                         "%s%supdate_mode: expected upsert, insert_only or update_only", where,
                         *where ? "." : "");
    return KITH_OK;
}

struct point_parts {
    struct kith_json id, vector, payload;
    bool has_payload;
    const char *id_where, *vector_where, *payload_where;
};

static enum kith_err add_point(struct request *req, enum kith_op_kind kind, enum kith_put_mode mode,
                               const struct point_parts *parts, struct kith_diag *diag)
{
    struct write_op *op = NULL;
    float *vector;
    (void)kith_aside_stand(); /* in the pool */
    enum kith_err err = add_op(req, parts->id_where, &op, diag);
    if (err)
        return err;
    size_t at = plan_of(req)->n_ops - 1;
    op->kind = kind;
    op->mode = mode;
    err = plan_id(parts->id, parts->id_where, &op->id, diag);
    if (!err)
        err = plan_vector(req, parts->vector, parts->vector_where, &vector, diag);
    op = &plan_of(req)->ops[at];
    if (!err)
        op->vector = vector;
    if (!err && parts->has_payload)
        err = plan_payload(req, parts->payload, parts->payload_where, &op->payload, diag);
    if (!err)
        op->slice = kith_id_slice(&op->id, req->target.n_slices);
    return err;
}

static const struct plan_field point_fields[] = {
    {"id", PLAN_TAKEN}, {"vector", PLAN_TAKEN}, {"payload", PLAN_TAKEN}};
static const struct plan_field point_vector_fields[] = {{"id", PLAN_TAKEN}, {"vector", PLAN_TAKEN}};

static enum kith_err list_point(struct request *req, struct kith_json point, const char *where,
                                enum kith_op_kind kind, enum kith_put_mode mode,
                                struct kith_diag *diag)
{
    struct point_parts parts = {.id_where = plan_where(req, where, "id"),
                                .vector_where = plan_where(req, where, "vector"),
                                .payload_where = plan_where(req, where, "payload")};
    enum kith_err err = kind == KITH_OP_PUT ? PLAN_FIELDS(point, where, point_fields, diag)
                                            : PLAN_FIELDS(point, where, point_vector_fields, diag);
    if (err)
        return err;
    if (!kith_json_opt(point, "id", &parts.id))
        return kith_fail(diag, KITH_BAD_REQUEST, "%s: required", parts.id_where);
    if (!kith_json_opt(point, "vector", &parts.vector))
        return kith_fail(diag, KITH_BAD_REQUEST, "%s: required", parts.vector_where);
    parts.has_payload = kith_json_opt(point, "payload", &parts.payload);
    return add_point(req, kind, mode, &parts, diag);
}

static enum kith_err point_list(struct request *req, struct kith_json points, const char *where,
                                enum kith_op_kind kind, enum kith_put_mode mode,
                                struct kith_diag *diag)
{
    if (kith_json_type(points) != KITH_JSON_ARRAY)
        return plan_wrong_type(diag, where, "an array of points", points);
    enum kith_err err = count_points(req, kith_json_count(points), where, diag);
    struct kith_json_iter iter = kith_json_iterate(points);
    struct kith_json point;
    for (size_t i = 0; !err && kith_json_next(&iter, &point); i++)
        err = list_point(req, point, plan_where_at(req, where, i), kind, mode, diag);
    return err;
}

static const struct plan_field batch_fields[] = {
    {"ids", PLAN_TAKEN}, {"vectors", PLAN_TAKEN}, {"payloads", PLAN_TAKEN}};

struct columns {
    const char *where;
    const char *vectors_where;
    struct kith_json ids, vectors, payloads;
    bool has_payloads;
};

static enum kith_err read_columns(struct request *req, struct kith_json batch, struct columns *c,
                                  struct kith_diag *diag)
{
    enum kith_err err = PLAN_FIELDS(batch, c->where, batch_fields, diag);
    if (err)
        return err;
    if (!kith_json_get(batch, "ids", &c->ids) || kith_json_type(c->ids) != KITH_JSON_ARRAY)
        return kith_fail(diag, KITH_BAD_REQUEST, "%s.ids: expected an array of point ids",
                         c->where);
    if (!kith_json_get(batch, "vectors", &c->vectors))
        return kith_fail(diag, KITH_BAD_REQUEST, "%s.vectors: required", c->where);
    c->vectors_where = plan_where(req, c->where, "vectors");
    const char *name = req->target.vector_name;
    struct kith_json inner;
    if (*name && kith_json_type(c->vectors) == KITH_JSON_OBJECT) {
        if (!kith_json_get(c->vectors, name, &inner) || kith_json_count(c->vectors) != 1)
            return kith_fail(diag, KITH_BAD_REQUEST, "%s: expected one array, named `%s`",
                             c->vectors_where, name);
        c->vectors = inner;
        c->vectors_where = plan_where(req, c->vectors_where, name);
    }
    size_t n = kith_json_count(c->ids);
    if (kith_json_type(c->vectors) != KITH_JSON_ARRAY || kith_json_count(c->vectors) != n)
        return kith_fail(diag, KITH_BAD_REQUEST, "%s: expected an array of %zu vectors, one per id",
                         c->vectors_where, n);
    c->has_payloads = kith_json_opt(batch, "payloads", &c->payloads);
    if (c->has_payloads &&
        (kith_json_type(c->payloads) != KITH_JSON_ARRAY || kith_json_count(c->payloads) != n))
        return kith_fail(diag, KITH_BAD_REQUEST,
                         "%s.payloads: expected an array of %zu, one per id", c->where, n);
    return count_points(req, n, c->where, diag);
}

static enum kith_err point_columns(struct request *req, struct kith_json batch, const char *where,
                                   enum kith_put_mode mode, struct kith_diag *diag)
{
    struct columns c = {.where = where, .has_payloads = false};
    enum kith_err err = read_columns(req, batch, &c, diag);
    if (err)
        return err;
    struct kith_json_iter ids = kith_json_iterate(c.ids);
    struct kith_json_iter vectors = kith_json_iterate(c.vectors);
    struct kith_json_iter payloads = {.at = 0, .end = 0};
    if (c.has_payloads)
        payloads = kith_json_iterate(c.payloads);
    struct point_parts parts = {.has_payload = false};
    for (size_t i = 0; !err && kith_json_next(&ids, &parts.id); i++) {
        if (!kith_json_next(&vectors, &parts.vector))
            break;
        parts.has_payload = c.has_payloads && kith_json_next(&payloads, &parts.payload) &&
                            kith_json_type(parts.payload) != KITH_JSON_NULL;
        parts.id_where = request_text_of(req, "%s.ids[%zu]", where, i);
        parts.vector_where = plan_where_at(req, c.vectors_where, i);
        parts.payload_where = request_text_of(req, "%s.payloads[%zu]", where, i);
        err = add_point(req, KITH_OP_PUT, mode, &parts, diag);
    }
    return err;
}

static const struct plan_field upsert_fields[] = {{"points", PLAN_TAKEN},
                                                  {"batch", PLAN_TAKEN},
                                                  {"update_mode", PLAN_TAKEN},
                                                  {"shard_key", PLAN_REFUSED},
                                                  {"update_filter", PLAN_REFUSED}};

static enum kith_err upsert(struct request *req, struct kith_json object, const char *where,
                            struct kith_diag *diag)
{
    struct kith_json points, batch;
    enum kith_put_mode mode;
    enum kith_err err = PLAN_FIELDS(object, where, upsert_fields, diag);
    if (!err)
        err = mode_of(object, where, &mode, diag);
    if (err)
        return err;
    bool has_points = kith_json_opt(object, "points", &points);
    bool has_batch = kith_json_opt(object, "batch", &batch);
    if (has_points == has_batch)
        return kith_fail(diag, KITH_BAD_REQUEST, "%s%spoints: expected either points or batch",
                         where, *where ? "." : "");
    return has_points
               ? point_list(req, points, plan_where(req, where, "points"), KITH_OP_PUT, mode, diag)
               : point_columns(req, batch, plan_where(req, where, "batch"), mode, diag);
}

static const struct plan_field vectors_fields[] = {
    {"points", PLAN_TAKEN}, {"shard_key", PLAN_REFUSED}, {"update_filter", PLAN_REFUSED}};

static enum kith_err update_vectors(struct request *req, struct kith_json object, const char *where,
                                    struct kith_diag *diag)
{
    struct kith_json points;
    const char *at = plan_where(req, where, "points");
    enum kith_err err = PLAN_FIELDS(object, where, vectors_fields, diag);
    if (err)
        return err;
    if (!kith_json_opt(object, "points", &points))
        return kith_fail(diag, KITH_BAD_REQUEST, "%s: required", at);
    return point_list(req, points, at, KITH_OP_VECTOR, KITH_PUT_UPSERT, diag);
}

/* ---- targets --------------------------------------------------------------------------------- */

/* `points` or `filter` of object, exactly one of them, into a new operation. */
static enum kith_err add_targeted(struct request *req, struct kith_json object, const char *where,
                                  enum kith_op_kind kind, struct write_op **out,
                                  struct kith_diag *diag)
{
    struct kith_json points, filter;
    bool has_points = kith_json_opt(object, "points", &points);
    bool has_filter = kith_json_opt(object, "filter", &filter);
    const char *dot = *where ? "." : "";
    if (has_points == has_filter)
        return kith_fail(diag, KITH_BAD_REQUEST, "%s%spoints: expected either points or filter",
                         where, dot);
    struct write_op *op = NULL;
    enum kith_err err = add_op(req, where, &op, diag);
    if (err)
        return err;
    op->kind = kind;
    *out = op;
    if (has_points) {
        struct kith_id *ids;
        const char *at = plan_where(req, where, "points");
        err = plan_ids(req, points, at, &ids, &op->n_ids, diag);
        op->ids = err ? NULL : ids;
        return err ? err : count_points(req, op->n_ids, at, diag);
    }
    op->by_filter = true;
    err = plan_filter(req, object, "filter", where, &op->filter, diag);
    if (!err && op->filter.len == 0) /* {}: an empty filter matches everything, said as a map */
        err = plan_msgpack(req, filter, &op->filter, diag);
    return err;
}

static const struct plan_field delete_fields[] = {
    {"points", PLAN_TAKEN}, {"filter", PLAN_TAKEN}, {"shard_key", PLAN_REFUSED}};

static enum kith_err delete_points(struct request *req, struct kith_json object, const char *where,
                                   struct kith_diag *diag)
{
    struct write_op *op = NULL;
    enum kith_err err = PLAN_FIELDS(object, where, delete_fields, diag);
    return err ? err : add_targeted(req, object, where, KITH_OP_DELETE, &op, diag);
}

static enum kith_err clear_payload(struct request *req, struct kith_json object, const char *where,
                                   struct kith_diag *diag)
{
    struct write_op *op = NULL;
    enum kith_err err = PLAN_FIELDS(object, where, delete_fields, diag);
    return err ? err : add_targeted(req, object, where, KITH_OP_CLEAR, &op, diag);
}

static const struct plan_field payload_fields[] = {{"payload", PLAN_TAKEN},
                                                   {"points", PLAN_TAKEN},
                                                   {"filter", PLAN_TAKEN},
                                                   {"key", PLAN_TAKEN},
                                                   {"shard_key", PLAN_REFUSED}};

static enum kith_err put_payload(struct request *req, struct kith_json object, const char *where,
                                 enum kith_op_kind kind, struct kith_diag *diag)
{
    struct kith_json payload, key;
    struct write_op *op = NULL;
    enum kith_err err = PLAN_FIELDS(object, where, payload_fields, diag);
    if (err)
        return err;
    const char *at = plan_where(req, where, "payload");
    if (!kith_json_opt(object, "payload", &payload))
        return kith_fail(diag, KITH_BAD_REQUEST, "%s: required", at);
    err = add_targeted(req, object, where, kind, &op, diag);
    if (!err)
        err = plan_payload(req, payload, at, &op->payload, diag);
    if (err || !kith_json_opt(object, "key", &key))
        return err;
    const char *text;
    size_t len;
    at = plan_where(req, where, "key");
    if (kind == KITH_OP_OVERWRITE)
        return kith_fail(diag, KITH_UNSUPPORTED, "%s: not supported when overwriting", at);
    if (!kith_json_str(key, &text, &len) || len > KITH_FIELD_PATH_MAX)
        return kith_fail(diag, KITH_BAD_REQUEST, "%s: expected a field path of at most %u bytes",
                         at, KITH_FIELD_PATH_MAX);
    op->key = (struct kith_bytes){(const uint8_t *)text, len};
    return KITH_OK;
}

static const struct plan_field keys_fields[] = {{"keys", PLAN_TAKEN},
                                                {"points", PLAN_TAKEN},
                                                {"filter", PLAN_TAKEN},
                                                {"shard_key", PLAN_REFUSED}};

static enum kith_err delete_payload(struct request *req, struct kith_json object, const char *where,
                                    struct kith_diag *diag)
{
    struct kith_json keys, item;
    struct write_op *op = NULL;
    enum kith_err err = PLAN_FIELDS(object, where, keys_fields, diag);
    const char *at = plan_where(req, where, "keys");
    if (err)
        return err;
    if (!kith_json_get(object, "keys", &keys) || kith_json_type(keys) != KITH_JSON_ARRAY)
        return kith_fail(diag, KITH_BAD_REQUEST, "%s: expected an array of field names", at);
    size_t n = kith_json_count(keys);
    if (n > KITH_FIELDS_INDEXED_MAX)
        return kith_fail(diag, KITH_TOO_BIG, "%s: %zu keys, at most %u allowed", at, n,
                         KITH_FIELDS_INDEXED_MAX);
    err = add_targeted(req, object, where, KITH_OP_REMOVE, &op, diag);
    if (err)
        return err;
    kith_buf_reset(&req->scratch);
    struct kith_writer w = {.write = kith_buf_sink, .sink = &req->scratch};
    struct kith_json_iter iter = kith_json_iterate(keys);
    for (size_t i = 0; kith_json_next(&iter, &item); i++) {
        const char *text;
        size_t len;
        if (!kith_json_str(item, &text, &len) || len == 0 || len > KITH_FIELD_PATH_MAX)
            return kith_fail(diag, KITH_BAD_REQUEST,
                             "%s[%zu]: expected a field name of 1 to %u bytes", at, i,
                             KITH_FIELD_PATH_MAX);
        kith_write_str(&w, text, len);
    }
    void *copy = w.failed ? NULL : kith_arena_dup(req->arena, req->scratch.data, req->scratch.len);
    if (!copy)
        return kith_fail(diag, KITH_NOMEM, "%s: out of memory", at);
    op->keys = (struct kith_bytes){copy, req->scratch.len};
    op->n_keys = (uint32_t)n;
    return KITH_OK;
}

static enum kith_err set_payload(struct request *req, struct kith_json object, const char *where,
                                 struct kith_diag *diag)
{
    return put_payload(req, object, where, KITH_OP_SET, diag);
}

static enum kith_err overwrite_payload(struct request *req, struct kith_json object,
                                       const char *where, struct kith_diag *diag)
{
    return put_payload(req, object, where, KITH_OP_OVERWRITE, diag);
}

/* ---- batch ----------------------------------------------------------------------------------- */

typedef enum kith_err (*operation_fn)(struct request *req, struct kith_json object,
                                      const char *where, struct kith_diag *diag);

static const struct {
    const char *name;
    operation_fn plan;
} operations[] = {
    {"upsert", upsert},
    {"delete", delete_points},
    {"set_payload", set_payload},
    {"overwrite_payload", overwrite_payload},
    {"delete_payload", delete_payload},
    {"clear_payload", clear_payload},
    {"update_vectors", update_vectors},
};

static enum kith_err operation(struct request *req, struct kith_json item, const char *where,
                               struct kith_diag *diag)
{
    struct kith_json object;
    if (kith_json_type(item) != KITH_JSON_OBJECT || kith_json_count(item) != 1)
        return kith_fail(diag, KITH_BAD_REQUEST, "%s: expected an object with one operation",
                         where);
    for (size_t i = 0; i < sizeof(operations) / sizeof(operations[0]); i++)
        if (kith_json_get(item, operations[i].name, &object))
            return operations[i].plan(req, object, plan_where(req, where, operations[i].name),
                                      diag);
    if (kith_json_get(item, "delete_vectors", &object))
        return kith_fail(diag, KITH_UNSUPPORTED, "%s.delete_vectors: not supported", where);
    return kith_fail(diag, KITH_BAD_REQUEST, "%s: unknown operation", where);
}

static const struct plan_field operations_fields[] = {{"operations", PLAN_TAKEN}};

enum kith_err plan_points_batch(struct request *req, struct kith_diag *diag)
{
    struct kith_json list, item;
    enum kith_err err = begin(req, diag);
    if (!err)
        err = PLAN_FIELDS(req->body, "", operations_fields, diag);
    if (err)
        return err;
    if (!kith_json_get(req->body, "operations", &list) || kith_json_type(list) != KITH_JSON_ARRAY)
        return kith_fail(diag, KITH_BAD_REQUEST, "operations: expected an array");
    size_t n = kith_json_count(list);
    if (n > KITH_OPS_PER_BATCH_MAX)
        return kith_fail(diag, KITH_TOO_BIG, "operations: %zu, at most %u allowed", n,
                         KITH_OPS_PER_BATCH_MAX);
    struct kith_json_iter iter = kith_json_iterate(list);
    for (size_t i = 0; !err && kith_json_next(&iter, &item); i++)
        err = operation(req, item, plan_where_at(req, "operations", i), diag);
    plan_of(req)->batch = true;
    plan_of(req)->n_results = (uint32_t)n;
    return err;
}

/* ---- one each -------------------------------------------------------------------------------- */

static enum kith_err alone(struct request *req, operation_fn plan, struct kith_diag *diag)
{
    enum kith_err err = begin(req, diag);
    return err ? err : plan(req, req->body, "", diag);
}

enum kith_err plan_points_upsert(struct request *req, struct kith_diag *diag)
{
    return alone(req, upsert, diag);
}

enum kith_err plan_points_delete(struct request *req, struct kith_diag *diag)
{
    return alone(req, delete_points, diag);
}

enum kith_err plan_points_set_payload(struct request *req, struct kith_diag *diag)
{
    return alone(req, set_payload, diag);
}

enum kith_err plan_points_overwrite_payload(struct request *req, struct kith_diag *diag)
{
    return alone(req, overwrite_payload, diag);
}

enum kith_err plan_points_delete_payload(struct request *req, struct kith_diag *diag)
{
    return alone(req, delete_payload, diag);
}

enum kith_err plan_points_clear_payload(struct request *req, struct kith_diag *diag)
{
    return alone(req, clear_payload, diag);
}

enum kith_err plan_points_update_vectors(struct request *req, struct kith_diag *diag)
{
    return alone(req, update_vectors, diag);
}
