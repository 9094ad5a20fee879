#include "shard/storage/column.h"

/* Building columns: one pass over the payloads, then sorting.
 *
 * Each payload is walked once; every value it holds is filed under its path (found by a hash table
 * of spelled paths). Strings become term numbers by a hash table per path, and what is kept per
 * value is only (term, row), brought into row order by a counting sort if the rows came otherwise,
 * so that another one by the term's rank gives each term its rows ascending without comparing them.
 * Numbers are kept as (key, row) pairs, where key is an order-preserving i64 of the number, and
 * sorted at the end.
 *
 * Lost: one bitmap per term while building (a field of unique strings would hold a million small
 * bitmaps); keeping values in a map from path to values per row (three times the memory). */

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "common/kith_mem.h"
#include "proto/kith_filter.h"
#include "proto/kith_hash.h"
#include "shard/storage/column_format.h"
#include "shard/storage/field_path.h"

#define NO_ROW UINT32_MAX

struct number {
    int64_t key;
    uint32_t row;
};
struct numbers {
    struct number *items;
    size_t n, cap;
};

struct term {
    size_t text_at; /* in field.text */
    uint32_t text_bytes;
    uint32_t last_row;
    uint32_t n_rows;
    uint32_t first; /* finish only: index of its first row */
};
struct use {
    uint32_t term, row;
};

struct field {
    char *path;
    size_t path_bytes;
    struct bitmap *sets[COLUMN_SETS];
    uint32_t valued_row; /* the last row with a value here */
    struct numbers integers, floats, times;
    struct kith_buf text;
    struct term *terms;
    size_t n_terms, cap_terms;
    uint32_t *slots; /* hash table of term index + 1 */
    size_t n_slots;
    struct use *uses;
    size_t n_uses, cap_uses;
};

#define FIELD_SLOTS (KITH_FIELDS_INDEXED_MAX * 4)

struct column_builder {
    struct field *fields[KITH_FIELDS_INDEXED_MAX];
    uint32_t n_fields;
    uint32_t slots[FIELD_SLOTS];
    uint32_t n_rows, rows_end; /* so many; all below rows_end */
    bool shuffled;             /* they did not come in ascending order */
    bool more;                 /* some paths were left out */
    /* While a payload is being walked. */
    uint32_t row;
    struct kith_diag *diag;
    struct field_path_text path;
};

enum kith_err column_builder_new(struct column_builder **out, struct kith_diag *diag)
{
    struct column_builder *builder = kith_alloc(sizeof *builder);
    if (builder == NULL)
        return kith_fail(diag, KITH_NOMEM, "column builder");
    *out = builder;
    return KITH_OK;
}

static void field_free(struct field *field)
{
    if (field == NULL)
        return;
    for (int i = 0; i < COLUMN_SETS; i++)
        bitmap_free(field->sets[i]);
    kith_buf_fini(&field->text);
    kith_free(field->integers.items);
    kith_free(field->floats.items);
    kith_free(field->times.items);
    kith_free(field->terms);
    kith_free(field->slots);
    kith_free(field->uses);
    kith_free(field->path);
    kith_free(field);
}

void column_builder_free(struct column_builder *builder)
{
    if (builder == NULL)
        return;
    for (uint32_t i = 0; i < builder->n_fields; i++)
        field_free(builder->fields[i]);
    kith_free(builder);
}

/* Only balance matters here, nothing stored depends on it. */
static uint32_t hash_bytes(const void *data, size_t len)
{
    uint64_t h = kith_hash_bytes(KITH_HASH_START, data, len);
    return (uint32_t)(h ^ (h >> 32));
}

static enum kith_err out_of_memory(struct column_builder *builder)
{
    return kith_fail(builder->diag, KITH_NOMEM, "columns of row %u", builder->row);
}

/* ---- filing values ------------------------------------------------------------------------- */

static struct field *field_new(const struct field_path_text *path)
{
    struct field *field = kith_alloc(sizeof *field);
    if (field == NULL)
        return NULL;
    field->valued_row = NO_ROW;
    field->path_bytes = path->len;
    field->path = kith_memdup(path->text, path->len);
    if (field->path == NULL) {
        field_free(field);
        return NULL;
    }
    return field;
}

/* The field of the current path; *out = NULL when it is one too many. */
static enum kith_err find_field(struct column_builder *builder, struct field **out)
{
    const struct field_path_text *path = &builder->path;
    *out = NULL;
    if (path->too_long || path->len > KITH_FIELD_PATH_MAX)
        return KITH_OK; /* no filter can name it: its key would be too long */
    uint32_t slot = hash_bytes(path->text, path->len) % FIELD_SLOTS;
    for (; builder->slots[slot] != 0; slot = (slot + 1) % FIELD_SLOTS) {
        struct field *field = builder->fields[builder->slots[slot] - 1];
        if (field->path_bytes == path->len && memcmp(field->path, path->text, path->len) == 0) {
            *out = field;
            return KITH_OK;
        }
    }
    if (builder->n_fields == KITH_FIELDS_INDEXED_MAX) {
        builder->more = true;
        return KITH_OK;
    }
    struct field *field = field_new(path);
    if (field == NULL)
        return out_of_memory(builder);
    builder->fields[builder->n_fields++] = field;
    builder->slots[slot] = builder->n_fields;
    *out = field;
    return KITH_OK;
}

static enum kith_err mark(struct column_builder *builder, struct field *field, enum column_set set)
{
    if (field->sets[set] == NULL && (field->sets[set] = bitmap_new()) == NULL)
        return out_of_memory(builder);
    bitmap_add(field->sets[set], builder->row);
    return KITH_OK;
}

static enum kith_err mark_value(struct column_builder *builder, struct field *field)
{
    if (field->valued_row == builder->row)
        return mark(builder, field, COLUMN_MULTI);
    field->valued_row = builder->row;
    return mark(builder, field, COLUMN_VALUED);
}

static enum kith_err add_number(struct column_builder *builder, struct numbers *numbers,
                                int64_t key)
{
    if (!kith_grow((void **)&numbers->items, &numbers->cap, numbers->n + 1, sizeof *numbers->items))
        return out_of_memory(builder);
    numbers->items[numbers->n++] = (struct number){key, builder->row};
    return KITH_OK;
}

/* IEEE doubles as integers in the same order: flip the magnitude of the negative ones. */
static int64_t float_key(double value)
{
    int64_t bits;
    value = value == 0 ? 0 : value; /* one zero */
    memcpy(&bits, &value, sizeof bits);
    return bits < 0 ? bits ^ INT64_MAX : bits;
}

static double float_of_key(int64_t key)
{
    double value;
    key = key < 0 ? key ^ INT64_MAX : key;
    memcpy(&value, &key, sizeof value);
    return value;
}

static enum kith_err grow_slots(struct column_builder *builder, struct field *field)
{
    if (field->n_slots > field->n_terms * 2)
        return KITH_OK;
    size_t n = field->n_slots == 0 ? 64 : field->n_slots * 2;
    uint32_t *slots = kith_alloc(n * sizeof *slots);
    if (slots == NULL)
        return out_of_memory(builder);
    for (size_t i = 0; i < field->n_terms; i++) {
        const struct term *term = &field->terms[i];
        size_t slot = hash_bytes(field->text.data + term->text_at, term->text_bytes) & (n - 1);
        while (slots[slot] != 0)
            slot = (slot + 1) & (n - 1);
        slots[slot] = (uint32_t)i + 1;
    }
    kith_free(field->slots);
    field->slots = slots;
    field->n_slots = n;
    return KITH_OK;
}

static enum kith_err new_term(struct column_builder *builder, struct field *field,
                              struct kith_bytes text)
{
    size_t at = field->text.len;
    if (field->n_terms >= UINT32_MAX - 1)
        return kith_fail(builder->diag, KITH_TOO_BIG, "a segment holds 2^32 terms of a field");
    if (!kith_grow((void **)&field->terms, &field->cap_terms, field->n_terms + 1,
                   sizeof *field->terms))
        return out_of_memory(builder);
    kith_buf_append(&field->text, text.data, text.len);
    if (field->text.failed)
        return out_of_memory(builder);
    field->terms[field->n_terms++] =
        (struct term){.text_at = at, .text_bytes = (uint32_t)text.len, .last_row = NO_ROW};
    return KITH_OK;
}

static enum kith_err add_term(struct column_builder *builder, struct field *field,
                              struct kith_bytes text)
{
    enum kith_err err = grow_slots(builder, field);
    if (err != KITH_OK)
        return err;
    size_t slot = hash_bytes(text.data, text.len) & (field->n_slots - 1);
    for (; field->slots[slot] != 0; slot = (slot + 1) & (field->n_slots - 1)) {
        const struct term *term = &field->terms[field->slots[slot] - 1];
        if (term->text_bytes == text.len &&
            memcmp(field->text.data + term->text_at, text.data, text.len) == 0)
            break;
    }
    if (field->slots[slot] == 0) {
        if ((err = new_term(builder, field, text)) != KITH_OK)
            return err;
        field->slots[slot] = (uint32_t)field->n_terms;
    }
    struct term *term = &field->terms[field->slots[slot] - 1];
    if (term->last_row == builder->row)
        return KITH_OK;
    if (!kith_grow((void **)&field->uses, &field->cap_uses, field->n_uses + 1, sizeof *field->uses))
        return out_of_memory(builder);
    field->uses[field->n_uses++] = (struct use){(uint32_t)(term - field->terms), builder->row};
    term->last_row = builder->row;
    term->n_rows++;
    return KITH_OK;
}

static enum kith_err add_string(struct column_builder *builder, struct field *field,
                                struct kith_bytes text)
{
    int64_t us;
    enum kith_err err = KITH_OK;
    if (text.len > COLUMN_TERM_MAX)
        err = mark(builder, field, COLUMN_LONG);
    else
        err = add_term(builder, field, text);
    if (err == KITH_OK && kith_parse_time(text, &us))
        err = add_number(builder, &field->times, us);
    return err;
}

/* Anything but null. Objects, arrays inside arrays and NaN count as values and nothing more. */
static enum kith_err add_value(struct column_builder *builder, struct field *field,
                               const struct kith_value *value)
{
    enum kith_err err = mark_value(builder, field);
    if (err != KITH_OK)
        return err;
    switch (value->type) {
    case KITH_WIRE_BOOL:
        return mark(builder, field, value->boolean ? COLUMN_TRUE : COLUMN_FALSE);
    case KITH_WIRE_INT:
        if (value->negative || value->u <= INT64_MAX)
            return add_number(builder, &field->integers,
                              value->negative ? value->i : (int64_t)value->u);
        return add_number(builder, &field->floats, float_key(value->f));
    case KITH_WIRE_FLOAT:
        return isnan(value->f) ? KITH_OK : add_number(builder, &field->floats, float_key(value->f));
    case KITH_WIRE_STR:
        return add_string(builder, field, value->bytes);
    default:
        return KITH_OK;
    }
}

/* ---- walking a payload --------------------------------------------------------------------- */

static enum kith_err walk_map(struct column_builder *builder, struct kith_cursor *c, uint32_t pairs,
                              uint32_t depth);

static enum kith_err malformed(struct column_builder *builder)
{
    return kith_fail(builder->diag, KITH_CORRUPT, "the payload of row %u is not sound msgpack",
                     builder->row);
}

/* One element of an array at the current path. */
static enum kith_err walk_element(struct column_builder *builder, struct kith_cursor *c,
                                  struct field *field, uint32_t depth)
{
    struct kith_cursor start = *c;
    struct kith_value value;
    enum kith_err err = KITH_OK;
    if (!kith_read_value(c, &value))
        return malformed(builder);
    if (field != NULL)
        err = value.type == KITH_WIRE_NIL ? mark(builder, field, COLUMN_NULL)
                                          : add_value(builder, field, &value);
    if (err != KITH_OK)
        return err;
    if (value.type == KITH_WIRE_ARRAY) { /* its elements have no path that columns know */
        *c = start;
        return kith_read_skip(c, NULL) ? KITH_OK : malformed(builder);
    }
    if (value.type != KITH_WIRE_MAP)
        return KITH_OK;
    size_t len = builder->path.len;
    bool too_long = builder->path.too_long;
    field_path_append_each(&builder->path);
    err = walk_map(builder, c, value.count, depth + 1);
    builder->path.len = len;
    builder->path.too_long = too_long;
    return err;
}

/* The value the current path leads to. */
static enum kith_err walk_value(struct column_builder *builder, struct kith_cursor *c,
                                uint32_t depth)
{
    struct kith_value value;
    struct field *field;
    enum kith_err err = find_field(builder, &field);
    if (err != KITH_OK)
        return err;
    if (depth > KITH_MSGPACK_DEPTH_MAX || !kith_read_value(c, &value))
        return malformed(builder);
    bool array = value.type == KITH_WIRE_ARRAY;
    bool present = array ? value.count > 0 : value.type != KITH_WIRE_NIL;
    if (field != NULL) {
        err = mark(builder, field, COLUMN_EXISTS);
        if (err == KITH_OK && present)
            err = mark(builder, field, COLUMN_PRESENT);
        if (err == KITH_OK && value.type == KITH_WIRE_NIL)
            err = mark(builder, field, COLUMN_NULL);
        else if (err == KITH_OK && !array)
            err = add_value(builder, field, &value);
    }
    for (uint32_t i = 0; err == KITH_OK && array && i < value.count; i++)
        err = walk_element(builder, c, field, depth + 1);
    if (err == KITH_OK && value.type == KITH_WIRE_MAP)
        err = walk_map(builder, c, value.count, depth + 1);
    return err;
}

static enum kith_err walk_map(struct column_builder *builder, struct kith_cursor *c, uint32_t pairs,
                              uint32_t depth)
{
    size_t len = builder->path.len;
    bool too_long = builder->path.too_long;
    for (uint32_t i = 0; i < pairs; i++) {
        struct kith_bytes key;
        if (!kith_read_str(c, &key))
            return malformed(builder);
        enum kith_err err = KITH_OK;
        if (field_path_append(&builder->path, key))
            err = walk_value(builder, c, depth);
        else if (!kith_read_skip(c, NULL)) /* a name with a quote: no path leads there */
            err = malformed(builder);
        builder->path.len = len;
        builder->path.too_long = too_long;
        if (err != KITH_OK)
            return err;
    }
    return KITH_OK;
}

enum kith_err column_builder_add(struct column_builder *builder, uint32_t row,
                                 struct kith_bytes payload, struct kith_diag *diag)
{
    uint32_t pairs;
    kith_assert(row != NO_ROW);
    builder->shuffled |= row != builder->n_rows;
    builder->n_rows++;
    if (row >= builder->rows_end)
        builder->rows_end = row + 1;
    if (payload.len == 0)
        return KITH_OK;
    builder->row = row;
    builder->diag = diag;
    builder->path.len = 0;
    builder->path.too_long = false;
    struct kith_cursor c = kith_cursor_of(payload.data, payload.len);
    if (!kith_read_map(&c, &pairs))
        return malformed(builder);
    enum kith_err err = walk_map(builder, &c, pairs, 0);
    if (err == KITH_OK && !kith_cursor_done(&c))
        err = malformed(builder);
    return err;
}

/* ---- writing the section ------------------------------------------------------------------- */

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

static enum kith_err put_sets(const struct section *section, const struct field *field,
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
    const struct number *a = left;
    const struct number *b = right;
    if (a->key != b->key)
        return a->key < b->key ? -1 : 1;
    return a->row < b->row ? -1 : a->row > b->row;
}

static void put_numbers(const struct section *section, struct numbers *numbers, bool floats,
                        struct column_format_numbers *out)
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
        double value = float_of_key(numbers->items[i].key);
        kith_buf_append(section->out, floats ? (void *)&value : &numbers->items[i].key, 8);
    }
    out->rows_at = here(section);
    for (size_t i = 0; i < kept; i++)
        kith_buf_append(section->out, &numbers->items[i].row, 4);
}

static int compare_terms(const void *left, const void *right, void *ctx)
{
    const struct field *field = ctx;
    const struct term *a = &field->terms[*(const uint32_t *)left];
    const struct term *b = &field->terms[*(const uint32_t *)right];
    uint32_t shared = a->text_bytes < b->text_bytes ? a->text_bytes : b->text_bytes;
    int order = memcmp(field->text.data + a->text_at, field->text.data + b->text_at, shared);
    if (order != 0)
        return order;
    return a->text_bytes < b->text_bytes ? -1 : a->text_bytes > b->text_bytes;
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
static enum kith_err order_uses(struct field *field, uint32_t n_rows, struct kith_diag *diag)
{
    uint32_t *starts = kith_alloc(((size_t)n_rows + 1) * sizeof *starts);
    struct use *ordered = kith_alloc(field->n_uses * sizeof *ordered);
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

static bool sort_terms(struct field *field, struct sorted_terms *out)
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
        struct term *term = &field->terms[out->order[i]];
        term->first = next;
        next += term->n_rows;
        term->n_rows = 0; /* counted again while the rows are dealt out */
    }
    for (size_t i = 0; i < field->n_uses; i++) {
        struct term *term = &field->terms[field->uses[i].term];
        out->rows[term->first + term->n_rows++] = field->uses[i].row;
    }
    return true;
}

static enum kith_err put_terms(const struct section *section, struct field *field,
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
        const struct term *term = &field->terms[sorted.order[i]];
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

static enum kith_err put_field(const struct section *section, struct field *field,
                               struct column_format_path *path)
{
    path->path_at = here(section);
    path->path_bytes = (uint32_t)field->path_bytes;
    kith_buf_append(section->out, field->path, field->path_bytes);
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
    const struct field *a = *(struct field *const *)left;
    const struct field *b = *(struct field *const *)right;
    size_t shared = a->path_bytes < b->path_bytes ? a->path_bytes : b->path_bytes;
    int order = memcmp(a->path, b->path, shared);
    if (order != 0)
        return order;
    return a->path_bytes < b->path_bytes ? -1 : a->path_bytes > b->path_bytes;
}

enum kith_err column_builder_finish(struct column_builder *builder, uint32_t n_rows,
                                    struct kith_buf *out, struct kith_diag *diag)
{
    kith_assert(n_rows == builder->n_rows && n_rows == builder->rows_end);
    const struct section section = {out, out->len, diag};
    struct column_format_header header = {
        .magic = COLUMN_FORMAT_MAGIC,
        .version = COLUMN_FORMAT_VERSION,
        .n_rows = n_rows,
        .n_paths = builder->n_fields,
        .flags = builder->more ? COLUMN_FORMAT_MORE : 0,
    };
    enum kith_err err = KITH_OK;
    size_t table = builder->n_fields * sizeof(struct column_format_path);
    struct column_format_path *paths = kith_alloc(table);
    if (paths == NULL)
        return section_full(&section);
    /* The table is written twice: first as room, at the end with what became known. */
    kith_buf_append(out, &header, sizeof header);
    kith_buf_append(out, paths, table);
    if (builder->n_fields > 0)
        qsort(builder->fields, builder->n_fields, sizeof *builder->fields, compare_fields);
    memset(builder->slots, 0, sizeof builder->slots); /* they named fields by the old order */
    for (uint32_t i = 0; err == KITH_OK && builder->shuffled && i < builder->n_fields; i++)
        if (builder->fields[i]->n_uses <= UINT32_MAX) /* more of them: refused below */
            err = order_uses(builder->fields[i], n_rows, diag);
    for (uint32_t i = 0; err == KITH_OK && i < builder->n_fields; i++)
        err = put_field(&section, builder->fields[i], &paths[i]);
    if (err == KITH_OK && out->failed)
        err = section_full(&section);
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
