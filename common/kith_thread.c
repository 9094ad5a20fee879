#include "common/kith_thread.h"

#include <linux/sched.h>
#include <linux/sched/types.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "common/kith_aside.h"
#include "common/kith_realtime.h"

/* Since Linux 6.12 a task may say how long its slices are, and one that wakes with shorter slices
 * (3 ms, unless it asked) runs at once instead of after the slice of the one that runs. The kernel
 * takes 0.1 to 100 ms. Slices may be changed as often as one likes, and say nothing about how much
 * of a CPU there is for a thread; niceness does, and without privileges it can only grow. */
#define AHEAD_SLICE_NS  UINT64_C(100000)
#define BULK_SLICE_NS   UINT64_C(10000000)
#define BEHIND_SLICE_NS UINT64_C(100000000)

static int set(int nice, uint64_t slice_ns)
{
    /* Whatever policy the process was started with. Older kernels ignore the slice. */
    struct sched_attr attr = {.size = sizeof attr,
                              .sched_flags = SCHED_FLAG_KEEP_POLICY,
                              .sched_nice = nice,
                              .sched_runtime = slice_ns};
    return (int)syscall(SYS_sched_setattr, 0, &attr, 0);
}

static int nice_now(void)
{
    return getpriority(PRIO_PROCESS, (id_t)gettid());
}

void kith_thread_ahead(void)
{
    kith_realtime_leave(); /* if it has it already: what is set here is what it comes back to */
    kith_aside_set(false);
    (void)set(nice_now(), AHEAD_SLICE_NS);
    kith_realtime_join();
}

void kith_thread_bulk(void)
{
    kith_realtime_leave();
    kith_aside_set(true);
    (void)set(nice_now(), BULK_SLICE_NS);
}

void kith_thread_behind(int nice)
{
    kith_realtime_leave();
    kith_aside_set(true);
    if (set(nice, BEHIND_SLICE_NS) != 0)
        (void)setpriority(PRIO_PROCESS, (id_t)gettid(), nice);
}
