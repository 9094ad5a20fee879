/* Writes one segment file, front to back, in one stream.
 *
 *   segment_writer_new; n_rows times _row; n_rows times _point in the same order; _finish; _free.
 *
 * Nothing has the segment's name before _finish: the file is written under a temporary one, synced,
 * renamed, and the folder synced. Owns: the temporary file; _free of an unfinished writer removes
 * it. Borrows: io, dir. Threads: one owner. Errors: KITH_DISK_FULL, KITH_IO, KITH_NOMEM; after one,
 * only _free. Limits: SEGMENT_ROWS_MAX rows. Memory: about 50 bytes per row beside the columns. */
#ifndef SEGMENT_WRITER_H
#define SEGMENT_WRITER_H

#include "shard/storage/io.h"
#include "shard/storage/slice_config.h"
#include "proto/kith_wire.h"

struct segment_writer;

struct segment_writer_options {
    struct io *io;
    const char *dir;
    const struct slice_config *config;
    uint64_t number;
    uint32_t n_rows; /* at least 1 */
};

void segment_writer_path(char *path, size_t cap, const char *dir, uint64_t number);

enum kith_err segment_writer_new(struct segment_writer **out,
                                 const struct segment_writer_options *options,
                                 struct kith_diag *diag);
enum kith_err segment_writer_row(struct segment_writer *writer, const void *row,
                                 struct kith_diag *diag);
enum kith_err segment_writer_point(struct segment_writer *writer, const struct kith_id *id,
                                   uint64_t seq, struct kith_bytes payload, struct kith_diag *diag);
enum kith_err segment_writer_finish(struct segment_writer *writer, struct kith_diag *diag);
void segment_writer_free(struct segment_writer *writer); /* NULL allowed */

#endif
