/* The manifest: the only root of a slice's files. What it does not name does not exist.
 *
 * Replaced as a whole: temporary name, sync, rename, sync of the folder. Owns: manifest_fini frees
 * the lists. Threads: a plain value. Errors: KITH_CORRUPT for any malformed byte, KITH_NOT_FOUND.
 */
#ifndef MANIFEST_H
#define MANIFEST_H

#include "shard/storage/io.h"
#include "shard/storage/op_window.h"
#include "shard/storage/slice_config.h"

struct manifest_segment {
    uint64_t number;
    uint64_t deletes; /* number of the file with its deleted rows; 0 = none */
};

struct manifest {
    struct slice_config config;
    uint64_t sealed_seq; /* segments and deletes hold every write up to this one */
    uint64_t first_wal;  /* replay starts with this file, with the first record above sealed_seq */
    uint64_t wal, wal_end; /* file `wal` of the log was synced up to wal_end at least */
    uint64_t next_file;    /* above every number of a segment or a deletes file named here */
    uint32_t n_segments;
    struct manifest_segment *segments; /* up to KITH_SEGMENTS_MAX */
    uint32_t n_ops;
    struct op_entry *ops; /* up to OP_WINDOW_MAX, oldest first */
};

void manifest_fini(struct manifest *manifest);
enum kith_err manifest_load(struct manifest *out, struct io *io, const char *dir,
                            struct kith_diag *diag);
enum kith_err manifest_store(const struct manifest *manifest, struct io *io, const char *dir,
                             struct kith_diag *diag);
/* The bytes alone; for manifest_load and the fuzzer. */
enum kith_err manifest_decode(struct manifest *out, const uint8_t *data, size_t len,
                              struct kith_diag *diag);
void manifest_path(char *path, size_t cap, const char *dir);

#endif
