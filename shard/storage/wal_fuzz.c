#include <string.h>

#include "common/kith_mem.h"
#include "proto/kith_wire.h"
#include "shard/storage/io_fake.h"
#include "shard/storage/row_codec.h"
#include "shard/storage/store.h"
#include "shard/storage/wal.h"
#include "shard/storage/wal_reader.h"
#include "shard/storage/write_record.h"

/* The input is what follows a good header. Odd inputs: raw bytes. Even inputs: the same with every
 * record's checksums made right along the chain, so that replay is reached with bodies that make no
 * sense. The slice is opened on it: it may refuse, it may not fall over. */

static const struct slice_config config = {
    .collection = 5, .slice = 0, .dim = 2, .metric = KITH_DOT, .rows = KITH_ROWS_F32};

static void make_right(uint8_t *file, size_t size, const struct wal_header *header)
{
    uint32_t last = header->crc;
    for (size_t at = WAL_HEADER_BYTES; size - at >= WAL_RECORD_BYTES;) {
        uint8_t *record = file + at;
        size_t body = kith_load_u32(record + 12) % 512;
        size_t len = (WAL_RECORD_BYTES + body + WAL_ALIGN - 1) & ~(size_t)(WAL_ALIGN - 1);
        if (size - at < len)
            return;
        kith_store_u32(record, 0x4352574bu);
        kith_store_u32(record + 8, last);
        kith_store_u32(record + 12, (uint32_t)body);
        kith_store_u32(record + 16, WAL_WRITE);
        kith_store_u64(record + 32, WAL_HEADER_BYTES);
        last = wal_record_crc(header->crc, at, record, len);
        kith_store_u32(record + 4, last);
        at += len;
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct io *io = NULL;
    struct store *store = NULL;
    if (size < 1 || size > 65536 || io_fake_new(&io, NULL) != KITH_OK)
        return 0;
    struct store_options options = {.io = io, .dir = "f", .wal_step_bytes = 4096};
    if (store_create(&options, &config, NULL) != KITH_OK)
        goto out;
    size_t bytes = WAL_HEADER_BYTES + size - 1;
    uint8_t *file = kith_xalloc(bytes);
    struct wal_header header = {.number = 1, .salt = 7};
    wal_header_encode(file, &header, &config);
    memcpy(file + WAL_HEADER_BYTES, data + 1, size - 1);
    if (data[0] % 2 == 0)
        make_right(file, bytes, &header);
    char path[64];
    wal_path(path, sizeof path, "f", 1);
    (void)io_fake_put(io, path, file, bytes);
    kith_free(file);
    if (store_open(&store, &options, NULL) == KITH_OK)
        store_close(store);
out:
    io_fake_free(io);
    return 0;
}
