/* Memory: the only file that calls malloc, so that limits, leak checks and failure tests see it
 * all.
 *
 * Threads: any. Errors: kith_alloc & co. return NULL when memory is out (size may come from
 * outside); kith_xalloc aborts (fixed sizes, start-up). All free with kith_free; NULL is allowed
 * there. */
#ifndef KITH_MEM_H
#define KITH_MEM_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "proto/kith_err.h"

void *kith_alloc(size_t bytes) KITH_MUST_CHECK; /* zeroed; bytes == 0 gives a valid pointer */
void *kith_realloc(void *ptr,
                   size_t bytes) KITH_MUST_CHECK; /* new bytes are not zeroed; on NULL ptr stays */
void *kith_alloc_aligned(size_t align,
                         size_t bytes) KITH_MUST_CHECK; /* not zeroed; align: power of two */
char *kith_strdup(const char *text) KITH_MUST_CHECK;
void *kith_memdup(const void *src, size_t bytes) KITH_MUST_CHECK;
void *kith_xalloc(size_t bytes);
void kith_free(void *ptr);

/* Arithmetic with numbers from outside: false and *out untouched when the result does not fit. */
bool kith_mul(size_t a, size_t b, size_t *out) KITH_MUST_CHECK;
bool kith_add(size_t a, size_t b, size_t *out) KITH_MUST_CHECK;

/* Makes room for `need` elements of `elem` bytes in *ptr, doubling *cap. False when memory is out;
 * *ptr and *cap stay as they were. */
bool kith_grow(void **ptr, size_t *cap, size_t need, size_t elem) KITH_MUST_CHECK;

/* Tests only: fail the n-th allocation from now (0 = the next one) and all later ones; -1 = never.
 * kith_mem_live() is the number of blocks not yet freed, over all threads. */
void kith_mem_fail_after(long n);
long kith_mem_live(void);

#endif
