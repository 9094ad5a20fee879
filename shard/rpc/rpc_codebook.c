/* What other nodes ask to index a collection alike: how far this one is, its codebook in pieces,
 * and rows to train one on. */
#include "common/kith_mem.h"
#include "shard/rpc/index_sample.h"
#include "shard/rpc/rpc.h"

struct answering {
    struct rpc_views views;
    struct kith_msg_codebook asked;
    struct kith_msg_codebooked msg;
};

static struct kith_bytes piece_of(struct kith_bytes all, uint64_t offset)
{
    if (offset >= all.len)
        return (struct kith_bytes){0};
    size_t left = all.len - (size_t)offset;
    return (struct kith_bytes){all.data + offset,
                               left < KITH_CODEBOOK_PIECE ? left : KITH_CODEBOOK_PIECE};
}

/* msg->piece is borrowed from the codebook. */
static void tell(struct kith_msg_codebooked *msg, const struct codebook *codebook,
                 const struct ivf_fit *fit, const struct kith_msg_codebook *asked)
{
    struct kith_bytes all = codebook_bytes(codebook);
    msg->generation = codebook->generation;
    msg->hash = codebook->hash;
    msg->bytes = all.len;
    if (fit->hash == codebook->hash) {
        msg->energy = fit->energy;
        msg->energy_rows = fit->rows;
    }
    if (asked->hash == codebook->hash)
        msg->piece = piece_of(all, asked->offset);
}

void rpc_codebook_run(struct rpc_call *call)
{
    struct answering *answering = kith_alloc(sizeof *answering);
    struct rpc_reply reply;
    if (answering == NULL) {
        rpc_fail(call, KITH_NOMEM, "no memory for the request");
        return;
    }
    if (!kith_msg_read_codebook(call->body, &answering->asked)) {
        kith_free(answering);
        rpc_malformed(call);
        return;
    }
    const struct kith_msg_scope *scope = &answering->asked.scope;
    struct collection_index *index = collection_index_find(call->env->indexes, scope->collection);
    if (index == NULL) {
        kith_free(answering);
        rpc_fail(call, KITH_NOT_FOUND, "no indexed slice of the collection is open here");
        return;
    }
    const struct codebook *codebook = ivf_builder_codebook(index->builder);
    struct ivf_fit fit = ivf_builder_fit(index->builder);
    rpc_take_views(call->env, scope, &answering->views);
    answering->msg.slices = answering->views.slices;
    if (codebook != NULL && codebook_bytes(codebook).len <= KITH_CODEBOOK_MAX)
        tell(&answering->msg, codebook, &fit, &answering->asked);
    rpc_begin(&reply);
    if (!reply.w.failed)
        kith_msg_write_codebooked(&reply.w, &answering->msg);
    rpc_give_views(call->env, &answering->views);
    codebook_unref(codebook);
    collection_index_put(index);
    kith_free(answering);
    rpc_send(call, &reply);
}

struct sampling {
    struct rpc_views views;
    struct kith_msg_sample asked;
    struct kith_msg_sampled msg;
    float *rows;
};

static enum kith_err draw(struct sampling *sampling, struct kith_diag *diag)
{
    const struct kith_msg_sample *asked = &sampling->asked;
    if (sampling->views.n_views == 0)
        return kith_fail(diag, KITH_NOT_FOUND, "none of the slices can answer here");
    uint32_t dim = sampling->views.views[0]->config.dim, n = 0;
    uint32_t fit = KITH_SAMPLE_PIECE / (uint32_t)(dim * sizeof(float));
    struct index_sample sample = {.views = sampling->views.views,
                                  .n_views = sampling->views.n_views,
                                  .n_wanted = asked->n_rows < fit ? asked->n_rows : fit,
                                  .part = asked->part,
                                  .n_parts = asked->n_parts,
                                  .seed = asked->seed};
    sampling->rows = kith_alloc((size_t)sample.n_wanted * dim * sizeof *sampling->rows);
    if (sampling->rows == NULL)
        return kith_fail(diag, KITH_NOMEM, "a sample of %u rows", sample.n_wanted);
    enum kith_err err = index_sample_run(&sample, sampling->rows, &n, diag);
    sampling->msg.slices = sampling->views.slices;
    sampling->msg.dim = dim;
    sampling->msg.rows =
        (struct kith_bytes){(const uint8_t *)sampling->rows, (size_t)n * dim * sizeof(float)};
    return err;
}

void rpc_codebook_sample(struct rpc_call *call)
{
    struct sampling *sampling = kith_alloc(sizeof *sampling);
    struct kith_diag diag = {0};
    struct rpc_reply reply = {0};
    if (sampling == NULL) {
        rpc_fail(call, KITH_NOMEM, "no memory for the request");
        return;
    }
    enum kith_err err = KITH_OK;
    if (!kith_msg_read_sample(call->body, &sampling->asked)) {
        err = kith_fail(&diag, KITH_PROTOCOL, "the request's body is malformed");
    } else {
        rpc_take_views(call->env, &sampling->asked.scope, &sampling->views);
        err = draw(sampling, &diag);
        rpc_give_views(call->env, &sampling->views);
    }
    if (err == KITH_OK)
        rpc_begin(&reply);
    if (err == KITH_OK && !reply.w.failed)
        kith_msg_write_sampled(&reply.w, &sampling->msg);
    kith_free(sampling->rows);
    kith_free(sampling);
    if (err == KITH_OK)
        rpc_send(call, &reply);
    else
        rpc_fail_with(call, &reply, err, &diag);
}
