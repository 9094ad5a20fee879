#include "shard/storage/column_field.h"

/* Each string becomes the number of a term, by a hash table of the field, and what is kept for a
 * value is only (term, row). Numbers are kept as (key, row), where key is an i64 in the same order.
 * Nothing is sorted here. */

#include <math.h>
#include <string.h>

#include "common/kith_mem.h"
#include "proto/kith_filter.h"
#include "proto/kith_hash.h"

void column_field_free(struct column_field *field)
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
    kith_free((void *)(uintptr_t)field->path.data);
    kith_free(field);
}

struct column_field *column_field_new(struct kith_bytes path)
{
    struct column_field *field = kith_alloc(sizeof *field);
    if (field == NULL)
        return NULL;
    field->valued_row = COLUMN_FIELD_NO_ROW;
    field->path = (struct kith_bytes){kith_memdup(path.data, path.len), path.len};
    if (field->path.data == NULL) {
        column_field_free(field);
        return NULL;
    }
    return field;
}

static enum kith_err out_of_memory(const struct column_field_place *at)
{
    return kith_fail(at->diag, KITH_NOMEM, "columns of row %u", at->row);
}

enum kith_err column_field_mark(struct column_field *field, const struct column_field_place *at,
                                enum column_set set)
{
    if (field->sets[set] == NULL && (field->sets[set] = bitmap_new()) == NULL)
        return out_of_memory(at);
    bitmap_add(field->sets[set], at->row);
    return KITH_OK;
}

static enum kith_err mark_value(struct column_field *field, const struct column_field_place *at)
{
    if (field->valued_row == at->row)
        return column_field_mark(field, at, COLUMN_MULTI);
    field->valued_row = at->row;
    return column_field_mark(field, at, COLUMN_VALUED);
}

static enum kith_err add_number(struct column_field_numbers *numbers,
                                const struct column_field_place *at, int64_t key)
{
    if (!kith_grow((void **)&numbers->items, &numbers->cap, numbers->n + 1, sizeof *numbers->items))
        return out_of_memory(at);
    numbers->items[numbers->n++] = (struct column_field_number){key, at->row};
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

double column_field_float(int64_t key)
{
    double value;
    key = key < 0 ? key ^ INT64_MAX : key;
    memcpy(&value, &key, sizeof value);
    return value;
}

/* Only balance matters here, nothing stored depends on it. */
static uint32_t hash_bytes(const void *data, size_t len)
{
    uint64_t h = kith_hash_bytes(KITH_HASH_START, data, len);
    return (uint32_t)(h ^ (h >> 32));
}

static enum kith_err grow_slots(struct column_field *field, const struct column_field_place *at)
{
    if (field->n_slots > field->n_terms * 2)
        return KITH_OK;
    size_t n = field->n_slots == 0 ? 64 : field->n_slots * 2;
    uint32_t *slots = kith_alloc(n * sizeof *slots);
    if (slots == NULL)
        return out_of_memory(at);
    for (size_t i = 0; i < field->n_terms; i++) {
        const struct column_field_term *term = &field->terms[i];
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

static enum kith_err new_term(struct column_field *field, const struct column_field_place *at,
                              struct kith_bytes text)
{
    size_t text_at = field->text.len;
    if (field->n_terms >= UINT32_MAX - 1)
        return kith_fail(at->diag, KITH_TOO_BIG, "a segment holds 2^32 terms of a field");
    if (!kith_grow((void **)&field->terms, &field->cap_terms, field->n_terms + 1,
                   sizeof *field->terms))
        return out_of_memory(at);
    kith_buf_append(&field->text, text.data, text.len);
    if (field->text.failed)
        return out_of_memory(at);
    field->terms[field->n_terms++] = (struct column_field_term){
        .text_at = text_at, .text_bytes = (uint32_t)text.len, .last_row = COLUMN_FIELD_NO_ROW};
    return KITH_OK;
}

static enum kith_err add_term(struct column_field *field, const struct column_field_place *at,
                              struct kith_bytes text)
{
    enum kith_err err = grow_slots(field, at);
    if (err != KITH_OK)
        return err;
    size_t slot = hash_bytes(text.data, text.len) & (field->n_slots - 1);
    for (; field->slots[slot] != 0; slot = (slot + 1) & (field->n_slots - 1)) {
        const struct column_field_term *term = &field->terms[field->slots[slot] - 1];
        if (term->text_bytes == text.len &&
            memcmp(field->text.data + term->text_at, text.data, text.len) == 0)
            break;
    }
    if (field->slots[slot] == 0) {
        if ((err = new_term(field, at, text)) != KITH_OK)
            return err;
        field->slots[slot] = (uint32_t)field->n_terms;
    }
    struct column_field_term *term = &field->terms[field->slots[slot] - 1];
    if (term->last_row == at->row)
        return KITH_OK;
    if (!kith_grow((void **)&field->uses, &field->cap_uses, field->n_uses + 1, sizeof *field->uses))
        return out_of_memory(at);
    field->uses[field->n_uses++] =
        (struct column_field_use){(uint32_t)(term - field->terms), at->row};
    term->last_row = at->row;
    term->n_rows++;
    return KITH_OK;
}

static enum kith_err add_string(struct column_field *field, const struct column_field_place *at,
                                struct kith_bytes text)
{
    int64_t us;
    enum kith_err err = KITH_OK;
    if (text.len > COLUMN_TERM_MAX)
        err = column_field_mark(field, at, COLUMN_LONG);
    else
        err = add_term(field, at, text);
    if (err == KITH_OK && kith_parse_time(text, &us))
        err = add_number(&field->times, at, us);
    return err;
}

enum kith_err column_field_add(struct column_field *field, const struct column_field_place *at,
                               const struct kith_value *value)
{
    enum kith_err err = mark_value(field, at);
    if (err != KITH_OK)
        return err;
    switch (value->type) {
    case KITH_WIRE_BOOL:
        return column_field_mark(field, at, value->boolean ? COLUMN_TRUE : COLUMN_FALSE);
    case KITH_WIRE_INT:
        if (value->negative || value->u <= INT64_MAX)
            return add_number(&field->integers, at, value->negative ? value->i : (int64_t)value->u);
        return add_number(&field->floats, at, float_key(value->f));
    case KITH_WIRE_FLOAT:
        return isnan(value->f) ? KITH_OK : add_number(&field->floats, at, float_key(value->f));
    case KITH_WIRE_STR:
        return add_string(field, at, value->bytes);
    default:
        return KITH_OK;
    }
}
