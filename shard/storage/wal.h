/* The write-ahead log of a slice: numbered files of chained, checksummed records.
 *
 * Records are collected in memory and made durable together: wal_commit is one write and one sync.
 * Owns: the open file and the buffer. Borrows: io, dir. Threads: one owner.
 * Errors: KITH_DISK_FULL from wal_end: that record is not in; from wal_commit: none of the group
 * is, on disk neither, and the log goes on. Anything else from wal_commit is final: nobody knows
 * what the disk holds, and the owner must not acknowledge again before the log was opened anew. */
#ifndef WAL_H
#define WAL_H

#include "common/kith_buf.h"
#include "shard/storage/io.h"
#include "shard/storage/slice_config.h"

/* Layout, little endian; docs/STORAGE.md has the reasons. */
#define WAL_HEADER_BYTES 4096u
#define WAL_RECORD_BYTES 40u
#define WAL_ALIGN        8u

/* Disk values: never renumber. */
enum wal_kind {
    WAL_WRITE = 1, /* one write: shard/storage/write_record.h */
};

struct wal_header {
    uint64_t number, salt;
    uint64_t prev_end; /* where the previous file ends; 0 in the first file */
    uint32_t prev_crc; /* of its last record */
    uint32_t crc;      /* of this header: the seed of every record's CRC */
};

struct wal_record {
    enum wal_kind kind;
    uint64_t seq;
    uint64_t offset, end; /* in the file */
    uint32_t crc;
    const uint8_t *body; /* borrowed until the next read */
    size_t body_bytes;
};

struct wal;

struct wal_options {
    struct io *io;
    const char *dir;
    const struct slice_config *config;
    uint64_t step_bytes; /* files grow by so much at a time, ahead of need */
};

/* A new file `number` that follows `prev` (NULL: the first), durable with its directory entry. */
enum kith_err wal_create(struct wal **out, const struct wal_options *options, uint64_t number,
                         const struct wal *prev, struct kith_diag *diag);
/* Goes on behind the last good record of a file that wal_reader read: cuts the rest, syncs. */
enum kith_err wal_resume(struct wal **out, const struct wal_options *options,
                         const struct wal_header *header, uint64_t end, uint32_t last_crc,
                         struct kith_diag *diag);
void wal_close(struct wal *wal); /* drops what was not committed; NULL allowed */

uint64_t wal_number(const struct wal *wal);
uint64_t wal_bytes(const struct wal *wal); /* committed and collected */
bool wal_is_empty(const struct wal *wal);  /* nothing collected */

/* A record: wal_begin, append its body to *wal_body, wal_end. */
void wal_begin(struct wal *wal);
struct kith_buf *wal_body(struct wal *wal);
enum kith_err wal_end(struct wal *wal, enum wal_kind kind, uint64_t seq,
                      struct kith_diag *diag); /* KITH_TOO_BIG, NOMEM, DISK_FULL: dropped */
void wal_drop(struct wal *wal);                /* instead of wal_end */

enum kith_err wal_commit(struct wal *wal, struct kith_diag *diag);
void wal_abandon(struct wal *wal); /* instead of wal_commit: forgets the group */

/* For the reader and for tests. */
void wal_path(char *path, size_t cap, const char *dir, uint64_t number);
void wal_header_encode(uint8_t page[WAL_HEADER_BYTES], struct wal_header *header,
                       const struct slice_config *config);
enum kith_err wal_header_decode(const uint8_t page[WAL_HEADER_BYTES],
                                const struct slice_config *config, struct wal_header *out,
                                struct kith_diag *diag);
/* CRC of a record: its bytes from `prev_crc` on, at its place in its file. */
uint32_t wal_record_crc(uint32_t seed, uint64_t offset, const uint8_t *record, size_t bytes);

#endif
