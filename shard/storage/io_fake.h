/* A disk in memory for tests: it remembers what was synced, can lose the rest, and can fail.
 *
 * Model of a crash: of each file, the synced bytes are certain; of the changes since (writes, cuts,
 * growth) each is kept, dropped, or for a write cut at a multiple of 512 bytes. Of each folder, the
 * entries at its last sync are certain; of the changes since (creations, renames, removals) each is
 * kept or undone by itself. Kept changes happen in the order they were made: a disk may skip a
 * write, but does not put an older one over a newer one at the same place. Syncing a file says
 * nothing about its name. A failed sync loses the file's unsynced changes for good, though reads
 * go on showing them, as Linux does it.
 *
 * Owns: everything. Threads: any (one lock). Errors: as asked for by io_fake_fail. */
#ifndef IO_FAKE_H
#define IO_FAKE_H

#include "shard/storage/io.h"

enum io_fake_call {
    IO_FAKE_ANY,
    IO_FAKE_SYNC, /* sync and sync_dir */
    IO_FAKE_SPACE /* what can need space: open to create, allocate, write, rename, make_dir */
};

enum kith_err io_fake_new(struct io **out, struct kith_diag *diag);
void io_fake_free(struct io *io); /* all files closed; NULL allowed */

/* What a power loss now would leave, as a new disk. The same seed gives the same image. */
enum kith_err io_fake_crash(struct io *io, uint64_t seed, struct io **out, struct kith_diag *diag);

/* Takes the image just before the n-th call from now that changes something (0: the next), with
 * `seed`; the workload goes on. on_image is called on the thread of that call, without a lock: with
 * NULL before the image is taken, then with the image, which it owns from then on. */
typedef void (*io_fake_image_fn)(void *ctx, struct io *image);
void io_fake_crash_at(struct io *io, uint64_t n, uint64_t seed, io_fake_image_fn on_image,
                      void *ctx);

/* The n-th call of that kind from now fails with err; with `for_ever` all later ones, too. */
void io_fake_fail(struct io *io, enum io_fake_call call, uint64_t n, enum kith_err err,
                  bool for_ever);
void io_fake_heal(struct io *io);                              /* no more failures asked for */
uint64_t io_fake_calls(struct io *io, enum io_fake_call call); /* so far */

/* Bits at rest: the current and synced bytes of a file, to be changed. False: no such file. */
bool io_fake_peek(struct io *io, const char *path, uint8_t **bytes, uint64_t *len);
/* A file with this content, synced, name and all. */
enum kith_err io_fake_put(struct io *io, const char *path, const void *data, uint64_t len);

#endif
