/* What columns are inside: shared by column.c, column_check.c and column_numbers.c. */
#ifndef COLUMN_STATE_H
#define COLUMN_STATE_H

#include <pthread.h>

#include "shard/storage/column_format.h"

/* One sorted part of a field. */
struct column_numbers {
    const void *values; /* i64 or f64 */
    const uint32_t *rows;
    uint32_t n;
};

struct column {
    struct columns *columns;
    const uint8_t *section;
    uint32_t n_rows;
    struct kith_bytes path;
    const struct column_format_path *entry;
    atomic_bool checked; /* release/acquire: carries what follows */
    uint32_t n_terms;
    const struct column_format_term *terms;
    struct column_format_set sets[COLUMN_SETS];
    struct column_numbers integers, floats, times;
};

struct columns {
    /* Immutable after columns_watch. */
    const uint8_t *section;
    uint64_t bytes;
    uint32_t n_rows, cap;
    const atomic_bool *lost;
    /* Any thread. */
    atomic_bool begun; /* release/acquire: carries n, more, and the paths */
    atomic_bool damaged;
    uint32_t n;
    bool more;
    pthread_mutex_t lock; /* of those who check: over memory that was just verified */
    struct column items[];
};

/* column_check.c. Under the lock, before anybody else sees what they fill in.
 *
 * The table of paths: items, with their paths only, and n and more. KITH_CORRUPT, or
 * KITH_UNSUPPORTED for another version. */
enum kith_err column_check_paths(struct columns *columns, struct kith_diag *diag);
/* What the path leads to: numbers, terms and sets. False: it is malformed, and the column has
 * nothing. */
bool column_check_values(struct column *column);

#endif
