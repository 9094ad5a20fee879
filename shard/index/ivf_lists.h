/* The lists of a codebook in the order a query should visit them: ranked by bytes, taken out in
 * portions, each portion nearest first.
 *
 * Only the lists of a portion are put in order, and only roughly (by 32 classes of distance):
 * which of two nearly equal lists comes first does not matter, sorting thousands does.
 *
 * Owns: its memory, from ivf_lists_new. Threads: one at a time. Errors: KITH_NOMEM. */
#ifndef IVF_LISTS_H
#define IVF_LISTS_H

#include <stdbool.h>
#include <stdint.h>

#include "shard/index/codebook.h"
#include "shard/index/ivf_kernels.h"

/* Keys of a query that is to come. */
struct ivf_lists_ranked {
    float *keys, *maxima;
    int8_t *bytes;
    float scale;
};

struct ivf_lists {
    uint32_t n_lists, n_keys; /* n_keys: with padding */
    /* The larger, the nearer: <q,c> - codebook.minus; manhattan: -|q - c|. */
    float *keys;
    const uint32_t *order; /* the portion: n lists */
    uint32_t n;
    float farthest; /* the lowest key of the portion */
    float low;      /* lists with a key not below it have been taken */
    float error;    /* standard deviation of a key, from bytes instead of floats */
    /* Inside. */
    float *maxima;
    uint32_t n_maxima;
    uint32_t *picked, *sorted;
    uint8_t *classes;
    int8_t *bytes; /* of the query */
    float spread;  /* about how far keys differ: where to begin looking for a bound */
    uint32_t dim4;
    struct ivf_lists_ranked ranked[IVF_KERNELS_BATCH];
};

enum kith_err ivf_lists_init(struct ivf_lists *lists, const struct codebook *codebook,
                             struct kith_diag *diag);
void ivf_lists_fini(struct ivf_lists *lists); /* a zeroed one is allowed */

/* Begins a query. False: its numbers are too large to be ranked by bytes. */
bool ivf_lists_rank(struct ivf_lists *lists, const struct codebook *codebook, const float *query,
                    float length2);
/* Ranks for so many queries, which reads the centroids once. False: nothing is gained by it here,
 * or one has numbers that are too large. */
bool ivf_lists_rank_batch(struct ivf_lists *lists, const struct codebook *codebook,
                          const float *const queries[IVF_KERNELS_BATCH]);
/* Begins query i of the batch, once: the same as ivf_lists_rank. */
void ivf_lists_begin_ranked(struct ivf_lists *lists, const struct codebook *codebook, uint32_t i,
                            float length2);
/* The next portion is the nearest again. */
void ivf_lists_restart(struct ivf_lists *lists);
/* The next portion: about n lists, at least n if there are so many. */
void ivf_lists_take(struct ivf_lists *lists, uint32_t n);
/* The next portion: all with a key not below `low`. */
void ivf_lists_take_above(struct ivf_lists *lists, float low);
bool ivf_lists_all_taken(const struct ivf_lists *lists);

/* How far a list with this key is, from a query of this squared length: a squared distance, of the
 * query times codebook.weight, over that weight; manhattan: a distance. */
float ivf_lists_distance(float key, const struct codebook *codebook, float length2);

/* And how far a row of this score is. */
float ivf_lists_hit_distance(const struct codebook *codebook, float length2, float score);

/* What a reach is a multiple of: a mean of the distances of the k-th best hit and of the first
 * lists. The lists alone say little of where the neighbours are; the hit alone says little of which
 * lists may hold them when it is in a small dense group, or the query far from everything. */
#define IVF_LISTS_HIT_WEIGHT 0.3f
static inline float ivf_lists_unit(float hit, float front)
{
    return IVF_LISTS_HIT_WEIGHT * hit + (1 - IVF_LISTS_HIT_WEIGHT) * front;
}

#endif
