#include "shard/storage/segment_names.h"

#include <string.h>

#include "proto/kith_wire.h"

bool segment_names_fit(struct segment_names *names, uint64_t n, uint64_t ids_bytes,
                       uint64_t seqs_bytes)
{
    uint64_t id = ids_bytes / n, seq = seqs_bytes / n;
    if (id * n != ids_bytes || seq * n != seqs_bytes ||
        (id != SEGMENT_ID_NUMBER && id != SEGMENT_ID_UUID && id != SEGMENT_ID_ANY) ||
        (seq != SEGMENT_SEQ_NARROW && seq != SEGMENT_SEQ_WIDE))
        return false;
    names->id_bytes = (uint32_t)id;
    names->seq_bytes = (uint32_t)seq;
    return true;
}

struct kith_id segment_names_id(const struct segment_names *names, uint32_t row)
{
    const uint8_t *at = names->ids + (size_t)row * names->id_bytes;
    struct kith_id id;
    switch (names->id_bytes) {
    case SEGMENT_ID_NUMBER:
        return kith_id_number(kith_load_u64(at));
    case SEGMENT_ID_UUID:
        return (struct kith_id){.hi = kith_load_u64(at), .lo = kith_load_u64(at + 8), .is_uuid = 1};
    default:
        memcpy(&id, at, sizeof id);
        return id;
    }
}

uint64_t segment_names_seq(const struct segment_names *names, uint32_t row)
{
    const uint8_t *at = names->seqs + (size_t)row * names->seq_bytes;
    return names->seq_bytes == SEGMENT_SEQ_WIDE ? kith_load_u64(at)
                                                : names->min_seq + kith_load_u32(at);
}

uint32_t segment_names_pack_ids(struct kith_id *ids, uint32_t n)
{
    uint32_t uuids = 0, numbers = 0;
    for (uint32_t i = 0; i < n; i++) {
        uuids += ids[i].is_uuid == 1;
        numbers += ids[i].is_uuid == 0 && ids[i].hi == 0;
    }
    if (uuids < n && numbers < n)
        return SEGMENT_ID_ANY;
    uint32_t bytes = uuids > 0 ? SEGMENT_ID_UUID : SEGMENT_ID_NUMBER;
    uint8_t *to = (uint8_t *)ids;
    for (uint32_t i = 0; i < n; i++, to += bytes) {
        struct kith_id id = ids[i]; /* it may lie where this one goes, none before */
        kith_store_u64(to + bytes - 8, id.lo);
        if (uuids > 0)
            kith_store_u64(to, id.hi);
    }
    return bytes;
}

uint32_t segment_names_pack_seqs(uint64_t *seqs, uint32_t n, uint64_t min_seq, uint64_t max_seq)
{
    bool narrow = max_seq - min_seq <= UINT32_MAX;
    uint8_t *to = (uint8_t *)seqs;
    for (uint32_t i = 0; i < n; i++) {
        uint64_t seq = seqs[i];
        if (narrow)
            kith_store_u32(to + (size_t)i * SEGMENT_SEQ_NARROW, (uint32_t)(seq - min_seq));
        else
            kith_store_u64(to + (size_t)i * SEGMENT_SEQ_WIDE, seq);
    }
    return narrow ? SEGMENT_SEQ_NARROW : SEGMENT_SEQ_WIDE;
}
