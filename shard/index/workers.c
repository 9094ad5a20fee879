#include "shard/index/workers.h"

#include "common/kith_aside.h"

enum kith_err workers_init(struct workers *workers, uint32_t threads, bool (*stop)(const void *ctx),
                           const void *stop_ctx, struct kith_diag *diag)
{
    kith_assert(threads >= 1);
    struct kith_pool *pool = NULL;
    if (threads > 1) {
        enum kith_err err = kith_pool_open(&pool, threads - 1, diag);
        if (err != KITH_OK)
            return err;
    }
    workers->pool = pool;
    workers->threads = threads;
    workers->stop = stop;
    workers->stop_ctx = stop_ctx;
    atomic_init(&workers->stopped, false);
    return KITH_OK;
}

void workers_fini(struct workers *workers)
{
    kith_pool_close(workers->pool);
    workers->pool = NULL;
}

bool workers_stopped(struct workers *workers)
{
    (void)kith_aside_stand();
    /* Relaxed: only says that results are not wanted; kith_pool_run orders everything else. */
    if (atomic_load_explicit(&workers->stopped, memory_order_relaxed))
        return true;
    if (workers->stop == NULL || !workers->stop(workers->stop_ctx))
        return false;
    atomic_store_explicit(&workers->stopped, true, memory_order_relaxed);
    return true;
}

enum kith_err workers_run(struct workers *workers, uint32_t n, kith_piece_fn piece, void *ctx,
                          struct kith_diag *diag)
{
    if (!workers_stopped(workers))
        kith_pool_run(workers->pool, n, piece, ctx);
    return workers_stopped(workers) ? kith_fail(diag, KITH_CANCELLED, "stopped") : KITH_OK;
}
