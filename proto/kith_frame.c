/* On the wire, little endian:
 *    0 u32 header_crc   CRC32C of bytes 4..39: checked first, before anything else is believed
 *    4 u32 body_crc     CRC32C of the body
 *    8 u64 cluster
 *   16 u64 request
 *   24 u32 body_bytes
 *   28 u32 deadline_ms
 *   32 u16 version
 *   34 u16 message
 *   36 u32 reserved     zero */
#include "proto/kith_frame.h"

#include "proto/kith_crc32c.h"
#include "proto/kith_wire.h"

void kith_frame_seal(uint8_t *frame, size_t frame_bytes, const struct kith_frame *header)
{
    kith_assert(frame_bytes >= KITH_FRAME_HEADER_BYTES);
    size_t body_bytes = frame_bytes - KITH_FRAME_HEADER_BYTES;
    kith_assert(body_bytes <= KITH_FRAME_BODY_MAX);

    kith_store_u32(frame + 4, kith_crc32c(0, frame + KITH_FRAME_HEADER_BYTES, body_bytes));
    kith_store_u64(frame + 8, header->cluster);
    kith_store_u64(frame + 16, header->request);
    kith_store_u32(frame + 24, (uint32_t)body_bytes);
    kith_store_u32(frame + 28, header->deadline_ms);
    kith_store_u32(frame + 32, (uint32_t)KITH_FRAME_VERSION | (uint32_t)header->message << 16);
    kith_store_u32(frame + 36, 0);
    kith_store_u32(frame, kith_crc32c(0, frame + 4, KITH_FRAME_HEADER_BYTES - 4));
}

enum kith_err kith_frame_open(const uint8_t *frame, size_t frame_bytes, uint64_t cluster,
                              struct kith_frame *out, struct kith_diag *diag)
{
    if (frame_bytes < KITH_FRAME_HEADER_BYTES)
        return kith_fail(diag, KITH_PROTOCOL, "frame of %zu bytes is shorter than its header",
                         frame_bytes);
    if (kith_load_u32(frame) != kith_crc32c(0, frame + 4, KITH_FRAME_HEADER_BYTES - 4))
        return kith_fail(diag, KITH_PROTOCOL, "frame header fails its checksum");

    uint32_t version_message = kith_load_u32(frame + 32);
    struct kith_frame h = {
        .cluster = kith_load_u64(frame + 8),
        .request = kith_load_u64(frame + 16),
        .body_bytes = kith_load_u32(frame + 24),
        .deadline_ms = kith_load_u32(frame + 28),
        .version = (uint16_t)(version_message & 0xffff),
        .message = (uint16_t)(version_message >> 16),
    };
    if (h.version != KITH_FRAME_VERSION)
        return kith_fail(diag, KITH_PROTOCOL, "frame version %u, this node speaks %u",
                         (unsigned)h.version, KITH_FRAME_VERSION);
    if (h.cluster != cluster)
        return kith_fail(diag, KITH_PROTOCOL,
                         "frame is for cluster %016llx, this node is of %016llx",
                         (unsigned long long)h.cluster, (unsigned long long)cluster);
    if (kith_load_u32(frame + 36) != 0)
        return kith_fail(diag, KITH_PROTOCOL, "frame's reserved field is not zero");
    if (h.body_bytes > KITH_FRAME_BODY_MAX)
        return kith_fail(diag, KITH_PROTOCOL, "frame body of %u bytes exceeds %u",
                         (unsigned)h.body_bytes, KITH_FRAME_BODY_MAX);
    if (h.body_bytes != frame_bytes - KITH_FRAME_HEADER_BYTES)
        return kith_fail(diag, KITH_PROTOCOL, "frame says %u body bytes and has %zu",
                         (unsigned)h.body_bytes, frame_bytes - KITH_FRAME_HEADER_BYTES);
    if (kith_load_u32(frame + 4) != kith_crc32c(0, frame + KITH_FRAME_HEADER_BYTES, h.body_bytes))
        return kith_fail(diag, KITH_PROTOCOL, "frame body fails its checksum");
    *out = h;
    return KITH_OK;
}
