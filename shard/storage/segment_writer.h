/* Writes one segment file, front to back, in one stream.
 *
 *   segment_writer_new; n_rows times _row, in order; _index as often as wanted; each row once
 *   _point, in any order; _finish; _free.
 *
 * Payloads are stored in the order of the _point calls, whatever the rows' order: points that were
 * written together stay in one compressed block, and a merge reads every block once.
 *
 * Nothing has the segment's name before _finish: the file is written under a temporary one, synced,
 * renamed, and the folder synced. Owns: the temporary file; _free of an unfinished writer removes
 * it. Borrows: io, dir. Threads: one owner. Errors: KITH_DISK_FULL, KITH_IO, KITH_NOMEM; after one,
 * only _free. Limits: SEGMENT_ROWS_MAX rows. Memory: about 70 bytes per row beside the columns. */
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
/* Appends to section `kind` of the index; kinds ascending. A segment_emit_fn (segment_index.h). */
enum kith_err segment_writer_index(void *writer, unsigned kind, const void *data, size_t bytes,
                                   struct kith_diag *diag);
struct segment_point {
    const struct kith_id *id;
    uint64_t seq;
    struct kith_bytes payload;
};
enum kith_err segment_writer_point(struct segment_writer *writer, uint32_t row,
                                   const struct segment_point *point, struct kith_diag *diag);
/* What the finished file takes. */
uint64_t segment_writer_bytes(const struct segment_writer *writer);
enum kith_err segment_writer_finish(struct segment_writer *writer, struct kith_diag *diag);
void segment_writer_free(struct segment_writer *writer); /* NULL allowed */

#endif
