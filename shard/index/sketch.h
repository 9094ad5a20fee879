/* Sketches: a row of a head in bytes, which say how high the row can rank at most.
 *
 * A row without an index is ranked exactly, and reading it is what that costs. A sketch has about a
 * quarter of its bytes, and what it says is a bound, not a guess: the errors of rounding the row
 * and the query are added, so a row whose bound does not reach the k-th best rank cannot be a hit,
 * and the few others are ranked exactly. Hits and ranks are those of an exact scan.
 *
 * Rows of f32; not for manhattan. They pay from SKETCH_DIM_MIN on. Owns: nothing. Threads: any. */
#ifndef SKETCH_H
#define SKETCH_H

#include <stdbool.h>
#include <stdint.h>

#include "shard/index/ivf_kernels.h"
#include "shard/index/kernels.h"
#include "shard/storage/slice_config.h"
#include "shard/storage/view.h"

#define SKETCH_DIM_MIN   64u /* below, a sketch has more than half of the row's bytes */
#define SKETCH_BYTES_MAX (KITH_DIM_MAX + 64u)

/* How heads of such a slice may sketch their rows, and the same where it pays: store_sketch_fn. */
void sketch_of(const struct slice_config *config, struct head_sketch *out);
void sketch_where_it_pays(const struct slice_config *config, struct head_sketch *out);

struct sketch_query {
    struct ivf_kernels_rows8 rows8; /* its rows are set by sketch_choose */
    double minus;                   /* what a bound is less than a rank: form L2 */
    bool halved;
    uint8_t bytes[SKETCH_BYTES_MAX];
};

/* False: such a query (0, or too large for floats) can be told nothing. */
bool sketch_query_init(struct sketch_query *query, enum kernels_form form, const float *vector,
                       uint32_t dim);
/* The rows among n, ascending, that may rank not below floor, and how many; list has room for n +
 * KERNELS_SELECT_SLACK. */
uint32_t sketch_choose(struct sketch_query *query, const uint8_t *sketches, uint32_t n, float floor,
                       uint32_t *list);

#endif
