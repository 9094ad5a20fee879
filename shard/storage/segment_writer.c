#include "shard/storage/segment_writer.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/kith_buf.h"
#include "common/kith_mem.h"
#include "shard/storage/block_codec.h"
#include "shard/storage/column.h"
#include "shard/storage/row_codec.h"
#include "shard/storage/segment_format.h"
#include "shard/storage/segment_names.h"

/* One pass over the disk: vectors first (they are most of the bytes), then the index, then payload
 * blocks, then the points' other parts, which are collected in memory, then the checksums. The
 * header page is written last, over a page of zeros: its CRC block is kept in memory until then.
 * Space is allocated ahead in steps, so a full disk is told before the map could find it, and the
 * rest is given back at the end. */

/* A huge page: what is written so lies in huge pages of the page cache, where the file system has
 * them (ext4 since Linux 6.16, XFS), and is mapped so. */
#define BUFFER_BYTES (32 * KITH_SEGMENT_BLOCK)
#define STEP_BYTES   (16u << 20)
_Static_assert(BUFFER_BYTES == 2u << 20, "the size of a huge page");

struct extent {
    uint64_t offset, bytes;
};

struct segment_writer {
    struct segment_writer_options options;
    char path[512], temporary[520];
    struct io_file *file;
    bool renamed;
    uint32_t row_bytes, rows, points;
    uint64_t min_seq, max_seq;
    uint64_t at, allocated; /* bytes streamed so far; of the file */
    uint8_t *buffer;        /* the bytes not yet written: [at - fill, at) */
    size_t fill;
    uint8_t *first;       /* block 0, until the header is known */
    struct kith_buf crcs; /* u32 per block */
    struct extent sections[SEGMENT_SECTIONS];
    unsigned last_section; /* the one that was begun last */
    struct kith_id *ids;
    uint64_t *seqs, *spots;
    struct kith_buf blocks;
    struct kith_buf raw, packed; /* the open payload block, and its compressed form */
    struct column_builder *columns;
};

void segment_writer_path(char *path, size_t cap, const char *dir, uint64_t number)
{
    (void)snprintf(path, cap, "%s/seg-%016" PRIx64, dir, number);
}

enum kith_err segment_writer_new(struct segment_writer **out,
                                 const struct segment_writer_options *options,
                                 struct kith_diag *diag)
{
    kith_assert(options->n_rows > 0 && options->n_rows <= SEGMENT_ROWS_MAX);
    struct io *io = options->io;
    struct segment_writer *writer = kith_alloc(sizeof *writer);
    if (writer == NULL)
        return kith_fail(diag, KITH_NOMEM, "segment writer");
    writer->options = *options;
    writer->row_bytes = row_codec_bytes(options->config);
    writer->min_seq = UINT64_MAX;
    writer->buffer = kith_alloc_aligned(4096, BUFFER_BYTES);
    writer->first = kith_alloc(KITH_SEGMENT_BLOCK);
    writer->ids = kith_alloc((size_t)options->n_rows * sizeof *writer->ids);
    enum kith_err err = KITH_OK;
    writer->seqs = kith_alloc((size_t)options->n_rows * sizeof *writer->seqs);
    writer->spots = kith_alloc((size_t)options->n_rows * sizeof *writer->spots);
    if (writer->buffer == NULL || writer->first == NULL || writer->ids == NULL ||
        writer->seqs == NULL || writer->spots == NULL)
        err = kith_fail(diag, KITH_NOMEM, "segment writer for %u rows", options->n_rows);
    if (err == KITH_OK)
        err = column_builder_new(&writer->columns, diag);
    segment_writer_path(writer->path, sizeof writer->path, options->dir, options->number);
    (void)snprintf(writer->temporary, sizeof writer->temporary, "%s.tmp", writer->path);
    if (err == KITH_OK) {
        err = io->unlink(io->self, writer->temporary, diag);
        if (err == KITH_NOT_FOUND)
            err = KITH_OK;
    }
    if (err == KITH_OK)
        err = io->open(io->self, writer->temporary, IO_CREATE_STREAM, &writer->file, diag);
    if (err != KITH_OK) {
        segment_writer_free(writer);
        return err;
    }
    /* The header's page; filled in by _finish. */
    memset(writer->buffer, 0, SEGMENT_HEADER_BYTES);
    writer->at = writer->fill = SEGMENT_HEADER_BYTES;
    writer->sections[SEGMENT_ROWS].offset = writer->at;
    *out = writer;
    return KITH_OK;
}

void segment_writer_free(struct segment_writer *writer)
{
    if (writer == NULL)
        return;
    struct io *io = writer->options.io;
    if (writer->file != NULL) {
        io->close(io->self, writer->file);
        if (!writer->renamed)
            (void)io->unlink(io->self, writer->temporary, NULL);
    }
    column_builder_free(writer->columns);
    kith_buf_fini(&writer->crcs);
    kith_buf_fini(&writer->blocks);
    kith_buf_fini(&writer->packed);
    kith_buf_fini(&writer->raw);
    kith_free(writer->ids);
    kith_free(writer->seqs);
    kith_free(writer->spots);
    kith_free(writer->first);
    kith_free(writer->buffer);
    kith_free(writer);
}

/* Writes the buffer out; all of it but the last time are whole blocks. */
static enum kith_err flush(struct segment_writer *writer, struct kith_diag *diag)
{
    struct io *io = writer->options.io;
    enum kith_err err = KITH_OK;
    uint64_t begin = writer->at - writer->fill;
    for (size_t i = 0; i < writer->fill; i += KITH_SEGMENT_BLOCK) {
        size_t len = writer->fill - i < KITH_SEGMENT_BLOCK ? writer->fill - i : KITH_SEGMENT_BLOCK;
        uint64_t index = (begin + i) / KITH_SEGMENT_BLOCK;
        uint8_t crc[4];
        if (index == 0)
            memcpy(writer->first, writer->buffer, len);
        kith_store_u32(
            crc, segment_format_block_crc(writer->buffer + i, len, writer->options.number, index));
        kith_buf_append(&writer->crcs, crc, sizeof crc);
    }
    if (writer->crcs.failed)
        return kith_fail(diag, KITH_NOMEM, "segment checksums");
    if (writer->at > writer->allocated) {
        uint64_t want = writer->at + STEP_BYTES;
        if (writer->allocated == 0) /* the rows' share at once: fewer extents */
            want = SEGMENT_HEADER_BYTES + (uint64_t)writer->row_bytes * writer->options.n_rows +
                   STEP_BYTES / 16;
        if (want < writer->at)
            want = writer->at;
        err = io->allocate(io->self, writer->file, want, diag);
        if (err == KITH_DISK_FULL) { /* no room to be generous */
            want = writer->at;
            err = io->allocate(io->self, writer->file, want, diag);
        }
        if (err != KITH_OK)
            return err;
        writer->allocated = want;
    }
    err = io->write(io->self, writer->file, begin, writer->buffer, writer->fill, diag);
    writer->fill = 0;
    return err;
}

static enum kith_err stream(struct segment_writer *writer, const void *data, size_t len,
                            struct kith_diag *diag)
{
    const uint8_t *from = data;
    while (len > 0) {
        size_t room = BUFFER_BYTES - writer->fill;
        size_t part = len < room ? len : room;
        memcpy(writer->buffer + writer->fill, from, part);
        writer->fill += part;
        writer->at += part;
        from += part;
        len -= part;
        if (writer->fill == BUFFER_BYTES) {
            enum kith_err err = flush(writer, diag);
            if (err != KITH_OK)
                return err;
        }
    }
    return KITH_OK;
}

static enum kith_err pad(struct segment_writer *writer, struct kith_diag *diag)
{
    static const uint8_t zeros[KITH_SECTION_ALIGN];
    return stream(writer, zeros, (size_t)(segment_format_align(writer->at) - writer->at), diag);
}

static enum kith_err section(struct segment_writer *writer, enum segment_section kind,
                             const void *data, size_t len, struct kith_diag *diag)
{
    enum kith_err err = pad(writer, diag);
    if (err != KITH_OK)
        return err;
    writer->sections[kind] = (struct extent){writer->at, len};
    writer->last_section = kind;
    return stream(writer, data, len, diag);
}

enum kith_err segment_writer_row(struct segment_writer *writer, const void *row,
                                 struct kith_diag *diag)
{
    kith_assert(writer->rows < writer->options.n_rows && writer->points == 0);
    writer->rows++;
    writer->sections[SEGMENT_ROWS].bytes += writer->row_bytes;
    return stream(writer, row, writer->row_bytes, diag);
}

enum kith_err segment_writer_index(void *self, unsigned kind, const void *data, size_t bytes,
                                   struct kith_diag *diag)
{
    struct segment_writer *writer = self;
    kith_assert(writer->rows == writer->options.n_rows && writer->points == 0);
    kith_assert(kind >= SEGMENT_INDEX_FIRST && kind < SEGMENT_SECTIONS);
    kith_assert(kind >= writer->last_section);
    if (kind != writer->last_section)
        return section(writer, (enum segment_section)kind, data, bytes, diag);
    writer->sections[kind].bytes += bytes;
    return stream(writer, data, bytes, diag);
}

static enum kith_err close_block(struct segment_writer *writer, struct kith_diag *diag)
{
    if (writer->raw.len == 0)
        return KITH_OK;
    uint8_t entry[SEGMENT_BLOCK_ENTRY];
    struct extent *payloads = &writer->sections[SEGMENT_PAYLOADS];
    kith_store_u64(entry, payloads->bytes);
    size_t packed = 0;
    kith_buf_reset(&writer->packed);
    enum kith_err err =
        block_codec_pack(writer->raw.data, writer->raw.len, &writer->packed, &packed, diag);
    if (err == KITH_OK)
        err = stream(writer, writer->packed.data, packed, diag);
    if (err != KITH_OK)
        return err;
    payloads->bytes += packed;
    kith_store_u32(entry + 8, (uint32_t)packed);
    kith_store_u32(entry + 12, (uint32_t)writer->raw.len);
    kith_buf_append(&writer->blocks, entry, sizeof entry);
    kith_buf_reset(&writer->raw);
    return KITH_OK;
}

enum kith_err segment_writer_point(struct segment_writer *writer, uint32_t row,
                                   const struct segment_point *point, struct kith_diag *diag)
{
    kith_assert(writer->rows == writer->options.n_rows && writer->points < writer->rows);
    kith_assert(row < writer->rows && point->payload.len <= KITH_PAYLOAD_MAX);
    struct segment_spot spot = {
        .block = (uint32_t)(writer->blocks.len / SEGMENT_BLOCK_ENTRY),
        .offset = (uint32_t)writer->raw.len,
        .len = (uint32_t)point->payload.len,
    };
    if (spot.block >= SEGMENT_SPOT_BLOCKS_MAX)
        return kith_fail(diag, KITH_TOO_BIG, "payloads of one segment");
    if (writer->points++ == 0) {
        enum kith_err err = section(writer, SEGMENT_PAYLOADS, NULL, 0, diag);
        if (err != KITH_OK)
            return err;
    }
    writer->ids[row] = *point->id;
    writer->min_seq = point->seq < writer->min_seq ? point->seq : writer->min_seq;
    writer->max_seq = point->seq > writer->max_seq ? point->seq : writer->max_seq;
    writer->seqs[row] = point->seq;
    kith_store_u64((uint8_t *)&writer->spots[row], segment_format_spot(&spot));
    kith_buf_append(&writer->raw, point->payload.data, point->payload.len);
    if (writer->raw.failed)
        return kith_fail(diag, KITH_NOMEM, "segment of %u rows", writer->options.n_rows);
    if (writer->raw.len >= SEGMENT_PAYLOAD_BLOCK) {
        enum kith_err err = close_block(writer, diag);
        if (err != KITH_OK)
            return err;
    }
    return column_builder_add(writer->columns, row, point->payload, diag);
}

static int by_id(const void *a, const void *b, void *ids)
{
    const struct kith_id *table = ids;
    uint32_t x, y;
    memcpy(&x, a, 4);
    memcpy(&y, b, 4);
    return kith_id_compare(&table[x], &table[y]);
}

/* The hash table at most two thirds full, and the order of the ids. */
static enum kith_err id_sections(struct segment_writer *writer, struct kith_diag *diag)
{
    uint32_t n = writer->options.n_rows;
    uint32_t slots = 16;
    while ((uint64_t)slots * 2 < (uint64_t)n * 3)
        slots *= 2;
    enum kith_err err = KITH_OK;
    uint32_t *table = kith_alloc((size_t)slots * 4);
    uint32_t *order = kith_alloc((size_t)n * 4);
    if (table == NULL || order == NULL) {
        err = kith_fail(diag, KITH_NOMEM, "id table of %u rows", n);
        goto out;
    }
    for (uint32_t row = 0; row < n; row++) {
        uint32_t at = (uint32_t)(kith_id_hash(&writer->ids[row]) >> 32) & (slots - 1);
        while (table[at] != 0)
            at = (at + 1) & (slots - 1);
        table[at] = row + 1;
        order[row] = row;
    }
    qsort_r(order, n, sizeof *order, by_id, writer->ids);
    err = section(writer, SEGMENT_ID_TABLE, table, (size_t)slots * 4, diag);
    if (err == KITH_OK)
        err = section(writer, SEGMENT_ID_ORDER, order, (size_t)n * 4, diag);
    if (err == KITH_OK)
        err = section(writer, SEGMENT_IDS, writer->ids,
                      (size_t)n * segment_names_pack_ids(writer->ids, n), diag);
out:
    kith_free(table);
    kith_free(order);
    return err;
}

static enum kith_err body_sections(struct segment_writer *writer, struct kith_diag *diag)
{
    uint32_t n = writer->rows;
    enum kith_err err = close_block(writer, diag);
    if (err == KITH_OK)
        err = id_sections(writer, diag);
    size_t seq_bytes = segment_names_pack_seqs(writer->seqs, n, writer->min_seq, writer->max_seq);
    if (err == KITH_OK)
        err = section(writer, SEGMENT_SEQS, writer->seqs, n * seq_bytes, diag);
    if (err == KITH_OK) {
        kith_buf_reset(&writer->raw);
        err = column_builder_finish(writer->columns, n, &writer->raw, diag);
    }
    if (err == KITH_OK && writer->raw.failed)
        err = kith_fail(diag, KITH_NOMEM, "columns");
    if (err == KITH_OK)
        err = section(writer, SEGMENT_COLUMNS, writer->raw.data, writer->raw.len, diag);
    if (err == KITH_OK && writer->blocks.len > 0) /* else there is no payload */
        err = section(writer, SEGMENT_PAYLOAD_INDEX, writer->spots, (size_t)n * 8, diag);
    if (err == KITH_OK && writer->blocks.failed)
        err = kith_fail(diag, KITH_NOMEM, "payload blocks");
    if (err == KITH_OK)
        err = section(writer, SEGMENT_BLOCKS, writer->blocks.data, writer->blocks.len, diag);
    return err == KITH_OK ? pad(writer, diag) : err;
}

static void header_encode(const struct segment_writer *writer, uint64_t body_bytes, uint8_t *page)
{
    const struct slice_config *config = writer->options.config;
    memset(page, 0, SEGMENT_HEADER_BYTES);
    kith_store_u64(page, SEGMENT_MAGIC);
    kith_store_u32(page + 8, SEGMENT_VERSION);
    kith_store_u32(page + 12, SEGMENT_SECTIONS);
    kith_store_u64(page + 16, writer->options.number);
    kith_store_u64(page + 24, config->collection);
    kith_store_u32(page + 32, config->slice);
    kith_store_u32(page + 36, config->dim);
    kith_store_u32(page + 40, (uint32_t)config->metric);
    kith_store_u32(page + 44, (uint32_t)config->rows);
    kith_store_u32(page + 48, writer->rows);
    kith_store_u64(page + 56, body_bytes);
    kith_store_u64(page + SEGMENT_MIN_SEQ, writer->min_seq);
    kith_store_u64(page + 72, writer->max_seq);
    for (unsigned i = 0; i < SEGMENT_SECTIONS; i++) {
        uint8_t *entry = page + SEGMENT_TABLE + (size_t)i * SEGMENT_ENTRY_BYTES;
        kith_store_u32(entry, i);
        uint64_t offset = writer->sections[i].offset; /* 0: never begun, no bytes */
        kith_store_u64(entry + 8, offset == 0 ? SEGMENT_HEADER_BYTES : offset);
        kith_store_u64(entry + 16, writer->sections[i].bytes);
    }
    kith_store_u32(page + SEGMENT_HEADER_CRC, kith_crc32c(0, page, SEGMENT_HEADER_CRC));
}

/* The header page into block 0, block 0's CRC into the table, both to disk. */
static enum kith_err finish_header(struct segment_writer *writer, uint64_t body_bytes,
                                   struct kith_diag *diag)
{
    struct io *io = writer->options.io;
    size_t first_bytes = body_bytes < KITH_SEGMENT_BLOCK ? (size_t)body_bytes : KITH_SEGMENT_BLOCK;
    header_encode(writer, body_bytes, writer->first);
    kith_store_u32(writer->crcs.data,
                   segment_format_block_crc(writer->first, first_bytes, writer->options.number, 0));
    uint8_t crc[4];
    kith_store_u32(crc, segment_format_block_crc(writer->crcs.data, writer->crcs.len,
                                                 writer->options.number, UINT64_MAX));
    kith_buf_append(&writer->crcs, crc, sizeof crc);
    if (writer->crcs.failed)
        return kith_fail(diag, KITH_NOMEM, "segment checksums");
    uint64_t total = body_bytes + writer->crcs.len;
    enum kith_err err = KITH_OK;
    if (total > writer->allocated)
        err = io->allocate(io->self, writer->file, total, diag);
    if (err == KITH_OK)
        err = io->write(io->self, writer->file, body_bytes, writer->crcs.data, writer->crcs.len,
                        diag);
    if (err == KITH_OK)
        err = io->write(io->self, writer->file, 0, writer->first, SEGMENT_HEADER_BYTES, diag);
    if (err == KITH_OK)
        err = io->truncate(io->self, writer->file, total, diag);
    return err;
}

uint64_t segment_writer_bytes(const struct segment_writer *writer)
{
    return writer->at + writer->crcs.len;
}

enum kith_err segment_writer_finish(struct segment_writer *writer, struct kith_diag *diag)
{
    kith_assert(writer->points == writer->options.n_rows);
    struct io *io = writer->options.io;
    enum kith_err err = body_sections(writer, diag);
    uint64_t body_bytes = writer->at;
    if (err == KITH_OK && writer->fill > 0)
        err = flush(writer, diag);
    if (err == KITH_OK)
        err = finish_header(writer, body_bytes, diag);
    if (err == KITH_OK)
        err = io->sync(io->self, writer->file, diag);
    if (err == KITH_OK)
        err = io->rename(io->self, writer->temporary, writer->path, diag);
    if (err == KITH_OK) {
        writer->renamed = true;
        err = io->sync_dir(io->self, writer->options.dir, diag);
    }
    if (err != KITH_OK)
        kith_diag_prefix(diag, "%s", writer->path);
    return err;
}
