/* A finer clock for the scheduler, while there are searches beside a load.
 *
 * A thread that has had its share of a CPU and gives the CPU away for a moment (it waits for a
 * lock, or for another thread's part of an answer), or is interrupted, has to let somebody else run
 * first: for microseconds, but the kernel looks again at its own next tick, 4 ms later at 250 Hz. A
 * thread that a timer wakes makes it look at once, on the CPU where it wakes. That is all that
 * pacers do.
 *
 * Owns: a thread for each of the first KITH_PACER_CPUS_MAX CPUs of the process, from the first call
 * to the end of the process. Threads: any. Limits: KITH_PACER_US, KITH_PACER_CPUS_MAX. Errors:
 * none: without its threads, the kernel looks when it looks. */
#ifndef KITH_PACER_H
#define KITH_PACER_H

#include <stdbool.h>

/* From here on the pacers wake every KITH_PACER_US, until `is_needed` says no; each of them asks
 * it, from its own thread, the last time with a lock held. Always the same function. What makes it
 * say yes is a sequentially consistent store before this call. */
void kith_pacer_wake(bool (*is_needed)(void));

#endif
