/* Where the bytes of slices are: on disk, mapped, in memory, kept there; by kind of content.
 *
 *   rows        as they came                  ids       ids, their table and order, seqs
 *   rows8       a byte a dimension            columns   payload fields, for filters
 *   codes       product codes, their terms    payloads  compressed, and where each lies
 *   lists       which rows are in which list  other     headers, checksums, what rounds up
 *   codebook    of each segment, on disk      codebooks each once, on the heap
 *   heads       the newest points, heap       wal       the log; read at start only
 *
 * Owns: nothing. Borrows: views. Threads: any. Errors: none; a page that cannot be asked about
 * counts as away. */
#ifndef MEMORY_H
#define MEMORY_H

#include "proto/kith_msg.h"
#include "shard/storage/view.h"

enum memory_kind {
    MEMORY_ROWS,
    MEMORY_ROWS8,
    MEMORY_CODES,
    MEMORY_LISTS,
    MEMORY_CODEBOOK,
    MEMORY_IDS,
    MEMORY_COLUMNS,
    MEMORY_PAYLOADS,
    MEMORY_OTHER,
    MEMORY_CODEBOOKS,
    MEMORY_HEADS,
    MEMORY_WAL,
    MEMORY_KINDS,
};

struct memory_use {
    uint64_t file, mapped, resident, locked;
};

/* Bytes of a section of the segment with this serial that are kept in memory. */
typedef uint64_t (*memory_locked_fn)(void *ctx, uint64_t serial, unsigned section);

/* Adds what views have; uses: MEMORY_KINDS. locked NULL: nothing is. */
void memory_of_views(struct view *const *views, uint32_t n_views, memory_locked_fn locked,
                     void *ctx, struct memory_use *uses);
const char *memory_name(enum memory_kind kind); /* "rows8" */

#endif
