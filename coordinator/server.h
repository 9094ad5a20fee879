/* A coordinator: the HTTP API over the nodes of a topology.
 *
 * Owns:    the gateway, the requests in hand, the encoders, the cache of encoded texts.
 * Borrows: loop, topology, registry, pool.
 * Threads: loop.
 * Errors:  open fails with the gateway's errors, or KITH_NOMEM.
 * Shutdown: server_drain, run the loop until done; then topology_close and kith_pool_close; then
 *           server_close; then kith_loop_close. (Requests still waiting for a node or a task at
 *           server_close are freed; the callbacks they wait for must not come any more.) */
#ifndef SERVER_H
#define SERVER_H

#include "common/kith_loop.h"
#include "common/kith_pool.h"
#include "coordinator/cluster/topology.h"

struct server;
struct request;

struct kith_metrics;

struct server_cfg {
    const char *listen; /* "127.0.0.1:6333" */
    struct topology *topology;
    struct kith_pool *pool;
    const char *encoders_dir;     /* folder of encoder files; NULL = none */
    struct kith_metrics *metrics; /* of the process, shown on /metrics too; NULL = none */
    bool clustered;               /* false in kith up: GET /cluster says "disabled" */
    /* Whether a collection may have an index by this factory string of Faiss, which is not a
     * coordinator's to know; the text is for users. NULL = nodes will say. */
    enum kith_err (*check_factory)(const char *factory, uint32_t dim, enum kith_metric metric,
                                   struct kith_diag *diag);
};

enum kith_err server_open(struct server **out, struct kith_loop *loop, const struct server_cfg *cfg,
                          struct kith_diag *diag) KITH_MUST_CHECK;
const char *server_url(const struct server *server); /* "http://127.0.0.1:6333" */
/* Stops accepting; done(ctx) on the loop when every answer is out, or after grace_ms. */
void server_drain(struct server *server, uint32_t grace_ms, kith_loop_fn done, void *ctx);
void server_close(struct server *server); /* NULL allowed */

/* ---- for the stages -------------------------------------------------------------------------- */

struct census;
struct encode_cache;
struct gateway;
struct http_stats;
struct pipeline_stats;
struct text_models;

struct kith_loop *server_loop(const struct server *server);
struct topology *server_topology(const struct server *server);
struct kith_pool *server_pool(const struct server *server);
struct encode_cache *server_cache(const struct server *server);
struct text_models *server_models(const struct server *server);
struct gateway *server_gateway(const struct server *server);
struct http_stats *server_stats(struct server *server);
const struct pipeline_stats *server_stage_stats(const struct server *server);
struct census *server_census(struct server *server);
struct kith_metrics *server_metrics(const struct server *server); /* NULL = none */
bool server_clustered(const struct server *server);
/* server_cfg.check_factory, its text with the field before it. */
enum kith_err server_check_factory(const struct server *server, const char *factory, uint32_t dim,
                                   enum kith_metric metric, struct kith_diag *diag);
uint64_t server_cluster(const struct server *server);    /* the id in every frame */
uint64_t server_op_id(struct server *server);            /* unique over processes and restarts */
const char *server_started(const struct server *server); /* RFC 3339, for telemetry */
void server_remember(struct server *server, struct request *req);
void server_forget(struct server *server, struct request *req);

#endif
