/* The ids of the points that match a filter: what a store asks before it deletes or changes by
 * filter. `select_ids` is a store_select_fn (shard/storage/store.h).
 *
 * Borrows: everything, for the call. Threads: any; the store calls it on its writer thread.
 * Errors: those of parsing and evaluating filters; KITH_NOMEM when `emit` stops. */
#ifndef SELECT_H
#define SELECT_H

#include "shard/storage/store.h"

enum kith_err select_ids(const struct view *view, struct kith_bytes filter, store_emit_fn emit,
                         void *emit_ctx, struct kith_diag *diag);

#endif
