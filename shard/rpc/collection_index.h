/* The indexes of the collections of a node: one builder for all slices of a collection, and how far
 * it is.
 *
 * A collection is here as long as one of its slices is open. What a slice's segments already have
 * is taken over when it is opened: the newest codebook found becomes the one of new segments.
 *
 * Owns: the builders. Threads: any. Errors: KITH_NOMEM. */
#ifndef COLLECTION_INDEX_H
#define COLLECTION_INDEX_H

#include <stdatomic.h>

#include "proto/kith_limits.h"
#include "shard/index/faiss_build.h"
#include "shard/index/ivf_build.h"
#include "shard/storage/store.h"

struct collection_indexes;

/* min_rows: of a segment with an index and of a collection with a codebook; 0: as ivf_build.h says.
 * threads: of one build; 0: one. */
enum kith_err collection_indexes_open(struct collection_indexes **out, uint32_t min_rows,
                                      uint32_t threads, struct kith_diag *diag);
void collection_indexes_close(struct collection_indexes *indexes); /* all are put; NULL allowed */
/* So many rows a collection has before a codebook is trained. */
uint32_t collection_indexes_train_rows(const struct collection_indexes *indexes);

struct collection_index {
    /* Immutable. */
    struct collection_indexes *all;
    struct slice_config config; /* slice is of no meaning */
    struct ivf_builder *builder;
    struct faiss_builder *faiss; /* not NULL: builds instead, and builder never has a codebook */
    /* For INFO; relaxed. */
    atomic_bool training;
    /* Trainer only. */
    uint64_t seen_hash; /* the codebook since which `seen_seq` count; 0: none yet */
    uint64_t seen_seq[KITH_SLICES_PER_COLLECTION_MAX]; /* of each slice when it was first seen */
    uint64_t next_look_ns, silent_since_ns;
    /* Guarded by the lock of `all`. */
    struct collection_index *next;
    uint32_t refs;
};

/* A reference; *out NULL: the collection is to have none. */
enum kith_err collection_index_get(struct collection_indexes *indexes,
                                   const struct slice_config *config, struct collection_index **out,
                                   struct kith_diag *diag);
void collection_index_put(struct collection_index *index); /* NULL allowed */
/* The one of an open collection, or NULL; a reference. */
struct collection_index *collection_index_find(struct collection_indexes *indexes,
                                               uint64_t collection);
const struct segment_index_hooks *collection_index_hooks(struct collection_index *index);

/* Takes over the newest codebook among the segments of a store that was just opened. */
void collection_index_adopt(struct collection_index *index, struct store *store);

struct collection_index_state {
    enum kith_index_phase phase; /* never READY while stats (of one slice) say there is work */
    uint32_t generation, n_lists;
    uint64_t codebook; /* its hash; 0: none */
};
/* index NULL: none. */
struct collection_index_state collection_index_state(struct collection_index *index,
                                                     const struct store_stats *stats);

#endif
