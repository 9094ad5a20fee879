/* Lost: SCHED_RR for as long as a thread runs. On two CPUs a client in a closed loop, and the
 * threads of NNG, are then left the time in which nobody searches. */
#include "common/kith_realtime.h"

#include <errno.h>
#include <linux/sched.h>
#include <linux/sched/types.h>
#include <stdatomic.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "common/kith_clock.h"
#include "common/kith_log.h"
#include "proto/kith_limits.h"

#define PRIORITY 1u /* the lowest */
#define MS       UINT64_C(1000000)

static _Thread_local struct {
    bool joined, has;
    struct sched_attr home; /* while it has it: what to go back to */
    uint64_t window_ns;     /* when the thread's window began */
    uint64_t before_ns;     /* of its CPU time, before that */
    uint64_t counted_ns;    /* of its CPU time, while it has it: in `spent_ns` */
} me;

/* The window of the process. Relaxed: two threads that begin one at once, or count into one that
 * just ends, make an error of a few looks. */
static _Atomic uint64_t all_window_ns, spent_ns;

/* Relaxed: who reads an old value tries once more. */
static atomic_bool refused;

static int set(const struct sched_attr *attr)
{
    return (int)syscall(SYS_sched_setattr, 0, attr, 0);
}

/* The first version of the struct: a newer kernel's clamps are none of ours. */
static bool get(struct sched_attr *attr)
{
    return syscall(SYS_sched_getattr, 0, attr, SCHED_ATTR_SIZE_VER0, 0) == 0;
}

static void count(uint64_t cpu_ns)
{
    if (me.has)
        atomic_fetch_add_explicit(&spent_ns, cpu_ns - me.counted_ns, memory_order_relaxed);
    me.counted_ns = cpu_ns;
}

static void give_back(void)
{
    if (!me.has)
        return;
    count(kith_thread_ns());
    (void)set(&me.home);
    me.has = false;
}

static void take(void)
{
    /* Who has started threads that inherit nothing cannot change that back without privileges. */
    const struct sched_attr attr = {.size = SCHED_ATTR_SIZE_VER0,
                                    .sched_policy = SCHED_RR,
                                    .sched_flags = SCHED_FLAG_RESET_ON_FORK,
                                    .sched_priority = PRIORITY};
    if (!get(&me.home))
        return;
    me.home.size = SCHED_ATTR_SIZE_VER0;
    me.home.sched_flags |= SCHED_FLAG_RESET_ON_FORK;
    me.has = set(&attr) == 0;
    if (!me.has && !atomic_exchange_explicit(&refused, true, memory_order_relaxed))
        kith_log(INFO, "realtime.refused",
                 "reason=\"%s\" searches beside a load may wait for a CPU: CAP_SYS_NICE or an "
                 "RLIMIT_RTPRIO of %u lets them go first",
                 strerror(errno), PRIORITY);
}

static bool is_over(uint64_t window_ns, uint64_t now_ns)
{
    return now_ns - window_ns >= KITH_REALTIME_WINDOW_MS * MS;
}

/* Half of all CPUs' time in a window. */
static uint64_t budget_of_all_ns(void)
{
    static atomic_long cpus; /* relaxed: all who ask get the same */
    long n = atomic_load_explicit(&cpus, memory_order_relaxed);
    if (n == 0) {
        n = sysconf(_SC_NPROCESSORS_ONLN);
        n = n < 1 ? 1 : n;
        atomic_store_explicit(&cpus, n, memory_order_relaxed);
    }
    return KITH_REALTIME_WINDOW_MS * MS * (uint64_t)n / 2;
}

static bool has_budget(uint64_t now_ns)
{
    uint64_t cpu_ns = kith_thread_ns();
    count(cpu_ns);
    if (is_over(me.window_ns, now_ns)) {
        me.window_ns = now_ns;
        me.before_ns = cpu_ns;
    }
    if (is_over(atomic_load_explicit(&all_window_ns, memory_order_relaxed), now_ns)) {
        atomic_store_explicit(&all_window_ns, now_ns, memory_order_relaxed);
        atomic_store_explicit(&spent_ns, 0, memory_order_relaxed);
    }
    return cpu_ns - me.before_ns < KITH_REALTIME_BUDGET_MS * MS &&
           atomic_load_explicit(&spent_ns, memory_order_relaxed) < budget_of_all_ns();
}

void kith_realtime_join(void)
{
    struct sched_attr attr;
    me.joined = me.joined || (get(&attr) && attr.sched_policy == SCHED_NORMAL);
}

void kith_realtime_leave(void)
{
    give_back();
    me.joined = false;
}

bool kith_realtime_joined(void)
{
    return me.joined;
}

void kith_realtime_want(bool wanted, uint64_t now_ns)
{
    wanted = wanted && me.joined && !kith_realtime_refused() && has_budget(now_ns);
    if (wanted && !me.has)
        take();
    else if (!wanted)
        give_back();
}

void kith_realtime_refuse(void)
{
    atomic_store_explicit(&refused, true, memory_order_relaxed);
}

bool kith_realtime_refused(void)
{
    return atomic_load_explicit(&refused, memory_order_relaxed);
}
