#include "shard/storage/segment_blocks.h"

#include <inttypes.h>

#include "common/kith_log.h"
#include "common/kith_mem.h"
#include "shard/storage/residency.h"
#include "shard/storage/segment_format.h"

enum kith_err segment_blocks_guard(struct segment_blocks *blocks, const char *path,
                                   const uint8_t *map, uint64_t bytes, struct kith_diag *diag)
{
    enum kith_err err = map_guard_add(&blocks->guard, map, bytes, diag);
    if (err != KITH_OK)
        return err;
    blocks->map = map;
    blocks->path = kith_strdup(path);
    return blocks->path != NULL ? KITH_OK : kith_fail(diag, KITH_NOMEM, "segment");
}

enum kith_err segment_blocks_init(struct segment_blocks *blocks, uint64_t body, uint64_t bytes,
                                  uint64_t number, struct kith_diag *diag)
{
    blocks->body = body;
    blocks->number = number;
    blocks->n = (body + KITH_SEGMENT_BLOCK - 1) / KITH_SEGMENT_BLOCK;
    if (bytes != body + (blocks->n + 1) * 4)
        return kith_fail(diag, KITH_CORRUPT, "the file's size is not the header's");
    const uint8_t *crcs = blocks->map + body;
    blocks->last_word = kith_load_u32(crcs + blocks->n * 4);
    if (blocks->last_word != segment_format_block_crc(crcs, blocks->n * 4, number, UINT64_MAX))
        return kith_fail(diag, KITH_CORRUPT, "the table of checksums fails its own");
    blocks->good = kith_alloc((size_t)((blocks->n + 63) / 64) * sizeof *blocks->good);
    return blocks->good != NULL ? KITH_OK : kith_fail(diag, KITH_NOMEM, "segment");
}

void segment_blocks_fini(struct segment_blocks *blocks)
{
    if (blocks->map != NULL)
        map_guard_remove(&blocks->guard);
    kith_free((void *)(uintptr_t)blocks->path);
    kith_free(blocks->good);
}

void segment_blocks_condemn(struct segment_blocks *blocks, uint64_t offset)
{
    uint64_t none = 0;
    (void)atomic_compare_exchange_strong(&blocks->bad, &none, offset / KITH_SEGMENT_BLOCK + 1);
}

static uint64_t end_of(const struct segment_blocks *blocks, uint64_t index)
{
    uint64_t end = (index + 1) * KITH_SEGMENT_BLOCK;
    return end < blocks->body ? end : blocks->body;
}

bool segment_blocks_check(struct segment_blocks *blocks, uint64_t index, const uint8_t *bytes)
{
    uint64_t at = index * KITH_SEGMENT_BLOCK;
    size_t len = (size_t)(end_of(blocks, index) - at);
    uint32_t want = kith_load_u32(blocks->map + blocks->body + index * 4);
    if (segment_format_block_crc(bytes, len, blocks->number, index) == want)
        return true;
    segment_blocks_condemn(blocks, at);
    return false;
}

static bool is_good(const struct segment_blocks *blocks, uint64_t index)
{
    uint64_t word = atomic_load_explicit(&blocks->good[index / 64], memory_order_acquire);
    return (word >> (index % 64) & 1) != 0;
}

static bool verify_one(struct segment_blocks *blocks, uint64_t index)
{
    _Atomic uint64_t *word = &blocks->good[index / 64];
    uint64_t bit = UINT64_C(1) << (index % 64);
    if (is_good(blocks, index))
        return true;
    if (!segment_blocks_check(blocks, index, blocks->map + index * KITH_SEGMENT_BLOCK))
        return false;
    if ((atomic_fetch_or_explicit(word, bit, memory_order_acq_rel) & bit) == 0 &&
        atomic_fetch_add_explicit(&blocks->n_good, 1, memory_order_acq_rel) + 1 == blocks->n)
        atomic_store_explicit(&blocks->all_good, true, memory_order_release);
    return true;
}

bool segment_blocks_verify(struct segment_blocks *blocks, uint64_t offset, uint64_t bytes)
{
#ifdef KITH_BUG_TRUST_BLOCKS
    return true;
#endif
    if (bytes == 0)
        return true;
    bool good = true;
    uint64_t i = offset / KITH_SEGMENT_BLOCK, last = (offset + bytes - 1) / KITH_SEGMENT_BLOCK;
    while (i <= last && is_good(blocks, i))
        i++;
    if (i <= last) /* one question to the disk, where pages one by one would be sixteen a block */
        residency_advise(
            (struct kith_bytes){blocks->map + i * KITH_SEGMENT_BLOCK,
                                (size_t)(end_of(blocks, last) - i * KITH_SEGMENT_BLOCK)},
            RESIDENCY_SOON);
    for (; good && i <= last; i++)
        good = verify_one(blocks, i);
    return good;
}

/* gcc warns that its thread sanitizer does not see fences. What this one orders is not written by
 * a thread but by whoever cuts the file. */
#if defined(__SANITIZE_THREAD__) && !defined(__clang__)
#pragma GCC diagnostic ignored "-Wtsan"
#endif

/* Volatile: the word is to be read now, after all that was read before it. A file that was cut,
 * even by a byte, has zeros there or cannot be read. */
static bool is_whole(const struct segment_blocks *blocks)
{
    atomic_thread_fence(memory_order_acquire);
    const volatile uint8_t *at = blocks->map + blocks->body + blocks->n * 4;
    uint32_t word =
        (uint32_t)at[0] | (uint32_t)at[1] << 8 | (uint32_t)at[2] << 16 | (uint32_t)at[3] << 24;
    return word == blocks->last_word;
}

enum kith_err segment_blocks_verdict(struct segment_blocks *blocks, struct kith_diag *diag)
{
#ifdef KITH_BUG_NO_QUARANTINE
    return KITH_OK;
#endif
    bool whole = is_whole(blocks); /* first: reading it may find the map lost */
    bool lost = atomic_load_explicit(&blocks->guard.lost, memory_order_seq_cst);
    uint64_t bad = atomic_load_explicit(&blocks->bad, memory_order_acquire);
    if (whole && !lost && bad == 0)
        return KITH_OK;
    struct kith_diag local = {0};
    if (lost)
        (void)kith_fail(&local, KITH_CORRUPT, "%s cannot be read at offset %" PRIu64, blocks->path,
                        atomic_load_explicit(&blocks->guard.offset, memory_order_relaxed));
    else if (!whole)
        (void)kith_fail(&local, KITH_CORRUPT, "%s was cut", blocks->path);
    else
        (void)kith_fail(&local, KITH_CORRUPT, "%s: block %" PRIu64 " fails its checksum",
                        blocks->path, bad - 1);
    if (!atomic_exchange(&blocks->told, true))
        kith_log(ERROR, "segment.quarantined", "text=\"%s\"", local.text);
    return kith_fail(diag, KITH_CORRUPT, "%s", local.text);
}
