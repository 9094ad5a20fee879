#include "shard/storage/head.h"

#include <stdatomic.h>
#include <string.h>

#include "common/kith_mem.h"
#include "shard/storage/head_columns.h"

/* One writer appends; readers never wait and never see memory move.
 *
 * Rows live in chunks of a power of two; a chunk is allocated whole and never moves. A view says
 * how many rows its reader may look at, and views are handed over under the store's lock, so
 * everything the writer stored before publishing the view is visible to its readers. Three things
 * change after that, and only these are atomic:
 *
 *   gone_seq[row]  The seq that replaced or deleted the row, HEAD_LIVE before. A view at S sees the
 *                  row iff gone_seq > S. The writer always stores a seq above every published one,
 *                  so a reader at S gets the same answer from the old value and from the new one;
 *                  a reader whose S is at or above it got its view after the store. Relaxed is
 *                  enough. An undone kill goes back to HEAD_LIVE: also "above S".
 *   slots[]        The id table: open addressing, linear probing, row + 1, 0 = empty. A slot's id
 *                  never changes; its row moves on to the newest row of that id. Stored with
 *                  release after the row was filled in, loaded with acquire: a reader may follow it
 *                  to a row above its view, reads that row's id and `older` link, and walks on.
 *   (older[row] is written before the slot is and never again, so it need not be atomic.)
 *
 * A row taken out by undo keeps its place with gone_seq 0: no view sees it, and a reader that
 * walks through it finds an intact row. Reusing the place would race with that reader.
 *
 * What lost: a lock around the table (readers of view_find would wait for the writer); growing the
 * table (old tables would need reclamation: a head is small enough to size for its maximum at
 * once); one slot per row instead of `older` links (a hot id would make probing quadratic). */

#define CHUNK_BYTES_WANTED (1u << 20)
#define CHUNK_SHIFT_MAX    10u
#define CHUNK_SHIFT_MIN    4u
#define TEXT_CHUNK_BYTES   (256u * 1024)
#define NO_ROW             UINT32_MAX

struct head_chunk {
    uint8_t *rows;     /* first: 64-aligned */
    uint8_t *sketches; /* behind them, so are they */
    struct kith_id *ids;
    struct kith_bytes *payloads;
    uint64_t *seqs;
    _Atomic uint64_t *gone;
    uint32_t *older;
};

struct text_chunk {
    struct text_chunk *next;
    size_t used, cap;
    uint8_t data[];
};

struct head {
    /* Immutable after head_new. */
    uint32_t row_bytes, rows_max, chunk_shift, slot_mask;
    uint64_t serial;
    struct head_sketch sketch;
    struct head_chunk *chunks;
    _Atomic uint32_t *slots;
    struct head_columns *columns; /* built by readers, see there */
    /* Writer only. */
    uint32_t rows, live;
    uint64_t bytes;
    struct text_chunk *texts;
    /* Counted: acq_rel on the last drop, so that whoever frees sees every use before it. */
    atomic_uint refs;
};

static atomic_uint_fast64_t next_serial; /* relaxed: only that numbers differ matters */

static uint32_t pow2_at_least(uint64_t n)
{
    uint32_t p = 16;
    while (p < n && p < (1u << 31))
        p *= 2;
    return p;
}

enum kith_err head_new(struct head **out, uint32_t row_bytes, uint32_t rows_max,
                       const struct head_sketch *sketch, struct kith_diag *diag)
{
    kith_assert(row_bytes > 0 && rows_max > 0 && rows_max < (1u << 30));
    struct head *head = kith_alloc(sizeof *head);
    if (head == NULL)
        return kith_fail(diag, KITH_NOMEM, "head");
    atomic_init(&head->refs, 1);
    head->serial = atomic_fetch_add_explicit(&next_serial, 1, memory_order_relaxed);
    head->row_bytes = row_bytes;
    head->rows_max = rows_max;
    if (sketch != NULL)
        head->sketch = *sketch;
    head->chunk_shift = CHUNK_SHIFT_MAX;
    while (head->chunk_shift > CHUNK_SHIFT_MIN &&
           (uint64_t)row_bytes << head->chunk_shift > CHUNK_BYTES_WANTED)
        head->chunk_shift--;
    uint32_t slots = pow2_at_least((uint64_t)rows_max * 2);
    head->slot_mask = slots - 1;
    size_t n_chunks = (rows_max >> head->chunk_shift) + 1;
    head->chunks = kith_alloc(n_chunks * sizeof *head->chunks);
    head->slots = kith_alloc(slots * sizeof *head->slots);
    head->bytes = slots * sizeof *head->slots;
    if (head->chunks == NULL || head->slots == NULL ||
        head_columns_new(&head->columns, rows_max, NULL) != KITH_OK) {
        head_unref(head);
        return kith_fail(diag, KITH_NOMEM, "head of %u rows", rows_max);
    }
    *out = head;
    return KITH_OK;
}

uint64_t head_serial(const struct head *head)
{
    return head->serial;
}

void head_ref(const struct head *head)
{
    /* const for readers: the count is not part of what they may not change. */
    struct head *counted = (struct head *)(uintptr_t)head;
    atomic_fetch_add_explicit(&counted->refs, 1, memory_order_relaxed);
}

void head_unref(const struct head *head)
{
    struct head *counted = (struct head *)(uintptr_t)head;
    if (head == NULL || atomic_fetch_sub_explicit(&counted->refs, 1, memory_order_acq_rel) != 1)
        return;
    if (counted->chunks != NULL)
        for (uint32_t i = 0; i <= counted->rows_max >> counted->chunk_shift; i++)
            kith_free(counted->chunks[i].rows);
    while (counted->texts != NULL) {
        struct text_chunk *next = counted->texts->next;
        kith_free(counted->texts);
        counted->texts = next;
    }
    head_columns_free(counted->columns);
    kith_free(counted->chunks);
    kith_free(counted->slots);
    kith_free(counted);
}

static bool chunk_fill(struct head *head, struct head_chunk *chunk)
{
    size_t n = (size_t)1 << head->chunk_shift;
    size_t rows_bytes = (n * head->row_bytes + 63) & ~(size_t)63;
    size_t sketches_bytes = n * head->sketch.bytes;
    size_t total = rows_bytes + sketches_bytes +
                   n * (sizeof(struct kith_id) + sizeof(struct kith_bytes) + sizeof(uint64_t) * 2 +
                        sizeof(uint32_t));
    uint8_t *at = kith_alloc_aligned(64, total);
    if (at == NULL)
        return false;
    chunk->sketches = at + rows_bytes;
    chunk->ids = (void *)(at + rows_bytes + sketches_bytes);
    chunk->payloads = (void *)(chunk->ids + n);
    chunk->seqs = (void *)(chunk->payloads + n);
    chunk->gone = (void *)(chunk->seqs + n);
    chunk->older = (void *)(chunk->gone + n);
    chunk->rows = at;
    head->bytes += total;
    return true;
}

static uint8_t *text_room(struct head *head, size_t len)
{
    struct text_chunk *chunk = head->texts;
    if (chunk == NULL || chunk->cap - chunk->used < len) {
        size_t cap = len > TEXT_CHUNK_BYTES ? len : TEXT_CHUNK_BYTES;
        struct text_chunk *fresh = kith_alloc_aligned(16, sizeof *fresh + cap);
        if (fresh == NULL)
            return NULL;
        *fresh = (struct text_chunk){.next = chunk, .cap = cap};
        head->texts = chunk = fresh;
        head->bytes += sizeof *fresh + cap;
    }
    return chunk->data + chunk->used;
}

static struct head_chunk *chunk_of(const struct head *head, uint32_t row, uint32_t *within)
{
    *within = row & ((1u << head->chunk_shift) - 1);
    return &head->chunks[row >> head->chunk_shift];
}

/* The slot of the id, or the empty one where it would go. The table is never more than half full.
 */
static _Atomic uint32_t *slot_of(const struct head *head, const struct kith_id *id, uint32_t *row)
{
    uint32_t at = (uint32_t)(kith_id_hash(id) >> 32) & head->slot_mask;
    for (;; at = (at + 1) & head->slot_mask) {
        uint32_t value = atomic_load_explicit(&head->slots[at], memory_order_acquire);
        if (value == 0) {
            *row = NO_ROW;
            return &head->slots[at];
        }
        uint32_t within;
        const struct head_chunk *chunk = chunk_of(head, value - 1, &within);
        if (kith_id_equal(&chunk->ids[within], id)) {
            *row = value - 1;
            return &head->slots[at];
        }
    }
}

enum kith_err head_append(struct head *head, const struct kith_id *id, uint64_t seq,
                          const void *row_data, struct kith_bytes payload, struct kith_diag *diag)
{
    if (head->rows == head->rows_max)
        return kith_fail(diag, KITH_TOO_BIG, "the head is full");
    uint32_t within;
    struct head_chunk *chunk = chunk_of(head, head->rows, &within);
    if (chunk->rows == NULL && !chunk_fill(head, chunk))
        return kith_fail(diag, KITH_NOMEM, "head chunk");
    uint8_t *text = NULL;
    if (payload.len > 0) {
        text = text_room(head, payload.len);
        if (text == NULL)
            return kith_fail(diag, KITH_NOMEM, "payload of %zu bytes", payload.len);
        memcpy(text, payload.data, payload.len);
        head->texts->used += payload.len;
    }
    memcpy(chunk->rows + (size_t)within * head->row_bytes, row_data, head->row_bytes);
    if (head->sketch.bytes > 0)
        head->sketch.make(row_data, head->row_bytes,
                          chunk->sketches + (size_t)within * head->sketch.bytes);
    chunk->ids[within] = *id;
    chunk->payloads[within] = (struct kith_bytes){text, payload.len};
    chunk->seqs[within] = seq;
    atomic_store_explicit(&chunk->gone[within], HEAD_LIVE, memory_order_relaxed);
    _Atomic uint32_t *slot = slot_of(head, id, &chunk->older[within]);
    atomic_store_explicit(slot, head->rows + 1, memory_order_release);
    head->rows++;
    head->live++;
    return KITH_OK;
}

uint32_t head_rows(const struct head *head)
{
    return head->rows;
}

uint32_t head_rows_max(const struct head *head)
{
    return head->rows_max;
}

uint32_t head_live(const struct head *head)
{
    return head->live;
}

uint64_t head_bytes(const struct head *head)
{
    return head->bytes;
}

static _Atomic uint64_t *gone_of(const struct head *head, uint32_t row)
{
    uint32_t within;
    struct head_chunk *chunk = chunk_of(head, row, &within);
    return &chunk->gone[within];
}

bool head_latest(const struct head *head, const struct kith_id *id, uint32_t *row)
{
    return head_find(head, id, head->rows, HEAD_LIVE - 1, row);
}

bool head_find(const struct head *head, const struct kith_id *id, uint32_t rows, uint64_t seq,
               uint32_t *row)
{
    uint32_t at;
    (void)slot_of(head, id, &at);
    while (at != NO_ROW) {
        if (at < rows) {
            uint64_t gone = atomic_load_explicit(gone_of(head, at), memory_order_relaxed);
            if (gone > seq)
                *row = at;
            /* Rows older than one that is gone went before it; only burnt ones say nothing. */
            if (gone != 0)
                return gone > seq;
        }
        uint32_t within;
        const struct head_chunk *chunk = chunk_of(head, at, &within);
        at = chunk->older[within];
    }
    return false;
}

void head_kill(struct head *head, uint32_t row, uint64_t seq)
{
    kith_assert(row < head->rows && head_row_now(head, row));
    atomic_store_explicit(gone_of(head, row), seq, memory_order_relaxed);
    head->live--;
}

void head_revive(struct head *head, uint32_t row)
{
    kith_assert(row < head->rows && !head_row_now(head, row));
    atomic_store_explicit(gone_of(head, row), HEAD_LIVE, memory_order_relaxed);
    head->live++;
}

void head_burn(struct head *head, uint32_t row)
{
    kith_assert(row < head->rows);
    if (head_row_now(head, row))
        head->live--;
    atomic_store_explicit(gone_of(head, row), 0, memory_order_relaxed);
}

bool head_row_now(const struct head *head, uint32_t row)
{
    return head_row_live(head, row, HEAD_LIVE - 1);
}

bool head_row_live(const struct head *head, uint32_t row, uint64_t seq)
{
    return atomic_load_explicit(gone_of(head, row), memory_order_relaxed) > seq;
}

void head_row_get(const struct head *head, uint32_t row, struct head_row *out)
{
    uint32_t within;
    const struct head_chunk *chunk = chunk_of(head, row, &within);
    *out = (struct head_row){
        .id = &chunk->ids[within],
        .seq = chunk->seqs[within],
        .row = chunk->rows + (size_t)within * head->row_bytes,
        .payload = chunk->payloads[within],
    };
}

bool head_row_at(const struct head *head, uint32_t row, uint64_t seq, struct head_row *out)
{
    if (!head_row_live(head, row, seq))
        return false;
    head_row_get(head, row, out);
    return true;
}

const void *head_run(const struct head *head, uint32_t first, uint32_t *n_rows)
{
    uint32_t within;
    const struct head_chunk *chunk = chunk_of(head, first, &within);
    *n_rows = (1u << head->chunk_shift) - within;
    return chunk->rows + (size_t)within * head->row_bytes;
}

const uint8_t *head_sketches(const struct head *head, uint32_t first)
{
    uint32_t within;
    const struct head_chunk *chunk = chunk_of(head, first, &within);
    return head->sketch.bytes == 0 ? NULL : chunk->sketches + (size_t)within * head->sketch.bytes;
}

const struct columns *head_block(const struct head *head, uint32_t block)
{
    return head_columns_get(head->columns, head, block);
}
