/* How the names of a segment's rows (ids and seqs) lie in its file: as wide as the segment needs.
 *
 * Ids that are all numbers take 8 bytes each, all UUIDs 16, a mixture 24. Seqs are u32 above the
 * lowest of the segment where that is enough, else u64. The width is what the section's bytes say.
 * A search reads the names of its hits, so these bytes are part of what it needs in memory; and
 * every seal and merge writes them. Owns: nothing. Threads: no state. */
#ifndef SEGMENT_NAMES_H
#define SEGMENT_NAMES_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "proto/kith_id.h"

#define SEGMENT_ID_NUMBER  8u
#define SEGMENT_ID_UUID    16u /* hi, lo */
#define SEGMENT_ID_ANY     24u /* struct kith_id */
#define SEGMENT_SEQ_NARROW 4u
#define SEGMENT_SEQ_WIDE   8u

struct segment_names {
    const uint8_t *ids, *seqs;
    uint32_t id_bytes, seq_bytes; /* of each */
    uint64_t min_seq;
};

/* False: sections of so many bytes hold nothing of n > 0 rows. */
bool segment_names_fit(struct segment_names *names, uint64_t n, uint64_t ids_bytes,
                       uint64_t seqs_bytes);
struct kith_id segment_names_id(const struct segment_names *names, uint32_t row);
uint64_t segment_names_seq(const struct segment_names *names, uint32_t row);

/* Both narrow n > 0 values where they are, and return the bytes of each. */
uint32_t segment_names_pack_ids(struct kith_id *ids, uint32_t n);
uint32_t segment_names_pack_seqs(uint64_t *seqs, uint32_t n, uint64_t min_seq, uint64_t max_seq);

#endif
