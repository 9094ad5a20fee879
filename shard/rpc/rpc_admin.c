/* Slices coming, going, and their facts. */
#include <stdlib.h>
#include <string.h>

#include "common/kith_log.h"
#include "common/kith_mem.h"
#include "common/kith_thread.h"
#include "shard/query/info.h"
#include "shard/rpc/recall_probe.h"
#include "shard/rpc/rpc.h"

/* Replies with the verdicts; each failed slice carries its own text. */
struct verdicts {
    struct kith_msg_slices slices;
    struct kith_diag diags[KITH_SLICES_PER_COLLECTION_MAX];
};

static void send_verdicts(struct rpc_call *call, struct verdicts *verdicts)
{
    struct rpc_reply reply;
    rpc_begin(&reply);
    if (!reply.w.failed)
        kith_msg_write_slices_only(&reply.w, &verdicts->slices);
    rpc_send(call, &reply);
    kith_free(verdicts);
}

static struct verdicts *begin_verdicts(struct rpc_call *call)
{
    struct verdicts *verdicts = kith_alloc(sizeof *verdicts);
    if (verdicts == NULL)
        rpc_fail(call, KITH_NOMEM, "no memory for the request");
    return verdicts;
}

static void judge(struct verdicts *verdicts, uint32_t index, uint32_t number, enum kith_err err,
                  const char *event)
{
    const char *why = verdicts->diags[index].text;
    rpc_set_slice(&verdicts->slices.slices[index], number, err, why);
    if (err != KITH_OK)
        kith_log(WARN, event, "slice=%u error=%s text=\"%s\"", number, kith_err_name(err), why);
}

static bool check_open(const struct kith_msg_open *msg)
{
    return msg->dim >= 1 && msg->dim <= KITH_DIM_MAX && msg->metric >= KITH_COSINE &&
           msg->metric <= KITH_MANHATTAN && msg->rows >= KITH_ROWS_F32 &&
           msg->rows <= KITH_ROWS_F16;
}

void rpc_admin_open(struct rpc_call *call)
{
    struct kith_msg_open msg;
    if (!kith_msg_read_open(call->body, &msg) || !check_open(&msg)) {
        rpc_malformed(call);
        return;
    }
    struct verdicts *verdicts = begin_verdicts(call);
    if (verdicts == NULL)
        return;
    verdicts->slices.n_slices = msg.scope.n_slices;
    for (uint32_t i = 0; i < msg.scope.n_slices; i++) {
        struct slice_config config = {.collection = msg.scope.collection,
                                      .slice = msg.scope.slices[i],
                                      .dim = msg.dim,
                                      .metric = msg.metric,
                                      .rows = msg.rows,
                                      .index = msg.index};
        memcpy(config.factory, msg.factory, sizeof config.factory);
        enum kith_err err = slice_table_create(call->env->slices, &config, &verdicts->diags[i]);
        judge(verdicts, i, config.slice, err, "slice.create_failed");
    }
    send_verdicts(call, verdicts);
}

void rpc_admin_drop(struct rpc_call *call)
{
    struct kith_msg_scope scope;
    if (!kith_msg_read_scope_only(call->body, &scope)) {
        rpc_malformed(call);
        return;
    }
    struct verdicts *verdicts = begin_verdicts(call);
    if (verdicts == NULL)
        return;
    verdicts->slices.n_slices = scope.n_slices;
    for (uint32_t i = 0; i < scope.n_slices; i++) {
        enum kith_err err = slice_table_drop(call->env->slices, scope.collection, scope.slices[i],
                                             &verdicts->diags[i]);
        judge(verdicts, i, scope.slices[i], err, "slice.drop_failed");
    }
    send_verdicts(call, verdicts);
}

struct facts {
    struct rpc_views views;
    struct kith_msg_info_slice info[KITH_SLICES_PER_COLLECTION_MAX];
    struct info fields;
    struct kith_msg_info_recall recalls[KITH_RECALLS_MAX];
    uint32_t n_recalls;
};

/* The views are those of the slices that can answer, in the same order. */
static void fill_info(struct facts *facts)
{
    uint32_t v = 0;
    for (uint32_t i = 0; i < facts->views.slices.n_slices; i++) {
        if (facts->views.slices.slices[i].err != KITH_OK)
            continue;
        struct store_stats stats;
        const struct slice *slice = facts->views.held[v++];
        store_stats(slice_store(slice), &stats);
        struct collection_index_state index = collection_index_state(slice_index(slice), &stats);
        facts->info[i] = (struct kith_msg_info_slice){.live_points = stats.live_points,
                                                      .deleted_points = stats.deleted_points,
                                                      .head_rows = stats.head_rows,
                                                      .segments = stats.segments,
                                                      .segment_bytes = stats.segment_bytes,
                                                      .wal_bytes = stats.wal_bytes,
                                                      .head_bytes = stats.head_bytes,
                                                      .failed = stats.failed,
                                                      .indexed_points = stats.indexed_points,
                                                      .busy = stats.busy,
                                                      .phase = index.phase,
                                                      .generation = index.generation,
                                                      .n_lists = index.n_lists,
                                                      .codebook = index.codebook};
    }
}

void rpc_admin_info(struct rpc_call *call)
{
    struct facts *facts = kith_alloc(sizeof *facts);
    if (facts == NULL) {
        rpc_fail(call, KITH_NOMEM, "no memory for the request");
        return;
    }
    struct kith_msg_scope scope;
    struct kith_diag diag = {0};
    struct rpc_reply reply = {0};
    enum kith_err err = KITH_OK;
    if (!kith_msg_read_scope_only(call->body, &scope)) {
        err = kith_fail(&diag, KITH_PROTOCOL, "the request's body is malformed");
        goto out;
    }
    rpc_take_views(call->env, &scope, &facts->views);
    kith_thread_bulk(); /* a worker of searches */
    do {
        info_fini(&facts->fields);
        fill_info(facts);
        err = info_run(&facts->fields, facts->views.views, facts->views.n_views, &diag);
    } while (err == KITH_CORRUPT && rpc_retake_views(call->env, &scope, &facts->views));
    kith_thread_ahead();
    if (err != KITH_OK)
        goto out;
    rpc_begin(&reply);
    if (!reply.w.failed)
        kith_msg_write_infos(&reply.w, &facts->views.slices, facts->info, facts->fields.n);
    for (uint32_t i = 0; i < facts->fields.n && !reply.w.failed; i++)
        kith_msg_write_info_field(&reply.w, &facts->fields.fields[i]);
    facts->n_recalls =
        recall_probe_read(call->env->recall, scope.collection, facts->recalls, KITH_RECALLS_MAX);
    kith_msg_write_info_recalls(&reply.w, facts->n_recalls);
    for (uint32_t i = 0; i < facts->n_recalls; i++)
        kith_msg_write_info_recall(&reply.w, &facts->recalls[i]);
out:
    rpc_give_views(call->env, &facts->views);
    info_fini(&facts->fields);
    kith_free(facts);
    if (err == KITH_OK)
        rpc_send(call, &reply);
    else
        rpc_fail_with(call, &reply, err, &diag);
}
