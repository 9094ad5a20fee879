/* The other nodes: which slices they hold, and asking them.
 *
 * The map comes from outside (the registry, cli/node_map.h) whenever it changed, and covers the
 * collections that this node has a part in. A node that did not answer is left alone for some
 * seconds: asking it fails at once.
 *
 * Owns: a copy of the map, a connection to each node that was asked. Threads: set from any; shares
 * and ask from one, which ask keeps waiting. Errors: KITH_NOMEM; ask: KITH_UNAVAILABLE,
 * KITH_TIMEOUT, KITH_PROTOCOL, KITH_CANCELLED when stop says so, or what the node answered. Limits:
 * KITH_NODES_MAX. */
#ifndef NODE_PEERS_H
#define NODE_PEERS_H

#include "common/kith_keys.h"
#include "common/kith_net.h"
#include "proto/kith_msg.h"

struct node_map_node {
    uint64_t id;
    char url[KITH_KEYS_URL_MAX]; /* "": not known now; that of the last map stays */
};
struct node_map_slice {
    uint64_t collection;
    uint32_t slice, node; /* node: which of nodes */
};
struct node_map {
    uint64_t self; /* the id of this node */
    struct node_map_node *nodes;
    struct node_map_slice *slices; /* ascending by collection, then by slice */
    size_t n_nodes, n_slices;
};

struct node_peers;

enum kith_err node_peers_open(struct node_peers **out, uint64_t cluster, struct kith_diag *diag);
void node_peers_close(struct node_peers *peers); /* NULL allowed */
enum kith_err node_peers_set(struct node_peers *peers, const struct node_map *map,
                             struct kith_diag *diag);

/* What one node holds of a collection. */
struct node_share {
    uint64_t node;
    bool self;
    struct kith_msg_scope scope;
};
/* All nodes with slices of a collection, that of the first slice first; to be freed with kith_free.
 * *n 0: the collection is not on the map. */
enum kith_err node_peers_shares(struct node_peers *peers, uint64_t collection,
                                struct node_share **out, uint32_t *n, struct kith_diag *diag);

struct node_ask {
    uint64_t node;
    enum kith_message message;
    void (*write)(struct kith_writer *w, const void *body);
    const void *body;
    bool (*stop)(const void *ctx); /* asked every few ms */
    const void *stop_ctx;
};
/* Waits for the reply; *body lies in it. */
enum kith_err node_peers_ask(struct node_peers *peers, const struct node_ask *ask,
                             struct kith_net_msg **reply, struct kith_bytes *body,
                             struct kith_diag *diag);

#endif
