#include "shard/storage/manifest.h"

#include <stdio.h>
#include <string.h>

#include "common/kith_mem.h"
#include "proto/kith_crc32c.h"
#include "proto/kith_limits.h"
#include "proto/kith_wire.h"

/* Fixed head, then segments (16 bytes each), then operations (24 bytes each), then, of an index by
 * Faiss, its factory string with zeros behind it, then a CRC of all. */
#define MAGIC         0x314e414d4854494bull /* "KITHMAN1" */
#define VERSION       2u
#define HEAD_BYTES    88u
#define SEGMENT_BYTES 16u
#define OP_BYTES      24u
#define FACTORY_BYTES KITH_FAISS_FACTORY_MAX
#define BYTES_MAX                                                                                  \
    (HEAD_BYTES + KITH_SEGMENTS_MAX * SEGMENT_BYTES + OP_WINDOW_MAX * OP_BYTES + FACTORY_BYTES + 4u)

void manifest_path(char *path, size_t cap, const char *dir)
{
    (void)snprintf(path, cap, "%s/MANIFEST", dir);
}

void manifest_fini(struct manifest *manifest)
{
    kith_free(manifest->segments);
    kith_free(manifest->ops);
    memset(manifest, 0, sizeof *manifest);
}

static size_t factory_bytes(const struct manifest *m)
{
    return m->config.index == KITH_INDEX_FAISS ? FACTORY_BYTES : 0;
}

static size_t encoded_bytes(const struct manifest *m)
{
    return HEAD_BYTES + (size_t)m->n_segments * SEGMENT_BYTES + (size_t)m->n_ops * OP_BYTES +
           factory_bytes(m) + 4;
}

static void encode(const struct manifest *m, uint8_t *out)
{
    kith_store_u64(out, MAGIC);
    kith_store_u32(out + 8, VERSION);
    kith_store_u32(out + 12, m->config.slice);
    kith_store_u64(out + 16, m->config.collection);
    kith_store_u32(out + 24, m->config.dim);
    kith_store_u32(out + 28, (uint32_t)m->config.metric);
    kith_store_u32(out + 32, (uint32_t)m->config.rows);
    kith_store_u32(out + 36, m->n_segments);
    kith_store_u64(out + 40, m->sealed_seq);
    kith_store_u64(out + 48, m->first_wal);
    kith_store_u64(out + 56, m->next_file);
    kith_store_u32(out + 64, m->n_ops);
    kith_store_u32(out + 68, (uint32_t)m->config.index);
    kith_store_u64(out + 72, m->wal);
    kith_store_u64(out + 80, m->wal_end);
    uint8_t *at = out + HEAD_BYTES;
    for (uint32_t i = 0; i < m->n_segments; i++, at += SEGMENT_BYTES) {
        kith_store_u64(at, m->segments[i].number);
        kith_store_u64(at + 8, m->segments[i].deletes);
    }
    for (uint32_t i = 0; i < m->n_ops; i++, at += OP_BYTES) {
        kith_store_u64(at, m->ops[i].op_id);
        kith_store_u64(at + 8, m->ops[i].seq);
        kith_store_u64(at + 16, m->ops[i].affected);
    }
    memcpy(at, m->config.factory, strnlen(m->config.factory, factory_bytes(m)));
    at += factory_bytes(m);
    kith_store_u32(at, kith_crc32c(0, out, (size_t)(at - out)));
}

static enum kith_err decode_head(struct manifest *m, const uint8_t *data, struct kith_diag *diag)
{
    m->config.slice = kith_load_u32(data + 12);
    m->config.collection = kith_load_u64(data + 16);
    m->config.dim = kith_load_u32(data + 24);
    uint32_t metric = kith_load_u32(data + 28);
    uint32_t rows = kith_load_u32(data + 32);
    uint32_t index = kith_load_u32(data + 68);
    m->sealed_seq = kith_load_u64(data + 40);
    m->first_wal = kith_load_u64(data + 48);
    m->next_file = kith_load_u64(data + 56);
    m->wal = kith_load_u64(data + 72);
    m->wal_end = kith_load_u64(data + 80);
    if (m->config.dim == 0 || m->config.dim > KITH_DIM_MAX || metric < KITH_COSINE ||
        metric > KITH_MANHATTAN || rows < KITH_ROWS_F32 || rows > KITH_ROWS_F16 ||
        index > KITH_INDEX_FAISS || m->first_wal == 0 || m->next_file == 0 || m->wal < m->first_wal)
        return kith_fail(diag, KITH_CORRUPT, "a value is out of range");
    m->config.metric = (enum kith_metric)metric;
    m->config.rows = (enum kith_row_type)rows;
    m->config.index = (enum kith_index)index;
    return KITH_OK;
}

/* Text, then zeros to the end. */
static bool decode_factory(struct manifest *m, const uint8_t *at)
{
    size_t len = strnlen((const char *)at, FACTORY_BYTES);
    for (size_t i = len; i < FACTORY_BYTES; i++)
        if (at[i] != 0)
            return false;
    memcpy(m->config.factory, at, FACTORY_BYTES);
    return len > 0;
}

static enum kith_err decode_lists(struct manifest *m, const uint8_t *at, struct kith_diag *diag)
{
    m->segments = kith_alloc((size_t)m->n_segments * sizeof *m->segments);
    m->ops = kith_alloc((size_t)m->n_ops * sizeof *m->ops);
    if (m->segments == NULL || m->ops == NULL)
        return kith_fail(diag, KITH_NOMEM, "manifest");
    for (uint32_t i = 0; i < m->n_segments; i++, at += SEGMENT_BYTES) {
        struct manifest_segment *segment = &m->segments[i];
        segment->number = kith_load_u64(at);
        segment->deletes = kith_load_u64(at + 8);
        if (segment->number == 0 || segment->number >= m->next_file ||
            segment->deletes >= m->next_file)
            return kith_fail(diag, KITH_CORRUPT, "a file's number is out of range");
        for (uint32_t j = 0; j < i; j++)
            if (m->segments[j].number == segment->number)
                return kith_fail(diag, KITH_CORRUPT, "a segment is named twice");
    }
    for (uint32_t i = 0; i < m->n_ops; i++, at += OP_BYTES) {
        m->ops[i].op_id = kith_load_u64(at);
        m->ops[i].seq = kith_load_u64(at + 8);
        m->ops[i].affected = kith_load_u64(at + 16);
        if (m->ops[i].op_id == 0)
            return kith_fail(diag, KITH_CORRUPT, "an operation has no id");
    }
    if (factory_bytes(m) > 0 && !decode_factory(m, at))
        return kith_fail(diag, KITH_CORRUPT, "the index has no factory string");
    return KITH_OK;
}

enum kith_err manifest_decode(struct manifest *out, const uint8_t *data, size_t len,
                              struct kith_diag *diag)
{
    if (len < HEAD_BYTES + 4 || len > BYTES_MAX ||
        kith_load_u32(data + len - 4) != kith_crc32c(0, data, len - 4) ||
        kith_load_u64(data) != MAGIC)
        return kith_fail(diag, KITH_CORRUPT, "fails its checksum");
    if (kith_load_u32(data + 8) != VERSION)
        return kith_fail(diag, KITH_CORRUPT, "version %u is not known here",
                         kith_load_u32(data + 8));
    struct manifest m = {
        .n_segments = kith_load_u32(data + 36),
        .n_ops = kith_load_u32(data + 64),
    };
    enum kith_err err = decode_head(&m, data, diag);
    if (err == KITH_OK &&
        (m.n_segments > KITH_SEGMENTS_MAX || m.n_ops > OP_WINDOW_MAX || len != encoded_bytes(&m)))
        err = kith_fail(diag, KITH_CORRUPT, "its lists do not fill it");
    if (err == KITH_OK)
        err = decode_lists(&m, data + HEAD_BYTES, diag);
    if (err == KITH_OK)
        *out = m;
    else
        manifest_fini(&m);
    return err;
}

enum kith_err manifest_load(struct manifest *out, struct io *io, const char *dir,
                            struct kith_diag *diag)
{
    char path[512];
    manifest_path(path, sizeof path, dir);
    struct io_file *file = NULL;
    uint8_t *data = NULL;
    uint64_t size = 0;
    enum kith_err err = io->open(io->self, path, IO_READ, &file, diag);
    if (err != KITH_OK)
        return err;
    err = io->size(io->self, file, &size, diag);
    if (err == KITH_OK && size > BYTES_MAX)
        err = kith_fail(diag, KITH_CORRUPT, "is too large");
    if (err == KITH_OK && (data = kith_alloc(size)) == NULL)
        err = kith_fail(diag, KITH_NOMEM, "manifest");
    if (err == KITH_OK)
        err = io->read(io->self, file, 0, data, size, diag);
    if (err == KITH_OK)
        err = manifest_decode(out, data, size, diag);
    if (err != KITH_OK)
        kith_diag_prefix(diag, "%s", path);
    io->close(io->self, file);
    kith_free(data);
    return err;
}

enum kith_err manifest_store(const struct manifest *manifest, struct io *io, const char *dir,
                             struct kith_diag *diag)
{
    char path[512], temporary[520];
    manifest_path(path, sizeof path, dir);
    (void)snprintf(temporary, sizeof temporary, "%s.tmp", path);
    size_t len = encoded_bytes(manifest);
    struct io_file *file = NULL;
    uint8_t *data = kith_alloc(len);
    if (data == NULL)
        return kith_fail(diag, KITH_NOMEM, "manifest");
    encode(manifest, data);
    enum kith_err err = io->unlink(io->self, temporary, diag);
    if (err == KITH_OK || err == KITH_NOT_FOUND)
        err = io->open(io->self, temporary, IO_CREATE_NEW, &file, diag);
    if (err == KITH_OK)
        err = io->write(io->self, file, 0, data, len, diag);
    if (err == KITH_OK)
        err = io->sync(io->self, file, diag);
    if (err == KITH_OK)
        err = io->rename(io->self, temporary, path, diag);
    if (err == KITH_OK)
        err = io->sync_dir(io->self, dir, diag);
    if (err != KITH_OK)
        kith_diag_prefix(diag, "%s", path);
    io->close(io->self, file);
    kith_free(data);
    return err;
}
