/* A filter being worked out, shared by the files of filter_set.c. Not for others.
 *
 *   filter_set.c   the tree of conditions; segments and heads
 *   filter_leaf.c  one condition, by columns as far as they go
 *   filter_walk.c  what columns cannot decide: payload by payload
 *
 * Sets are of rows of one segment, or of one block of a head. Threads: one for each work. */
#ifndef FILTER_WORK_H
#define FILTER_WORK_H

#include "shard/index/filter_doc.h"
#include "shard/index/filter_set.h"

struct filter_work {
    const struct kith_filter *filter;
    const struct segment *segment; /* NULL: a block of the head */
    const struct view_head *head;
    uint64_t seq;   /* of the view, for the head */
    uint32_t first; /* the head's row that is row 0 here */
    uint32_t n_rows;
    const struct columns *columns;
    struct filter_lists *lists; /* made when the first payload is looked at */
    struct segment_cache cache; /* the payload block at hand: rows are visited in order */
    uint64_t deadline_ms;
    uint32_t looked; /* payloads */
    struct kith_diag *diag;
};

static inline enum kith_err filter_work_out_of_memory(const struct filter_work *work)
{
    return kith_fail(work->diag, KITH_NOMEM, "filter");
}

static inline enum kith_err filter_work_new_set(const struct filter_work *work, struct bitmap **out)
{
    *out = bitmap_new();
    return *out != NULL ? KITH_OK : filter_work_out_of_memory(work);
}

static inline enum kith_err filter_work_copy_set(const struct filter_work *work,
                                                 const struct bitmap *from, struct bitmap **out)
{
    *out = bitmap_copy(from);
    return *out != NULL ? KITH_OK : filter_work_out_of_memory(work);
}

static inline bool filter_work_is_branch(enum kith_filter_kind kind)
{
    return kind == KITH_FILTER_ALL || kind == KITH_FILTER_ANY || kind == KITH_FILTER_NONE ||
           kind == KITH_FILTER_AT_LEAST;
}

/* ---- filter_leaf.c --------------------------------------------------------------------------- */

/* Whether the condition may have to look at many payloads. */
bool filter_leaf_is_dear(const struct filter_work *work, const struct kith_filter_node *node);
/* `into` is empty; it gets the rows of `within` that match the condition `at`. */
enum kith_err filter_leaf_eval(struct filter_work *work, uint32_t at, const struct bitmap *within,
                               struct bitmap *into);

/* ---- filter_walk.c --------------------------------------------------------------------------- */

/* Adds those of `candidates` that match the node to `into`. */
enum kith_err filter_walk_rows(struct filter_work *work, uint32_t node,
                               const struct bitmap *candidates, struct bitmap *into);
/* Adds those of the head's live rows [first, end) that match the filter; numbered as there. */
enum kith_err filter_walk_head(struct filter_work *work, uint32_t first, uint32_t end,
                               struct bitmap *into);

#endif
