/* Sorting numbers. Threads: no state. */
#ifndef KITH_SORT_H
#define KITH_SORT_H

#include <stddef.h>
#include <stdlib.h>

static inline int kith_sort_compare(const void *a, const void *b)
{
    float x = *(const float *)a, y = *(const float *)b;
    return (x > y) - (x < y);
}

/* Ascending; no NaN among them. */
static inline void kith_sort_floats(float *values, size_t n)
{
    qsort(values, n, sizeof *values, kith_sort_compare);
}

#endif
