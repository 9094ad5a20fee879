/* Columns: the payloads of one segment, turned by field path into sets of rows and sorted numbers.
 *
 * A path names a field as filters do: "category", "author.name", "tags" (an array's elements count
 * as values of the field; a trailing "[]" is dropped), "items[].price" (objects inside arrays). One
 * path may hold values of several types; each type has its own part, and a filter asks the part of
 * its operand's type.
 *
 *   keyword   strings (also those that look like UUIDs or dates): sorted dictionary, one bitmap per
 * term bool      two bitmaps integer   i64, sorted, with their rows (values above INT64_MAX are
 * kept as float) float     f64, sorted, with their rows datetime  strings that are RFC 3339 times,
 * as i64 microseconds since 1970 UTC, sorted present   rows with at least one non-null value; null:
 * rows where the field is null (or an array with a null)
 *
 * Owns: a builder owns its memory; a reader (struct columns) borrows the section's bytes, which
 * must outlive it. Threads: builder: one; reader: any. Limits: KITH_FIELDS_INDEXED_MAX paths; a
 * path beyond it is reported as COLUMN_NOT_INDEXED, and filters then walk the payloads (never a
 * wrong answer). Errors: the section's bytes come from disk: the reader checks every offset
 * (KITH_CORRUPT). */
#ifndef COLUMN_H
#define COLUMN_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "common/kith_buf.h"
#include "proto/kith_wire.h"
#include "shard/storage/bitmap.h"

/* ---- building: once per sealed or merged segment ------------------------------------------------
 */

struct column_builder;

enum kith_err column_builder_new(struct column_builder **out, struct kith_diag *diag);
void column_builder_free(struct column_builder *builder);
/* Rows must be added in order 0, 1, 2...; payload is a msgpack map, or empty. */
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
void columns_close(struct columns *columns);
enum column_find_result columns_find(const struct columns *columns, struct kith_bytes path,
                                     const struct column **out);
uint32_t columns_count(const struct columns *columns);
const struct column *columns_at(const struct columns *columns, uint32_t index);
struct kith_bytes column_path(const struct column *column);

/* Each adds the matching rows to `into` (a set of this segment's rows); false = out of memory. */
bool column_match_keyword(const struct column *column, struct kith_bytes term,
                          struct bitmap *into) KITH_MUST_CHECK;
bool column_match_bool(const struct column *column, bool value,
                       struct bitmap *into) KITH_MUST_CHECK;
bool column_match_i64(const struct column *column, int64_t value,
                      struct bitmap *into) KITH_MUST_CHECK;
bool column_present(const struct column *column, struct bitmap *into) KITH_MUST_CHECK;
bool column_null(const struct column *column, struct bitmap *into) KITH_MUST_CHECK;

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

/* Walks, for facets, order_by and schema: term i in ascending order with its rows (borrowed),
 * number i of a part. */
uint32_t column_terms(const struct column *column);
void column_term(const struct column *column, uint32_t index, struct kith_bytes *term,
                 const struct bitmap **rows);
uint32_t column_integers(const struct column *column);
void column_integer(const struct column *column, uint32_t index, int64_t *value, uint32_t *row);
uint32_t column_floats(const struct column *column);
void column_float(const struct column *column, uint32_t index, double *value, uint32_t *row);
uint32_t column_times(const struct column *column);
void column_time(const struct column *column, uint32_t index, int64_t *value_us, uint32_t *row);
bool column_bools(const struct column *column, bool value,
                  const struct bitmap **rows); /* false: none */

/* Times are parsed by kith_parse_time of proto/kith_filter.h. */

#endif
