/* What a store asks of the layer above when it writes, opens and judges segments: the order of the
 * rows, the sections of an approximate index beside them, and a parsed index of an open segment.
 *
 * Storage knows neither lists nor codes: sections SEGMENT_INDEX_FIRST and above are opaque bytes
 * here, checksummed and mapped like all others. An index orders the rows of its segment, so that a
 * list is one run of rows and every other section (ids, columns, deletes) uses the same numbers.
 *
 * Owns: the caller owns the hooks; they outlive every store and segment that was given them.
 * Threads: begin, emit and end run on the sealer's or the merger's thread, and begin may call row
 * and stop of its source from several at once; open and close run wherever segments are opened and
 * closed; takes and wants anywhere. All must allow many at once. */
#ifndef SEGMENT_INDEX_H
#define SEGMENT_INDEX_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "proto/kith_err.h"
#include "shard/storage/slice_config.h"

struct segment;

/* Rows that are in a segment already: those numbered first and on are rows[0] and on of it. */
struct segment_origin {
    const struct segment *segment;
    const uint32_t *rows; /* ascending */
    uint32_t first, n;
};
#define SEGMENT_ORIGINS_MAX 16u

/* The rows to be written, numbered as they come. Borrowed until end. */
struct segment_source {
    uint32_t n_rows;
    const void *(*row)(const void *ctx, uint32_t i); /* as stored; 4-byte aligned at least */
    const void *ctx;
    bool (*stop)(const void *ctx); /* true: give up with KITH_CANCELLED; asked every few ms */
    /* Of a merge: where its rows are, ascending. What is in none is in no segment. */
    const struct segment_origin *origins;
    uint32_t n_origins;
};

/* Appends bytes to section `kind`. Sections come in ascending order of kind, each in any number of
 * calls. */
typedef enum kith_err (*segment_emit_fn)(void *ctx, unsigned kind, const void *data, size_t bytes,
                                         struct kith_diag *diag);

/* What a segment would gain by being rewritten now, in ascending order. */
enum index_want {
    INDEX_WANT_NOTHING,
    INDEX_WANT_BETTER, /* it has an index, that serves well until it is merged anyway */
    INDEX_WANT_ANY,    /* it has none, so every search scans it */
};

struct segment_index_hooks {
    void *self;
    /* order[i] = the source's number of what becomes row i, a permutation. *made NULL: no index
     * for this segment, order is untouched and the rows stay as they come. */
    enum kith_err (*begin)(void *self, const struct slice_config *config,
                           const struct segment_source *source, uint32_t *order, void **made,
                           struct kith_diag *diag);
    enum kith_err (*emit)(void *made, segment_emit_fn emit, void *emit_ctx, struct kith_diag *diag);
    void (*end)(void *made); /* always, once, after begin made something */
    /* Parses the index of a segment; *index NULL: it has none. Bytes are checked: KITH_CORRUPT. */
    enum kith_err (*open)(void *self, const struct segment *segment, void **index,
                          struct kith_diag *diag);
    void (*close)(void *index);
    /* True when a segment of so many rows would be given an index if it were written now. */
    bool (*takes)(void *self, uint32_t n_rows);
    enum index_want (*wants)(void *self, const struct segment *segment);
};

#endif
