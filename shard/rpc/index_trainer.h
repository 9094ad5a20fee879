/* Makes codebooks: looks at the collections of a node about once a second, and trains one on a
 * sample of all slices when a collection has become large enough, has grown, or has changed.
 *
 * A new codebook is for segments written from then on; the stores are nudged, rewrite what they
 * have bit by bit, and queries use the old index of a segment until its new one is swapped in.
 *
 * Owns: a thread, of low priority. Borrows: the slices, the indexes. Threads: any. Errors: a
 * training that fails is logged and tried again after a while. */
#ifndef INDEX_TRAINER_H
#define INDEX_TRAINER_H

#include "shard/rpc/collection_index.h"
#include "shard/rpc/slice_table.h"

struct index_trainer;

struct index_trainer_options {
    struct slice_table *slices;
    struct collection_indexes *indexes;
    uint32_t threads; /* of one training, at least 1 */
};
enum kith_err index_trainer_open(struct index_trainer **out,
                                 const struct index_trainer_options *options,
                                 struct kith_diag *diag);
/* Gives up what it is doing within milliseconds. NULL allowed. */
void index_trainer_close(struct index_trainer *trainer);

#endif
