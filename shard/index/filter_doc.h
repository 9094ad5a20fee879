/* Does one payload match a filter? The plain evaluator: it looks at one point at a time.
 *
 * Used for heads, nested conditions and fields without a column, and as the oracle that
 * shard/index/filter_set.h is tested against. docs/FILTERS.md states the meaning of each condition.
 * Owns: struct filter_lists, freed with filter_lists_free. Borrows: the filter's bytes, the
 * payload. Threads: any; everything is read-only. Errors: only filter_lists_new can fail
 * (KITH_NOMEM); a malformed payload has the values that can be read before the damage.
 * Limits: those of the filter; recursion is bounded by KITH_FILTER_DEPTH_MAX. */
#ifndef FILTER_DOC_H
#define FILTER_DOC_H

#include <stdbool.h>
#include <stdint.h>

#include "proto/kith_filter.h"

/* The value lists of a filter, sorted: a list of 10 000 ids costs 14 comparisons per point. */
struct filter_lists;
enum kith_err filter_lists_new(struct filter_lists **out, const struct kith_filter *filter,
                               struct kith_diag *diag);
void filter_lists_free(struct filter_lists *lists);

/* `lists` may be NULL: lists are then searched from end to end. An empty payload is an empty map.
 */
bool filter_doc(const struct kith_filter *filter, const struct filter_lists *lists,
                const struct kith_id *id, struct kith_bytes payload);
/* The same for one node and what is below it. */
bool filter_doc_node(const struct kith_filter *filter, const struct filter_lists *lists,
                     uint32_t node, const struct kith_id *id, struct kith_bytes payload);

#endif
