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

static _Thread_local struct {
    bool joined, has;
    struct sched_attr home; /* while it has it: what to go back to */
    uint64_t window_ns;     /* when the window began */
    uint64_t spent_ns;      /* of the thread's CPU time, before it */
} me;

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

static void give_back(void)
{
    if (me.has)
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

static bool has_budget(uint64_t now_ns)
{
    uint64_t cpu_ns = kith_thread_ns();
    if (now_ns - me.window_ns >= KITH_REALTIME_WINDOW_MS * UINT64_C(1000000)) {
        me.window_ns = now_ns;
        me.spent_ns = cpu_ns;
    }
    return cpu_ns - me.spent_ns < KITH_REALTIME_BUDGET_MS * UINT64_C(1000000);
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
