/* Factory strings: which of Faiss's are taken, and what they ask for. Needs nothing of Faiss.
 *
 * Pieces joined by commas, in Faiss's own notation (# is a number):
 *   first, optionally   PCA#  PCAR#  OPQ#  OPQ#_#
 *   then                IVF#,CODE  IVF#_HNSW#,CODE  HNSW#  HNSW#,CODE  CODE
 *   last, optionally    RFlat
 *   CODE                Flat  SQ4  SQ6  SQ8  SQfp16  PQ#  PQ#x#  PQ#x4fs  PQ#x4fsr
 * Other kinds of Faiss are refused, for some end the process by an assertion or by an exception
 * inside an OpenMP region. Threads: no state. */
#ifndef FAISS_FACTORY_H
#define FAISS_FACTORY_H

#include <stdbool.h>
#include <stdint.h>

#include "proto/kith_collection.h"
#include "proto/kith_err.h"

/* Each piece by itself: it is known, its numbers are in range and divide the dimension where they
 * must. Which may follow which is left to Faiss (faiss_index_new).
 *
 * KITH_BAD_REQUEST: not such a piece, which is named. KITH_UNSUPPORTED: not by manhattan distance,
 * which only Flat and HNSW# know. KITH_TOO_BIG: longer than KITH_FAISS_FACTORY_MAX, or a dimension
 * that is not from 1 to KITH_DIM_MAX. */
enum kith_err faiss_factory_check(const char *factory, uint32_t dim, enum kith_metric metric,
                                  struct kith_diag *diag);

/* What a string asks for that faiss_factory_check takes. */
struct faiss_factory_shape {
    uint32_t lists;     /* of IVF#; 0: none, and no setting nprobe */
    uint32_t centroids; /* the most of one training, lists or code words; 0: nothing is clustered */
    bool graph;         /* HNSW# or IVF#_HNSW#: there is a setting efSearch */
    bool coded;         /* distances are those of codes, or of rows that were rotated and cut */
    uint32_t ranked_len; /* characters before ",RFlat", if that is there */
};
struct faiss_factory_shape faiss_factory_shape_of(const char *factory);

#endif
