#include "shard/storage/column_section.h"

/* Sorting what was gathered, and writing it. A field's values are brought into the order of rows by
 * a counting sort if the rows came otherwise; another one by the rank of the term then gives each
 * term its rows ascending without comparing them. Numbers are sorted by (key, row). */

#include <stdlib.h>
#include <string.h>

#include "common/kith_mem.h"
#include "shard/storage/column_format.h"

struct section {
    struct kith_buf *out;
    size_t base;
    struct kith_diag *diag;
};

static uint64_t here(const struct section *section)
{
    return section->out->len - section->base;
}

static void align_to(const struct section *section, size_t align)
{
    static const uint8_t zeros[32];
    kith_buf_append(section->out, zeros, (align - here(section) % align) % align);
}

static enum kith_err section_full(const struct section *section)
{
    return kith_fail(section->diag, KITH_NOMEM, "columns section");
}

static enum kith_err put_bitmap(const struct section *section, struct bitmap *set, uint64_t *at,
                                uint32_t *bytes)
{
    bitmap_optimize(set);
    size_t len = bitmap_frozen_bytes(set);
    if (len > UINT32_MAX)
        return kith_fail(section->diag, KITH_TOO_BIG, "a bitmap of 4 GiB");
    uint8_t *frozen = kith_alloc_aligned(32, len);
    if (frozen == NULL)
        return section_full(section);
    bitmap_freeze(set, frozen);
    align_to(section, 32);
    *at = here(section);
    *bytes = (uint32_t)len;
    kith_buf_append(section->out, frozen, len);
    kith_free(frozen);
    return KITH_OK;
}

static enum kith_err put_sets(const struct section *section, const struct column_field *field,
                              struct column_format_path *path)
{
    for (int i = 0; i < COLUMN_SETS; i++) {
        struct column_format_set *set = &path->sets[i];
        if (field->sets[i] == NULL)
            continue;
        set->count = (uint32_t)bitmap_count(field->sets[i]);
        enum kith_err err = put_bitmap(section, field->sets[i], &set->at, &set->bytes);
        if (err != KITH_OK)
            return err;
    }
    return KITH_OK;
}

static int compare_numbers(const void *left, const void *right)
{
    const struct column_field_number *a = left;
    const struct column_field_number *b = right;
    if (a->key != b->key)
        return a->key < b->key ? -1 : 1;
    return a->row < b->row ? -1 : a->row > b->row;
}

static void put_numbers(const struct section *section, struct column_field_numbers *numbers,
                        bool floats, struct column_format_numbers *out)
{
    size_t kept = 0;
    if (numbers->n == 0)
        return;
    qsort(numbers->items, numbers->n, sizeof *numbers->items, compare_numbers);
    for (size_t i = 0; i < numbers->n; i++) /* a row has each value once */
        if (i == 0 || compare_numbers(&numbers->items[kept - 1], &numbers->items[i]) != 0)
            numbers->items[kept++] = numbers->items[i];
    numbers->n = kept;
    align_to(section, 8);
    out->n = kept;
    out->values_at = here(section);
    for (size_t i = 0; i < kept; i++) {
        double value = column_field_float(numbers->items[i].key);
        kith_buf_append(section->out, floats ? (void *)&value : &numbers->items[i].key, 8);
    }
    out->rows_at = here(section);
    for (size_t i = 0; i < kept; i++)
        kith_buf_append(section->out, &numbers->items[i].row, 4);
}

static struct kith_bytes text_of(const struct column_field *field, uint32_t term)
{
    return (struct kith_bytes){field->text.data + field->terms[term].text_at,
                               field->terms[term].text_bytes};
}

static int compare_terms(const void *left, const void *right, void *ctx)
{
    const struct column_field *field = ctx;
    return kith_bytes_compare(text_of(field, *(const uint32_t *)left),
                              text_of(field, *(const uint32_t *)right));
}

static enum kith_err put_term_rows(const struct section *section, const uint32_t *rows,
                                   struct column_format_term *term)
{
    if (term->n_rows == 1) {
        term->rows_at = rows[0];
        return KITH_OK;
    }
    if (term->n_rows < COLUMN_FORMAT_LIST_ROWS) {
        align_to(section, 4);
        term->rows_at = here(section);
        kith_buf_append(section->out, rows, term->n_rows * sizeof *rows);
        return KITH_OK;
    }
    struct bitmap *set = bitmap_new();
    if (set == NULL)
        return section_full(section);
    bitmap_add_many(set, term->n_rows, rows);
    enum kith_err err = put_bitmap(section, set, &term->rows_at, &term->rows_bytes);
    bitmap_free(set);
    return err;
}

struct sorted_terms {
    uint32_t *order; /* order[i]: the i-th term */
    uint32_t *rows;  /* all rows, grouped by term */
    struct column_format_term *terms;
};

/* A row's uses stay together, in the order they came. */
static enum kith_err order_uses(struct column_field *field, uint32_t n_rows, struct kith_diag *diag)
{
    uint32_t *starts = kith_alloc(((size_t)n_rows + 1) * sizeof *starts);
    struct column_field_use *ordered = kith_alloc(field->n_uses * sizeof *ordered);
    if (starts == NULL || ordered == NULL) {
        kith_free(starts);
        kith_free(ordered);
        return kith_fail(diag, KITH_NOMEM, "columns section");
    }
    for (size_t i = 0; i < field->n_uses; i++)
        starts[field->uses[i].row + 1]++;
    for (uint32_t row = 0; row < n_rows; row++)
        starts[row + 1] += starts[row];
    for (size_t i = 0; i < field->n_uses; i++)
        ordered[starts[field->uses[i].row]++] = field->uses[i];
    kith_free(starts);
    kith_free(field->uses);
    field->uses = ordered;
    field->cap_uses = field->n_uses;
    return KITH_OK;
}

static bool sort_terms(struct column_field *field, struct sorted_terms *out)
{
    out->order = kith_alloc(field->n_terms * sizeof *out->order);
    out->rows = kith_alloc(field->n_uses * sizeof *out->rows);
    out->terms = kith_alloc(field->n_terms * sizeof *out->terms);
    if (out->order == NULL || out->rows == NULL || out->terms == NULL)
        return false;
    for (uint32_t i = 0; i < field->n_terms; i++)
        out->order[i] = i;
    qsort_r(out->order, field->n_terms, sizeof *out->order, compare_terms, field);
    uint32_t next = 0;
    for (uint32_t i = 0; i < field->n_terms; i++) {
        struct column_field_term *term = &field->terms[out->order[i]];
        term->first = next;
        next += term->n_rows;
        term->n_rows = 0; /* counted again while the rows are dealt out */
    }
    for (size_t i = 0; i < field->n_uses; i++) {
        struct column_field_term *term = &field->terms[field->uses[i].term];
        out->rows[term->first + term->n_rows++] = field->uses[i].row;
    }
    return true;
}

static enum kith_err put_terms(const struct section *section, struct column_field *field,
                               struct column_format_path *path)
{
    struct sorted_terms sorted = {0};
    enum kith_err err = KITH_OK;
    if (field->n_terms == 0)
        return KITH_OK;
    if (field->n_uses > UINT32_MAX)
        return kith_fail(section->diag, KITH_TOO_BIG, "a segment holds 2^32 values of a field");
    if (!sort_terms(field, &sorted)) {
        err = section_full(section);
        goto out;
    }
    uint64_t text_at = here(section);
    kith_buf_append(section->out, field->text.data, field->text.len);
    for (size_t i = 0; err == KITH_OK && i < field->n_terms; i++) {
        const struct column_field_term *term = &field->terms[sorted.order[i]];
        sorted.terms[i].text_at = text_at + term->text_at;
        sorted.terms[i].text_bytes = term->text_bytes;
        sorted.terms[i].n_rows = term->n_rows;
        err = put_term_rows(section, sorted.rows + term->first, &sorted.terms[i]);
    }
    align_to(section, 8);
    path->terms_at = here(section);
    path->n_terms = (uint32_t)field->n_terms;
    kith_buf_append(section->out, sorted.terms, field->n_terms * sizeof *sorted.terms);
out:
    kith_free(sorted.order);
    kith_free(sorted.rows);
    kith_free(sorted.terms);
    return err;
}

static enum kith_err put_field(const struct section *section, struct column_field *field,
                               struct column_format_path *path)
{
    path->path_at = here(section);
    path->path_bytes = (uint32_t)field->path.len;
    kith_buf_append(section->out, field->path.data, field->path.len);
    put_numbers(section, &field->integers, false, &path->integers);
    put_numbers(section, &field->floats, true, &path->floats);
    put_numbers(section, &field->times, false, &path->times);
    enum kith_err err = put_terms(section, field, path);
    if (err == KITH_OK)
        err = put_sets(section, field, path);
    if (err == KITH_OK && section->out->failed)
        err = section_full(section);
    return err;
}

static int compare_fields(const void *left, const void *right)
{
    const struct column_field *a = *(struct column_field *const *)left;
    const struct column_field *b = *(struct column_field *const *)right;
    return kith_bytes_compare(a->path, b->path);
}

static enum kith_err put_fields(const struct section *section,
                                const struct column_section_fields *fields,
                                struct column_format_path *paths)
{
    enum kith_err err = KITH_OK;
    for (uint32_t i = 0; err == KITH_OK && fields->shuffled && i < fields->n; i++)
        if (fields->list[i]->n_uses <= UINT32_MAX) /* more of them: refused below */
            err = order_uses(fields->list[i], fields->n_rows, section->diag);
    for (uint32_t i = 0; err == KITH_OK && i < fields->n; i++)
        err = put_field(section, fields->list[i], &paths[i]);
    return err == KITH_OK && section->out->failed ? section_full(section) : err;
}

enum kith_err column_section_write(const struct column_section_fields *fields, struct kith_buf *out,
                                   struct kith_diag *diag)
{
    const struct section section = {out, out->len, diag};
    struct column_format_header header = {
        .magic = COLUMN_FORMAT_MAGIC,
        .version = COLUMN_FORMAT_VERSION,
        .n_rows = fields->n_rows,
        .n_paths = fields->n,
        .flags = fields->more ? COLUMN_FORMAT_MORE : 0,
    };
    size_t table = fields->n * sizeof(struct column_format_path);
    struct column_format_path *paths = kith_alloc(table);
    if (paths == NULL)
        return section_full(&section);
    /* The table is written twice: first as room, at the end with what became known. */
    kith_buf_append(out, &header, sizeof header);
    kith_buf_append(out, paths, table);
    if (fields->n > 0)
        qsort(fields->list, fields->n, sizeof(struct column_field *), compare_fields);
    enum kith_err err = put_fields(&section, fields, paths);
    if (err == KITH_OK) {
        header.bytes = here(&section);
        memcpy(out->data + section.base, &header, sizeof header);
        memcpy(out->data + section.base + sizeof header, paths, table);
    } else if (!out->failed) {
        out->len = section.base;
    }
    kith_free(paths);
    return err;
}
