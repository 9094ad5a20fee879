/* What leader's files share; included by leader*.c only. Everything runs on the loop. */
#ifndef LEADER_IMPL_H
#define LEADER_IMPL_H

#include "common/kith_inbox.h"
#include "common/kith_keys.h"
#include "coordinator/cluster/leader.h"

#define LEADER_RETRY_MS     1000u
#define LEADER_BATCH_SLICES 60u /* changes of one transaction; comparisons are two more */

struct leader_opening; /* leader_open.c */

struct leader {
    struct leader_cfg cfg;
    char *http_url;
    struct kith_timer *retry;
    struct kith_inbox *inbox;
    struct leader_opening *openings;
    bool busy; /* a transaction is under way */
    bool leading;
    bool closing;
    uint64_t revision; /* of the leader's key, when leading */
};

/* Does the first thing that is not as it should be; nothing while a transaction is under way. */
void leader_step(struct leader *leader);
void leader_step_later(struct leader *leader); /* something failed: LEADER_RETRY_MS from now */

/* --- leader_batch.c: the keys of slices, read from the mirror and written by transactions -------
 */

/* What the mirror says of a slice. Returns its revision, 0 = no key. */
uint64_t leader_read_slice(const struct leader *leader, uint64_t collection, uint32_t slice,
                           struct kith_slice_value *out);

/* Its result is a step, sooner or later. Nothing is borrowed. */
void leader_commit(struct leader *leader, const struct kith_registry_compare *compares,
                   size_t n_compares, const struct kith_registry_change *changes, size_t n_changes);

struct leader_batch {
    size_t n_compares, n_changes;
    struct kith_registry_compare compares[LEADER_BATCH_SLICES + 2];
    struct kith_registry_change changes[LEADER_BATCH_SLICES];
    char keys[LEADER_BATCH_SLICES][KITH_KEY_BYTES];
    struct kith_buf values[LEADER_BATCH_SLICES];
    char collection_key[KITH_KEY_BYTES];
    bool failed;
};

/* One that holds only as long as this process leads. NULL: out of memory. */
struct leader_batch *leader_batch_new(const struct leader *leader);
bool leader_batch_full(const struct leader_batch *batch);
/* revision: what the slice's key must be at now; 0 = absent. */
void leader_batch_put_slice(struct leader_batch *batch, uint64_t collection, uint32_t slice,
                            uint64_t revision, const struct kith_slice_value *value);
void leader_batch_commit(struct leader *leader, struct leader_batch *batch); /* frees the batch */

/* --- leader_place.c -----------------------------------------------------------------------------
 */

/* Gives slices without a node one; as many as one transaction holds. */
void leader_place(struct leader *leader);

/* --- leader_open.c ------------------------------------------------------------------------------
 */

/* Records answers that came while a transaction was under way, and forgets old failures. */
void leader_record_openings(struct leader *leader);
/* Asks the nodes that are there to open what they were given. */
void leader_open_slices(struct leader *leader);
void leader_on_opened(void *ctx, struct kith_inbox_item *item); /* ctx: the leader; an answer */
void leader_drop_openings(struct leader *leader);               /* all were answered */

#endif
