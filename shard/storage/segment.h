/* A sealed segment: one immutable, checksummed, mmap'd file of points.
 *
 * Layout (docs/STORAGE.md): header page, section table, sections aligned to KITH_SECTION_ALIGN, one
 * CRC32C per KITH_SEGMENT_BLOCK over (content, segment number, block number). Little endian. Rows
 * are numbered 0 .. n-1; every section uses the same numbers. Owns: the map and the parsed
 * directory. Threads: any, once open; counted with segment_ref/unref.
 *
 * Opening takes time that does not depend on the rows: the header and the table of checksums are
 * checked, nothing else. Every accessor verifies the blocks it is asked for, once. What fails is
 * remembered for good, and the accessor goes on with bytes that are safe to read and wrong: so a
 * reader asks segment_check after it has read, and believes nothing of what it read if that is not
 * KITH_OK. Errors: a file that fails any check is KITH_CORRUPT, naming file and block; never a
 * crash, never a wrong row that passes segment_check. */
#ifndef SEGMENT_H
#define SEGMENT_H

#include <stdbool.h>
#include <stdint.h>

#include "proto/kith_id.h"
#include "proto/kith_wire.h"
#include "shard/storage/column.h"
#include "shard/storage/io.h"
#include "shard/storage/segment_index.h"
#include "shard/storage/slice_config.h"

struct segment;

uint64_t segment_number(const struct segment *segment);
/* No other segment has, or will have, this one in the life of the process. */
uint64_t segment_serial(const struct segment *segment);
uint32_t segment_rows(const struct segment *segment);
/* Rows [first, first + n), contiguous; all of them begin 4 KiB-aligned. */
const void *segment_row_data(const struct segment *segment, uint32_t first, uint32_t n);
uint32_t
segment_row_bytes(const struct segment *segment); /* stride: dim * element size, no padding */
struct kith_id segment_id(const struct segment *segment, uint32_t row);
uint64_t segment_seq(const struct segment *segment, uint32_t row);
/* Begins to load what these two need of a row into the cache. */
void segment_fetch_name(const struct segment *segment, uint32_t row);
bool segment_find(const struct segment *segment, const struct kith_id *id, uint32_t *row);
uint32_t segment_by_id(const struct segment *segment, uint32_t index); /* row of i-th smallest id */
/* Decompressed payload of a row (msgpack map; empty = none), appended to out. */
enum kith_err segment_payload(const struct segment *segment, uint32_t row, struct kith_buf *out,
                              struct kith_diag *diag);
/* The same for walks in payload order: a block is decompressed once. *out is borrowed from the
 * cache until its next use. Zero-initialise; one owner; it must not outlive the segments it was
 * used on.
 */
struct segment_cache {
    const struct segment *segment; /* whose block is in raw; NULL = none */
    uint32_t block;
    struct kith_buf raw, packed;
};
enum kith_err segment_payload_cached(const struct segment *segment, uint32_t row,
                                     struct segment_cache *cache, struct kith_bytes *out,
                                     struct kith_diag *diag);
void segment_cache_fini(struct segment_cache *cache);
/* All rows, those whose payloads share a block together. rows has room for segment_rows. */
enum kith_err segment_payload_order(const struct segment *segment, uint32_t *rows,
                                    struct kith_diag *diag);
const struct columns *segment_columns(const struct segment *segment);
uint64_t segment_file_bytes(const struct segment *segment);
/* A section of the index (segment_index.h), all of it verified; no bytes: it has none. */
struct kith_bytes segment_index_section(const struct segment *segment, unsigned kind);

/* Where any section lies; nothing is read, nothing verified. Who uses some of it has it verified
 * before by segment_need, whose answer is of use to those only who can stop: false, some of it is
 * damaged, and segment_check says so, too. */
struct kith_bytes segment_place(const struct segment *segment, unsigned kind);
bool segment_need(const struct segment *segment, unsigned kind, uint64_t offset, uint64_t bytes);

/* segment_writer.h writes it. */
enum kith_err segment_open(struct segment **out, struct io *io, const char *dir, uint64_t number,
                           const struct slice_config *config, struct kith_diag *diag);
/* Has the hooks (NULL: none) parse its index; once, before the segment is shared. Closed with the
 * segment. */
enum kith_err segment_index_open(struct segment *segment, const struct segment_index_hooks *hooks,
                                 struct kith_diag *diag);
void *segment_index(const struct segment *segment); /* what the hooks made; NULL: no index */
void segment_ref(struct segment *segment);
void segment_unref(struct segment *segment); /* NULL allowed */
bool segment_is_last_ref(struct segment *segment);

/* What was read of the segment so far can be believed: KITH_OK. Costs about one cache miss. */
enum kith_err segment_check(const struct segment *segment, struct kith_diag *diag);
/* Hears of the bytes that come next; false: stop. */
typedef bool (*segment_go_on_fn)(void *ctx, uint64_t bytes);
/* Reads the file at `path`, which is this segment's, from the disk itself and compares it with the
 * checksums in use. KITH_CORRUPT: quarantined now. KITH_IO, KITH_NOMEM:
 * nothing is known. */
enum kith_err segment_scrub(const struct segment *segment, const char *path, segment_go_on_fn go_on,
                            void *ctx, struct kith_diag *diag);
/* Verifies what nobody has used yet, and so reads it in; go_on may be NULL. One owner of the
 * call at a time is enough, more do no harm. */
enum kith_err segment_verify(const struct segment *segment, segment_go_on_fn go_on, void *ctx,
                             struct kith_diag *diag);
/* The same for what every search reads: the sections of the index. */
enum kith_err segment_index_verify(const struct segment *segment, segment_go_on_fn go_on, void *ctx,
                                   struct kith_diag *diag);
uint64_t segment_index_bytes(const struct segment *segment); /* of these sections */

#endif
