#include "shard/query/parts.h"

#include "shard/index/filter_set.h"
#include "shard/storage/field_path.h"

uint32_t parts_count(const struct view *view)
{
    return view->n_segments + view->n_heads;
}

const struct segment *parts_segment(const struct view *view, uint32_t part)
{
    return part < view->n_segments ? view->segments[part].segment : NULL;
}

enum column_find_result parts_column(const struct columns *columns, struct kith_bytes path,
                                     const struct column **out)
{
    struct field_path_text text;
    enum field_path_form form = field_path_normal((struct kith_bytes){0}, path, &text);
    if (form == FIELD_PATH_INVALID)
        return COLUMN_ABSENT;
    if (form == FIELD_PATH_ODD)
        return COLUMN_NOT_INDEXED;
    return columns_find(columns, (struct kith_bytes){(const uint8_t *)text.text, text.len}, out);
}

uint32_t parts_of_place(const struct view *view, const struct view_place *place)
{
    return place->in_head ? view->n_segments + place->part : place->part;
}

enum kith_err parts_match(const struct parts_scope *scope, const struct view *view, uint32_t part,
                          struct bitmap **out, struct kith_diag *diag)
{
    if (part < view->n_segments)
        return filter_segment(scope->filter, view, part, scope->deadline_ms, out, diag);
    return filter_head(scope->filter, view, part - view->n_segments, scope->deadline_ms, out, diag);
}

static bool head_at(const struct parts_spot *spot, struct head_row *out)
{
    const struct view_head *head = &spot->view->heads[spot->part - spot->view->n_segments];
    return spot->row < head->rows && head_row_at(head->head, spot->row, spot->view->seq, out);
}

bool parts_id(const struct parts_spot *spot, struct kith_id *id)
{
    const struct segment *segment = parts_segment(spot->view, spot->part);
    struct head_row row;
    if (segment != NULL) {
        *id = segment_id(segment, spot->row);
        return true;
    }
    if (!head_at(spot, &row))
        return false;
    *id = *row.id;
    return true;
}

enum kith_err parts_read(const struct parts_spot *spot, bool with_payload,
                         struct segment_cache *cache, struct parts_row *out, struct kith_diag *diag)
{
    const struct segment *segment = parts_segment(spot->view, spot->part);
    struct head_row row;
    struct kith_bytes payload = {0};
    if (segment == NULL) {
        if (!head_at(spot, &row))
            return kith_fail(diag, KITH_INTERNAL, "row %u of a head is gone", spot->row);
        *out = (struct parts_row){*row.id, row.seq, row.row, row.payload};
        return KITH_OK;
    }
    if (with_payload) {
        enum kith_err err = segment_payload_cached(segment, spot->row, cache, &payload, diag);
        if (err != KITH_OK)
            return err;
    }
    *out = (struct parts_row){segment_id(segment, spot->row), segment_seq(segment, spot->row),
                              segment_row_data(segment, spot->row, 1), payload};
    return KITH_OK;
}

bool parts_next(struct parts_walk *walk, const struct bitmap *set, uint32_t *row)
{
    if (walk->at == walk->n) {
        if (walk->from > UINT32_MAX)
            return false;
        walk->n = bitmap_read(set, (uint32_t)walk->from, walk->rows, 256);
        walk->at = 0;
        if (walk->n == 0)
            return false;
        walk->from = (uint64_t)walk->rows[walk->n - 1] + 1;
    }
    *row = walk->rows[walk->at++];
    return true;
}
