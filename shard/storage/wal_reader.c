#include "shard/storage/wal_reader.h"

#include <inttypes.h>
#include <string.h>

#include "common/kith_mem.h"
#include "proto/kith_limits.h"
#include "proto/kith_wire.h"

#define MAGIC        0x4352574bu
#define WINDOW_BYTES (256u * 1024)

struct wal_reader {
    struct io *io;
    struct io_file *file;
    struct wal_header header;
    uint64_t number, size, end, last_seq;
    uint32_t last_crc;
    uint8_t *window; /* bytes [window_at, window_at + window_len) of the file */
    uint64_t window_at;
    size_t window_len, window_cap;
};

static size_t padded(size_t bytes)
{
    return (bytes + WAL_ALIGN - 1) & ~(size_t)(WAL_ALIGN - 1);
}

/* Bytes [at, at + len), borrowed until the next call. The caller has checked them against size. */
static enum kith_err look(struct wal_reader *reader, uint64_t at, size_t len, const uint8_t **out,
                          struct kith_diag *diag)
{
    if (at < reader->window_at || at + len > reader->window_at + reader->window_len) {
        size_t want = len > WINDOW_BYTES ? len : WINDOW_BYTES;
        if (want > reader->size - at)
            want = (size_t)(reader->size - at);
        if (want > reader->window_cap) {
            uint8_t *grown = kith_realloc(reader->window, want);
            if (grown == NULL)
                return kith_fail(diag, KITH_NOMEM, "log record of %zu bytes", len);
            reader->window = grown;
            reader->window_cap = want;
        }
        reader->window_len = 0;
        enum kith_err err =
            reader->io->read(reader->io->self, reader->file, at, reader->window, want, diag);
        if (err != KITH_OK)
            return err;
        reader->window_at = at;
        reader->window_len = want;
    }
    *out = reader->window + (at - reader->window_at);
    return KITH_OK;
}

static enum kith_err all_zero(struct wal_reader *reader, uint64_t from, bool *zero,
                              struct kith_diag *diag)
{
    for (uint64_t at = from; at < reader->size;) {
        size_t len = reader->size - at < WINDOW_BYTES ? (size_t)(reader->size - at) : WINDOW_BYTES;
        const uint8_t *bytes = NULL;
        enum kith_err err = look(reader, at, len, &bytes, diag);
        if (err != KITH_OK)
            return err;
        for (size_t i = 0; i < len; i++)
            if (bytes[i] != 0) {
                *zero = false;
                return KITH_OK;
            }
        at += len;
    }
    *zero = true;
    return KITH_OK;
}

static enum kith_err read_header(struct wal_reader *reader, const struct slice_config *config,
                                 bool *unfinished, struct kith_diag *diag)
{
    enum kith_err err = reader->io->size(reader->io->self, reader->file, &reader->size, diag);
    if (err != KITH_OK)
        return err;
    if (reader->size < WAL_HEADER_BYTES) {
        *unfinished = true;
        return KITH_OK;
    }
    const uint8_t *page = NULL;
    err = look(reader, 0, WAL_HEADER_BYTES, &page, diag);
    if (err != KITH_OK)
        return err;
    err = wal_header_decode(page, config, &reader->header, diag);
    if (err == KITH_OK && reader->header.number != reader->number)
        err = kith_fail(diag, KITH_CORRUPT, "holds log file %" PRIu64, reader->header.number);
    if (err != KITH_CORRUPT)
        return err;
    /* Records come only after the header was synced: a bad header before nothing is a creation that
     * a power loss cut short, before anything else it is damage. */
    bool zero = false;
    enum kith_err look_err = all_zero(reader, WAL_HEADER_BYTES, &zero, diag);
    if (look_err != KITH_OK)
        return look_err;
    *unfinished = zero;
    return zero ? KITH_OK : err;
}

enum kith_err wal_reader_open(struct wal_reader **out, const struct wal_options *options,
                              uint64_t number, bool *unfinished, struct kith_diag *diag)
{
    char path[512];
    wal_path(path, sizeof path, options->dir, number);
    struct wal_reader *reader = kith_alloc(sizeof *reader);
    if (reader == NULL)
        return kith_fail(diag, KITH_NOMEM, "log reader");
    reader->io = options->io;
    reader->number = number;
    *unfinished = false;
    enum kith_err err = options->io->open(options->io->self, path, IO_READ, &reader->file, diag);
    if (err == KITH_OK)
        err = read_header(reader, options->config, unfinished, diag);
    if (err != KITH_OK)
        kith_diag_prefix(diag, "%s", path);
    if (err != KITH_OK || *unfinished) {
        wal_reader_close(reader);
        return err;
    }
    reader->end = WAL_HEADER_BYTES;
    reader->last_crc = reader->header.crc;
    *out = reader;
    return KITH_OK;
}

void wal_reader_close(struct wal_reader *reader)
{
    if (reader == NULL)
        return;
    reader->io->close(reader->io->self, reader->file);
    kith_free(reader->window);
    kith_free(reader);
}

const struct wal_header *wal_reader_header(const struct wal_reader *reader)
{
    return &reader->header;
}

uint64_t wal_reader_end(const struct wal_reader *reader)
{
    return reader->end;
}

uint32_t wal_reader_last_crc(const struct wal_reader *reader)
{
    return reader->last_crc;
}

struct raw_record {
    const uint8_t *bytes; /* the whole record */
    size_t len;
    uint32_t prev_crc, crc, kind;
    uint64_t seq, synced_to;
};

/* Whether a record that is whole and right by itself stands at `at`. */
static enum kith_err parse_at(struct wal_reader *reader, uint64_t at, struct raw_record *out,
                              bool *good, struct kith_diag *diag)
{
    *good = false;
    if (at > reader->size || reader->size - at < WAL_RECORD_BYTES)
        return KITH_OK;
    const uint8_t *head = NULL;
    enum kith_err err = look(reader, at, WAL_RECORD_BYTES, &head, diag);
    if (err != KITH_OK)
        return err;
    size_t body = kith_load_u32(head + 12);
    if (kith_load_u32(head) != MAGIC || body > KITH_WAL_RECORD_MAX)
        return KITH_OK;
    size_t len = padded(WAL_RECORD_BYTES + body);
    if (reader->size - at < len)
        return KITH_OK;
    const uint8_t *bytes = NULL;
    err = look(reader, at, len, &bytes, diag);
    if (err != KITH_OK)
        return err;
    *out = (struct raw_record){
        .bytes = bytes,
        .len = len,
        .crc = kith_load_u32(bytes + 4),
        .prev_crc = kith_load_u32(bytes + 8),
        .kind = kith_load_u32(bytes + 16),
        .seq = kith_load_u64(bytes + 24),
        .synced_to = kith_load_u64(bytes + 32),
    };
    *good = wal_record_crc(reader->header.crc, at, bytes, len) == out->crc;
    return KITH_OK;
}

enum kith_err wal_reader_next(struct wal_reader *reader, struct wal_record *out, bool *got,
                              struct kith_diag *diag)
{
    *got = false;
    struct raw_record raw;
    bool good = false;
    enum kith_err err = parse_at(reader, reader->end, &raw, &good, diag);
    if (err != KITH_OK || !good)
        return err;
    /* The checksum holds, so these can only differ if the file was put together by somebody. */
    if (raw.prev_crc != reader->last_crc || raw.seq < reader->last_seq ||
        raw.synced_to > reader->end || raw.kind != WAL_WRITE)
        return kith_fail(diag, KITH_CORRUPT,
                         "log file %" PRIu64 ": the record at offset %" PRIu64
                         " does not follow the one before it",
                         reader->number, reader->end);
    *out = (struct wal_record){
        .kind = (enum wal_kind)raw.kind,
        .seq = raw.seq,
        .offset = reader->end,
        .end = reader->end + raw.len,
        .crc = raw.crc,
        .body = raw.bytes + WAL_RECORD_BYTES,
        .body_bytes = kith_load_u32(raw.bytes + 12),
    };
    reader->end += raw.len;
    reader->last_crc = raw.crc;
    reader->last_seq = raw.seq;
    *got = true;
    return KITH_OK;
}

enum kith_err wal_reader_check_tail(struct wal_reader *reader, struct kith_diag *diag)
{
    uint64_t damage = reader->end;
    for (uint64_t at = damage; at + WAL_RECORD_BYTES <= reader->size; at += WAL_ALIGN) {
        const uint8_t *magic = NULL;
        enum kith_err err = look(reader, at, 4, &magic, diag);
        if (err != KITH_OK)
            return err;
        if (kith_load_u32(magic) != MAGIC)
            continue;
        struct raw_record raw;
        bool good = false;
        err = parse_at(reader, at, &raw, &good, diag);
        if (err != KITH_OK)
            return err;
        if (good && raw.synced_to > damage)
            return kith_fail(diag, KITH_CORRUPT,
                             "log file %" PRIu64 " is damaged at offset %" PRIu64
                             ": the record at %" PRIu64 " proves that more was written",
                             reader->number, damage, at);
    }
    return KITH_OK;
}
