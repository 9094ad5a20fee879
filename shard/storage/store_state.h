/* The inside of a store, shared by the store_*.c files. Nobody else includes it.
 *
 * Who may touch what is written at each group of fields. The writer thread is the only one that
 * changes `parts`; other threads that want a change there (a sealed head, a merged segment) hand it
 * a job, which it runs between two groups of writes (store_write_on_writer).
 *
 *   store.c             create, open, close, facts
 *   store_replay.c      the log, read back at open
 *   store_write.c       queue, writer thread, group commit
 *   store_turn.c        turning heads over, and waiting for seals and merges
 *   store_apply.c       one write: check, resolve, change, undo
 *   store_checkpoint.c  the manifest
 *   store_seal.c        heads to segments
 *   store_rest.c        when a head that is not full is sealed
 *   store_merge.c       segments to segments
 *   store_maintain.c    the two background threads */
#ifndef STORE_STATE_H
#define STORE_STATE_H

#include <pthread.h>
#include <stdatomic.h>

#include "common/kith_buf.h"
#include "proto/kith_limits.h"
#include "shard/storage/head.h"
#include "shard/storage/op_window.h"
#include "shard/storage/segment_writer.h"
#include "shard/storage/store.h"
#include "shard/storage/view_build.h"
#include "shard/storage/wal.h"

#define STORE_PATH_BYTES 512

struct store_request {
    struct store_request *next;
    uint64_t op_id;
    struct kith_bytes ops;
    store_done_fn done;
    void *ctx;
    struct store_write_result result;
};

/* Something to be done on the writer thread; lives on the stack of the thread that waits for it. */
struct store_job {
    enum kith_err (*run)(struct store *store, void *arg, struct kith_diag *diag);
    void *arg;
    struct kith_diag *diag;
    enum kith_err err;
    bool done;
    struct store_job *next;
};

struct store_undo { /* a row that was taken out: of a head, or of segment number `segment` */
    struct head *head;
    uint32_t segment, row;
};

/* What a checkpoint wrote last: keeps these parts alive, and knows the files to remove later. */
struct store_stored {
    struct segment *segment;
    struct deletes *deletes;
    uint64_t deletes_file;
};

struct store {
    /* Immutable after open. */
    struct io *io;
    char dir[STORE_PATH_BYTES];
    struct slice_config config;
    store_select_fn select;
    const struct segment_index_hooks *index; /* NULL: none */
    struct head_sketch sketch;
    uint32_t row_bytes, head_rows_max;
    uint64_t head_bytes_max, wal_file_bytes_max, rest_after_ns;
    bool background;
    struct wal_options wal_options;

    /* Writer thread only (or the opening thread, before there is one). */
    uint64_t seq; /* last one given out, published or not */
    uint32_t n_segments;
    struct view_part segments[KITH_SEGMENTS_MAX]; /* most rows first */
    uint32_t n_heads;
    struct head *heads[VIEW_HEADS_MAX]; /* oldest first; the last one is active */
    uint64_t head_last_seq[VIEW_HEADS_MAX], head_next_wal[VIEW_HEADS_MAX]; /* frozen ones */
    uint64_t sealed_seq, first_wal;
    uint64_t synced_wal, synced_end; /* what the manifest vouched for at open */
    struct wal *wal;
    struct op_window ops;
    struct store_undo *undo;
    size_t n_undo, undo_cap;
    bool head_full; /* the write at hand needs another head, with room for head_want rows */
    uint32_t head_want;
    uint64_t group_end_ns;            /* of the groups before */
    uint64_t room_until_ns;           /* the writes at hand wait for a head till then */
    uint32_t plain_seals;             /* so many are still to go without trying an index */
    uint32_t plain_run;               /* how many it was the last time */
    struct kith_buf row, edit, edit2; /* scratch */
    struct segment_cache cache;
    struct kith_id *picked; /* ids of a filter */
    size_t n_picked, picked_cap;

    uint64_t opened_ns;
    atomic_bool rests; /* store_assume_rest; relaxed */

    /* Background work, one checkpoint at a time (checkpoint_busy). */
    uint32_t n_stored;
    struct store_stored stored[KITH_SEGMENTS_MAX];
    uint64_t oldest_wal; /* files below are gone */

    /* Any thread. A number, and flags whose changes are also announced under the lock. */
    _Atomic uint64_t next_file;
    _Atomic uint64_t sealed_ns;   /* relaxed: when a head was sealed last */
    _Atomic uint64_t seal_gap_ns; /* relaxed: how long after the one before */
    _Atomic uint64_t rest_ns; /* relaxed: when to look whether the head is at rest (store_rest.c) */
    atomic_bool failed, stop_background, checkpoint_due;
    atomic_bool tight; /* relaxed: the last merge found no room: choose one that needs little */
    atomic_bool renew_deletes; /* the next checkpoint writes all of their files anew */
    atomic_bool hurry;         /* relaxed: the scrubber should leave */
    atomic_bool merges_held;   /* relaxed; a nudge follows a change */

    /* Guarded by lock. It is never held over I/O, nor while another is taken. */
    pthread_mutex_t lock;
    pthread_cond_t writer_wake; /* queue, jobs, stopping, sealed */
    pthread_cond_t changed;     /* job done, checkpoint free, frozen heads, stop_background */
    struct view *view;
    struct store_request *queue_first, **queue_end;
    uint32_t n_queued;
    struct store_job *jobs;
    bool stopping, writer_runs, checkpoint_busy, seal_busy, merge_busy, merge_fails;
    bool merge_waits;   /* for a quiet time */
    bool merge_gathers; /* when the store is at rest */
    bool seal_fails;    /* the last one did, and not for too many segments */
    uint32_t n_frozen;
    uint64_t seal_failures;
    uint64_t maintain_nudges, merge_nudges; /* reasons for a thread to look again */
    uint64_t merge_settled; /* the nudges after which there was nothing left to merge */
    struct store_stats stats;
    struct segment *graveyard[2 * KITH_SEGMENTS_MAX]; /* merged away, maybe still read */
    uint32_t n_graveyard;

    pthread_t writer, sealer, merger;
    bool sealer_runs, merger_runs;
};

/* store.c */
enum kith_err store_segment_open(const struct store *store, uint64_t number, struct segment **out,
                                 struct kith_diag *diag);
struct segment_writer_options store_segment_options(const struct store *store, uint64_t number,
                                                    uint32_t n_rows);

/* store_write.c */
enum kith_err store_write_on_writer(struct store *store,
                                    enum kith_err (*run)(struct store *, void *,
                                                         struct kith_diag *),
                                    void *arg, struct kith_diag *diag);
void *store_write_thread(void *store);
/* Makes the parts visible: view_new, then publish, which cannot fail. */
enum kith_err store_write_view(struct store *store, struct view **out, struct kith_diag *diag);
void store_write_publish(struct store *store, struct view *view);
/* KITH_CORRUPT when a segment is quarantined: then nobody can tell where a point's old version is.
 */
enum kith_err store_write_verdict(const struct store *store, struct kith_diag *diag);
void store_write_fail(struct store *store, const struct kith_diag *diag); /* for good */
void store_write_run_jobs(struct store *store, struct store_job *jobs);   /* writer thread */

/* store_turn.c: writer thread, between two groups. */
/* Before the first and before each other group of the writes at hand: waits for seals and merges to
 * get on, if there is reason to. */
void store_turn_begin(struct store *store);
void store_turn_pause(struct store *store);
bool store_turn_is_due(const struct store *store); /* the active head is full */
/* A new head, because the old one is full or the next write needs a larger one. KITH_BUSY when
 * there is no room for one and none came in time. */
enum kith_err store_turn_make_room(struct store *store, struct kith_diag *diag);
/* The active head becomes a frozen one, log and head begin anew with room for so many rows. */
enum kith_err store_turn_run(struct store *store, uint32_t rows, struct kith_diag *diag);
uint32_t store_turn_head_cap(const struct store *store);

/* store_apply.c */
struct store_savepoint {
    size_t n_undo;
    uint32_t rows;
    uint64_t seq;
};
struct store_savepoint store_apply_savepoint(const struct store *store);
void store_apply_undo(struct store *store, const struct store_savepoint *to);
enum kith_err store_apply_check(const struct store *store, struct kith_bytes ops,
                                struct kith_diag *diag);
/* Resolves and applies a checked write, and adds its record to the log's group. On an error the
 * write is undone. */
enum kith_err store_apply_write(struct store *store, struct store_request *request,
                                struct kith_diag *diag);
enum kith_err store_apply_put(struct store *store, const struct kith_id *id, const void *row,
                              struct kith_bytes payload, struct kith_diag *diag);
enum kith_err store_apply_delete(struct store *store, const struct kith_id *id, bool *was,
                                 struct kith_diag *diag);
/* The bitmap of a segment, ready to be changed; NULL = out of memory. */
struct deletes *store_apply_deletes(struct store *store, uint32_t segment);

/* store_replay.c */
enum kith_err store_replay_run(struct store *store, struct kith_diag *diag);

/* store_checkpoint.c */
enum kith_err store_checkpoint_run(struct store *store, struct kith_diag *diag);
void store_checkpoint_reap(struct store *store); /* removes files nobody reads any more */
void store_checkpoint_path(const struct store *store, const char *kind, uint64_t number,
                           char path[STORE_PATH_BYTES + 32]);

/* store_seal.c, store_merge.c: one round; *did = whether there was anything to do. */
enum kith_err store_seal_run(struct store *store, bool *did, struct kith_diag *diag);
enum kith_err store_merge_run(struct store *store, bool *did, struct kith_diag *diag);
/* Without background threads: seals, and merges first when there are too many segments. */
enum kith_err store_seal_here(struct store *store, bool *did, struct kith_diag *diag);
/* A segment just written. That it cannot be read now (no descriptors left, say) is no doubt about
 * what was synced: KITH_UNAVAILABLE, and the round is tried again. */
enum kith_err store_seal_open(struct store *store, uint64_t number, struct segment **out,
                              struct kith_diag *diag);
/* Writer thread: puts a segment at its place by size. Room was checked. */
void store_seal_insert(struct store *store, const struct view_part *part);

/* store_rest.c */
void store_rest_note(struct store *store); /* writer thread, after a group */
/* Hooks may take now what they did not take before; with the lock, a broadcast follows. */
void store_rest_look_locked(struct store *store);
uint64_t store_rest_due_ns(const struct store *store); /* of store_rest_run; 0: not */
/* *did: the active head was at rest, and is frozen now. */
enum kith_err store_rest_run(struct store *store, bool *did, struct kith_diag *diag);

/* store_maintain.c */
enum kith_err store_maintain_start(struct store *store, struct kith_diag *diag);
void store_maintain_stop(struct store *store);
/* Runs it on a thread of its own with this niceness, and waits for it. A thread may only ever lower
 * its priority: so work that can wait must not be done by one that has urgent work to do next. */
enum kith_err store_maintain_aside(int nice,
                                   enum kith_err (*run)(void *arg, struct kith_diag *diag),
                                   void *arg, struct kith_diag *diag);

#endif
