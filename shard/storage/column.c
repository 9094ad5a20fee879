#include "shard/storage/column.h"

/* Reading columns in place. A path is checked when it is first asked for, so that what filters
 * touch later needs no checks: offsets, alignment, order of terms and numbers, and each row. That
 * walk costs about 1 ns per value (bitmaps: per container) of the paths that are used. What it does
 * not prove is that sets agree with one another (a row of a term that is missing from the VALUED
 * set): such a section would give wrong answers, never wild reads, and a checksum guards against
 * it.
 *
 * A section in a map may turn into zeros later (columns_watch). What is kept here - pointers and
 * counts of numbers and sets - stays; terms are read from the section at each use, so their rows
 * are checked at each use, too. A frozen bitmap half of which became zeros must not be used any
 * further, not even by other set operations: reading one reports failure. */

#include <math.h>
#include <pthread.h>
#include <string.h>

#include "common/kith_mem.h"
#include "shard/storage/column_format.h"

struct numbers {
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
    struct numbers integers, floats, times;
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

/* ---- opening ------------------------------------------------------------------------------- */

struct opening {
    const uint8_t *section;
    uint64_t bytes;
    uint32_t n_rows;
    struct kith_diag *diag;
};

static bool inside(const struct opening *o, uint64_t at, uint64_t n, uint64_t size, uint64_t align)
{
    return at % align == 0 && at <= o->bytes && n <= (o->bytes - at) / size;
}

static enum kith_err corrupt(const struct opening *o, const char *what)
{
    return kith_fail(o->diag, KITH_CORRUPT, "columns: %s", what);
}

static bool sound_rows(const struct opening *o, const uint32_t *rows, uint32_t n)
{
    for (uint32_t i = 0; i < n; i++)
        if (rows[i] >= o->n_rows || (i > 0 && rows[i - 1] >= rows[i]))
            return false;
    return true;
}

static bool sound_term_rows(const struct opening *o, const struct column_format_term *term)
{
    uint64_t count;
    if (term->n_rows == 1)
        return term->rows_at < o->n_rows && term->rows_bytes == 0;
    if (term->rows_bytes == 0)
        return term->n_rows > 0 && term->n_rows <= COLUMN_FORMAT_LIST_ROWS &&
               inside(o, term->rows_at, term->n_rows, 4, 4) &&
               sound_rows(o, (const uint32_t *)(const void *)(o->section + term->rows_at),
                          term->n_rows);
    return inside(o, term->rows_at, term->rows_bytes, 1, 32) &&
           bitmap_frozen_check(o->section + term->rows_at, term->rows_bytes, o->n_rows, &count) &&
           count == term->n_rows;
}

static enum kith_err open_terms(const struct opening *o, const struct column_format_path *path,
                                struct column *out)
{
    struct kith_bytes before = {0};
    out->n_terms = path->n_terms;
    if (path->n_terms == 0)
        return KITH_OK;
    if (!inside(o, path->terms_at, path->n_terms, sizeof *out->terms, 8))
        return corrupt(o, "a dictionary lies outside");
    out->terms = (const void *)(o->section + path->terms_at);
    for (uint32_t i = 0; i < path->n_terms; i++) {
        const struct column_format_term *term = &out->terms[i];
        if (!inside(o, term->text_at, term->text_bytes, 1, 1) ||
            term->text_bytes > COLUMN_TERM_MAX || !sound_term_rows(o, term))
            return corrupt(o, "a term is malformed");
        struct kith_bytes text = {o->section + term->text_at, term->text_bytes};
        if (i > 0 && kith_bytes_compare(before, text) >= 0)
            return corrupt(o, "a dictionary is out of order");
        before = text;
    }
    return KITH_OK;
}

static enum kith_err open_sets(const struct opening *o, const struct column_format_path *path,
                               struct column *out)
{
    for (int i = 0; i < COLUMN_SETS; i++) {
        const struct column_format_set *set = &path->sets[i];
        uint64_t count;
        if (set->count == 0 && set->bytes == 0)
            continue;
        if (!inside(o, set->at, set->bytes, 1, 32) ||
            !bitmap_frozen_check(o->section + set->at, set->bytes, o->n_rows, &count) ||
            count != set->count)
            return corrupt(o, "a set of rows is malformed");
        out->sets[i] = *set;
    }
    return KITH_OK;
}

static enum kith_err open_numbers(const struct opening *o, const struct column_format_numbers *from,
                                  struct numbers *out)
{
    if (from->n == 0)
        return KITH_OK;
    if (from->n > UINT32_MAX || !inside(o, from->values_at, from->n, 8, 8) ||
        !inside(o, from->rows_at, from->n, 4, 4))
        return corrupt(o, "numbers lie outside");
    out->values = o->section + from->values_at;
    out->rows = (const void *)(o->section + from->rows_at);
    out->n = (uint32_t)from->n;
    for (uint32_t i = 0; i < out->n; i++)
        if (out->rows[i] >= o->n_rows)
            return corrupt(o, "a number's row does not exist");
    return KITH_OK;
}

static enum kith_err check_order(const struct opening *o, const struct numbers *integers)
{
    const int64_t *values = integers->values;
    for (uint32_t i = 1; i < integers->n; i++)
        if (values[i - 1] > values[i] ||
            (values[i - 1] == values[i] && integers->rows[i - 1] >= integers->rows[i]))
            return corrupt(o, "integers or times are out of order");
    return KITH_OK;
}

static enum kith_err check_float_order(const struct opening *o, const struct numbers *floats)
{
    const double *values = floats->values;
    for (uint32_t i = 0; i < floats->n; i++)
        if (isnan(values[i]) ||
            (i > 0 && (values[i - 1] > values[i] ||
                       (values[i - 1] == values[i] && floats->rows[i - 1] >= floats->rows[i]))))
            return corrupt(o, "floats are out of order");
    return KITH_OK;
}

static enum kith_err open_path(const struct opening *o, const struct column_format_path *path,
                               struct column *out)
{
    uint64_t at = path->path_at;
    uint32_t bytes = path->path_bytes;
    if (!inside(o, at, bytes, 1, 1) || bytes == 0 || bytes > KITH_FIELD_PATH_MAX)
        return corrupt(o, "a path lies outside");
    out->section = o->section;
    out->n_rows = o->n_rows;
    out->entry = path;
    out->path = (struct kith_bytes){o->section + at, bytes};
    return KITH_OK;
}

static enum kith_err open_values(const struct opening *o, struct column *out)
{
    const struct column_format_path copy = *out->entry; /* it may change under our hands */
    const struct column_format_path *path = &copy;
    enum kith_err err = open_numbers(o, &path->integers, &out->integers);
    if (err == KITH_OK)
        err = open_numbers(o, &path->floats, &out->floats);
    if (err == KITH_OK)
        err = open_numbers(o, &path->times, &out->times);
    if (err == KITH_OK)
        err = check_order(o, &out->integers);
    if (err == KITH_OK)
        err = check_order(o, &out->times);
    if (err == KITH_OK)
        err = check_float_order(o, &out->floats);
    if (err == KITH_OK)
        err = open_terms(o, path, out);
    if (err == KITH_OK)
        err = open_sets(o, path, out);
    return err;
}

static enum kith_err open_header(const struct opening *o, struct column_format_header *header)
{
    if (o->bytes < sizeof *header)
        return corrupt(o, "the section is shorter than its header");
    memcpy(header, o->section, sizeof *header);
    if (header->magic != COLUMN_FORMAT_MAGIC)
        return corrupt(o, "this is no columns section");
    if (header->version != COLUMN_FORMAT_VERSION)
        return kith_fail(o->diag, KITH_UNSUPPORTED, "columns: format version %u is not known",
                         header->version);
    if (header->n_rows != o->n_rows || header->bytes > o->bytes ||
        header->n_paths > KITH_FIELDS_INDEXED_MAX)
        return corrupt(o, "the header does not fit the segment");
    return KITH_OK;
}

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

static enum kith_err begin_locked(struct columns *columns, struct kith_diag *diag)
{
    struct opening o = {columns->section, columns->bytes, columns->n_rows, diag};
    struct column_format_header header;
    enum kith_err err = open_header(&o, &header);
    if (err != KITH_OK)
        return err;
    o.bytes = header.bytes;
    if (header.n_paths > columns->cap ||
        !inside(&o, sizeof header, header.n_paths, sizeof(struct column_format_path), 8))
        return corrupt(&o, "the table of paths lies outside");
    const struct column_format_path *paths = (const void *)(o.section + sizeof header);
    for (uint32_t i = 0; i < header.n_paths; i++) {
        struct column *item = &columns->items[i];
        err = open_path(&o, &paths[i], item);
        if (err != KITH_OK)
            return err;
        item->columns = columns;
        if (i > 0 && kith_bytes_compare(columns->items[i - 1].path, item->path) >= 0)
            return corrupt(&o, "paths are out of order");
    }
    columns->bytes = header.bytes;
    columns->n = header.n_paths;
    columns->more = (header.flags & COLUMN_FORMAT_MORE) != 0;
    return KITH_OK;
}

enum kith_err columns_begin(struct columns *columns, struct kith_diag *diag)
{
    enum kith_err err = KITH_OK;
    (void)pthread_mutex_lock(&columns->lock);
    if (!atomic_load_explicit(&columns->begun, memory_order_relaxed)) {
        err = begin_locked(columns, diag);
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
    struct opening o = {columns->section, columns->bytes, columns->n_rows, NULL};
    (void)pthread_mutex_lock(&columns->lock);
    if (!atomic_load_explicit(&column->checked, memory_order_relaxed)) {
        if (open_values(&o, column) != KITH_OK) {
            column->integers = column->floats = column->times = (struct numbers){0};
            column->n_terms = 0;
            memset(column->sets, 0, sizeof column->sets);
            atomic_store(&columns->damaged, true);
        }
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

/* ---- numbers ------------------------------------------------------------------------------- */

/* Adds rows[first..end). They are in order of value, so many of them go through a plain array of
 * bits: two passes over memory instead of a search per row. Where each row has exactly one number
 * and most of them match, those that do not are taken out of all. */
static bool add_rows(const struct column *column, const struct numbers *numbers, uint32_t first,
                     uint32_t end, struct bitmap *into)
{
    if (first >= end)
        return true;
    if (end - first < 1024) {
        bitmap_add_many(into, end - first, numbers->rows + first);
        return true;
    }
    uint32_t n_rows = column->n_rows;
    size_t n_words = ((size_t)n_rows + 63) / 64;
    uint64_t *words = kith_alloc(n_words * sizeof *words);
    if (words == NULL)
        return false;
    bool rather_out =
        end - first > n_rows / 2 && numbers->n == n_rows && column_count(column, COLUMN_MULTI) == 0;
    if (rather_out) {
        memset(words, 0xff, n_words * sizeof *words);
        if (n_rows % 64 != 0)
            words[n_words - 1] = (UINT64_C(1) << n_rows % 64) - 1;
        for (uint32_t i = 0; i < first; i++)
            words[numbers->rows[i] / 64] &= ~(UINT64_C(1) << numbers->rows[i] % 64);
        for (uint32_t i = end; i < n_rows; i++)
            words[numbers->rows[i] / 64] &= ~(UINT64_C(1) << numbers->rows[i] % 64);
    } else {
        for (uint32_t i = first; i < end; i++)
            words[numbers->rows[i] / 64] |= UINT64_C(1) << numbers->rows[i] % 64;
    }
    bitmap_add_words(into, words, n_words);
    kith_free(words);
    return true;
}

/* The first index whose value is > bound (`after`) or >= bound. */
static uint32_t seek_i64(const struct numbers *numbers, int64_t bound, bool after)
{
    const int64_t *values = numbers->values;
    uint32_t low = 0;
    uint32_t high = numbers->n;
    while (low < high) {
        uint32_t middle = low + (high - low) / 2;
        if (values[middle] < bound || (after && values[middle] == bound))
            low = middle + 1;
        else
            high = middle;
    }
    return low;
}

static double number_at(const struct numbers *numbers, bool integers, uint32_t index)
{
    return integers ? (double)((const int64_t *)numbers->values)[index]
                    : ((const double *)numbers->values)[index];
}

/* Integers are compared as doubles, which keeps their order: the answer is the same as when one
 * payload is looked at. */
static uint32_t seek_f64(const struct numbers *numbers, bool integers, double bound, bool after)
{
    uint32_t low = 0;
    uint32_t high = numbers->n;
    while (low < high) {
        uint32_t middle = low + (high - low) / 2;
        double value = number_at(numbers, integers, middle);
        if (value < bound || (after && value == bound))
            low = middle + 1;
        else
            high = middle;
    }
    return low;
}

bool column_match_i64(const struct column *column, int64_t value, struct bitmap *into)
{
    const struct numbers *integers = &column->integers;
    if (integers->n == 0)
        return true;
    return add_rows(column, integers, seek_i64(integers, value, false),
                    seek_i64(integers, value, true), into);
}

static bool match_part(const struct column *column, const struct numbers *numbers, bool integers,
                       const struct column_range *range, struct bitmap *into)
{
    if (numbers->n == 0)
        return true;
    uint32_t first = range->has_low ? seek_f64(numbers, integers, range->low, range->low_open) : 0;
    uint32_t end =
        range->has_high ? seek_f64(numbers, integers, range->high, !range->high_open) : numbers->n;
    return add_rows(column, numbers, first, end, into);
}

bool column_match_range(const struct column *column, const struct column_range *range,
                        struct bitmap *into)
{
    return match_part(column, &column->integers, true, range, into) &&
           match_part(column, &column->floats, false, range, into);
}

bool column_match_time(const struct column *column, const struct column_time_range *range,
                       struct bitmap *into)
{
    const struct numbers *times = &column->times;
    if (times->n == 0)
        return true;
    uint32_t first = range->has_low ? seek_i64(times, range->low_us, range->low_open) : 0;
    uint32_t end = range->has_high ? seek_i64(times, range->high_us, !range->high_open) : times->n;
    return add_rows(column, times, first, end, into);
}

uint32_t column_integers(const struct column *column)
{
    return column->integers.n;
}

void column_integer(const struct column *column, uint32_t index, int64_t *value, uint32_t *row)
{
    kith_assert(index < column->integers.n);
    *value = ((const int64_t *)column->integers.values)[index];
    *row = column->integers.rows[index];
}

uint32_t column_floats(const struct column *column)
{
    return column->floats.n;
}

void column_float(const struct column *column, uint32_t index, double *value, uint32_t *row)
{
    kith_assert(index < column->floats.n);
    *value = ((const double *)column->floats.values)[index];
    *row = column->floats.rows[index];
}

uint32_t column_times(const struct column *column)
{
    return column->times.n;
}

void column_time(const struct column *column, uint32_t index, int64_t *value_us, uint32_t *row)
{
    kith_assert(index < column->times.n);
    *value_us = ((const int64_t *)column->times.values)[index];
    *row = column->times.rows[index];
}
