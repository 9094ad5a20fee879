/* The words of a collection that both roles use. */
#ifndef KITH_COLLECTION_H
#define KITH_COLLECTION_H

/* Wire and disk values: never renumber. */
enum kith_metric { KITH_COSINE = 1, KITH_DOT = 2, KITH_EUCLID = 3, KITH_MANHATTAN = 4 };
enum kith_row_type { KITH_ROWS_F32 = 1, KITH_ROWS_F16 = 2 };

/* Inside Kith a score is a rank: larger is nearer, for every metric.
 *   cosine, dot: the inner product;  euclid: -(squared distance);  manhattan: -(distance).
 * The coordinator turns it into what users see (euclid: sqrt(-rank), manhattan: -rank). */

#endif
