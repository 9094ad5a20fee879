/* Exact search: ranks of all allowed rows of a run, into the queries' top-k.
 *
 * A query has the same hits and the same ranks to the bit alone, in a batch, and however the rows
 * are cut into runs. A batch of queries goes through matrix products, which only choose which rows
 * are ranked (see flat.c). Threads: one scratch and one flat_search per thread; `floors` are
 * shared. Allocates nothing while scanning. */
#ifndef FLAT_H
#define FLAT_H

#include <stdbool.h>
#include <stdint.h>

#include "shard/index/kernels.h"
#include "shard/index/topk.h"

#define FLAT_QUERIES_MAX 128u /* of one flat_search: bounds the scratch */

struct flat_search {
    enum kernels_form form;
    enum kernels_type type;
    uint32_t dim, n_queries;
    const float *queries; /* n_queries * dim */
    struct topk *tops;    /* one for each query */
    /* What other threads know of the k-th best rank, one for each query; NULL: nothing is shared.
     * Begins at -FLT_MAX. */
    _Atomic float *floors;
    uint64_t seen; /* rows behind us: begins at 0, kept by flat_scan */
};

/* Who row `row` is; false when it is not to be found (deleted). Called only for rows good enough.
 */
typedef bool (*flat_name_fn)(void *ctx, uint32_t row, struct kith_id *id, uint64_t *seq);
/* For whoever looks for rows and not for points: the row's number. */
bool flat_name_number(void *ctx, uint32_t row, struct kith_id *id, uint64_t *seq);

struct flat_rows {
    const void *data; /* the first row of the run; the others follow without a gap */
    uint32_t first;   /* its number, for `name` */
    uint32_t n;
    const uint64_t *allowed; /* bit i is row first + i; NULL: all */
    const uint32_t *list;    /* or: the allowed rows as offsets from first, ascending; NULL: all */
    uint32_t n_list;
    flat_name_fn name;
    void *name_ctx;
};

struct flat_scratch;

/* Makes *scratch (NULL at first) large enough for searches of this size. */
enum kith_err flat_scratch_fit(struct flat_scratch **scratch, uint32_t dim, uint32_t n_queries,
                               struct kith_diag *diag);
void flat_scratch_free(struct flat_scratch *scratch); /* NULL allowed */

/* The k-th best rank that anybody knows: rows below it are not looked at. */
float flat_floor(const struct flat_search *search, uint32_t query);

void flat_scan(struct flat_search *search, const struct flat_rows *rows,
               struct flat_scratch *scratch);

#endif
