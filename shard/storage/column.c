#include "shard/storage/column.h"

/* Reading columns in place. A path is checked when it is first asked for (column_check.c), so that
 * what filters touch later needs no checks.
 *
 * A section in a map may turn into zeros later (columns_watch). What is kept here - pointers and
 * counts of numbers and sets - stays; terms are read from the section at each use, so their rows
 * are checked at each use, too. A frozen bitmap half of which became zeros must not be used any
 * further, not even by other set operations: reading one reports failure. */

#include <string.h>

#include "common/kith_mem.h"
#include "shard/storage/column_state.h"

enum kith_err columns_new(struct columns **out, const uint8_t *section, size_t bytes,
                          uint32_t n_rows, struct kith_diag *diag)
{
    kith_assert(((uintptr_t)section & 31) == 0);
    struct column_format_header header = {0};
    if (bytes >= sizeof header)
        memcpy(&header, section, sizeof header);
    /* Not to be believed yet, only to be large enough if it is true. */
    uint32_t cap =
        header.n_paths < KITH_FIELDS_INDEXED_MAX ? header.n_paths : KITH_FIELDS_INDEXED_MAX;
    struct columns *columns = kith_alloc(sizeof *columns + cap * sizeof columns->items[0]);
    if (columns == NULL)
        return kith_fail(diag, KITH_NOMEM, "columns");
    (void)pthread_mutex_init(&columns->lock, NULL);
    columns->section = section;
    columns->bytes = bytes;
    columns->n_rows = n_rows;
    columns->cap = cap;
    *out = columns;
    return KITH_OK;
}

void columns_watch(struct columns *columns, const atomic_bool *lost)
{
    columns->lost = lost;
}

enum kith_err columns_begin(struct columns *columns, struct kith_diag *diag)
{
    enum kith_err err = KITH_OK;
    (void)pthread_mutex_lock(&columns->lock);
    if (!atomic_load_explicit(&columns->begun, memory_order_relaxed)) {
        err = column_check_paths(columns, diag);
        atomic_store(&columns->damaged, err != KITH_OK);
        atomic_store_explicit(&columns->begun, true, memory_order_release);
    } else if (columns_damaged(columns)) {
        err = kith_fail(diag, KITH_CORRUPT, "columns: damaged");
    }
    (void)pthread_mutex_unlock(&columns->lock);
    return err;
}

enum kith_err columns_open(struct columns **out, const uint8_t *section, size_t bytes,
                           uint32_t n_rows, struct kith_diag *diag)
{
    struct columns *columns = NULL;
    enum kith_err err = columns_new(&columns, section, bytes, n_rows, diag);
    if (err == KITH_OK)
        err = columns_begin(columns, diag);
    if (err != KITH_OK) {
        columns_close(columns);
        return err;
    }
    *out = columns;
    return KITH_OK;
}

void columns_close(struct columns *columns)
{
    if (columns != NULL)
        (void)pthread_mutex_destroy(&columns->lock);
    kith_free(columns);
}

bool columns_are_open(const struct columns *columns)
{
    return atomic_load_explicit(&columns->begun, memory_order_acquire);
}

bool columns_damaged(const struct columns *columns)
{
    return atomic_load_explicit(&columns->damaged, memory_order_acquire);
}

static void check_values(struct column *column)
{
    struct columns *columns = column->columns;
    (void)pthread_mutex_lock(&columns->lock);
    if (!atomic_load_explicit(&column->checked, memory_order_relaxed)) {
        if (!column_check_values(column))
            atomic_store(&columns->damaged, true);
        atomic_store_explicit(&column->checked, true, memory_order_release);
    }
    (void)pthread_mutex_unlock(&columns->lock);
}

/* The check fills in what the column has beside its path: the one change to shared columns. */
static const struct column *checked(const struct columns *columns, uint32_t index)
{
    const struct column *column = &columns->items[index];
    if (!atomic_load_explicit(&column->checked, memory_order_acquire))
        check_values(&((struct columns *)(uintptr_t)columns)->items[index]);
    return column;
}

enum column_find_result columns_find(const struct columns *columns, struct kith_bytes path,
                                     const struct column **out)
{
    uint32_t low = 0;
    uint32_t high = columns_are_open(columns) ? columns->n : 0;
    while (low < high) {
        uint32_t middle = low + (high - low) / 2;
        int order = kith_bytes_compare(columns->items[middle].path, path);
        if (order == 0) {
            *out = checked(columns, middle);
            return COLUMN_FOUND;
        }
        if (order < 0)
            low = middle + 1;
        else
            high = middle;
    }
    return columns->more ? COLUMN_NOT_INDEXED : COLUMN_ABSENT;
}

uint32_t columns_count(const struct columns *columns)
{
    return columns_are_open(columns) ? columns->n : 0;
}

const struct column *columns_at(const struct columns *columns, uint32_t index)
{
    kith_assert(index < columns->n);
    return checked(columns, index);
}

struct kith_bytes column_path(const struct column *column)
{
    return column->path;
}

/* ---- sets and terms ------------------------------------------------------------------------ */

static bool is_lost(const struct column *column)
{
    const atomic_bool *lost = column->columns->lost;
    return lost != NULL && atomic_load_explicit(lost, memory_order_seq_cst);
}

static bool add_frozen(const struct column *column, uint64_t at, uint32_t bytes,
                       struct bitmap *into)
{
    struct bitmap *view = bitmap_view(column->section + at, bytes);
    if (view == NULL)
        return false;
    bitmap_or(into, view);
    bitmap_free(view);
    return !is_lost(column);
}

/* A term's rows as a list. It was checked once; the section may have become zeros since. */
struct list {
    uint32_t n, rows[COLUMN_FORMAT_LIST_ROWS];
};

static bool read_list(const struct column *column, const struct column_format_term *term,
                      struct list *out)
{
    uint64_t at = term->rows_at;
    uint32_t n = term->n_rows;
    if (n == 0 || n > COLUMN_FORMAT_LIST_ROWS)
        return false;
    out->n = n;
    if (n == 1)
        out->rows[0] = (uint32_t)at;
    else if (at <= column->columns->bytes && n * 4 <= column->columns->bytes - at)
        memcpy(out->rows, column->section + at, n * 4);
    else
        return false;
    for (uint32_t i = 0; i < n; i++)
        if (out->rows[i] >= column->n_rows)
            return false;
    return true;
}

bool column_add(const struct column *column, enum column_set set, struct bitmap *into)
{
    const struct column_format_set *found = &column->sets[set];
    return found->count == 0 || add_frozen(column, found->at, found->bytes, into);
}

uint32_t column_count(const struct column *column, enum column_set set)
{
    return column->sets[set].count;
}

uint32_t column_terms(const struct column *column)
{
    return column->n_terms;
}

struct kith_bytes column_term(const struct column *column, uint32_t index)
{
    kith_assert(index < column->n_terms);
    const struct column_format_term term = column->terms[index];
    return (struct kith_bytes){column->section + term.text_at, term.text_bytes};
}

bool column_term_add(const struct column *column, uint32_t index, struct bitmap *into)
{
    kith_assert(index < column->n_terms);
    const struct column_format_term term = column->terms[index];
    struct list list;
    if (term.rows_bytes != 0)
        return add_frozen(column, term.rows_at, term.rows_bytes, into);
    if (!read_list(column, &term, &list))
        return false;
    bitmap_add_many(into, list.n, list.rows);
    return true;
}

bool column_term_count(const struct column *column, uint32_t index, const struct bitmap *among,
                       uint64_t *out)
{
    kith_assert(index < column->n_terms);
    const struct column_format_term term = column->terms[index];
    uint64_t count = 0;
    struct list list;
    if (among == NULL) {
        count = term.n_rows;
    } else if (term.rows_bytes == 0) {
        if (!read_list(column, &term, &list))
            return false;
        for (uint32_t i = 0; i < list.n; i++)
            count += bitmap_contains(among, list.rows[i]);
    } else {
        struct bitmap *view = bitmap_view(column->section + term.rows_at, term.rows_bytes);
        if (view == NULL)
            return false;
        count = bitmap_count_and(view, among);
        bitmap_free(view);
    }
    *out = count;
    return true;
}

bool column_match_keyword(const struct column *column, struct kith_bytes term, struct bitmap *into)
{
    uint32_t low = 0;
    uint32_t high = column->n_terms;
    kith_assert(term.len <= COLUMN_TERM_MAX);
    while (low < high) {
        uint32_t middle = low + (high - low) / 2;
        int order = kith_bytes_compare(column_term(column, middle), term);
        if (order == 0)
            return column_term_add(column, middle, into);
        if (order < 0)
            low = middle + 1;
        else
            high = middle;
    }
    return true;
}
