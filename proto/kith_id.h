/* A point's id: an unsigned 64-bit number or a UUID. The two never compare equal.
 * Total order: numbers first, by value; then UUIDs, by their 128 bits. Threads: plain values. */
#ifndef KITH_ID_H
#define KITH_ID_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "proto/kith_err.h"

struct kith_id {
    uint64_t hi; /* number: 0; UUID: its first 8 bytes, big-endian value */
    uint64_t lo; /* number: the value; UUID: its last 8 bytes */
    uint32_t is_uuid;
    uint32_t reserved; /* zero */
};
_Static_assert(sizeof(struct kith_id) == 24, "stored in segments");

#define KITH_ID_TEXT_BYTES 40 /* the longest text with its NUL */
#define KITH_ID_WIRE_BYTES 17 /* u8 is_uuid, u64 hi, u64 lo, little endian */

struct kith_id kith_id_number(uint64_t number);
int kith_id_compare(const struct kith_id *a, const struct kith_id *b); /* <0, 0, >0 */
bool kith_id_equal(const struct kith_id *a, const struct kith_id *b);
uint64_t
kith_id_hash(const struct kith_id *id); /* stable for ever: slices and id tables depend on it */
uint32_t kith_id_slice(const struct kith_id *id,
                       uint32_t n_slices); /* which slice holds the point */

/* UUID text: 8-4-4-4-12, 32 plain hex digits or urn:uuid:..., any case. False when it is none. */
bool kith_id_parse_uuid(const char *text, size_t len, struct kith_id *out);
size_t kith_id_format(const struct kith_id *id, char text[KITH_ID_TEXT_BYTES]); /* returns strlen */

void kith_id_to_wire(const struct kith_id *id, uint8_t out[KITH_ID_WIRE_BYTES]);
bool kith_id_from_wire(const uint8_t in[KITH_ID_WIRE_BYTES],
                       struct kith_id *out); /* false: malformed */

#endif
