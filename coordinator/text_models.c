#include "coordinator/text_models.h"

#include <string.h>

#include "common/kith_mem.h"
#include "coordinator/plan.h"

struct model {
    struct model *next;
    struct text_models *models;
    char *json; /* KITH_JSON_PADDING readable bytes behind it */
    const struct encoder *ready;
    struct text_models_wait *waiting;
    /* Written by the pool's task, read after its letter */
    struct encoder *opened;
    struct kith_diag diag;
    struct kith_letter letter;
};

struct text_models {
    struct kith_loop *loop;
    struct kith_pool *pool;
    char *dir;
    struct model *first;
    uint32_t n;
};

enum kith_err text_models_open(struct text_models **out, struct kith_loop *loop,
                               struct kith_pool *pool, const char *dir, struct kith_diag *diag)
{
    struct text_models *models = kith_alloc(sizeof(*models));
    char *copy = kith_strdup(dir ? dir : "");
    if (!models || !copy) {
        kith_free(models);
        kith_free(copy);
        return kith_fail(diag, KITH_NOMEM, "encoders: out of memory");
    }
    models->loop = loop;
    models->pool = pool;
    models->dir = copy;
    *out = models;
    return KITH_OK;
}

static void model_free(struct model *model)
{
    if (!model)
        return;
    encoder_close(model->opened);
    kith_free(model->json);
    kith_free(model);
}

void text_models_close(struct text_models *models)
{
    if (!models)
        return;
    while (models->first) {
        struct model *gone = models->first;
        models->first = gone->next;
        model_free(gone);
    }
    kith_free(models->dir);
    kith_free(models);
}

/* ---- the JSON of an encoder ------------------------------------------------------------------ */

static const struct plan_field encoder_fields[] = {{"kind", PLAN_TAKEN},
                                                   {"dim", PLAN_TAKEN},
                                                   {"file", PLAN_TAKEN},
                                                   {"dictionary", PLAN_TAKEN},
                                                   {"sif_a", PLAN_TAKEN}};

static enum kith_err text_member(struct kith_json object, const char *name, const char *where,
                                 const char **out, struct kith_diag *diag)
{
    struct kith_json value;
    size_t len;
    if (!kith_json_opt(object, name, &value))
        return KITH_OK;
    if (!kith_json_str(value, out, &len) || len == 0 || len > 255 || strlen(*out) != len)
        return kith_fail(diag, KITH_BAD_REQUEST, "%s.%s: expected a name of 1 to 255 bytes", where,
                         name);
    return KITH_OK;
}

static enum kith_err read_config(struct kith_json object, const char *where,
                                 struct encoder_config *out, struct kith_diag *diag)
{
    struct kith_json value;
    enum kith_err err = PLAN_FIELDS(object, where, encoder_fields, diag);
    if (!err)
        err = text_member(object, "kind", where, &out->kind, diag);
    if (!err && !out->kind)
        err = kith_fail(diag, KITH_BAD_REQUEST, "%s.kind: required", where);
    if (!err && !encoder_kind_known(out->kind))
        err = kith_fail(diag, KITH_BAD_REQUEST, "%s.kind: there is no encoder `%.64s`", where,
                        out->kind);
    if (!err)
        err = plan_u32(object, "dim", where, 1, KITH_DIM_MAX, &out->dim, diag);
    if (!err)
        err = text_member(object, "file", where, &out->file, diag);
    if (!err && encoder_kind_needs_file(out->kind) && !out->file)
        err = kith_fail(diag, KITH_BAD_REQUEST, "%s.file: required for %s", where, out->kind);
    if (!err)
        err = text_member(object, "dictionary", where, &out->dictionary, diag);
    if (!err && kith_json_opt(object, "sif_a", &value) &&
        (!kith_json_f64(value, &out->sif_a) || !(out->sif_a > 0 && out->sif_a <= 1)))
        err = kith_fail(diag, KITH_BAD_REQUEST, "%s.sif_a: expected a number in (0, 1]", where);
    return err;
}

enum kith_err text_models_check(struct kith_json encoder, const char *where, struct kith_diag *diag)
{
    struct encoder_config cfg = {.kind = NULL};
    return read_config(encoder, where, &cfg, diag);
}

/* ---- opening --------------------------------------------------------------------------------- */

static void open_in_pool(void *ctx)
{
    struct model *model = ctx;
    struct encoder_config cfg = {.dir = model->models->dir};
    struct kith_json_doc *doc = NULL;
    enum kith_err err = kith_json_open(&doc, model->json, strlen(model->json), &model->diag);
    if (!err)
        err = read_config(kith_json_root(doc), "encoder", &cfg, &model->diag);
    if (!err && cfg.file && !*cfg.dir)
        err = kith_fail(&model->diag, KITH_BAD_REQUEST,
                        "encoder.file: this server has no folder of encoder files");
    if (!err)
        err = encoder_open(&model->opened, &cfg, &model->diag);
    model->diag.err = err;
    kith_json_close(doc);
    kith_loop_post(model->models->loop, &model->letter);
}

static void unlink_model(struct model *model)
{
    for (struct model **at = &model->models->first; *at; at = &(*at)->next) {
        if (*at == model) {
            *at = model->next;
            model->models->n--;
            return;
        }
    }
}

static void on_opened(void *ctx)
{
    struct model *model = ctx;
    struct text_models_wait *waiting = model->waiting;
    model->waiting = NULL;
    model->ready = model->opened;
    if (!model->ready)
        unlink_model(model);
    while (waiting) {
        struct text_models_wait *next = waiting->next;
        waiting->done(waiting->ctx, model->ready, &model->diag);
        waiting = next;
    }
    if (!model->ready)
        model_free(model);
}

static struct model *model_new(struct text_models *models, const char *json)
{
    size_t len = strlen(json);
    struct model *model = kith_alloc(sizeof(*model));
    char *copy = kith_alloc(len + 1 + KITH_JSON_PADDING);
    if (!model || !copy) {
        kith_free(model);
        kith_free(copy);
        return NULL;
    }
    memcpy(copy, json, len);
    model->json = copy;
    model->models = models;
    model->letter = (struct kith_letter){.fn = on_opened, .ctx = model};
    return model;
}

enum kith_err text_models_get(struct text_models *models, const char *json,
                              const struct encoder **out, struct text_models_wait *wait,
                              struct kith_diag *diag)
{
    struct model *model = models->first;
    while (model && strcmp(model->json, json) != 0)
        model = model->next;
    if (model && model->ready) {
        *out = model->ready;
        return KITH_OK;
    }
    if (!model) {
        if (models->n >= KITH_COLLECTIONS_MAX)
            return kith_fail(diag, KITH_TOO_BIG, "encoders: at most %u allowed",
                             KITH_COLLECTIONS_MAX);
        model = model_new(models, json);
        if (!model)
            return kith_fail(diag, KITH_NOMEM, "encoders: out of memory");
        if (kith_pool_submit(models->pool, open_in_pool, model)) {
            model_free(model);
            return kith_fail(diag, KITH_UNAVAILABLE, "encoders: too much is waiting");
        }
        model->next = models->first;
        models->first = model;
        models->n++;
    }
    wait->next = model->waiting;
    model->waiting = wait;
    return KITH_BUSY;
}
