#include "common/kith_clock.h"

#include <time.h>

uint64_t kith_now_ns(void)
{
    struct timespec now;
    (void)clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

struct timespec kith_clock_in(uint32_t ms)
{
    uint64_t then = kith_now_ns() + UINT64_C(1000000) * ms;
    return (struct timespec){.tv_sec = (time_t)(then / 1000000000u),
                             .tv_nsec = (long)(then % 1000000000u)};
}

uint64_t kith_thread_ns(void)
{
    struct timespec now;
    (void)clock_gettime(CLOCK_THREAD_CPUTIME_ID, &now);
    return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

uint64_t kith_now_ms(void)
{
    return kith_now_ns() / 1000000u;
}
