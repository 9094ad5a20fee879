/* Which segments of a slice are rewritten next: a pure function of their sizes.
 *
 * Threads: no state. Limits: KITH_SEGMENTS_MAX parts. */
#ifndef MERGE_POLICY_H
#define MERGE_POLICY_H

#include <stdbool.h>
#include <stdint.h>

#include "shard/storage/segment_index.h"

#define MERGE_POLICY_MAX 16u /* segments of one merge */

struct merge_part {
    uint32_t rows, live;
    enum index_want want;
};

enum merge_why {
    MERGE_WHY_NUMBER, /* so many of a tier, so many in all, or one full of holes */
    MERGE_WHY_INDEX,  /* they have none */
    MERGE_WHY_REST,   /* to be gathered, or for a better index */
};

struct merge_choice {
    uint32_t n; /* 0: nothing to do now */
    enum merge_why why;
    uint32_t from[MERGE_POLICY_MAX];
    uint32_t pending; /* parts that want an index and have none */
    bool waits;       /* something is to be done at another pace */
    bool gathers;     /* something may be done at rest, and need not */
    bool plain;       /* without an index: it is their number that matters now */
};

enum merge_pace {
    MERGE_HELD,  /* all will want another index soon: only what cannot wait */
    MERGE_BUSY,  /* segments were sealed lately */
    MERGE_QUIET, /* they were not */
    MERGE_REST,  /* nor for long: time for what only makes searches faster */
};

/* parts: most rows first. base: rows of a freshly sealed segment. pours: the last of those came
 * right after the one before it. */
void merge_policy_choose(const struct merge_part *parts, uint32_t n, uint32_t base,
                         enum merge_pace pace, bool pours, struct merge_choice *out);
/* So many rows of it are gone that it is worth rewriting. */
bool merge_policy_is_holey(uint32_t rows, uint32_t n_deleted);
/* So many segments that a merge which takes long for its index should go on without. */
bool merge_policy_is_pressed(uint32_t n_segments);

#endif
