/* The threads of one long computation in the background (training, building an index), and its stop
 * button.
 *
 * The caller works too: `threads` of 1 starts none. Threads: one owner; workers_stopped anywhere.
 * `stop` may be asked by several threads at once. */
#ifndef WORKERS_H
#define WORKERS_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include "common/kith_pool.h"

struct workers {
    struct kith_pool *pool; /* NULL: the caller alone */
    uint32_t threads;
    bool (*stop)(const void *ctx); /* NULL: never */
    const void *stop_ctx;
    atomic_bool stopped;
};

enum kith_err workers_init(struct workers *workers, uint32_t threads, bool (*stop)(const void *ctx),
                           const void *stop_ctx, struct kith_diag *diag);
void workers_fini(struct workers *workers);
/* Asks `stop`, unless it once said yes, after standing aside for searches (kith_aside.h). */
bool workers_stopped(struct workers *workers);
/* kith_pool_run; pieces should look at workers_stopped. `worker` is below threads. KITH_CANCELLED
 * when stopped. */
enum kith_err workers_run(struct workers *workers, uint32_t n, kith_piece_fn piece, void *ctx,
                          struct kith_diag *diag);

#endif
