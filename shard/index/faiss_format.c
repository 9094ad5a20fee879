#include "shard/index/faiss_format.h"

#include <math.h>
#include <string.h>

#include "proto/kith_hash.h"
#include "proto/kith_limits.h"

uint64_t faiss_format_hash(const char *factory)
{
    return kith_hash_bytes(KITH_HASH_START, factory, strlen(factory));
}

size_t faiss_format_store(uint8_t *out, const struct faiss_meta *meta)
{
    kith_assert(meta->n_targets <= FAISS_FORMAT_TARGETS);
    kith_store_u32(out, FAISS_FORMAT_MAGIC);
    kith_store_u32(out + 4, FAISS_FORMAT_VERSION);
    kith_store_u32(out + 8, meta->n_rows);
    kith_store_u32(out + 12, meta->n_targets);
    kith_store_u64(out + 16, meta->factory);
    kith_store_u64(out + 24, meta->bytes);
    kith_store_u32(out + 32, meta->crc);
    kith_store_u32(out + 36, 0);
    uint8_t *at = out + FAISS_FORMAT_HEADER_BYTES;
    for (uint32_t i = 0; i < meta->n_targets; i++, at += FAISS_FORMAT_TARGET_BYTES) {
        const struct faiss_target *target = &meta->targets[i];
        kith_store_u32(at, target->depth);
        kith_store_f32(at + 4, target->recall);
        kith_store_f32(at + 8, target->cost_ns);
        kith_store_u32(at + 12, target->effort.nprobe);
        kith_store_u32(at + 16, target->effort.ef_search);
        kith_store_u32(at + 20, target->effort.k_factor);
    }
    return (size_t)(at - out);
}

/* What a search may do with it, whoever wrote it. */
static bool is_sane(const struct faiss_target *target, const struct faiss_target *before)
{
    const struct faiss_effort *effort = &target->effort;
    if (target->depth == 0 || target->depth > KITH_K_MAX || effort->k_factor == 0 ||
        effort->k_factor > KITH_FAISS_K_FACTOR_MAX ||
        target->depth * effort->k_factor > KITH_K_MAX || effort->nprobe > KITH_FAISS_NPROBE_MAX ||
        effort->ef_search > KITH_FAISS_EF_MAX)
        return false;
    if (!(target->recall >= 0.0f && target->recall <= 1.0f) || !(target->cost_ns >= 0.0f) ||
        !isfinite(target->cost_ns))
        return false;
    return before == NULL || target->depth > before->depth ||
           (target->depth == before->depth && target->recall >= before->recall);
}

enum kith_err faiss_format_load(struct faiss_meta *out, struct kith_bytes bytes,
                                struct kith_diag *diag)
{
    struct faiss_meta meta = {0};
    if (bytes.len < FAISS_FORMAT_HEADER_BYTES || kith_load_u32(bytes.data) != FAISS_FORMAT_MAGIC)
        return kith_fail(diag, KITH_CORRUPT, "not the head of an index by Faiss");
    if (kith_load_u32(bytes.data + 4) != FAISS_FORMAT_VERSION)
        return kith_fail(diag, KITH_CORRUPT, "index by Faiss of version %u, this is %u",
                         kith_load_u32(bytes.data + 4), FAISS_FORMAT_VERSION);
    meta.n_rows = kith_load_u32(bytes.data + 8);
    meta.n_targets = kith_load_u32(bytes.data + 12);
    meta.factory = kith_load_u64(bytes.data + 16);
    meta.bytes = kith_load_u64(bytes.data + 24);
    meta.crc = kith_load_u32(bytes.data + 32);
    bool good =
        meta.n_targets <= FAISS_FORMAT_TARGETS && meta.bytes <= KITH_FAISS_BYTES_MAX &&
        bytes.len == FAISS_FORMAT_HEADER_BYTES + meta.n_targets * (size_t)FAISS_FORMAT_TARGET_BYTES;
    const uint8_t *at = bytes.data + FAISS_FORMAT_HEADER_BYTES;
    for (uint32_t i = 0; good && i < meta.n_targets; i++, at += FAISS_FORMAT_TARGET_BYTES) {
        meta.targets[i] = (struct faiss_target){.depth = kith_load_u32(at),
                                                .recall = kith_load_f32(at + 4),
                                                .cost_ns = kith_load_f32(at + 8),
                                                .effort = {.nprobe = kith_load_u32(at + 12),
                                                           .ef_search = kith_load_u32(at + 16),
                                                           .k_factor = kith_load_u32(at + 20)}};
        good = is_sane(&meta.targets[i], i > 0 ? &meta.targets[i - 1] : NULL);
    }
    if (!good)
        return kith_fail(diag, KITH_CORRUPT, "damaged head of an index by Faiss");
    *out = meta;
    return KITH_OK;
}
