#include "shard/rpc/node_peers.h"

#include <pthread.h>
#include <string.h>

#include "common/kith_clock.h"
#include "common/kith_mem.h"
#include "common/kith_request.h"

/* A new map waits until the asking thread takes it up: connections are that thread's alone, so no
 * lock is held while one is opened, closed or waited for. */

#define ASK_MS  10000u /* a piece of some MB, from a node that is busy */
#define WAIT_MS 20u    /* between two looks whether to stop */
#define REST_NS UINT64_C(3000000000)

struct peer {
    struct kith_net_peer *net; /* NULL: not dialled yet */
    uint64_t rest_until_ns;
};

struct node_peers {
    uint64_t cluster;
    pthread_mutex_t lock;
    struct node_map *fresh; /* guarded by lock; NULL: none since the last one was taken up */
    /* Of the asking thread. */
    struct node_map *map;
    struct peer *peers; /* of each node of the map */
};

static void free_map(struct node_map *map)
{
    if (map == NULL)
        return;
    kith_free(map->nodes);
    kith_free(map->slices);
    kith_free(map);
}

enum kith_err node_peers_open(struct node_peers **out, uint64_t cluster, struct kith_diag *diag)
{
    struct node_peers *peers = kith_alloc(sizeof *peers);
    if (peers == NULL)
        return kith_fail(diag, KITH_NOMEM, "no memory for the other nodes");
    peers->cluster = cluster;
    (void)pthread_mutex_init(&peers->lock, NULL);
    *out = peers;
    return KITH_OK;
}

static void close_all(struct node_peers *peers)
{
    for (size_t i = 0; peers->map != NULL && i < peers->map->n_nodes; i++)
        kith_net_peer_close(peers->peers[i].net);
    kith_free(peers->peers);
    free_map(peers->map);
}

void node_peers_close(struct node_peers *peers)
{
    if (peers == NULL)
        return;
    close_all(peers);
    free_map(peers->fresh);
    (void)pthread_mutex_destroy(&peers->lock);
    kith_free(peers);
}

/* ---- the map --------------------------------------------------------------------------------- */

enum kith_err node_peers_set(struct node_peers *peers, const struct node_map *map,
                             struct kith_diag *diag)
{
    struct node_map *copy = kith_alloc(sizeof *copy);
    if (copy != NULL) {
        *copy = *map;
        copy->nodes = kith_memdup(map->nodes, map->n_nodes * sizeof *map->nodes);
        copy->slices = kith_memdup(map->slices, map->n_slices * sizeof *map->slices);
    }
    if (copy == NULL || copy->nodes == NULL || copy->slices == NULL) {
        free_map(copy);
        return kith_fail(diag, KITH_NOMEM, "no memory for the map of slices");
    }
    (void)pthread_mutex_lock(&peers->lock);
    struct node_map *unused = peers->fresh;
    peers->fresh = copy;
    (void)pthread_mutex_unlock(&peers->lock);
    free_map(unused);
    return KITH_OK;
}

static size_t find_node(const struct node_map *map, uint64_t id)
{
    size_t i = 0;
    while (map != NULL && i < map->n_nodes && map->nodes[i].id != id)
        i++;
    return i;
}

/* Connections to nodes that are where they were go over to the new map. */
static enum kith_err take_up(struct node_peers *peers, struct kith_diag *diag)
{
    (void)pthread_mutex_lock(&peers->lock);
    struct node_map *map = peers->fresh;
    peers->fresh = NULL;
    (void)pthread_mutex_unlock(&peers->lock);
    if (map == NULL)
        return KITH_OK;
    struct peer *fresh = kith_alloc(map->n_nodes * sizeof *fresh);
    if (fresh == NULL) {
        free_map(map); /* the next one, or the old one */
        return kith_fail(diag, KITH_NOMEM, "no memory for the map of slices");
    }
    for (size_t i = 0; i < map->n_nodes; i++) {
        struct node_map_node *node = &map->nodes[i];
        size_t old = find_node(peers->map, node->id);
        if (peers->map == NULL || old == peers->map->n_nodes)
            continue;
        const char *url = peers->map->nodes[old].url;
        if (node->url[0] == '\0')
            memcpy(node->url, url, sizeof node->url);
        if (strcmp(node->url, url) == 0) {
            fresh[i] = peers->peers[old];
            peers->peers[old].net = NULL;
        }
    }
    close_all(peers);
    peers->map = map;
    peers->peers = fresh;
    return KITH_OK;
}

static void add_slice(const struct node_map *map, const struct node_map_slice *slice,
                      struct node_share *shares, uint32_t *n)
{
    uint64_t id = map->nodes[slice->node].id;
    uint32_t i = 0;
    while (i < *n && shares[i].node != id)
        i++;
    struct node_share *share = &shares[i];
    if (i == *n) {
        *share = (struct node_share){.node = id, .self = id == map->self};
        share->scope.collection = slice->collection;
        ++*n;
    }
    if (share->scope.n_slices < KITH_SLICES_PER_COLLECTION_MAX)
        share->scope.slices[share->scope.n_slices++] = slice->slice;
}

enum kith_err node_peers_shares(struct node_peers *peers, uint64_t collection,
                                struct node_share **out, uint32_t *n, struct kith_diag *diag)
{
    enum kith_err err = take_up(peers, diag);
    if (err != KITH_OK)
        return err;
    const struct node_map *map = peers->map;
    size_t first = 0, end = map != NULL ? map->n_slices : 0;
    for (size_t high = end; first < high;) {
        size_t middle = first + (high - first) / 2;
        if (map->slices[middle].collection < collection)
            first = middle + 1;
        else
            high = middle;
    }
    size_t last = first;
    while (last < end && map->slices[last].collection == collection)
        last++;
    struct node_share *shares = kith_alloc((last - first) * sizeof *shares);
    if (shares == NULL)
        return kith_fail(diag, KITH_NOMEM, "no memory for the map of slices");
    *n = 0;
    for (size_t i = first; i < last; i++)
        add_slice(map, &map->slices[i], shares, n);
    *out = shares;
    return KITH_OK;
}

/* ---- asking ---------------------------------------------------------------------------------- */

struct waiting {
    pthread_mutex_t lock;
    pthread_cond_t answered;
    bool done;
    enum kith_err err;
    struct kith_net_msg *reply;
};

/* On any thread. */
static void on_reply(void *ctx, enum kith_err err, struct kith_net_msg *reply)
{
    struct waiting *waiting = ctx;
    (void)pthread_mutex_lock(&waiting->lock);
    waiting->err = err;
    waiting->reply = reply;
    waiting->done = true;
    (void)pthread_cond_signal(&waiting->answered);
    (void)pthread_mutex_unlock(&waiting->lock);
}

/* False: stopped before the reply came. */
static bool wait_for_it(struct waiting *waiting, const struct node_ask *ask)
{
    (void)pthread_mutex_lock(&waiting->lock);
    while (!waiting->done && !ask->stop(ask->stop_ctx)) {
        struct timespec until = kith_clock_in(WAIT_MS);
        (void)pthread_cond_timedwait(&waiting->answered, &waiting->lock, &until);
    }
    bool done = waiting->done;
    (void)pthread_mutex_unlock(&waiting->lock);
    return done;
}

static enum kith_err send(struct peer *peer, struct kith_net_msg *msg, const struct node_ask *ask,
                          struct kith_net_msg **reply)
{
    struct waiting waiting = {.done = false};
    pthread_condattr_t clock;
    (void)pthread_mutex_init(&waiting.lock, NULL);
    (void)pthread_condattr_init(&clock);
    (void)pthread_condattr_setclock(&clock, CLOCK_MONOTONIC);
    (void)pthread_cond_init(&waiting.answered, &clock);
    (void)pthread_condattr_destroy(&clock);
    enum kith_err err = kith_net_ask(peer->net, msg, ASK_MS, on_reply, &waiting);
    if (err != KITH_OK) {
        kith_net_msg_free(msg);
    } else {
        if (!wait_for_it(&waiting, ask)) {
            kith_net_peer_close(peer->net); /* ends the request */
            peer->net = NULL;
        }
        (void)pthread_mutex_lock(&waiting.lock);
        while (!waiting.done)
            (void)pthread_cond_wait(&waiting.answered, &waiting.lock);
        err = waiting.err;
        *reply = waiting.reply;
        (void)pthread_mutex_unlock(&waiting.lock);
    }
    (void)pthread_cond_destroy(&waiting.answered);
    (void)pthread_mutex_destroy(&waiting.lock);
    return err;
}

static enum kith_err connect_to(struct node_peers *peers, size_t i, struct kith_diag *diag)
{
    struct peer *peer = &peers->peers[i];
    const struct node_map_node *node = &peers->map->nodes[i];
    if (kith_now_ns() < peer->rest_until_ns)
        return kith_fail(diag, KITH_UNAVAILABLE, "node %016llx did not answer lately",
                         (unsigned long long)node->id);
    if (node->url[0] == '\0')
        return kith_fail(diag, KITH_UNAVAILABLE, "the address of node %016llx is not known",
                         (unsigned long long)node->id);
    return peer->net != NULL ? KITH_OK : kith_net_dial(&peer->net, node->url, diag);
}

static struct kith_net_msg *make_frame(const struct node_peers *peers, const struct node_ask *ask)
{
    struct kith_writer w;
    struct kith_frame header = {.cluster = peers->cluster,
                                .request = kith_keys_random_id(),
                                .deadline_ms = ASK_MS,
                                .message = (uint16_t)ask->message};
    struct kith_net_msg *msg = kith_request_begin(&w);
    if (!w.failed)
        ask->write(&w, ask->body);
    if (kith_request_end(msg, &w, &header))
        return msg;
    kith_net_msg_free(msg);
    return NULL;
}

enum kith_err node_peers_ask(struct node_peers *peers, const struct node_ask *ask,
                             struct kith_net_msg **reply, struct kith_bytes *body,
                             struct kith_diag *diag)
{
    size_t i = find_node(peers->map, ask->node);
    if (peers->map == NULL || i == peers->map->n_nodes)
        return kith_fail(diag, KITH_UNAVAILABLE, "node %016llx is not on the map",
                         (unsigned long long)ask->node);
    enum kith_err err = connect_to(peers, i, diag);
    if (err != KITH_OK)
        return err;
    struct kith_net_msg *got = NULL, *msg = make_frame(peers, ask);
    if (msg == NULL)
        return kith_fail(diag, KITH_NOMEM, "a request to node %016llx",
                         (unsigned long long)ask->node);
    err = send(&peers->peers[i], msg, ask, &got);
    if (err == KITH_UNAVAILABLE || err == KITH_TIMEOUT)
        peers->peers[i].rest_until_ns = kith_now_ns() + REST_NS;
    if (err != KITH_OK)
        err = kith_fail(diag, err, "node %016llx: %s", (unsigned long long)ask->node,
                        kith_err_text(err));
    else
        err = kith_request_reply(got, peers->cluster, ask->message, body, diag);
    if (err != KITH_OK)
        kith_net_msg_free(got);
    else
        *reply = got;
    return err;
}
