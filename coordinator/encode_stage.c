/* Texts become vectors: from the cache when they are there, else in the pool, never on the loop.
 * All texts of a request are one task, which shares its pieces with idle workers. */
#include <string.h>

#include "common/kith_arena.h"
#include "common/kith_pool.h"
#include "coordinator/encode/encode_cache.h"
#include "coordinator/pipeline.h"
#include "coordinator/server.h"
#include "coordinator/text_models.h"

struct encode_job {
    struct request *req;
    const struct encoder *encoder;
    struct text_models_wait wait;
    struct kith_letter letter;
    uint32_t *todo; /* indexes of texts that the cache did not have */
    uint32_t n_todo;
    enum kith_err *errs; /* one per todo */
    struct kith_diag *diags;
};

static void encode_piece(void *ctx, uint32_t index, uint32_t worker)
{
    (void)worker;
    struct encode_job *job = ctx;
    struct request_text *text = &job->req->texts[job->todo[index]];
    job->errs[index] =
        encoder_encode(job->encoder, text->text, text->len, text->out, &job->diags[index]);
}

static void encode_in_pool(void *ctx)
{
    struct encode_job *job = ctx;
    struct server *server = job->req->server;
    kith_pool_run(server_pool(server), job->n_todo, encode_piece, job);
    kith_loop_post(server_loop(server), &job->letter);
}

static void on_encoded(void *ctx)
{
    struct encode_job *job = ctx;
    struct request *req = job->req;
    struct encode_cache *cache = server_cache(req->server);
    uint64_t fingerprint = encoder_fingerprint(job->encoder);
    req->in_pool = false;
    for (uint32_t i = 0; i < job->n_todo; i++) {
        const struct request_text *text = &req->texts[job->todo[i]];
        if (job->errs[i] && !req->err)
            req->err =
                kith_fail(&req->diag, job->errs[i], "%s: %s", text->where, job->diags[i].text);
        if (!job->errs[i] && req->work->cache_texts)
            encode_cache_put(cache, fingerprint, text->text, text->len, text->out, req->target.dim);
    }
    pipeline_resume(req);
}

static enum kith_err look_up(struct encode_job *job)
{
    struct request *req = job->req;
    uint64_t fingerprint = encoder_fingerprint(job->encoder);
    job->todo = kith_arena_array(req->arena, req->n_texts, sizeof(*job->todo));
    if (!job->todo)
        return kith_fail(&req->diag, KITH_NOMEM, "request: out of memory");
    for (uint32_t i = 0; i < req->n_texts; i++) {
        const struct request_text *text = &req->texts[i];
        if (!req->work->cache_texts ||
            !encode_cache_get(server_cache(req->server), fingerprint, text->text, text->len,
                              text->out, req->target.dim))
            job->todo[job->n_todo++] = i;
    }
    if (job->n_todo == 0)
        return KITH_OK;
    job->errs = kith_arena_array(req->arena, job->n_todo, sizeof(*job->errs));
    job->diags = kith_arena_array(req->arena, job->n_todo, sizeof(*job->diags));
    if (!job->errs || !job->diags)
        return kith_fail(&req->diag, KITH_NOMEM, "request: out of memory");
    return KITH_OK;
}

/* STEP_NEXT when the cache had everything. */
static enum step encode(struct encode_job *job)
{
    struct request *req = job->req;
    if (encoder_dim(job->encoder) != req->target.dim)
        req->err = kith_fail(&req->diag, KITH_UNAVAILABLE,
                             "encoder: makes %u numbers, the collection holds %u",
                             encoder_dim(job->encoder), req->target.dim);
    if (!req->err)
        req->err = look_up(job);
    if (req->err)
        return STEP_FAIL;
    if (job->n_todo == 0)
        return STEP_NEXT;
    job->letter = (struct kith_letter){.fn = on_encoded, .ctx = job};
    req->in_pool = true;
    if (kith_pool_submit(server_pool(req->server), encode_in_pool, job)) {
        req->in_pool = false;
        req->err = kith_fail(&req->diag, KITH_BUSY, "too many texts wait to be encoded");
        return STEP_FAIL;
    }
    return STEP_WAIT;
}

static void on_encoder(void *ctx, const struct encoder *encoder, const struct kith_diag *diag)
{
    struct encode_job *job = ctx;
    struct request *req = job->req;
    if (!encoder) {
        req->err =
            kith_fail(&req->diag, KITH_UNAVAILABLE, "the collection's encoder: %s", diag->text);
        pipeline_resume(req);
        return;
    }
    job->encoder = encoder;
    if (encode(job) != STEP_WAIT)
        pipeline_resume(req);
}

enum step encode_stage_run(struct request *req)
{
    if (req->n_texts == 0)
        return STEP_NEXT;
    struct encode_job *job = kith_arena_alloc(req->arena, sizeof(*job));
    if (!job) {
        req->err = kith_fail(&req->diag, KITH_NOMEM, "request: out of memory");
        return STEP_FAIL;
    }
    job->req = req;
    job->wait = (struct text_models_wait){.done = on_encoder, .ctx = job};
    enum kith_err err = text_models_get(server_models(req->server), req->collection->encoder,
                                        &job->encoder, &job->wait, &req->diag);
    if (err == KITH_BUSY)
        return STEP_WAIT;
    req->err = err;
    return err ? STEP_FAIL : encode(job);
}
