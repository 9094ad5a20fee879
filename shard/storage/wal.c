#include "shard/storage/wal.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <sys/random.h>

#include "common/kith_clock.h"
#include "common/kith_mem.h"
#include "proto/kith_crc32c.h"
#include "proto/kith_limits.h"
#include "proto/kith_wire.h"

/* A record, little endian, at a multiple of 8:
 *
 *    0 u32 magic        8 u32 prev_crc     16 u32 kind       24 u64 seq
 *    4 u32 crc         12 u32 body_bytes   20 u32 zero       32 u64 synced_to
 *   40 body, zeros to a multiple of 8
 *
 * crc covers all from prev_crc on, seeded with the CRC of the file's header (which holds the file's
 * number, the slice and a random salt) and with the record's offset. So a record is valid only in
 * its file, at its place, behind its predecessor; bytes of a user's payload cannot pass for one.
 *
 * Torn or damaged? A group is one write and one sync, and a power loss may keep any of its sectors:
 * a good record may stand behind a torn one of the same group, and neither was acknowledged. Each
 * record says up to where the file was synced when it was written (synced_to: the begin of its
 * group). If a good record says so of bytes that are bad, they were good once: that is damage, and
 * the log is refused. If none does, it is a torn tail, and cut. The last group has no record to
 * vouch for it; each checkpoint, and so each clean close, has the manifest do it. What remains: the
 * last group written before a crash, if damaged at rest, is taken for torn.
 *
 * What lost: cutting at the first bad byte (a flipped bit in the middle would silently drop
 * acknowledged writes); refusing on any good record behind bad bytes (would refuse honest power
 * losses); a commit-mark file (a second sync per group). */

#define MAGIC        0x4352574bu           /* "KWRC" */
#define HEADER_MAGIC 0x314c41574854494bull /* "KITHWAL1" */
#define HEADER_USED  80u
#define BUF_KEEP_MAX (16u << 20)

_Static_assert(WAL_RECORD_BYTES % WAL_ALIGN == 0 && WAL_HEADER_BYTES % WAL_ALIGN == 0, "aligned");

struct wal {
    struct wal_options options;
    struct io_file *file;
    struct wal_header header;
    struct kith_buf buf; /* records not yet committed */
    uint64_t end;        /* of the committed records */
    uint64_t allocated;
    uint32_t committed_crc, last_crc; /* of the last record committed, collected */
    size_t record_at;                 /* begin of the open record in buf */
};

void wal_path(char *path, size_t cap, const char *dir, uint64_t number)
{
    (void)snprintf(path, cap, "%s/wal-%016" PRIx64, dir, number);
}

void wal_header_encode(uint8_t page[WAL_HEADER_BYTES], struct wal_header *header,
                       const struct slice_config *config)
{
    memset(page, 0, WAL_HEADER_BYTES);
    kith_store_u64(page, HEADER_MAGIC);
    kith_store_u32(page + 8, 1); /* version */
    kith_store_u32(page + 12, WAL_HEADER_BYTES);
    kith_store_u64(page + 16, header->number);
    kith_store_u64(page + 24, header->salt);
    kith_store_u64(page + 32, config->collection);
    kith_store_u32(page + 40, config->slice);
    kith_store_u32(page + 44, header->prev_crc);
    kith_store_u64(page + 48, header->prev_end);
    header->crc = kith_crc32c(0, page, HEADER_USED);
    kith_store_u32(page + HEADER_USED, header->crc);
}

enum kith_err wal_header_decode(const uint8_t page[WAL_HEADER_BYTES],
                                const struct slice_config *config, struct wal_header *out,
                                struct kith_diag *diag)
{
    uint32_t crc = kith_load_u32(page + HEADER_USED);
    if (crc != kith_crc32c(0, page, HEADER_USED) || kith_load_u64(page) != HEADER_MAGIC)
        return kith_fail(diag, KITH_CORRUPT, "the header fails its checksum");
    if (kith_load_u32(page + 8) != 1 || kith_load_u32(page + 12) != WAL_HEADER_BYTES)
        return kith_fail(diag, KITH_CORRUPT, "version %u of the log is not known here",
                         kith_load_u32(page + 8));
    if (kith_load_u64(page + 32) != config->collection || kith_load_u32(page + 40) != config->slice)
        return kith_fail(diag, KITH_CORRUPT, "belongs to another slice");
    out->number = kith_load_u64(page + 16);
    out->salt = kith_load_u64(page + 24);
    out->prev_crc = kith_load_u32(page + 44);
    out->prev_end = kith_load_u64(page + 48);
    out->crc = crc;
    return KITH_OK;
}

uint32_t wal_record_crc(uint32_t seed, uint64_t offset, const uint8_t *record, size_t bytes)
{
    uint8_t place[8];
    kith_store_u64(place, offset);
    return kith_crc32c(kith_crc32c(seed, place, sizeof place), record + 8, bytes - 8);
}

static uint64_t random_salt(uint64_t number)
{
    uint64_t salt = 0;
    if (getrandom(&salt, sizeof salt, GRND_NONBLOCK) != (ssize_t)sizeof salt)
        salt = kith_now_ns() * 0x9e3779b97f4a7c15ull ^ number;
    return salt;
}

static enum kith_err wal_new(struct wal **out, const struct wal_options *options,
                             struct kith_diag *diag)
{
    struct wal *wal = kith_alloc(sizeof *wal);
    if (wal == NULL)
        return kith_fail(diag, KITH_NOMEM, "log");
    wal->options = *options;
    kith_assert(options->step_bytes > 0);
    *out = wal;
    return KITH_OK;
}

enum kith_err wal_create(struct wal **out, const struct wal_options *options, uint64_t number,
                         const struct wal *prev, struct kith_diag *diag)
{
    struct io *io = options->io;
    char path[512];
    wal_path(path, sizeof path, options->dir, number);
    struct wal *wal = NULL;
    uint8_t *page = NULL;
    bool created = false;
    enum kith_err err = wal_new(&wal, options, diag);
    if (err != KITH_OK)
        goto out;
    wal->header = (struct wal_header){.number = number, .salt = random_salt(number)};
    if (prev != NULL) {
        kith_assert(prev->buf.len == 0);
        wal->header.prev_end = prev->end;
        wal->header.prev_crc = prev->committed_crc;
    }
    page = kith_alloc(WAL_HEADER_BYTES);
    if (page == NULL) {
        err = kith_fail(diag, KITH_NOMEM, "log header");
        goto out;
    }
    wal_header_encode(page, &wal->header, options->config);
    wal->end = WAL_HEADER_BYTES;
    wal->committed_crc = wal->last_crc = wal->header.crc;
    wal->allocated = WAL_HEADER_BYTES + options->step_bytes;
    /* A file of an earlier attempt that could not be finished holds no records. */
    err = io->unlink(io->self, path, NULL);
    if (err != KITH_OK && err != KITH_NOT_FOUND) {
        (void)kith_fail(diag, err, "unlink %s", path);
        goto out;
    }
    err = io->open(io->self, path, IO_CREATE_NEW, &wal->file, diag);
    if (err != KITH_OK)
        goto out;
    created = true;
    if ((err = io->allocate(io->self, wal->file, wal->allocated, diag)) != KITH_OK ||
        (err = io->write(io->self, wal->file, 0, page, WAL_HEADER_BYTES, diag)) != KITH_OK ||
        (err = io->sync(io->self, wal->file, diag)) != KITH_OK ||
        (err = io->sync_dir(io->self, options->dir, diag)) != KITH_OK)
        goto out;
    *out = wal;
    wal = NULL;
out:
    if (err != KITH_OK)
        kith_diag_prefix(diag, "%s", path);
    wal_close(wal);
    if (err != KITH_OK && created)
        (void)io->unlink(io->self, path, NULL);
    kith_free(page);
    return err;
}

enum kith_err wal_resume(struct wal **out, const struct wal_options *options,
                         const struct wal_header *header, uint64_t end, uint32_t last_crc,
                         struct kith_diag *diag)
{
    struct io *io = options->io;
    char path[512];
    wal_path(path, sizeof path, options->dir, header->number);
    struct wal *wal = NULL;
    enum kith_err err = wal_new(&wal, options, diag);
    if (err != KITH_OK)
        return err;
    wal->header = *header;
    wal->end = wal->allocated = end;
    wal->committed_crc = wal->last_crc = last_crc;
    err = io->open(io->self, path, IO_WRITE, &wal->file, diag);
    /* The sync also covers records that a killed process wrote and did not sync: they are replayed
     * now, so they must last. */
    if (err == KITH_OK)
        err = io->truncate(io->self, wal->file, end, diag);
    if (err == KITH_OK)
        err = io->sync(io->self, wal->file, diag);
    if (err != KITH_OK) {
        kith_diag_prefix(diag, "%s", path);
        wal_close(wal);
        return err;
    }
    *out = wal;
    return KITH_OK;
}

void wal_close(struct wal *wal)
{
    if (wal == NULL)
        return;
    wal->options.io->close(wal->options.io->self, wal->file);
    kith_buf_fini(&wal->buf);
    kith_free(wal);
}

uint64_t wal_number(const struct wal *wal)
{
    return wal->header.number;
}

uint64_t wal_bytes(const struct wal *wal)
{
    return wal->end + wal->buf.len;
}

bool wal_is_empty(const struct wal *wal)
{
    return wal->buf.len == 0;
}

void wal_begin(struct wal *wal)
{
    static const uint8_t empty[WAL_RECORD_BYTES];
    wal->record_at = wal->buf.len;
    kith_buf_append(&wal->buf, empty, sizeof empty);
}

struct kith_buf *wal_body(struct wal *wal)
{
    return &wal->buf;
}

void wal_drop(struct wal *wal)
{
    wal->buf.len = wal->record_at;
    wal->buf.failed = false;
}

/* Space is taken before it is needed: a write into space that is ours cannot fail for want of it.
 */
static enum kith_err ensure_space(struct wal *wal, struct kith_diag *diag)
{
    uint64_t need = wal->end + wal->buf.len;
    if (need <= wal->allocated)
        return KITH_OK;
    struct io *io = wal->options.io;
    uint64_t want = need + wal->options.step_bytes;
    enum kith_err err = io->allocate(io->self, wal->file, want, diag);
    if (err == KITH_OK)
        wal->allocated = want;
    return err;
}

enum kith_err wal_end(struct wal *wal, enum wal_kind kind, uint64_t seq, struct kith_diag *diag)
{
    static const uint8_t zeros[WAL_ALIGN];
    struct kith_buf *buf = &wal->buf;
    size_t bytes = buf->len - wal->record_at;
    if (!buf->failed && bytes > KITH_WAL_RECORD_MAX) {
        wal_drop(wal);
        return kith_fail(diag, KITH_TOO_BIG, "the write takes more than %u bytes of log",
                         KITH_WAL_RECORD_MAX);
    }
    kith_buf_append(buf, zeros, (WAL_ALIGN - bytes % WAL_ALIGN) % WAL_ALIGN);
    if (buf->failed) {
        wal_drop(wal);
        return kith_fail(diag, KITH_NOMEM, "log buffer");
    }
    enum kith_err err = ensure_space(wal, diag);
    if (err != KITH_OK) {
        wal_drop(wal);
        return err;
    }
    uint8_t *record = buf->data + wal->record_at;
    kith_store_u32(record, MAGIC);
    kith_store_u32(record + 8, wal->last_crc);
    kith_store_u32(record + 12, (uint32_t)(bytes - WAL_RECORD_BYTES));
    kith_store_u32(record + 16, (uint32_t)kind);
    kith_store_u64(record + 24, seq);
    kith_store_u64(record + 32, wal->end);
    wal->last_crc = wal_record_crc(wal->header.crc, wal->end + wal->record_at, record,
                                   buf->len - wal->record_at);
    kith_store_u32(record + 4, wal->last_crc);
    return KITH_OK;
}

static enum kith_err sync_group(struct wal *wal, struct kith_diag *diag)
{
#ifdef KITH_BUG_NO_FSYNC
    (void)wal;
    (void)diag;
    return KITH_OK;
#else
    return wal->options.io->sync(wal->options.io->self, wal->file, diag);
#endif
}

/* A file system may still refuse a write into allocated space (copy on write). Nothing of the group
 * may then come back after a crash: cut it off durably before anybody hears of the failure. */
static enum kith_err take_back(struct wal *wal, struct kith_diag *diag)
{
    struct io *io = wal->options.io;
    wal->allocated = wal->end;
    enum kith_err err = io->truncate(io->self, wal->file, wal->end, diag);
    if (err == KITH_OK)
        err = io->sync(io->self, wal->file, diag);
    if (err == KITH_DISK_FULL)
        err = KITH_IO; /* not taken back: final */
    return err;
}

void wal_abandon(struct wal *wal)
{
    wal->last_crc = wal->committed_crc;
    wal->buf.len = 0;
    wal->buf.failed = false;
}

enum kith_err wal_commit(struct wal *wal, struct kith_diag *diag)
{
    struct io *io = wal->options.io;
    struct kith_buf *buf = &wal->buf;
    if (buf->len == 0)
        return KITH_OK;
    enum kith_err err = io->write(io->self, wal->file, wal->end, buf->data, buf->len, diag);
    if (err == KITH_DISK_FULL) {
        enum kith_err undo = take_back(wal, diag);
        wal_abandon(wal);
        return undo == KITH_OK ? KITH_DISK_FULL : undo;
    }
    if (err == KITH_OK)
        err = sync_group(wal, diag);
    if (err == KITH_DISK_FULL)
        err = KITH_IO;
    if (err == KITH_OK) {
        wal->end += buf->len;
        wal->committed_crc = wal->last_crc;
    }
    buf->len = 0;
    if (buf->cap > BUF_KEEP_MAX)
        kith_buf_fini(buf);
    return err;
}
