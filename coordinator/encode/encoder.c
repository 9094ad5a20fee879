#include "coordinator/encode/encoder.h"

#include <math.h>
#include <string.h>

#include "common/kith_mem.h"
#include "coordinator/encode/encoder_ngram.h"
#include "coordinator/encode/encoder_wordvec.h"
#include "proto/kith_hash.h"
#include "proto/kith_limits.h"

struct kind {
    const char *name;
    int needs_file;
    enum kith_err (*open)(struct encoder **out, const struct encoder_config *cfg,
                          struct kith_diag *diag);
};

/* A new kind is a line here. */
static const struct kind kinds[] = {
    {"ngram", 0, encoder_ngram_open},
    {"wordvec", 1, encoder_wordvec_open},
};

static const struct kind *kind_find(const char *name)
{
    for (size_t i = 0; name != NULL && i < sizeof kinds / sizeof kinds[0]; i++) {
        if (strcmp(kinds[i].name, name) == 0) {
            return &kinds[i];
        }
    }
    return NULL;
}

int encoder_kind_known(const char *kind)
{
    return kind_find(kind) != NULL;
}

int encoder_kind_needs_file(const char *kind)
{
    const struct kind *found = kind_find(kind);
    return found != NULL && found->needs_file;
}

enum kith_err encoder_open(struct encoder **out, const struct encoder_config *cfg,
                           struct kith_diag *diag)
{
    kith_assert(out != NULL && cfg != NULL);
    const struct kind *kind = kind_find(cfg->kind);
    if (kind == NULL) {
        return kith_fail(diag, KITH_BAD_REQUEST,
                         "encoder.kind \"%.40s\" is unknown; known: ngram, wordvec",
                         cfg->kind != NULL ? cfg->kind : "");
    }
    if (cfg->dim > KITH_DIM_MAX) {
        return kith_fail(diag, KITH_BAD_REQUEST, "encoder.dim is %u, at most %u", cfg->dim,
                         KITH_DIM_MAX);
    }
    if (kind->needs_file && (cfg->dir == NULL || cfg->file == NULL)) {
        return kith_fail(diag, KITH_BAD_REQUEST, "encoder.file is needed by kind \"%s\"",
                         kind->name);
    }
    return kind->open(out, cfg, diag);
}

void encoder_close(struct encoder *enc)
{
    if (enc != NULL) {
        enc->ops->close(enc);
    }
}

/* Rounding leaves dust where terms cancel; below this share of the largest value seen nothing is
 * left of the text. */
#define NORM_MIN 1e-12

enum kith_err encoder_encode(const struct encoder *enc, const char *text, size_t len, float *out,
                             struct kith_diag *diag)
{
    enum kith_err err = KITH_OK;
    float room[1024];
    float *vector = room;
    kith_assert(enc != NULL && out != NULL && enc->dim > 0);
    if (len > KITH_TEXT_MAX) {
        return kith_fail(diag, KITH_TOO_BIG, "text to encode: %zu bytes, limit %u", len,
                         KITH_TEXT_MAX);
    }
    if (enc->dim > sizeof room / sizeof room[0]) {
        vector = kith_alloc(enc->dim * sizeof *vector);
        if (vector == NULL) {
            return kith_fail(diag, KITH_NOMEM, "vector of %u", enc->dim);
        }
    } else {
        memset(room, 0, enc->dim * sizeof *room);
    }
    err = enc->ops->encode(enc, text, len, vector, diag);
    if (err != KITH_OK) {
        goto out;
    }
    double sum = 0;
    for (uint32_t i = 0; i < enc->dim; i++) {
        sum += (double)vector[i] * (double)vector[i];
    }
    if (!(sum > NORM_MIN) || !isfinite(sum)) {
        err =
            kith_fail(diag, KITH_UNPROCESSABLE,
                      "cannot encode: the text has no direction in encoder \"%s\"", enc->ops->kind);
        goto out;
    }
    double scale = 1.0 / sqrt(sum);
    for (uint32_t i = 0; i < enc->dim; i++) {
        out[i] = (float)((double)vector[i] * scale);
    }
out:
    if (vector != room) {
        kith_free(vector);
    }
    return err;
}

const char *encoder_kind(const struct encoder *enc)
{
    return enc->ops->kind;
}

uint32_t encoder_dim(const struct encoder *enc)
{
    return enc->dim;
}

uint64_t encoder_fingerprint(const struct encoder *enc)
{
    return enc->fingerprint;
}

uint64_t encoder_hash(uint64_t hash, const void *data, size_t len)
{
    /* 0 is a valid start. */
    return kith_hash_bytes(hash ^ KITH_HASH_START, data, len) ^ KITH_HASH_START;
}
