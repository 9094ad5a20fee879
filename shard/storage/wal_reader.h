/* Reads one file of the log back, and tells a torn tail from damage (wal.c has the rule).
 *
 * Owns: the open file and a buffer for one record. Borrows: io. Threads: one owner.
 * Errors: KITH_CORRUPT names file and offset; never more memory than KITH_WAL_RECORD_MAX. */
#ifndef WAL_READER_H
#define WAL_READER_H

#include "shard/storage/wal.h"

struct wal_reader;

/* KITH_NOT_FOUND: no such file. *unfinished: a power loss interrupted its creation; it holds
 * nothing, and *out stays NULL. */
enum kith_err wal_reader_open(struct wal_reader **out, const struct wal_options *options,
                              uint64_t number, bool *unfinished, struct kith_diag *diag);
void wal_reader_close(struct wal_reader *reader);
const struct wal_header *wal_reader_header(const struct wal_reader *reader);

/* The next record; *got = false at the end of the good ones: the reader stands at the end then. */
enum kith_err wal_reader_next(struct wal_reader *reader, struct wal_record *out, bool *got,
                              struct kith_diag *diag);
uint64_t wal_reader_end(const struct wal_reader *reader); /* of the records read so far */
uint32_t wal_reader_last_crc(const struct wal_reader *reader);
/* After the last record: KITH_CORRUPT when anything behind it proves that more was synced once. */
enum kith_err wal_reader_check_tail(struct wal_reader *reader, struct kith_diag *diag);

#endif
