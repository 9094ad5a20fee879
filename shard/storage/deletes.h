/* The rows of one segment that are gone: a counted, copy-on-write bitmap, and its file.
 *
 * A view and the writer share one; the writer copies it before changing it while anybody else holds
 * it. Owns: the bitmap. Threads: any may hold and read; only the writer changes one, and only one
 * that it holds alone. Errors: NULL or KITH_NOMEM; a file that fails any check is KITH_CORRUPT. */
#ifndef DELETES_H
#define DELETES_H

#include <stdatomic.h>

#include "shard/storage/bitmap.h"
#include "shard/storage/io.h"

struct deletes {
    atomic_uint refs; /* acq_rel on the last drop and on deletes_alone: a writer that finds itself
                         alone has seen every reader's use */
    uint32_t count;
    struct bitmap *set;
};

struct deletes *deletes_new(void) KITH_MUST_CHECK;
struct deletes *deletes_copy(const struct deletes *from) KITH_MUST_CHECK;
void deletes_ref(struct deletes *deletes);   /* NULL allowed */
void deletes_unref(struct deletes *deletes); /* NULL allowed */
bool deletes_alone(struct deletes *deletes);
bool deletes_has(const struct deletes *deletes, uint32_t row); /* NULL: none gone */
uint32_t deletes_count(const struct deletes *deletes);         /* NULL: 0 */

/* The file: synced; the caller syncs the folder. */
enum kith_err deletes_store(const struct deletes *deletes, struct io *io, const char *path,
                            uint64_t segment, uint32_t n_rows, struct kith_diag *diag);
enum kith_err deletes_load(struct deletes **out, struct io *io, const char *path, uint64_t segment,
                           uint32_t n_rows, struct kith_diag *diag);
/* Whether the file is what was written, whatever segment it belongs to; *bytes of it. */
enum kith_err deletes_check(struct io *io, const char *path, uint64_t *bytes,
                            struct kith_diag *diag);

#endif
