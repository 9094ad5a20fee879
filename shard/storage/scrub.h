/* The scrubber of a node: one thread that reads all files of all stores, again and again.
 *
 * First, at full speed, what was not verified since it was opened (segments are usable before: a
 * block is verified by whoever needs it first). Then rounds over everything, at
 * KITH_SCRUB_BYTES_PER_S and at most one every KITH_SCRUB_PERIOD_S. What it finds is logged,
 * counted, quarantined or written anew (store_scrub.c).
 *
 * Owns: its thread. Borrows: whoever knows the stores. Threads: open and close: one; the rest: any.
 * Errors: KITH_NOMEM. */
#ifndef SCRUB_H
#define SCRUB_H

#include "shard/storage/store.h"

struct scrub;

typedef bool (*scrub_store_fn)(void *ctx, struct store *store); /* false: no more */

struct scrub_options {
    /* Calls fn for each store, which it keeps open meanwhile. Who wants to close a store calls
     * store_hurry: fn returns soon then. */
    void (*each)(void *owner, scrub_store_fn fn, void *ctx);
    void *owner;
    uint64_t bytes_per_s; /* 0: KITH_SCRUB_BYTES_PER_S */
    uint32_t period_s;    /* 0: KITH_SCRUB_PERIOD_S */
    bool background;      /* false: no thread, rounds only by scrub_round (tests) */
};

enum kith_err scrub_open(struct scrub **out, const struct scrub_options *options,
                         struct kith_diag *diag);
void scrub_close(struct scrub *scrub); /* NULL allowed */
void scrub_wake(struct scrub *scrub);  /* stores were opened: verify them now */
void scrub_round(struct scrub *scrub); /* one round now, on the caller, without a pause */

struct scrub_stats {
    uint64_t rounds, files, bytes, damaged; /* since it was opened */
};
void scrub_stats(struct scrub *scrub, struct scrub_stats *out);

#endif
