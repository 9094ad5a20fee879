/* How hard a search is to look: the search parameters of the API and Kith's own, as one target.
 *
 * A recall target is the only dial a node has. The API's `hnsw_ef` (the width of a beam) becomes
 * one: recall = 1 - 0.15 k / max(ef, k), at most 0.999, so that it grows with ef / k as the recall
 * of a beam does: 0.85 at ef = k, 0.95 at 3 k, 0.985 at 10 k. Threads: any. Errors:
 * KITH_BAD_REQUEST, KITH_UNSUPPORTED; the text begins with the path of the field. */
#ifndef PLAN_EFFORT_H
#define PLAN_EFFORT_H

#include "common/kith_json.h"

struct plan_effort {
    bool exact, indexed_only, explain, no_rescore;
    float recall; /* 0: not said */
    float margin; /* as in struct kith_msg_search_part; 0: not said */
};

#define PLAN_EFFORT_RECALL_MIN 0.5 /* indexes are not calibrated for less */

/* `params`: an object whose fields are known; where: its path. k: hits asked of each slice. */
enum kith_err plan_effort_read(struct kith_json params, const char *where, uint32_t k,
                               struct plan_effort *out, struct kith_diag *diag);
float plan_effort_of_beam(uint32_t ef, uint32_t k);
bool plan_effort_equal(const struct plan_effort *a, const struct plan_effort *b);

#endif
