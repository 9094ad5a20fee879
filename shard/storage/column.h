/* Columns: the payloads of one segment, turned by field path into sets of rows and sorted numbers.
 *
 * A path names a field as filters do (shard/storage/field_path.h): "category", "author.name",
 * "tags" (an array's elements count as values of the field), "items[].price" (objects inside
 * arrays). One path may hold values of several types; each type has its own part, and a filter asks
 * the part of its operand's type.
 *
 *   keyword   strings (also those that look like UUIDs or times): sorted dictionary, the rows of
 *             each term. Strings longer than COLUMN_TERM_MAX are not in it; their rows are a set.
 *   bool      two sets
 *   integer   i64, sorted, with their rows (values above INT64_MAX are kept as float)
 *   float     f64, sorted, with their rows; never NaN
 *   datetime  strings that are RFC 3339 times, as i64 microseconds since 1970 UTC, sorted
 *   sets      see enum column_set
 *
 * Owns: a builder owns its memory; a reader (struct columns) borrows the section's bytes, which
 * must outlive it and start at a multiple of 32 bytes. Threads: builder: one; reader: any.
 * Limits: KITH_FIELDS_INDEXED_MAX paths; a path beyond it is reported as COLUMN_NOT_INDEXED, and
 * filters then walk the payloads (never a wrong answer).
 * Errors: the section's bytes come from disk. Opening checks the table of paths; every offset,
 * order and row of a path is checked when the path is first asked for. A path that fails is empty
 * from then on and the columns are damaged (columns_damaged): what was read of them is not to be
 * believed. */
#ifndef COLUMN_H
#define COLUMN_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include <stdatomic.h>

#include "common/kith_buf.h"
#include "proto/kith_limits.h"
#include "proto/kith_wire.h"
#include "shard/storage/bitmap.h"

/* ---- building: once per sealed or merged segment ------------------------------------------------
 */

struct column_builder;

enum kith_err column_builder_new(struct column_builder **out, struct kith_diag *diag);
void column_builder_free(struct column_builder *builder);
/* Each of rows 0 .. n_rows - 1 once, in any order; payload is a msgpack map, or empty. */
enum kith_err column_builder_add(struct column_builder *builder, uint32_t row,
                                 struct kith_bytes payload, struct kith_diag *diag);
/* Appends the whole section to out. Offsets count from the section's start, which the segment
 * aligns to 4 KiB. */
enum kith_err column_builder_finish(struct column_builder *builder, uint32_t n_rows,
                                    struct kith_buf *out, struct kith_diag *diag);

/* ---- reading
 * -------------------------------------------------------------------------------------- */

struct columns;
struct column; /* one path of one segment; lives as long as its columns */

enum column_find_result { COLUMN_FOUND, COLUMN_ABSENT /* no row has it */, COLUMN_NOT_INDEXED };

enum kith_err columns_open(struct columns **out, const uint8_t *section, size_t bytes,
                           uint32_t n_rows, struct kith_diag *diag);
void columns_close(struct columns *columns); /* NULL allowed */
/* columns_open in two steps: memory now, reading later. Until columns_begin there are no paths. It
 * may be called by any number of threads; a failure is KITH_CORRUPT or KITH_UNSUPPORTED, for good.
 */
enum kith_err columns_new(struct columns **out, const uint8_t *section, size_t bytes,
                          uint32_t n_rows, struct kith_diag *diag);
enum kith_err columns_begin(struct columns *columns, struct kith_diag *diag);
bool columns_are_open(const struct columns *columns); /* columns_begin is behind us */
/* The section is in a map: when *lost becomes true its bytes turn to zeros (map_guard.h). Before
 * columns_begin. */
void columns_watch(struct columns *columns, const atomic_bool *lost);
bool columns_damaged(const struct columns *columns);
enum column_find_result columns_find(const struct columns *columns, struct kith_bytes path,
                                     const struct column **out);
uint32_t columns_count(const struct columns *columns);
const struct column *columns_at(const struct columns *columns, uint32_t index);
struct kith_bytes column_path(const struct column *column);

/* Facts about a field that are not values. */
enum column_set {
    COLUMN_EXISTS,  /* the path leads somewhere, be it null or [] */
    COLUMN_PRESENT, /* not empty: something other than null or [] (an array of nulls is something)
                     */
    COLUMN_VALUED,  /* at least one value: scalar, object, or array inside an array */
    COLUMN_MULTI,   /* more than one value */
    COLUMN_NULL,    /* null, or an array with a null */
    COLUMN_LONG,    /* a string longer than COLUMN_TERM_MAX */
    COLUMN_FALSE,
    COLUMN_TRUE,
    COLUMN_SETS
};
#define COLUMN_TERM_MAX                                                                            \
    256u /* bytes: page-long texts would double the segment and match nothing                      \
          */

/* Each adds the matching rows to `into` (a set of this segment's rows); false = out of memory. */
bool column_add(const struct column *column, enum column_set set,
                struct bitmap *into) KITH_MUST_CHECK;
bool column_match_keyword(const struct column *column, struct kith_bytes term,
                          struct bitmap *into) KITH_MUST_CHECK; /* not for a longer term */
bool column_match_i64(const struct column *column, int64_t value,
                      struct bitmap *into) KITH_MUST_CHECK;
uint32_t column_count(const struct column *column, enum column_set set); /* rows in it */

/* Numbers: an interval over the integer and float parts together. An end that is not `has_` is open
 * to infinity. */
struct column_range {
    bool has_low, has_high, low_open, high_open;
    double low, high;
};
struct column_time_range {
    bool has_low, has_high, low_open, high_open;
    int64_t low_us, high_us;
};
bool column_match_range(const struct column *column, const struct column_range *range,
                        struct bitmap *into) KITH_MUST_CHECK;
bool column_match_time(const struct column *column, const struct column_time_range *range,
                       struct bitmap *into) KITH_MUST_CHECK;

/* Walks, for facets, order_by and schema: term i in ascending order, number i of a part in
 * ascending order (equal numbers: rows ascending; a row has each value once). */
uint32_t column_terms(const struct column *column);
struct kith_bytes column_term(const struct column *column, uint32_t index);
bool column_term_add(const struct column *column, uint32_t index,
                     struct bitmap *into) KITH_MUST_CHECK;
/* How many rows of `among` (NULL: all) have the term; false = out of memory. */
bool column_term_count(const struct column *column, uint32_t index, const struct bitmap *among,
                       uint64_t *out) KITH_MUST_CHECK;
uint32_t column_integers(const struct column *column);
void column_integer(const struct column *column, uint32_t index, int64_t *value, uint32_t *row);
uint32_t column_floats(const struct column *column);
void column_float(const struct column *column, uint32_t index, double *value, uint32_t *row);
uint32_t column_times(const struct column *column);
void column_time(const struct column *column, uint32_t index, int64_t *value_us, uint32_t *row);

/* Times are parsed by kith_parse_time of proto/kith_filter.h. */

#endif
