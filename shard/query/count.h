/* How many live points match: exact.
 *
 * Borrows: views, filter. Threads: any. Errors: those of filters; *out untouched then. */
#ifndef COUNT_H
#define COUNT_H

#include "proto/kith_filter.h"
#include "shard/storage/view.h"

enum kith_err count_run(struct view *const *views, uint32_t n_views,
                        const struct kith_filter *filter, uint64_t *out, struct kith_diag *diag);

#endif
