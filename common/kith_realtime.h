/* Threads that answer go before all other threads of the machine for short pieces of work, where
 * the process may say so (CAP_SYS_NICE, or an RLIMIT_RTPRIO of 1 or more): SCHED_RR, at the lowest
 * of its priorities.
 *
 * What else there is says who gets how much of a busy CPU, not when: a thread that has had its
 * share waits for the others', and a search that takes 0.5 ms of a CPU beside a load waits several
 * times.
 *
 * A thread has it as long as it took less than KITH_REALTIME_BUDGET_MS of CPU time in the current
 * KITH_REALTIME_WINDOW_MS, and all threads of the process together less than half of the CPUs'
 * time, so that others, of this process too, are never left without a CPU: who searches all the
 * time, or one thing for long, does so like everyone else. The kernel has a limit of its own
 * besides (sched_rt_runtime_us). Threads that it starts do not have it.
 *
 * A thread that has it must not wait actively (spin, sched_yield) for one that has not: that one
 * may never run.
 *
 * Threads: each call is about the calling thread; refuse is about all. Limits: as above. Errors:
 * what the kernel refuses is logged once, and everything stays as it was. */
#ifndef KITH_REALTIME_H
#define KITH_REALTIME_H

#include <stdbool.h>
#include <stdint.h>

/* The thread may have it from now on, unless it was started with a policy of its own. */
void kith_realtime_join(void);
/* It may not any longer, and has not. */
void kith_realtime_leave(void);

bool kith_realtime_joined(void);
/* Takes it if `wanted` and there is budget, or gives it back. What is as it should be costs a
 * comparison, or the reading of a clock. now_ns: kith_now_ns(). */
void kith_realtime_want(bool wanted, uint64_t now_ns);

void kith_realtime_refuse(void);  /* nobody gets it from now on; who has it gives it back */
bool kith_realtime_refused(void); /* by that, or by the kernel */

#endif
