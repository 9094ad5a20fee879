/* The leader: the one coordinator that writes the slice map.
 *
 * Every coordinator stands for election with a leased key; one holds it. The leader places new
 * slices (placement.h), has their nodes open them, records that they did, and clears tombstones
 * whose data is gone. Each of its transactions compares the leader's key, so one that was cut off
 * and replaced without knowing it changes nothing.
 *
 * Owns: its requests to nodes. Borrows: loop, registry, topology. Threads: loop. Errors: open:
 * KITH_NOMEM, KITH_IO. Shutdown: topology_close, kith_registry_close, then leader_close, with no
 * turn of the loop between: the first two end what the leader waits for. */
#ifndef LEADER_H
#define LEADER_H

#include "coordinator/cluster/topology.h"

struct leader;

struct leader_cfg {
    struct kith_loop *loop;
    struct kith_registry *registry;
    struct topology *topology;
    uint64_t self;
    const char *http_url; /* where this coordinator answers, for humans */
};

enum kith_err leader_open(struct leader **out, const struct leader_cfg *cfg,
                          struct kith_diag *diag);
void leader_close(struct leader *leader); /* NULL allowed */

#endif
