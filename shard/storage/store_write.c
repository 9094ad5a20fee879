#include <inttypes.h>
#include <string.h>

#include "common/kith_clock.h"
#include "common/kith_log.h"
#include "common/kith_mem.h"
#include "common/kith_thread.h"
#include "proto/kith_ops.h"
#include "shard/storage/merge_policy.h"
#include "shard/storage/store_state.h"

/* The writer thread and its group commit.
 *
 * While the disk syncs one group, writes queue up; the next group takes them all. So the number of
 * syncs adapts to the disk by itself, and a lone writer waits for one sync only. A group is applied
 * write by write, made durable by one write and one sync, published as one view, acknowledged.
 * Between groups the thread runs jobs of the background threads (swapping in a sealed or merged
 * segment), which is how `parts` has one owner and needs no lock.
 *
 * When a sync fails, nobody knows what the disk holds: the store fails for good, and the last
 * published view goes on being served. When the disk is full, the group is undone and refused, and
 * the next one tries again. While a segment is quarantined all writes are refused: a put must know
 * whether an old version lies there. */

#define GROUP_BYTES_MAX (8u << 20) /* of log: bounds how long the first write of a group waits */

enum kith_err store_write_view(struct store *store, struct view **out, struct kith_diag *diag)
{
    struct view_parts parts = {
        .config = store->config,
        .seq = store->seq,
        .n_segments = store->n_segments,
        .segments = store->segments,
        .n_heads = store->n_heads,
        .heads = store->heads,
    };
    return view_new(out, &parts, diag);
}

void store_write_publish(struct store *store, struct view *view)
{
    uint64_t deleted = 0, segment_bytes = 0, head_bytes_sum = 0, indexed = 0;
    bool holey = false;
    for (uint32_t i = 0; i < store->n_segments; i++) {
        uint32_t rows = segment_rows(store->segments[i].segment);
        uint32_t n_deleted = deletes_count(store->segments[i].deletes);
        deleted += n_deleted;
        holey |= merge_policy_is_holey(rows, n_deleted);
        if (segment_index(store->segments[i].segment) != NULL)
            indexed += rows - n_deleted;
        segment_bytes += segment_file_bytes(store->segments[i].segment);
    }
    for (uint32_t i = 0; i < store->n_heads; i++) {
        deleted += head_rows(store->heads[i]) - head_live(store->heads[i]);
        head_bytes_sum += head_bytes(store->heads[i]);
    }
    pthread_mutex_lock(&store->lock);
    struct view *old = store->view;
    store->view = view;
    struct store_stats *stats = &store->stats;
    stats->live_points = view->live_points;
    stats->deleted_points = deleted;
    stats->seq = view->seq;
    stats->segments = view->n_segments;
    stats->head_rows = 0;
    for (uint32_t i = 0; i < view->n_heads; i++)
        stats->head_rows += view->heads[i].rows;
    stats->segment_bytes = segment_bytes;
    stats->indexed_points = indexed;
    stats->head_bytes = head_bytes_sum;
    stats->wal_bytes = store->wal != NULL ? wal_bytes(store->wal) : 0;
    if (holey) {
        store->merge_nudges++;
        pthread_cond_broadcast(&store->changed);
    }
    pthread_mutex_unlock(&store->lock);
    view_unref(old);
}

void store_write_fail(struct store *store, const struct kith_diag *diag)
{
    if (atomic_exchange(&store->failed, true))
        return;
    kith_log(ERROR, "store.failed", "dir=%s error=\"%s\"", store->dir,
             diag != NULL ? diag->text : "");
    pthread_mutex_lock(&store->lock);
    store->stats.failed = true;
    pthread_cond_broadcast(&store->writer_wake);
    pthread_cond_broadcast(&store->changed);
    pthread_mutex_unlock(&store->lock);
}

enum kith_err store_write_verdict(const struct store *store, struct kith_diag *diag)
{
    enum kith_err err = KITH_OK;
    for (uint32_t i = 0; i < store->n_segments && err == KITH_OK; i++)
        err = segment_check(store->segments[i].segment, diag);
    return err;
}

/* ---- jobs -------------------------------------------------------------------------------------
 */

enum kith_err store_write_on_writer(struct store *store,
                                    enum kith_err (*run)(struct store *, void *,
                                                         struct kith_diag *),
                                    void *arg, struct kith_diag *diag)
{
    pthread_mutex_lock(&store->lock);
    if (!store->writer_runs || pthread_equal(pthread_self(), store->writer)) {
        pthread_mutex_unlock(&store->lock);
        return run(store, arg, diag);
    }
    struct store_job job = {.run = run, .arg = arg, .diag = diag, .next = store->jobs};
    store->jobs = &job;
    pthread_cond_signal(&store->writer_wake);
    while (!job.done)
        pthread_cond_wait(&store->changed, &store->lock);
    pthread_mutex_unlock(&store->lock);
    return job.err;
}

void store_write_run_jobs(struct store *store, struct store_job *jobs)
{
    while (jobs != NULL) {
        struct store_job *job = jobs;
        jobs = job->next; /* the job is gone as soon as done is seen */
        uint64_t begin_ns = kith_now_ns();
        enum kith_err err = job->run(store, job->arg, job->diag);
        uint64_t took_ns = kith_now_ns() - begin_ns;
        pthread_mutex_lock(&store->lock);
        if (took_ns > store->stats.pause_ns_max)
            store->stats.pause_ns_max = took_ns;
        job->err = err;
        job->done = true;
        pthread_cond_broadcast(&store->changed);
        pthread_mutex_unlock(&store->lock);
    }
}

/* ---- groups -----------------------------------------------------------------------------------
 */

static void finish(struct store_request *request, enum kith_err err, const struct kith_diag *diag)
{
    request->result.err = err;
    if (err != KITH_OK)
        request->result.seq = request->result.affected = 0;
    request->done(request->ctx, &request->result, diag);
    kith_free(request);
}

static void finish_all(struct store_request *first, enum kith_err err, const struct kith_diag *diag)
{
    while (first != NULL) {
        struct store_request *next = first->next;
        finish(first, err, diag);
        first = next;
    }
}

struct group {
    struct store_request *first, **end;
    struct store_savepoint before;
    uint32_t n, n_op_ids;
    uint64_t wal_bytes; /* before it */
};

static void undo_group(struct store *store, const struct group *group)
{
    wal_abandon(store->wal);
    store_apply_undo(store, &group->before);
    for (uint32_t i = 0; i < group->n_op_ids; i++)
        op_window_drop_last(&store->ops);
}

static void commit_group(struct store *store, struct group *group)
{
    struct kith_diag diag = {0};
    struct view *view = NULL;
    /* What the group looked up must have been there to be found. */
    enum kith_err err = store_write_verdict(store, &diag);
    bool logged = !wal_is_empty(store->wal);
    uint64_t sync_ns = 0;
    if (logged || err != KITH_OK) {
        if (err == KITH_OK) /* now: after the sync it may not fail */
            err = store_write_view(store, &view, &diag);
        uint64_t begin_ns = kith_now_ns();
        if (err == KITH_OK)
            err = wal_commit(store->wal, &diag);
        sync_ns = kith_now_ns() - begin_ns;
        if (err == KITH_OK) {
            store_write_publish(store, view);
        } else {
            view_unref(view);
            if (err == KITH_NOMEM || err == KITH_DISK_FULL || err == KITH_CORRUPT) {
                undo_group(store, group);
            } else {
                err = KITH_IO;
                store_write_fail(store, &diag);
            }
        }
    }
    store->n_undo = 0;
    pthread_mutex_lock(&store->lock);
    store->stats.writes += group->n;
    if (logged && err == KITH_OK)
        store->stats.written[STORE_LOG] += wal_bytes(store->wal) - group->wal_bytes;
    store->stats.write_groups += logged;
    store->stats.fsyncs += logged;
    if (sync_ns > store->stats.sync_ns_max)
        store->stats.sync_ns_max = sync_ns;
    pthread_mutex_unlock(&store->lock);
    finish_all(group->first, err, &diag);
}

static void begin_group(struct store *store, struct group *group)
{
    store->n_undo = 0;
    *group =
        (struct group){.before = store_apply_savepoint(store), .wal_bytes = wal_bytes(store->wal)};
    group->end = &group->first;
}

/* A write that only deletes: its record may use the reserve of a full disk. */
static bool only_deletes(struct kith_bytes ops)
{
    struct kith_ops_reader reader;
    struct kith_op op;
    bool all = kith_ops_begin(&reader, ops);
    while (all && kith_ops_next(&reader, &op))
        all = op.kind == KITH_OP_DELETE;
    return all;
}

/* Applies writes until the group is large enough or needs a new head; returns the rest. */
static struct store_request *fill_group(struct store *store, struct group *group,
                                        struct store_request *list)
{
    while (list != NULL && group->n < KITH_WRITE_GROUP_MAX &&
           wal_body(store->wal)->len < GROUP_BYTES_MAX) {
        struct store_request *request = list;
        struct kith_diag diag = {0};
        uint64_t known = store->ops.added;
        enum kith_err err = store_apply_check(store, request->ops, &diag);
        if (err == KITH_OK && store_turn_is_due(store)) {
            store->head_full = false;
            return list;
        }
        bool before = io_use_reserve(only_deletes(request->ops));
        if (err == KITH_OK)
            err = store_apply_write(store, request, &diag);
        (void)io_use_reserve(before);
        if (store->head_full)
            return list;
        list = request->next;
        request->next = NULL;
        if (err == KITH_IO) /* the disk fails: whatever the call was, it is not to be relied on */
            store_write_fail(store, &diag);
        if (err != KITH_OK) {
            finish(request, err, &diag);
            continue;
        }
        group->n_op_ids += (uint32_t)(store->ops.added - known);
        *group->end = request;
        group->end = &request->next;
        group->n++;
    }
    return list;
}

static void process(struct store *store, struct store_request *list)
{
    while (list != NULL) {
        struct kith_diag diag = {0};
        if (atomic_load(&store->failed)) {
            (void)kith_fail(&diag, KITH_IO, "an earlier sync failed; open the slice again");
            finish_all(list, KITH_IO, &diag);
            return;
        }
        if (store_write_verdict(store, &diag) != KITH_OK) {
            finish_all(list, KITH_CORRUPT, &diag);
            return;
        }
        struct group group;
        store_turn_pause(store);
        begin_group(store, &group);
        list = fill_group(store, &group, list);
        commit_group(store, &group);
        store->group_end_ns = kith_now_ns();
        store_rest_note(store);
        if (list == NULL || atomic_load(&store->failed) ||
            (!store->head_full && !store_turn_is_due(store)))
            continue;
        enum kith_err err = store_turn_make_room(store, &diag);
        if (err != KITH_OK) {
            struct store_request *refused = list;
            list = list->next;
            finish(refused, err, &diag);
        }
    }
}

void *store_write_thread(void *arg)
{
    struct store *store = arg;
    (void)pthread_setname_np(pthread_self(), "kith-writer");
    kith_thread_bulk();
    pthread_mutex_lock(&store->lock);
    for (;;) {
        while (store->queue_first == NULL && store->jobs == NULL && !store->stopping)
            pthread_cond_wait(&store->writer_wake, &store->lock);
        struct store_job *jobs = store->jobs;
        store->jobs = NULL;
        if (jobs == NULL && store->queue_first == NULL)
            break;
        pthread_mutex_unlock(&store->lock);
        store_write_run_jobs(store, jobs);
        pthread_mutex_lock(&store->lock);
        if (store->queue_first == NULL)
            continue;
        pthread_mutex_unlock(&store->lock);
        store_turn_begin(store);
        pthread_mutex_lock(&store->lock);
        struct store_request *list = store->queue_first;
        store->queue_first = NULL;
        store->queue_end = &store->queue_first;
        store->n_queued = 0;
        pthread_mutex_unlock(&store->lock);
        process(store, list);
        pthread_mutex_lock(&store->lock);
    }
    pthread_mutex_unlock(&store->lock);
    return NULL;
}

enum kith_err store_write(struct store *store, uint64_t op_id, struct kith_bytes ops,
                          store_done_fn done, void *ctx, struct kith_diag *diag)
{
    struct store_request *request = kith_alloc(sizeof *request);
    if (request == NULL)
        return kith_fail(diag, KITH_NOMEM, "write");
    *request = (struct store_request){.op_id = op_id, .ops = ops, .done = done, .ctx = ctx};
    enum kith_err err = KITH_OK;
    pthread_mutex_lock(&store->lock);
    if (atomic_load(&store->failed))
        err = KITH_IO;
    else if (store->n_queued >= KITH_WRITE_QUEUE_MAX)
        err = KITH_BUSY;
    if (err == KITH_OK) {
        *store->queue_end = request;
        store->queue_end = &request->next;
        store->n_queued++;
        pthread_cond_signal(&store->writer_wake);
    }
    pthread_mutex_unlock(&store->lock);
    if (err == KITH_OK)
        return KITH_OK;
    kith_free(request);
    return err == KITH_IO ? kith_fail(diag, err, "an earlier sync failed; open the slice again")
                          : kith_fail(diag, err, "%u writes wait already", KITH_WRITE_QUEUE_MAX);
}
