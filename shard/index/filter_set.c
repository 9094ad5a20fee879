#include "shard/index/filter_set.h"

/* Filters as set algebra over the rows of one segment, or of one block of a head.
 *
 * eval(node, within) gives the rows of `within` that match the node. Passing the rows that still
 * matter downwards, instead of intersecting at the end, is what keeps conditions affordable that
 * must look at payloads: in a conjunction the children that columns answer run first, and only the
 * survivors are decompressed.
 *
 * A leaf that columns answer costs a binary search and a few container operations. A leaf that they
 * cannot answer (dear()) is decided by filter_doc on rows in ascending order. For nested
 * conditions upper() computes a superset first: an object that satisfies all conditions at once
 * lies in a row where each condition is satisfied by some object.
 *
 * A head is taken block by block, since its blocks have columns too; rows after the last whole
 * block, and blocks whose columns are not there, are walked. Rows that are gone are in the columns
 * and never in `within`.
 *
 * Lost: evaluating everything by payload below some number of survivors. A leaf costs microseconds
 * anyway, a payload block tens of them. */

#include "common/kith_clock.h"
#include "common/kith_mem.h"
#include "shard/index/filter_doc.h"
#include "shard/storage/field_path.h"

#define SORT_LISTS_ABOVE 8u  /* shorter lists are as fast unsorted */
#define LOOKS_AT_ONCE    16u /* payloads between two looks at the clock */
#define LOOK_UP_IDS_MAX  64u /* more ids than this: cheaper to walk a block than to look up each */

struct work {
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

static enum kith_err out_of_memory(const struct work *work)
{
    return kith_fail(work->diag, KITH_NOMEM, "filter");
}

static enum kith_err new_set(const struct work *work, struct bitmap **out)
{
    *out = bitmap_new();
    return *out != NULL ? KITH_OK : out_of_memory(work);
}

static enum kith_err copy_set(const struct work *work, const struct bitmap *from,
                              struct bitmap **out)
{
    *out = bitmap_copy(from);
    return *out != NULL ? KITH_OK : out_of_memory(work);
}

/* ---- payload by payload -------------------------------------------------------------------- */

/* Asked before each payload; a payload may be a megabyte, a look at the clock is nothing beside 16
 * small ones. */
static enum kith_err in_time(struct work *work)
{
    if (work->deadline_ms == 0 || work->looked++ % LOOKS_AT_ONCE != 0 ||
        kith_now_ms() < work->deadline_ms)
        return KITH_OK;
    return kith_fail(work->diag, KITH_TIMEOUT, "the filter took longer than its deadline");
}

static enum kith_err make_lists(struct work *work)
{
    if (work->lists != NULL || work->filter->n_values <= SORT_LISTS_ABOVE)
        return KITH_OK;
    return filter_lists_new(&work->lists, work->filter, work->diag);
}

static enum kith_err look(struct work *work, uint32_t row, struct kith_id *id,
                          struct kith_bytes *payload)
{
    if (work->segment != NULL) {
        *id = segment_id(work->segment, row);
        return segment_payload_cached(work->segment, row, &work->cache, payload, work->diag);
    }
    struct head_row found;
    head_row_get(work->head->head, work->first + row, &found);
    *id = *found.id;
    *payload = found.payload;
    return KITH_OK;
}

/* Adds those of `candidates` that match to `into`. */
static enum kith_err walk(struct work *work, uint32_t node, const struct bitmap *candidates,
                          struct bitmap *into)
{
    uint32_t rows[256];
    uint32_t from = 0;
    size_t n;
    enum kith_err err = make_lists(work);
    while (err == KITH_OK && (n = bitmap_read(candidates, from, rows, 256)) > 0) {
        for (size_t i = 0; err == KITH_OK && i < n; i++) {
            struct kith_id id;
            struct kith_bytes payload = {0};
            err = in_time(work);
            if (err == KITH_OK)
                err = look(work, rows[i], &id, &payload);
            if (err == KITH_OK && filter_doc_node(work->filter, work->lists, node, &id, payload))
                bitmap_add(into, rows[i]);
        }
        if (rows[n - 1] == UINT32_MAX)
            break;
        from = rows[n - 1] + 1;
    }
    return err;
}

/* ---- leaves -------------------------------------------------------------------------------- */

static bool is_branch(enum kith_filter_kind kind)
{
    return kind == KITH_FILTER_ALL || kind == KITH_FILTER_ANY || kind == KITH_FILTER_NONE ||
           kind == KITH_FILTER_AT_LEAST;
}

/* The column of a key, below an array of objects when prefix is not empty. */
static enum column_find_result find(const struct work *work, struct kith_bytes prefix,
                                    struct kith_bytes key, const struct column **out)
{
    struct field_path_text path;
    enum field_path_form form = field_path_normal(prefix, key, &path);
    if (form == FIELD_PATH_INVALID)
        return COLUMN_ABSENT;
    if (form == FIELD_PATH_ODD)
        return COLUMN_NOT_INDEXED;
    return columns_find(work->columns, (struct kith_bytes){(const uint8_t *)path.text, path.len},
                        out);
}

/* Adds the rows that have a listed value. *has_long: the list has a string that dictionaries do not
 * keep. */
static bool add_listed(const struct kith_filter_node *node, const struct column *column,
                       struct bitmap *into, bool *has_long)
{
    struct kith_cursor c = kith_cursor_of(node->values.data, node->values.len);
    struct kith_value value;
    bool ok = true;
    *has_long = false;
    for (uint32_t i = 0; ok && i < node->n_values && kith_read_value(&c, &value); i++) {
        if (value.type == KITH_WIRE_BOOL)
            ok = column_add(column, value.boolean ? COLUMN_TRUE : COLUMN_FALSE, into);
        else if (value.type == KITH_WIRE_INT && (value.negative || value.u <= INT64_MAX))
            ok = column_match_i64(column, value.negative ? value.i : (int64_t)value.u, into);
        else if (value.type == KITH_WIRE_STR && value.bytes.len <= COLUMN_TERM_MAX)
            ok = column_match_keyword(column, value.bytes, into);
        else if (value.type == KITH_WIRE_STR)
            *has_long = true;
    }
    return ok;
}

static bool add_range(const struct kith_filter_node *node, const struct column *column,
                      struct bitmap *into)
{
    const struct column_range range = {node->has_low,   node->has_high, node->low_open,
                                       node->high_open, node->low,      node->high};
    const struct column_time_range times = {node->has_low,   node->has_high, node->low_open,
                                            node->high_open, node->low_us,   node->high_us};
    return node->kind == KITH_FILTER_RANGE ? column_match_range(column, &range, into)
                                           : column_match_time(column, &times, into);
}

/* set = members of column's set within `within`. */
static enum kith_err set_within(struct work *work, const struct column *column,
                                enum column_set which, const struct bitmap *within,
                                struct bitmap **out)
{
    enum kith_err err = new_set(work, out);
    if (err != KITH_OK)
        return err;
    if (!column_add(column, which, *out))
        return out_of_memory(work);
    bitmap_and(*out, within);
    return KITH_OK;
}

static enum kith_err match_any(struct work *work, uint32_t at, const struct column *column,
                               const struct bitmap *within, struct bitmap *into)
{
    struct bitmap *candidates = NULL;
    bool has_long;
    enum kith_err err = KITH_OK;
    if (!add_listed(&work->filter->nodes[at], column, into, &has_long))
        return out_of_memory(work);
    bitmap_and(into, within);
    if (has_long) {
        err = set_within(work, column, COLUMN_LONG, within, &candidates);
        if (err == KITH_OK)
            err = walk(work, at, candidates, into);
    }
    bitmap_free(candidates);
    return err;
}

/* A row matches if it has a value outside the list. No listed value at all: then any value will do.
 * Some listed value: only a row with several values can have one outside; its payload tells. */
static enum kith_err match_except(struct work *work, uint32_t at, const struct column *column,
                                  const struct bitmap *within, struct bitmap *into)
{
    struct bitmap *listed = NULL;
    struct bitmap *open = NULL; /* rows to look at */
    bool has_long;
    enum kith_err err = new_set(work, &listed);
    if (err == KITH_OK)
        err = set_within(work, column, COLUMN_MULTI, within, &open);
    if (err == KITH_OK && (!add_listed(&work->filter->nodes[at], column, listed, &has_long) ||
                           !column_add(column, COLUMN_VALUED, into)))
        err = out_of_memory(work);
    if (err != KITH_OK)
        goto out;
    bitmap_and(into, within);
    bitmap_and(open, listed);
    bitmap_andnot(into, listed);
    if (has_long) {
        bitmap_free(listed);
        listed = NULL;
        if ((err = set_within(work, column, COLUMN_LONG, within, &listed)) != KITH_OK)
            goto out;
        bitmap_or(open, listed);
        bitmap_andnot(into, listed);
    }
    err = walk(work, at, open, into);
out:
    bitmap_free(listed);
    bitmap_free(open);
    return err;
}

static bool has_bracket(struct kith_bytes path)
{
    for (size_t i = 0; i < path.len; i++)
        if (path.data[i] == '[')
            return true;
    return false;
}

static bool one_is_enough(const struct kith_filter_node *node)
{
    if (node->has_low && (node->low_open ? 1 <= node->low : 1 < node->low))
        return false;
    return !node->has_high || (node->high_open ? 1 < node->high : 1 <= node->high);
}

/* Without "[]" in the path a row has one such field; if that is not null, holds no null and not
 * several values, it counts one. All other rows are looked at. */
static enum kith_err values_count(struct work *work, uint32_t at, const struct column *column,
                                  const struct bitmap *within, struct bitmap *into)
{
    const struct kith_filter_node *node = &work->filter->nodes[at];
    struct bitmap *open = NULL;
    struct bitmap *single = NULL;
    struct bitmap *other = NULL;
    enum kith_err err = set_within(work, column, COLUMN_EXISTS, within, &open);
    if (err == KITH_OK && !has_bracket(node->key)) {
        err = set_within(work, column, COLUMN_PRESENT, within, &single);
        if (err == KITH_OK)
            err = new_set(work, &other);
        if (err == KITH_OK &&
            (!column_add(column, COLUMN_MULTI, other) || !column_add(column, COLUMN_NULL, other)))
            err = out_of_memory(work);
        if (err == KITH_OK) {
            bitmap_andnot(single, other);
            bitmap_andnot(open, single);
            if (one_is_enough(node))
                bitmap_or(into, single);
        }
    }
    if (err == KITH_OK)
        err = walk(work, at, open, into);
    bitmap_free(other);
    bitmap_free(single);
    bitmap_free(open);
    return err;
}

/* `into` is empty; it gets the rows of `within` that match. */
static enum kith_err by_column(struct work *work, uint32_t at, const struct column *column,
                               const struct bitmap *within, struct bitmap *into)
{
    const struct kith_filter_node *node = &work->filter->nodes[at];
    bool ok;
    switch (node->kind) {
    case KITH_FILTER_MATCH_ANY:
        return match_any(work, at, column, within, into);
    case KITH_FILTER_MATCH_EXCEPT:
        return match_except(work, at, column, within, into);
    case KITH_FILTER_VALUES_COUNT:
        return values_count(work, at, column, within, into);
    case KITH_FILTER_IS_EMPTY:
        ok = column_add(column, COLUMN_PRESENT, into);
        bitmap_flip(into, work->n_rows);
        break;
    case KITH_FILTER_IS_NULL:
        ok = column_add(column, COLUMN_NULL, into);
        break;
    default:
        ok = add_range(node, column, into);
        break;
    }
    if (!ok)
        return out_of_memory(work);
    bitmap_and(into, within);
    return KITH_OK;
}

static bool find_id(const struct work *work, const struct kith_id *id, uint32_t *row)
{
    if (work->segment != NULL)
        return segment_find(work->segment, id, row);
    if (!head_find(work->head->head, id, work->head->rows, work->seq, row) || *row < work->first)
        return false;
    *row -= work->first;
    return *row < work->n_rows;
}

static enum kith_err has_id(struct work *work, uint32_t at, const struct bitmap *within,
                            struct bitmap *into)
{
    const struct kith_filter_node *node = &work->filter->nodes[at];
    struct kith_cursor c = kith_cursor_of(node->values.data, node->values.len);
    struct kith_id id;
    uint32_t row;
    if (work->segment == NULL && node->n_values > LOOK_UP_IDS_MAX)
        return walk(work, at, within, into);
    for (uint32_t i = 0; i < node->n_values && kith_filter_read_id(&c, &id); i++)
        if (find_id(work, &id, &row) && bitmap_contains(within, row))
            bitmap_add(into, row);
    return KITH_OK;
}

/* ---- nested: a superset by columns --------------------------------------------------------- */

static enum kith_err upper(struct work *work, uint32_t at, struct kith_bytes prefix,
                           struct bitmap **out);

static enum kith_err upper_leaf(struct work *work, const struct kith_filter_node *node,
                                struct kith_bytes prefix, struct bitmap **out)
{
    const struct column *column;
    bool ok = true;
    bool has_long = false;
    if (node->kind != KITH_FILTER_MATCH_ANY && node->kind != KITH_FILTER_MATCH_EXCEPT &&
        node->kind != KITH_FILTER_RANGE && node->kind != KITH_FILTER_TIME_RANGE &&
        node->kind != KITH_FILTER_IS_NULL)
        return KITH_OK; /* *out stays NULL: says nothing */
    enum column_find_result found = find(work, prefix, node->key, &column);
    if (found == COLUMN_NOT_INDEXED)
        return KITH_OK;
    enum kith_err err = new_set(work, out);
    if (err != KITH_OK || found == COLUMN_ABSENT)
        return err;
    if (node->kind == KITH_FILTER_MATCH_ANY)
        ok = add_listed(node, column, *out, &has_long) &&
             (!has_long || column_add(column, COLUMN_LONG, *out));
    else if (node->kind == KITH_FILTER_MATCH_EXCEPT)
        ok = column_add(column, COLUMN_VALUED, *out);
    else if (node->kind == KITH_FILTER_IS_NULL)
        ok = column_add(column, COLUMN_NULL, *out);
    else
        ok = add_range(node, column, *out);
    return ok ? KITH_OK : out_of_memory(work);
}

/* ALL: what every child allows. ANY, AT_LEAST 1 or more: what some child allows, if all can say. */
static enum kith_err upper_branch(struct work *work, const struct kith_filter_node *node,
                                  struct kith_bytes prefix, struct bitmap **out)
{
    bool all = node->kind == KITH_FILTER_ALL;
    enum kith_err err = KITH_OK;
    if (node->kind == KITH_FILTER_NONE ||
        (node->kind == KITH_FILTER_AT_LEAST && node->min_count == 0))
        return KITH_OK;
    for (uint32_t child = node->first_child; err == KITH_OK && child != KITH_FILTER_NO_NODE;
         child = work->filter->nodes[child].next_sibling) {
        struct bitmap *set = NULL;
        err = upper(work, child, prefix, &set);
        if (err == KITH_OK && set == NULL && !all) {
            bitmap_free(*out);
            *out = NULL;
            return KITH_OK;
        }
        if (err == KITH_OK && set != NULL && *out != NULL) {
            if (all)
                bitmap_and(*out, set);
            else
                bitmap_or(*out, set);
        } else if (*out == NULL) {
            *out = set;
            set = NULL;
        }
        bitmap_free(set);
    }
    return err;
}

static enum kith_err upper_nested(struct work *work, const struct kith_filter_node *node,
                                  struct kith_bytes prefix, struct bitmap **out)
{
    struct field_path_text path;
    const struct column *column;
    enum column_find_result found = find(work, prefix, node->key, &column);
    if (found == COLUMN_ABSENT)
        return new_set(work, out);
    if (found == COLUMN_NOT_INDEXED ||
        field_path_normal(prefix, node->key, &path) != FIELD_PATH_PLAIN)
        return KITH_OK;
    enum kith_err err = upper(work, node->first_child,
                              (struct kith_bytes){(const uint8_t *)path.text, path.len}, out);
    if (err == KITH_OK && *out == NULL) {
        err = new_set(work, out);
        if (err == KITH_OK && !column_add(column, COLUMN_VALUED, *out))
            err = out_of_memory(work);
    }
    return err;
}

/* A superset of the rows that hold an object, in the array `prefix`, satisfying the node; NULL =
 * any row may. Also on failure *out is the caller's. */
static enum kith_err upper(struct work *work, uint32_t at, struct kith_bytes prefix,
                           struct bitmap **out)
{
    const struct kith_filter_node *node = &work->filter->nodes[at];
    if (is_branch(node->kind))
        return upper_branch(work, node, prefix, out);
    if (node->kind == KITH_FILTER_NESTED)
        return upper_nested(work, node, prefix, out);
    return upper_leaf(work, node, prefix, out);
}

static enum kith_err nested(struct work *work, uint32_t at, const struct bitmap *within,
                            struct bitmap *into)
{
    struct bitmap *candidates = NULL;
    enum kith_err err =
        upper_nested(work, &work->filter->nodes[at], (struct kith_bytes){0}, &candidates);
    if (err == KITH_OK && candidates != NULL)
        bitmap_and(candidates, within);
    if (err == KITH_OK)
        err = walk(work, at, candidates != NULL ? candidates : within, into);
    bitmap_free(candidates);
    return err;
}

/* ---- the tree ------------------------------------------------------------------------------ */

static enum kith_err eval(struct work *work, uint32_t at, const struct bitmap *within,
                          struct bitmap **out);

/* Whether the node may have to look at many payloads. */
static bool dear(const struct work *work, uint32_t at)
{
    const struct kith_filter_node *node = &work->filter->nodes[at];
    const struct column *column;
    if (node->kind == KITH_FILTER_HAS_ID)
        return false;
    if (node->kind == KITH_FILTER_NESTED || node->kind == KITH_FILTER_VALUES_COUNT)
        return true;
    if (!is_branch(node->kind))
        return find(work, (struct kith_bytes){0}, node->key, &column) == COLUMN_NOT_INDEXED;
    for (uint32_t child = node->first_child; child != KITH_FILTER_NO_NODE;
         child = work->filter->nodes[child].next_sibling)
        if (dear(work, child))
            return true;
    return false;
}

/* Calls eval for each child, the cheap ones first; `rest` shrinks to what matters: the rows all
 * children match (ALL), or no child yet (ANY, NONE). */
static enum kith_err shrink(struct work *work, const struct kith_filter_node *node,
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
static enum kith_err count_up(struct work *work, const struct kith_filter_node *node,
                              const struct bitmap *within, struct bitmap **levels)
{
    enum kith_err err = KITH_OK;
    for (uint32_t i = 0; err == KITH_OK && i < node->min_count; i++)
        err = new_set(work, &levels[i]);
    for (uint32_t child = node->first_child; err == KITH_OK && child != KITH_FILTER_NO_NODE;
         child = work->filter->nodes[child].next_sibling) {
        struct bitmap *set = NULL;
        err = eval(work, child, within, &set);
        for (uint32_t i = node->min_count - 1; err == KITH_OK && i > 0; i--) {
            struct bitmap *more = NULL;
            if ((err = copy_set(work, levels[i - 1], &more)) != KITH_OK)
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

static enum kith_err at_least(struct work *work, const struct kith_filter_node *node,
                              const struct bitmap *within, struct bitmap **out)
{
    struct bitmap *levels[KITH_FILTER_NODES_MAX] = {0};
    uint32_t n = 0;
    if (node->min_count == 0)
        return copy_set(work, within, out);
    for (uint32_t child = node->first_child; child != KITH_FILTER_NO_NODE;
         child = work->filter->nodes[child].next_sibling)
        n++;
    if (node->min_count > n)
        return new_set(work, out);
    enum kith_err err = count_up(work, node, within, levels);
    if (err == KITH_OK) {
        *out = levels[node->min_count - 1];
        levels[node->min_count - 1] = NULL;
    }
    for (uint32_t i = 0; i < node->min_count; i++)
        bitmap_free(levels[i]);
    return err;
}

static enum kith_err branch(struct work *work, const struct kith_filter_node *node,
                            const struct bitmap *within, struct bitmap **out)
{
    struct bitmap *rest = NULL;
    if (node->kind == KITH_FILTER_AT_LEAST)
        return at_least(work, node, within, out);
    enum kith_err err = copy_set(work, within, &rest);
    if (err == KITH_OK)
        err = shrink(work, node, rest);
    if (err == KITH_OK && node->kind == KITH_FILTER_ANY) {
        err = copy_set(work, within, out);
        if (err == KITH_OK)
            bitmap_andnot(*out, rest);
    } else if (err == KITH_OK) {
        *out = rest;
        rest = NULL;
    }
    bitmap_free(rest);
    return err;
}

static enum kith_err leaf(struct work *work, uint32_t at, const struct bitmap *within,
                          struct bitmap *into)
{
    const struct kith_filter_node *node = &work->filter->nodes[at];
    const struct column *column;
    if (node->kind == KITH_FILTER_HAS_ID)
        return has_id(work, at, within, into);
    if (node->kind == KITH_FILTER_NESTED)
        return nested(work, at, within, into);
    switch (find(work, (struct kith_bytes){0}, node->key, &column)) {
    case COLUMN_FOUND:
        return by_column(work, at, column, within, into);
    case COLUMN_ABSENT:
        if (node->kind == KITH_FILTER_IS_EMPTY)
            bitmap_or(into, within);
        return KITH_OK;
    default:
        return walk(work, at, within, into);
    }
}

/* On failure *out stays NULL. */
static enum kith_err eval(struct work *work, uint32_t at, const struct bitmap *within,
                          struct bitmap **out)
{
    if (is_branch(work->filter->nodes[at].kind))
        return branch(work, &work->filter->nodes[at], within, out);
    struct bitmap *set = NULL;
    enum kith_err err = new_set(work, &set);
    if (err == KITH_OK)
        err = leaf(work, at, within, set);
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
    struct work work = {
        .filter = filter, .segment = part->segment, .deadline_ms = deadline_ms, .diag = diag};
    struct bitmap *live = NULL;
    struct bitmap *set = NULL;
    enum kith_err err = new_set(&work, &live);
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

static enum kith_err walk_head(struct work *work, uint32_t first, uint32_t end, struct bitmap *into)
{
    enum kith_err err = first < end ? make_lists(work) : KITH_OK;
    for (uint32_t row = first; err == KITH_OK && row < end; row++) {
        struct head_row found;
        err = in_time(work);
        if (err == KITH_OK && head_row_at(work->head->head, row, work->seq, &found) &&
            filter_doc(work->filter, work->lists, found.id, found.payload))
            bitmap_add(into, row);
    }
    return err;
}

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
static enum kith_err eval_block(struct work *work, struct bitmap *into)
{
    uint64_t words[HEAD_BLOCK_ROWS / 64] = {0};
    struct bitmap *live = NULL;
    struct bitmap *set = NULL;
    for (uint32_t i = 0; i < HEAD_BLOCK_ROWS; i++)
        if (head_row_live(work->head->head, work->first + i, work->seq))
            words[i / 64] |= UINT64_C(1) << i % 64;
    enum kith_err err = new_set(work, &live);
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
    struct work work = {.filter = filter,
                        .head = part,
                        .seq = view->seq,
                        .n_rows = HEAD_BLOCK_ROWS,
                        .deadline_ms = deadline_ms,
                        .diag = diag};
    struct bitmap *set = NULL;
    uint32_t whole = part->rows / HEAD_BLOCK_ROWS;
    enum kith_err err = new_set(&work, &set);
    for (uint32_t i = 0; err == KITH_OK && i < whole; i++) {
        work.first = i * HEAD_BLOCK_ROWS;
        work.columns = filter->n_nodes > 0 ? head_block(part->head, i) : NULL;
        err = work.columns != NULL
                  ? eval_block(&work, set)
                  : walk_head(&work, work.first, work.first + HEAD_BLOCK_ROWS, set);
    }
    if (err == KITH_OK)
        err = walk_head(&work, whole * HEAD_BLOCK_ROWS, part->rows, set);
    filter_lists_free(work.lists);
    if (err != KITH_OK) {
        bitmap_free(set);
        return err;
    }
    *out = set;
    return KITH_OK;
}
