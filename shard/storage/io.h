/* All disk work of a shard goes through this struct of functions, so that tests can own the disk.
 *
 * io_real_open() is the machine's; io_fake.h has one in memory that remembers which writes were
 * synced and can produce every image a power loss may leave. Paths are relative to the root the io
 * was opened on. Threads: any. Errors: KITH_IO with errno's text, KITH_DISK_FULL for ENOSPC/EDQUOT,
 * KITH_NOT_FOUND. After a failed sync nothing may be believed: callers must stop acknowledging. */
#ifndef IO_H
#define IO_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "proto/kith_err.h"

struct io_file; /* an open file */

enum io_open_mode {
    IO_READ,       /* must exist */
    IO_READ_DISK,  /* the same, past the page cache where the file system can: offsets and memory at
                      multiples of 4096, and memory has room up to the next one */
    IO_WRITE,      /* must exist; read and write */
    IO_CREATE_NEW, /* must not exist */
    IO_CREATE_STREAM, /* the same, for a large file written front to back: what is written goes to
                         disk at once, so that other files' syncs do not have to wait for much */
};

static inline bool io_creates(enum io_open_mode mode)
{
    return mode == IO_CREATE_NEW || mode == IO_CREATE_STREAM;
}

typedef void (*io_name_fn)(void *ctx, const char *name);

struct io {
    void *self;
    enum kith_err (*open)(void *self, const char *path, enum io_open_mode mode,
                          struct io_file **out, struct kith_diag *diag);
    void (*close)(void *self, struct io_file *file); /* NULL allowed */
    enum kith_err (*size)(void *self, struct io_file *file, uint64_t *bytes,
                          struct kith_diag *diag);
    /* The whole range or an error; past the end is KITH_CORRUPT. */
    enum kith_err (*read)(void *self, struct io_file *file, uint64_t offset, void *out, size_t len,
                          struct kith_diag *diag);
    enum kith_err (*write)(void *self, struct io_file *file, uint64_t offset, const void *data,
                           size_t len, struct kith_diag *diag);
    enum kith_err (*allocate)(void *self, struct io_file *file, uint64_t bytes,
                              struct kith_diag *diag); /* fallocate: space is ours, size grows */
    enum kith_err (*truncate)(void *self, struct io_file *file, uint64_t bytes,
                              struct kith_diag *diag);
    enum kith_err (*sync)(void *self, struct io_file *file, struct kith_diag *diag); /* fdatasync */
    enum kith_err (*map)(void *self, struct io_file *file, uint64_t len, const uint8_t **out,
                         struct kith_diag *diag); /* read-only */
    void (*unmap)(void *self, const uint8_t *map, uint64_t len);
    enum kith_err (*rename)(void *self, const char *from, const char *to,
                            struct kith_diag *diag); /* replaces `to` */
    enum kith_err (*unlink)(void *self, const char *path, struct kith_diag *diag);
    enum kith_err (*make_dir)(void *self, const char *path,
                              struct kith_diag *diag); /* existing: ok */
    enum kith_err (*remove_dir)(void *self, const char *path,
                                struct kith_diag *diag); /* must be empty */
    enum kith_err (*sync_dir)(void *self, const char *path, struct kith_diag *diag);
    enum kith_err (*list)(void *self, const char *path, io_name_fn on_name, void *ctx,
                          struct kith_diag *diag);
};

/* The real disk under `root` (created if missing; an flock on root/LOCK keeps a second process
 * out). */
enum kith_err io_real_open(struct io **out, const char *root, struct kith_diag *diag);
void io_real_close(struct io *io);

/* Keeps `bytes` (at most a sixteenth of the file system) back in root/RESERVE. On a full disk the
 * reserve is given to those who may use it; until it is whole again, everybody else is told
 * KITH_DISK_FULL as soon as they want space, so that what gives space back gets it. A disk that is
 * full already has no reserve until there is room: no error. */
enum kith_err io_real_reserve(struct io *io, uint64_t bytes, struct kith_diag *diag);
/* From now on this thread may use it: for work that gives space back in the end. Returns what was
 * before, to be put back. */
bool io_use_reserve(bool may);

#endif
