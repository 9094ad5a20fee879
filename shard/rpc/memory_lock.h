/* Keeps the parts of segments that every search reads in memory: product codes first, then rows of
 * bytes, as far as a budget goes; among equals the older segments.
 *
 * What is open is looked at about once a second, so a new segment is locked soon after it is
 * published, and one that was merged away gives its share back. Less than the budget, because
 * RLIMIT_MEMLOCK is lower or memory is short, is logged and reported, and nothing else.
 *
 * Owns: a thread, unless the budget is 0. Borrows: the slices. Threads: any. */
#ifndef MEMORY_LOCK_H
#define MEMORY_LOCK_H

#include "shard/rpc/slice_table.h"

struct memory_lock;

struct memory_lock_options {
    struct slice_table *slices;
    uint64_t budget_bytes; /* 0: nothing is locked */
    bool background;       /* false: only in memory_lock_run (tests) */
};
enum kith_err memory_lock_open(struct memory_lock **out, const struct memory_lock_options *options,
                               struct kith_diag *diag);
void memory_lock_close(struct memory_lock *lock); /* NULL allowed */

void memory_lock_run(struct memory_lock *lock); /* one look; one thread at a time */
/* A memory_locked_fn. */
uint64_t memory_lock_bytes(void *lock, uint64_t serial, unsigned section);

struct memory_lock_stats {
    uint64_t budget, locked;
    bool refused; /* the system gave less than was to be locked */
};
void memory_lock_stats(struct memory_lock *lock, struct memory_lock_stats *out);

#endif
