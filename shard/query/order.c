#include "shard/query/order.h"

#include <math.h>

#include "proto/kith_filter.h"
#include "shard/storage/field_path.h"

#define TWO_TO_63 9223372036854775808.0

/* Exact: the conversion of i to double could round it onto f, or past it. */
static int compare_mixed(int64_t i, double f)
{
    if (f >= TWO_TO_63)
        return -1;
    if (f < -TWO_TO_63)
        return 1;
    double whole = trunc(f);
    int64_t truncated = (int64_t)whole;
    if (i != truncated)
        return i < truncated ? -1 : 1;
    return whole < f ? -1 : whole > f;
}

int order_compare(const struct order_key *a, const struct order_key *b)
{
    if (a->is_float && b->is_float)
        return a->f < b->f ? -1 : a->f > b->f;
    if (!a->is_float && !b->is_float)
        return a->i < b->i ? -1 : a->i > b->i;
    return a->is_float ? -compare_mixed(b->i, a->f) : compare_mixed(a->i, b->f);
}

static struct order_key key_i64(int64_t value)
{
    return (struct order_key){.i = value};
}

static struct order_key key_f64(double value)
{
    return (struct order_key){.is_float = true, .f = value};
}

static bool key_of(const struct kith_value *value, struct order_key *out)
{
    int64_t us;
    switch (value->type) {
    case KITH_WIRE_INT:
        if (value->negative || value->u <= INT64_MAX)
            *out = key_i64(value->negative ? value->i : (int64_t)value->u);
        else
            *out = key_f64(value->f);
        return true;
    case KITH_WIRE_FLOAT:
        *out = key_f64(value->f);
        return !isnan(value->f);
    case KITH_WIRE_STR:
        if (!kith_parse_time(value->bytes, &us))
            return false;
        *out = key_i64(us);
        return true;
    default:
        return false;
    }
}

bool order_parse(struct kith_bytes bytes, struct order_key *out)
{
    struct kith_cursor c = kith_cursor_of(bytes.data, bytes.len);
    struct kith_value value;
    return kith_read_value(&c, &value) && kith_cursor_done(&c) && key_of(&value, out);
}

void order_write(const struct order_key *key, struct kith_writer *w)
{
    if (key->is_float)
        kith_write_f64(w, key->f);
    else
        kith_write_i64(w, key->i);
}

/* Whether a comes before b in the direction asked for. */
static bool before(const struct order_spec *spec, const struct order_key *a,
                   const struct order_key *b)
{
    int order = order_compare(a, b);
    return spec->descending ? order > 0 : order < 0;
}

struct best {
    const struct order_spec *spec;
    struct order_key *key;
    bool found;
};

static void offer(struct best *best, const struct kith_value *value)
{
    struct order_key key;
    if (!key_of(value, &key) ||
        (best->spec->has_start && before(best->spec, &key, &best->spec->start)))
        return;
    if (!best->found || before(best->spec, &key, best->key))
        *best->key = key;
    best->found = true;
}

static bool on_value(void *ctx, struct kith_bytes bytes)
{
    struct kith_cursor c = kith_cursor_of(bytes.data, bytes.len);
    struct kith_value value;
    if (!kith_read_value(&c, &value))
        return false;
    if (value.type != KITH_WIRE_ARRAY) {
        offer(ctx, &value);
        return false;
    }
    for (uint32_t n = value.count; n > 0; n--) {
        struct kith_cursor element = c;
        if (!kith_read_skip(&c, NULL) || !kith_read_value(&element, &value))
            return false;
        offer(ctx, &value);
    }
    return false;
}

bool order_of_payload(const struct order_spec *spec, struct kith_bytes payload,
                      struct order_key *out)
{
    struct best best = {spec, out, false};
    (void)field_path_visit(payload, spec->path, on_value, &best);
    return best.found;
}

/* ---- columns ------------------------------------------------------------------------------- */

static uint32_t part_size(const struct column *column, int part)
{
    if (part == 0)
        return column_integers(column);
    return part == 1 ? column_floats(column) : column_times(column);
}

static void part_at(const struct column *column, int part, uint32_t index, struct order_key *key,
                    uint32_t *row)
{
    *key = (struct order_key){.is_float = part == 1};
    if (part == 0)
        column_integer(column, index, &key->i, row);
    else if (part == 1)
        column_float(column, index, &key->f, row);
    else
        column_time(column, index, &key->i, row);
}

/* Ascending: the first index at or after the start. Descending: how many are at or before it. */
static uint32_t seek(const struct column *column, int part, const struct order_spec *spec)
{
    uint32_t low = 0;
    uint32_t high = part_size(column, part);
    if (!spec->has_start)
        return spec->descending ? high : low;
    while (low < high) {
        uint32_t middle = low + (high - low) / 2;
        struct order_key key;
        uint32_t row;
        part_at(column, part, middle, &key, &row);
        int order = order_compare(&key, &spec->start);
        if (order < 0 || (order == 0 && spec->descending))
            low = middle + 1;
        else
            high = middle;
    }
    return low;
}

void order_walk_start(struct order_walk *walk, const struct column *column,
                      const struct order_spec *spec)
{
    walk->column = column;
    walk->descending = spec->descending;
    for (int part = 0; part < 3; part++)
        walk->at[part] = seek(column, part, spec);
}

bool order_walk_next(struct order_walk *walk, struct order_key *key, uint32_t *row)
{
    int best = -1;
    for (int part = 0; part < 3; part++) {
        struct order_key other;
        uint32_t other_row;
        uint32_t at = walk->at[part];
        if (walk->descending ? at == 0 : at >= part_size(walk->column, part))
            continue;
        part_at(walk->column, part, walk->descending ? at - 1 : at, &other, &other_row);
        int order = best < 0 ? 0 : order_compare(&other, key);
        if (best >= 0 && (walk->descending ? order <= 0 : order >= 0))
            continue;
        best = part;
        *key = other;
        *row = other_row;
    }
    if (best < 0)
        return false;
    if (walk->descending)
        walk->at[best]--;
    else
        walk->at[best]++;
    return true;
}
