/* Placement: which node gets which slice. A pure function of what it is given.
 *
 * Stable: a slice that has a node keeps it, whatever that costs in balance. Balanced: each slice
 * that has none goes to the node with the fewest slices of its collection, then the fewest of all,
 * then the smallest id; so the slices of a new collection differ by at most one between nodes.
 *
 * Owns: nothing. Threads: no state. Errors: none; without nodes nothing is assigned. Cost:
 * slices * nodes. */
#ifndef PLACEMENT_H
#define PLACEMENT_H

#include <stddef.h>
#include <stdint.h>

struct placement_node {
    uint64_t id;   /* not 0 */
    uint64_t load; /* out: slices it has, all collections */
    uint64_t here; /* scratch: of the collection in hand */
};

struct placement_slice {
    uint64_t collection;
    uint32_t slice;
    uint64_t node; /* 0 = none yet. May be one that is not among the nodes given: it is away. */
};

/* slices: those of one collection side by side. Fills in node where it is 0. Returns how many were
 * filled in. */
size_t placement_assign(struct placement_node *nodes, size_t n_nodes,
                        struct placement_slice *slices, size_t n_slices);

#endif
