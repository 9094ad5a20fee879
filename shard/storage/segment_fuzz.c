#include <stdlib.h>
#include <string.h>

#include "common/kith_mem.h"
#include "shard/storage/io_fake.h"
#include "shard/storage/segment.h"
#include "shard/storage/segment_format.h"
#include "shard/storage/segment_writer.h"

/* The input changes a good segment: triples of (u24 offset, u8 value) are patched in, then all
 * checksums are made right, so that what lies behind them is reached. Opened, every row is looked
 * up and read: refusals are fine, falling over is not. */

#define ROWS 50u

static const struct slice_config config = {
    .collection = 5, .slice = 0, .dim = 2, .metric = KITH_DOT, .rows = KITH_ROWS_F32};

static uint8_t *good;
static uint64_t good_bytes;

static void make_good(void)
{
    struct io *io = NULL;
    struct segment_writer *writer = NULL;
    struct segment_writer_options options = {
        .dir = "f", .config = &config, .number = 1, .n_rows = ROWS};
    if (io_fake_new(&io, NULL) != KITH_OK)
        abort();
    options.io = io;
    if (segment_writer_new(&writer, &options, NULL) != KITH_OK)
        abort();
    float row[2] = {1, 2};
    static const uint8_t payload[] = {0x82, 0xa1, 'a', 0x05, 0xa1, 'b', 0xa3, 'x', 'y', 'z'};
    for (uint32_t i = 0; i < ROWS; i++)
        if (segment_writer_row(writer, row, NULL) != KITH_OK)
            abort();
    for (uint32_t i = 0; i < ROWS; i++) {
        struct kith_id id = kith_id_number(i * 3);
        struct segment_point point = {
            .id = &id, .seq = i + 1, .payload = {payload, i % 4 == 0 ? 0 : sizeof payload}};
        if (segment_writer_point(writer, ROWS - 1 - i, &point, NULL) != KITH_OK)
            abort();
    }
    uint8_t *bytes;
    char path[64];
    segment_writer_path(path, sizeof path, "f", 1);
    if (segment_writer_finish(writer, NULL) != KITH_OK ||
        !io_fake_peek(io, path, &bytes, &good_bytes))
        abort();
    good = kith_xalloc((size_t)good_bytes); /* lives as long as the process */
    memcpy(good, bytes, (size_t)good_bytes);
    segment_writer_free(writer);
    io_fake_free(io);
}

static void make_right(uint8_t *file)
{
    kith_store_u32(file + SEGMENT_HEADER_CRC, kith_crc32c(0, file, SEGMENT_HEADER_CRC));
    uint64_t body = kith_load_u64(file + 56);
    if (body < SEGMENT_HEADER_BYTES || body > good_bytes)
        return;
    uint64_t n = (body + KITH_SEGMENT_BLOCK - 1) / KITH_SEGMENT_BLOCK;
    if (body + (n + 1) * 4 > good_bytes)
        return;
    for (uint64_t i = 0; i < n; i++) {
        uint64_t at = i * KITH_SEGMENT_BLOCK;
        uint64_t len = body - at < KITH_SEGMENT_BLOCK ? body - at : KITH_SEGMENT_BLOCK;
        kith_store_u32(file + body + i * 4, segment_format_block_crc(file + at, (size_t)len, 1, i));
    }
    kith_store_u32(file + body + n * 4,
                   segment_format_block_crc(file + body, (size_t)n * 4, 1, UINT64_MAX));
}

static void use(const struct segment *segment)
{
    struct kith_buf out = {0};
    uint32_t row;
    for (uint32_t i = 0; i < 160; i++) {
        struct kith_id id = kith_id_number(i);
        (void)segment_find(segment, &id, &row);
    }
    for (row = 0; row < segment_rows(segment); row++) {
        kith_buf_reset(&out);
        (void)segment_payload(segment, row, &out, NULL);
    }
    kith_buf_fini(&out);
    uint32_t order[ROWS];
    if (segment_rows(segment) <= ROWS)
        (void)segment_payload_order(segment, order, NULL);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct io *io = NULL;
    struct segment *segment = NULL;
    if (good == NULL)
        make_good();
    if (io_fake_new(&io, NULL) != KITH_OK)
        return 0;
    uint8_t *file = kith_memdup(good, (size_t)good_bytes);
    for (size_t i = 0; i + 4 <= size; i += 4) {
        uint64_t at = (uint64_t)data[i] | (uint64_t)data[i + 1] << 8 | (uint64_t)data[i + 2] << 16;
        file[at % good_bytes] = data[i + 3];
    }
    make_right(file);
    char path[64];
    segment_writer_path(path, sizeof path, "f", 1);
    (void)io_fake_put(io, path, file, good_bytes);
    kith_free(file);
    if (segment_open(&segment, io, "f", 1, &config, NULL) == KITH_OK)
        use(segment);
    segment_unref(segment);
    io_fake_free(io);
    return 0;
}
