#include <string.h>

#include "common/kith_clock.h"
#include "common/kith_mem.h"
#include "shard/storage/segment_build.h"
#include "shard/storage/store_state.h"

/* Sealing: the oldest frozen head becomes a segment.
 *
 * A frozen head gets no more rows, but rows of it may still be deleted while the segment is being
 * written. So: note the seq S; write the rows that are live at S; then, on the writer
 * thread, put the segment in the head's place with a bitmap of those of its rows that are gone by
 * now. Deletes between S and the swap are in the log above the head's last seq, so a crash before,
 * between or after replays them.
 *
 * A segment is given its index right away: until then its rows are scanned by every search, and the
 * merger would have to write it twice. Points that come faster than that are slowed down by the
 * pauses of write_pace.h, from the second head that waits on. Only when all heads are taken, or
 * while the log is being replayed, it is left to the merger. An index that was given up is work
 * lost, and the next one would be, too: after one, some seals do without, twice as many each time
 * in a row.
 *
 * What lost: no index as soon as a second head waits. Of points that pour in nearly all were then
 * scanned for as long as they did, and indexed by writing them again. */

#define INDEX_NICE      5 /* behind searches and the writing of logs; but writes wait for it */
#define PLAIN_SEALS_MAX 15u

struct sealing {
    struct head *head; /* counted */
    uint64_t seq;
    uint32_t n_rows;
    uint32_t *rows;  /* of the head, as they are handed to the builder */
    uint32_t *place; /* rows[i] became this row of the segment */
    uint64_t bytes;  /* of the segment's file */
    uint64_t number;
    bool index, gave_up;
    struct store *store;
    struct segment *segment;
};

static enum kith_err begin(struct store *store, void *arg, struct kith_diag *diag)
{
    struct sealing *sealing = arg;
    if (store->n_heads < 2)
        return KITH_OK;
    if (store->n_segments == KITH_SEGMENTS_MAX)
        return kith_fail(diag, KITH_BUSY, "%u segments wait to be merged", KITH_SEGMENTS_MAX);
    sealing->head = store->heads[0];
    head_ref(sealing->head);
    sealing->n_rows = head_rows(sealing->head); /* an upper bound for now */
    sealing->seq = store->seq;                  /* between two groups: all of it is durable */
    bool calm = store->n_heads < VIEW_HEADS_MAX && store->plain_seals == 0;
    sealing->index = store->view != NULL && store->index != NULL && (!store->background || calm);
    store->plain_seals -= store->plain_seals > 0;
    return KITH_OK;
}

static enum kith_err pick_rows(struct sealing *sealing, struct kith_diag *diag)
{
    uint32_t n_all = sealing->n_rows;
    sealing->rows = kith_alloc((size_t)n_all * sizeof *sealing->rows);
    if (sealing->rows == NULL)
        return kith_fail(diag, KITH_NOMEM, "seal");
    sealing->n_rows = 0;
    for (uint32_t row = 0; row < n_all; row++)
        if (head_row_live(sealing->head, row, sealing->seq))
            sealing->rows[sealing->n_rows++] = row;
    return KITH_OK;
}

static const void *row_at(const void *ctx, uint32_t i)
{
    const struct sealing *sealing = ctx;
    struct head_row row;
    head_row_get(sealing->head, sealing->rows[i], &row);
    return row.row;
}

static bool stops(const void *ctx)
{
    const struct sealing *sealing = ctx;
    return atomic_load_explicit(&sealing->store->stop_background, memory_order_relaxed);
}

/* Asked while the index is made. */
static bool gives_up(const void *ctx)
{
    struct store *store = ((const struct sealing *)ctx)->store;
    pthread_mutex_lock(&store->lock);
    bool pressed = store->background && store->n_frozen >= VIEW_HEADS_MAX - 1;
    pthread_mutex_unlock(&store->lock);
    return pressed || stops(ctx);
}

static enum kith_err add_points(void *ctx, struct segment_building *building,
                                struct kith_diag *diag)
{
    const struct sealing *sealing = ctx;
    enum kith_err err = KITH_OK;
    for (uint32_t i = 0; i < sealing->n_rows && err == KITH_OK; i++) {
        struct head_row row;
        head_row_get(sealing->head, sealing->rows[i], &row);
        struct segment_point point = {.id = row.id, .seq = row.seq, .payload = row.payload};
        err = segment_build_point(building, i, &point, diag);
    }
    return err;
}

static enum kith_err write_segment(void *arg, struct kith_diag *diag)
{
    struct sealing *sealing = arg;
    struct store *store = sealing->store;
    bool (*stop)(const void *) = sealing->index ? gives_up : stops;
    struct segment_build build = {
        .writer = store_segment_options(store, sealing->number, sealing->n_rows),
        .rows = {.n_rows = sealing->n_rows, .row = row_at, .ctx = sealing, .stop = stop},
        .stop = stop,
        .points = add_points,
        .points_ctx = sealing,
        .index = sealing->index ? store->index : NULL,
    };
    return segment_build_run(&build, &sealing->place, &sealing->bytes, diag);
}

/* With an index, unless that takes too long or too much memory. */
static enum kith_err write_best(struct store *store, struct sealing *sealing,
                                struct kith_diag *diag)
{
    if (!sealing->index)
        return write_segment(sealing, diag);
    enum kith_err err = store->background
                            ? store_maintain_aside(INDEX_NICE, write_segment, sealing, diag)
                            : write_segment(sealing, diag);
    if ((err != KITH_NOMEM && err != KITH_CANCELLED) || stops(sealing))
        return err;
    sealing->index = false;
    sealing->gave_up = true;
    return write_segment(sealing, diag);
}

enum kith_err store_seal_open(struct store *store, uint64_t number, struct segment **out,
                              struct kith_diag *diag)
{
    struct segment *segment = NULL;
    enum kith_err err = store_segment_open(store, number, &segment, diag);
    /* Here, where nobody waits for it, and not by the first searches. */
    if (err == KITH_OK)
        err = segment_index_verify(segment, NULL, NULL, diag);
    if (err == KITH_OK)
        *out = segment;
    else
        segment_unref(segment);
    return err == KITH_IO ? KITH_UNAVAILABLE : err;
}

void store_seal_insert(struct store *store, const struct view_part *part)
{
    kith_assert(store->n_segments < KITH_SEGMENTS_MAX);
    uint32_t at = store->n_segments++;
    while (at > 0 && segment_rows(store->segments[at - 1].segment) < segment_rows(part->segment)) {
        store->segments[at] = store->segments[at - 1];
        at--;
    }
    store->segments[at] = *part;
}

static enum kith_err swap_in(struct store *store, void *arg, struct kith_diag *diag)
{
    struct sealing *sealing = arg;
    kith_assert(store->n_heads >= 2 && store->heads[0] == sealing->head);
    if (atomic_load(&store->failed))
        return kith_fail(diag, KITH_IO, "the store has failed");
    struct view_part part = {.segment = sealing->segment};
    for (uint32_t i = 0; i < sealing->n_rows; i++) {
        if (head_row_now(sealing->head, sealing->rows[i]))
            continue;
        if (part.deletes == NULL && (part.deletes = deletes_new()) == NULL)
            return kith_fail(diag, KITH_NOMEM, "seal");
        bitmap_add(part.deletes->set, sealing->place[i]);
        part.deletes->count++;
    }
    if (part.segment != NULL)
        store_seal_insert(store, &part);
    uint64_t last_seq = store->head_last_seq[0], next_wal = store->head_next_wal[0];
    store->n_heads--;
    memmove(store->heads, store->heads + 1, store->n_heads * sizeof store->heads[0]);
    memmove(store->head_last_seq, store->head_last_seq + 1,
            store->n_heads * sizeof store->head_last_seq[0]);
    memmove(store->head_next_wal, store->head_next_wal + 1,
            store->n_heads * sizeof store->head_next_wal[0]);
    store->sealed_seq = last_seq;
    store->first_wal = next_wal;
    if (sealing->gave_up && store->plain_run < PLAIN_SEALS_MAX)
        store->plain_run = store->plain_run * 2 + 1;
    if (sealing->gave_up)
        store->plain_seals = store->plain_run;
    else if (sealing->index)
        store->plain_run = 0;
    head_unref(sealing->head); /* the parts' reference */
    sealing->segment = NULL;   /* now the parts' */
    /* Without a new view readers go on with the head: as right, only later. */
    struct view *view = NULL;
    if (store_write_view(store, &view, NULL) == KITH_OK)
        store_write_publish(store, view);
    pthread_mutex_lock(&store->lock);
    store->n_frozen--;
    pthread_mutex_unlock(&store->lock);
    return KITH_OK;
}

static enum kith_err seal(struct store *store, struct sealing *sealing, struct kith_diag *diag)
{
    uint64_t number = 0;
    char path[STORE_PATH_BYTES];
    enum kith_err err = pick_rows(sealing, diag);
    if (err == KITH_OK && sealing->n_rows > 0) {
        number = atomic_fetch_add(&store->next_file, 1);
        sealing->number = number;
        err = write_best(store, sealing, diag);
        if (err == KITH_OK)
            err = store_seal_open(store, number, &sealing->segment, diag);
    }
    if (err == KITH_OK)
        err = store_write_on_writer(store, swap_in, sealing, diag);
    if (err != KITH_OK && number != 0) {
        segment_writer_path(path, sizeof path, store->dir, number);
        (void)store->io->unlink(store->io->self, path, NULL);
    }
    return err;
}

static void finish(struct store *store, struct sealing *sealing, enum kith_err err)
{
    if (sealing->head != NULL)
        head_unref(sealing->head);
    segment_unref(sealing->segment);
    kith_free(sealing->rows);
    kith_free(sealing->place);
    uint64_t now = kith_now_ns();
    uint64_t before = atomic_exchange_explicit(&store->sealed_ns, now, memory_order_relaxed);
    atomic_store_explicit(&store->seal_gap_ns, now - before, memory_order_relaxed);
    pthread_mutex_lock(&store->lock);
    store->stats.written[STORE_SEAL] += sealing->bytes;
    store->seal_busy = false;
    store->merge_nudges++;
    store_rest_look_locked(store);
    /* Too many segments is no reason to refuse writes as long as merging gets on. */
    store->seal_fails = err != KITH_OK && (err != KITH_BUSY || store->merge_fails);
    store->seal_failures += store->seal_fails;
    pthread_cond_broadcast(&store->writer_wake);
    pthread_cond_broadcast(&store->changed);
    pthread_mutex_unlock(&store->lock);
}

enum kith_err store_seal_run(struct store *store, bool *did, struct kith_diag *diag)
{
    struct sealing sealing = {.store = store};
    *did = false;
    pthread_mutex_lock(&store->lock);
    bool busy = store->seal_busy || store->n_frozen == 0 || atomic_load(&store->failed);
    if (!busy)
        store->seal_busy = true;
    pthread_mutex_unlock(&store->lock);
    if (busy)
        return KITH_OK;
    enum kith_err err = store_write_on_writer(store, begin, &sealing, diag);
    if (err == KITH_OK && sealing.head != NULL) {
        bool before = io_use_reserve(true); /* its log goes in return */
        err = seal(store, &sealing, diag);
        (void)io_use_reserve(before);
        *did = err == KITH_OK;
    }
    if (err == KITH_IO)
        store_write_fail(store, diag);
    finish(store, &sealing, err);
    if (!*did)
        return err;
    err = store_checkpoint_run(store, diag);
    if (err == KITH_IO)
        store_write_fail(store, diag);
    /* The seal itself is done and stays; a checkpoint that found no room is tried again. */
    return err == KITH_DISK_FULL || err == KITH_NOMEM ? KITH_OK : err;
}

enum kith_err store_seal_here(struct store *store, bool *did, struct kith_diag *diag)
{
    enum kith_err err = store_seal_run(store, did, diag);
    if (err != KITH_BUSY)
        return err;
    err = store_merge_run(store, did, diag);
    return err == KITH_OK ? store_seal_run(store, did, diag) : err;
}
