/* A store: one replica of one slice on disk - WAL, head, segments, manifest - and the only writer
 * of it.
 *
 * A write is appended to the WAL, made durable together with its neighbours (group commit: one
 * fdatasync), applied to the head, published in a new view, and only then acknowledged. Sealing and
 * merging run in the background.
 *
 * Owns: a writer thread, a background thread, and its files. Borrows: io, the select function.
 * Threads: any may call; write callbacks run on the writer thread and must not block.
 * Errors: a failed fdatasync makes the store fail for good (every later write: KITH_IO) until it is
 * opened again; a full disk refuses writes with KITH_DISK_FULL and recovers by itself. Reads go on
 * in both cases. */
#ifndef STORE_H
#define STORE_H

#include <stdbool.h>
#include <stdint.h>

#include "proto/kith_wire.h"
#include "shard/storage/io.h"
#include "shard/storage/slice_config.h"
#include "shard/storage/view.h"

struct store;

/* The ids of the live points of `view` that match the msgpack filter; handed in by the layer that
 * knows filters. Runs on the writer thread. */
typedef bool (*store_emit_fn)(void *ctx, const struct kith_id *id); /* false: stop, out of memory */
typedef enum kith_err (*store_select_fn)(const struct view *view, struct kith_bytes filter,
                                         store_emit_fn emit, void *emit_ctx,
                                         struct kith_diag *diag);

/* Fills in how heads sketch the rows of such a slice; bytes 0: not at all. */
typedef void (*store_sketch_fn)(const struct slice_config *config, struct head_sketch *out);

struct store_options {
    struct io *io;
    const char *dir; /* of this slice, relative to the io's root */
    store_select_fn select;
    const struct segment_index_hooks *index; /* of its segments; NULL: none. Outlives the store */
    store_sketch_fn sketch;                  /* how heads sketch their rows; NULL: not at all */
    uint32_t head_rows_max;  /* seal the head at so many rows (0: KITH_HEAD_ROWS_MAX) */
    uint64_t head_bytes_max; /* or bytes (0: KITH_HEAD_BYTES_MAX) */
    uint64_t wal_step_bytes; /* the log grows by so much at a time (0: 4 MiB) */
    uint64_t
        wal_file_bytes_max; /* a new log file, and head, from so much on (0: KITH_WAL_FILE_MAX) */
    uint32_t rest_ms;       /* seal a head without writes after so long (0: KITH_HEAD_REST_MS) */
    bool background;        /* false: sealing and merging happen only in store_maintain (tests) */
};

/* Creates the slice on disk (all or nothing; KITH_EXISTS). */
enum kith_err store_create(const struct store_options *options, const struct slice_config *config,
                           struct kith_diag *diag);
/* What it was created with; for choosing options.index. */
enum kith_err store_peek(const struct store_options *options, struct slice_config *out,
                         struct kith_diag *diag);
/* Opens it: manifest, segments, WAL replay. A torn tail is cut; earlier damage is KITH_CORRUPT. */
enum kith_err store_open(struct store **out, const struct store_options *options,
                         struct kith_diag *diag);
/* Finishes the writes in the queue and stops the threads; everything acknowledged is on disk. */
void store_close(struct store *store);
/* Removes a closed slice from disk. */
enum kith_err store_destroy(const struct store_options *options, struct kith_diag *diag);

const struct slice_config *store_config(const struct store *store);
struct view *store_view(struct store *store); /* a reference, to be given back with view_unref */

/* ---- writes -------------------------------------------------------------------------------------
 */

struct store_write_result {
    enum kith_err err;
    uint64_t seq;      /* of the last operation applied */
    uint64_t affected; /* points put, changed or deleted */
};
typedef void (*store_done_fn)(void *ctx, const struct store_write_result *result,
                              const struct kith_diag *diag);

/* `ops` is the msgpack array of operations of proto/kith_ops.h; it must stay valid until done. The
 * store checks all of it before anything changes: a write applies as a whole or not at all.
 * Points that an operation names and that do not exist are passed over (affected does not count
 * them). KITH_TOO_BIG for a write that takes more than KITH_WAL_RECORD_MAX of log: a change of
 * payloads by filter is logged with the vectors of the points it changes.
 * KITH_BUSY when KITH_WRITE_QUEUE_MAX writes wait, or (by done) when seals or merges are so far
 * behind that there is no memory to write to; on KITH_OK done is called exactly once.
 * op_id (0 = none): a write whose op_id was applied recently is acknowledged again and not applied
 * again. */
enum kith_err store_write(struct store *store, uint64_t op_id, struct kith_bytes ops,
                          store_done_fn done, void *ctx, struct kith_diag *diag);

/* ---- facts --------------------------------------------------------------------------------------
 */

enum store_cause { /* of bytes written to the disk */
                   STORE_LOG,
                   STORE_SEAL,
                   STORE_MERGE, /* for few segments of about the same size */
                   STORE_INDEX, /* for segments without an index */
                   STORE_REST,  /* for searches of a store at rest */
                   STORE_CAUSES
};
const char *store_cause_name(enum store_cause cause); /* "log" ... */

struct store_stats {
    uint64_t live_points, deleted_points, seq;
    uint32_t segments, head_rows;
    uint64_t segment_bytes, wal_bytes, head_bytes;
    uint64_t fsyncs, writes, write_groups;
    uint64_t written[STORE_CAUSES]; /* bytes since it was opened */
    uint64_t indexed_points;        /* live, in segments with an index */
    uint32_t index_pending; /* segments without an index that are to be rewritten with one */
    bool busy;              /* sealing, merging or indexing is going on or due */
    uint64_t pause_ns_max;  /* the longest that seals, merges and checkpoints kept the writer */
    uint64_t paused_ns;     /* writes waited for seals and merges to catch up, in all */
    uint64_t sync_ns_max;   /* the longest write and sync of a group */
    bool failed;            /* a sync failed; see above */
    uint32_t quarantined;   /* segments found damaged: the slice answers KITH_CORRUPT */
};
void store_stats(struct store *store, struct store_stats *out);

/* The index hooks would answer otherwise now (another codebook): look again at what is to be
 * rewritten. Any thread. */
void store_nudge(struct store *store);

/* While held, segments are merged only when there are too many: another index is about to be wanted
 * of all of them. Releasing nudges. Any thread. */
void store_hold_merges(struct store *store, bool held);

/* ---- scrubbing ----------------------------------------------------------------------------------
 */

struct store_scrub_options {
    bool (*pace)(void *ctx,
                 uint64_t bytes); /* told what is read, may wait; false: stop. NULL: go */
    void (*on_damage)(void *ctx, const char *dir, const char *file, const char *text); /* or NULL */
    void *ctx;
};
struct store_scrub_result {
    uint32_t files, damaged;
    uint64_t bytes;
};
/* Reads all files from the disk and checks them, while the store is in use; any thread. Damage is
 * counted in *result (added to), not an error: a segment is quarantined, other files are written
 * anew from memory. KITH_NOMEM, KITH_IO: the round was not done. */
enum kith_err store_scrub(struct store *store, const struct store_scrub_options *options,
                          struct store_scrub_result *result, struct kith_diag *diag);
/* Verifies the segments' blocks that nobody has used yet. KITH_CORRUPT: something is quarantined.
 */
enum kith_err store_verify(struct store *store, const struct store_scrub_options *options,
                           struct kith_diag *diag);
/* From now on these two return as soon as they can: the store is going to be closed. */
void store_hurry(struct store *store);

/* One round of background work now (seal, merge); *did_work says whether there was any. */
enum kith_err store_maintain(struct store *store, bool *did_work, struct kith_diag *diag);
/* From now on as for a store that has been at rest for long, when nothing was sealed just now:
 * small segments are gathered, and older indexes replaced. Any thread. */
void store_assume_rest(struct store *store);
/* Seals the active head now if it would be sealed without writes for rest_ms. For stores without
 * background work. */
enum kith_err store_rest(struct store *store, bool *did_work, struct kith_diag *diag);

#endif
