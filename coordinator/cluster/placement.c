#include "coordinator/cluster/placement.h"

#include "proto/kith_err.h"

static struct placement_node *find(struct placement_node *nodes, size_t n_nodes, uint64_t id)
{
    for (size_t i = 0; i < n_nodes; i++) {
        if (nodes[i].id == id) {
            return &nodes[i];
        }
    }
    return NULL;
}

static struct placement_node *emptiest(struct placement_node *nodes, size_t n_nodes)
{
    struct placement_node *best = &nodes[0];
    for (size_t i = 1; i < n_nodes; i++) {
        const struct placement_node *node = &nodes[i];
        if (node->here != best->here   ? node->here < best->here
            : node->load != best->load ? node->load < best->load
                                       : node->id < best->id) {
            best = &nodes[i];
        }
    }
    return best;
}

static size_t assign_collection(struct placement_node *nodes, size_t n_nodes,
                                struct placement_slice *slices, size_t n_slices)
{
    size_t n_assigned = 0;
    for (size_t i = 0; i < n_nodes; i++) {
        nodes[i].here = 0;
    }
    for (size_t i = 0; i < n_slices; i++) {
        struct placement_node *node = find(nodes, n_nodes, slices[i].node);
        if (node) {
            node->here++;
        }
    }
    for (size_t i = 0; i < n_slices; i++) {
        if (slices[i].node == 0) {
            struct placement_node *node = emptiest(nodes, n_nodes);
            slices[i].node = node->id;
            node->here++;
            node->load++;
            n_assigned++;
        }
    }
    return n_assigned;
}

size_t placement_assign(struct placement_node *nodes, size_t n_nodes,
                        struct placement_slice *slices, size_t n_slices)
{
    size_t n_assigned = 0;
    if (n_nodes == 0) {
        return 0;
    }
    for (size_t i = 0; i < n_nodes; i++) {
        kith_assert(nodes[i].id != 0);
        nodes[i].load = 0;
    }
    for (size_t i = 0; i < n_slices; i++) {
        struct placement_node *node = find(nodes, n_nodes, slices[i].node);
        if (node) {
            node->load++;
        }
    }
    for (size_t from = 0; from < n_slices;) {
        size_t to = from;
        while (to < n_slices && slices[to].collection == slices[from].collection) {
            to++;
        }
        n_assigned += assign_collection(nodes, n_nodes, slices + from, to - from);
        from = to;
    }
    return n_assigned;
}
