/* Bitmaps as bytes, and what version 0.2.66 of CRoaring leaves unchecked there.
 *
 * portable_deserialize_safe() bounds its reads, but does not look at what the containers say: keys
 * out of order, arrays not ascending, runs that overlap or run past 65535, cardinalities that lie.
 * Set operations trust all of these (an array's size decides how much the result allocates), so
 * every container of bytes from disk is walked once.
 *
 * A view of a frozen bitmap is made for each use and dropped after it; the walk is done once, when
 * the columns are opened. frozen_view() is not used: it reads the types of the containers twice,
 * and frees an address that malloc never gave when one has become zero in between, as bytes of a
 * lost map do (map_guard.h). Here a number that says where something is or how much is read once,
 * and the walk needs no memory. */
#include <string.h>

#include "common/kith_mem.h"
#include "proto/kith_wire.h"
#include "shard/storage/bitmap_roaring.h"

/* The cardinality of a sound container, and its last value; 0 when it is not sound (an empty
 * container never is: CRoaring drops them). */
static uint32_t sound_bitset(const bitset_container_t *container, uint32_t *last)
{
    uint32_t count = 0;
    for (uint32_t w = 0; w < BITSET_CONTAINER_SIZE_IN_WORDS; w++) {
        uint64_t word = container->array[w];
        count += (uint32_t)__builtin_popcountll(word);
        if (word != 0)
            *last = w * 64 + 63 - (uint32_t)__builtin_clzll(word);
    }
    return container->cardinality >= 0 && count == (uint32_t)container->cardinality ? count : 0;
}

static uint32_t sound_array(const array_container_t *container, uint32_t *last)
{
    if (container->cardinality <= 0 || container->cardinality > 65536)
        return 0;
    for (int32_t i = 1; i < container->cardinality; i++)
        if (container->array[i - 1] >= container->array[i])
            return 0;
    *last = container->array[container->cardinality - 1];
    return (uint32_t)container->cardinality;
}

static uint32_t sound_runs(const run_container_t *container, uint32_t *last)
{
    uint32_t count = 0;
    uint32_t next = 0; /* the lowest value the next run may start at: runs never touch */
    if (container->n_runs <= 0 || container->n_runs > 32768)
        return 0;
    for (int32_t i = 0; i < container->n_runs; i++) {
        uint32_t low = container->runs[i].value;
        uint32_t high = low + container->runs[i].length;
        if (low < next || high > 65535)
            return 0;
        count += high - low + 1;
        next = high + 2;
        *last = high;
    }
    return count;
}

/* How many rows a container has; 0: it is not sound, or has rows from n_rows on. */
static uint32_t sound_container(const void *container, uint8_t type, uint16_t key, uint32_t n_rows)
{
    uint32_t last = 0, count = 0;
    if (type == BITSET_CONTAINER_TYPE_CODE)
        count = sound_bitset(container, &last);
    else if (type == ARRAY_CONTAINER_TYPE_CODE)
        count = sound_array(container, &last);
    else if (type == RUN_CONTAINER_TYPE_CODE)
        count = sound_runs(container, &last);
    return ((uint32_t)key << 16) + last < n_rows ? count : 0;
}

static bool sound(const roaring_bitmap_t *roaring, uint32_t n_rows)
{
    const roaring_array_t *parts = &roaring->high_low_container;
    for (int32_t i = 0; i < parts->size; i++)
        if ((i > 0 && parts->keys[i - 1] >= parts->keys[i]) ||
            sound_container(parts->containers[i], parts->typecodes[i], parts->keys[i], n_rows) == 0)
            return false;
    return true;
}

size_t bitmap_bytes(const struct bitmap *set)
{
    return roaring_bitmap_portable_size_in_bytes(set->roaring);
}

void bitmap_store(const struct bitmap *set, uint8_t *out)
{
    roaring_bitmap_portable_serialize(set->roaring, (char *)out);
}

enum kith_err bitmap_load(struct bitmap **out, const uint8_t *data, size_t len, uint32_t n_rows,
                          struct kith_diag *diag)
{
    const char *bytes = (const char *)data;
    if (len == 0 || roaring_bitmap_portable_deserialize_size(bytes, len) != len)
        return kith_fail(diag, KITH_CORRUPT, "a bitmap of %zu bytes has a wrong shape", len);
    roaring_bitmap_t *roaring = roaring_bitmap_portable_deserialize_safe(bytes, len);
    if (roaring == NULL)
        return kith_fail(diag, KITH_CORRUPT, "a bitmap of %zu bytes cannot be read", len);
    if (!sound(roaring, n_rows)) {
        roaring_bitmap_free(roaring);
        return kith_fail(diag, KITH_CORRUPT, "a bitmap is out of order or passes row %u", n_rows);
    }
    struct bitmap *set = bitmap_wrap(roaring, false);
    if (set == NULL)
        return kith_fail(diag, KITH_NOMEM, "bitmap");
    *out = set;
    return KITH_OK;
}

size_t bitmap_frozen_bytes(const struct bitmap *set)
{
    return roaring_bitmap_frozen_size_in_bytes(set->roaring);
}

void bitmap_freeze(const struct bitmap *set, uint8_t *out_aligned32)
{
    kith_assert(((uintptr_t)out_aligned32 & 31) == 0);
    roaring_bitmap_frozen_serialize(set->roaring, (char *)out_aligned32);
}

/* ---- views ---------------------------------------------------------------------------------- */

/* Frozen: [bitsets][runs][arrays][keys u16][counts u16][types u8][n << 15 | cookie u32], the first
 * three in the order of the containers, without gaps. A count is the cardinality less one, or the
 * number of runs. */
#define COOKIE_BITS    15u
#define TAIL_BYTES     5u /* of a container: key, count and type */
#define CONTAINERS_MAX 65536u
#define TYPES          4u /* they count from 1 */

struct tail {
    uint32_t n;
    const uint8_t *bytes; /* of the tail, and what ends where it begins */
};

union container {
    bitset_container_t bits;
    run_container_t runs;
    array_container_t rows;
};

/* What the tail says of one container. */
struct head {
    uint16_t key, count;
    uint8_t type;
    size_t bytes; /* 0: there is no such container */
};

static uint16_t load_u16(const uint8_t *at)
{
    return (uint16_t)(at[0] | at[1] << 8);
}

static struct head head_of(const struct tail *tail, uint32_t i)
{
    const uint8_t *counts = tail->bytes + 2 * (size_t)tail->n;
    struct head head = {.key = load_u16(tail->bytes + 2 * (size_t)i),
                        .count = load_u16(counts + 2 * (size_t)i),
                        .type = counts[2 * (size_t)tail->n + i]};
    if (head.type == BITSET_CONTAINER_TYPE_CODE)
        head.bytes = BITSET_CONTAINER_SIZE_IN_WORDS * sizeof(uint64_t);
    else if (head.type == RUN_CONTAINER_TYPE_CODE)
        head.bytes = head.count * sizeof(rle16_t);
    else if (head.type == ARRAY_CONTAINER_TYPE_CODE)
        head.bytes = (head.count + 1) * sizeof(uint16_t);
    return head;
}

static bool find_tail(struct tail *out, const uint8_t *aligned32, size_t len)
{
    uint32_t cookie;
    if (((uintptr_t)aligned32 & 31) != 0 || len < sizeof cookie)
        return false;
    len -= sizeof cookie;
    cookie = kith_load_u32(aligned32 + len);
    out->n = cookie >> COOKIE_BITS;
    out->bytes = aligned32 + len - (size_t)out->n * TAIL_BYTES;
    return (cookie & ((1u << COOKIE_BITS) - 1)) == FROZEN_COOKIE && out->n <= CONTAINERS_MAX &&
           out->n <= len / TAIL_BYTES;
}

/* Where the containers of each type begin; they fill [data, end). */
static bool find_zones(const struct tail *tail, const uint8_t *data, const uint8_t *end,
                       const uint8_t *at[TYPES])
{
    size_t bytes[TYPES] = {0};
    for (uint32_t i = 0; i < tail->n; i++) {
        struct head head = head_of(tail, i);
        if (head.bytes == 0)
            return false;
        bytes[head.type] += head.bytes;
    }
    at[BITSET_CONTAINER_TYPE_CODE] = data;
    at[RUN_CONTAINER_TYPE_CODE] = data + bytes[BITSET_CONTAINER_TYPE_CODE];
    at[ARRAY_CONTAINER_TYPE_CODE] = at[RUN_CONTAINER_TYPE_CODE] + bytes[RUN_CONTAINER_TYPE_CODE];
    return bytes[1] + bytes[2] + bytes[3] == (size_t)(end - data);
}

/* The next container of its type. False: it is none, or would end behind all. */
static bool take(union container *out, const struct head *head, const uint8_t *at[TYPES],
                 const uint8_t *end)
{
    if (head->bytes == 0 || head->bytes > (size_t)(end - at[head->type]))
        return false;
    void *data = (void *)(uintptr_t)at[head->type]; /* a view is never changed (asserted above) */
    int32_t n = head->count;
    if (head->type == BITSET_CONTAINER_TYPE_CODE)
        out->bits = (bitset_container_t){.cardinality = n + 1, .array = data};
    else if (head->type == RUN_CONTAINER_TYPE_CODE)
        out->runs = (run_container_t){.n_runs = n, .capacity = n, .runs = data};
    else
        out->rows = (array_container_t){.cardinality = n + 1, .capacity = n + 1, .array = data};
    at[head->type] += head->bytes;
    return true;
}

/* Without memory, so that to have none is no reason to take sound bytes for damaged ones. */
bool bitmap_frozen_check(const uint8_t *aligned32, size_t len, uint32_t n_rows, uint64_t *count)
{
    struct tail tail;
    const uint8_t *at[TYPES], *end;
    *count = 0;
    if (!find_tail(&tail, aligned32, len) || !find_zones(&tail, aligned32, end = tail.bytes, at))
        return false;
    for (uint32_t i = 0, key = 0; i < tail.n; i++) {
        const struct head head = head_of(&tail, i); /* may have become another since */
        union container container;
        if ((i > 0 && key >= head.key) || !take(&container, &head, at, end))
            return false;
        uint32_t n = sound_container(&container, head.type, head.key, n_rows);
        if (n == 0)
            return false;
        *count += n;
        key = head.key;
    }
    return true;
}

/* A bitmap of n containers, in one piece; *tail is where keys, counts and types are to be. */
static roaring_bitmap_t *new_view(uint32_t n, uint8_t **tail)
{
    struct view {
        roaring_bitmap_t roaring;
        union container containers[];
    } *view =
        kith_alloc(sizeof *view + n * (sizeof(union container) + sizeof(void *) + TAIL_BYTES));
    if (view == NULL)
        return NULL;
    void **pointers = (void **)(view->containers + n);
    *tail = (uint8_t *)(pointers + n);
    view->roaring.high_low_container = (roaring_array_t){.size = (int32_t)n,
                                                         .allocation_size = (int32_t)n,
                                                         .containers = pointers,
                                                         .keys = (uint16_t *)(pointers + n),
                                                         .typecodes = *tail + 4 * (size_t)n,
                                                         .flags = ROARING_FLAG_FROZEN};
    for (uint32_t i = 0; i < n; i++)
        pointers[i] = &view->containers[i];
    return &view->roaring;
}

struct bitmap *bitmap_view(const uint8_t *aligned32, size_t len)
{
    struct tail tail;
    const uint8_t *at[TYPES], *end;
    uint8_t *copy;
    if (!find_tail(&tail, aligned32, len))
        return NULL;
    roaring_bitmap_t *roaring = new_view(tail.n, &copy);
    if (roaring == NULL)
        return NULL;
    memcpy(copy, end = tail.bytes, (size_t)tail.n * TAIL_BYTES);
    tail.bytes = copy;
    bool fits = find_zones(&tail, aligned32, end, at);
    for (uint32_t i = 0; i < tail.n && fits; i++) {
        const struct head head = head_of(&tail, i);
        fits = take(roaring->high_low_container.containers[i], &head, at, end);
    }
    if (fits)
        return bitmap_wrap(roaring, true);
    kith_free(roaring);
    return NULL;
}
