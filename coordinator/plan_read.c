#include "coordinator/plan_read.h"

#include <string.h>

#include "common/kith_arena.h"

static void *new_plan(struct request *req, size_t bytes, const struct work *work,
                      struct kith_diag *diag)
{
    void *plan = kith_arena_alloc(req->arena, bytes);
    if (!plan)
        (void)kith_fail(diag, KITH_NOMEM, "request: out of memory");
    req->plan = plan;
    req->work = work;
    return plan;
}

/* ---- retrieve -------------------------------------------------------------------------------- */

enum kith_err plan_read_get(struct request *req, struct kith_diag *diag)
{
    struct retrieve_plan *plan = new_plan(req, sizeof(*plan), &run_retrieve_work, diag);
    struct kith_id *id = kith_arena_alloc(req->arena, sizeof(*id));
    if (!plan || !id)
        return kith_fail(diag, KITH_NOMEM, "request: out of memory");
    plan->single = true;
    plan->payload.kind = SELECTOR_ALL;
    plan->with_vector = true; /* this endpoint shows the whole point */
    plan->ids = id;
    plan->n_ids = 1;
    return plan_id_text(req->http->segments[3], "id", id, diag);
}

static const struct plan_field retrieve_fields[] = {
    {"ids", PLAN_TAKEN},          {"with_payload", PLAN_TAKEN}, {"with_vector", PLAN_TAKEN},
    {"with_vectors", PLAN_TAKEN}, {"params", PLAN_TAKEN},       {"shard_key", PLAN_REFUSED}};

enum kith_err plan_read_retrieve(struct request *req, struct kith_diag *diag)
{
    struct kith_json ids;
    enum kith_err err = plan_body(req, diag);
    if (!err)
        err = PLAN_FIELDS(req->body, "", retrieve_fields, diag);
    if (err)
        return err;
    struct retrieve_plan *plan = new_plan(req, sizeof(*plan), &run_retrieve_work, diag);
    if (!plan)
        return KITH_NOMEM;
    plan->payload.kind = SELECTOR_ALL;
    if (!kith_json_get(req->body, "ids", &ids))
        return kith_fail(diag, KITH_BAD_REQUEST, "ids: required");
    err = plan_ids(req, ids, "ids", &plan->ids, &plan->n_ids, diag);
    if (!err)
        err = selector_payload(req, req->body, "with_payload", "", &plan->payload, diag);
    if (!err)
        err = selector_vector(req, req->body, "", &plan->with_vector, diag);
    return err ? err : plan_params(req, req->body, "", diag);
}

/* ---- count ----------------------------------------------------------------------------------- */

static const struct plan_field count_fields[] = {{"filter", PLAN_TAKEN},
                                                 {"exact", PLAN_IGNORED}, /* every count is */
                                                 {"params", PLAN_TAKEN},
                                                 {"shard_key", PLAN_REFUSED}};

enum kith_err plan_read_count(struct request *req, struct kith_diag *diag)
{
    enum kith_err err = plan_body(req, diag);
    if (!err)
        err = PLAN_FIELDS(req->body, "", count_fields, diag);
    if (err)
        return err;
    struct count_plan *plan = new_plan(req, sizeof(*plan), &run_count_work, diag);
    if (!plan)
        return KITH_NOMEM;
    err = plan_filter(req, req->body, "filter", "", &plan->filter, diag);
    return err ? err : plan_params(req, req->body, "", diag);
}

/* ---- scroll ---------------------------------------------------------------------------------- */

static const struct plan_field scroll_fields[] = {
    {"offset", PLAN_TAKEN},       {"limit", PLAN_TAKEN},       {"filter", PLAN_TAKEN},
    {"with_payload", PLAN_TAKEN}, {"with_vector", PLAN_TAKEN}, {"with_vectors", PLAN_TAKEN},
    {"order_by", PLAN_TAKEN},     {"params", PLAN_TAKEN},      {"shard_key", PLAN_REFUSED}};
static const struct plan_field order_fields[] = {
    {"key", PLAN_TAKEN}, {"direction", PLAN_TAKEN}, {"start_from", PLAN_TAKEN}};

static enum kith_err order_key(struct kith_json value, const char *where, struct scroll_plan *plan,
                               struct kith_diag *diag)
{
    const char *text;
    size_t len;
    if (!kith_json_str(value, &text, &len))
        return plan_wrong_type(diag, where, "a field name", value);
    if (len == 0 || len > KITH_FIELD_PATH_MAX)
        return kith_fail(diag, KITH_BAD_REQUEST, "%s: a field name has 1 to %u bytes", where,
                         KITH_FIELD_PATH_MAX);
    plan->ordered = true;
    plan->order_key = (struct kith_bytes){(const uint8_t *)text, len};
    return KITH_OK;
}

static enum kith_err order_start(struct request *req, struct kith_json object,
                                 struct scroll_plan *plan, struct kith_diag *diag)
{
    struct kith_json value;
    const char *text;
    size_t len;
    double number;
    int64_t time_us;
    if (!kith_json_opt(object, "start_from", &value))
        return KITH_OK;
    bool time = kith_json_str(value, &text, &len) &&
                kith_parse_time((struct kith_bytes){(const uint8_t *)text, len}, &time_us);
    if (!time && !kith_json_f64(value, &number))
        return kith_fail(diag, KITH_BAD_REQUEST,
                         "order_by.start_from: expected a number or an RFC 3339 time");
    return plan_msgpack(req, value, &plan->start_from, diag);
}

static enum kith_err order_by(struct request *req, struct scroll_plan *plan, struct kith_diag *diag)
{
    struct kith_json value, member;
    if (!kith_json_opt(req->body, "order_by", &value))
        return KITH_OK;
    if (kith_json_type(value) == KITH_JSON_STR)
        return order_key(value, "order_by", plan, diag);
    enum kith_err err = PLAN_FIELDS(value, "order_by", order_fields, diag);
    if (err)
        return err;
    if (!kith_json_get(value, "key", &member))
        return kith_fail(diag, KITH_BAD_REQUEST, "order_by.key: required");
    err = order_key(member, "order_by.key", plan, diag);
    if (!err && kith_json_opt(value, "direction", &member)) {
        plan->descending = kith_json_is(member, "desc");
        if (!plan->descending && !kith_json_is(member, "asc"))
            return kith_fail(diag, KITH_BAD_REQUEST, "order_by.direction: expected asc or desc");
    }
    return err ? err : order_start(req, value, plan, diag);
}

enum kith_err plan_read_scroll(struct request *req, struct kith_diag *diag)
{
    struct kith_json offset;
    enum kith_err err = plan_body(req, diag);
    if (!err)
        err = PLAN_FIELDS(req->body, "", scroll_fields, diag);
    if (err)
        return err;
    struct scroll_plan *plan = new_plan(req, sizeof(*plan), &run_scroll_work, diag);
    if (!plan)
        return KITH_NOMEM;
    plan->limit = 10;
    plan->payload.kind = SELECTOR_ALL;
    err = plan_u32(req->body, "limit", "", 1, KITH_K_MAX, &plan->limit, diag);
    if (!err && kith_json_opt(req->body, "offset", &offset)) {
        plan->has_from = true;
        err = plan_id(offset, "offset", &plan->from, diag);
    }
    if (!err)
        err = plan_filter(req, req->body, "filter", "", &plan->filter, diag);
    if (!err)
        err = order_by(req, plan, diag);
    if (!err && plan->ordered && plan->has_from)
        err = kith_fail(diag, KITH_BAD_REQUEST,
                        "offset: cannot be used with order_by; use order_by.start_from");
    if (!err)
        err = selector_payload(req, req->body, "with_payload", "", &plan->payload, diag);
    if (!err)
        err = selector_vector(req, req->body, "", &plan->with_vector, diag);
    return err ? err : plan_params(req, req->body, "", diag);
}
