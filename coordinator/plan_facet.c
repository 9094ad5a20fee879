#include "coordinator/plan_read.h"

#include "common/kith_arena.h"

static const struct plan_field facet_fields[] = {
    {"key", PLAN_TAKEN},     {"limit", PLAN_TAKEN},       {"filter", PLAN_TAKEN},
    {"exact", PLAN_IGNORED}, {"shard_key", PLAN_REFUSED}, {"params", PLAN_TAKEN}};

enum kith_err plan_facet_facet(struct request *req, struct kith_diag *diag)
{
    struct kith_json key;
    size_t len;
    enum kith_err err = plan_body(req, diag);
    if (!err)
        err = PLAN_FIELDS(req->body, "", facet_fields, diag);
    if (err)
        return err;
    struct facet_plan *plan = kith_arena_alloc(req->arena, sizeof(*plan));
    if (!plan)
        return kith_fail(diag, KITH_NOMEM, "request: out of memory");
    req->plan = plan;
    req->work = &run_facet_work;
    plan->limit = 10;
    if (!kith_json_get(req->body, "key", &key) || !kith_json_str(key, &plan->key, &len) ||
        len == 0 || len > KITH_FIELD_PATH_MAX)
        return kith_fail(diag, KITH_BAD_REQUEST, "key: expected a field name of 1 to %u bytes",
                         KITH_FIELD_PATH_MAX);
    err = plan_u32(req->body, "limit", "", 1, KITH_FACET_HITS_MAX, &plan->limit, diag);
    if (!err)
        err = plan_filter(req, req->body, "filter", "", &plan->filter, diag);
    return err ? err : plan_params(req, req->body, "", diag);
}
