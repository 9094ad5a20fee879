#include <string.h>

#include "common/kith_mem.h"
#include "shard/storage/segment_writer.h"
#include "shard/storage/store_state.h"

/* Merging: several segments become one, or one becomes smaller.
 *
 * Policy, size-tiered: segments of about the same number of live rows (within a factor of 4) form a
 * tier; four of a tier are merged, so a point is rewritten once per factor of four. A segment with
 * a fifth of its rows deleted is rewritten alone, so that disk use stays within 1.25 of the live
 * data. Above SEGMENTS_WANTED the smallest are merged whatever their sizes. What lost: leveled
 * merging (more bytes written per byte kept, and a query must look at all segments either way).
 *
 * Deletes go on while a merge runs. It reads the bitmaps of the view it began with; on the writer
 * thread, the swap looks up what was deleted since (now and not then) and carries each such row to
 * its new number. */

#define TIER_FACTOR     4u
#define TIER_FULL       4u
#define MERGE_MAX       8u
#define SEGMENTS_WANTED 12u
#define ROWS_MAX        (1u << 28)

struct merging {
    struct view *view; /* at the begin; keeps segments and bitmaps alive */
    uint32_t n;
    uint32_t from[KITH_SEGMENTS_MAX]; /* indexes into view->segments */
    uint32_t *map[KITH_SEGMENTS_MAX]; /* old row -> new row; UINT32_MAX = was deleted */
    uint32_t n_rows;
    struct segment *segment;
};

static uint32_t tier_of(uint32_t live, uint32_t base)
{
    uint32_t tier = 0;
    for (uint64_t edge = base; live > edge && tier < 16; edge *= TIER_FACTOR)
        tier++;
    return tier;
}

bool store_merge_is_holey(const struct segment *segment, uint32_t n_deleted)
{
    return (uint64_t)n_deleted * 5 >= segment_rows(segment);
}

/* The smallest segments of one tier (or of any: tier = ANY_TIER). view->segments has the most rows
 * first. */
#define ANY_TIER UINT32_MAX
static void choose_smallest(struct merging *merging, uint32_t base, uint32_t tier)
{
    const struct view *view = merging->view;
    for (uint32_t i = view->n_segments; i-- > 0 && merging->n < MERGE_MAX;)
        if (tier == ANY_TIER || tier_of(view->segments[i].live, base) == tier)
            merging->from[merging->n++] = i;
}

/* Fills from[]; n = 0: nothing to do. */
static void choose(struct merging *merging, uint32_t base)
{
    const struct view *view = merging->view;
    uint32_t by_tier[17] = {0}, holey = UINT32_MAX;
    for (uint32_t i = 0; i < view->n_segments; i++) {
        const struct view_segment *part = &view->segments[i];
        uint32_t rows = segment_rows(part->segment);
        if (store_merge_is_holey(part->segment, rows - part->live))
            holey = i;
        by_tier[tier_of(part->live, base)]++;
    }
    for (uint32_t tier = 0; tier < 17 && merging->n == 0; tier++)
        if (by_tier[tier] >= TIER_FULL)
            choose_smallest(merging, base, tier);
    if (merging->n == 0 && view->n_segments > SEGMENTS_WANTED)
        choose_smallest(merging, base, ANY_TIER);
    if (merging->n == 0 && holey != UINT32_MAX)
        merging->from[merging->n++] = holey;
}

static enum kith_err number_rows(struct merging *merging, struct kith_diag *diag)
{
    uint64_t total = 0;
    for (uint32_t k = 0; k < merging->n; k++) {
        const struct view_segment *part = &merging->view->segments[merging->from[k]];
        uint32_t rows = segment_rows(part->segment);
        merging->map[k] = kith_alloc((size_t)rows * sizeof(uint32_t));
        if (merging->map[k] == NULL)
            return kith_fail(diag, KITH_NOMEM, "merge");
        for (uint32_t row = 0; row < rows; row++) {
            bool gone = part->deleted != NULL && bitmap_contains(part->deleted, row);
            merging->map[k][row] = gone ? UINT32_MAX : (uint32_t)total++;
        }
    }
    if (total > ROWS_MAX)
        return kith_fail(diag, KITH_TOO_BIG, "a merge of more than %u rows", ROWS_MAX);
    merging->n_rows = (uint32_t)total;
    return KITH_OK;
}

static enum kith_err check_stop(const struct store *store, struct kith_diag *diag)
{
    return atomic_load_explicit(&store->stop_background, memory_order_relaxed)
               ? kith_fail(diag, KITH_CANCELLED, "closing")
               : KITH_OK;
}

static enum kith_err write_rows(struct store *store, const struct merging *merging,
                                struct segment_writer *writer, struct kith_diag *diag)
{
    enum kith_err err = KITH_OK;
    for (uint32_t k = 0; k < merging->n && err == KITH_OK; k++) {
        const struct segment *segment = merging->view->segments[merging->from[k]].segment;
        const uint8_t *rows = segment_row_data(segment);
        for (uint32_t row = 0; row < segment_rows(segment) && err == KITH_OK; row++) {
            if (merging->map[k][row] == UINT32_MAX)
                continue;
            err = segment_writer_row(writer, rows + (size_t)row * store->row_bytes, diag);
            if (err == KITH_OK && row % 1024 == 0)
                err = check_stop(store, diag);
        }
    }
    return err;
}

static enum kith_err write_points(struct store *store, const struct merging *merging,
                                  struct segment_writer *writer, struct kith_diag *diag)
{
    struct segment_cache cache = {0};
    enum kith_err err = KITH_OK;
    for (uint32_t k = 0; k < merging->n && err == KITH_OK; k++) {
        const struct segment *segment = merging->view->segments[merging->from[k]].segment;
        for (uint32_t row = 0; row < segment_rows(segment) && err == KITH_OK; row++) {
            if (merging->map[k][row] == UINT32_MAX)
                continue;
            struct kith_bytes payload;
            err = segment_payload_cached(segment, row, &cache, &payload, diag);
            if (err == KITH_OK)
                err = segment_writer_point(writer, &segment_ids(segment)[row],
                                           segment_seqs(segment)[row], payload, diag);
            if (err == KITH_OK && row % 1024 == 0)
                err = check_stop(store, diag);
        }
    }
    segment_cache_fini(&cache);
    return err;
}

static enum kith_err write_segment(struct store *store, const struct merging *merging,
                                   uint64_t number, struct kith_diag *diag)
{
    struct segment_writer_options options = {
        .io = store->io,
        .dir = store->dir,
        .config = &store->config,
        .number = number,
        .n_rows = merging->n_rows,
    };
    struct segment_writer *writer = NULL;
    enum kith_err err = segment_writer_new(&writer, &options, diag);
    if (err == KITH_OK)
        err = write_rows(store, merging, writer, diag);
    if (err == KITH_OK)
        err = write_points(store, merging, writer, diag);
    if (err == KITH_OK)
        err = segment_writer_finish(writer, diag);
    segment_writer_free(writer);
    return err;
}

static uint32_t index_of(const struct store *store, const struct segment *segment)
{
    uint32_t i = 0;
    while (store->segments[i].segment != segment) {
        i++;
        kith_assert(i < store->n_segments); /* only a merge removes one, and there is one merge */
    }
    return i;
}

/* Rows of one old segment that went while the merge ran, into the new segment's bitmap. */
static enum kith_err carry(const struct store *store, const struct merging *merging, uint32_t k,
                           struct deletes **into, struct kith_diag *diag)
{
    const struct view_segment *then = &merging->view->segments[merging->from[k]];
    const struct deletes *now = store->segments[index_of(store, then->segment)].deletes;
    if (deletes_count(now) == segment_rows(then->segment) - then->live)
        return KITH_OK; /* rows only ever go */
    struct bitmap *fresh = bitmap_copy(now->set);
    if (fresh == NULL)
        return kith_fail(diag, KITH_NOMEM, "merge");
    if (then->deleted != NULL)
        bitmap_andnot(fresh, then->deleted);
    uint32_t rows[256], from = 0;
    enum kith_err err = KITH_OK;
    for (size_t n; err == KITH_OK && (n = bitmap_read(fresh, from, rows, 256)) > 0;) {
        if (*into == NULL && (*into = deletes_new()) == NULL)
            err = kith_fail(diag, KITH_NOMEM, "merge");
        for (size_t i = 0; i < n && err == KITH_OK; i++) {
            bitmap_add((*into)->set, merging->map[k][rows[i]]);
            (*into)->count++;
        }
        from = rows[n - 1] + 1;
    }
    bitmap_free(fresh);
    return err;
}

static enum kith_err swap_in(struct store *store, void *arg, struct kith_diag *diag)
{
    struct merging *merging = arg;
    struct view_part part = {.segment = merging->segment};
    enum kith_err err = KITH_OK;
    if (atomic_load(&store->failed))
        err = kith_fail(diag, KITH_IO, "the store has failed");
    for (uint32_t k = 0; k < merging->n && err == KITH_OK; k++)
        err = carry(store, merging, k, &part.deletes, diag);
    if (err != KITH_OK) {
        deletes_unref(part.deletes);
        return err;
    }
    segment_cache_fini(&store->cache); /* may hold a block of a segment that goes now */
    for (uint32_t k = 0; k < merging->n; k++) {
        uint32_t i = index_of(store, merging->view->segments[merging->from[k]].segment);
        deletes_unref(store->segments[i].deletes);
        segment_unref(store->segments[i].segment);
        store->n_segments--;
        memmove(&store->segments[i], &store->segments[i + 1],
                (store->n_segments - i) * sizeof store->segments[0]);
    }
    if (part.segment != NULL)
        store_seal_insert(store, &part);
    merging->segment = NULL;
    struct view *view = NULL;
    if (store_write_view(store, &view, NULL) == KITH_OK)
        store_write_publish(store, view);
    return KITH_OK;
}

static enum kith_err merge(struct store *store, struct merging *merging, struct kith_diag *diag)
{
    uint64_t number = 0;
    enum kith_err err = number_rows(merging, diag);
    if (err == KITH_OK && merging->n_rows > 0) {
        number = atomic_fetch_add(&store->next_file, 1);
        err = write_segment(store, merging, number, diag);
        if (err == KITH_OK)
            err = segment_open(&merging->segment, store->io, store->dir, number, &store->config,
                               diag);
    }
    if (err == KITH_OK)
        err = store_write_on_writer(store, swap_in, merging, diag);
    if (err != KITH_OK && number != 0) {
        char path[STORE_PATH_BYTES];
        segment_writer_path(path, sizeof path, store->dir, number);
        (void)store->io->unlink(store->io->self, path, NULL);
    }
    return err;
}

static enum kith_err begin(struct store *store, void *arg, struct kith_diag *diag)
{
    return store_write_view(store, &((struct merging *)arg)->view, diag);
}

static bool take_turn(struct store *store)
{
    pthread_mutex_lock(&store->lock);
    bool free = !store->merge_busy && !atomic_load(&store->failed);
    if (free)
        store->merge_busy = true;
    pthread_mutex_unlock(&store->lock);
    return free;
}

static void give_turn(struct store *store, bool failed)
{
    pthread_mutex_lock(&store->lock);
    store->merge_busy = false;
    store->merge_fails = failed;
    pthread_cond_broadcast(&store->changed);
    pthread_mutex_unlock(&store->lock);
}

enum kith_err store_merge_run(struct store *store, bool *did, struct kith_diag *diag)
{
    *did = false;
    if (!take_turn(store))
        return KITH_OK;
    struct merging merging = {0};
    enum kith_err err = store_write_on_writer(store, begin, &merging, diag);
    if (err == KITH_OK)
        choose(&merging, store->head_rows_max);
    if (merging.n > 0) {
        err = merge(store, &merging, diag);
        *did = err == KITH_OK;
    }
    segment_unref(merging.segment);
    for (uint32_t k = 0; k < merging.n; k++)
        kith_free(merging.map[k]);
    view_unref(merging.view);
    if (*did)
        err = store_checkpoint_run(store, diag);
    if (err == KITH_IO)
        store_write_fail(store, diag);
    give_turn(store, err != KITH_OK);
    return *did && (err == KITH_DISK_FULL || err == KITH_NOMEM) ? KITH_OK : err;
}
