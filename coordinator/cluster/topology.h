/* The coordinator's picture of the cluster: collections, their slices, and the nodes that hold
 * them.
 *
 * Built from the registry's mirror and rebuilt after each change of it. Collection and node objects
 * are snapshots: a request takes a reference when it begins and works with that one until its
 * reply, whatever changes meanwhile. When the registry is away the last picture stays, and so does
 * the last known address of a node whose key has gone: whether it answers is found out by asking
 * it.
 *
 * Owns: one connection (struct kith_net_peer) per node. Borrows: loop, registry. Threads: loop
 * only, everything, ref and unref too. Errors: by callback, each exactly once and never from inside
 * the call. Limits: KITH_COLLECTIONS_MAX, KITH_SLICES_PER_COLLECTION_MAX, KITH_NODES_MAX. */
#ifndef TOPOLOGY_H
#define TOPOLOGY_H

#include <stdbool.h>
#include <stdint.h>

#include "common/kith_net.h"
#include "common/kith_registry.h"
#include "proto/kith_collection.h"
#include "proto/kith_limits.h"

struct topology;

/* ---- nodes ----------------------------------------------------------------------------------- */

enum topology_node_state {
    TOPOLOGY_WARMING, /* registered, still opening its slices */
    TOPOLOGY_READY,
    TOPOLOGY_GONE /* its key is gone: dead, or cut off from the registry. It may still answer. */
};

struct topology_node {
    /* Fixed. A node that comes back with another address is another object. */
    uint64_t id;
    const char *name;           /* for humans; never NULL */
    const char *url;            /* rpc address; "" when it was never seen */
    const char *version;        /* of Kith; "" when unknown */
    struct kith_net_peer *peer; /* NULL when url is "" or cannot be dialled */
    /* Follows the registry. */
    enum topology_node_state state;
    uint32_t refs;
};

/* Whether a request has a chance: connected now. (Asking a node that is not waits
 * KITH_RPC_CONNECT_GRACE_MS and fails.) */
bool topology_node_up(const struct topology_node *node);
const char *topology_node_state_name(enum topology_node_state state); /* "ready" */

/* ---- collections ----------------------------------------------------------------------------- */

/* One replica set; today one copy, the primary. */
struct topology_slice {
    struct topology_node *node; /* NULL: not placed or not opened yet. Lives as long as the
                                   collection object. */
    uint64_t term;
};

/* A snapshot; all of it fixed. The texts are JSON as they were given to topology_create. */
struct topology_collection {
    const char *name;
    uint64_t id;       /* unique for ever: a collection deleted and made again has another */
    uint64_t revision; /* of its registry key; for topology_patch */
    uint32_t dim;
    enum kith_metric metric;
    enum kith_row_type rows;
    enum kith_index index;
    const char *factory;     /* what Faiss makes its index of; NULL = not by Faiss */
    const char *vector_name; /* "" = the unnamed vector */
    const char *encoder;     /* JSON; NULL = none */
    const char *options;     /* JSON: the create request, for info; NULL = none */
    const char *metadata;    /* JSON; NULL = none */
    bool ready;              /* every slice is placed and was opened */
    uint32_t n_slices;
    const struct topology_slice *slices;
    uint32_t refs;
};

/* Borrowed until the next turn of the loop; take a reference to keep it. NULL: no such. */
struct topology_collection *topology_find(const struct topology *topology, const char *name);
struct topology_collection *topology_ref(struct topology_collection *collection); /* same pointer */
void topology_unref(struct topology_collection *collection);                      /* NULL allowed */

typedef void (*topology_collection_fn)(void *ctx, struct topology_collection *collection);
typedef void (*topology_node_fn)(void *ctx, const struct topology_node *node);
void topology_each_collection(const struct topology *topology, topology_collection_fn fn,
                              void *ctx); /* ascending names */
void topology_each_node(const struct topology *topology, topology_node_fn fn,
                        void *ctx); /* ascending ids */

const char *topology_index_name(enum kith_index index); /* "pq4" */

/* ---- changing -------------------------------------------------------------------------------- */

/* diag is never NULL; its text is for users. */
typedef void (*topology_done_fn)(void *ctx, enum kith_err err, const struct kith_diag *diag);

struct topology_spec {
    const char *name;
    uint32_t dim;
    enum kith_metric metric;
    enum kith_row_type rows;
    enum kith_index index;
    const char *factory;     /* of KITH_INDEX_FAISS, at most KITH_FAISS_FACTORY_MAX; else NULL */
    uint32_t n_slices;       /* 0 = the default: 1 in kith up, else 2 per ready node */
    const char *vector_name; /* NULL = "" */
    const char *encoder, *options, *metadata; /* JSON or NULL */
};

/* Done when the leader has placed every slice and each node has opened its own: the collection can
 * be written at once. KITH_EXISTS; KITH_UNAVAILABLE when no node is ready or the registry is away;
 * KITH_TIMEOUT when the slices were not all opened in time: the collection then exists and becomes
 * ready when its nodes do. The spec is read during the call only. */
void topology_create(struct topology *topology, const struct topology_spec *spec,
                     uint32_t timeout_ms, topology_done_fn done, void *ctx);

/* NULL = leave as it is; "null" = remove. KITH_CONFLICT when the collection changed since the
 * snapshot was taken: find it again and retry. */
struct topology_patch {
    const char *encoder, *options, *metadata;
};
void topology_patch(struct topology *topology, const struct topology_collection *collection,
                    const struct topology_patch *patch, topology_done_fn done, void *ctx);

/* Done when the name is free and no request can reach the points. The nodes that are there remove
 * their data at once; one that is away does when it returns. KITH_NOT_FOUND. */
void topology_delete(struct topology *topology, const char *name, uint32_t timeout_ms,
                     topology_done_fn done, void *ctx);

/* ---- the whole ------------------------------------------------------------------------------- */

struct topology_status {
    uint64_t cluster;  /* the id in every frame; 0 = not known yet: nothing can be asked */
    uint64_t revision; /* of the registry's mirror */
    bool synced;       /* the picture was complete at least once */
    bool connected;    /* the registry is there now */
    bool ready;        /* synced, and every slice has a node that is ready */
    bool leading;      /* this coordinator is the leader */
    uint64_t self;     /* this coordinator */
    uint64_t leader;   /* 0 = none */
    uint32_t n_collections, n_nodes, n_nodes_ready, n_slices, n_slices_unplaced;
    const char *trouble; /* what a human should know ("the registry went backwards..."); NULL */
};
void topology_status(const struct topology *topology, struct topology_status *out);
uint64_t topology_cluster(const struct topology *topology); /* status.cluster */
/* status.synced. Before, nothing is known: a missing collection may well exist. */
bool topology_synced(const struct topology *topology);

struct topology_cfg {
    struct kith_loop *loop;
    struct kith_registry *registry;
    uint64_t self;           /* random, for the leader's key */
    const char *http_url;    /* where this coordinator answers; for humans and kith status */
    uint32_t default_slices; /* 0 = 2 per ready node */
};
enum kith_err topology_open(struct topology **out, const struct topology_cfg *cfg,
                            struct kith_diag *diag);
/* Changes under way end with KITH_CANCELLED. Collections still referenced stay valid until
 * unref'd, but their peers are closed: end requests first. */
void topology_close(struct topology *topology); /* NULL allowed */

#endif
