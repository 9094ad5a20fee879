#include "cli/sample.h"

#include <math.h>
#include <string.h>

#include "common/kith_json.h"
#include "common/kith_mem.h"
#include "common/kith_random.h"
#include "proto/kith_limits.h"
#include "shard/rpc/index_sample.h"

#define SEED       20231u
#define FIRST_ROWS 1024u /* room; doubled as they come */

/* ---- a file ---------------------------------------------------------------------------------- */

static enum kith_err first_row(struct sample *out, struct kith_json vector, struct kith_diag *diag)
{
    size_t dim = kith_json_count(vector);
    if (dim == 0 || dim > KITH_DIM_MAX)
        return kith_fail(diag, KITH_BAD_REQUEST, "vectors have 1 to %u numbers, this one has %zu",
                         KITH_DIM_MAX, dim);
    out->dim = (uint32_t)dim;
    return KITH_OK;
}

static enum kith_err grow(struct sample *out, uint32_t *room, struct kith_diag *diag)
{
    if (out->n < *room)
        return KITH_OK;
    uint32_t more = *room == 0 ? FIRST_ROWS : 2 * *room;
    float *rows = kith_realloc(out->rows, (size_t)more * out->dim * sizeof *rows);
    if (rows == NULL)
        return kith_fail(diag, KITH_NOMEM, "%u vectors of %u numbers", more, out->dim);
    out->rows = rows;
    *room = more;
    return KITH_OK;
}

/* text: an upsert of one point. */
static enum kith_err add_point(struct sample *out, const struct kith_buf *text, uint32_t *room,
                               struct kith_diag *diag)
{
    struct kith_json_doc *doc = NULL;
    struct kith_json vector;
    enum kith_err err = kith_json_open(&doc, (const char *)text->data, text->len, diag);
    if (err == KITH_OK && (!kith_json_get(kith_json_root(doc), "vector", &vector) ||
                           kith_json_type(vector) != KITH_JSON_ARRAY))
        err = kith_fail(diag, KITH_BAD_REQUEST, "there is no \"vector\" of numbers");
    if (err == KITH_OK && out->dim == 0)
        err = first_row(out, vector, diag);
    if (err == KITH_OK)
        err = grow(out, room, diag);
    if (err == KITH_OK)
        err =
            kith_json_f32s(vector, out->rows + (size_t)out->n * out->dim, out->dim, "vector", diag);
    kith_json_close(doc);
    out->n += err == KITH_OK;
    return err;
}

static enum kith_err read_points(struct sample *out, struct source *source, size_t max_bytes,
                                 struct kith_diag *diag)
{
    struct kith_buf text = {0};
    struct kith_diag why = {0};
    uint32_t room = 0;
    enum kith_err err = KITH_OK;
    enum source_result result = SOURCE_POINT;
    while (err == KITH_OK && !out->cut &&
           (result = source_next(source, &text, &why)) == SOURCE_POINT) {
        err = text.failed ? kith_fail(&why, KITH_NOMEM, "a point")
                          : add_point(out, &text, &room, &why);
        kith_buf_reset(&text);
        out->cut = err == KITH_OK && (size_t)(out->n + 1) * out->dim * sizeof(float) > max_bytes;
    }
    if (err == KITH_OK && (result == SOURCE_BAD || result == SOURCE_ERROR))
        err = why.err != KITH_OK ? why.err : KITH_BAD_REQUEST;
    if (err != KITH_OK)
        (void)kith_fail(diag, err, "%s %llu: %s", source_is_lines(source) ? "line" : "row",
                        (unsigned long long)source_row(source), why.text);
    else if (out->n == 0)
        err = kith_fail(diag, KITH_BAD_REQUEST, "there are no vectors in it");
    kith_buf_fini(&text);
    return err;
}

enum kith_err sample_read(struct sample *out, const char *path, enum source_format format,
                          size_t max_bytes, struct kith_diag *diag)
{
    struct source_options options = {.format = format};
    struct source *source = NULL;
    *out = (struct sample){0};
    enum kith_err err = source_open(&source, path, &options, diag);
    if (err != KITH_OK)
        return err;
    err = read_points(out, source, max_bytes, diag);
    source_close(source);
    if (err != KITH_OK)
        sample_fini(out);
    else
        index_sample_shuffle(out->rows, out->n, out->dim, SEED);
    return err;
}

/* ---- made up --------------------------------------------------------------------------------- */

/* Two independent ones (Box and Muller, 1958). */
static void normal_pair(uint64_t *random, float out[2])
{
    float u = ((float)(kith_random(random) >> 40) + 1) * 0x1p-24f; /* above 0 */
    float angle = (float)(kith_random(random) >> 40) * (0x1p-24f * 6.28318531f);
    float length = sqrtf(-2 * logf(u));
    out[0] = length * cosf(angle);
    out[1] = length * sinf(angle);
}

enum kith_err sample_make_up(struct sample *out, uint32_t n, uint32_t dim, struct kith_diag *diag)
{
    uint64_t random = SEED;
    float pair[2];
    size_t at = 0;
    float *deviations = kith_alloc(dim * sizeof *deviations);
    *out = (struct sample){.rows = kith_alloc((size_t)n * dim * sizeof(float)), .n = n, .dim = dim};
    if (out->rows == NULL || deviations == NULL) {
        kith_free(deviations);
        sample_fini(out);
        return kith_fail(diag, KITH_NOMEM, "%u vectors of %u numbers", n, dim);
    }
    for (uint32_t j = 0; j < dim; j++)
        deviations[j] = 1 / sqrtf((float)(j + 1));
    for (uint32_t i = 0; i < n; i++)
        for (uint32_t j = 0; j < dim; j++, at++) {
            if (at % 2 == 0)
                normal_pair(&random, pair);
            out->rows[at] = pair[at % 2] * deviations[j];
        }
    kith_free(deviations);
    return KITH_OK;
}

void sample_fini(struct sample *sample)
{
    kith_free(sample->rows);
    *sample = (struct sample){0};
}
