/* Checking a section that comes from disk, so that what filters touch later needs no checks:
 * offsets, alignment, order of terms and numbers, and each row. That walk costs about 1 ns per
 * value (bitmaps: per container) of the paths that are used. What it does not prove is that sets
 * agree with one another (a row of a term that is missing from the VALUED set): such a section
 * would give wrong answers, never wild reads, and a checksum guards against it. */
#include <math.h>
#include <string.h>

#include "shard/storage/column_state.h"

struct section {
    const uint8_t *data;
    uint64_t bytes;
    uint32_t n_rows;
    struct kith_diag *diag;
};

static bool inside(const struct section *s, uint64_t at, uint64_t n, uint64_t size, uint64_t align)
{
    return at % align == 0 && at <= s->bytes && n <= (s->bytes - at) / size;
}

static enum kith_err corrupt(const struct section *s, const char *what)
{
    return kith_fail(s->diag, KITH_CORRUPT, "columns: %s", what);
}

static bool sound_rows(const struct section *s, const uint32_t *rows, uint32_t n)
{
    for (uint32_t i = 0; i < n; i++)
        if (rows[i] >= s->n_rows || (i > 0 && rows[i - 1] >= rows[i]))
            return false;
    return true;
}

static bool sound_term_rows(const struct section *s, const struct column_format_term *term)
{
    uint64_t count;
    if (term->n_rows == 1)
        return term->rows_at < s->n_rows && term->rows_bytes == 0;
    if (term->rows_bytes == 0)
        return term->n_rows > 0 && term->n_rows <= COLUMN_FORMAT_LIST_ROWS &&
               inside(s, term->rows_at, term->n_rows, 4, 4) &&
               sound_rows(s, (const uint32_t *)(const void *)(s->data + term->rows_at),
                          term->n_rows);
    return inside(s, term->rows_at, term->rows_bytes, 1, 32) &&
           bitmap_frozen_check(s->data + term->rows_at, term->rows_bytes, s->n_rows, &count) &&
           count == term->n_rows;
}

static enum kith_err read_terms(const struct section *s, const struct column_format_path *path,
                                struct column *out)
{
    struct kith_bytes before = {0};
    out->n_terms = path->n_terms;
    if (path->n_terms == 0)
        return KITH_OK;
    if (!inside(s, path->terms_at, path->n_terms, sizeof *out->terms, 8))
        return corrupt(s, "a dictionary lies outside");
    out->terms = (const void *)(s->data + path->terms_at);
    for (uint32_t i = 0; i < path->n_terms; i++) {
        const struct column_format_term *term = &out->terms[i];
        if (!inside(s, term->text_at, term->text_bytes, 1, 1) ||
            term->text_bytes > COLUMN_TERM_MAX || !sound_term_rows(s, term))
            return corrupt(s, "a term is malformed");
        struct kith_bytes text = {s->data + term->text_at, term->text_bytes};
        if (i > 0 && kith_bytes_compare(before, text) >= 0)
            return corrupt(s, "a dictionary is out of order");
        before = text;
    }
    return KITH_OK;
}

static enum kith_err read_sets(const struct section *s, const struct column_format_path *path,
                               struct column *out)
{
    for (int i = 0; i < COLUMN_SETS; i++) {
        const struct column_format_set *set = &path->sets[i];
        uint64_t count;
        if (set->count == 0 && set->bytes == 0)
            continue;
        if (!inside(s, set->at, set->bytes, 1, 32) ||
            !bitmap_frozen_check(s->data + set->at, set->bytes, s->n_rows, &count) ||
            count != set->count)
            return corrupt(s, "a set of rows is malformed");
        out->sets[i] = *set;
    }
    return KITH_OK;
}

static enum kith_err read_numbers(const struct section *s, const struct column_format_numbers *from,
                                  struct column_numbers *out)
{
    if (from->n == 0)
        return KITH_OK;
    if (from->n > UINT32_MAX || !inside(s, from->values_at, from->n, 8, 8) ||
        !inside(s, from->rows_at, from->n, 4, 4))
        return corrupt(s, "numbers lie outside");
    out->values = s->data + from->values_at;
    out->rows = (const void *)(s->data + from->rows_at);
    out->n = (uint32_t)from->n;
    for (uint32_t i = 0; i < out->n; i++)
        if (out->rows[i] >= s->n_rows)
            return corrupt(s, "a number's row does not exist");
    return KITH_OK;
}

static enum kith_err check_order(const struct section *s, const struct column_numbers *integers)
{
    const int64_t *values = integers->values;
    for (uint32_t i = 1; i < integers->n; i++)
        if (values[i - 1] > values[i] ||
            (values[i - 1] == values[i] && integers->rows[i - 1] >= integers->rows[i]))
            return corrupt(s, "integers or times are out of order");
    return KITH_OK;
}

static enum kith_err check_float_order(const struct section *s, const struct column_numbers *floats)
{
    const double *values = floats->values;
    for (uint32_t i = 0; i < floats->n; i++)
        if (isnan(values[i]) ||
            (i > 0 && (values[i - 1] > values[i] ||
                       (values[i - 1] == values[i] && floats->rows[i - 1] >= floats->rows[i]))))
            return corrupt(s, "floats are out of order");
    return KITH_OK;
}

static enum kith_err read_path(const struct section *s, const struct column_format_path *path,
                               struct column *out)
{
    uint64_t at = path->path_at;
    uint32_t bytes = path->path_bytes;
    if (!inside(s, at, bytes, 1, 1) || bytes == 0 || bytes > KITH_FIELD_PATH_MAX)
        return corrupt(s, "a path lies outside");
    out->section = s->data;
    out->n_rows = s->n_rows;
    out->entry = path;
    out->path = (struct kith_bytes){s->data + at, bytes};
    return KITH_OK;
}

static enum kith_err read_header(const struct section *s, struct column_format_header *header)
{
    if (s->bytes < sizeof *header)
        return corrupt(s, "the section is shorter than its header");
    memcpy(header, s->data, sizeof *header);
    if (header->magic != COLUMN_FORMAT_MAGIC)
        return corrupt(s, "this is no columns section");
    if (header->version != COLUMN_FORMAT_VERSION)
        return kith_fail(s->diag, KITH_UNSUPPORTED, "columns: format version %u is not known",
                         header->version);
    if (header->n_rows != s->n_rows || header->bytes > s->bytes ||
        header->n_paths > KITH_FIELDS_INDEXED_MAX)
        return corrupt(s, "the header does not fit the segment");
    return KITH_OK;
}

enum kith_err column_check_paths(struct columns *columns, struct kith_diag *diag)
{
    struct section s = {columns->section, columns->bytes, columns->n_rows, diag};
    struct column_format_header header;
    enum kith_err err = read_header(&s, &header);
    if (err != KITH_OK)
        return err;
    s.bytes = header.bytes;
    if (header.n_paths > columns->cap ||
        !inside(&s, sizeof header, header.n_paths, sizeof(struct column_format_path), 8))
        return corrupt(&s, "the table of paths lies outside");
    const struct column_format_path *paths = (const void *)(s.data + sizeof header);
    for (uint32_t i = 0; i < header.n_paths; i++) {
        struct column *item = &columns->items[i];
        err = read_path(&s, &paths[i], item);
        if (err != KITH_OK)
            return err;
        item->columns = columns;
        if (i > 0 && kith_bytes_compare(columns->items[i - 1].path, item->path) >= 0)
            return corrupt(&s, "paths are out of order");
    }
    columns->bytes = header.bytes;
    columns->n = header.n_paths;
    columns->more = (header.flags & COLUMN_FORMAT_MORE) != 0;
    return KITH_OK;
}

static enum kith_err read_values(const struct section *s, struct column *out)
{
    const struct column_format_path copy = *out->entry; /* it may change under our hands */
    const struct column_format_path *path = &copy;
    enum kith_err err = read_numbers(s, &path->integers, &out->integers);
    if (err == KITH_OK)
        err = read_numbers(s, &path->floats, &out->floats);
    if (err == KITH_OK)
        err = read_numbers(s, &path->times, &out->times);
    if (err == KITH_OK)
        err = check_order(s, &out->integers);
    if (err == KITH_OK)
        err = check_order(s, &out->times);
    if (err == KITH_OK)
        err = check_float_order(s, &out->floats);
    if (err == KITH_OK)
        err = read_terms(s, path, out);
    if (err == KITH_OK)
        err = read_sets(s, path, out);
    return err;
}

bool column_check_values(struct column *column)
{
    const struct columns *columns = column->columns;
    const struct section s = {columns->section, columns->bytes, columns->n_rows, NULL};
    if (read_values(&s, column) == KITH_OK)
        return true;
    column->integers = column->floats = column->times = (struct column_numbers){0};
    column->n_terms = 0;
    memset(column->sets, 0, sizeof column->sets);
    return false;
}
