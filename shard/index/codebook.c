/* A codebook keeps the bytes it was read from, and points into them; what is made from them (norms,
 * centroids as bytes) is beside it in one block of memory. Training ends in bytes too, so there is
 * one way in, and it checks everything. */
#include "shard/index/codebook.h"

#include <float.h>
#include <math.h>
#include <stdatomic.h>
#include <string.h>

#include "common/kith_mem.h"
#include "proto/kith_limits.h"
#include "shard/index/codebook_format.h"

struct owner {
    struct codebook codebook; /* first: a codebook is its owner */
    /* Relaxed up, acquire-release down: the last one out sees all that others did with it. */
    atomic_uint refs;
    uint8_t *bytes;
    size_t len;
    void *made;
};

static struct owner *owner_of(const struct codebook *codebook)
{
    return (struct owner *)(uintptr_t)codebook;
}

/* Identity, not defence: the segment's checksums find damage. */
uint64_t codebook_hash(const uint8_t *bytes, size_t len)
{
    uint64_t hash = len * UINT64_C(0x9e3779b97f4a7c15);
    for (size_t at = 0; at < len; at += 8) {
        uint8_t tail[8] = {0};
        const uint8_t *word = bytes + at;
        if (len - at < 8)
            word = memcpy(tail, word, len - at);
        hash = (hash ^ kith_load_u64(word)) * UINT64_C(0xff51afd7ed558ccd);
        hash ^= hash >> 29;
    }
    hash *= UINT64_C(0xc4ceb9fe1a85ec53);
    return hash ^ hash >> 32;
}

uint32_t codebook_format_subs(uint32_t dim, uint32_t sub_dim)
{
    uint32_t subs = (dim + sub_dim - 1) / sub_dim;
    return subs + subs % 2;
}

static size_t floats_of(const struct codebook_parts *parts)
{
    size_t lifts = parts->metric == KITH_DOT ? parts->n_lists : 0;
    return (size_t)parts->n_lists * parts->dim + lifts +
           (size_t)parts->n_subs * parts->sub_dim * CODEBOOK_WORDS;
}

size_t codebook_format_bytes(const struct codebook_parts *parts)
{
    return CODEBOOK_HEADER_BYTES + floats_of(parts) * sizeof(float) + CODEBOOK_HASH_BYTES;
}

void codebook_format_store_header(uint8_t *out, const struct codebook_parts *parts)
{
    memset(out, 0, CODEBOOK_HEADER_BYTES);
    kith_store_u32(out, CODEBOOK_MAGIC);
    kith_store_u32(out + 4, CODEBOOK_VERSION);
    kith_store_u32(out + 8, (uint32_t)parts->metric);
    kith_store_u32(out + 12, (uint32_t)parts->codes);
    kith_store_u32(out + 16, parts->dim);
    kith_store_u32(out + 20, parts->n_lists);
    kith_store_u32(out + 24, parts->sub_dim);
    kith_store_u32(out + 28, parts->n_subs);
    kith_store_u32(out + 32, parts->generation);
    kith_store_f32(out + 36, parts->stretch);
    kith_store_u64(out + 40, parts->trained_rows);
    kith_store_f32(out + 48, parts->residual_energy);
    kith_store_f32(out + 52, parts->lift);
    kith_store_f32(out + 56, parts->scale8);
    kith_store_f32(out + 60, parts->offset8);
}

static bool is_size(float value)
{
    return value >= 0.0f && isfinite(value);
}

static bool has_codes(const struct codebook_parts *parts)
{
    switch (parts->codes) {
    case CODEBOOK_ROWS:
    case CODEBOOK_INT8:
        return parts->sub_dim == 0 && parts->n_subs == 0;
    case CODEBOOK_PQ4:
        return parts->metric != KITH_MANHATTAN && parts->sub_dim >= 1 &&
               parts->sub_dim <= CODEBOOK_SUB_DIM_MAX &&
               parts->n_subs == codebook_format_subs(parts->dim, parts->sub_dim) &&
               parts->n_subs <= CODEBOOK_SUBS_MAX;
    }
    return false;
}

static enum kith_err load_header(struct codebook_parts *out, struct kith_bytes bytes,
                                 const struct slice_config *config, struct kith_diag *diag)
{
    const uint8_t *at = bytes.data;
    if (bytes.len < CODEBOOK_HEADER_BYTES || kith_load_u32(at) != CODEBOOK_MAGIC)
        return kith_fail(diag, KITH_CORRUPT, "not a codebook");
    uint32_t version = kith_load_u32(at + 4);
    if (version < CODEBOOK_OLDEST || version > CODEBOOK_VERSION)
        return kith_fail(diag, KITH_CORRUPT, "codebook of version %u, this reads %u to %u", version,
                         CODEBOOK_OLDEST, CODEBOOK_VERSION);
    struct codebook_parts parts = {.metric = (enum kith_metric)kith_load_u32(at + 8),
                                   .codes = (enum codebook_codes)kith_load_u32(at + 12),
                                   .dim = kith_load_u32(at + 16),
                                   .n_lists = kith_load_u32(at + 20),
                                   .sub_dim = kith_load_u32(at + 24),
                                   .n_subs = kith_load_u32(at + 28),
                                   .generation = kith_load_u32(at + 32),
                                   .stretch = kith_load_f32(at + 36),
                                   .trained_rows = kith_load_u64(at + 40),
                                   .residual_energy = kith_load_f32(at + 48),
                                   .lift = kith_load_f32(at + 52),
                                   .scale8 = kith_load_f32(at + 56),
                                   .offset8 = kith_load_f32(at + 60)};
    if (parts.metric != config->metric || parts.dim != config->dim)
        return kith_fail(diag, KITH_CORRUPT, "codebook of another metric or dimension");
    if (parts.dim == 0 || parts.dim > KITH_DIM_MAX || parts.n_lists == 0 ||
        parts.n_lists > CODEBOOK_LISTS_MAX || !has_codes(&parts) ||
        !is_size(parts.residual_energy) || !is_size(parts.lift) || !is_size(parts.scale8) ||
        parts.scale8 == 0.0f || !isfinite(parts.offset8) || !is_size(parts.stretch) ||
        parts.stretch < 1.0f || bytes.len != codebook_format_bytes(&parts))
        return kith_fail(diag, KITH_CORRUPT, "damaged head of a codebook");
    parts.weight = version == CODEBOOK_OLDEST ? 1.0f : codebook_weight(parts.metric);
    *out = parts;
    return KITH_OK;
}

/* Memory behind each other, each piece aligned to a cache line. */
static size_t take(size_t *at, size_t bytes)
{
    size_t place = *at;
    *at += (bytes + 63) & ~(size_t)63;
    return place;
}

/* Places in owner->made. */
struct places {
    size_t minus, centroids8, bytes;
};

static struct places places_of(const struct codebook *c)
{
    struct places places = {0};
    size_t groups = (c->dim + 3) / 4;
    places.minus = take(&places.bytes, c->n_lists8 * sizeof(float));
    places.centroids8 = take(&places.bytes, c->n_lists8 * groups * 4);
    return places;
}

static float largest(const float *values, size_t n)
{
    float most = 0.0f;
    for (size_t i = 0; i < n; i++)
        most = fabsf(values[i]) > most ? fabsf(values[i]) : most;
    return most;
}

static void make_bytes(struct codebook *c, int8_t *centroids8)
{
    size_t groups = (c->dim + 3) / 4;
    float most = largest(c->centroids, (size_t)c->n_lists * c->dim);
    /* Centroids as good as 0 are 0: a scale that is no normal number has no inverse. */
    c->centroid_scale8 = most / 127.0f >= FLT_MIN ? most / 127.0f : 1.0f;
    for (uint32_t list = 0; list < c->n_lists; list++) {
        const float *centroid = c->centroids + (size_t)list * c->dim;
        for (uint32_t j = 0; j < c->dim; j++) {
            int value = (int)nearbyintf(centroid[j] / c->centroid_scale8);
            value = value < -127 ? -127 : value > 127 ? 127 : value;
            centroids8[((list / 16 * groups + j / 4) * 16 + list % 16) * 4 + j % 4] = (int8_t)value;
        }
    }
    c->centroids8 = centroids8;
}

/* False: numbers that do not fit. */
static bool make(struct owner *owner, const float *lifts)
{
    struct codebook *c = &owner->codebook;
    struct places places = places_of(c);
    uint8_t *made = owner->made;
    memset(made, 0, places.bytes);
    float *minus = (void *)(made + places.minus);
    for (uint32_t list = 0; list < c->n_lists8; list++) {
        float sum = list < c->n_lists && lifts != NULL ? lifts[list] * lifts[list] : 0.0f;
        for (uint32_t j = 0; j < c->dim && list < c->n_lists; j++)
            sum +=
                c->centroids[(size_t)list * c->dim + j] * c->centroids[(size_t)list * c->dim + j];
        if (!isfinite(sum))
            return false;
        minus[list] = list < c->n_lists ? sum / 2 / c->weight : FLT_MAX;
    }
    c->minus = minus;
    make_bytes(c, (int8_t *)(made + places.centroids8));
    return true;
}

static bool all_finite(const float *values, size_t n)
{
    for (size_t i = 0; i < n; i++)
        if (!isfinite(values[i]))
            return false;
    return true;
}

static void free_owner(struct owner *owner)
{
    if (owner == NULL)
        return;
    kith_free(owner->made);
    kith_free(owner);
}

enum kith_err codebook_adopt(struct codebook **out, uint8_t *bytes, size_t len,
                             const struct slice_config *config, struct kith_diag *diag)
{
    struct codebook_parts parts = {0};
    enum kith_err err = load_header(&parts, (struct kith_bytes){bytes, len}, config, diag);
    if (err != KITH_OK)
        return err;
    uint64_t hash = codebook_hash(bytes, len - CODEBOOK_HASH_BYTES);
    const float *floats = (const void *)(bytes + CODEBOOK_HEADER_BYTES);
    if (hash != codebook_format_hash((struct kith_bytes){bytes, len}) ||
        !all_finite(floats, floats_of(&parts)))
        return kith_fail(diag, KITH_CORRUPT, "damaged codebook");
    struct owner *owner = kith_alloc(sizeof *owner);
    if (owner == NULL)
        return kith_fail(diag, KITH_NOMEM, "codebook");
    const float *lifts = floats + (size_t)parts.n_lists * parts.dim;
    bool lifted = parts.metric == KITH_DOT;
    owner->codebook = (struct codebook){.metric = parts.metric,
                                        .codes = parts.codes,
                                        .dim = parts.dim,
                                        .n_lists = parts.n_lists,
                                        .sub_dim = parts.sub_dim,
                                        .n_subs = parts.n_subs,
                                        .generation = parts.generation,
                                        .hash = hash,
                                        .trained_rows = parts.trained_rows,
                                        .residual_energy = parts.residual_energy,
                                        .stretch = parts.stretch,
                                        .lift = parts.lift,
                                        .weight = parts.weight,
                                        .centroids = floats,
                                        .lifts = lifted ? lifts : NULL,
                                        .subs = lifts + (lifted ? parts.n_lists : 0),
                                        .n_lists8 = (parts.n_lists + 15) & ~15u,
                                        .scale8 = parts.scale8,
                                        .offset8 = parts.offset8};
    owner->made = kith_alloc_aligned(64, places_of(&owner->codebook).bytes);
    if (owner->made == NULL)
        err = kith_fail(diag, KITH_NOMEM, "codebook");
    else if (!make(owner, owner->codebook.lifts))
        err = kith_fail(diag, KITH_CORRUPT, "codebook of too large numbers");
    if (err != KITH_OK) {
        free_owner(owner);
        return err;
    }
    atomic_init(&owner->refs, 1);
    owner->bytes = bytes;
    owner->len = len;
    *out = &owner->codebook;
    return KITH_OK;
}

enum kith_err codebook_load(struct codebook **out, struct kith_bytes bytes,
                            const struct slice_config *config, struct kith_diag *diag)
{
    struct codebook_parts parts = {0};
    enum kith_err err = load_header(&parts, bytes, config, diag);
    if (err != KITH_OK)
        return err;
    uint8_t *copy = kith_alloc_aligned(64, bytes.len);
    if (copy == NULL)
        return kith_fail(diag, KITH_NOMEM, "codebook of %zu bytes", bytes.len);
    memcpy(copy, bytes.data, bytes.len);
    err = codebook_adopt(out, copy, bytes.len, config, diag);
    if (err != KITH_OK)
        kith_free(copy);
    return err;
}

struct kith_bytes codebook_bytes(const struct codebook *codebook)
{
    return (struct kith_bytes){owner_of(codebook)->bytes, owner_of(codebook)->len};
}

size_t codebook_memory(const struct codebook *codebook)
{
    return owner_of(codebook)->len + places_of(codebook).bytes + sizeof(struct owner);
}

void codebook_ref(const struct codebook *codebook)
{
    (void)atomic_fetch_add_explicit(&owner_of(codebook)->refs, 1, memory_order_relaxed);
}

void codebook_unref(const struct codebook *codebook)
{
    if (codebook == NULL)
        return;
    struct owner *owner = owner_of(codebook);
    if (atomic_fetch_sub_explicit(&owner->refs, 1, memory_order_acq_rel) != 1)
        return;
    kith_free(owner->bytes);
    free_owner(owner);
}
