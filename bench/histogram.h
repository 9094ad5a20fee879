/* Durations in a histogram of 64 steps per power of two of nanoseconds: at most 1.6 % off, in fixed
 * memory. */
#ifndef HISTOGRAM_H
#define HISTOGRAM_H

#include <stddef.h>
#include <stdint.h>

#define HISTOGRAM_STEPS 64u                     /* of a power of two */
#define HISTOGRAM_SLOTS (40u * HISTOGRAM_STEPS) /* up to an hour in ns */

struct histogram {
    uint64_t slots[HISTOGRAM_SLOTS];
    uint64_t n, sum_ns, max_ns;
};

/* Values below 2 * HISTOGRAM_STEPS have a slot each; above, the top bits pick it. */
static inline void histogram_add(struct histogram *histogram, uint64_t ns)
{
    unsigned power = ns < 2 * HISTOGRAM_STEPS ? 0 : (unsigned)(63 - __builtin_clzll(ns)) - 6;
    size_t slot = (size_t)power * HISTOGRAM_STEPS + (size_t)(ns >> power);

    histogram->slots[slot < HISTOGRAM_SLOTS ? slot : HISTOGRAM_SLOTS - 1]++;
    histogram->n++;
    histogram->sum_ns += ns;
    if (ns > histogram->max_ns)
        histogram->max_ns = ns;
}

static inline double histogram_us(const struct histogram *histogram, double p)
{
    uint64_t want = (uint64_t)((double)histogram->n * p), seen = 0;

    for (size_t slot = 0; slot < HISTOGRAM_SLOTS; slot++) {
        seen += histogram->slots[slot];
        if (seen > want) {
            size_t power = slot < 2 * HISTOGRAM_STEPS ? 0 : slot / HISTOGRAM_STEPS - 1;
            uint64_t ns = (uint64_t)(slot - power * HISTOGRAM_STEPS) << power;
            return (double)(ns < histogram->max_ns ? ns : histogram->max_ns) / 1000.0;
        }
    }
    return (double)histogram->max_ns / 1000.0;
}

#endif
