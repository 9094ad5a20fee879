#include "shard/storage/column.h"

/* Building columns: one pass over the payloads, then sorting.
 *
 * Each payload is walked once; every value it holds is filed under its path (found by a hash table
 * of spelled paths) by column_field.c. column_section.c sorts and writes what was gathered.
 *
 * Lost: one bitmap per term while building (a field of unique strings would hold a million small
 * bitmaps); keeping values in a map from path to values per row (three times the memory). */

#include <string.h>

#include "common/kith_mem.h"
#include "proto/kith_hash.h"
#include "shard/storage/column_field.h"
#include "shard/storage/column_section.h"
#include "shard/storage/field_path.h"

#define FIELD_SLOTS (KITH_FIELDS_INDEXED_MAX * 4)

struct column_builder {
    struct column_field *fields[KITH_FIELDS_INDEXED_MAX];
    uint32_t n_fields;
    uint32_t slots[FIELD_SLOTS];
    uint32_t n_rows, rows_end; /* so many; all below rows_end */
    bool shuffled;             /* they did not come in ascending order */
    bool more;                 /* some paths were left out */
    /* While a payload is being walked. */
    struct column_field_place at;
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

void column_builder_free(struct column_builder *builder)
{
    if (builder == NULL)
        return;
    for (uint32_t i = 0; i < builder->n_fields; i++)
        column_field_free(builder->fields[i]);
    kith_free(builder);
}

/* The field of the current path; *out = NULL when it is one too many. */
static enum kith_err find_field(struct column_builder *builder, struct column_field **out)
{
    const struct field_path_text *path = &builder->path;
    *out = NULL;
    if (path->too_long || path->len > KITH_FIELD_PATH_MAX)
        return KITH_OK; /* no filter can name it: its key would be too long */
    uint32_t slot =
        (uint32_t)(kith_hash_bytes(KITH_HASH_START, path->text, path->len) % FIELD_SLOTS);
    for (; builder->slots[slot] != 0; slot = (slot + 1) % FIELD_SLOTS) {
        struct column_field *field = builder->fields[builder->slots[slot] - 1];
        if (field->path.len == path->len && memcmp(field->path.data, path->text, path->len) == 0) {
            *out = field;
            return KITH_OK;
        }
    }
    if (builder->n_fields == KITH_FIELDS_INDEXED_MAX) {
        builder->more = true;
        return KITH_OK;
    }
    struct column_field *field =
        column_field_new((struct kith_bytes){(const uint8_t *)path->text, path->len});
    if (field == NULL)
        return kith_fail(builder->at.diag, KITH_NOMEM, "columns of row %u", builder->at.row);
    builder->fields[builder->n_fields++] = field;
    builder->slots[slot] = builder->n_fields;
    *out = field;
    return KITH_OK;
}

/* ---- walking a payload --------------------------------------------------------------------- */

static enum kith_err walk_map(struct column_builder *builder, struct kith_cursor *c, uint32_t pairs,
                              uint32_t depth);

static enum kith_err malformed(struct column_builder *builder)
{
    return kith_fail(builder->at.diag, KITH_CORRUPT, "the payload of row %u is not sound msgpack",
                     builder->at.row);
}

/* One element of an array at the current path. */
static enum kith_err walk_element(struct column_builder *builder, struct kith_cursor *c,
                                  struct column_field *field, uint32_t depth)
{
    struct kith_cursor start = *c;
    struct kith_value value;
    enum kith_err err = KITH_OK;
    if (!kith_read_value(c, &value))
        return malformed(builder);
    if (field != NULL)
        err = value.type == KITH_WIRE_NIL ? column_field_mark(field, &builder->at, COLUMN_NULL)
                                          : column_field_add(field, &builder->at, &value);
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
    struct column_field *field;
    enum kith_err err = find_field(builder, &field);
    if (err != KITH_OK)
        return err;
    if (depth > KITH_MSGPACK_DEPTH_MAX || !kith_read_value(c, &value))
        return malformed(builder);
    bool array = value.type == KITH_WIRE_ARRAY;
    bool present = array ? value.count > 0 : value.type != KITH_WIRE_NIL;
    if (field != NULL) {
        err = column_field_mark(field, &builder->at, COLUMN_EXISTS);
        if (err == KITH_OK && present)
            err = column_field_mark(field, &builder->at, COLUMN_PRESENT);
        if (err == KITH_OK && value.type == KITH_WIRE_NIL)
            err = column_field_mark(field, &builder->at, COLUMN_NULL);
        else if (err == KITH_OK && !array)
            err = column_field_add(field, &builder->at, &value);
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
    kith_assert(row != COLUMN_FIELD_NO_ROW);
    builder->shuffled |= row != builder->n_rows;
    builder->n_rows++;
    if (row >= builder->rows_end)
        builder->rows_end = row + 1;
    if (payload.len == 0)
        return KITH_OK;
    builder->at = (struct column_field_place){row, diag};
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

enum kith_err column_builder_finish(struct column_builder *builder, uint32_t n_rows,
                                    struct kith_buf *out, struct kith_diag *diag)
{
    kith_assert(n_rows == builder->n_rows && n_rows == builder->rows_end);
    const struct column_section_fields fields = {
        .list = builder->fields,
        .n = builder->n_fields,
        .n_rows = n_rows,
        .shuffled = builder->shuffled,
        .more = builder->more,
    };
    memset(builder->slots, 0, sizeof builder->slots); /* they name fields by the old order */
    return column_section_write(&fields, out, diag);
}
