/* A codebook: what one generation of a collection's approximate index shares between all its
 * segments, slices and nodes - the centroids of the lists, and the product quantizer of what is
 * left of a row when its centroid is taken away (Jegou, Douze, Schmid: Product quantization for
 * nearest neighbor search, 2011; 4-bit codes as in Andre, Kermarrec, Le Scouarnec: Cache locality
 * is not enough, 2015).
 *
 * Because it is shared, list c of a collection is the union of list c over its segments: a query
 * ranks the lists and fills its look-up tables once, a merge only puts lists together, and moving a
 * slice retrains nothing. A codebook is immutable, known by the hash of its bytes, and stored in
 * every segment that uses it.
 *
 * Owns: a codebook owns its memory; counted with codebook_ref/unref. Threads: any, once made.
 * Errors: KITH_CORRUPT for bytes that are no codebook, KITH_NOMEM, KITH_CANCELLED. */
#ifndef CODEBOOK_H
#define CODEBOOK_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "proto/kith_err.h"
#include "proto/kith_wire.h"
#include "shard/storage/slice_config.h"

/* How rows of a list are looked at first. Disk values: never renumber. */
enum codebook_codes {
    CODEBOOK_ROWS = 1, /* the rows themselves: exact within the lists */
    CODEBOOK_INT8 = 2, /* one byte a dimension */
    CODEBOOK_PQ4 = 3,  /* 4 bits for every sub_dim dimensions */
};

#define CODEBOOK_SUBS_MAX  2048u /* sub-quantizers: KITH_DIM_MAX / 4 */
#define CODEBOOK_LISTS_MAX (1u << 16)

struct codebook {
    enum kith_metric metric;
    enum codebook_codes codes;
    uint32_t dim;
    uint32_t n_lists;
    uint32_t sub_dim; /* dimensions of a sub-quantizer; the last one may have fewer, zero-padded */
    uint32_t n_subs;  /* even; 0 unless PQ4 */
    uint32_t generation;
    uint64_t hash;         /* of the bytes */
    uint64_t trained_rows; /* rows of the collection when it was trained */
    float residual_energy; /* mean |x - centroid|^2 of rows not trained on; new rows far above it
                              mean drift */
    float stretch; /* PQ4: code words are so many times the means that they stand for; else 1 */
    float lift;    /* dot: see below; else 0 */
    float weight;  /* of <q,centroid> where lists are ranked, see below; at least 1 */
    const float *centroids; /* n_lists * dim */
    const float *lifts;     /* dot: the further coordinate of each centroid; else NULL */
    const float *minus;     /* |centroid|^2 / 2 / weight, under dot lifted; lists are ranked by
                               <q,centroid> - minus. Padded with FLT_MAX to n_lists8 */
    const float *subs;      /* n_subs * sub_dim * 16: value j of the 16 code words at [s][j] */

    /* Made from the above when a codebook is made, 64-byte aligned: the centroids as bytes, to rank
     * the lists. Value j of centroid c at [c / 16][j / 4][c % 16][j % 4], zero-padded. */
    const int8_t *centroids8;
    float centroid_scale8;
    uint32_t n_lists8; /* n_lists rounded up to 16 */

    float scale8, offset8; /* manhattan: the common scale of row bytes; else 1 and 0 */
};

/* Under dot a large row is near many queries, whatever its direction. So rows get one more
 * coordinate, sqrt(lift - |x|^2), and queries a 0 there (Bachrach et al.: Speeding up the Xbox
 * recommender system using a Euclidean transformation for inner-product spaces, 2014): the largest
 * inner product is then the smallest distance, lift + |q|^2 - 2 <q,x>, and that is the "k-th best
 * distance" of ivf_effort. Centroids have the coordinate too; it is only needed to assign rows. */

/* Which lists come first. A list's rows are on average as far as its centroid and how far they are
 * spread around it; rows of one length are spread the more the shorter their centroid is, which
 * makes |q - c|^2 + 1 - |c|^2 = 2 - 2 <q,c>. But of rows that are spread more the best are nearer.
 * The centroid's own distance takes all of the spread for gain, <q,c> none of it; between them is
 * |w q - c|^2, with w found by trial (docs/INDEX.md). */
#define CODEBOOK_WEIGHT 1.5f /* cosine, dot; of euclid and manhattan 1 */
static inline float codebook_weight(enum kith_metric metric)
{
    return metric == KITH_COSINE || metric == KITH_DOT ? CODEBOOK_WEIGHT : 1.0f;
}

struct codebook_training {
    const struct slice_config *config;
    enum codebook_codes codes;
    const float *rows; /* n_rows * dim: a random sample of the collection, in random order */
    uint32_t n_rows;
    uint64_t collection_rows; /* what it is a sample of: decides n_lists */
    uint32_t n_lists;         /* 0: codebook_lists_for(collection_rows) */
    uint32_t sub_dim;         /* 0: by dimension */
    uint32_t generation;
    uint32_t threads;              /* at least 1 */
    bool (*stop)(const void *ctx); /* asked every few ms, by any thread; NULL: never */
    const void *stop_ctx;
};

/* Of two codebooks of a collection every node prefers the same one: that of the newer generation,
 * and when two nodes trained one generation at once, that of the larger hash. than NULL: none. */
static inline bool codebook_is_newer(uint32_t generation, uint64_t hash,
                                     const struct codebook *than)
{
    return than == NULL || generation > than->generation ||
           (generation == than->generation && hash > than->hash);
}

/* How many rows are worth sampling for a collection of so many; bounded. */
uint32_t codebook_sample_rows(uint64_t collection_rows, uint32_t dim);
uint32_t codebook_lists_for(uint64_t collection_rows);
/* Dimensions of a sub-quantizer: docs/decisions/quantizer.md has the measurements. */
uint32_t codebook_sub_dim_for(uint32_t dim);

enum kith_err codebook_train(struct codebook **out, const struct codebook_training *training,
                             struct kith_diag *diag);
/* From codebook_bytes of another one, for a slice of this shape. Copies. */
enum kith_err codebook_load(struct codebook **out, struct kith_bytes bytes,
                            const struct slice_config *config, struct kith_diag *diag);
struct kith_bytes codebook_bytes(const struct codebook *codebook); /* borrowed */
size_t codebook_memory(const struct codebook *codebook);           /* bytes that it owns */
void codebook_ref(const struct codebook *codebook);
void codebook_unref(const struct codebook *codebook); /* NULL allowed */

#endif
