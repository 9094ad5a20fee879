/* What topology's files share; included by topology*.c only. */
#ifndef TOPOLOGY_IMPL_H
#define TOPOLOGY_IMPL_H

#include "common/kith_arena.h"
#include "common/kith_keys.h"
#include "coordinator/cluster/topology.h"

struct topology_change;

/* A node object and its place in the list of all that live. */
struct topology_peer {
    struct topology_node pub; /* first */
    struct kith_arena arena;
    struct topology *of; /* NULL: the topology was closed */
    struct topology_peer *next, **link;
    bool seen; /* by the refresh under way */
};

/* What a slice's key said, so that a refresh sees what changed. */
struct topology_fact {
    uint64_t revision; /* 0 = no key */
    uint64_t primary;
    uint64_t term;
    bool opened;
    enum kith_err error; /* why it was not */
};

struct topology_snapshot {
    struct topology_collection pub; /* first */
    struct kith_arena arena;
    struct topology_slice *slices;
    struct topology_fact *facts;
    bool seen;
};

struct topology {
    struct topology_cfg cfg;
    uint64_t cluster;
    struct kith_timer *again;     /* a refresh that ran out of memory is tried again */
    struct topology_peer *peers;  /* all that live, also those of old snapshots */
    struct topology_peer **nodes; /* the present ones, ascending ids */
    size_t n_nodes, cap_nodes;
    struct topology_snapshot **collections; /* ascending names */
    size_t n_collections, cap_collections;
    struct topology_change *changes;
};

void topology_refresh(struct topology *topology);
const struct topology_fact *topology_facts(const struct topology_collection *collection);
/* After a refresh: changes that waited for it are done. */
void topology_change_check(struct topology *topology);
void topology_change_cancel_all(struct topology *topology);

/* A collection's value in the registry. The reader's texts are copied into the arena. */
void topology_codec_write(struct kith_buf *buf, const struct topology_collection *collection);
enum kith_err topology_codec_read(struct topology_collection *out, struct kith_arena *arena,
                                  const char *text, size_t len);
bool topology_codec_name_ok(const char *name);

#endif
