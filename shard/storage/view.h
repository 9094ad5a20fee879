/* A view: what one query sees of a slice - some segments with their deletes, and heads up to a
 * sequence number.
 *
 * A view never changes. The store publishes a new one after each group of writes; queries take a
 * reference, so a segment that was merged away lives until its last reader is done. Threads: any.
 * Owns: references to its parts. */
#ifndef VIEW_H
#define VIEW_H

#include <stdbool.h>
#include <stdint.h>

#include "shard/storage/bitmap.h"
#include "shard/storage/segment.h"
#include "shard/storage/slice_config.h"

struct head;

#define VIEW_HEADS_MAX 4 /* the active one, and those frozen until they are sealed */

struct view_segment {
    struct segment *segment;
    const struct bitmap
        *deleted;  /* rows that are gone; NULL = none. Copy-on-write: never changes */
    uint32_t live; /* rows - deleted */
};

struct view_head {
    const struct head *head;
    uint32_t rows; /* the view may look at rows [0, rows) */
    uint32_t live;
};

struct view {
    /* Immutable. */
    struct slice_config config;
    uint64_t seq;         /* every write up to this one is visible, no later one is */
    uint64_t live_points; /* over segments and heads */
    uint32_t n_segments;
    struct view_segment *segments; /* largest first */
    uint32_t n_heads;
    struct view_head heads[VIEW_HEADS_MAX]; /* oldest first */
};

void view_ref(struct view *view);
void view_unref(struct view *view);

/* One row of a head; rows are in order of writing, append only. */
struct head_row {
    const struct kith_id *id;
    uint64_t seq;
    const void *row; /* dim elements of the slice's row type, 4-byte aligned at least */
    struct kith_bytes payload;
};
/* False when the row is deleted or replaced as of `seq`. Safe while the writer appends. */
bool head_row_at(const struct head *head, uint32_t row, uint64_t seq, struct head_row *out);
bool head_row_live(const struct head *head, uint32_t row, uint64_t seq);
/* No other head has, or will have, this one in the life of the process. */
uint64_t head_serial(const struct head *head);
/* Runs of contiguous vectors, for scans: the address of row `first` and how many rows there are in
 * one piece from there on; clip them to the rows of the view. */
const void *head_run(const struct head *head, uint32_t first, uint32_t *n_rows);
/* A short form of every row, kept beside it, of which a layer above makes sense (sketch.h). */
struct head_sketch {
    uint32_t bytes; /* of one, a multiple of 64; 0: there are none */
    void (*make)(const void *row, uint32_t row_bytes, uint8_t *out);
};
/* Those of the rows of head_run, one after the other; NULL: there are none. */
const uint8_t *head_sketches(const struct head *head, uint32_t first);
/* The row, gone or not. */
void head_row_get(const struct head *head, uint32_t row, struct head_row *out);
/* The row with this id among [0, rows) that is live as of `seq`. */
bool head_find(const struct head *head, const struct kith_id *id, uint32_t rows, uint64_t seq,
               uint32_t *row);
/* Columns of a block of rows that the view covers (shard/storage/head_columns.h); NULL: not now,
 * look at the payloads. */
#define HEAD_BLOCK_ROWS 1024u /* at most so many rows are filtered by payload: about 1 ms */
const struct columns *head_block(const struct head *head, uint32_t block);

/* Where a live point is; false when the view has none with this id. */
struct view_place {
    bool in_head;
    uint32_t part; /* index into segments or heads */
    uint32_t row;
};
bool view_find(const struct view *view, const struct kith_id *id, struct view_place *out);

/* The last step of everything that reads views: `err`, unless some segment turned out damaged while
 * it was read; then KITH_CORRUPT, because nothing that was read can be believed. */
static inline enum kith_err view_verdict(struct view *const *views, uint32_t n_views,
                                         enum kith_err err, struct kith_diag *diag)
{
    for (uint32_t v = 0; v < n_views; v++)
        for (uint32_t i = 0; i < views[v]->n_segments; i++) {
            enum kith_err found = segment_check(views[v]->segments[i].segment, diag);
            if (found != KITH_OK)
                return found;
        }
    return err;
}

#endif
