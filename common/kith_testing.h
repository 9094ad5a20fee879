/* For tests only: how much a test can afford, random numbers that can be had again, memory that
 * tells of reads behind its end. Needs no cmocka. Threads: the one sequence of random numbers is
 * for one thread. */
#ifndef KITH_TESTING_H
#define KITH_TESTING_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <time.h>

#include "common/kith_random.h"

/* A sanitizer makes loops over rows ten to fifty times slower and is there for races and bounds,
 * which fewer rows show as well. */
#ifdef __has_feature
#define TEST_HAS_FEATURE(name_) __has_feature(name_)
#else
#define TEST_HAS_FEATURE(name_) 0
#endif

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__) ||                               \
    TEST_HAS_FEATURE(address_sanitizer) || TEST_HAS_FEATURE(thread_sanitizer)
#define TEST_SANITIZED                true
#define TEST_SCALE(full_, sanitized_) (sanitized_)
#else
#define TEST_SANITIZED                false
#define TEST_SCALE(full_, sanitized_) (full_)
#endif

/* A number of the environment: a seed to repeat, how long a test goes on. */
static inline uint64_t test_env(const char *name, uint64_t otherwise)
{
    const char *text = getenv(name);
    return text != NULL ? strtoull(text, NULL, 0) : otherwise;
}

/* ---- random numbers -------------------------------------------------------------------------- */

/* The one sequence of a test program: where it began, and where it is. */
static uint64_t random_seed, random_state;

static inline void random_begin(uint64_t seed)
{
    random_seed = random_state = seed;
}

static inline int random_say_seed(void **state)
{
    (void)state;
    (void)printf("repeat with KITH_SEED=%llu\n", (unsigned long long)random_seed);
    (void)fflush(stdout); /* the test may crash */
    return 0;
}

/* Set-up of a group of tests. Where every round has a seed of its own, random_say_seed is the
 * tear-down of the test instead. */
static inline int random_set_up(void **state)
{
    random_begin(test_env("KITH_SEED", (uint64_t)time(NULL)));
    return random_say_seed(state);
}

/* The upper bits of a linear congruential generator (Knuth, TAOCP 2, 3.3.4). */
static inline uint32_t random_u32(void)
{
    random_state = random_state * 6364136223846793005u + 1442695040888963407u;
    return (uint32_t)(random_state >> 32);
}

static inline uint32_t random_below(uint32_t n)
{
    return (random_u32() >> 1) % n;
}

/* In [-1, 1). */
static inline float random_unit(void)
{
    return (float)random_u32() * 0x1p-31f - 1.0f;
}

/* ---- memory ---------------------------------------------------------------------------------- */

/* `bytes` of memory, a multiple of 4096, before the address returned; reading it is a fault. NULL:
 * there is none. Stays until the program ends. */
static inline uint8_t *test_fence(size_t bytes)
{
    uint8_t *map =
        mmap(NULL, bytes + 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (map == MAP_FAILED || mprotect(map + bytes, 4096, PROT_NONE) != 0)
        return NULL;
    return map + bytes;
}

#endif
