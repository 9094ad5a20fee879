#include "shard/query/info.h"

#include <string.h>

#include "common/kith_aside.h"
#include "common/kith_mem.h"
#include "shard/storage/column.h"

enum { TYPE_KEYWORD = 1, TYPE_BOOL = 2, TYPE_INTEGER = 4, TYPE_FLOAT = 8, TYPE_TIME = 16 };

/* The field of this path, new ones in their place; NULL = out of memory. */
static struct kith_msg_info_field *find_field(struct info *info, struct kith_bytes path)
{
    uint32_t low = 0;
    uint32_t high = info->n;
    while (low < high) {
        uint32_t middle = low + (high - low) / 2;
        int order = kith_bytes_compare(info->fields[middle].path, path);
        if (order == 0)
            return &info->fields[middle];
        if (order < 0)
            low = middle + 1;
        else
            high = middle;
    }
    char *text = kith_arena_text(&info->memory, (const char *)path.data, path.len);
    if (text == NULL ||
        !kith_grow((void **)&info->fields, &info->cap, (size_t)info->n + 1, sizeof *info->fields))
        return NULL;
    memmove(info->fields + low + 1, info->fields + low, (info->n++ - low) * sizeof *info->fields);
    info->fields[low] = (struct kith_msg_info_field){.path = {(const uint8_t *)text, path.len}};
    return &info->fields[low];
}

static uint32_t types_of(const struct column *column)
{
    uint32_t types = 0;
    if (column_terms(column) > 0 || column_count(column, COLUMN_LONG) > 0)
        types |= TYPE_KEYWORD;
    if (column_count(column, COLUMN_TRUE) > 0 || column_count(column, COLUMN_FALSE) > 0)
        types |= TYPE_BOOL;
    if (column_integers(column) > 0)
        types |= TYPE_INTEGER;
    if (column_floats(column) > 0)
        types |= TYPE_FLOAT;
    if (column_times(column) > 0)
        types |= TYPE_TIME;
    return types;
}

static enum kith_err out_of_memory(struct kith_diag *diag)
{
    return kith_fail(diag, KITH_NOMEM, "fields");
}

static enum kith_err add_column_of(struct info *info, const struct column *column,
                                   const struct bitmap *deleted, struct kith_diag *diag)
{
    uint32_t types = types_of(column);
    uint64_t points = column_count(column, COLUMN_VALUED);
    if (deleted != NULL) {
        struct bitmap *set = bitmap_new();
        if (set == NULL || !column_add(column, COLUMN_VALUED, set)) {
            bitmap_free(set);
            return out_of_memory(diag);
        }
        points -= bitmap_count_and(set, deleted);
        bitmap_free(set);
    }
    if (types == 0 || points == 0)
        return KITH_OK;
    struct kith_msg_info_field *field = find_field(info, column_path(column));
    if (field == NULL)
        return out_of_memory(diag);
    field->types |= types;
    field->points += points;
    return KITH_OK;
}

static enum kith_err add_columns(struct info *info, const struct columns *columns,
                                 const struct bitmap *deleted, struct kith_diag *diag)
{
    enum kith_err err = KITH_OK;
    for (uint32_t i = 0; err == KITH_OK && i < columns_count(columns); i++)
        err = add_column_of(info, columns_at(columns, i), deleted, diag);
    return err;
}

/* The rows of a block of a head that are gone; NULL and no error: none. */
static enum kith_err gone_of(struct bitmap **gone, const struct view *view,
                             const struct view_head *part, uint32_t first, struct kith_diag *diag)
{
    *gone = NULL;
    for (uint32_t i = 0; i < HEAD_BLOCK_ROWS; i++) {
        if (head_row_live(part->head, first + i, view->seq))
            continue;
        if (*gone == NULL && (*gone = bitmap_new()) == NULL)
            return out_of_memory(diag);
        bitmap_add(*gone, i);
    }
    return KITH_OK;
}

/* Columns of the live rows [first, end) of a head, for the moment. */
static enum kith_err build_rows(const struct view *view, const struct view_head *part,
                                uint32_t first, uint32_t end, struct kith_buf *section,
                                uint32_t *n_rows, struct kith_diag *diag)
{
    struct column_builder *builder = NULL;
    enum kith_err err = column_builder_new(&builder, diag);
    for (uint32_t row = first; err == KITH_OK && row < end; row++) {
        struct head_row found;
        if (head_row_at(part->head, row, view->seq, &found))
            err = column_builder_add(builder, (*n_rows)++, found.payload, diag);
    }
    if (err == KITH_OK)
        err = column_builder_finish(builder, *n_rows, section, diag);
    column_builder_free(builder);
    return err;
}

static enum kith_err add_rows(struct info *info, const struct view *view,
                              const struct view_head *part, uint32_t first, uint32_t end,
                              struct kith_diag *diag)
{
    struct kith_buf section = {0};
    struct columns *columns = NULL;
    uint8_t *aligned = NULL;
    uint32_t n_rows = 0;
    enum kith_err err = build_rows(view, part, first, end, &section, &n_rows, diag);
    if (err == KITH_OK && (aligned = kith_alloc_aligned(32, section.len)) == NULL)
        err = out_of_memory(diag);
    if (err == KITH_OK) {
        memcpy(aligned, section.data, section.len);
        err = columns_open(&columns, aligned, section.len, n_rows, diag);
    }
    if (err == KITH_OK)
        err = add_columns(info, columns, NULL, diag);
    columns_close(columns);
    kith_free(aligned);
    kith_buf_fini(&section);
    return err;
}

/* By the columns that its blocks have for filters; its last rows have none. Thousands of rows are
 * read for somebody who only asks how things are: searches go before. */
static enum kith_err add_head(struct info *info, const struct view *view,
                              const struct view_head *part, struct kith_diag *diag)
{
    enum kith_err err = KITH_OK;
    for (uint32_t first = 0; err == KITH_OK && first < part->rows; first += HEAD_BLOCK_ROWS) {
        bool whole = part->rows - first >= HEAD_BLOCK_ROWS;
        const struct columns *columns =
            whole ? head_block(part->head, first / HEAD_BLOCK_ROWS) : NULL;
        struct bitmap *gone = NULL;
        (void)kith_aside_stand();
        if (columns == NULL) {
            uint32_t end = whole ? first + HEAD_BLOCK_ROWS : part->rows;
            err = add_rows(info, view, part, first, end, diag);
            continue;
        }
        err = gone_of(&gone, view, part, first, diag);
        if (err == KITH_OK)
            err = add_columns(info, columns, gone, diag);
        bitmap_free(gone);
    }
    return err;
}

enum kith_err info_run(struct info *out, struct view *const *views, uint32_t n_views,
                       struct kith_diag *diag)
{
    enum kith_err err = KITH_OK;
    for (uint32_t v = 0; err == KITH_OK && v < n_views; v++) {
        const struct view *view = views[v];
        for (uint32_t i = 0; err == KITH_OK && i < view->n_segments; i++)
            err = add_columns(out, segment_columns(view->segments[i].segment),
                              view->segments[i].deleted, diag);
        for (uint32_t i = 0; err == KITH_OK && i < view->n_heads; i++)
            err = add_head(out, view, &view->heads[i], diag);
    }
    return view_verdict(views, n_views, err, diag);
}

void info_fini(struct info *info)
{
    kith_free(info->fields);
    kith_arena_fini(&info->memory);
    *info = (struct info){0};
}
