/* For tests only: how much of it a test can afford. A sanitizer makes loops over rows ten to fifty
 * times slower and is there for races and bounds, which fewer rows show as well. */
#ifndef KITH_TESTING_H
#define KITH_TESTING_H

#include <stdbool.h>

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

#endif
