/* The monotonic clock. No wall clock decides anything in Kith. Threads: any. */
#ifndef KITH_CLOCK_H
#define KITH_CLOCK_H

#include <stdint.h>

uint64_t kith_now_ns(void);
uint64_t kith_now_ms(void);
/* CPU time of the calling thread: a system call, some hundred ns. For costs, not for deadlines. */
uint64_t kith_thread_ns(void);

#endif
