/* How benchmarks fill a store of their own, without a node around it.
 *
 * Threads: any; a write waits on the thread that calls. Errors: ends the program with a message. */
#ifndef STORE_FILL_H
#define STORE_FILL_H

#include <stddef.h>

#include "common/kith_buf.h"
#include "shard/storage/store.h"

/* Makes an empty folder under $KITH_BENCH_DIR, or $TMPDIR, or /tmp. */
void store_fill_make_dir(char *out, size_t size);
void store_fill_remove_dir(const char *dir);

/* A store_select_fn for stores that nobody writes to by filter: it fails. */
enum kith_err store_fill_select_none(const struct view *view, struct kith_bytes filter,
                                     store_emit_fn emit, void *emit_ctx, struct kith_diag *diag);

/* Writes a batch of operations and waits until it is durable. False: the store is too busy. */
bool store_fill_try(struct store *store, const struct kith_buf *ops);
/* The same, again and again. */
void store_fill_write(struct store *store, const struct kith_buf *ops);

/* Seals, merges and indexes until nothing is left to do. For stores without a background thread. */
void store_fill_maintain(struct store *store);
/* The same once nobody has written for a while: the head is sealed where it would have an index,
 * small segments are gathered. */
void store_fill_rest(struct store *store);

#endif
