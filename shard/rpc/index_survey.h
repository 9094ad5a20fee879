/* What a collection adds up to, on this node and on those that answer: how many rows and
 * operations, and how well the codebook fits them. A better codebook that another node has is taken
 * over on the way.
 *
 * Owns: its memory, a reference to the index. Borrows: the rest. Threads: that of node_peers_ask.
 * Errors: are logged; who did not answer is left out. */
#ifndef INDEX_SURVEY_H
#define INDEX_SURVEY_H

#include "shard/rpc/collection_index.h"
#include "shard/rpc/index_exchange.h"
#include "shard/rpc/slice_table.h"

struct index_survey {
    struct slice_table *table;
    const struct index_exchange *exchange;
    struct collection_index *index;
    struct node_share *shares;     /* NULL: this node has it all */
    uint32_t n_shares, self;       /* self: which of them is this node */
    uint64_t live[KITH_NODES_MAX]; /* of each share; 0: of none that answered */
    uint64_t live_here, live_all;
    uint64_t seq[KITH_SLICES_PER_COLLECTION_MAX]; /* 0: of none that answered */
    uint32_t n_slices;                            /* open ones of this node */
    uint32_t slices[KITH_SLICES_PER_COLLECTION_MAX];
    double energy, energy_rows;       /* of rows that got a list with the codebook of this node */
    struct kith_msg_codebooked state; /* of the node that was asked last */
};

/* NULL: the node has no such collection, or no memory for a look at it. */
struct index_survey *index_survey_new(struct collection_indexes *indexes, uint64_t collection,
                                      struct slice_table *table,
                                      const struct index_exchange *exchange);
void index_survey_free(struct index_survey *survey);

/* In this order. Who has slices; false: the map does not say yet. */
bool index_survey_shares(struct index_survey *survey);
void index_survey_here(struct index_survey *survey);
/* Of one share; false: no answer. */
bool index_survey_ask(struct index_survey *survey, uint32_t share);

/* Whether merges of this node's slices wait. Ends a wait with a nudge. */
void index_survey_hold(const struct index_survey *survey, bool hold);
/* Something about the collection failed; cancelled is not failed. */
void index_survey_report(const struct index_survey *survey, const char *event,
                         const struct kith_diag *diag);

#endif
