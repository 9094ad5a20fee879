/* Which nodes hold which slices, read from the registry for a node (shard/rpc/node_peers.h).
 *
 * Of the collections that the node has slices of: all their slices, and the addresses of their
 * nodes. Owns: the arrays, until slice_map_fini. Threads: loop. Errors: KITH_NOMEM. Limits:
 * KITH_NODES_MAX; a collection on more nodes is left out. */
#ifndef SLICE_MAP_H
#define SLICE_MAP_H

#include "common/kith_registry.h"
#include "shard/rpc/node_peers.h"

enum kith_err slice_map_read(struct node_map *out, struct kith_registry *registry, uint64_t self,
                             struct kith_diag *diag);
void slice_map_fini(struct node_map *map); /* a zeroed one is allowed */

#endif
