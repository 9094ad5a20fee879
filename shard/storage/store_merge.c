#include <string.h>

#include "common/kith_clock.h"
#include "common/kith_mem.h"
#include "shard/storage/merge_policy.h"
#include "shard/storage/segment_build.h"
#include "shard/storage/store_state.h"

/* Merging: several segments become one, or one becomes smaller, or gets another index.
 * merge_policy.c says which.
 *
 * Rows of the sources are numbered three times: by their place in their segment; `taken`, counting
 * the live ones from the first segment to the last; and by their place in the new segment, which
 * the index chooses.
 *
 * Deletes go on while a merge runs. It reads the bitmaps of the view it began with; on the writer
 * thread, the swap looks up what was deleted since (now and not then) and carries each such row to
 * its new number. */

#define ROWS_MAX (1u << 28)
#define NO_ROW   UINT32_MAX
#define QUIET_NS UINT64_C(2000000000)  /* so long after a seal the next one is not at hand */
#define POUR_NS  UINT64_C(5000000000)  /* between two seals that follow one another */
#define REST_NS  UINT64_C(30000000000) /* nor in a while: most pauses of a filling are shorter */

#define CALM_NICE 10 /* of a merge nobody waits for: a tenth of what a search gets beside it */

struct merging {
    struct store *store;
    uint64_t number;                 /* of the new segment */
    bool plain;                      /* no index */
    struct view *view;               /* at the begin; keeps segments and bitmaps alive */
    struct merge_choice choice;      /* from: indexes into view->segments */
    uint32_t *map[MERGE_POLICY_MAX]; /* row of a source -> taken, NO_ROW = was deleted */
    uint32_t ends[MERGE_POLICY_MAX]; /* taken below it: of sources up to this one */
    uint32_t *rows;                  /* taken -> row of its source */
    uint32_t *place;                 /* taken -> row of the new segment */
    uint32_t n_rows;
    uint64_t seen; /* nudges */
    uint64_t bytes;
    struct segment *segment;
};

static const struct view_segment *source_of(const struct merging *merging, uint32_t k)
{
    return &merging->view->segments[merging->choice.from[k]];
}

/* On a full disk: the segment that needs least room and gives some back. */
static void choose_smallest(struct merging *merging)
{
    const struct view *view = merging->view;
    uint32_t best = UINT32_MAX;
    for (uint32_t i = 0; i < view->n_segments; i++) {
        const struct view_segment *part = &view->segments[i];
        if (part->live < segment_rows(part->segment) &&
            (best == UINT32_MAX || part->live < view->segments[best].live))
            best = i;
    }
    merging->choice = (struct merge_choice){.n = best != UINT32_MAX, .from = {best}};
}

static void choose(struct merging *merging)
{
    const struct store *store = merging->store;
    const struct view *view = merging->view;
    struct merge_part parts[KITH_SEGMENTS_MAX];
    for (uint32_t i = 0; i < view->n_segments; i++) {
        const struct segment *segment = view->segments[i].segment;
        parts[i] = (struct merge_part){
            .rows = segment_rows(segment),
            .live = view->segments[i].live,
            .want = store->index == NULL ? INDEX_WANT_NOTHING
                                         : store->index->wants(store->index->self, segment),
        };
    }
    uint64_t sealed = atomic_load_explicit(&store->sealed_ns, memory_order_relaxed);
    uint64_t now = kith_now_ns(), since = sealed > store->opened_ns ? sealed : store->opened_ns;
    bool quiet = !store->background || (view->n_heads == 1 && now - sealed >= QUIET_NS);
    bool rests = atomic_load_explicit(&store->rests, memory_order_relaxed) ||
                 (store->background && now - since >= REST_NS);
    bool pours = store->background &&
                 atomic_load_explicit(&store->seal_gap_ns, memory_order_relaxed) < POUR_NS;
    enum merge_pace pace = !quiet ? MERGE_BUSY : rests ? MERGE_REST : MERGE_QUIET;
    if (atomic_load_explicit(&store->merges_held, memory_order_relaxed))
        pace = MERGE_HELD;
    merge_policy_choose(parts, view->n_segments, store->head_rows_max, pace, pours,
                        &merging->choice);
}

static enum kith_err number_rows(struct merging *merging, struct kith_diag *diag)
{
    uint64_t live = 0;
    for (uint32_t k = 0; k < merging->choice.n; k++)
        live += source_of(merging, k)->live;
    if (live > ROWS_MAX)
        return kith_fail(diag, KITH_TOO_BIG, "a merge of more than %u rows", ROWS_MAX);
    merging->rows = kith_alloc((size_t)live * sizeof *merging->rows);
    if (merging->rows == NULL)
        return kith_fail(diag, KITH_NOMEM, "merge");
    uint32_t taken = 0;
    for (uint32_t k = 0; k < merging->choice.n; k++) {
        const struct view_segment *part = source_of(merging, k);
        uint32_t rows = segment_rows(part->segment);
        merging->map[k] = kith_alloc((size_t)rows * sizeof(uint32_t));
        if (merging->map[k] == NULL)
            return kith_fail(diag, KITH_NOMEM, "merge");
        for (uint32_t row = 0; row < rows; row++) {
            bool gone = part->deleted != NULL && bitmap_contains(part->deleted, row);
            merging->map[k][row] = gone ? NO_ROW : taken;
            if (!gone)
                merging->rows[taken++] = row;
        }
        merging->ends[k] = taken;
    }
    kith_assert(taken == live);
    merging->n_rows = taken;
    return KITH_OK;
}

static const void *row_at(const void *ctx, uint32_t taken)
{
    const struct merging *merging = ctx;
    uint32_t k = 0;
    while (taken >= merging->ends[k])
        k++;
    return segment_row_data(source_of(merging, k)->segment, merging->rows[taken], 1);
}

static bool stops(const void *ctx)
{
    const struct merging *merging = ctx;
    return atomic_load_explicit(&merging->store->stop_background, memory_order_relaxed);
}

/* Asked while the index is made: too many segments have come meanwhile. */
static bool gives_up(const void *ctx)
{
    struct store *store = ((const struct merging *)ctx)->store;
    if (stops(ctx))
        return true;
    pthread_mutex_lock(&store->lock);
    uint32_t n = store->stats.segments + store->n_frozen;
    pthread_mutex_unlock(&store->lock);
    return store->background && merge_policy_is_pressed(n);
}

/* The points of one source, block of payloads by block. */
static enum kith_err add_source(const struct merging *merging, uint32_t k,
                                struct segment_building *building, struct kith_diag *diag)
{
    const struct segment *segment = source_of(merging, k)->segment;
    struct segment_cache cache = {0};
    uint32_t *order = kith_alloc((size_t)segment_rows(segment) * sizeof *order);
    if (order == NULL)
        return kith_fail(diag, KITH_NOMEM, "merge");
    enum kith_err err = segment_payload_order(segment, order, diag);
    for (uint32_t i = 0; i < segment_rows(segment) && err == KITH_OK; i++) {
        uint32_t row = order[i];
        if (merging->map[k][row] == NO_ROW)
            continue;
        struct kith_id id = segment_id(segment, row);
        struct segment_point point = {.id = &id, .seq = segment_seq(segment, row)};
        err = segment_payload_cached(segment, row, &cache, &point.payload, diag);
        if (err == KITH_OK)
            err = segment_build_point(building, merging->map[k][row], &point, diag);
    }
    segment_cache_fini(&cache);
    kith_free(order);
    return err;
}

static enum kith_err add_points(void *ctx, struct segment_building *building,
                                struct kith_diag *diag)
{
    const struct merging *merging = ctx;
    enum kith_err err = KITH_OK;
    for (uint32_t k = 0; k < merging->choice.n && err == KITH_OK; k++)
        err = add_source(merging, k, building, diag);
    return err;
}

static enum kith_err write_segment(void *arg, struct kith_diag *diag)
{
    struct merging *merging = arg;
    struct store *store = merging->store;
    struct segment_origin origins[MERGE_POLICY_MAX];
    _Static_assert(MERGE_POLICY_MAX <= SEGMENT_ORIGINS_MAX, "each source is an origin");
    for (uint32_t k = 0; k < merging->choice.n; k++) {
        uint32_t first = k > 0 ? merging->ends[k - 1] : 0;
        origins[k] = (struct segment_origin){.segment = source_of(merging, k)->segment,
                                             .rows = merging->rows + first,
                                             .first = first,
                                             .n = merging->ends[k] - first};
    }
    struct segment_build build = {
        .writer = store_segment_options(store, merging->number, merging->n_rows),
        .rows = {.n_rows = merging->n_rows,
                 .row = row_at,
                 .ctx = merging,
                 .stop = gives_up,
                 .origins = origins,
                 .n_origins = merging->choice.n},
        .stop = stops,
        .points = add_points,
        .points_ctx = merging,
        .index = merging->plain ? NULL : store->index,
    };
    return segment_build_run(&build, &merging->place, &merging->bytes, diag);
}

#ifdef KITH_BUG_MERGE_ON_WRITER
static enum kith_err write_on_writer(struct store *store, void *arg, struct kith_diag *diag)
{
    (void)store;
    return write_segment(arg, diag);
}
#endif

/* With an index there is time, as a rule; if not, this thread's priority is the right one. */
static enum kith_err write_best(struct store *store, struct merging *merging,
                                struct kith_diag *diag)
{
#ifdef KITH_BUG_MERGE_ON_WRITER
    return store_write_on_writer(store, write_on_writer, merging, diag);
#endif
    merging->plain = merging->choice.plain || store->index == NULL;
    if (!merging->plain && store->background) {
        enum kith_err err = store_maintain_aside(CALM_NICE, write_segment, merging, diag);
        if (err != KITH_CANCELLED || stops(merging) || merging->choice.n == 1)
            return err;
        merging->plain = true;
    }
    return write_segment(merging, diag);
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
    const struct view_segment *then = source_of(merging, k);
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
            bitmap_add((*into)->set, merging->place[merging->map[k][rows[i]]]);
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
    for (uint32_t k = 0; k < merging->choice.n && err == KITH_OK; k++)
        err = carry(store, merging, k, &part.deletes, diag);
    if (err != KITH_OK) {
        deletes_unref(part.deletes);
        return err;
    }
    segment_cache_fini(&store->cache); /* may hold a block of a segment that goes now */
    for (uint32_t k = 0; k < merging->choice.n; k++) {
        uint32_t i = index_of(store, source_of(merging, k)->segment);
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
        number = merging->number = atomic_fetch_add(&store->next_file, 1);
        err = write_best(store, merging, diag);
        /* What was copied must be what was written once. */
        err = view_verdict(&merging->view, 1, err, diag);
        if (err == KITH_OK)
            err = store_seal_open(store, number, &merging->segment, diag);
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

static bool take_turn(struct store *store, struct merging *merging)
{
    pthread_mutex_lock(&store->lock);
    bool free = !store->merge_busy && !atomic_load(&store->failed);
    if (free)
        store->merge_busy = true;
    merging->seen = store->merge_nudges;
    pthread_mutex_unlock(&store->lock);
    return free;
}

static enum store_cause cause_of(enum merge_why why)
{
    return why == MERGE_WHY_NUMBER  ? STORE_MERGE
           : why == MERGE_WHY_INDEX ? STORE_INDEX
                                    : STORE_REST;
}

static void give_turn(struct store *store, const struct merging *merging, bool did,
                      enum kith_err err)
{
    bool gave_up = err == KITH_CANCELLED, failed = err != KITH_OK && !gave_up;
    pthread_mutex_lock(&store->lock);
    store->merge_busy = false;
    store->merge_fails = failed;
    store->merge_waits = merging->choice.waits;
    store->merge_gathers = merging->choice.gathers;
    if (!did && !failed)
        store->merge_settled = merging->seen;
    store->stats.index_pending = merging->choice.pending;
    store->stats.written[cause_of(merging->choice.why)] += merging->bytes;
    store->maintain_nudges += did; /* there may be room for a segment again */
    store->merge_nudges += gave_up;
    if (did)
        store_rest_look_locked(store);
    pthread_cond_broadcast(&store->changed);
    pthread_mutex_unlock(&store->lock);
}

enum kith_err store_merge_run(struct store *store, bool *did, struct kith_diag *diag)
{
    *did = false;
    struct merging merging = {.store = store};
    if (!take_turn(store, &merging))
        return KITH_OK;
    enum kith_err err = store_write_on_writer(store, begin, &merging, diag);
    /* A damaged segment stays as it is, for whoever can repair it; so do the others till then. */
    if (err == KITH_OK && view_verdict(&merging.view, 1, KITH_OK, NULL) == KITH_OK)
        choose(&merging);
    if (merging.choice.n > 0 && atomic_exchange(&store->tight, false))
        choose_smallest(&merging);
    if (merging.choice.n > 0) {
        bool before = io_use_reserve(true); /* what it replaces goes in return */
        err = merge(store, &merging, diag);
        (void)io_use_reserve(before);
        *did = err == KITH_OK;
    }
    segment_unref(merging.segment);
    for (uint32_t k = 0; k < merging.choice.n; k++)
        kith_free(merging.map[k]);
    kith_free(merging.rows);
    kith_free(merging.place);
    view_unref(merging.view);
    if (*did)
        err = store_checkpoint_run(store, diag);
    if (err == KITH_DISK_FULL)
        atomic_store(&store->tight, true);
    if (err == KITH_IO)
        store_write_fail(store, diag);
    give_turn(store, &merging, *did, err);
    return *did && (err == KITH_DISK_FULL || err == KITH_NOMEM) ? KITH_OK : err;
}
