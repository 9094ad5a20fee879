/* The blocks of a mapped segment file: verified once, before they are first used.
 *
 * Each KITH_SEGMENT_BLOCK has a CRC32C over its bytes and its place. Opening checks the table of
 * these by the table's own CRC and nothing else. segment_blocks_need verifies what a reader is
 * about to use, as far as nobody did before; once all are verified that is one load. The first
 * block that fails, and a file that can no longer be read (map_guard.h), is remembered for good:
 * segment_blocks_verdict names it. Readers look at the verdict after they have read, and believe
 * nothing if it is bad.
 *
 * Owns: a bit for each block. Borrows: the map. Threads: init, fini: one; the rest: any.
 * Errors: KITH_CORRUPT, with the file's name and the block; KITH_NOMEM from init. */
#ifndef SEGMENT_BLOCKS_H
#define SEGMENT_BLOCKS_H

#include <stdbool.h>

#include "shard/storage/map_guard.h"

struct segment_blocks {
    /* Immutable after init. */
    const uint8_t *map;
    uint64_t body, number; /* bytes under checksums; of the segment */
    uint64_t n;
    uint32_t last_word; /* of the file, when it was opened: a cut file reads as zero there */
    const char *path;   /* owned */
    /* Any thread. */
    struct map_guard guard;
    _Atomic uint64_t *good; /* a bit per block. release/acquire: carries nothing but itself; the
                               bytes it vouches for do not change */
    _Atomic uint64_t n_good;
    atomic_bool all_good;
    _Atomic uint64_t bad; /* 1 + the first block found bad; 0: none */
    atomic_bool told;
};

/* The guard is registered before anything is read. `body` is checked against bytes. */
enum kith_err segment_blocks_guard(struct segment_blocks *blocks, const char *path,
                                   const uint8_t *map, uint64_t bytes, struct kith_diag *diag);
enum kith_err segment_blocks_init(struct segment_blocks *blocks, uint64_t body, uint64_t bytes,
                                  uint64_t number, struct kith_diag *diag);
void segment_blocks_fini(struct segment_blocks *blocks); /* zeroed: fine */

/* Verifies [offset, offset + bytes) as far as needed. False: some of it is bad. */
bool segment_blocks_verify(struct segment_blocks *blocks, uint64_t offset, uint64_t bytes);
static inline bool segment_blocks_need(struct segment_blocks *blocks, uint64_t offset,
                                       uint64_t bytes)
{
    return atomic_load_explicit(&blocks->all_good, memory_order_acquire) ||
           segment_blocks_verify(blocks, offset, bytes);
}
/* A block with these bytes: what a scrubber read from the disk itself. Marks it bad if it is. */
bool segment_blocks_check(struct segment_blocks *blocks, uint64_t index, const uint8_t *bytes);
/* Something else is wrong with the block at this offset. */
void segment_blocks_condemn(struct segment_blocks *blocks, uint64_t offset);
/* KITH_OK, or KITH_CORRUPT for good. */
enum kith_err segment_blocks_verdict(struct segment_blocks *blocks, struct kith_diag *diag);

#endif
