/* Sees to it that a collection has one codebook, the same on all nodes that hold slices of it:
 * looks about once a second, trains one when the collection has become large enough, has grown, or
 * has changed, and fetches the one that another node has trained.
 *
 * A new codebook is for segments written from then on; the stores are nudged, rewrite what they
 * have bit by bit, and queries use the old index of a segment until its new one is swapped in.
 *
 * Owns: a thread, of low priority. Borrows: the slices, the indexes, the peers (it is their asking
 * thread). Threads: any. Errors: a training or a fetch that fails is logged and tried again after a
 * while. */
#ifndef INDEX_TRAINER_H
#define INDEX_TRAINER_H

#include "shard/rpc/collection_index.h"
#include "shard/rpc/node_peers.h"
#include "shard/rpc/slice_table.h"

struct index_trainer;

struct index_trainer_options {
    struct slice_table *slices;
    struct collection_indexes *indexes;
    struct node_peers *peers; /* NULL: there are no other nodes */
    uint32_t threads;         /* of one training, at least 1 */
    uint32_t look_ms;         /* between two looks; 0: a second */
    uint32_t away_ms;         /* so long is the node that should train waited for; 0: a minute */
};
enum kith_err index_trainer_open(struct index_trainer **out,
                                 const struct index_trainer_options *options,
                                 struct kith_diag *diag);
/* Gives up what it is doing within milliseconds. NULL allowed. */
void index_trainer_close(struct index_trainer *trainer);

#endif
