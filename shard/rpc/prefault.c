#include "shard/rpc/prefault.h"

#include <unistd.h>

#include "common/kith_clock.h"
#include "common/kith_log.h"

#define TELL_NS        2000000000u
#define MEMORY_SHARE   2u /* one part in so many */
#define NO_LIMIT_BYTES (UINT64_C(1) << 40)

static bool must_stop(const struct prefault *prefault)
{
    return atomic_load_explicit(&prefault->stopped, memory_order_relaxed);
}

static bool add_bytes(void *ctx, const struct slice_config *config, struct store *store)
{
    struct prefault *prefault = ctx;
    struct view *view = store_view(store);
    (void)config;
    for (uint32_t i = 0; i < view->n_segments; i++)
        atomic_fetch_add_explicit(&prefault->bytes_total,
                                  segment_index_bytes(view->segments[i].segment),
                                  memory_order_relaxed);
    view_unref(view);
    return true;
}

static void tell(struct prefault *prefault, uint64_t done, uint64_t total)
{
    uint64_t now_ns = kith_now_ns();
    if (now_ns - prefault->told_ns < TELL_NS)
        return;
    prefault->told_ns = now_ns;
    kith_log(INFO, "node.prefault", "mib=%llu of=%llu percent=%u", (unsigned long long)(done >> 20),
             (unsigned long long)(total >> 20), (unsigned)(total > 0 ? done * 100 / total : 100));
}

static bool go_on(void *ctx, uint64_t bytes)
{
    struct prefault *prefault = ctx;
    uint64_t total = atomic_load_explicit(&prefault->bytes_total, memory_order_relaxed);
    uint64_t done = atomic_load_explicit(&prefault->bytes_done, memory_order_relaxed);
    if (must_stop(prefault) || done + bytes > total)
        return false;
    tell(prefault, done, total);
    atomic_store_explicit(&prefault->bytes_done, done + bytes, memory_order_relaxed);
    return true;
}

static bool read_in(void *ctx, const struct slice_config *config, struct store *store)
{
    struct prefault *prefault = ctx;
    struct view *view = store_view(store);
    (void)config;
    for (uint32_t i = 0; i < view->n_segments && !must_stop(prefault); i++)
        (void)segment_index_verify(view->segments[i].segment, go_on, prefault, NULL);
    view_unref(view);
    return !must_stop(prefault);
}

static uint64_t memory_share(void)
{
    long pages = sysconf(_SC_PHYS_PAGES), page = sysconf(_SC_PAGESIZE);
    return pages > 0 && page > 0 ? (uint64_t)pages * (uint64_t)page / MEMORY_SHARE : NO_LIMIT_BYTES;
}

void prefault_run(struct prefault *prefault)
{
    uint64_t share = memory_share();
    prefault->told_ns = kith_now_ns();
    slice_table_each(prefault->slices, add_bytes, prefault);
    if (atomic_load_explicit(&prefault->bytes_total, memory_order_relaxed) > share)
        atomic_store_explicit(&prefault->bytes_total, share, memory_order_relaxed);
    slice_table_each(prefault->slices, read_in, prefault);
}

void prefault_stop(struct prefault *prefault)
{
    atomic_store_explicit(&prefault->stopped, true, memory_order_relaxed);
}
