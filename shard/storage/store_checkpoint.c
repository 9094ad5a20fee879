#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "common/kith_mem.h"
#include "shard/storage/manifest.h"
#include "shard/storage/segment_writer.h"
#include "shard/storage/store_state.h"

/* A checkpoint writes down what the store consists of: segments, their deletes, and from
 * where the log must be replayed. It is always the whole truth of one moment, taken on the writer
 * thread between two groups, so it does not matter whether a seal or a merge asked for it.
 *
 * The deletes may be newer than sealed_seq (replay starts there): replaying puts and deletes by id
 * over a state that knows some of them already ends in the same state.
 *
 * It also says up to where the log is synced, so that damage to a part of the log that nothing
 * behind it vouches for is noticed; closing makes a checkpoint for that alone.
 *
 * Files go only after the manifest that does not name them any more is durable, and segments only
 * after their last reader is gone, so that freeing gigabytes never happens on a query's thread. */

void store_checkpoint_path(const struct store *store, const char *kind, uint64_t number,
                           char path[STORE_PATH_BYTES + 32])
{
    (void)snprintf(path, STORE_PATH_BYTES + 32, "%s/%s-%016" PRIx64, store->dir, kind, number);
}

struct snapshot {
    struct view *view;
    uint64_t sealed_seq, first_wal, wal, wal_end;
    struct op_entry *ops;
    uint32_t n_ops;
};

static enum kith_err take(struct store *store, void *arg, struct kith_diag *diag)
{
    struct snapshot *snapshot = arg;
    uint32_t n = op_window_count(&store->ops);
    snapshot->ops = kith_alloc(n * sizeof *snapshot->ops);
    if (snapshot->ops == NULL)
        return kith_fail(diag, KITH_NOMEM, "checkpoint");
    for (uint32_t i = 0; i < n; i++) {
        const struct op_entry *entry = op_window_at(&store->ops, i);
        if (entry->op_id != 0)
            snapshot->ops[snapshot->n_ops++] = *entry;
    }
    snapshot->sealed_seq = store->sealed_seq;
    snapshot->first_wal = store->first_wal;
    snapshot->wal = store->wal != NULL ? wal_number(store->wal) : store->first_wal;
    snapshot->wal_end = store->wal != NULL ? wal_bytes(store->wal) : 0; /* 0: being replayed */
    return store_write_view(store, &snapshot->view, diag);
}

static const struct store_stored *stored_of(const struct store *store,
                                            const struct segment *segment)
{
    for (uint32_t i = 0; i < store->n_stored; i++)
        if (store->stored[i].segment == segment)
            return &store->stored[i];
    return NULL;
}

/* The deletes files of the snapshot's segments: those that changed are written anew. */
static enum kith_err store_deletes(struct store *store, const struct view *view,
                                   struct store_stored *out, struct kith_diag *diag)
{
    bool wrote = false, renew = atomic_exchange(&store->renew_deletes, false);
    for (uint32_t i = 0; i < view->n_segments; i++) {
        struct segment *segment = view->segments[i].segment;
        struct deletes *deletes = view_deletes(view, i);
        const struct store_stored *before = stored_of(store, segment);
        out[i] = (struct store_stored){.segment = segment, .deletes = deletes};
        if (deletes_count(deletes) == 0)
            continue;
        if (!renew && before != NULL && before->deletes == deletes && before->deletes_file != 0) {
            out[i].deletes_file = before->deletes_file;
            continue;
        }
        char path[STORE_PATH_BYTES + 32];
        out[i].deletes_file = atomic_fetch_add(&store->next_file, 1);
        store_checkpoint_path(store, "del", out[i].deletes_file, path);
        enum kith_err err = deletes_store(deletes, store->io, path, segment_number(segment),
                                          segment_rows(segment), diag);
        wrote = true;
        if (err != KITH_OK)
            return err;
    }
    return wrote ? store->io->sync_dir(store->io->self, store->dir, diag) : KITH_OK;
}

static enum kith_err store_manifest(struct store *store, const struct snapshot *snapshot,
                                    const struct store_stored *stored, struct kith_diag *diag)
{
    struct manifest_segment segments[KITH_SEGMENTS_MAX];
    uint32_t n = snapshot->view->n_segments;
    for (uint32_t i = 0; i < n; i++)
        segments[i] =
            (struct manifest_segment){segment_number(stored[i].segment), stored[i].deletes_file};
    struct manifest manifest = {
        .config = store->config,
        .sealed_seq = snapshot->sealed_seq,
        .first_wal = snapshot->first_wal,
        .wal = snapshot->wal,
        .wal_end = snapshot->wal_end,
        .next_file = atomic_load(&store->next_file),
        .n_segments = n,
        .segments = segments,
        .n_ops = snapshot->n_ops,
        .ops = snapshot->ops,
    };
    return manifest_store(&manifest, store->io, store->dir, diag);
}

static bool holds_file(const struct store_stored *stored, uint32_t n, uint64_t deletes_file)
{
    for (uint32_t i = 0; i < n; i++)
        if (stored[i].deletes_file == deletes_file)
            return true;
    return false;
}

static bool holds_segment(const struct store_stored *stored, uint32_t n,
                          const struct segment *segment)
{
    for (uint32_t i = 0; i < n; i++)
        if (stored[i].segment == segment)
            return true;
    return false;
}

static void bury(struct store *store, struct segment *segment)
{
    pthread_mutex_lock(&store->lock);
    bool room = store->n_graveyard < sizeof store->graveyard / sizeof store->graveyard[0];
    if (room)
        store->graveyard[store->n_graveyard++] = segment;
    pthread_mutex_unlock(&store->lock);
    if (room)
        return;
    /* Readers hold on to very many: its name goes now, its bytes with its last reader. */
    char path[STORE_PATH_BYTES + 32];
    store_checkpoint_path(store, "seg", segment_number(segment), path);
    (void)store->io->unlink(store->io->self, path, NULL);
    segment_unref(segment);
}

/* The new list replaces the old; what only the old one named is removed. */
static void replace_stored(struct store *store, struct store_stored *stored, uint32_t n)
{
    char path[STORE_PATH_BYTES + 32];
    for (uint32_t i = 0; i < n; i++) {
        segment_ref(stored[i].segment);
        deletes_ref(stored[i].deletes);
    }
    for (uint32_t i = 0; i < store->n_stored; i++) {
        struct store_stored *old = &store->stored[i];
        if (old->deletes_file != 0 && !holds_file(stored, n, old->deletes_file)) {
            store_checkpoint_path(store, "del", old->deletes_file, path);
            (void)store->io->unlink(store->io->self, path, NULL);
        }
        deletes_unref(old->deletes);
        if (holds_segment(stored, n, old->segment))
            segment_unref(old->segment);
        else
            bury(store, old->segment);
    }
    memcpy(store->stored, stored, n * sizeof *stored);
    store->n_stored = n;
}

static void drop_logs(struct store *store, uint64_t first_wal)
{
    char path[STORE_PATH_BYTES];
    for (; store->oldest_wal < first_wal; store->oldest_wal++) {
        wal_path(path, sizeof path, store->dir, store->oldest_wal);
        (void)store->io->unlink(store->io->self, path, NULL);
    }
}

static void drop_new_deletes(struct store *store, const struct store_stored *stored, uint32_t n)
{
    char path[STORE_PATH_BYTES + 32];
    for (uint32_t i = 0; i < n; i++) {
        if (stored[i].deletes_file == 0 ||
            holds_file(store->stored, store->n_stored, stored[i].deletes_file))
            continue;
        store_checkpoint_path(store, "del", stored[i].deletes_file, path);
        (void)store->io->unlink(store->io->self, path, NULL);
    }
}

enum kith_err store_checkpoint_run(struct store *store, struct kith_diag *diag)
{
    struct store_stored stored[KITH_SEGMENTS_MAX] = {0};
    struct snapshot snapshot = {0};
    bool before = io_use_reserve(true);
    pthread_mutex_lock(&store->lock);
    while (store->checkpoint_busy)
        pthread_cond_wait(&store->changed, &store->lock);
    store->checkpoint_busy = true;
    pthread_mutex_unlock(&store->lock);

    atomic_store(&store->checkpoint_due, true);
    enum kith_err err = store_write_on_writer(store, take, &snapshot, diag);
    if (err == KITH_OK && atomic_load(&store->failed))
        err = kith_fail(diag, KITH_IO, "the store has failed");
    if (err == KITH_OK) {
        err = store_deletes(store, snapshot.view, stored, diag);
        /* Once the manifest is being written its files must stay, whatever becomes of it. */
        if (err != KITH_OK)
            drop_new_deletes(store, stored, snapshot.view->n_segments);
        else
            err = store_manifest(store, &snapshot, stored, diag);
    }
    if (err == KITH_OK) {
        replace_stored(store, stored, snapshot.view->n_segments);
        drop_logs(store, snapshot.first_wal);
        atomic_store(&store->checkpoint_due, false);
    }
    view_unref(snapshot.view);
    kith_free(snapshot.ops);

    pthread_mutex_lock(&store->lock);
    store->checkpoint_busy = false;
    pthread_cond_broadcast(&store->changed);
    pthread_mutex_unlock(&store->lock);
    (void)io_use_reserve(before);
    return err;
}

void store_checkpoint_reap(struct store *store)
{
    for (;;) {
        struct segment *dead = NULL;
        pthread_mutex_lock(&store->lock);
        for (uint32_t i = 0; i < store->n_graveyard && dead == NULL; i++)
            if (segment_is_last_ref(store->graveyard[i])) {
                dead = store->graveyard[i];
                store->graveyard[i] = store->graveyard[--store->n_graveyard];
            }
        pthread_mutex_unlock(&store->lock);
        if (dead == NULL)
            return;
        char path[STORE_PATH_BYTES + 32];
        store_checkpoint_path(store, "seg", segment_number(dead), path);
        (void)store->io->unlink(store->io->self, path, NULL);
        segment_unref(dead);
    }
}
