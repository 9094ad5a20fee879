#include "shard/storage/deletes.h"

#include <string.h>

#include "common/kith_mem.h"
#include "proto/kith_crc32c.h"
#include "proto/kith_wire.h"

#define MAGIC        0x314c45444854494bull /* "KITHDEL1" */
#define HEADER_BYTES 40u
/* A roaring bitmap of rows takes at most 8 KiB and a few bytes for each 65,536 rows. */
#define BYTES_MAX(rows_) (((uint64_t)(rows_) / 65536 + 1) * 8400 + 64)

struct deletes *deletes_new(void)
{
    struct deletes *deletes = kith_alloc(sizeof *deletes);
    if (deletes == NULL)
        return NULL;
    atomic_init(&deletes->refs, 1);
    deletes->set = bitmap_new();
    if (deletes->set == NULL) {
        kith_free(deletes);
        return NULL;
    }
    return deletes;
}

struct deletes *deletes_copy(const struct deletes *from)
{
    struct deletes *deletes = kith_alloc(sizeof *deletes);
    if (deletes == NULL)
        return NULL;
    atomic_init(&deletes->refs, 1);
    deletes->count = from->count;
    deletes->set = bitmap_copy(from->set);
    if (deletes->set == NULL) {
        kith_free(deletes);
        return NULL;
    }
    return deletes;
}

void deletes_ref(struct deletes *deletes)
{
    if (deletes != NULL)
        atomic_fetch_add_explicit(&deletes->refs, 1, memory_order_relaxed);
}

void deletes_unref(struct deletes *deletes)
{
    if (deletes == NULL || atomic_fetch_sub_explicit(&deletes->refs, 1, memory_order_acq_rel) != 1)
        return;
    bitmap_free(deletes->set);
    kith_free(deletes);
}

bool deletes_alone(struct deletes *deletes)
{
    return atomic_load_explicit(&deletes->refs, memory_order_acquire) == 1;
}

bool deletes_has(const struct deletes *deletes, uint32_t row)
{
    return deletes != NULL && bitmap_contains(deletes->set, row);
}

uint32_t deletes_count(const struct deletes *deletes)
{
    return deletes != NULL ? deletes->count : 0;
}

/* magic, segment, rows, count, bytes, crc of the header before it and of the bitmap; the bitmap. */
static void header_encode(uint8_t *header, uint64_t segment, uint32_t n_rows, uint32_t count,
                          size_t bytes)
{
    kith_store_u64(header, MAGIC);
    kith_store_u64(header + 8, segment);
    kith_store_u32(header + 16, n_rows);
    kith_store_u32(header + 20, count);
    kith_store_u64(header + 24, bytes);
    kith_store_u32(header + 32, kith_crc32c(0, header, 32));
    kith_store_u32(header + 36,
                   kith_crc32c(kith_load_u32(header + 32), header + HEADER_BYTES, bytes));
}

enum kith_err deletes_store(const struct deletes *deletes, struct io *io, const char *path,
                            uint64_t segment, uint32_t n_rows, struct kith_diag *diag)
{
    size_t bytes = bitmap_bytes(deletes->set);
    struct io_file *file = NULL;
    enum kith_err err;
    uint8_t *data = kith_alloc(HEADER_BYTES + bytes);
    if (data == NULL)
        return kith_fail(diag, KITH_NOMEM, "%s", path);
    bitmap_store(deletes->set, data + HEADER_BYTES);
    header_encode(data, segment, n_rows, deletes->count, bytes);
    err = io->unlink(io->self, path, NULL);
    if (err != KITH_OK && err != KITH_NOT_FOUND)
        (void)kith_fail(diag, err, "unlink");
    else
        err = io->open(io->self, path, IO_CREATE_NEW, &file, diag);
    if (err == KITH_OK)
        err = io->write(io->self, file, 0, data, HEADER_BYTES + bytes, diag);
    if (err == KITH_OK)
        err = io->sync(io->self, file, diag);
    if (err != KITH_OK)
        kith_diag_prefix(diag, "%s", path);
    io->close(io->self, file);
    kith_free(data);
    return err;
}

static enum kith_err check(const uint8_t *data, uint64_t size, struct kith_diag *diag)
{
    if (size < HEADER_BYTES || kith_load_u64(data) != MAGIC ||
        kith_load_u32(data + 32) != kith_crc32c(0, data, 32) ||
        kith_load_u64(data + 24) != size - HEADER_BYTES ||
        kith_load_u32(data + 36) !=
            kith_crc32c(kith_load_u32(data + 32), data + HEADER_BYTES, size - HEADER_BYTES))
        return kith_fail(diag, KITH_CORRUPT, "fails its checksum");
    return KITH_OK;
}

static enum kith_err parse(struct deletes *out, const uint8_t *data, uint64_t size,
                           uint64_t segment, uint32_t n_rows, struct kith_diag *diag)
{
    enum kith_err err = check(data, size, diag);
    if (err != KITH_OK)
        return err;
    if (kith_load_u64(data + 8) != segment || kith_load_u32(data + 16) != n_rows)
        return kith_fail(diag, KITH_CORRUPT, "belongs to another segment");
    struct bitmap *set = NULL;
    err = bitmap_load(&set, data + HEADER_BYTES, size - HEADER_BYTES, n_rows, diag);
    if (err != KITH_OK)
        return err;
    bitmap_free(out->set);
    out->set = set;
    out->count = kith_load_u32(data + 20);
    if (bitmap_count(set) != out->count)
        return kith_fail(diag, KITH_CORRUPT, "its count is wrong");
    return KITH_OK;
}

/* The whole file; *data is the caller's, also on an error. */
static enum kith_err read_file(struct io *io, const char *path, uint64_t bytes_max, uint8_t **data,
                               uint64_t *size, struct kith_diag *diag)
{
    struct io_file *file = NULL;
    enum kith_err err = io->open(io->self, path, IO_READ, &file, diag);
    if (err == KITH_OK)
        err = io->size(io->self, file, size, diag);
    if (err == KITH_OK && *size > bytes_max)
        err = kith_fail(diag, KITH_CORRUPT, "is too large");
    if (err == KITH_OK && (*data = kith_alloc(*size)) == NULL)
        err = kith_fail(diag, KITH_NOMEM, "%llu bytes", (unsigned long long)*size);
    if (err == KITH_OK)
        err = io->read(io->self, file, 0, *data, *size, diag);
    io->close(io->self, file);
    return err;
}

enum kith_err deletes_check(struct io *io, const char *path, uint64_t *bytes,
                            struct kith_diag *diag)
{
    uint8_t *data = NULL;
    enum kith_err err =
        read_file(io, path, BYTES_MAX(UINT32_MAX) + HEADER_BYTES, &data, bytes, diag);
    if (err == KITH_OK)
        err = check(data, *bytes, diag);
    kith_free(data);
    return err;
}

enum kith_err deletes_load(struct deletes **out, struct io *io, const char *path, uint64_t segment,
                           uint32_t n_rows, struct kith_diag *diag)
{
    uint8_t *data = NULL;
    uint64_t size = 0;
    struct deletes *deletes = deletes_new();
    enum kith_err err = KITH_OK;
    if (deletes == NULL)
        err = KITH_NOMEM;
    if (err == KITH_OK)
        err = read_file(io, path, BYTES_MAX(n_rows) + HEADER_BYTES, &data, &size, diag);
    if (err == KITH_OK)
        err = parse(deletes, data, size, segment, n_rows, diag);
    if (err == KITH_OK) {
        *out = deletes;
        deletes = NULL;
    } else {
        kith_diag_prefix(diag, "%s", path);
    }
    kith_free(data);
    deletes_unref(deletes);
    return err;
}
