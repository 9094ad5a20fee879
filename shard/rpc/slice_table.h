/* The slices this node holds: which, in what state, and who is using them.
 *
 * A slice is found on disk at start (WARMING), opened (OPEN, or FAILED with the reason), and lives
 * until it is dropped. Readers and writers take a reference for as long as they touch its store; a
 * drop hides the slice first and waits for the references, so slices come and go under running
 * queries.
 *
 * Owns: the stores and the folders `slices/<collection, 16 hex digits>-<slice>`. Borrows: io, the
 * indexes.
 * Threads: get, put, counts and each: any. warm, create, drop: one thread, the admin worker; that
 * is what keeps two of them from meeting on one slice. close: when nobody else is left.
 * Errors: create: KITH_CONFLICT when the slice exists with another configuration, otherwise the
 * store's. get: see there. */
#ifndef SLICE_TABLE_H
#define SLICE_TABLE_H

#include "common/kith_pool.h"
#include "shard/rpc/collection_index.h"
#include "shard/storage/store.h"

struct slice_table;
struct slice;

enum slice_state { SLICE_WARMING, SLICE_OPEN, SLICE_FAILED, SLICE_DROPPING };

/* Lists what is on disk; opens nothing yet. */
struct slice_table_options {
    struct io *io;
    store_select_fn select;
    struct collection_indexes *indexes;
    uint32_t head_rows_max; /* 0: the store's default */
};
enum kith_err slice_table_open(struct slice_table **out, const struct slice_table_options *options,
                               struct kith_diag *diag);
void slice_table_close(struct slice_table *table); /* closes every store; NULL allowed */

/* Opens all that is WARMING, by the pool's threads too. One that fails is logged and stays FAILED;
 * the others serve. */
void slice_table_warm(struct slice_table *table, struct kith_pool *pool);
/* The node closes: what slice_table_warm has not begun stays unopened. Any thread. */
void slice_table_hurry(struct slice_table *table);
/* Makes sure the slice exists and is open. */
enum kith_err slice_table_create(struct slice_table *table, const struct slice_config *config,
                                 struct kith_diag *diag);
/* Removes the slice and its data; one that does not exist is fine. Waits for its readers. */
enum kith_err slice_table_drop(struct slice_table *table, uint64_t collection, uint32_t slice,
                               struct kith_diag *diag);

/* A reference to an open slice, to be given back with slice_put. Otherwise why not - KITH_NOT_FOUND
 * (not held here), KITH_UNAVAILABLE (warming), or what its opening failed with - and *why is a
 * constant text. */
enum kith_err slice_table_get(struct slice_table *table, uint64_t collection, uint32_t slice,
                              struct slice **out, const char **why);
void slice_put(struct slice_table *table, struct slice *slice);
struct store *slice_store(const struct slice *slice);            /* while the reference is held */
struct collection_index *slice_index(const struct slice *slice); /* the same; NULL: none */

struct slice_table_counts {
    uint32_t slices, open, warming, failed;
};
void slice_table_counts(struct slice_table *table, struct slice_table_counts *out);

/* Each open slice, under a reference but no lock. fn false stops. */
typedef bool (*slice_each_fn)(void *ctx, const struct slice_config *config, struct store *store);
void slice_table_each(struct slice_table *table, slice_each_fn fn, void *ctx);

#endif
