/* A shard node as a member of its cluster: it joins, tells its state, and clears what was dropped.
 *
 * The node itself (shard/rpc/node.h) knows nothing of registries; this ties the two. It opens as
 * soon as the cluster's id is known: from its folder, or, the first time, from the registry. While
 * the registry is away it serves what it has.
 *
 * Points are removed only for a tombstone (dropped/<id>) that the registry shows; then the slices'
 * keys are removed, which tells the leader that nothing is left here.
 *
 * Owns: the node. Borrows: loop, registry, metrics. Threads: loop. Errors: open: those of the
 * folder; later ones end the process by `failed`. Shutdown: kith_registry_close, then member_close,
 * with no turn of the loop between. */
#ifndef MEMBER_H
#define MEMBER_H

#include "common/kith_metrics.h"
#include "common/kith_registry.h"

struct member;

typedef void (*member_failed_fn)(void *ctx, enum kith_err err, const struct kith_diag *diag);

struct member_cfg {
    struct kith_loop *loop;
    struct kith_registry *registry;
    struct kith_metrics *metrics;
    const char *data_dir;
    const char *listen_url;
    const char *advertise_url; /* NULL = where it listens */
    const char *name;
    uint32_t threads;
    uint64_t memory_lock_bytes;
    uint32_t recall_one_in;
    kith_loop_fn ready;      /* once, when every slice on disk is open */
    member_failed_fn failed; /* once: it cannot be a member; the process should end */
    void *ctx;
};

enum kith_err member_open(struct member **out, const struct member_cfg *cfg,
                          struct kith_diag *diag);
void member_close(struct member *member);            /* NULL allowed */
const char *member_url(const struct member *member); /* "" before it listens */

#endif
