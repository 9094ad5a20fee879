/* The fixed header before every message between nodes, and how it is checked.
 *
 * 40 bytes, little endian (docs/WIRE.md). The header's own CRC comes first, so that it can be
 * trusted before the body is read; the body has another. The cluster id keeps a staging client from
 * talking to production by accident; the request id is the same in every log line; the deadline is
 * what is left, not a wall-clock time. Errors: KITH_PROTOCOL naming what is wrong. Threads: no
 * state. */
#ifndef KITH_FRAME_H
#define KITH_FRAME_H

#include <stddef.h>
#include <stdint.h>

#include "proto/kith_err.h"
#include "proto/kith_limits.h"

#define KITH_FRAME_VERSION      1
#define KITH_FRAME_HEADER_BYTES 40u

struct kith_frame {
    uint64_t cluster;
    uint64_t request;
    uint32_t body_bytes;
    uint32_t deadline_ms;
    uint16_t version;
    uint16_t message; /* enum kith_message */
};

/* Fills in version, body_bytes and both checksums; header and body are one piece: body follows the
 * header's 40 bytes. */
void kith_frame_seal(uint8_t *frame, size_t frame_bytes, const struct kith_frame *header);
/* Checks everything; the body is frame + KITH_FRAME_HEADER_BYTES, out->body_bytes long. */
enum kith_err kith_frame_open(const uint8_t *frame, size_t frame_bytes, uint64_t cluster,
                              struct kith_frame *out, struct kith_diag *diag);

#endif
