/* Writes: handed to the slice's store on the thread they arrive on, answered from its writer. */
#include <string.h>

#include "common/kith_mem.h"
#include "shard/rpc/rpc.h"

struct writing {
    struct rpc_call *call;
    struct slice *slice;
    uint32_t number;
};

static void send_written(struct rpc_call *call, const struct kith_msg_slice *slice,
                         uint64_t affected)
{
    struct kith_msg_written written = {.slices.n_slices = 1, .affected = affected};
    written.slices.slices[0] = *slice;
    struct rpc_reply reply;
    rpc_begin(&reply);
    if (!reply.w.failed)
        kith_msg_write_written(&reply.w, &written);
    rpc_send(call, &reply);
}

static void send_failed(struct rpc_call *call, uint32_t number, enum kith_err err, const char *why)
{
    struct kith_msg_slice slice;
    rpc_set_slice(&slice, number, err, why != NULL && why[0] != '\0' ? why : kith_err_text(err));
    send_written(call, &slice, 0);
}

/* On the store's writer thread. */
static void on_done(void *ctx, const struct store_write_result *result,
                    const struct kith_diag *diag)
{
    struct writing *writing = ctx;
    struct rpc_call *call = writing->call;
    /* Before the reply: who was told of the write may drop the slice at once. */
    slice_put(call->env->slices, writing->slice);
    if (result->err != KITH_OK) {
        send_failed(call, writing->number, result->err, diag != NULL ? diag->text : NULL);
    } else {
        struct kith_msg_slice slice;
        rpc_set_slice(&slice, writing->number, KITH_OK, NULL);
        slice.seq = result->seq;
        send_written(call, &slice, result->affected);
    }
    kith_free(writing);
}

void rpc_write_run(struct rpc_call *call)
{
    struct kith_msg_write msg;
    if (!kith_msg_read_write(call->body, &msg) || msg.scope.n_slices != 1) {
        rpc_malformed(call);
        return;
    }
    struct writing *writing = kith_alloc(sizeof *writing);
    if (writing == NULL) {
        rpc_fail(call, KITH_NOMEM, "no memory for the write");
        return;
    }
    writing->call = call;
    writing->number = msg.scope.slices[0];
    const char *why = NULL;
    struct kith_diag diag = {0};
    enum kith_err err = slice_table_get(call->env->slices, msg.scope.collection, writing->number,
                                        &writing->slice, &why);
    if (err == KITH_OK) {
        err = store_write(slice_store(writing->slice), msg.op_id, msg.ops, on_done, writing, &diag);
        if (err == KITH_OK)
            return; /* on_done has it, maybe had it already */
        slice_put(call->env->slices, writing->slice);
        why = diag.text;
    }
    send_failed(call, writing->number, err, why);
    kith_free(writing);
}
