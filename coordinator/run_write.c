#include "common/kith_arena.h"
#include "coordinator/plan_points.h"
#include "coordinator/server.h"

static struct write_plan *plan_of(const struct request *req)
{
    return req->plan;
}

static bool has_id(const struct write_op *op)
{
    return op->kind == KITH_OP_PUT || op->kind == KITH_OP_VECTOR;
}

/* How many of the operation's ids live in the slice. */
static uint32_t ids_in(const struct request *req, const struct write_op *op, uint32_t slice)
{
    uint32_t n = 0;
    for (uint32_t i = 0; i < op->n_ids; i++)
        n += kith_id_slice(&op->ids[i], req->collection->n_slices) == slice;
    return n;
}

static bool concerns(const struct request *req, const struct write_op *op, uint32_t slice)
{
    if (has_id(op))
        return op->slice == slice;
    return op->by_filter || ids_in(req, op, slice) > 0;
}

static bool wants(struct request *req, uint32_t slice)
{
    const struct write_plan *plan = plan_of(req);
    for (size_t i = 0; i < plan->n_ops; i++)
        if (concerns(req, &plan->ops[i], slice))
            return true;
    return false;
}

static void write_target(const struct request *req, const struct write_op *op, uint32_t slice,
                         struct kith_writer *w)
{
    if (op->by_filter) {
        kith_write_raw(w, op->filter.data, op->filter.len);
        return;
    }
    kith_write_array(w, ids_in(req, op, slice));
    for (uint32_t i = 0; i < op->n_ids; i++)
        if (kith_id_slice(&op->ids[i], req->collection->n_slices) == slice)
            kith_write_id(w, &op->ids[i]);
}

static void write_op(const struct request *req, const struct write_op *op, uint32_t slice,
                     struct kith_writer *w)
{
    if (op->kind == KITH_OP_PUT) {
        kith_op_write_put(w, op->mode, &op->id, op->vector, req->target.dim, op->payload);
        return;
    }
    if (op->kind == KITH_OP_VECTOR) {
        kith_op_write_vector(w, &op->id, op->vector, req->target.dim);
        return;
    }
    kith_op_write_head(w, op->kind);
    write_target(req, op, slice, w);
    if (op->kind == KITH_OP_SET || op->kind == KITH_OP_OVERWRITE)
        kith_write_raw(w, op->payload.data, op->payload.len);
    if (op->kind == KITH_OP_SET)
        kith_write_str(w, op->key.len ? (const char *)op->key.data : "", op->key.len);
    if (op->kind == KITH_OP_REMOVE) {
        kith_write_array(w, op->n_keys);
        kith_write_raw(w, op->keys.data, op->keys.len);
    }
}

static void write_body(struct request *req, struct scatter_ask *ask, struct kith_writer *w)
{
    struct write_plan *plan = plan_of(req);
    uint32_t slice = ask->scope.slices[0], n = 0;
    kith_assert(ask->scope.n_slices == 1);
    if (plan->op_id == 0)
        plan->op_id = server_op_id(req->server);
    for (size_t i = 0; i < plan->n_ops; i++)
        n += concerns(req, &plan->ops[i], slice);
    kith_buf_reset(&req->scratch);
    struct kith_writer ops = {.write = kith_buf_sink, .sink = &req->scratch};
    kith_write_array(&ops, n);
    for (size_t i = 0; i < plan->n_ops; i++)
        if (concerns(req, &plan->ops[i], slice))
            write_op(req, &plan->ops[i], slice, &ops);
    if (ops.failed || req->scratch.failed) {
        w->failed = true;
        return;
    }
    struct kith_msg_write msg = {
        .scope = ask->scope, .op_id = plan->op_id, .ops = {req->scratch.data, req->scratch.len}};
    kith_msg_write_write(w, &msg);
}

static enum kith_err take(struct request *req, struct scatter_ask *ask, struct kith_bytes body,
                          struct kith_diag *diag)
{
    (void)req;
    struct kith_msg_written msg;
    if (!kith_msg_read_written(body, &msg))
        return kith_fail(diag, KITH_PROTOCOL, "malformed answer to a write");
    return scatter_verdicts(ask, &msg.slices, diag);
}

static void write_update(const struct request *req, struct kith_json_writer *w)
{
    kith_jw_begin_object(w);
    kith_jw_key(w, "operation_id");
    kith_jw_u64(w, scatter_seq(&req->scatter));
    kith_jw_key(w, "status");
    /* The write is durable and visible either way; the client asked which word it wants. */
    kith_jw_cstr(w, req->wait ? "completed" : "acknowledged");
    kith_jw_end_object(w);
}

static void write_result(struct request *req, struct kith_json_writer *w)
{
    const struct write_plan *plan = plan_of(req);
    if (!plan->batch) {
        write_update(req, w);
        return;
    }
    kith_jw_begin_array(w);
    for (uint32_t i = 0; i < plan->n_results; i++)
        write_update(req, w);
    kith_jw_end_array(w);
}

static const struct scatter_round write_round = {
    .message = KITH_MSG_WRITE, .per_slice = true, .write_body = write_body, .take = take};

const struct work run_write_work = {
    .name = "write",
    .round = &write_round,
    .wants = wants,
    .write_result = write_result,
};
