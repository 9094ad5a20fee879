/* Merging the hits of nodes into one list with one order: rank (larger first), then id.
 *
 * A node's list is taken in only if it is what an honest one would send: no more than k hits,
 * strictly in order, no NaN, no id twice, and only ids whose slice that node was asked for. The
 * last makes lists of different nodes disjoint, so no point can be counted twice.
 *
 * Owns nothing: lists and scratch are in the caller's arena. Threads: one owner. Errors:
 * KITH_PROTOCOL saying what was wrong; the list merged so far is untouched then.
 * Limits: KITH_K_MAX hits a list. */
#ifndef MERGE_H
#define MERGE_H

#include "common/kith_arena.h"
#include "proto/kith_collection.h"
#include "proto/kith_msg.h"

struct merge_list {
    struct kith_hit *hits; /* room for k */
    uint32_t n;
    uint32_t k;
};

/* Which slices the sender was asked for. */
struct merge_source {
    const uint32_t *slices; /* ascending */
    uint32_t n_slices;
    uint32_t n_slices_total; /* of the collection */
};

struct merge_scratch {
    struct kith_hit *incoming; /* k_max */
    struct kith_hit *merged;   /* k_max */
    uint32_t *table;           /* table_n, a power of two >= 2 * k_max */
    uint32_t table_n;
    uint32_t k_max;
};

enum kith_err merge_scratch_init(struct merge_scratch *out, struct kith_arena *arena,
                                 uint32_t k_max, struct kith_diag *diag);
enum kith_err merge_list_init(struct merge_list *out, struct kith_arena *arena, uint32_t k,
                              struct kith_diag *diag);

/* packed: n_hits times KITH_HIT_BYTES. */
enum kith_err merge_add(struct merge_list *into, struct kith_bytes packed, uint32_t n_hits,
                        const struct merge_source *source, struct merge_scratch *scratch,
                        struct kith_diag *diag);
/* The checks of merge_add alone. */
enum kith_err merge_check(const struct merge_list *list, struct kith_bytes packed, uint32_t n_hits,
                          const struct merge_source *source, struct merge_scratch *scratch,
                          struct kith_diag *diag);
void merge_remove(struct merge_list *list, const struct kith_id *id); /* if it is there */

int merge_compare(const struct kith_hit *a, const struct kith_hit *b); /* <0: a comes first */

/* Rank (proto/kith_collection.h) to what users see, always finite; and a user's score_threshold to
 * the rank sent to nodes, a little below the exact one: merge_passes decides exactly. */
float merge_score(enum kith_metric metric, float rank);
float merge_threshold(enum kith_metric metric, float score);
bool merge_passes(enum kith_metric metric, float score, float threshold);

#endif
