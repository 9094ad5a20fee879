/* Random numbers that can be had again: splitmix64 (Steele, Lea, Flood: Fast splittable
 * pseudorandom number generators, 2014). Not for secrets. The state is the caller's, any value is a
 * seed. Threads: one for each state. */
#ifndef KITH_RANDOM_H
#define KITH_RANDOM_H

#include <stdint.h>

static inline uint64_t kith_random(uint64_t *state)
{
    uint64_t z = (*state += UINT64_C(0x9e3779b97f4a7c15));
    z = (z ^ (z >> 30)) * UINT64_C(0xbf58476d1ce4e5b9);
    z = (z ^ (z >> 27)) * UINT64_C(0x94d049bb133111eb);
    return z ^ (z >> 31);
}

/* One of 0 ... n - 1. */
static inline uint64_t kith_random_below(uint64_t *state, uint64_t n)
{
    return (uint64_t)(((unsigned __int128)kith_random(state) * n) >> 64);
}

#endif
