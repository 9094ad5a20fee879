/* Intervals of a field's numbers: found by bisection, and the rows they have turned into a set. */
#include <string.h>

#include "common/kith_mem.h"
#include "shard/storage/column_state.h"

/* Adds rows[first..end). They are in order of value, so many of them go through a plain array of
 * bits: two passes over memory instead of a search per row. Where each row has exactly one number
 * and most of them match, those that do not are taken out of all. */
static bool add_rows(const struct column *column, const struct column_numbers *numbers,
                     uint32_t first, uint32_t end, struct bitmap *into)
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
static uint32_t seek_i64(const struct column_numbers *numbers, int64_t bound, bool after)
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

static double number_at(const struct column_numbers *numbers, bool integers, uint32_t index)
{
    return integers ? (double)((const int64_t *)numbers->values)[index]
                    : ((const double *)numbers->values)[index];
}

/* Integers are compared as doubles, which keeps their order: the answer is the same as when one
 * payload is looked at. */
static uint32_t seek_f64(const struct column_numbers *numbers, bool integers, double bound,
                         bool after)
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
    const struct column_numbers *integers = &column->integers;
    if (integers->n == 0)
        return true;
    return add_rows(column, integers, seek_i64(integers, value, false),
                    seek_i64(integers, value, true), into);
}

static bool match_part(const struct column *column, const struct column_numbers *numbers,
                       bool integers, const struct column_range *range, struct bitmap *into)
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
    const struct column_numbers *times = &column->times;
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
