#include "common/kith_mem.h"

#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* Relaxed everywhere: both are counters read by single-threaded tests, nothing is published by
 * them. */
static atomic_long live;
static atomic_long fail_after = -1;

static bool must_fail(void)
{
    long left = atomic_load_explicit(&fail_after, memory_order_relaxed);
    if (left < 0)
        return false;
    if (left > 0) {
        atomic_fetch_sub_explicit(&fail_after, 1, memory_order_relaxed);
        return false;
    }
    return true;
}

static void *counted(void *ptr)
{
    if (ptr != NULL)
        atomic_fetch_add_explicit(&live, 1, memory_order_relaxed);
    return ptr;
}

void *kith_alloc(size_t bytes)
{
    if (must_fail())
        return NULL;
    return counted(calloc(1, bytes > 0 ? bytes : 1));
}

void *kith_realloc(void *ptr, size_t bytes)
{
    if (must_fail())
        return NULL;
    void *grown = realloc(ptr, bytes > 0 ? bytes : 1);
    return ptr == NULL ? counted(grown) : grown;
}

void *kith_alloc_aligned(size_t align, size_t bytes)
{
    kith_assert(align != 0 && (align & (align - 1)) == 0);
    void *ptr = NULL;
    if (must_fail() || posix_memalign(&ptr, align < sizeof(void *) ? sizeof(void *) : align,
                                      bytes > 0 ? bytes : 1) != 0)
        return NULL;
    return counted(ptr);
}

char *kith_strdup(const char *text)
{
    return kith_memdup(text, strlen(text) + 1);
}

void *kith_memdup(const void *src, size_t bytes)
{
    void *copy = kith_alloc(bytes);
    if (copy != NULL && bytes > 0)
        memcpy(copy, src, bytes);
    return copy;
}

void *kith_xalloc(size_t bytes)
{
    void *ptr = counted(calloc(1, bytes > 0 ? bytes : 1));
    if (ptr == NULL) {
        (void)fprintf(stderr, "kith: out of memory at start-up (%zu bytes)\n", bytes);
        abort();
    }
    return ptr;
}

void kith_free(void *ptr)
{
    if (ptr != NULL)
        atomic_fetch_sub_explicit(&live, 1, memory_order_relaxed);
    free(ptr);
}

bool kith_mul(size_t a, size_t b, size_t *out)
{
    size_t product;
    if (__builtin_mul_overflow(a, b, &product))
        return false;
    *out = product;
    return true;
}

bool kith_add(size_t a, size_t b, size_t *out)
{
    size_t sum;
    if (__builtin_add_overflow(a, b, &sum))
        return false;
    *out = sum;
    return true;
}

bool kith_grow(void **ptr, size_t *cap, size_t need, size_t elem)
{
    if (need <= *cap)
        return true;
    size_t want = *cap > 0 ? *cap : 8;
    while (want < need)
        if (!kith_mul(want, 2, &want))
            return false;
    size_t bytes;
    if (!kith_mul(want, elem, &bytes))
        return false;
    void *grown = kith_realloc(*ptr, bytes);
    if (grown == NULL)
        return false;
    *ptr = grown;
    *cap = want;
    return true;
}

void kith_mem_fail_after(long n)
{
    atomic_store_explicit(&fail_after, n, memory_order_relaxed);
}

long kith_mem_live(void)
{
    return atomic_load_explicit(&live, memory_order_relaxed);
}
