/* Collections come, change and go through the topology (and so the registry); every callback of it
 * arrives on the loop, once. */
#include <string.h>

#include "common/kith_arena.h"
#include "common/kith_mem.h"
#include "coordinator/census.h"
#include "coordinator/pipeline.h"
#include "coordinator/plan_collections.h"
#include "coordinator/server.h"

static void on_change(void *ctx, enum kith_err err, const struct kith_diag *diag)
{
    struct request *req = ctx;
    if (err)
        req->err = kith_fail(&req->diag, err, "%s", diag->text);
    pipeline_resume(req);
}

static void write_true(struct request *req, struct kith_json_writer *w)
{
    (void)req;
    kith_jw_bool(w, true);
}

/* ---- create ---------------------------------------------------------------------------------- */

/* Once the dimension is known, be it the encoder's. */
static enum kith_err create_now(struct request *req, struct kith_diag *diag)
{
    struct create_plan *plan = req->plan;
    enum kith_err err = plan->spec.factory
                            ? server_check_factory(req->server, plan->spec.factory, plan->spec.dim,
                                                   plan->spec.metric, diag)
                            : KITH_OK;
    if (!err)
        topology_create(server_topology(req->server), &plan->spec, request_left_ms(req), on_change,
                        req);
    return err;
}

static enum kith_err agree(struct request *req, const struct encoder *encoder,
                           struct kith_diag *diag)
{
    struct create_plan *plan = req->plan;
    uint32_t dim = encoder_dim(encoder);
    if (plan->has_dim && plan->spec.dim != dim)
        return kith_fail(diag, KITH_BAD_REQUEST,
                         "vectors.size: is %u, but the encoder makes %u numbers", plan->spec.dim,
                         dim);
    plan->spec.dim = dim;
    plan->spec.encoder = text_models_pin(req->arena, plan->spec.encoder, encoder);
    return plan->spec.encoder ? KITH_OK : kith_fail(diag, KITH_NOMEM, "request: out of memory");
}

static void on_encoder(void *ctx, const struct encoder *encoder, const struct kith_diag *diag)
{
    struct request *req = ctx;
    if (!encoder) {
        /* A file that is not there, or not one of word vectors: the request names the wrong one. */
        bool wrong = diag->err == KITH_NOT_FOUND || diag->err == KITH_CORRUPT;
        req->err = kith_fail(&req->diag, wrong ? KITH_BAD_REQUEST : diag->err, "%s", diag->text);
    } else {
        req->err = agree(req, encoder, &req->diag);
    }
    if (!req->err)
        req->err = create_now(req, &req->diag);
    if (req->err)
        pipeline_resume(req);
}

static enum kith_err create_start(struct request *req, struct kith_diag *diag)
{
    struct create_plan *plan = req->plan;
    if (topology_find(server_topology(req->server), plan->spec.name))
        return kith_fail(diag, KITH_EXISTS, "there is a collection `%s` already", plan->spec.name);
    if (!plan->spec.encoder)
        return create_now(req, diag);
    const struct encoder *encoder;
    plan->wait = (struct text_models_wait){.done = on_encoder, .ctx = req};
    enum kith_err err = text_models_get(server_models(req->server), plan->spec.encoder, &encoder,
                                        &plan->wait, diag);
    if (err == KITH_BUSY)
        return KITH_OK;
    if (!err)
        err = agree(req, encoder, diag);
    return err ? err : create_now(req, diag);
}

const struct work run_create_work = {
    .name = "create", .start = create_start, .write_result = write_true};

/* ---- delete, exists, list -------------------------------------------------------------------- */

static void on_dropped(void *ctx, enum kith_err err, const struct kith_diag *diag)
{
    struct request *req = ctx;
    struct drop_plan *plan = req->plan;
    plan->existed = err != KITH_NOT_FOUND;
    on_change(ctx, err == KITH_NOT_FOUND ? KITH_OK : err, diag);
}

static enum kith_err drop_start(struct request *req, struct kith_diag *diag)
{
    (void)diag;
    const char *name = req->http->segments[1];
    const struct topology_collection *found = topology_find(server_topology(req->server), name);
    if (found)
        census_forget(server_census(req->server), found->id);
    topology_delete(server_topology(req->server), name, request_left_ms(req), on_dropped, req);
    return KITH_OK;
}

static void drop_result(struct request *req, struct kith_json_writer *w)
{
    const struct drop_plan *plan = req->plan;
    kith_jw_bool(w, plan->existed);
}

const struct work run_drop_work = {
    .name = "delete collection", .start = drop_start, .write_result = drop_result};

static void exists_result(struct request *req, struct kith_json_writer *w)
{
    kith_jw_begin_object(w);
    kith_jw_key(w, "exists");
    kith_jw_bool(w, topology_find(server_topology(req->server), req->http->segments[1]) != NULL);
    kith_jw_end_object(w);
}

const struct work run_exists_work = {.name = "exists", .write_result = exists_result};

static void list_one(void *ctx, struct topology_collection *collection)
{
    struct kith_json_writer *w = ctx;
    kith_jw_begin_object(w);
    kith_jw_key(w, "name");
    kith_jw_cstr(w, collection->name);
    kith_jw_end_object(w);
}

static void list_result(struct request *req, struct kith_json_writer *w)
{
    kith_jw_begin_object(w);
    kith_jw_key(w, "collections");
    kith_jw_begin_array(w);
    topology_each_collection(server_topology(req->server), list_one, w);
    kith_jw_end_array(w);
    kith_jw_end_object(w);
}

const struct work run_list_work = {.name = "list", .write_result = list_result};

/* ---- metadata and declared indexes ----------------------------------------------------------- */

static void write_value(struct request *req, struct kith_json value, struct kith_json_writer *w)
{
    struct kith_bytes bytes;
    if (plan_msgpack(req, value, &bytes, NULL) || !kith_jw_msgpack(w, bytes))
        kith_jw_null(w);
}

/* The members of old (without those that change has), then change's that are not null. */
static const char *merged(struct request *req, const char *old, struct kith_json change)
{
    struct kith_json_doc *doc = NULL;
    struct kith_buf out = {.limit = KITH_REGISTRY_VALUE_MAX};
    struct kith_json_writer w = {.buf = &out};
    struct kith_json value, newer;
    const char *key, *text = NULL;
    size_t len;
    char *padded = old ? kith_alloc(strlen(old) + 1 + KITH_JSON_PADDING) : NULL;
    if (padded)
        memcpy(padded, old, strlen(old));
    kith_jw_begin_object(&w);
    if (padded && kith_json_open(&doc, padded, strlen(old), NULL) == KITH_OK) {
        struct kith_json_iter iter = kith_json_iterate(kith_json_root(doc));
        while (kith_json_next_member(&iter, &key, &len, &value)) {
            if (kith_json_get(change, key, &newer))
                continue;
            kith_jw_key_n(&w, key, len);
            write_value(req, value, &w);
        }
    }
    struct kith_json_iter iter = kith_json_iterate(change);
    while (kith_json_next_member(&iter, &key, &len, &value)) {
        if (kith_json_type(value) == KITH_JSON_NULL)
            continue;
        kith_jw_key_n(&w, key, len);
        write_value(req, value, &w);
    }
    kith_jw_end_object(&w);
    if (!out.failed && (!old || padded))
        text = kith_arena_text(req->arena, (const char *)out.data, out.len);
    kith_json_close(doc);
    kith_free(padded);
    kith_buf_fini(&out);
    return text;
}

/* Something to wait for that has happened already. */
static void resume_later(void *ctx)
{
    pipeline_resume(ctx);
}

static enum kith_err nothing_to_do(struct request *req)
{
    req->letter = (struct kith_letter){.fn = resume_later, .ctx = req};
    kith_loop_post(server_loop(req->server), &req->letter);
    return KITH_OK;
}

static enum kith_err change_start(struct request *req, struct kith_diag *diag)
{
    struct kith_json metadata;
    if (!kith_json_opt(req->body, "metadata", &metadata))
        return nothing_to_do(req);
    const char *text = merged(req, req->collection->metadata, metadata);
    if (!text)
        return kith_fail(diag, KITH_NOMEM, "metadata: out of memory, or too big");
    struct topology_patch patch = {.metadata = text};
    topology_patch(server_topology(req->server), req->collection, &patch, on_change, req);
    return KITH_OK;
}

const struct work run_change_work = {
    .name = "update collection", .start = change_start, .write_result = write_true};

/* Declared indexes are kept beside the create request: {"...", "kith_indexes": {"field": "type"}}
 */
static const char *with_index(struct request *req, const struct change_plan *plan)
{
    struct kith_buf out = {.limit = KITH_REGISTRY_VALUE_MAX};
    struct kith_json_writer w = {.buf = &out};
    struct kith_json_doc *doc = NULL, *change = NULL;
    struct kith_json old;
    const char *options = req->collection->options ? req->collection->options : "{}";
    const char *indexes = NULL, *text = NULL;
    char *padded = kith_alloc(strlen(options) + 1 + KITH_JSON_PADDING);
    if (!padded)
        return NULL;
    memcpy(padded, options, strlen(options));
    if (kith_json_open(&doc, padded, strlen(options), NULL))
        goto out;
    if (kith_json_opt(kith_json_root(doc), "kith_indexes", &old)) {
        const char *listed = plan_collections_json(req, old);
        if (!listed)
            goto out;
        indexes = listed;
    }
    kith_jw_begin_object(&w);
    kith_jw_key(&w, plan->field);
    if (plan->field_type)
        kith_jw_cstr(&w, plan->field_type);
    else
        kith_jw_null(&w);
    kith_jw_end_object(&w);
    (void)kith_buf_reserve(&out, KITH_JSON_PADDING);
    if (out.failed || kith_json_open(&change, (const char *)out.data, out.len, NULL))
        goto out;
    indexes = merged(req, indexes, kith_json_root(change));
    if (!indexes)
        goto out;
    kith_buf_reset(&out);
    kith_buf_printf(&out, "{\"kith_indexes\":%s}", indexes);
    (void)kith_buf_reserve(&out, KITH_JSON_PADDING);
    kith_json_close(change);
    change = NULL;
    if (out.failed || kith_json_open(&change, (const char *)out.data, out.len, NULL))
        goto out;
    text = merged(req, options, kith_json_root(change));
out:
    kith_json_close(change);
    kith_json_close(doc);
    kith_buf_fini(&out);
    kith_free(padded);
    return text;
}

static enum kith_err index_start(struct request *req, struct kith_diag *diag)
{
    const char *text = with_index(req, req->plan);
    if (!text)
        return kith_fail(diag, KITH_NOMEM, "index: out of memory, or too many");
    struct topology_patch patch = {.options = text};
    topology_patch(server_topology(req->server), req->collection, &patch, on_change, req);
    return KITH_OK;
}

static void index_result(struct request *req, struct kith_json_writer *w)
{
    kith_jw_begin_object(w);
    kith_jw_key(w, "operation_id");
    kith_jw_u64(w, req->collection->revision);
    kith_jw_key(w, "status");
    kith_jw_cstr(w, req->wait ? "completed" : "acknowledged");
    kith_jw_end_object(w);
}

const struct work run_index_work = {
    .name = "index", .start = index_start, .write_result = index_result};
