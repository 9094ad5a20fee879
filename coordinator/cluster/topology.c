#include "coordinator/cluster/topology.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "common/kith_log.h"
#include "common/kith_mem.h"
#include "coordinator/cluster/topology_impl.h"

/* A picture of the registry's mirror in the words of requests.
 *
 * After each change of the mirror the picture is refreshed: nodes first, then collections. What did
 * not change keeps its object, so references stay cheap; what changed gets a new object, and the
 * old one lives until its last request is answered. A slice shows a node only after that node has
 * said that the slice is on its disk ("opened"): nothing is written to what may not exist.
 *
 * A node whose key has gone keeps its object and its connection as long as a slice names it. The
 * key goes when the node dies, but also when only its line to etcd is cut; asking it tells which,
 * the registry cannot.
 *
 * A value that cannot be read is logged and leaves the last good object in place. */

/* ---- nodes ----------------------------------------------------------------------------------- */

bool topology_node_up(const struct topology_node *node)
{
    return node->peer && kith_net_peer_up(node->peer);
}

const char *topology_node_state_name(enum topology_node_state state)
{
    static const char *const names[] = {"warming", "ready", "gone"};
    return names[state];
}

static void peer_unref(struct topology_peer *peer)
{
    kith_assert(peer->pub.refs > 0);
    if (--peer->pub.refs > 0) {
        return;
    }
    kith_net_peer_close(peer->pub.peer);
    if (peer->of) {
        *peer->link = peer->next;
        if (peer->next) {
            peer->next->link = peer->link;
        }
    }
    kith_arena_fini(&peer->arena);
    kith_free(peer);
}

/* value NULL: a node of which only the id is known. One reference, the caller's. */
static struct topology_peer *peer_new(struct topology *topology, uint64_t id,
                                      const struct kith_node_value *value)
{
    struct topology_peer *peer = kith_alloc(sizeof *peer);
    if (!peer) {
        return NULL;
    }
    char hex[20];
    snprintf(hex, sizeof hex, "%016" PRIx64, id);
    const char *name = value && value->name[0] ? value->name : hex;
    peer->pub.id = id;
    peer->pub.refs = 1;
    peer->pub.state = TOPOLOGY_GONE;
    peer->pub.name = kith_arena_text(&peer->arena, name, strlen(name));
    peer->pub.url = value ? kith_arena_text(&peer->arena, value->url, strlen(value->url)) : "";
    peer->pub.version =
        value ? kith_arena_text(&peer->arena, value->version, strlen(value->version)) : "";
    if (!peer->pub.name || !peer->pub.url || !peer->pub.version) {
        kith_arena_fini(&peer->arena);
        kith_free(peer);
        return NULL;
    }
    struct kith_diag diag = {0};
    if (peer->pub.url[0] && kith_net_dial(&peer->pub.peer, peer->pub.url, &diag)) {
        kith_log(WARN, "topology.dial", "node=%s url=%s error=\"%s\"", hex, peer->pub.url,
                 diag.text);
    }
    peer->of = topology;
    peer->link = &topology->peers;
    peer->next = topology->peers;
    if (peer->next) {
        peer->next->link = &peer->next;
    }
    topology->peers = peer;
    return peer;
}

static size_t seek_node(const struct topology *topology, uint64_t id)
{
    size_t low = 0;
    size_t high = topology->n_nodes;
    while (low < high) {
        const size_t mid = low + (high - low) / 2;
        if (topology->nodes[mid]->pub.id < id) {
            low = mid + 1;
        } else {
            high = mid;
        }
    }
    return low;
}

static struct topology_peer *find_node(const struct topology *topology, uint64_t id)
{
    const size_t at = seek_node(topology, id);
    return at < topology->n_nodes && topology->nodes[at]->pub.id == id ? topology->nodes[at] : NULL;
}

/* Takes peer on success. */
static bool put_node(struct topology *topology, struct topology_peer *peer)
{
    const size_t at = seek_node(topology, peer->pub.id);
    if (at < topology->n_nodes && topology->nodes[at]->pub.id == peer->pub.id) {
        peer_unref(topology->nodes[at]);
        topology->nodes[at] = peer;
        return true;
    }
    void *nodes = topology->nodes;
    if (!kith_grow(&nodes, &topology->cap_nodes, topology->n_nodes + 1, sizeof(void *))) {
        return false;
    }
    topology->nodes = nodes;
    memmove(topology->nodes + at + 1, topology->nodes + at,
            (topology->n_nodes - at) * sizeof(void *));
    topology->nodes[at] = peer;
    topology->n_nodes++;
    return true;
}

struct refresh {
    struct topology *topology;
    bool failed; /* out of memory */
};

static void unreadable(struct refresh *refresh, const char *key, enum kith_err err)
{
    if (err == KITH_NOMEM) {
        refresh->failed = true;
    } else {
        kith_log(WARN, "topology.unreadable", "key=%s", key);
    }
}

static struct topology_peer *add_node(struct refresh *refresh, uint64_t id,
                                      const struct kith_node_value *value)
{
    struct topology_peer *peer = peer_new(refresh->topology, id, value);
    if (peer && put_node(refresh->topology, peer)) {
        return peer;
    }
    if (peer) {
        peer_unref(peer);
    }
    refresh->failed = true;
    return NULL;
}

static void on_node(void *ctx, const char *key, const struct kith_registry_value *text)
{
    struct refresh *refresh = ctx;
    struct kith_node_value value;
    uint64_t id = 0;
    const enum kith_err err = kith_keys_parse_node(key, &id)
                                  ? kith_keys_read_node(text->text, text->len, &value)
                                  : KITH_CORRUPT;
    if (err) {
        unreadable(refresh, key, err);
        return;
    }
    struct topology_peer *peer = find_node(refresh->topology, id);
    if (!peer || strcmp(peer->pub.url, value.url) != 0 ||
        (value.name[0] && strcmp(peer->pub.name, value.name) != 0) ||
        strcmp(peer->pub.version, value.version) != 0) {
        peer = add_node(refresh, id, &value);
    }
    if (peer) {
        peer->seen = true;
        peer->pub.state = value.ready ? TOPOLOGY_READY : TOPOLOGY_WARMING;
    }
}

static void refresh_nodes(struct refresh *refresh)
{
    struct topology *topology = refresh->topology;
    for (size_t i = 0; i < topology->n_nodes; i++) {
        topology->nodes[i]->seen = false;
    }
    kith_registry_each(topology->cfg.registry, KITH_KEYS_NODES, on_node, refresh);
    for (size_t i = 0; i < topology->n_nodes; i++) {
        if (!topology->nodes[i]->seen) {
            topology->nodes[i]->pub.state = TOPOLOGY_GONE;
        }
    }
}

/* Nodes that are gone and that no collection names. After the collections were refreshed. */
static void forget_nodes(struct topology *topology)
{
    size_t kept = 0;
    for (size_t i = 0; i < topology->n_nodes; i++) {
        struct topology_peer *peer = topology->nodes[i];
        if (peer->pub.state == TOPOLOGY_GONE && peer->pub.refs == 1) {
            peer_unref(peer);
        } else {
            topology->nodes[kept++] = peer;
        }
    }
    topology->n_nodes = kept;
}

/* ---- collections ----------------------------------------------------------------------------- */

struct topology_collection *topology_ref(struct topology_collection *collection)
{
    collection->refs++;
    return collection;
}

void topology_unref(struct topology_collection *collection)
{
    if (!collection) {
        return;
    }
    kith_assert(collection->refs > 0);
    if (--collection->refs > 0) {
        return;
    }
    struct topology_snapshot *snapshot = (struct topology_snapshot *)collection;
    for (uint32_t i = 0; snapshot->slices && i < collection->n_slices; i++) {
        if (snapshot->slices[i].node) {
            peer_unref((struct topology_peer *)snapshot->slices[i].node);
        }
    }
    kith_arena_fini(&snapshot->arena);
    kith_free(snapshot);
}

static size_t seek_collection(const struct topology *topology, const char *name)
{
    size_t low = 0;
    size_t high = topology->n_collections;
    while (low < high) {
        const size_t mid = low + (high - low) / 2;
        if (strcmp(topology->collections[mid]->pub.name, name) < 0) {
            low = mid + 1;
        } else {
            high = mid;
        }
    }
    return low;
}

static struct topology_snapshot *find_snapshot(const struct topology *topology, const char *name)
{
    const size_t at = seek_collection(topology, name);
    return at < topology->n_collections && strcmp(topology->collections[at]->pub.name, name) == 0
               ? topology->collections[at]
               : NULL;
}

const struct topology_fact *topology_facts(const struct topology_collection *collection)
{
    /* pub is the first member of each snapshot */
    return ((const struct topology_snapshot *)(const void *)collection)->facts;
}

struct topology_collection *topology_find(const struct topology *topology, const char *name)
{
    struct topology_snapshot *snapshot = find_snapshot(topology, name);
    return snapshot ? &snapshot->pub : NULL;
}

static struct topology_fact read_fact(struct refresh *refresh, uint64_t collection, uint32_t slice,
                                      const struct topology_fact *old)
{
    char key[KITH_KEY_BYTES];
    struct kith_registry_value text;
    struct kith_slice_value value;
    kith_keys_slice(key, collection, slice);
    if (!kith_registry_get(refresh->topology->cfg.registry, key, &text)) {
        return (struct topology_fact){0};
    }
    if (old && old->revision == text.revision) {
        return *old;
    }
    const enum kith_err err = kith_keys_read_slice(text.text, text.len, &value);
    if (err) {
        unreadable(refresh, key, err);
        return old ? *old : (struct topology_fact){0};
    }
    return (struct topology_fact){.revision = text.revision,
                                  .primary = value.primary,
                                  .term = value.term,
                                  .opened = value.opened,
                                  .error = value.error};
}

/* Does the old snapshot still say what the mirror says? */
static bool is_current(struct refresh *refresh, const struct topology_snapshot *snapshot,
                       uint64_t revision)
{
    if (snapshot->pub.revision != revision) {
        return false;
    }
    for (uint32_t i = 0; i < snapshot->pub.n_slices; i++) {
        const struct topology_fact fact =
            read_fact(refresh, snapshot->pub.id, i, &snapshot->facts[i]);
        const struct topology_peer *peer =
            fact.opened ? find_node(refresh->topology, fact.primary) : NULL;
        if (fact.revision != snapshot->facts[i].revision ||
            snapshot->slices[i].node != (peer ? &peer->pub : NULL)) {
            return false;
        }
    }
    return true;
}

static void fill_slices(struct refresh *refresh, struct topology_snapshot *snapshot,
                        const struct topology_snapshot *old)
{
    struct topology_collection *pub = &snapshot->pub;
    pub->ready = true;
    for (uint32_t i = 0; i < pub->n_slices; i++) {
        const bool same = old && old->pub.id == pub->id && i < old->pub.n_slices;
        const struct topology_fact fact =
            read_fact(refresh, pub->id, i, same ? &old->facts[i] : NULL);
        snapshot->facts[i] = fact;
        snapshot->slices[i].term = fact.term;
        struct topology_peer *peer = NULL;
        if (fact.opened) {
            peer = find_node(refresh->topology, fact.primary);
            peer = peer ? peer : add_node(refresh, fact.primary, NULL);
        }
        if (peer) {
            peer->pub.refs++;
            snapshot->slices[i].node = &peer->pub;
        }
        pub->ready &= peer != NULL;
    }
}

static struct topology_snapshot *snapshot_new(struct refresh *refresh, const char *name,
                                              const struct kith_registry_value *text,
                                              const struct topology_snapshot *old)
{
    struct topology_snapshot *snapshot = kith_alloc(sizeof *snapshot);
    if (!snapshot) {
        refresh->failed = true;
        return NULL;
    }
    snapshot->pub.refs = 1;
    snapshot->pub.revision = text->revision;
    snapshot->pub.name = kith_arena_text(&snapshot->arena, name, strlen(name));
    enum kith_err err =
        topology_codec_read(&snapshot->pub, &snapshot->arena, text->text, text->len);
    if (!err) {
        const size_t n = snapshot->pub.n_slices;
        snapshot->facts = kith_arena_array(&snapshot->arena, n, sizeof *snapshot->facts);
        snapshot->slices = kith_arena_array(&snapshot->arena, n, sizeof *snapshot->slices);
        snapshot->pub.slices = snapshot->slices;
    }
    if (err == KITH_CORRUPT) {
        kith_log(WARN, "topology.unreadable", "key=" KITH_KEYS_COLLECTIONS "%s", name);
    } else if (err || !snapshot->pub.name || !snapshot->facts || !snapshot->slices) {
        refresh->failed = true;
        err = KITH_NOMEM;
    }
    if (err) {
        snapshot->slices = NULL;
        topology_unref(&snapshot->pub);
        return NULL;
    }
    fill_slices(refresh, snapshot, old);
    return snapshot;
}

/* Takes snapshot on success. */
static bool put_snapshot(struct topology *topology, struct topology_snapshot *snapshot)
{
    const size_t at = seek_collection(topology, snapshot->pub.name);
    if (at < topology->n_collections &&
        strcmp(topology->collections[at]->pub.name, snapshot->pub.name) == 0) {
        struct topology_snapshot *old = topology->collections[at];
        topology->collections[at] = snapshot;
        topology_unref(&old->pub);
        return true;
    }
    void *list = topology->collections;
    if (!kith_grow(&list, &topology->cap_collections, topology->n_collections + 1,
                   sizeof(void *))) {
        return false;
    }
    topology->collections = list;
    memmove(topology->collections + at + 1, topology->collections + at,
            (topology->n_collections - at) * sizeof(void *));
    topology->collections[at] = snapshot;
    topology->n_collections++;
    return true;
}

static void on_collection(void *ctx, const char *key, const struct kith_registry_value *text)
{
    struct refresh *refresh = ctx;
    struct topology *topology = refresh->topology;
    const char *name = key + sizeof KITH_KEYS_COLLECTIONS - 1;
    if (!topology_codec_name_ok(name)) {
        kith_log(WARN, "topology.unreadable", "key=%s", key);
        return;
    }
    struct topology_snapshot *old = find_snapshot(topology, name);
    if (old) {
        old->seen = true;
    }
    if (old && is_current(refresh, old, text->revision)) {
        return;
    }
    struct topology_snapshot *fresh = snapshot_new(refresh, name, text, old);
    if (fresh) {
        fresh->seen = true;
        if (!put_snapshot(topology, fresh)) {
            topology_unref(&fresh->pub);
            refresh->failed = true;
        }
    }
}

static void refresh_collections(struct refresh *refresh)
{
    struct topology *topology = refresh->topology;
    for (size_t i = 0; i < topology->n_collections; i++) {
        topology->collections[i]->seen = false;
    }
    kith_registry_each(topology->cfg.registry, KITH_KEYS_COLLECTIONS, on_collection, refresh);
    size_t kept = 0;
    for (size_t i = 0; i < topology->n_collections; i++) {
        struct topology_snapshot *snapshot = topology->collections[i];
        if (snapshot->seen) {
            topology->collections[kept++] = snapshot;
        } else {
            topology_unref(&snapshot->pub);
        }
    }
    topology->n_collections = kept;
}

/* ---- the whole ------------------------------------------------------------------------------- */

void topology_refresh(struct topology *topology)
{
    struct refresh refresh = {.topology = topology};
    if (!topology->cluster) {
        topology->cluster = kith_keys_cluster(topology->cfg.registry);
    }
    refresh_nodes(&refresh);
    refresh_collections(&refresh);
    forget_nodes(topology);
    if (refresh.failed) {
        kith_log(WARN, "topology.nomem", "trying again");
        kith_timer_start(topology->again, 250, 0);
    }
}

static void on_registry(void *ctx)
{
    struct topology *topology = ctx;
    topology_refresh(topology);
    topology_change_check(topology);
}

void topology_each_collection(const struct topology *topology, topology_collection_fn fn, void *ctx)
{
    for (size_t i = 0; i < topology->n_collections; i++) {
        fn(ctx, &topology->collections[i]->pub);
    }
}

void topology_each_node(const struct topology *topology, topology_node_fn fn, void *ctx)
{
    for (size_t i = 0; i < topology->n_nodes; i++) {
        fn(ctx, &topology->nodes[i]->pub);
    }
}

uint64_t topology_cluster(const struct topology *topology)
{
    return topology->cluster;
}

bool topology_synced(const struct topology *topology)
{
    return kith_registry_synced(topology->cfg.registry);
}

static void count_slices(const struct topology *topology, struct topology_status *out)
{
    out->ready = out->synced && out->cluster != 0;
    for (size_t i = 0; i < topology->n_collections; i++) {
        const struct topology_collection *collection = &topology->collections[i]->pub;
        out->n_slices += collection->n_slices;
        for (uint32_t j = 0; j < collection->n_slices; j++) {
            const struct topology_node *node = collection->slices[j].node;
            out->n_slices_unplaced += node == NULL;
            out->ready &= node && node->state == TOPOLOGY_READY;
        }
    }
}

void topology_status(const struct topology *topology, struct topology_status *out)
{
    const struct kith_registry *registry = topology->cfg.registry;
    struct kith_registry_value text;
    struct kith_leader_value leader = {0};
    *out = (struct topology_status){
        .cluster = topology->cluster,
        .revision = kith_registry_revision(registry),
        .synced = kith_registry_synced(registry),
        .connected = kith_registry_connected(registry),
        .self = topology->cfg.self,
        .trouble = kith_registry_trouble(registry),
        .n_collections = (uint32_t)topology->n_collections,
        .n_nodes = (uint32_t)topology->n_nodes,
    };
    if (kith_registry_get(registry, KITH_KEYS_LEADER, &text) &&
        !kith_keys_read_leader(text.text, text.len, &leader)) {
        out->leader = leader.id;
        out->leading = leader.id == topology->cfg.self;
    }
    for (size_t i = 0; i < topology->n_nodes; i++) {
        out->n_nodes_ready += topology->nodes[i]->pub.state == TOPOLOGY_READY;
    }
    count_slices(topology, out);
}

enum kith_err topology_open(struct topology **out, const struct topology_cfg *cfg,
                            struct kith_diag *diag)
{
    struct topology *topology = kith_alloc(sizeof *topology);
    if (!topology) {
        return kith_fail(diag, KITH_NOMEM, "topology");
    }
    topology->cfg = *cfg;
    topology->cfg.http_url = NULL; /* the leader's business */
    const enum kith_err err = kith_timer_new(&topology->again, cfg->loop, on_registry, topology);
    if (err) {
        kith_free(topology);
        return kith_fail(diag, err, "topology timer");
    }
    kith_registry_listen(cfg->registry, on_registry, topology);
    topology_refresh(topology);
    *out = topology;
    return KITH_OK;
}

void topology_close(struct topology *topology)
{
    if (!topology) {
        return;
    }
    kith_registry_unlisten(topology->cfg.registry, on_registry, topology);
    topology_change_cancel_all(topology);
    /* Snapshots still referenced outlive this; their connections do not. */
    for (struct topology_peer *peer = topology->peers; peer; peer = peer->next) {
        kith_net_peer_close(peer->pub.peer);
        peer->pub.peer = NULL;
        peer->of = NULL;
    }
    for (size_t i = 0; i < topology->n_collections; i++) {
        topology_unref(&topology->collections[i]->pub);
    }
    for (size_t i = 0; i < topology->n_nodes; i++) {
        peer_unref(topology->nodes[i]);
    }
    kith_free(topology->collections);
    kith_free(topology->nodes);
    kith_timer_free(topology->again);
    kith_free(topology);
}
