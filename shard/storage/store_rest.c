#include "common/kith_clock.h"
#include "shard/storage/store_state.h"

/* A head at rest: rows that nobody adds to any more, and that every search scans, because only a
 * segment has an index. When no write came for a while, and a segment of the head's live rows would
 * be given an index, the head is turned over like a full one, and sealed. What is too small for
 * that stays: scanning it costs less than a file.
 *
 * `rest_ns` says when to look again: the writer thread puts it off with every group, so the sealer,
 * which waits for it, wakes once in a while beside steady writes and never without any. Whether the
 * head is at rest is decided on the writer thread, between two groups; a write that comes at that
 * moment waits for a new log file as it would behind a full head, and not for the seal.
 *
 * Hooks may answer otherwise after a merge or with another codebook, so those look again, too. */

#define NEVER UINT64_MAX

void store_rest_note(struct store *store)
{
    if (!store->background || store->index == NULL)
        return;
    uint64_t before = atomic_exchange_explicit(
        &store->rest_ns, store->group_end_ns + store->rest_after_ns, memory_order_relaxed);
    if (before != NEVER)
        return; /* the sealer waits for that, and will see this */
    pthread_mutex_lock(&store->lock);
    pthread_cond_broadcast(&store->changed);
    pthread_mutex_unlock(&store->lock);
}

void store_rest_look_locked(struct store *store)
{
    uint64_t never = NEVER;
    if (store->background && store->index != NULL)
        (void)atomic_compare_exchange_strong_explicit(&store->rest_ns, &never, kith_now_ns(),
                                                      memory_order_relaxed, memory_order_relaxed);
}

uint64_t store_rest_due_ns(const struct store *store)
{
    uint64_t due_ns = atomic_load_explicit(&store->rest_ns, memory_order_relaxed);
    bool held = atomic_load_explicit(&store->merges_held, memory_order_relaxed);
    return due_ns == NEVER || held ? 0 : due_ns; /* releasing looks again */
}

static enum kith_err turn(struct store *store, void *arg, struct kith_diag *diag)
{
    const struct head *active = store->heads[store->n_heads - 1];
    uint64_t end_ns = store->group_end_ns + store->rest_after_ns;
    if (store->n_heads > 1 || atomic_load(&store->failed) || head_live(active) == 0)
        return KITH_OK;
    if (store->background && kith_now_ns() < end_ns) {
        atomic_store_explicit(&store->rest_ns, end_ns, memory_order_relaxed);
        return KITH_OK;
    }
    if (store->index == NULL || !store->index->takes(store->index->self, head_live(active)))
        return KITH_OK;
    enum kith_err err = store_turn_run(store, store_turn_head_cap(store), diag);
    *(bool *)arg = err == KITH_OK;
    return err;
}

enum kith_err store_rest_run(struct store *store, bool *did, struct kith_diag *diag)
{
    *did = false;
    atomic_store_explicit(&store->rest_ns, NEVER, memory_order_relaxed);
    enum kith_err err = store_write_on_writer(store, turn, did, diag);
    if (err != KITH_OK)
        atomic_store_explicit(&store->rest_ns, kith_now_ns() + store->rest_after_ns,
                              memory_order_relaxed);
    return err;
}

enum kith_err store_rest(struct store *store, bool *did_work, struct kith_diag *diag)
{
    enum kith_err err = store_rest_run(store, did_work, diag);
    return err == KITH_OK && *did_work ? store_seal_here(store, did_work, diag) : err;
}
