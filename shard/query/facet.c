#include "shard/query/facet.h"

/* Counting is by column where there is one: for each term, how many of its rows are in the set of
 * matches. The end of a head, fields without a column, and rows whose texts are too long for
 * dictionaries go payload by payload. All counts meet in one hash table keyed by the value's
 * msgpack bytes, whose integers and texts have one shortest form each. */

#include <stdlib.h>
#include <string.h>

#include "common/kith_mem.h"
#include "proto/kith_hash.h"
#include "shard/query/parts.h"
#include "shard/storage/field_path.h"

struct entry {
    size_t at; /* of the value in memory */
    size_t len;
    uint64_t count;
    uint64_t stamp; /* the last payload that counted it */
};

struct tally {
    struct kith_bytes path;
    struct kith_buf memory;
    struct entry *entries;
    size_t n, cap;
    size_t *slots; /* entry + 1 */
    size_t n_slots;
    uint64_t stamp;
    bool only_long; /* of a payload, texts above COLUMN_TERM_MAX only */
    uint32_t first; /* the part's row that is row 0 of the sets at hand: a head goes by blocks */
    bool failed;
    struct kith_buf scratch;
    struct segment_cache cache;
    struct kith_diag *diag;
};

static enum kith_err out_of_memory(const struct tally *tally)
{
    return kith_fail(tally->diag, KITH_NOMEM, "facet");
}

/* ---- the table ----------------------------------------------------------------------------- */

static uint64_t hash_bytes(const uint8_t *bytes, size_t len)
{
    uint64_t h = kith_hash_bytes(KITH_HASH_START, bytes, len);
    return h ^ (h >> 32);
}

static bool grow_slots(struct tally *tally)
{
    if (tally->n_slots > tally->n * 2)
        return true;
    size_t n = tally->n_slots == 0 ? 64 : tally->n_slots * 2;
    size_t *slots = kith_alloc(n * sizeof *slots);
    if (slots == NULL)
        return false;
    for (size_t i = 0; i < tally->n; i++) {
        size_t slot =
            hash_bytes(tally->memory.data + tally->entries[i].at, tally->entries[i].len) & (n - 1);
        while (slots[slot] != 0)
            slot = (slot + 1) & (n - 1);
        slots[slot] = i + 1;
    }
    kith_free(tally->slots);
    tally->slots = slots;
    tally->n_slots = n;
    return true;
}

/* The entry of the value in scratch; NULL = out of memory. */
static struct entry *find_entry(struct tally *tally)
{
    const struct kith_buf *value = &tally->scratch;
    if (value->failed || !grow_slots(tally))
        return NULL;
    size_t slot = hash_bytes(value->data, value->len) & (tally->n_slots - 1);
    for (; tally->slots[slot] != 0; slot = (slot + 1) & (tally->n_slots - 1)) {
        struct entry *entry = &tally->entries[tally->slots[slot] - 1];
        if (entry->len == value->len &&
            memcmp(tally->memory.data + entry->at, value->data, value->len) == 0)
            return entry;
    }
    if (!kith_grow((void **)&tally->entries, &tally->cap, tally->n + 1, sizeof *tally->entries))
        return NULL;
    size_t at = tally->memory.len;
    kith_buf_append(&tally->memory, value->data, value->len);
    if (tally->memory.failed)
        return NULL;
    tally->entries[tally->n] = (struct entry){.at = at, .len = value->len};
    tally->slots[slot] = ++tally->n;
    return &tally->entries[tally->n - 1];
}

static struct kith_writer begin_value(struct tally *tally)
{
    kith_buf_reset(&tally->scratch);
    return (struct kith_writer){.write = kith_buf_sink, .sink = &tally->scratch};
}

static enum kith_err add_count(struct tally *tally, uint64_t count)
{
    if (count == 0)
        return KITH_OK;
    struct entry *entry = find_entry(tally);
    if (entry == NULL)
        return out_of_memory(tally);
    entry->count += count;
    return KITH_OK;
}

/* ---- payloads ------------------------------------------------------------------------------ */

static void count_value(struct tally *tally, const struct kith_value *value)
{
    struct kith_writer w = begin_value(tally);
    bool small = value->type == KITH_WIRE_INT && !value->negative && value->u <= INT64_MAX;
    if (value->type == KITH_WIRE_STR && (!tally->only_long || value->bytes.len > COLUMN_TERM_MAX))
        kith_write_str(&w, (const char *)value->bytes.data, value->bytes.len);
    else if (tally->only_long)
        return;
    else if (value->type == KITH_WIRE_BOOL)
        kith_write_bool(&w, value->boolean);
    else if (small || (value->type == KITH_WIRE_INT && value->negative))
        kith_write_i64(&w, small ? (int64_t)value->u : value->i);
    else
        return;
    struct entry *entry = find_entry(tally);
    if (entry == NULL)
        tally->failed = true;
    else if (entry->stamp != tally->stamp) {
        entry->stamp = tally->stamp;
        entry->count++;
    }
}

static bool on_value(void *ctx, struct kith_bytes bytes)
{
    struct tally *tally = ctx;
    struct kith_cursor c = kith_cursor_of(bytes.data, bytes.len);
    struct kith_value value;
    if (!kith_read_value(&c, &value))
        return false;
    if (value.type != KITH_WIRE_ARRAY) {
        count_value(tally, &value);
        return tally->failed;
    }
    for (uint32_t n = value.count; n > 0 && !tally->failed; n--) {
        struct kith_cursor element = c;
        if (!kith_read_skip(&c, NULL) || !kith_read_value(&element, &value))
            return false;
        count_value(tally, &value);
    }
    return tally->failed;
}

static enum kith_err count_payloads(struct tally *tally, const struct parts_spot *part,
                                    const struct bitmap *set, bool only_long)
{
    struct parts_walk walk = {0};
    struct parts_spot spot = *part;
    enum kith_err err = KITH_OK;
    tally->only_long = only_long;
    while (err == KITH_OK && parts_next(&walk, set, &spot.row)) {
        struct parts_row row;
        spot.row += tally->first;
        err = parts_read(&spot, true, &tally->cache, &row, tally->diag);
        if (err != KITH_OK)
            break;
        tally->stamp++;
        (void)field_path_visit(row.payload, tally->path, on_value, tally);
        if (tally->failed)
            err = out_of_memory(tally);
    }
    return err;
}

/* ---- columns ------------------------------------------------------------------------------- */

static enum kith_err count_terms(struct tally *tally, const struct column *column,
                                 const struct bitmap *set)
{
    enum kith_err err = KITH_OK;
    for (uint32_t i = 0; err == KITH_OK && i < column_terms(column); i++) {
        struct kith_bytes term = column_term(column, i);
        uint64_t count;
        if (!column_term_count(column, i, set, &count))
            return out_of_memory(tally);
        struct kith_writer w = begin_value(tally);
        kith_write_str(&w, (const char *)term.data, term.len);
        err = add_count(tally, count);
    }
    return err;
}

static enum kith_err count_integers(struct tally *tally, const struct column *column,
                                    const struct bitmap *set)
{
    enum kith_err err = KITH_OK;
    int64_t current = 0;
    uint64_t count = 0;
    for (uint32_t i = 0; err == KITH_OK && i <= column_integers(column); i++) {
        int64_t value = 0;
        uint32_t row = 0;
        bool end = i == column_integers(column);
        if (!end)
            column_integer(column, i, &value, &row);
        if (i > 0 && (end || value != current)) {
            struct kith_writer w = begin_value(tally);
            kith_write_i64(&w, current);
            err = add_count(tally, count);
            count = 0;
        }
        current = value;
        count += !end && bitmap_contains(set, row);
    }
    return err;
}

static enum kith_err set_of(struct tally *tally, const struct column *column, enum column_set which,
                            const struct bitmap *set, struct bitmap **out)
{
    *out = bitmap_new();
    if (*out == NULL || !column_add(column, which, *out))
        return out_of_memory(tally);
    bitmap_and(*out, set);
    return KITH_OK;
}

static enum kith_err count_bool(struct tally *tally, const struct column *column, bool value,
                                const struct bitmap *set)
{
    struct bitmap *rows = NULL;
    enum kith_err err = set_of(tally, column, value ? COLUMN_TRUE : COLUMN_FALSE, set, &rows);
    if (err == KITH_OK) {
        struct kith_writer w = begin_value(tally);
        kith_write_bool(&w, value);
        err = add_count(tally, bitmap_count(rows));
    }
    bitmap_free(rows);
    return err;
}

static enum kith_err count_column(struct tally *tally, const struct parts_spot *part,
                                  const struct column *column, const struct bitmap *set)
{
    struct bitmap *rows = NULL;
    enum kith_err err = count_terms(tally, column, set);
    if (err == KITH_OK)
        err = count_integers(tally, column, set);
    if (err == KITH_OK)
        err = count_bool(tally, column, false, set);
    if (err == KITH_OK)
        err = count_bool(tally, column, true, set);
    if (err == KITH_OK)
        err = set_of(tally, column, COLUMN_LONG, set, &rows);
    if (err == KITH_OK)
        err = count_payloads(tally, part, rows, true);
    bitmap_free(rows);
    return err;
}

static enum kith_err count_rows(struct tally *tally, const struct parts_spot *part,
                                const struct columns *columns, const struct bitmap *set)
{
    const struct column *column;
    enum column_find_result found = COLUMN_NOT_INDEXED;
    if (columns != NULL)
        found = parts_column(columns, tally->path, &column);
    if (found == COLUMN_ABSENT)
        return KITH_OK;
    return found == COLUMN_FOUND ? count_column(tally, part, column, set)
                                 : count_payloads(tally, part, set, false);
}

/* Block by block, since blocks of a head have columns; then the rows after the last whole one. */
static enum kith_err count_head(struct tally *tally, const struct parts_spot *part,
                                const struct bitmap *set)
{
    const struct view_head *head = &part->view->heads[part->part - part->view->n_segments];
    uint64_t words[HEAD_BLOCK_ROWS / 64];
    enum kith_err err = KITH_OK;
    for (uint32_t first = 0; err == KITH_OK && first < head->rows; first += HEAD_BLOCK_ROWS) {
        bool whole = head->rows - first >= HEAD_BLOCK_ROWS;
        struct bitmap *block = bitmap_new();
        if (block == NULL)
            return out_of_memory(tally);
        bitmap_words(set, first, words, HEAD_BLOCK_ROWS / 64);
        bitmap_add_words(block, words, HEAD_BLOCK_ROWS / 64);
        tally->first = first;
        err = count_rows(tally, part,
                         whole ? head_block(head->head, first / HEAD_BLOCK_ROWS) : NULL, block);
        bitmap_free(block);
    }
    tally->first = 0;
    return err;
}

static enum kith_err count_part(struct tally *tally, const struct parts_spot *part,
                                const struct parts_scope *scope)
{
    const struct segment *segment = parts_segment(part->view, part->part);
    const struct column *column;
    struct bitmap *set = NULL;
    if (segment != NULL &&
        parts_column(segment_columns(segment), tally->path, &column) == COLUMN_ABSENT)
        return KITH_OK;
    enum kith_err err = parts_match(scope, part->view, part->part, &set, tally->diag);
    if (err == KITH_OK)
        err = segment != NULL ? count_rows(tally, part, segment_columns(segment), set)
                              : count_head(tally, part, set);
    bitmap_free(set);
    return err;
}

/* ---- the result ---------------------------------------------------------------------------- */

static int type_rank(enum kith_wire_type type)
{
    if (type == KITH_WIRE_STR)
        return 0;
    return type == KITH_WIRE_INT ? 1 : 2;
}

static int compare_values(struct kith_bytes a, struct kith_bytes b)
{
    struct kith_cursor ca = kith_cursor_of(a.data, a.len);
    struct kith_cursor cb = kith_cursor_of(b.data, b.len);
    struct kith_value va = {0};
    struct kith_value vb = {0};
    (void)kith_read_value(&ca, &va);
    (void)kith_read_value(&cb, &vb);
    if (va.type != vb.type)
        return type_rank(va.type) - type_rank(vb.type);
    if (va.type == KITH_WIRE_BOOL)
        return va.boolean - vb.boolean;
    if (va.type == KITH_WIRE_INT) {
        int64_t ia = va.negative ? va.i : (int64_t)va.u;
        int64_t ib = vb.negative ? vb.i : (int64_t)vb.u;
        return ia < ib ? -1 : ia > ib;
    }
    return kith_bytes_compare(va.bytes, vb.bytes);
}

static int compare_hits(const void *left, const void *right)
{
    const struct facet_hit *a = left;
    const struct facet_hit *b = right;
    if (a->count != b->count)
        return a->count > b->count ? -1 : 1;
    return compare_values(a->value, b->value);
}

static enum kith_err make_hits(struct tally *tally, struct facet *out)
{
    struct facet_hit *hits = kith_alloc(tally->n * sizeof *hits);
    if (hits == NULL)
        return out_of_memory(tally);
    for (size_t i = 0; i < tally->n; i++)
        hits[i] =
            (struct facet_hit){{tally->memory.data + tally->entries[i].at, tally->entries[i].len},
                               tally->entries[i].count};
    if (tally->n > 1)
        qsort(hits, tally->n, sizeof *hits, compare_hits);
    out->n = tally->n < KITH_FACET_HITS_MAX ? (uint32_t)tally->n : KITH_FACET_HITS_MAX;
    out->hits = hits;
    out->memory = tally->memory;
    tally->memory = (struct kith_buf){0};
    return KITH_OK;
}

enum kith_err facet_run(struct facet *out, const struct parts_scope *scope, struct kith_bytes key,
                        struct kith_diag *diag)
{
    struct tally tally = {.path = key, .diag = diag};
    enum kith_err err = KITH_OK;
    for (uint32_t v = 0; v < scope->n_views; v++)
        for (uint32_t part = 0; err == KITH_OK && part < parts_count(scope->views[v]); part++)
            err = count_part(&tally, &(struct parts_spot){scope->views[v], part, 0}, scope);
    err = view_verdict(scope->views, scope->n_views, err, diag);
    if (err == KITH_OK)
        err = make_hits(&tally, out);
    kith_buf_fini(&tally.memory);
    kith_buf_fini(&tally.scratch);
    segment_cache_fini(&tally.cache);
    kith_free(tally.entries);
    kith_free(tally.slots);
    return err;
}

void facet_fini(struct facet *facet)
{
    kith_free(facet->hits);
    kith_buf_fini(&facet->memory);
    *facet = (struct facet){0};
}
