/* What a column builder gathers of one field, before it is sorted and written: sets of rows,
 * numbers, and strings as terms.
 *
 * Owns: its memory. Threads: one. Errors: KITH_NOMEM; KITH_TOO_BIG for 2^32 terms; what was
 * gathered is then good for nothing but column_field_free. */
#ifndef COLUMN_FIELD_H
#define COLUMN_FIELD_H

#include "common/kith_buf.h"
#include "proto/kith_wire.h"
#include "shard/storage/column.h"

#define COLUMN_FIELD_NO_ROW UINT32_MAX

/* A number by its key, an i64 of the same order, and a row that has it; as they came. */
struct column_field_number {
    int64_t key;
    uint32_t row;
};
struct column_field_numbers {
    struct column_field_number *items;
    size_t n, cap;
};

struct column_field_term {
    size_t text_at; /* in the field's text */
    uint32_t text_bytes;
    uint32_t last_row;
    uint32_t n_rows;
    uint32_t first; /* for column_section.c: index of its first row */
};
struct column_field_use {
    uint32_t term, row;
};

struct column_field {
    struct kith_bytes path;           /* owned */
    struct bitmap *sets[COLUMN_SETS]; /* NULL: no row */
    uint32_t valued_row;              /* the last row with a value here */
    struct column_field_numbers integers, floats, times;
    struct kith_buf text;
    struct column_field_term *terms;
    size_t n_terms, cap_terms;
    uint32_t *slots; /* hash table of term index + 1 */
    size_t n_slots;
    struct column_field_use *uses; /* of terms, as they came; each (term, row) once */
    size_t n_uses, cap_uses;
};

struct column_field *column_field_new(struct kith_bytes path); /* NULL: out of memory */
void column_field_free(struct column_field *field);            /* NULL allowed */

/* The row whose payload is read, and where its errors go. */
struct column_field_place {
    uint32_t row;
    struct kith_diag *diag;
};
enum kith_err column_field_mark(struct column_field *field, const struct column_field_place *at,
                                enum column_set set);
/* Anything but null. Objects, arrays inside arrays and NaN count as values and nothing more. A
 * row's values come one after the other. */
enum kith_err column_field_add(struct column_field *field, const struct column_field_place *at,
                               const struct kith_value *value);

double column_field_float(int64_t key); /* of a number among the floats */

#endif
