/* The monotonic clock. No wall clock decides anything in Kith. Threads: any. */
#ifndef KITH_CLOCK_H
#define KITH_CLOCK_H

#include <stdint.h>
#include <time.h>

uint64_t kith_now_ns(void);
uint64_t kith_now_ms(void);
/* So many milliseconds from now, for waits on a condition of CLOCK_MONOTONIC. */
struct timespec kith_clock_in(uint32_t ms);
/* CPU time of the calling thread: a system call, some hundred ns. For costs, not for deadlines. */
uint64_t kith_thread_ns(void);

#endif
