#include "shard/index/filter_work.h"
#include "shard/storage/field_path.h"

#define LOOK_UP_IDS_MAX 64u /* more ids than this: cheaper to walk a block than to look up each */

/* The column of a key, below an array of objects when prefix is not empty. */
static enum column_find_result find(const struct filter_work *work, struct kith_bytes prefix,
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
static enum kith_err set_within(struct filter_work *work, const struct column *column,
                                enum column_set which, const struct bitmap *within,
                                struct bitmap **out)
{
    enum kith_err err = filter_work_new_set(work, out);
    if (err != KITH_OK)
        return err;
    if (!column_add(column, which, *out))
        return filter_work_out_of_memory(work);
    bitmap_and(*out, within);
    return KITH_OK;
}

static enum kith_err match_any(struct filter_work *work, uint32_t at, const struct column *column,
                               const struct bitmap *within, struct bitmap *into)
{
    struct bitmap *candidates = NULL;
    bool has_long;
    enum kith_err err = KITH_OK;
    if (!add_listed(&work->filter->nodes[at], column, into, &has_long))
        return filter_work_out_of_memory(work);
    bitmap_and(into, within);
    if (has_long) {
        err = set_within(work, column, COLUMN_LONG, within, &candidates);
        if (err == KITH_OK)
            err = filter_walk_rows(work, at, candidates, into);
    }
    bitmap_free(candidates);
    return err;
}

/* A row matches if it has a value outside the list. No listed value at all: then any value will do.
 * Some listed value: only a row with several values can have one outside; its payload tells. */
static enum kith_err match_except(struct filter_work *work, uint32_t at,
                                  const struct column *column, const struct bitmap *within,
                                  struct bitmap *into)
{
    struct bitmap *listed = NULL;
    struct bitmap *open = NULL; /* rows to look at */
    bool has_long;
    enum kith_err err = filter_work_new_set(work, &listed);
    if (err == KITH_OK)
        err = set_within(work, column, COLUMN_MULTI, within, &open);
    if (err == KITH_OK && (!add_listed(&work->filter->nodes[at], column, listed, &has_long) ||
                           !column_add(column, COLUMN_VALUED, into)))
        err = filter_work_out_of_memory(work);
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
    err = filter_walk_rows(work, at, open, into);
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
static enum kith_err values_count(struct filter_work *work, uint32_t at,
                                  const struct column *column, const struct bitmap *within,
                                  struct bitmap *into)
{
    const struct kith_filter_node *node = &work->filter->nodes[at];
    struct bitmap *open = NULL;
    struct bitmap *single = NULL;
    struct bitmap *other = NULL;
    enum kith_err err = set_within(work, column, COLUMN_EXISTS, within, &open);
    if (err == KITH_OK && !has_bracket(node->key)) {
        err = set_within(work, column, COLUMN_PRESENT, within, &single);
        if (err == KITH_OK)
            err = filter_work_new_set(work, &other);
        if (err == KITH_OK &&
            (!column_add(column, COLUMN_MULTI, other) || !column_add(column, COLUMN_NULL, other)))
            err = filter_work_out_of_memory(work);
        if (err == KITH_OK) {
            bitmap_andnot(single, other);
            bitmap_andnot(open, single);
            if (one_is_enough(node))
                bitmap_or(into, single);
        }
    }
    if (err == KITH_OK)
        err = filter_walk_rows(work, at, open, into);
    bitmap_free(other);
    bitmap_free(single);
    bitmap_free(open);
    return err;
}

/* `into` is empty; it gets the rows of `within` that match. */
static enum kith_err by_column(struct filter_work *work, uint32_t at, const struct column *column,
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
        return filter_work_out_of_memory(work);
    bitmap_and(into, within);
    return KITH_OK;
}

static bool find_id(const struct filter_work *work, const struct kith_id *id, uint32_t *row)
{
    if (work->segment != NULL)
        return segment_find(work->segment, id, row);
    if (!head_find(work->head->head, id, work->head->rows, work->seq, row) || *row < work->first)
        return false;
    *row -= work->first;
    return *row < work->n_rows;
}

static enum kith_err has_id(struct filter_work *work, uint32_t at, const struct bitmap *within,
                            struct bitmap *into)
{
    const struct kith_filter_node *node = &work->filter->nodes[at];
    struct kith_cursor c = kith_cursor_of(node->values.data, node->values.len);
    struct kith_id id;
    uint32_t row;
    if (work->segment == NULL && node->n_values > LOOK_UP_IDS_MAX)
        return filter_walk_rows(work, at, within, into);
    for (uint32_t i = 0; i < node->n_values && kith_filter_read_id(&c, &id); i++)
        if (find_id(work, &id, &row) && bitmap_contains(within, row))
            bitmap_add(into, row);
    return KITH_OK;
}

/* ---- nested: a superset by columns --------------------------------------------------------- */

static enum kith_err upper(struct filter_work *work, uint32_t at, struct kith_bytes prefix,
                           struct bitmap **out);

static enum kith_err upper_leaf(struct filter_work *work, const struct kith_filter_node *node,
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
    enum kith_err err = filter_work_new_set(work, out);
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
    return ok ? KITH_OK : filter_work_out_of_memory(work);
}

/* ALL: what every child allows. ANY, AT_LEAST 1 or more: what some child allows, if all can say. */
static enum kith_err upper_branch(struct filter_work *work, const struct kith_filter_node *node,
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

static enum kith_err upper_nested(struct filter_work *work, const struct kith_filter_node *node,
                                  struct kith_bytes prefix, struct bitmap **out)
{
    struct field_path_text path;
    const struct column *column;
    enum column_find_result found = find(work, prefix, node->key, &column);
    if (found == COLUMN_ABSENT)
        return filter_work_new_set(work, out);
    if (found == COLUMN_NOT_INDEXED ||
        field_path_normal(prefix, node->key, &path) != FIELD_PATH_PLAIN)
        return KITH_OK;
    enum kith_err err = upper(work, node->first_child,
                              (struct kith_bytes){(const uint8_t *)path.text, path.len}, out);
    if (err == KITH_OK && *out == NULL) {
        err = filter_work_new_set(work, out);
        if (err == KITH_OK && !column_add(column, COLUMN_VALUED, *out))
            err = filter_work_out_of_memory(work);
    }
    return err;
}

/* A superset of the rows that hold an object, in the array `prefix`, satisfying the node; NULL =
 * any row may. Also on failure *out is the caller's. */
static enum kith_err upper(struct filter_work *work, uint32_t at, struct kith_bytes prefix,
                           struct bitmap **out)
{
    const struct kith_filter_node *node = &work->filter->nodes[at];
    if (filter_work_is_branch(node->kind))
        return upper_branch(work, node, prefix, out);
    if (node->kind == KITH_FILTER_NESTED)
        return upper_nested(work, node, prefix, out);
    return upper_leaf(work, node, prefix, out);
}

static enum kith_err nested(struct filter_work *work, uint32_t at, const struct bitmap *within,
                            struct bitmap *into)
{
    struct bitmap *candidates = NULL;
    enum kith_err err =
        upper_nested(work, &work->filter->nodes[at], (struct kith_bytes){0}, &candidates);
    if (err == KITH_OK && candidates != NULL)
        bitmap_and(candidates, within);
    if (err == KITH_OK)
        err = filter_walk_rows(work, at, candidates != NULL ? candidates : within, into);
    bitmap_free(candidates);
    return err;
}

/* ---- which of them --------------------------------------------------------------------------- */

bool filter_leaf_is_dear(const struct filter_work *work, const struct kith_filter_node *node)
{
    const struct column *column;
    if (node->kind == KITH_FILTER_HAS_ID)
        return false;
    if (node->kind == KITH_FILTER_NESTED || node->kind == KITH_FILTER_VALUES_COUNT)
        return true;
    return find(work, (struct kith_bytes){0}, node->key, &column) == COLUMN_NOT_INDEXED;
}

enum kith_err filter_leaf_eval(struct filter_work *work, uint32_t at, const struct bitmap *within,
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
        return filter_walk_rows(work, at, within, into);
    }
}
