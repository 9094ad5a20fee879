/* The words of a collection that both roles use. */
#ifndef KITH_COLLECTION_H
#define KITH_COLLECTION_H

#include <stdbool.h>
#include <string.h>

/* Wire and disk values: never renumber. */
enum kith_metric { KITH_COSINE = 1, KITH_DOT = 2, KITH_EUCLID = 3, KITH_MANHATTAN = 4 };
/* What the registry, the command line and benchmarks call it; NULL: no metric. */
static inline const char *kith_metric_word(enum kith_metric metric)
{
    switch (metric) {
    case KITH_COSINE:
        return "cosine";
    case KITH_DOT:
        return "dot";
    case KITH_EUCLID:
        return "euclid";
    case KITH_MANHATTAN:
        return "manhattan";
    }
    return NULL;
}

static inline bool kith_metric_of_word(const char *word, enum kith_metric *out)
{
    for (int m = KITH_COSINE; m <= KITH_MANHATTAN; m++)
        if (strcmp(word, kith_metric_word((enum kith_metric)m)) == 0) {
            *out = (enum kith_metric)m;
            return true;
        }
    return false;
}

enum kith_row_type { KITH_ROWS_F32 = 1, KITH_ROWS_F16 = 2 };

/* What the approximate index of a segment keeps of each row beside it: nothing (no index, exact
 * scans), the row alone, a byte a dimension, or 4-bit product codes and bytes. */
enum kith_index {
    KITH_INDEX_NONE = 0,
    KITH_INDEX_ROWS = 1,
    KITH_INDEX_INT8 = 2,
    KITH_INDEX_PQ4 = 3,
    KITH_INDEX_FAISS = 4 /* not lists of ours, but what Faiss makes of a factory string */
};

/* What a collection gets when nobody asks for anything else. Product codes are of no use for sums
 * of absolute differences: there is no inner product to look up. */
static inline enum kith_index kith_index_default(enum kith_metric metric)
{
    return metric == KITH_MANHATTAN ? KITH_INDEX_INT8 : KITH_INDEX_PQ4;
}

/* How far the index of a collection on a node is. Wire values. */
enum kith_index_phase {
    KITH_INDEX_ABSENT = 0,   /* none wanted, or too few points yet */
    KITH_INDEX_TRAINING = 1, /* a codebook is being made */
    KITH_INDEX_BUILDING = 2, /* segments without an index are still to be given one */
    KITH_INDEX_READY = 3,
};

/* Inside Kith a score is a rank: larger is nearer, for every metric.
 *   cosine, dot: the inner product;  euclid: -(squared distance);  manhattan: -(distance).
 * The coordinator turns it into what users see (euclid: sqrt(-rank), manhattan: -rank). */

#endif
