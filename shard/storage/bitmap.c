#include "shard/storage/bitmap.h"

#include <string.h>

#include "common/kith_mem.h"
#include "shard/storage/bitmap_roaring.h"

static void drop(roaring_bitmap_t *roaring, bool view)
{
    if (view)
        kith_free(roaring);
    else if (roaring != NULL)
        roaring_bitmap_free(roaring);
}

struct bitmap *bitmap_wrap(roaring_bitmap_t *roaring, bool view)
{
    struct bitmap *set = roaring != NULL ? kith_alloc(sizeof *set) : NULL;
    if (set == NULL) {
        drop(roaring, view);
        return NULL;
    }
    set->roaring = roaring;
    set->view = view;
    return set;
}

struct bitmap *bitmap_new(void)
{
    return bitmap_wrap(roaring_bitmap_create(), false);
}

struct bitmap *bitmap_copy(const struct bitmap *from)
{
    return bitmap_wrap(roaring_bitmap_copy(from->roaring), false);
}

void bitmap_free(struct bitmap *set)
{
    if (set == NULL)
        return;
    drop(set->roaring, set->view);
    kith_free(set);
}

void bitmap_add(struct bitmap *set, uint32_t row)
{
    kith_assert(!set->view);
    roaring_bitmap_add(set->roaring, row);
}

void bitmap_add_range(struct bitmap *set, uint32_t first, uint32_t end)
{
    kith_assert(!set->view);
    if (first < end)
        roaring_bitmap_add_range_closed(set->roaring, first, end - 1);
}

void bitmap_add_many(struct bitmap *set, size_t n, const uint32_t *rows)
{
    kith_assert(!set->view);
    roaring_bitmap_add_many(set->roaring, n, rows);
}

#define CHUNK_WORDS 1024u /* 65,536 rows: one container */

/* The rows of one chunk as the container that suits their number. CRoaring has no answer to a
 * malloc that fails either. */
static void append_chunk(roaring_array_t *parts, uint16_t key, const uint64_t *words, size_t n)
{
    int32_t count = 0;
    for (size_t w = 0; w < n; w++)
        count += __builtin_popcountll(words[w]);
    if (count == 0)
        return;
    if (count > DEFAULT_MAX_SIZE) {
        bitset_container_t *bits = bitset_container_create();
        kith_assert(bits != NULL);
        memcpy(bits->array, words, n * sizeof *words);
        bits->cardinality = count;
        ra_append(parts, key, bits, BITSET_CONTAINER_TYPE_CODE);
        return;
    }
    array_container_t *rows = array_container_create_given_capacity(count);
    kith_assert(rows != NULL);
    for (size_t w = 0; w < n; w++)
        for (uint64_t left = words[w]; left != 0; left &= left - 1)
            rows->array[rows->cardinality++] = (uint16_t)(w * 64 + (unsigned)__builtin_ctzll(left));
    ra_append(parts, key, rows, ARRAY_CONTAINER_TYPE_CODE);
}

void bitmap_add_words(struct bitmap *set, const uint64_t *words, size_t n_words)
{
    kith_assert(!set->view && n_words <= (size_t)CHUNK_WORDS << 16);
    roaring_bitmap_t *fresh = roaring_bitmap_create();
    kith_assert(fresh != NULL);
    for (size_t at = 0; at < n_words; at += CHUNK_WORDS)
        append_chunk(&fresh->high_low_container, (uint16_t)(at / CHUNK_WORDS), words + at,
                     n_words - at < CHUNK_WORDS ? n_words - at : CHUNK_WORDS);
    if (roaring_bitmap_is_empty(set->roaring)) {
        roaring_bitmap_free(set->roaring);
        set->roaring = fresh;
        return;
    }
    roaring_bitmap_or_inplace(set->roaring, fresh);
    roaring_bitmap_free(fresh);
}

void bitmap_remove(struct bitmap *set, uint32_t row)
{
    kith_assert(!set->view);
    roaring_bitmap_remove(set->roaring, row);
}

bool bitmap_contains(const struct bitmap *set, uint32_t row)
{
    return roaring_bitmap_contains(set->roaring, row);
}

uint64_t bitmap_count(const struct bitmap *set)
{
    return roaring_bitmap_get_cardinality(set->roaring);
}

uint64_t bitmap_count_and(const struct bitmap *a, const struct bitmap *b)
{
    return roaring_bitmap_and_cardinality(a->roaring, b->roaring);
}

bool bitmap_empty(const struct bitmap *set)
{
    return roaring_bitmap_is_empty(set->roaring);
}

bool bitmap_equal(const struct bitmap *a, const struct bitmap *b)
{
    return roaring_bitmap_equals(a->roaring, b->roaring);
}

void bitmap_and(struct bitmap *into, const struct bitmap *other)
{
    kith_assert(!into->view);
    roaring_bitmap_and_inplace(into->roaring, other->roaring);
}

void bitmap_or(struct bitmap *into, const struct bitmap *other)
{
    kith_assert(!into->view);
    roaring_bitmap_or_inplace(into->roaring, other->roaring);
}

void bitmap_andnot(struct bitmap *into, const struct bitmap *other)
{
    kith_assert(!into->view);
    roaring_bitmap_andnot_inplace(into->roaring, other->roaring);
}

void bitmap_flip(struct bitmap *set, uint32_t n_rows)
{
    kith_assert(!set->view);
    roaring_bitmap_flip_inplace(set->roaring, 0, n_rows);
}

void bitmap_optimize(struct bitmap *set)
{
    kith_assert(!set->view);
    roaring_bitmap_run_optimize(set->roaring);
}

/* ---- reading out --------------------------------------------------------------------------- */

size_t bitmap_read(const struct bitmap *set, uint32_t from, uint32_t *rows, size_t cap)
{
    roaring_uint32_iterator_t it;
    roaring_init_iterator(set->roaring, &it);
    if (cap == 0 || !it.has_value ||
        (from > it.current_value && !roaring_move_uint32_iterator_equalorlarger(&it, from)))
        return 0;
    return roaring_read_uint32_iterator(&it, rows, cap < UINT32_MAX ? (uint32_t)cap : UINT32_MAX);
}

struct window {
    uint64_t *words;
    uint64_t first, end; /* rows */
};

/* Sets the bits of rows [low, high]. */
static void window_set(const struct window *window, uint64_t low, uint64_t high)
{
    if (low < window->first)
        low = window->first;
    if (high >= window->end)
        high = window->end - 1;
    for (uint64_t bit = low - window->first; low <= high;) {
        uint64_t n = 64 - (bit & 63);
        if (n > high - low + 1)
            n = high - low + 1;
        window->words[bit >> 6] |= (n == 64 ? UINT64_MAX : ((1ull << n) - 1)) << (bit & 63);
        low += n;
        bit += n;
    }
}

static void window_bitset(const struct window *window, uint64_t base, const uint64_t *array)
{
    uint64_t low = base > window->first ? base : window->first;
    uint64_t high = base + 65536 < window->end ? base + 65536 : window->end;
    if ((window->first & 63) == 0) { /* both ends are whole words */
        memcpy(window->words + ((low - window->first) >> 6), array + ((low - base) >> 6),
               (size_t)((high - low) >> 6) * sizeof *array);
        return;
    }
    for (uint64_t row = low; row < high; row++)
        if ((array[(row - base) >> 6] >> ((row - base) & 63)) & 1)
            window_set(window, row, row);
}

static void window_array(const struct window *window, uint64_t base,
                         const array_container_t *container)
{
    int32_t low = 0;
    int32_t high = container->cardinality;
    while (low < high) {
        int32_t middle = low + (high - low) / 2;
        if (base + container->array[middle] < window->first)
            low = middle + 1;
        else
            high = middle;
    }
    for (; low < container->cardinality && base + container->array[low] < window->end; low++) {
        uint64_t bit = base + container->array[low] - window->first;
        window->words[bit >> 6] |= 1ull << (bit & 63);
    }
}

static void window_runs(const struct window *window, uint64_t base,
                        const run_container_t *container)
{
    for (int32_t i = 0; i < container->n_runs; i++) {
        uint64_t low = base + container->runs[i].value;
        uint64_t high = low + container->runs[i].length;
        if (high >= window->first && low < window->end)
            window_set(window, low, high);
    }
}

void bitmap_words(const struct bitmap *set, uint32_t first, uint64_t *words, size_t n_words)
{
    memset(words, 0, n_words * sizeof *words);
    if (n_words == 0)
        return;
    const struct window window = {words, first, first + 64ull * n_words};
    const roaring_array_t *parts = &set->roaring->high_low_container;
    for (int32_t i = 0; i < parts->size; i++) {
        uint64_t base = (uint64_t)parts->keys[i] << 16;
        if (base + 65536 <= window.first)
            continue;
        if (base >= window.end)
            break;
        const void *container = parts->containers[i];
        if (parts->typecodes[i] == BITSET_CONTAINER_TYPE_CODE)
            window_bitset(&window, base, ((const bitset_container_t *)container)->array);
        else if (parts->typecodes[i] == ARRAY_CONTAINER_TYPE_CODE)
            window_array(&window, base, container);
        else
            window_runs(&window, base, container);
    }
}
