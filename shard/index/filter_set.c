#include "shard/index/filter_set.h"

/* Filters as set algebra over the rows of one segment, or of one block of a head.
 *
 * eval(node, within) gives the rows of `within` that match the node. Passing the rows that still
 * matter downwards, instead of intersecting at the end, is what keeps conditions affordable that
 * must look at payloads: in a conjunction the children that columns answer run first, and only the
 * survivors are decompressed.
 *
 * A leaf that columns answer costs a binary search and a few container operations. A leaf that they
 * cannot answer (filter_leaf_is_dear) is decided by filter_doc on rows in ascending order. For
 * nested conditions filter_leaf.c computes a superset first: an object that satisfies all
 * conditions at once lies in a row where each condition is satisfied by some object.
 *
 * A head is taken block by block, since its blocks have columns too; rows after the last whole
 * block, and blocks whose columns are not there, are walked. Rows that are gone are in the columns
 * and never in `within`.
 *
 * Lost: evaluating everything by payload below some number of survivors. A leaf costs microseconds
 * anyway, a payload block tens of them. */

#include "shard/index/filter_work.h"

/* ---- the tree ------------------------------------------------------------------------------ */

static enum kith_err eval(struct filter_work *work, uint32_t at, const struct bitmap *within,
                          struct bitmap **out);

/* Whether the node may have to look at many payloads. */
static bool dear(const struct filter_work *work, uint32_t at)
{
    const struct kith_filter_node *node = &work->filter->nodes[at];
    if (!filter_work_is_branch(node->kind))
        return filter_leaf_is_dear(work, node);
    for (uint32_t child = node->first_child; child != KITH_FILTER_NO_NODE;
         child = work->filter->nodes[child].next_sibling)
        if (dear(work, child))
            return true;
    return false;
}

/* Calls eval for each child, the cheap ones first; `rest` shrinks to what matters: the rows all
 * children match (ALL), or no child yet (ANY, NONE). */
static enum kith_err shrink(struct filter_work *work, const struct kith_filter_node *node,
                            struct bitmap *rest)
{
    enum kith_err err = KITH_OK;
    for (int round = 0; round < 2; round++)
        for (uint32_t child = node->first_child; err == KITH_OK && child != KITH_FILTER_NO_NODE;
             child = work->filter->nodes[child].next_sibling) {
            struct bitmap *set = NULL;
            if (dear(work, child) != (round == 1) || bitmap_empty(rest))
                continue;
            err = eval(work, child, rest, &set);
            if (err == KITH_OK && node->kind == KITH_FILTER_ALL)
                bitmap_and(rest, set);
            else if (err == KITH_OK)
                bitmap_andnot(rest, set);
            bitmap_free(set);
        }
    return err;
}

/* levels[i]: rows that matched more than i children so far. */
static enum kith_err count_up(struct filter_work *work, const struct kith_filter_node *node,
                              const struct bitmap *within, struct bitmap **levels)
{
    enum kith_err err = KITH_OK;
    for (uint32_t i = 0; err == KITH_OK && i < node->min_count; i++)
        err = filter_work_new_set(work, &levels[i]);
    for (uint32_t child = node->first_child; err == KITH_OK && child != KITH_FILTER_NO_NODE;
         child = work->filter->nodes[child].next_sibling) {
        struct bitmap *set = NULL;
        err = eval(work, child, within, &set);
        for (uint32_t i = node->min_count - 1; err == KITH_OK && i > 0; i--) {
            struct bitmap *more = NULL;
            if ((err = filter_work_copy_set(work, levels[i - 1], &more)) != KITH_OK)
                break;
            bitmap_and(more, set);
            bitmap_or(levels[i], more);
            bitmap_free(more);
        }
        if (err == KITH_OK)
            bitmap_or(levels[0], set);
        bitmap_free(set);
    }
    return err;
}

static enum kith_err at_least(struct filter_work *work, const struct kith_filter_node *node,
                              const struct bitmap *within, struct bitmap **out)
{
    struct bitmap *levels[KITH_FILTER_NODES_MAX] = {0};
    uint32_t n = 0;
    if (node->min_count == 0)
        return filter_work_copy_set(work, within, out);
    for (uint32_t child = node->first_child; child != KITH_FILTER_NO_NODE;
         child = work->filter->nodes[child].next_sibling)
        n++;
    if (node->min_count > n)
        return filter_work_new_set(work, out);
    enum kith_err err = count_up(work, node, within, levels);
    if (err == KITH_OK) {
        *out = levels[node->min_count - 1];
        levels[node->min_count - 1] = NULL;
    }
    for (uint32_t i = 0; i < node->min_count; i++)
        bitmap_free(levels[i]);
    return err;
}

static enum kith_err branch(struct filter_work *work, const struct kith_filter_node *node,
                            const struct bitmap *within, struct bitmap **out)
{
    struct bitmap *rest = NULL;
    if (node->kind == KITH_FILTER_AT_LEAST)
        return at_least(work, node, within, out);
    enum kith_err err = filter_work_copy_set(work, within, &rest);
    if (err == KITH_OK)
        err = shrink(work, node, rest);
    if (err == KITH_OK && node->kind == KITH_FILTER_ANY) {
        err = filter_work_copy_set(work, within, out);
        if (err == KITH_OK)
            bitmap_andnot(*out, rest);
    } else if (err == KITH_OK) {
        *out = rest;
        rest = NULL;
    }
    bitmap_free(rest);
    return err;
}

/* On failure *out stays NULL. */
static enum kith_err eval(struct filter_work *work, uint32_t at, const struct bitmap *within,
                          struct bitmap **out)
{
    if (filter_work_is_branch(work->filter->nodes[at].kind))
        return branch(work, &work->filter->nodes[at], within, out);
    struct bitmap *set = NULL;
    enum kith_err err = filter_work_new_set(work, &set);
    if (err == KITH_OK)
        err = filter_leaf_eval(work, at, within, set);
    if (err != KITH_OK) {
        bitmap_free(set);
        return err;
    }
    *out = set;
    return KITH_OK;
}

enum kith_err filter_segment(const struct kith_filter *filter, const struct view *view,
                             uint32_t segment_index, uint64_t deadline_ms, struct bitmap **out,
                             struct kith_diag *diag)
{
    kith_assert(segment_index < view->n_segments);
    const struct view_segment *part = &view->segments[segment_index];
    struct filter_work work = {
        .filter = filter, .segment = part->segment, .deadline_ms = deadline_ms, .diag = diag};
    struct bitmap *live = NULL;
    struct bitmap *set = NULL;
    enum kith_err err = filter_work_new_set(&work, &live);
    if (err != KITH_OK)
        return err;
    work.columns = segment_columns(part->segment);
    work.n_rows = segment_rows(part->segment);
    bitmap_add_range(live, 0, work.n_rows);
    if (part->deleted != NULL)
        bitmap_andnot(live, part->deleted);
    if (filter->n_nodes == 0) {
        set = live;
        live = NULL;
    } else {
        err = eval(&work, 0, live, &set);
    }
    bitmap_free(live);
    filter_lists_free(work.lists);
    segment_cache_fini(&work.cache);
    if (err == KITH_OK)
        *out = set;
    return err;
}

/* ---- heads --------------------------------------------------------------------------------- */

static void add_shifted(struct bitmap *into, const struct bitmap *set, uint32_t by)
{
    uint32_t rows[256];
    uint32_t from = 0;
    size_t n;
    while ((n = bitmap_read(set, from, rows, 256)) > 0) {
        from = rows[n - 1] + 1; /* below HEAD_BLOCK_ROWS: does not wrap */
        for (size_t i = 0; i < n; i++)
            rows[i] += by;
        bitmap_add_many(into, n, rows);
    }
}

/* The block that starts at work->first, by its columns. */
static enum kith_err eval_block(struct filter_work *work, struct bitmap *into)
{
    uint64_t words[HEAD_BLOCK_ROWS / 64] = {0};
    struct bitmap *live = NULL;
    struct bitmap *set = NULL;
    for (uint32_t i = 0; i < HEAD_BLOCK_ROWS; i++)
        if (head_row_live(work->head->head, work->first + i, work->seq))
            words[i / 64] |= UINT64_C(1) << i % 64;
    enum kith_err err = filter_work_new_set(work, &live);
    if (err == KITH_OK) {
        bitmap_add_words(live, words, HEAD_BLOCK_ROWS / 64);
        err = eval(work, 0, live, &set);
    }
    if (err == KITH_OK)
        add_shifted(into, set, work->first);
    bitmap_free(set);
    bitmap_free(live);
    return err;
}

enum kith_err filter_head(const struct kith_filter *filter, const struct view *view,
                          uint32_t head_index, uint64_t deadline_ms, struct bitmap **out,
                          struct kith_diag *diag)
{
    kith_assert(head_index < view->n_heads);
    const struct view_head *part = &view->heads[head_index];
    struct filter_work work = {.filter = filter,
                               .head = part,
                               .seq = view->seq,
                               .n_rows = HEAD_BLOCK_ROWS,
                               .deadline_ms = deadline_ms,
                               .diag = diag};
    struct bitmap *set = NULL;
    uint32_t whole = part->rows / HEAD_BLOCK_ROWS;
    enum kith_err err = filter_work_new_set(&work, &set);
    for (uint32_t i = 0; err == KITH_OK && i < whole; i++) {
        work.first = i * HEAD_BLOCK_ROWS;
        work.columns = filter->n_nodes > 0 ? head_block(part->head, i) : NULL;
        err = work.columns != NULL
                  ? eval_block(&work, set)
                  : filter_walk_head(&work, work.first, work.first + HEAD_BLOCK_ROWS, set);
    }
    if (err == KITH_OK)
        err = filter_walk_head(&work, whole * HEAD_BLOCK_ROWS, part->rows, set);
    filter_lists_free(work.lists);
    if (err != KITH_OK) {
        bitmap_free(set);
        return err;
    }
    *out = set;
    return KITH_OK;
}
