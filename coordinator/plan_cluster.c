/* The cluster in the API's words: its "peers" are Kith's nodes, its "shards" Kith's slices, and its
 * "raft" is whoever orders changes of the map: the registry. */
#include <inttypes.h>
#include <stdio.h>
#include <time.h>

#include "coordinator/plan.h"
#include "coordinator/server.h"

static void write_node(void *ctx, const struct topology_node *node)
{
    struct kith_json_writer *w = ctx;
    char id[24];
    if (node->state == TOPOLOGY_GONE)
        return;
    snprintf(id, sizeof(id), "%" PRIu64, node->id);
    kith_jw_key(w, id);
    kith_jw_begin_object(w);
    kith_jw_key(w, "uri");
    kith_jw_cstr(w, node->url);
    kith_jw_key(w, "name");
    kith_jw_cstr(w, node->name);
    kith_jw_key(w, "state");
    kith_jw_cstr(w, topology_node_state_name(node->state));
    kith_jw_end_object(w);
}

static void write_raft(const struct topology_status *status, struct kith_json_writer *w)
{
    kith_jw_key(w, "raft_info");
    kith_jw_begin_object(w);
    kith_jw_key(w, "term");
    kith_jw_u64(w, 0);
    kith_jw_key(w, "commit");
    kith_jw_u64(w, status->revision);
    kith_jw_key(w, "pending_operations");
    kith_jw_u64(w, 0);
    kith_jw_key(w, "leader");
    if (status->leader)
        kith_jw_u64(w, status->leader);
    else
        kith_jw_null(w);
    kith_jw_key(w, "role");
    kith_jw_cstr(w, status->leading ? "Leader" : "Follower");
    kith_jw_key(w, "is_voter");
    kith_jw_bool(w, true);
    kith_jw_end_object(w);
}

static void write_consensus(const struct topology_status *status, struct kith_json_writer *w)
{
    char text[32] = "1970-01-01T00:00:00Z";
    time_t now = time(NULL);
    struct tm utc;
    kith_jw_key(w, "consensus_thread_status");
    kith_jw_begin_object(w);
    kith_jw_key(w, "consensus_thread_status");
    if (status->connected) {
        if (gmtime_r(&now, &utc))
            strftime(text, sizeof(text), "%Y-%m-%dT%H:%M:%SZ", &utc);
        kith_jw_cstr(w, "working");
        kith_jw_key(w, "last_update");
        kith_jw_cstr(w, text);
    } else {
        kith_jw_cstr(w, "stopped_with_err");
        kith_jw_key(w, "err");
        kith_jw_cstr(w, status->trouble ? status->trouble : "the registry cannot be reached");
    }
    kith_jw_end_object(w);
}

static void status_result(struct request *req, struct kith_json_writer *w)
{
    struct topology_status status;
    topology_status(server_topology(req->server), &status);
    kith_jw_begin_object(w);
    kith_jw_key(w, "status");
    kith_jw_cstr(w, server_clustered(req->server) ? "enabled" : "disabled");
    if (server_clustered(req->server)) {
        kith_jw_key(w, "peer_id");
        kith_jw_u64(w, status.self);
        kith_jw_key(w, "peers");
        kith_jw_begin_object(w);
        topology_each_node(server_topology(req->server), write_node, w);
        kith_jw_end_object(w);
        write_raft(&status, w);
        write_consensus(&status, w);
        kith_jw_key(w, "message_send_failures");
        kith_jw_begin_object(w);
        kith_jw_end_object(w);
    }
    kith_jw_end_object(w);
}

static const char *state_of(const struct topology_node *node)
{
    if (!node || node->state == TOPOLOGY_GONE)
        return "Dead";
    return node->state == TOPOLOGY_WARMING ? "Initializing" : "Active";
}

static void collection_result(struct request *req, struct kith_json_writer *w)
{
    const struct topology_collection *c = req->collection;
    struct topology_status status;
    topology_status(server_topology(req->server), &status);
    kith_jw_begin_object(w);
    kith_jw_key(w, "peer_id");
    kith_jw_u64(w, status.self);
    kith_jw_key(w, "shard_count");
    kith_jw_u64(w, c->n_slices);
    kith_jw_key(w, "local_shards"); /* a coordinator holds none */
    kith_jw_begin_array(w);
    kith_jw_end_array(w);
    kith_jw_key(w, "remote_shards");
    kith_jw_begin_array(w);
    for (uint32_t i = 0; i < c->n_slices; i++) {
        const struct topology_node *node = c->slices[i].node;
        kith_jw_begin_object(w);
        kith_jw_key(w, "shard_id");
        kith_jw_u64(w, i);
        kith_jw_key(w, "peer_id");
        kith_jw_u64(w, node ? node->id : 0);
        kith_jw_key(w, "state");
        kith_jw_cstr(w, state_of(node));
        kith_jw_end_object(w);
    }
    kith_jw_end_array(w);
    kith_jw_key(w, "shard_transfers");
    kith_jw_begin_array(w);
    kith_jw_end_array(w);
    kith_jw_end_object(w);
}

static const struct work status_work = {.name = "cluster", .write_result = status_result};
static const struct work collection_work = {.name = "collection cluster",
                                            .write_result = collection_result};

enum kith_err plan_cluster_status(struct request *req, struct kith_diag *diag)
{
    (void)diag;
    req->work = &status_work;
    return KITH_OK;
}

enum kith_err plan_cluster_collection(struct request *req, struct kith_diag *diag)
{
    (void)diag;
    req->work = &collection_work;
    return KITH_OK;
}
