#include "common/kith_mem.h"
#include "shard/storage/block_codec.h"
#include "shard/storage/segment_state.h"

/* Payloads: a row's spot says in which block of the file it lies, and where in the block once that
 * is decompressed. Neither is checked before it is used; segment.c says why. */

void segment_cache_fini(struct segment_cache *cache)
{
    kith_buf_fini(&cache->raw);
    kith_buf_fini(&cache->packed);
    cache->segment = NULL;
}

static enum kith_err load_block(const struct segment *segment, uint32_t block,
                                struct segment_cache *cache, struct kith_diag *diag)
{
    if (cache->segment == segment && cache->block == block)
        return KITH_OK;
    cache->segment = NULL;
    if (block >= segment->n_blocks)
        return kith_fail(diag, KITH_CORRUPT, "a payload lies in a block that is not there");
    const uint8_t *entry = segment->parts[SEGMENT_BLOCKS] + (size_t)block * SEGMENT_BLOCK_ENTRY;
    if (!segment_need(segment, SEGMENT_BLOCKS, (uint64_t)block * SEGMENT_BLOCK_ENTRY,
                      SEGMENT_BLOCK_ENTRY))
        return segment_check(segment, diag);
    uint64_t offset = kith_load_u64(entry);
    uint32_t packed = kith_load_u32(entry + 8);
    uint32_t bytes = kith_load_u32(entry + 12);
    uint64_t room = segment->part_bytes[SEGMENT_PAYLOADS];
    if (offset > room || packed > room - offset || bytes > SEGMENT_PAYLOAD_BLOCK + KITH_PAYLOAD_MAX)
        return kith_fail(diag, KITH_CORRUPT, "a payload block lies outside its section");
    if (!segment_need(segment, SEGMENT_PAYLOADS, offset, packed))
        return segment_check(segment, diag);
    kith_buf_reset(&cache->raw);
    kith_buf_reset(&cache->packed);
    uint8_t *to = kith_buf_reserve(&cache->raw, bytes);
    /* A copy: a decoder is not made for bytes that change, as those of a file that is cut do. */
    kith_buf_append(&cache->packed, segment->parts[SEGMENT_PAYLOADS] + offset, packed);
    if (to == NULL || cache->packed.failed) {
        kith_buf_reset(&cache->packed);
        return kith_fail(diag, KITH_NOMEM, "payload block");
    }
    enum kith_err err = block_codec_unpack(cache->packed.data, packed, to, bytes, diag);
    if (err != KITH_OK)
        return err;
    cache->raw.len = bytes;
    cache->segment = segment;
    cache->block = block;
    return KITH_OK;
}

static struct segment_spot spot_of(const struct segment *segment, uint32_t row)
{
    if (segment->part_bytes[SEGMENT_PAYLOAD_INDEX] == 0)
        return (struct segment_spot){0};
    (void)segment_need(segment, SEGMENT_PAYLOAD_INDEX, (uint64_t)row * 8, 8);
    return segment_format_spot_of(
        kith_load_u64(segment->parts[SEGMENT_PAYLOAD_INDEX] + (size_t)row * 8));
}

enum kith_err segment_payload_cached(const struct segment *segment, uint32_t row,
                                     struct segment_cache *cache, struct kith_bytes *out,
                                     struct kith_diag *diag)
{
    kith_assert(row < segment->n_rows);
    struct segment_spot spot = spot_of(segment, row);
    if (spot.len == 0) {
        *out = (struct kith_bytes){NULL, 0};
        return KITH_OK;
    }
    enum kith_err err = load_block(segment, spot.block, cache, diag);
    if (err != KITH_OK)
        return err;
    if (spot.offset > cache->raw.len || spot.len > cache->raw.len - spot.offset)
        return kith_fail(diag, KITH_CORRUPT, "a payload lies outside its block");
    *out = (struct kith_bytes){cache->raw.data + spot.offset, spot.len};
    return KITH_OK;
}

/* Rows counted and dealt out by block; those without a payload come last. */
enum kith_err segment_payload_order(const struct segment *segment, uint32_t *rows,
                                    struct kith_diag *diag)
{
    uint32_t n_buckets = segment->n_blocks + 1;
    uint32_t *starts = kith_alloc(((size_t)n_buckets + 1) * sizeof *starts);
    if (starts == NULL)
        return kith_fail(diag, KITH_NOMEM, "order of payloads");
    for (uint32_t row = 0; row < segment->n_rows; row++) {
        struct segment_spot spot = spot_of(segment, row);
        uint32_t bucket = spot.len == 0 ? segment->n_blocks : spot.block;
        if (bucket >= n_buckets) {
            kith_free(starts);
            return kith_fail(diag, KITH_CORRUPT, "a payload lies in a block that is not there");
        }
        starts[bucket + 1]++;
    }
    for (uint32_t b = 1; b <= n_buckets; b++)
        starts[b] += starts[b - 1];
    for (uint32_t row = 0; row < segment->n_rows; row++) {
        struct segment_spot spot = spot_of(segment, row);
        uint32_t bucket = spot.len == 0 ? segment->n_blocks : spot.block;
        /* The file may have turned into zeros since they were counted. */
        if (bucket >= n_buckets || starts[bucket] >= segment->n_rows) {
            kith_free(starts);
            return kith_fail(diag, KITH_CORRUPT, "the places of payloads changed");
        }
        rows[starts[bucket]++] = row;
    }
    kith_free(starts);
    return KITH_OK;
}

enum kith_err segment_payload(const struct segment *segment, uint32_t row, struct kith_buf *out,
                              struct kith_diag *diag)
{
    struct segment_cache cache = {0};
    struct kith_bytes payload = {NULL, 0};
    enum kith_err err = segment_payload_cached(segment, row, &cache, &payload, diag);
    if (err == KITH_OK) {
        kith_buf_append(out, payload.data, payload.len);
        if (out->failed)
            err = kith_fail(diag, KITH_NOMEM, "payload of %zu bytes", payload.len);
    }
    segment_cache_fini(&cache);
    return err;
}
