/* A bounded pool of worker threads for CPU work: searches, encoding. Our own, not libuv's: that one
 * has four threads shared with DNS and file work.
 *
 * Owns: its threads. Threads: submit from any thread, also from a task. Tasks must not block on
 * other tasks of the same pool; kith_pool_run lets a caller wait because it works along. Errors:
 * kith_pool_submit returns KITH_BUSY when KITH_POOL_QUEUE_MAX tasks wait. */
#ifndef KITH_POOL_H
#define KITH_POOL_H

#include <stdint.h>

#include "proto/kith_err.h"

struct kith_pool;

uint32_t kith_pool_cpus(void); /* of the machine, at least 1 */

enum kith_err kith_pool_open(struct kith_pool **out, uint32_t n_threads,
                             struct kith_diag *diag); /* 0 = one per CPU */
/* The same of threads that go ahead of others (kith_thread.h): somebody waits for what they do. */
enum kith_err kith_pool_open_ahead(struct kith_pool **out, uint32_t n_threads,
                                   struct kith_diag *diag);
void kith_pool_close(struct kith_pool *pool); /* runs what is queued, then joins; NULL allowed */
uint32_t kith_pool_threads(const struct kith_pool *pool);
uint32_t kith_pool_waiting(struct kith_pool *pool); /* tasks in the queue now, for metrics */

typedef void (*kith_task_fn)(void *ctx);
enum kith_err kith_pool_submit(struct kith_pool *pool, kith_task_fn run, void *ctx);

/* Runs fn(ctx, i) for i = 0 .. n-1 on the caller and on idle workers, in any order, and returns
 * when all are done. Indexes are handed out one at a time, so uneven pieces balance. `worker` is 0
 * .. kith_pool_threads(pool) and unique among those running this job at the same moment: use it to
 * pick scratch memory. pool NULL = all on the caller, worker 0. */
typedef void (*kith_piece_fn)(void *ctx, uint32_t index, uint32_t worker);
void kith_pool_run(struct kith_pool *pool, uint32_t n, kith_piece_fn fn, void *ctx);
/* The same of pieces of 0.2 ms or so, of which there may be few: others are asked to help once the
 * caller has worked for KITH_POOL_ALONE_NS, for to wake one costs a good part of that. */
void kith_pool_run_short(struct kith_pool *pool, uint32_t n, kith_piece_fn fn, void *ctx);

#endif
