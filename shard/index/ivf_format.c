#include "shard/index/ivf_format.h"

size_t ivf_format_store_meta(uint8_t *out, const struct ivf_meta *meta)
{
    kith_assert(meta->n_targets <= IVF_TARGETS);
    kith_store_u32(out, IVF_META_MAGIC);
    kith_store_u32(out + 4, IVF_FORMAT_VERSION);
    kith_store_u32(out + 8, meta->n_rows);
    kith_store_u32(out + 12, meta->row8_bytes);
    kith_store_u64(out + 16, meta->codebook_hash);
    kith_store_f32(out + 24, meta->term_scale);
    kith_store_f32(out + 28, meta->error);
    kith_store_f32(out + 32, meta->error8);
    kith_store_f32(out + 36, meta->residual_energy);
    kith_store_u32(out + 40, meta->n_targets);
    kith_store_f32(out + 44, meta->growth);
    kith_store_u32(out + 48, meta->measured_rows);
    for (uint32_t i = 0; i < IVF_FAR_EFFORTS; i++) {
        kith_store_f32(out + IVF_META_FAR + 8 * i, meta->far[i].margin);
        kith_store_f32(out + IVF_META_FAR + 8 * i + 4, meta->far[i].rest);
    }
    uint8_t *at = out + IVF_META_HEADER_BYTES;
    for (uint32_t i = 0; i < meta->n_targets; i++, at += IVF_META_TARGET_BYTES) {
        const struct ivf_target *target = &meta->targets[i];
        kith_store_f32(at, target->recall);
        kith_store_f32(at + 4, target->rows_share);
        kith_store_f32(at + 8, target->effort.reach);
        kith_store_f32(at + 12, target->effort.margin);
        kith_store_u32(at + 16, target->effort.first_lists);
        kith_store_u32(at + 20, target->effort.lists_max);
    }
    return (size_t)(at - out);
}

/* False also for NaN. */
static bool is_share(float value)
{
    return value >= 0.0f && value <= 1.0f;
}

static bool is_size(float value)
{
    return value >= 0.0f && isfinite(value);
}

static bool load_targets(struct ivf_meta *meta, const uint8_t *at)
{
    for (uint32_t i = 0; i < meta->n_targets; i++, at += IVF_META_TARGET_BYTES) {
        struct ivf_target *target = &meta->targets[i];
        target->recall = kith_load_f32(at);
        target->rows_share = kith_load_f32(at + 4);
        target->effort.reach = kith_load_f32(at + 8);
        target->effort.margin = kith_load_f32(at + 12);
        target->effort.first_lists = kith_load_u32(at + 16);
        target->effort.lists_max = kith_load_u32(at + 20);
        if (!is_share(target->recall) || !is_share(target->rows_share) ||
            !is_size(target->effort.reach) || !is_size(target->effort.margin) ||
            (i > 0 && target->recall < meta->targets[i - 1].recall))
            return false;
    }
    return true;
}

static bool load_far(struct ivf_meta *meta, const uint8_t *at)
{
    for (uint32_t i = 0; i < IVF_FAR_EFFORTS; i++) {
        meta->far[i].margin = kith_load_f32(at + 8 * i);
        meta->far[i].rest = kith_load_f32(at + 8 * i + 4);
        if (!is_size(meta->far[i].margin) || !is_share(meta->far[i].rest))
            return false;
    }
    return true;
}

enum kith_err ivf_format_load_meta(struct ivf_meta *out, struct kith_bytes bytes,
                                   struct kith_diag *diag)
{
    struct ivf_meta meta = {0};
    if (bytes.len < IVF_META_FAR || kith_load_u32(bytes.data) != IVF_META_MAGIC)
        return kith_fail(diag, KITH_CORRUPT, "not the head of an index");
    uint32_t version = kith_load_u32(bytes.data + 4);
    if (version < IVF_FORMAT_OLDEST || version > IVF_FORMAT_VERSION)
        return kith_fail(diag, KITH_CORRUPT, "index of version %u, this is %u", version,
                         IVF_FORMAT_VERSION);
    size_t header = version < IVF_META_WITH_FAR ? IVF_META_FAR : IVF_META_HEADER_BYTES;
    meta.n_rows = kith_load_u32(bytes.data + 8);
    meta.row8_bytes = kith_load_u32(bytes.data + 12);
    meta.codebook_hash = kith_load_u64(bytes.data + 16);
    meta.term_scale = kith_load_f32(bytes.data + 24);
    meta.error = kith_load_f32(bytes.data + 28);
    meta.error8 = kith_load_f32(bytes.data + 32);
    meta.residual_energy = kith_load_f32(bytes.data + 36);
    meta.n_targets = kith_load_u32(bytes.data + 40);
    meta.growth =
        version < IVF_META_WITH_GROWTH ? IVF_GROWTH_USUAL : kith_load_f32(bytes.data + 44);
    meta.measured_rows = kith_load_u32(bytes.data + 48);
    if (meta.n_targets > IVF_TARGETS ||
        bytes.len != header + meta.n_targets * (size_t)IVF_META_TARGET_BYTES ||
        meta.row8_bytes > ivf_format_row8_bytes(KITH_DIM_MAX) || !is_size(meta.term_scale) ||
        !is_size(meta.error) || !is_size(meta.error8) || !is_size(meta.residual_energy) ||
        !is_size(meta.growth) || (meta.n_targets > 0 && meta.measured_rows == 0) ||
        (version >= IVF_META_WITH_FAR && !load_far(&meta, bytes.data + IVF_META_FAR)) ||
        !load_targets(&meta, bytes.data + header))
        return kith_fail(diag, KITH_CORRUPT, "damaged head of an index");
    *out = meta;
    return KITH_OK;
}
