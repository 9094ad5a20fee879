#include "shard/storage/map_guard.h"

#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "common/kith_log.h"
#include "proto/kith_limits.h"

/* The table of maps is read by the handler without a lock. A place is published by its `begin`,
 * written last and cleared first; the handler reads `begin` again after the rest, so that it never
 * mixes two owners of a place. The map of its own fault cannot go away meanwhile: its reader is the
 * thread that stands in the handler. */

struct place {
    _Atomic uintptr_t begin; /* 0: free. release/acquire: carries end and guard */
    /* release/acquire: who sees those of a new owner sees that the old `begin` is gone */
    _Atomic uintptr_t end;
    _Atomic(struct map_guard *) guard;
};

static struct place places[KITH_MAPS_MAX];
static atomic_uint n_places; /* places ever used; relaxed is enough: a fault follows its adding */
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER; /* of adding and removing */
static uint32_t first_free;                              /* no free place is below; under lock */
static struct sigaction before;
static uintptr_t page_bytes;

static bool replace_from(uintptr_t at)
{
    unsigned n = atomic_load_explicit(&n_places, memory_order_acquire);
    for (unsigned i = 0; i < n; i++) {
        struct place *place = &places[i];
        uintptr_t begin = atomic_load_explicit(&place->begin, memory_order_acquire);
        uintptr_t end = atomic_load_explicit(&place->end, memory_order_acquire);
        struct map_guard *guard = atomic_load_explicit(&place->guard, memory_order_acquire);
        if (begin == 0 || at < begin || at >= end ||
            atomic_load_explicit(&place->begin, memory_order_relaxed) != begin)
            continue;
        uintptr_t page = at & ~(page_bytes - 1);
        atomic_store_explicit(&guard->offset, page - begin, memory_order_relaxed);
        /* Before the zeros: whoever can read them can know. */
        atomic_store_explicit(&guard->lost, true, memory_order_seq_cst);
        /* The system call itself: a wrapper of mmap may do what a handler must not. */
        return syscall(SYS_mmap, page, end - page, PROT_READ,
                       MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0) != -1;
    }
    return false;
}

static void on_bus(int signal_number, siginfo_t *info, void *context)
{
    int saved = errno;
    (void)signal_number;
    (void)context;
    /* Not one of ours: the access is made again under the action that was there before. */
    if (!replace_from((uintptr_t)info->si_addr))
        (void)sigaction(SIGBUS, &before, NULL);
    errno = saved;
}

/* At every adding: somebody else - a test framework, a profiler - may have put a handler over ours.
 */
static void install_locked(void)
{
    struct sigaction now;
    page_bytes = (uintptr_t)sysconf(_SC_PAGESIZE);
    if (sigaction(SIGBUS, NULL, &now) == 0 && (now.sa_flags & SA_SIGINFO) != 0 &&
        now.sa_sigaction == on_bus)
        return;
    struct sigaction action = {.sa_sigaction = on_bus, .sa_flags = SA_SIGINFO | SA_ONSTACK};
    (void)sigemptyset(&action.sa_mask);
    before = now;
    if (sigaction(SIGBUS, &action, NULL) != 0)
        kith_log(ERROR, "map_guard.no_handler", "errno=%d", errno);
}

enum kith_err map_guard_add(struct map_guard *guard, const uint8_t *map, uint64_t bytes,
                            struct kith_diag *diag)
{
    uintptr_t begin = (uintptr_t)map;
    (void)pthread_mutex_lock(&lock);
    install_locked();
    uintptr_t end = (begin + bytes + page_bytes - 1) & ~(page_bytes - 1);
    uint32_t at = first_free;
    while (at < KITH_MAPS_MAX && atomic_load_explicit(&places[at].begin, memory_order_relaxed) != 0)
        at++;
    if (at < KITH_MAPS_MAX) {
        first_free = at + 1;
        guard->place = at;
        atomic_store_explicit(&places[at].end, end, memory_order_release);
        atomic_store_explicit(&places[at].guard, guard, memory_order_release);
        atomic_store_explicit(&places[at].begin, begin, memory_order_release);
        if (at >= atomic_load_explicit(&n_places, memory_order_relaxed))
            atomic_store_explicit(&n_places, at + 1, memory_order_release);
    }
    (void)pthread_mutex_unlock(&lock);
    return at < KITH_MAPS_MAX
               ? KITH_OK
               : kith_fail(diag, KITH_NOMEM, "%u files are mapped already", KITH_MAPS_MAX);
}

void map_guard_remove(struct map_guard *guard)
{
    (void)pthread_mutex_lock(&lock);
    atomic_store_explicit(&places[guard->place].begin, 0, memory_order_release);
    if (guard->place < first_free)
        first_free = guard->place;
    (void)pthread_mutex_unlock(&lock);
}
