/* Made-up vectors for benchmarks: clusters on the unit sphere, so that scores differ as real ones
 * do.
 *
 * Row i of a dimension is the same in every program, in any order. Threads: points_init once, then
 * any. Limits: POINTS_DIM_MAX. */
#ifndef POINTS_H
#define POINTS_H

#include <stdint.h>

#define POINTS_DIM_MAX   1024u
#define POINTS_QUERIES   (UINT64_C(1) << 40) /* rows from here on are queries: in no data set */
#define POINTS_PER_WRITE 1000u               /* points in a batch, unless asked otherwise */

void points_init(uint32_t dim);
void points_row(uint64_t row, float *out); /* dim numbers, length 1 */

#endif
