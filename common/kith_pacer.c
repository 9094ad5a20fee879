#include "common/kith_pacer.h"

#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdint.h>
#include <sys/prctl.h>
#include <time.h>
#include <unistd.h>

#include "common/kith_thread.h"
#include "proto/kith_limits.h"

typedef bool (*is_needed_fn)(void);
static _Atomic(is_needed_fn) needed; /* relaxed: always the same, and set before a thread starts */
static pthread_once_t once = PTHREAD_ONCE_INIT;
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t wake = PTHREAD_COND_INITIALIZER;
/* Sequentially consistent: who needs them says so and then reads `asleep`, a pacer raises `asleep`
 * and then asks, so one of the two sees the other. */
static atomic_uint asleep;

static bool are_needed(void)
{
    return atomic_load_explicit(&needed, memory_order_relaxed)();
}

static void *pace(void *arg)
{
    const struct timespec step = {.tv_nsec = KITH_PACER_US * 1000};
    (void)arg;
    (void)pthread_setname_np(pthread_self(), "kith-pacer");
    kith_thread_ahead();
    (void)prctl(PR_SET_TIMERSLACK, 1); /* else 50 us more */
    for (;;) {
        (void)clock_nanosleep(CLOCK_MONOTONIC, 0, &step, NULL);
        if (are_needed())
            continue;
        (void)pthread_mutex_lock(&lock);
        atomic_fetch_add_explicit(&asleep, 1, memory_order_seq_cst);
        while (!are_needed())
            (void)pthread_cond_wait(&wake, &lock);
        atomic_fetch_sub_explicit(&asleep, 1, memory_order_relaxed);
        (void)pthread_mutex_unlock(&lock);
    }
    return NULL;
}

static void start_on(size_t cpu)
{
    cpu_set_t cpus;
    pthread_attr_t attr;
    pthread_t thread;
    CPU_ZERO(&cpus);
    CPU_SET(cpu, &cpus);
    if (pthread_attr_init(&attr) != 0)
        return;
    if (pthread_attr_setdetachstate(&attr, PTHREAD_CREATE_DETACHED) == 0 &&
        pthread_attr_setaffinity_np(&attr, sizeof cpus, &cpus) == 0)
        (void)pthread_create(&thread, &attr, pace, NULL);
    (void)pthread_attr_destroy(&attr);
}

static void start_all(void)
{
    cpu_set_t cpus;
    if (sched_getaffinity(getpid(), sizeof cpus, &cpus) != 0)
        return;
    uint32_t n = 0;
    for (size_t cpu = 0; cpu < CPU_SETSIZE && n < KITH_PACER_CPUS_MAX; cpu++) {
        if (!CPU_ISSET(cpu, &cpus))
            continue;
        start_on(cpu);
        n++;
    }
}

void kith_pacer_wake(bool (*is_needed)(void))
{
    atomic_store_explicit(&needed, is_needed, memory_order_relaxed);
    (void)pthread_once(&once, start_all);
    if (atomic_load_explicit(&asleep, memory_order_seq_cst) == 0)
        return;
    (void)pthread_mutex_lock(&lock);
    (void)pthread_mutex_unlock(&lock); /* who is on its way to sleep has arrived, or has seen it */
    (void)pthread_cond_broadcast(&wake);
}
