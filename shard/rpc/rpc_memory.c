/* Where the bytes of slices are. */
#include <string.h>

#include "common/kith_mem.h"
#include "shard/query/memory.h"
#include "shard/rpc/memory_lock.h"
#include "shard/rpc/rpc.h"

struct asking {
    struct rpc_views views;
    struct kith_msg_memories msg;
    struct memory_use uses[MEMORY_KINDS];
};

static void add_store(const struct store_stats *stats, struct memory_use *uses)
{
    uses[MEMORY_HEADS].mapped += stats->head_bytes;
    uses[MEMORY_HEADS].resident += stats->head_bytes;
    uses[MEMORY_WAL].file += stats->wal_bytes;
}

static void fill(struct rpc_env *env, struct asking *asking)
{
    _Static_assert(MEMORY_KINDS <= KITH_MEMORY_SECTIONS_MAX, "all kinds fit a message");
    struct memory_lock_stats lock;
    memory_of_views(asking->views.views, asking->views.n_views, memory_lock_bytes, env->memory,
                    asking->uses);
    for (uint32_t i = 0; i < asking->views.n_views; i++) {
        struct store_stats stats;
        store_stats(slice_store(asking->views.held[i]), &stats);
        add_store(&stats, asking->uses);
    }
    memory_lock_stats(env->memory, &lock);
    asking->msg.slices = asking->views.slices;
    asking->msg.n_sections = MEMORY_KINDS;
    asking->msg.lock_budget = lock.budget;
    asking->msg.locked = lock.locked;
    asking->msg.lock_refused = lock.refused;
    for (uint32_t i = 0; i < MEMORY_KINDS; i++) {
        const char *name = memory_name((enum memory_kind)i);
        const struct memory_use *use = &asking->uses[i];
        asking->msg.sections[i] =
            (struct kith_msg_memory_section){.name = {(const uint8_t *)name, strlen(name)},
                                             .file = use->file,
                                             .mapped = use->mapped,
                                             .resident = use->resident,
                                             .locked = use->locked};
    }
}

void rpc_memory_run(struct rpc_call *call)
{
    struct kith_msg_scope scope;
    struct rpc_reply reply;
    if (!kith_msg_read_scope_only(call->body, &scope)) {
        rpc_malformed(call);
        return;
    }
    struct asking *asking = kith_alloc(sizeof *asking);
    if (asking == NULL) {
        rpc_fail(call, KITH_NOMEM, "no memory for the request");
        return;
    }
    rpc_take_views(call->env, &scope, &asking->views);
    fill(call->env, asking);
    rpc_begin(&reply);
    if (!reply.w.failed)
        kith_msg_write_memories(&reply.w, &asking->msg);
    rpc_give_views(call->env, &asking->views);
    kith_free(asking);
    rpc_send(call, &reply);
}
