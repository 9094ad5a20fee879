/* What the disk alone would do, in the same seconds: a thread that appends a step to a file of its
 * own beside the benchmark and syncs it, ten times a second. When a write of the store was slow, it
 * tells whether the disk (or the machine) had a hiccup.
 *
 * Threads: start and stop belong to one. Errors: ends the program with a message. */
#ifndef STORE_PROBE_H
#define STORE_PROBE_H

#include <stddef.h>
#include <stdint.h>

/* Milliseconds; sorts the samples. */
struct latencies {
    double median, p999, max;
};
struct latencies latencies_of(uint64_t *samples_ns, size_t n);

struct store_probe;
struct store_probe *store_probe_start(const char *dir, size_t step_bytes);
struct latencies store_probe_stop(struct store_probe *probe);

#endif
