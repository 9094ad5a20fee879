/* The inside of a segment, shared by segment.c and segment_payload.c. Nobody else includes it.
 *
 *   segment.c          open, close, rows, names, sections, damage
 *   segment_payload.c  payloads, and the order in which they lie */
#ifndef SEGMENT_STATE_H
#define SEGMENT_STATE_H

#include <stdatomic.h>

#include "shard/storage/segment.h"
#include "shard/storage/segment_blocks.h"
#include "shard/storage/segment_format.h"
#include "shard/storage/segment_names.h"

struct segment {
    /* Immutable after open. */
    struct io *io;
    struct io_file *file;
    const uint8_t *map;
    uint64_t bytes, number, serial;
    uint32_t n_rows, row_bytes, n_slots, n_blocks;
    const uint8_t *parts[SEGMENT_SECTIONS];
    uint64_t part_bytes[SEGMENT_SECTIONS];
    struct segment_names names;
    struct columns *columns;
    /* Any thread; behind a pointer, so that readers of a const segment can verify it. */
    struct segment_blocks *blocks;
    /* Set by segment_index_open, before the segment is shared. */
    void *index;
    void (*close_index)(void *index);
    /* acq_rel on the last drop. */
    atomic_uint refs;
};

#endif
