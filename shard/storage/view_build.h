/* How the store makes views (shard/storage/view.h is what others see of them).
 *
 * Owns: a view owns a reference to each of its parts. Threads: view_new on the writer thread, the
 * rest on any. Errors: KITH_NOMEM. */
#ifndef VIEW_BUILD_H
#define VIEW_BUILD_H

#include "shard/storage/deletes.h"
#include "shard/storage/view.h"

struct view_part {
    struct segment *segment;
    struct deletes *deletes; /* NULL = none */
};

struct view_parts {
    struct slice_config config;
    uint64_t seq;
    uint32_t n_segments, n_heads;
    const struct view_part *segments;
    struct head *const *heads;
};

enum kith_err view_new(struct view **out, const struct view_parts *parts, struct kith_diag *diag);
struct deletes *view_deletes(const struct view *view, uint32_t segment); /* borrowed, may be NULL */

#endif
