#include "coordinator/text_models.h"

#include <inttypes.h>
#include <stdio.h>
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
    if (!err)
        err = text_member(object, "dictionary", where, &out->dictionary, diag);
    if (!err && !encoder_kind_needs_file(out->kind) && (out->file || out->dictionary))
        err = kith_fail(diag, KITH_BAD_REQUEST, "%s.%s: %s reads no files; leave it out", where,
                        out->file ? "file" : "dictionary", out->kind);
    if (!err && encoder_kind_needs_file(out->kind) && !out->file)
        err = kith_fail(diag, KITH_BAD_REQUEST, "%s.file: required for %s", where, out->kind);
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
                        "encoder.file: this server has no folder of encoder files; start it with "
                        "--encoders DIR");
    if (!err)
        err = encoder_open(&model->opened, &cfg, &model->diag);
    model->diag.err = err;
    kith_json_close(doc);
    kith_loop_post(model->models->loop, &model->letter);
}

/* ---- fingerprints ---------------------------------------------------------------------------- */

#define PIN     ",\"fingerprint\":\""
#define PIN_LEN (sizeof(PIN) - 1)
#define PIN_ALL (PIN_LEN + 16 + 2) /* sixteen digits, a quote, a brace */

const char *text_models_pin(struct kith_arena *arena, const char *json,
                            const struct encoder *encoder)
{
    size_t len = strlen(json);
    kith_assert(len > 2 && json[len - 1] == '}');
    char *pinned = kith_arena_alloc(arena, len + PIN_ALL);
    if (pinned)
        (void)snprintf(pinned, len + PIN_ALL, "%.*s" PIN "%016" PRIx64 "\"}", (int)(len - 1), json,
                       encoder_fingerprint(encoder));
    return pinned;
}

/* How much of the JSON comes before the pin (all but the closing brace, if there is none). */
static size_t unpin(const char *json, uint64_t *fingerprint)
{
    size_t len = strlen(json);
    *fingerprint = 0;
    if (len <= PIN_ALL || memcmp(json + len - PIN_ALL, PIN, PIN_LEN) != 0 ||
        sscanf(json + len - PIN_ALL + PIN_LEN, "%16" SCNx64, fingerprint) != 1)
        return len > 0 ? len - 1 : 0;
    return len - PIN_ALL;
}

static enum kith_err check_pin(const struct encoder *encoder, uint64_t pinned,
                               struct kith_diag *diag)
{
    uint64_t is = encoder_fingerprint(encoder);
    if (pinned == 0 || pinned == is)
        return KITH_OK;
    return kith_fail(
        diag, KITH_UNAVAILABLE,
        "the encoder's files have changed since the collection was made (fingerprint %016" PRIx64
        ", now %016" PRIx64 "): put them back and restart, or import into a new collection",
        pinned, is);
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
        struct kith_diag diag = model->diag;
        bool fits = model->ready && !check_pin(model->ready, waiting->fingerprint, &diag);
        waiting->done(waiting->ctx, fits ? model->ready : NULL, &diag);
        waiting = next;
    }
    if (!model->ready)
        model_free(model);
}

/* json without its pin: `len` bytes, and a brace to be added. */
static struct model *model_new(struct text_models *models, const char *json, size_t len)
{
    struct model *model = kith_alloc(sizeof(*model));
    char *copy = kith_alloc(len + 2 + KITH_JSON_PADDING);
    if (!model || !copy) {
        kith_free(model);
        kith_free(copy);
        return NULL;
    }
    memcpy(copy, json, len);
    copy[len] = '}';
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
    size_t len = unpin(json, &wait->fingerprint);
    while (model && (strlen(model->json) != len + 1 || memcmp(model->json, json, len) != 0))
        model = model->next;
    if (model && model->ready) {
        enum kith_err err = check_pin(model->ready, wait->fingerprint, diag);
        if (!err)
            *out = model->ready;
        return err;
    }
    if (!model) {
        if (models->n >= KITH_COLLECTIONS_MAX)
            return kith_fail(diag, KITH_TOO_BIG, "encoders: at most %u allowed",
                             KITH_COLLECTIONS_MAX);
        model = model_new(models, json, len);
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
