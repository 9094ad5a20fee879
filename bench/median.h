/* The median of the figures of a benchmark's rounds. Threads: any. */
#ifndef BENCH_MEDIAN_H
#define BENCH_MEDIAN_H

#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#define MEDIAN_ROUNDS_MAX 64u

static inline int median_compare(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

/* Of 1 to MEDIAN_ROUNDS_MAX values, whose order is kept. */
static inline double median(const double *values, uint32_t n)
{
    double sorted[MEDIAN_ROUNDS_MAX];
    memcpy(sorted, values, n * sizeof *sorted);
    qsort(sorted, n, sizeof *sorted, median_compare);
    return n % 2 ? sorted[n / 2] : (sorted[n / 2 - 1] + sorted[n / 2]) / 2;
}

#endif
