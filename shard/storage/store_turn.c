#include <time.h>

#include "common/kith_clock.h"
#include "shard/storage/store_state.h"
#include "shard/storage/write_pace.h"

/* Turning heads over, and how long writes wait for that.
 *
 * Points can come faster than they are sealed, and segments faster than they are merged. Writes
 * then wait a little before each group, the longer the more there is to catch up with
 * (write_pace.h), so that a bulk load settles at the speed of the disk without ever standing still.
 * If it comes to the worst and there is no head left to write to, a write is refused with
 * KITH_BUSY: its sender knows better than a queue here how long it wants to wait.
 *
 * All waiting happens between two groups, on the writer thread, which goes on running the jobs of
 * the sealer and the merger meanwhile. The writes taken from the queue at once have one budget of
 * KITH_WRITE_ROOM_MS_MAX for it, so none waits longer than that for work in the background.
 *
 * What lost: waiting until a head is free. One write in 30 s then took a second or, with merges
 * behind, ten; and whoever sent it could not tell that from a dead disk. */

#define HEAD_ROWS_LIMIT (1u << 24)
#define ROOM_NS         (KITH_WRITE_ROOM_MS_MAX * UINT64_C(1000000))

uint32_t store_turn_head_cap(const struct store *store)
{
    /* A write that begins just under the soft limit must still fit, as far as it is of usual size:
     * twice the limit. A larger one gets a head of its own size. */
    return store->head_rows_max < HEAD_ROWS_LIMIT / 2 ? store->head_rows_max * 2 : HEAD_ROWS_LIMIT;
}

/* Runs what other threads want done between two groups, or waits for a change until then; with the
 * lock, which it gives up meanwhile. */
static void serve_locked(struct store *store, uint64_t until_ns)
{
    struct store_job *jobs = store->jobs;
    store->jobs = NULL;
    if (jobs == NULL) {
        struct timespec until = {.tv_sec = (time_t)(until_ns / 1000000000u),
                                 .tv_nsec = (long)(until_ns % 1000000000u)};
        (void)pthread_cond_timedwait(&store->writer_wake, &store->lock, &until);
        return;
    }
    pthread_mutex_unlock(&store->lock);
    store_write_run_jobs(store, jobs);
    pthread_mutex_lock(&store->lock);
}

static void note_pause_locked(struct store *store, uint64_t begin_ns)
{
    uint64_t took_ns = kith_now_ns() - begin_ns;
    store->stats.paused_ns += took_ns;
    if (took_ns > store->stats.pause_ns_max)
        store->stats.pause_ns_max = took_ns;
}

/* Of the active head: 1 and more when it is due. */
static float fill(const struct store *store)
{
    const struct head *active = store->heads[store->n_heads - 1];
    float rows = (float)head_rows(active) / (float)store->head_rows_max;
    float bytes = (float)head_bytes(active) / (float)store->head_bytes_max;
    float log = (float)wal_bytes(store->wal) / (float)store->wal_file_bytes_max;
    float most = rows > bytes ? rows : bytes;
    return most > log ? most : log;
}

static uint64_t pause_end_ns(const struct store *store)
{
    struct write_debt debt = {
        .heads = store->n_heads - 1,
        .heads_max = VIEW_HEADS_MAX - 1,
        .fill = fill(store),
        .segments = store->n_segments,
    };
    uint64_t end_ns = store->group_end_ns + (uint64_t)write_pace_us(&debt) * 1000u;
    return end_ns < store->room_until_ns ? end_ns : store->room_until_ns;
}

void store_turn_begin(struct store *store)
{
    store->room_until_ns = kith_now_ns() + ROOM_NS;
    store_turn_pause(store);
}

void store_turn_pause(struct store *store)
{
    uint64_t begin_ns = kith_now_ns(), until_ns = pause_end_ns(store);
    if (!store->background || begin_ns >= until_ns)
        return;
    pthread_mutex_lock(&store->lock);
    while (!store->stopping && !atomic_load(&store->failed) && kith_now_ns() < until_ns) {
        serve_locked(store, until_ns);
        until_ns = pause_end_ns(store);
    }
    note_pause_locked(store, begin_ns);
    pthread_mutex_unlock(&store->lock);
}

static enum kith_err no_room(const struct store *store, bool full, struct kith_diag *diag)
{
    if (atomic_load(&store->failed))
        return kith_fail(diag, KITH_IO, "an earlier sync failed; open the slice again");
    if (full)
        return kith_fail(diag, KITH_DISK_FULL, "the points in memory cannot be sealed to disk");
    return kith_fail(diag, KITH_BUSY,
                     "points come faster than they can be sealed and merged; try again shortly");
}

/* Waits until one frozen head is sealed, but not for long, serving jobs meanwhile: the sealer needs
 * one to be run. */
static enum kith_err wait_for_room(struct store *store, struct kith_diag *diag)
{
    if (!store->background) {
        bool did = false;
        enum kith_err err = store_seal_here(store, &did, diag);
        if (err != KITH_OK || did)
            return err;
        /* Another thread is sealing: wait for it. */
    }
    uint64_t begin_ns = kith_now_ns(), until_ns = store->room_until_ns;
    pthread_mutex_lock(&store->lock);
    uint64_t failures = store->seal_failures;
    store->maintain_nudges++;
    pthread_cond_broadcast(&store->changed);
    while (store->n_frozen >= VIEW_HEADS_MAX - 1 && store->seal_failures == failures &&
           !atomic_load(&store->failed) && (!store->background || kith_now_ns() < until_ns))
        serve_locked(store, store->background ? until_ns : kith_now_ns() + ROOM_NS);
    bool room = store->n_frozen < VIEW_HEADS_MAX - 1;
    bool full = store->seal_failures != failures || store->seal_fails;
    note_pause_locked(store, begin_ns);
    pthread_mutex_unlock(&store->lock);
    return room ? KITH_OK : no_room(store, full, diag);
}

/* A head without a live row is replaced in place: there is nothing in it to seal. */
static enum kith_err replace_head(struct store *store, uint32_t rows, struct kith_diag *diag)
{
    struct head *fresh = NULL;
    enum kith_err err = head_new(&fresh, store->row_bytes, rows, &store->sketch, diag);
    if (err != KITH_OK)
        return err;
    head_unref(store->heads[store->n_heads - 1]);
    store->heads[store->n_heads - 1] = fresh;
    return KITH_OK;
}

enum kith_err store_turn_run(struct store *store, uint32_t rows, struct kith_diag *diag)
{
    enum kith_err err = KITH_OK;
    if (store->n_heads == VIEW_HEADS_MAX)
        err = wait_for_room(store, diag);
    struct head *fresh = NULL;
    struct wal *wal = NULL;
    if (err == KITH_OK)
        err = head_new(&fresh, store->row_bytes, rows, &store->sketch, diag);
    if (err != KITH_OK)
        return err;
    kith_assert(store->n_heads < VIEW_HEADS_MAX);
    err = wal_create(&wal, &store->wal_options, wal_number(store->wal) + 1, store->wal, diag);
    if (err != KITH_OK) {
        head_unref(fresh);
        if (err == KITH_IO)
            store_write_fail(store, diag);
        return err;
    }
    uint32_t frozen = store->n_heads - 1;
    store->head_last_seq[frozen] = store->seq;
    store->head_next_wal[frozen] = wal_number(wal);
    store->heads[store->n_heads++] = fresh;
    wal_close(store->wal);
    store->wal = wal;
    pthread_mutex_lock(&store->lock);
    store->n_frozen++;
    pthread_cond_broadcast(&store->changed);
    pthread_mutex_unlock(&store->lock);
    return KITH_OK;
}

bool store_turn_is_due(const struct store *store)
{
    const struct head *active = store->heads[store->n_heads - 1];
    return head_rows(active) >= store->head_rows_max ||
           (head_rows(active) > 0 && head_bytes(active) >= store->head_bytes_max) ||
           wal_bytes(store->wal) >= store->wal_file_bytes_max;
}

enum kith_err store_turn_make_room(struct store *store, struct kith_diag *diag)
{
    const struct head *active = store->heads[store->n_heads - 1];
    uint32_t want = store->head_full ? store->head_want : store_turn_head_cap(store);
    bool replace = store->head_full && head_live(active) == 0;
    store->head_full = false;
    if (want > HEAD_ROWS_LIMIT)
        return kith_fail(diag, KITH_TOO_BIG, "the write changes more than %u points",
                         HEAD_ROWS_LIMIT);
    return replace ? replace_head(store, want, diag) : store_turn_run(store, want, diag);
}
