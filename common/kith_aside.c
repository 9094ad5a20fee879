/* Of several CPUs the first is kept free, of a machine of many it is one all the same: searches
 * find the others by themselves. Threads that answer may run anywhere.
 *
 * What lost: sched_yield between the pieces (it gives away a whole slice to whoever is there, the
 * builds of others, too); more niceness (it says who gets how much of a CPU, not when). */
#include "common/kith_aside.h"

#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdint.h>
#include <time.h>
#include <unistd.h>

#include "common/kith_clock.h"
#include "common/kith_pacer.h"
#include "common/kith_realtime.h"
#include "proto/kith_err.h"
#include "proto/kith_limits.h"

#define LOOK_EVERY 32u /* calls of kith_aside_stand: at the clock, for the CPUs */

static _Thread_local bool stands_aside, keeps_off;
static _Thread_local unsigned n_calls;
/* When the thread has worked for as long as it slept: by kith_now_ns. */
static _Thread_local uint64_t even_ns;
/* When it looks next whether it goes before all others: by the same clock. */
static _Thread_local uint64_t look_ns;

/* Relaxed where a thread only looks whether there are any: with an old number it works on for one
 * piece more. The ender's count and the sleeper's are sequentially consistent: the ender lowers
 * `answers` and then reads `asleep`, a sleeper raises `asleep` and then reads `answers`, so one of
 * the two sees the other. */
static atomic_uint answers, asleep;
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t all_answered = PTHREAD_COND_INITIALIZER;

static _Atomic uint64_t last_ns; /* when the last answer began; relaxed, for the same reason */
static _Atomic uint64_t load_ns; /* when something that can wait worked last; relaxed, too */

/* Whether there are searches beside a load. */
static bool is_crowded(uint64_t now_ns)
{
    uint64_t last = atomic_load_explicit(&last_ns, memory_order_relaxed);
    uint64_t loaded = atomic_load_explicit(&load_ns, memory_order_relaxed);
    return loaded > 0 && now_ns < loaded + KITH_ASIDE_LOADED_MS * UINT64_C(1000000) &&
           (atomic_load_explicit(&answers, memory_order_seq_cst) > 0 ||
            now_ns < last + KITH_ASIDE_SEARCHED_MS * UINT64_C(1000000));
}

/* What a pacer misses here, the next search tells it. */
bool kith_aside_crowded(void)
{
    return kith_realtime_refused() && is_crowded(kith_now_ns());
}

void kith_aside_look(void)
{
    if (!kith_realtime_joined())
        return;
    uint64_t now_ns = kith_now_ns();
    if (now_ns < look_ns)
        return;
    look_ns = now_ns + KITH_REALTIME_LOOK_US * UINT64_C(1000);
    kith_realtime_want(is_crowded(now_ns), now_ns);
}

void kith_aside_answer_begin(void)
{
    uint64_t now_ns = kith_now_ns();
    atomic_store_explicit(&last_ns, now_ns, memory_order_relaxed);
    unsigned before = atomic_fetch_add_explicit(&answers, 1, memory_order_seq_cst);
    if (before == 0 && kith_aside_crowded())
        kith_pacer_wake(kith_aside_crowded);
}

void kith_aside_answer_end(void)
{
    unsigned before = atomic_fetch_sub_explicit(&answers, 1, memory_order_seq_cst);
    kith_assert(before > 0);
    if (before > 1 || atomic_load_explicit(&asleep, memory_order_seq_cst) == 0)
        return;
    (void)pthread_mutex_lock(&lock);
    (void)pthread_cond_broadcast(&all_answered);
    (void)pthread_mutex_unlock(&lock);
}

static void sleep_until_answered(void)
{
    struct timespec until = kith_clock_in(KITH_ASIDE_MS_MAX);
    (void)pthread_mutex_lock(&lock);
    atomic_fetch_add_explicit(&asleep, 1, memory_order_seq_cst);
    while (atomic_load_explicit(&answers, memory_order_seq_cst) > 0 &&
           pthread_cond_clockwait(&all_answered, &lock, CLOCK_MONOTONIC, &until) == 0)
        continue;
    atomic_fetch_sub_explicit(&asleep, 1, memory_order_relaxed);
    (void)pthread_mutex_unlock(&lock);
}

/* Notes that there is a load, too: only what can wait asks. */
bool kith_aside_searched(void)
{
    uint64_t last = atomic_load_explicit(&last_ns, memory_order_relaxed); /* before now is asked */
    uint64_t now_ns = kith_now_ns();
    atomic_store_explicit(&load_ns, now_ns, memory_order_relaxed);
    return atomic_load_explicit(&answers, memory_order_relaxed) > 0 ||
           now_ns - last < KITH_ASIDE_SEARCHED_MS * UINT64_C(1000000);
}

/* The CPUs of the process are those of its main thread: it never stands aside where there are
 * searches, and a thread may have been started by one that keeps off. */
static bool cpus_of_process(cpu_set_t *cpus)
{
    return sched_getaffinity(getpid(), sizeof *cpus, cpus) == 0;
}

static void keep_off(bool keep)
{
    cpu_set_t cpus;
    if (keep == keeps_off || !cpus_of_process(&cpus))
        return;
    size_t first = 0;
    while (first + 1 < CPU_SETSIZE && !CPU_ISSET(first, &cpus))
        first++;
    if (keep && CPU_COUNT(&cpus) > 1)
        CPU_CLR(first, &cpus);
    (void)sched_setaffinity(0, sizeof cpus, &cpus);
    keeps_off = keep;
}

bool kith_aside_leave(int cpu)
{
    cpu_set_t cpus;
    if (sched_getcpu() != cpu || !cpus_of_process(&cpus) || CPU_COUNT(&cpus) < 2)
        return false;
    CPU_CLR((size_t)cpu, &cpus);
    return sched_setaffinity(0, sizeof cpus, &cpus) == 0;
}

void kith_aside_return(void)
{
    cpu_set_t cpus;
    if (cpus_of_process(&cpus))
        (void)sched_setaffinity(0, sizeof cpus, &cpus);
}

bool kith_aside_stand(void)
{
    if (stands_aside && n_calls++ % LOOK_EVERY == 0)
        keep_off(kith_aside_searched());
    if (!stands_aside || atomic_load_explicit(&answers, memory_order_relaxed) == 0)
        return false;
    uint64_t from_ns = kith_now_ns();
    if (from_ns < even_ns)
        return false;
    sleep_until_answered();
    uint64_t to_ns = kith_now_ns();
    even_ns = to_ns + (to_ns - from_ns);
    return true;
}

bool kith_aside_get(void)
{
    return stands_aside;
}

void kith_aside_set(bool stands)
{
    stands_aside = stands;
    keep_off(stands && kith_aside_searched());
}
