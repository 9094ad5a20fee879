#include <time.h>
#include <unistd.h>

#include "common/kith_clock.h"
#include "common/kith_log.h"
#include "common/kith_thread.h"
#include "shard/storage/store_state.h"

/* Two threads, so that a long merge never keeps a full head waiting: one seals, one merges. Each
 * sleeps until something changed, works, and looks again; the sealer also until the active head is
 * at rest. After a failure that may pass (a full disk, no memory) it tries again after a second, or
 * when the writer asks. */

#define RETRY_NS UINT64_C(1000000000)

/* Building indexes takes a CPU for seconds to minutes: queries and writes come first. Merges must
 * keep up with the writes in the long run, though: a merge that writes wait for is more urgent. */
#define MERGER_NICE 5

/* Waits for the next change, until then; 0: however long. Called with the lock. */
static void wait_locked(struct store *store, uint64_t until_ns)
{
    struct timespec until = {.tv_sec = (time_t)(until_ns / 1000000000u),
                             .tv_nsec = (long)(until_ns % 1000000000u)};
    if (until_ns == 0)
        pthread_cond_wait(&store->changed, &store->lock);
    else
        (void)pthread_cond_timedwait(&store->changed, &store->lock, &until);
}

static void report(const struct store *store, const char *what, const struct kith_diag *diag)
{
    if (diag->err != KITH_CANCELLED && !atomic_load(&store->failed))
        kith_log(WARN, "store.maintain", "dir=%s step=%s error=\"%s\"", store->dir, what,
                 diag->text);
}

static bool has_come(uint64_t due_ns)
{
    return due_ns > 0 && kith_now_ns() >= due_ns;
}

/* Until there is something to seal. False: stop. */
static bool wait_for_head(struct store *store, bool retry)
{
    uint64_t again_ns = retry ? kith_now_ns() + RETRY_NS : 0;
    pthread_mutex_lock(&store->lock);
    uint64_t nudges = store->maintain_nudges;
    while (!atomic_load(&store->stop_background)) {
        if (has_come(again_ns) || store->maintain_nudges != nudges)
            again_ns = 0;
        uint64_t rest_ns = store_rest_due_ns(store);
        bool due = store->n_frozen > 0 || has_come(rest_ns);
        if (due && again_ns == 0 && !atomic_load(&store->failed))
            break;
        wait_locked(store, atomic_load(&store->failed) ? 0 : again_ns > 0 ? again_ns : rest_ns);
    }
    bool stop = atomic_load(&store->stop_background);
    pthread_mutex_unlock(&store->lock);
    return !stop;
}

static void *sealer_thread(void *arg)
{
    struct store *store = arg;
    bool retry = false;
    (void)pthread_setname_np(pthread_self(), "kith-sealer");
    kith_thread_bulk();
    while (wait_for_head(store, retry)) {
        struct kith_diag diag = {0};
        bool did = false;
        enum kith_err err = KITH_OK;
        if (has_come(store_rest_due_ns(store)))
            err = store_rest_run(store, &did, &diag);
        if (err == KITH_OK)
            err = store_seal_run(store, &did, &diag);
        retry = err != KITH_OK;
        if (retry)
            report(store, "seal", &diag);
    }
    return NULL;
}

/* Something to come back for: files still read, a checkpoint or a merge that failed, one that waits
 * for a quiet time. */
static bool has_leftovers(struct store *store)
{
    return store->n_graveyard > 0 || store->merge_fails || store->merge_waits ||
           store->merge_gathers || atomic_load(&store->checkpoint_due);
}

static void *merger_thread(void *arg)
{
    struct store *store = arg;
    bool again = true;
    uint64_t seen = 0;
    (void)pthread_setname_np(pthread_self(), "kith-merger");
    kith_thread_behind(MERGER_NICE);
    for (;;) {
        pthread_mutex_lock(&store->lock);
        if (!again && store->merge_nudges == seen && !atomic_load(&store->stop_background))
            wait_locked(store, has_leftovers(store) ? kith_now_ns() + RETRY_NS : 0);
        seen = store->merge_nudges;
        bool stop = atomic_load(&store->stop_background);
        pthread_mutex_unlock(&store->lock);
        if (stop)
            return NULL;
        struct kith_diag diag = {0};
        store_checkpoint_reap(store);
        if (store_merge_run(store, &again, &diag) != KITH_OK)
            report(store, "merge", &diag);
        bool due = !again && atomic_load(&store->checkpoint_due) && !atomic_load(&store->failed);
        if (due && store_checkpoint_run(store, &diag) != KITH_OK) {
            report(store, "checkpoint", &diag);
            if (diag.err == KITH_IO)
                store_write_fail(store, &diag);
        }
    }
}

struct aside {
    int nice;
    bool reserve;
    enum kith_err (*run)(void *arg, struct kith_diag *diag);
    void *arg;
    struct kith_diag *diag;
    enum kith_err err;
};

static void *aside_thread(void *arg)
{
    struct aside *aside = arg;
    (void)pthread_setname_np(pthread_self(), "kith-aside");
    kith_thread_behind(aside->nice);
    (void)io_use_reserve(aside->reserve);
    aside->err = aside->run(aside->arg, aside->diag);
    return NULL;
}

enum kith_err store_maintain_aside(int nice,
                                   enum kith_err (*run)(void *arg, struct kith_diag *diag),
                                   void *arg, struct kith_diag *diag)
{
    struct aside aside = {.nice = nice, .run = run, .arg = arg, .diag = diag};
    pthread_t thread;
    aside.reserve = io_use_reserve(false);
    (void)io_use_reserve(aside.reserve);
    if (pthread_create(&thread, NULL, aside_thread, &aside) != 0)
        return run(arg, diag);
    (void)pthread_join(thread, NULL);
    return aside.err;
}

enum kith_err store_maintain_start(struct store *store, struct kith_diag *diag)
{
    if (!store->background)
        return KITH_OK;
    if (pthread_create(&store->sealer, NULL, sealer_thread, store) != 0)
        return kith_fail(diag, KITH_NOMEM, "sealing thread");
    store->sealer_runs = true;
    if (pthread_create(&store->merger, NULL, merger_thread, store) != 0)
        return kith_fail(diag, KITH_NOMEM, "merging thread");
    store->merger_runs = true;
    return KITH_OK;
}

void store_maintain_stop(struct store *store)
{
    pthread_mutex_lock(&store->lock);
    atomic_store(&store->stop_background, true);
    pthread_cond_broadcast(&store->changed);
    pthread_mutex_unlock(&store->lock);
    if (store->sealer_runs)
        (void)pthread_join(store->sealer, NULL);
    if (store->merger_runs)
        (void)pthread_join(store->merger, NULL);
    store->sealer_runs = store->merger_runs = false;
}

enum kith_err store_maintain(struct store *store, bool *did_work, struct kith_diag *diag)
{
    bool sealed = false, merged = false;
    enum kith_err err = store_seal_run(store, &sealed, diag);
    if (err == KITH_OK)
        err = store_merge_run(store, &merged, diag);
    store_checkpoint_reap(store);
    if (err == KITH_OK && atomic_load(&store->checkpoint_due) && !atomic_load(&store->failed))
        err = store_checkpoint_run(store, diag);
    *did_work = sealed || merged;
    return err;
}

void store_assume_rest(struct store *store)
{
    atomic_store_explicit(&store->rests, true, memory_order_relaxed);
}
