/* The layout of a segment file, shared by who writes and who reads it; docs/STORAGE.md has it in
 * words. Disk values: never renumber. Threads: no state. */
#ifndef SEGMENT_FORMAT_H
#define SEGMENT_FORMAT_H

#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include "proto/kith_crc32c.h"
#include "proto/kith_limits.h"
#include "proto/kith_wire.h"

#define SEGMENT_MAGIC        0x3147455348544bull /* "KTHSEG1" */
#define SEGMENT_VERSION      4u
#define SEGMENT_VERSION_READ 3u /* the oldest; its ids, seqs and payload index are always wide */
#define SEGMENT_HEADER_BYTES 4096u
#define SEGMENT_HEADER_CRC   4092u /* offset of the header's own CRC */
#define SEGMENT_MIN_SEQ      64u   /* offset of the lowest seq, a u64 */
#define SEGMENT_TABLE        96u   /* offset of the section table; 24 bytes an entry */
#define SEGMENT_ENTRY_BYTES  24u
#define SEGMENT_ROWS_MAX     (1u << 30)

enum segment_section {
    SEGMENT_ROWS = 0,          /* n_rows * row_bytes */
    SEGMENT_IDS = 1,           /* segment_names.h */
    SEGMENT_ID_TABLE = 2,      /* u32 slots, a power of two: row + 1, 0 = empty; linear probing */
    SEGMENT_ID_ORDER = 3,      /* u32 each: rows by ascending id */
    SEGMENT_SEQS = 4,          /* segment_names.h */
    SEGMENT_COLUMNS = 5,       /* shard/storage/column.h */
    SEGMENT_PAYLOADS = 6,      /* compressed blocks, one after another */
    SEGMENT_PAYLOAD_INDEX = 7, /* per row a u64: segment_format_spot; empty: no payloads */
    SEGMENT_BLOCKS = 8,        /* per block: u64 offset, u32 packed bytes, u32 bytes */
    /* Opaque here: the approximate index (segment_index.h). Empty when there is none. */
    SEGMENT_INDEX_FIRST = 9,
    SEGMENT_SECTIONS = 15,
};
#define SEGMENT_BLOCK_ENTRY   16u
#define SEGMENT_PAYLOAD_BLOCK (16u * 1024) /* raw bytes that close a block */

/* Where a payload lies. Payloads are not in the order of the rows, so the length is said. A block
 * is closed as soon as it holds SEGMENT_PAYLOAD_BLOCK bytes, so every payload begins below that. */
#define SEGMENT_SPOT_LEN_BITS    21u
#define SEGMENT_SPOT_OFFSET_BITS 14u
#define SEGMENT_SPOT_BLOCKS_MAX  (1u << 28)
_Static_assert(KITH_PAYLOAD_MAX < 1u << SEGMENT_SPOT_LEN_BITS, "a payload's length fits a spot");
_Static_assert(SEGMENT_PAYLOAD_BLOCK <= 1u << SEGMENT_SPOT_OFFSET_BITS, "an offset fits a spot");

struct segment_spot {
    uint32_t block, offset, len; /* len 0: no payload */
};

static inline uint64_t segment_format_spot(const struct segment_spot *spot)
{
    return ((uint64_t)spot->block << SEGMENT_SPOT_OFFSET_BITS | spot->offset)
               << SEGMENT_SPOT_LEN_BITS |
           spot->len;
}

static inline struct segment_spot segment_format_spot_of(uint64_t packed)
{
    return (struct segment_spot){
        .block = (uint32_t)(packed >> (SEGMENT_SPOT_LEN_BITS + SEGMENT_SPOT_OFFSET_BITS)),
        .offset =
            (uint32_t)(packed >> SEGMENT_SPOT_LEN_BITS) & ((1u << SEGMENT_SPOT_OFFSET_BITS) - 1),
        .len = (uint32_t)packed & ((1u << SEGMENT_SPOT_LEN_BITS) - 1),
    };
}

/* After the sections, aligned: one CRC per KITH_SEGMENT_BLOCK of all before, then the CRC of these.
 */

static inline uint32_t segment_format_block_crc(const uint8_t *block, size_t bytes, uint64_t number,
                                                uint64_t index)
{
    uint8_t place[16];
    kith_store_u64(place, number);
    kith_store_u64(place + 8, index);
    return kith_crc32c(kith_crc32c(0, place, sizeof place), block, bytes);
}

static inline uint64_t segment_format_align(uint64_t bytes)
{
    return (bytes + KITH_SECTION_ALIGN - 1) & ~(uint64_t)(KITH_SECTION_ALIGN - 1);
}

#endif
