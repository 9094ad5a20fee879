/* Facets: the values of a field and how many matching points have each.
 *
 * Texts, integers and booleans are counted; a point counts once for each of its distinct values.
 * Hits come by count, largest first; equal counts by type (text, integer, boolean), then by value.
 * At most KITH_FACET_HITS_MAX are kept: a field with more distinct values gives the most frequent
 * ones of this node.
 * Owns: its hits (facet_fini). Borrows: views, filter, key. Threads: any.
 * Errors: those of filters, KITH_NOMEM; the result is empty then. */
#ifndef FACET_H
#define FACET_H

#include "common/kith_buf.h"
#include "shard/query/parts.h"

struct facet_hit {
    struct kith_bytes value; /* one msgpack scalar, in facet.memory */
    uint64_t count;
};

struct facet {
    uint32_t n;
    struct facet_hit *hits;
    struct kith_buf memory;
};

/* *out must be zeroed. */
enum kith_err facet_run(struct facet *out, const struct parts_scope *scope, struct kith_bytes key,
                        struct kith_diag *diag);
void facet_fini(struct facet *facet);

#endif
