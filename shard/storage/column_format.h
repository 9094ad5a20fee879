/* The bytes of a columns section: written by column_section.c, checked by column_check.c.
 * Little endian; offsets count from the section's start, which is a multiple of 32 in memory.
 *
 *   header, paths[n_paths] ascending by path, then in any order what they point to:
 *   sets       frozen bitmaps at multiples of 32 (count 0: no bytes)
 *   terms      struct column_format_term[n] at a multiple of 8, ascending by text
 *   numbers    i64 or f64 [n] at a multiple of 8, and u32 rows[n] at a multiple of 4
 *
 * Threads: plain data. Limits: COLUMN_FORMAT_VERSION changes whenever a byte here does. */
#ifndef COLUMN_FORMAT_H
#define COLUMN_FORMAT_H

#include <stdint.h>

#include "shard/storage/column.h"

#define COLUMN_FORMAT_MAGIC     0x4c4f434bu /* "KCOL" */
#define COLUMN_FORMAT_VERSION   1u
#define COLUMN_FORMAT_MORE      1u  /* header flag: some paths were left out */
#define COLUMN_FORMAT_LIST_ROWS 16u /* a term with fewer rows keeps them as a list */

_Static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "sections are read in place");

struct column_format_header {
    uint32_t magic;
    uint32_t version;
    uint32_t n_rows;
    uint32_t n_paths;
    uint32_t flags;
    uint32_t reserved;
    uint64_t bytes; /* of the whole section, without what the segment pads */
};

struct column_format_set {
    uint64_t at;
    uint32_t bytes;
    uint32_t count;
};

struct column_format_numbers {
    uint64_t values_at;
    uint64_t rows_at;
    uint64_t n;
};

struct column_format_path {
    uint64_t path_at;
    uint32_t path_bytes;
    uint32_t n_terms;
    uint64_t terms_at;
    struct column_format_set sets[COLUMN_SETS];
    struct column_format_numbers integers, floats, times;
};

struct column_format_term {
    uint64_t text_at;
    uint64_t rows_at; /* n_rows == 1: the row itself */
    uint32_t text_bytes;
    uint32_t n_rows;
    uint32_t rows_bytes; /* of a frozen bitmap; 0: a list of u32 rows, ascending */
    uint32_t reserved;
};

_Static_assert(sizeof(struct column_format_header) == 32, "disk");
_Static_assert(sizeof(struct column_format_path) == 24 + COLUMN_SETS * 16 + 72, "disk");
_Static_assert(sizeof(struct column_format_term) == 32, "disk");
_Static_assert(COLUMN_SETS == 8, "disk: a new set is a new version");

#endif
