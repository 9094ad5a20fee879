#include "common/kith_thread.h"

#include <linux/sched/types.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <unistd.h>

/* Since Linux 6.12 a task may say how long its slices are, and one that wakes with shorter slices
 * (3 ms, unless it asked) runs at once instead of after the slice of the one that runs. The longest
 * the kernel takes. */
#define LONG_SLICE_NS UINT64_C(100000000)

void kith_thread_behind(int nice)
{
    struct sched_attr attr = {
        .size = sizeof attr, .sched_nice = nice, .sched_runtime = LONG_SLICE_NS};
    /* Policy 0 is SCHED_OTHER. Older kernels ignore the slice. */
    if (syscall(SYS_sched_setattr, 0, &attr, 0) != 0)
        (void)setpriority(PRIO_PROCESS, (id_t)gettid(), nice);
}
