/* The parts of a view - segments, then heads - behind one face, for operations that treat them
 * alike.
 *
 * Owns: a cursor owns the payload block at hand. Borrows: views. Threads: one per cursor.
 * Errors: those of filters and of reading payloads. */
#ifndef PARTS_H
#define PARTS_H

#include "proto/kith_filter.h"
#include "shard/storage/bitmap.h"
#include "shard/storage/view.h"

/* What an operation is about: the points of some views that match a filter. */
struct parts_scope {
    struct view *const *views;
    uint32_t n_views;
    const struct kith_filter *filter; /* n_nodes == 0: every live point */
    uint64_t deadline_ms;             /* by kith_now_ms; 0: none */
};

/* Part i of a view: i < n_segments is a segment, the rest are heads. */
struct parts_spot {
    const struct view *view;
    uint32_t part;
    uint32_t row;
};

uint32_t parts_count(const struct view *view);
/* The segment of a part; NULL for a head. */
const struct segment *parts_segment(const struct view *view, uint32_t part);
/* The column of a path as a user spells it; a malformed path is ABSENT. */
enum column_find_result parts_column(const struct columns *columns, struct kith_bytes path,
                                     const struct column **out);
uint32_t parts_of_place(const struct view *view, const struct view_place *place);
/* The live rows of one part that match; the caller frees *out. */
enum kith_err parts_match(const struct parts_scope *scope, const struct view *view, uint32_t part,
                          struct bitmap **out, struct kith_diag *diag);

struct parts_row {
    struct kith_id id;
    uint64_t seq;
    const void *row;           /* the vector as stored; aligned to 4 bytes at least */
    struct kith_bytes payload; /* borrowed from the cache or the head */
};

/* False when a row of a head is gone; then nobody should have asked for it. */
bool parts_id(const struct parts_spot *spot, struct kith_id *id);
enum kith_err parts_read(const struct parts_spot *spot, bool with_payload,
                         struct segment_cache *cache, struct parts_row *out,
                         struct kith_diag *diag);

/* Walks the rows of a set in ascending order. Start with {0}. False at the end. */
struct parts_walk {
    uint32_t rows[256];
    size_t at, n;
    uint64_t from;
};
bool parts_next(struct parts_walk *walk, const struct bitmap *set, uint32_t *row);

#endif
