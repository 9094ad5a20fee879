/* The vectors of benchmarks: those of a data set, or made-up ones (clusters on the unit sphere, so
 * that scores differ as real ones do).
 *
 * Row i of a dimension is the same in every program, in any order. Threads: points_init once, then
 * any. Errors: a file that cannot be used ends the program. Limits: POINTS_DIM_MAX. */
#ifndef POINTS_H
#define POINTS_H

#include <stdint.h>

#define POINTS_DIM_MAX   1024u
#define POINTS_QUERIES   (UINT64_C(1) << 40) /* rows from here on are queries: in no data set */
#define POINTS_PER_WRITE 1000u               /* points in a batch, unless asked otherwise */

#define POINTS_KEYS 1000u /* of a row's key: uniform, independent of the vector */

void points_init(uint32_t dim);
/* Instead: rows of f32 without a head, as the machine has them. Both files stay mapped. */
void points_init_files(uint32_t dim, const char *base, const char *queries);
uint64_t points_in_file(void);             /* 0 when they are made up */
void points_row(uint64_t row, float *out); /* dim numbers; made-up ones have length 1 */
uint32_t points_key(uint64_t row);         /* below POINTS_KEYS: what filters select by */

#endif
