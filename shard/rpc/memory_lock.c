#include "shard/rpc/memory_lock.h"

#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "common/kith_log.h"
#include "common/kith_mem.h"
#include "shard/index/ivf.h"
#include "shard/storage/residency.h"

/* One thread makes all the calls, with references to the segments it works on; the lock guards only
 * the list of what is locked, for those who ask. A segment that is gone was unlocked by unmapping
 * it, so an entry of which no segment is left is dropped, and serials never come again. */

#define LOOK_MS 1000u

struct entry {
    struct segment *segment; /* a reference while a look lasts; NULL in the kept list */
    uint64_t serial, bytes;
    unsigned section;
    uint32_t order; /* lower: locked first */
};

struct memory_lock {
    struct slice_table *slices;
    uint64_t budget;
    pthread_t thread;
    bool has_thread;
    pthread_mutex_t lock;
    pthread_cond_t wake;
    /* Guarded by lock. */
    bool closing, refused;
    struct entry *kept;
    size_t n_kept, kept_cap;
    /* Of the look in progress. */
    struct entry *found;
    size_t n_found, found_cap;
    bool failed; /* no memory to note what is there */
};

static const unsigned sections[] = {IVF_SECTION_CODES, IVF_SECTION_TERMS, IVF_SECTION_ROWS8};
#define N_SECTIONS (sizeof sections / sizeof *sections)

static bool note_store(void *ctx, const struct slice_config *config, struct store *store)
{
    struct memory_lock *lock = ctx;
    struct view *view = store_view(store);
    (void)config;
    for (uint32_t i = 0; i < view->n_segments && !lock->failed; i++) {
        struct segment *segment = view->segments[i].segment;
        for (uint32_t s = 0; s < N_SECTIONS; s++) {
            size_t bytes = segment_place(segment, sections[s]).len;
            if (bytes == 0 || segment_index(segment) == NULL)
                continue;
            if (!kith_grow((void **)&lock->found, &lock->found_cap, lock->n_found + 1,
                           sizeof *lock->found)) {
                lock->failed = true;
                break;
            }
            segment_ref(segment);
            lock->found[lock->n_found++] =
                (struct entry){.segment = segment,
                               .serial = segment_serial(segment),
                               .bytes = bytes,
                               .section = sections[s],
                               .order = sections[s] == IVF_SECTION_ROWS8};
        }
    }
    view_unref(view);
    return !lock->failed;
}

static int compare(const void *a, const void *b)
{
    const struct entry *x = a, *y = b;
    if (x->order != y->order)
        return x->order < y->order ? -1 : 1;
    if (x->serial != y->serial)
        return x->serial < y->serial ? -1 : 1;
    return x->section < y->section ? -1 : x->section > y->section;
}

static struct entry *kept_locked(struct memory_lock *lock, uint64_t serial, unsigned section)
{
    for (size_t i = 0; i < lock->n_kept; i++)
        if (lock->kept[i].serial == serial && lock->kept[i].section == section)
            return &lock->kept[i];
    return NULL;
}

uint64_t memory_lock_bytes(void *ctx, uint64_t serial, unsigned section)
{
    struct memory_lock *lock = ctx;
    (void)pthread_mutex_lock(&lock->lock);
    const struct entry *kept = kept_locked(lock, serial, section);
    uint64_t bytes = kept != NULL ? kept->bytes : 0;
    (void)pthread_mutex_unlock(&lock->lock);
    return bytes;
}

static struct kith_bytes place_of(const struct entry *entry)
{
    return segment_place(entry->segment, entry->section);
}

/* What is to be locked stands in front afterwards: how many. */
static size_t choose(struct memory_lock *lock)
{
    uint64_t left = lock->budget;
    size_t n = 0;
    if (lock->n_found > 1)
        qsort(lock->found, lock->n_found, sizeof *lock->found, compare);
    for (size_t i = 0; i < lock->n_found; i++) {
        if (lock->found[i].bytes > left)
            continue;
        struct entry chosen = lock->found[i];
        left -= chosen.bytes;
        lock->found[i] = lock->found[n];
        lock->found[n++] = chosen;
    }
    return n;
}

/* First room is made, then it is used. Returns how many of the n are locked now. */
static size_t lock_chosen(struct memory_lock *lock, size_t n)
{
    for (size_t i = n; i < lock->n_found; i++)
        if (memory_lock_bytes(lock, lock->found[i].serial, lock->found[i].section) > 0)
            residency_unlock(place_of(&lock->found[i]));
    for (size_t i = 0; i < n; i++) {
        struct kith_diag diag = {0};
        if (memory_lock_bytes(lock, lock->found[i].serial, lock->found[i].section) > 0 ||
            residency_lock(place_of(&lock->found[i]), &diag) == KITH_OK)
            continue;
        if (!lock->refused)
            kith_log(WARN, "memory.lock_refused", "budget=%llu text=\"%s\"",
                     (unsigned long long)lock->budget, diag.text);
        return i;
    }
    return n;
}

static void keep(struct memory_lock *lock, size_t n, bool refused)
{
    (void)pthread_mutex_lock(&lock->lock);
    lock->refused = refused;
    lock->n_kept = 0;
    if (kith_grow((void **)&lock->kept, &lock->kept_cap, n, sizeof *lock->kept)) {
        for (size_t i = 0; i < n; i++) {
            lock->kept[i] = lock->found[i];
            lock->kept[i].segment = NULL;
        }
        lock->n_kept = n;
    } /* else they are locked again in the next look, which changes nothing */
    (void)pthread_mutex_unlock(&lock->lock);
}

void memory_lock_run(struct memory_lock *lock)
{
    lock->n_found = 0;
    lock->failed = false;
    slice_table_each(lock->slices, note_store, lock);
    size_t chosen = choose(lock);
    size_t locked = lock_chosen(lock, chosen);
    /* What comes after a refusal may have been locked before: it stays noted as such. */
    size_t n = locked;
    for (size_t i = locked; i < chosen; i++) {
        if (memory_lock_bytes(lock, lock->found[i].serial, lock->found[i].section) == 0)
            continue;
        struct entry still = lock->found[i];
        lock->found[i] = lock->found[n];
        lock->found[n++] = still;
    }
    keep(lock, n, locked < chosen);
    for (size_t i = 0; i < lock->n_found; i++)
        segment_unref(lock->found[i].segment);
    lock->n_found = 0;
}

static void *look_on(void *ctx)
{
    struct memory_lock *lock = ctx;
    (void)pthread_setname_np(pthread_self(), "kith-lock");
    (void)pthread_mutex_lock(&lock->lock);
    while (!lock->closing) {
        (void)pthread_mutex_unlock(&lock->lock);
        memory_lock_run(lock);
        struct timespec until;
        (void)clock_gettime(CLOCK_MONOTONIC, &until);
        until.tv_sec += LOOK_MS / 1000;
        (void)pthread_mutex_lock(&lock->lock);
        while (!lock->closing && pthread_cond_timedwait(&lock->wake, &lock->lock, &until) == 0)
            ;
    }
    (void)pthread_mutex_unlock(&lock->lock);
    return NULL;
}

enum kith_err memory_lock_open(struct memory_lock **out, const struct memory_lock_options *options,
                               struct kith_diag *diag)
{
    struct memory_lock *lock = kith_alloc(sizeof *lock);
    if (lock == NULL)
        return kith_fail(diag, KITH_NOMEM, "no memory for the memory lock");
    pthread_condattr_t clock;
    lock->slices = options->slices;
    lock->budget = options->budget_bytes;
    (void)pthread_mutex_init(&lock->lock, NULL);
    (void)pthread_condattr_init(&clock);
    (void)pthread_condattr_setclock(&clock, CLOCK_MONOTONIC);
    (void)pthread_cond_init(&lock->wake, &clock);
    (void)pthread_condattr_destroy(&clock);
    lock->has_thread = options->background && lock->budget > 0 &&
                       pthread_create(&lock->thread, NULL, look_on, lock) == 0;
    if (options->background && lock->budget > 0 && !lock->has_thread) {
        memory_lock_close(lock);
        return kith_fail(diag, KITH_NOMEM, "cannot start a thread");
    }
    *out = lock;
    return KITH_OK;
}

void memory_lock_close(struct memory_lock *lock)
{
    if (lock == NULL)
        return;
    (void)pthread_mutex_lock(&lock->lock);
    lock->closing = true;
    (void)pthread_cond_signal(&lock->wake);
    (void)pthread_mutex_unlock(&lock->lock);
    if (lock->has_thread)
        (void)pthread_join(lock->thread, NULL);
    (void)pthread_cond_destroy(&lock->wake);
    (void)pthread_mutex_destroy(&lock->lock);
    kith_free(lock->kept);
    kith_free(lock->found);
    kith_free(lock);
}

void memory_lock_stats(struct memory_lock *lock, struct memory_lock_stats *out)
{
    (void)pthread_mutex_lock(&lock->lock);
    *out = (struct memory_lock_stats){.budget = lock->budget, .refused = lock->refused};
    for (size_t i = 0; i < lock->n_kept; i++)
        out->locked += lock->kept[i].bytes;
    (void)pthread_mutex_unlock(&lock->lock);
}
