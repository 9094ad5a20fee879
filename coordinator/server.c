#include "coordinator/server.h"

#include <stdio.h>
#include <sys/random.h>
#include <time.h>

#include "common/kith_clock.h"
#include "common/kith_mem.h"
#include "coordinator/census.h"
#include "coordinator/encode/encode_cache.h"
#include "coordinator/gateway/gateway.h"
#include "coordinator/http_stats.h"
#include "coordinator/pipeline.h"
#include "coordinator/text_models.h"

#define ENCODE_CACHE_BYTES_MAX (64u << 20)

struct server {
    struct kith_loop *loop;
    struct topology *topology;
    struct kith_pool *pool;
    struct gateway *gateway;
    struct encode_cache *cache;
    struct text_models *models;
    struct http_stats *stats;
    struct kith_metrics *metrics;
    struct pipeline_stats stage_stats;
    struct census census;
    struct request *requests;
    uint64_t op_id;
    bool clustered;
    enum kith_err (*check_factory)(const char *factory, uint32_t dim, enum kith_metric metric,
                                   struct kith_diag *diag);
    char started[32];
};

static void handle(void *ctx, struct gateway_request *http)
{
    pipeline_begin(ctx, http);
}

static enum kith_err open_parts(struct server *server, const struct server_cfg *cfg,
                                struct kith_diag *diag)
{
    enum kith_err err =
        encode_cache_new(&server->cache, KITH_ENCODE_CACHE_ENTRIES, ENCODE_CACHE_BYTES_MAX, diag);
    if (!err)
        err =
            text_models_open(&server->models, server->loop, server->pool, cfg->encoders_dir, diag);
    if (!err)
        err = http_stats_new(&server->stats, diag);
    if (err)
        return err;
    struct gateway_options options = {.listen = cfg->listen, .handle = handle, .ctx = server};
    return gateway_open(&server->gateway, server->loop, &options, diag);
}

enum kith_err server_open(struct server **out, struct kith_loop *loop, const struct server_cfg *cfg,
                          struct kith_diag *diag)
{
    struct server *server = kith_alloc(sizeof(*server));
    if (!server)
        return kith_fail(diag, KITH_NOMEM, "server: out of memory");
    server->loop = loop;
    server->topology = cfg->topology;
    server->pool = cfg->pool;
    server->metrics = cfg->metrics;
    pipeline_measure(&server->stage_stats, cfg->metrics);
    server->clustered = cfg->clustered;
    server->check_factory = cfg->check_factory;
    time_t now = time(NULL);
    struct tm utc;
    if (gmtime_r(&now, &utc))
        strftime(server->started, sizeof(server->started), "%Y-%m-%dT%H:%M:%SZ", &utc);
    enum kith_err err = KITH_OK;
    if (getrandom(&server->op_id, sizeof(server->op_id), 0) != (ssize_t)sizeof(server->op_id))
        err = kith_fail(diag, KITH_IO, "server: no random numbers");
    if (!err)
        err = open_parts(server, cfg, diag);
    if (err) {
        server_close(server);
        return err;
    }
    *out = server;
    return KITH_OK;
}

const char *server_url(const struct server *server)
{
    return gateway_url(server->gateway);
}

void server_drain(struct server *server, uint32_t grace_ms, kith_loop_fn done, void *ctx)
{
    gateway_drain(server->gateway, grace_ms, done, ctx);
}

void server_close(struct server *server)
{
    if (!server)
        return;
    gateway_close(server->gateway);
    server->gateway = NULL;
    while (server->requests)
        pipeline_abandon(server->requests);
    text_models_close(server->models);
    encode_cache_free(server->cache);
    http_stats_free(server->stats);
    census_fini(&server->census);
    kith_free(server);
}

struct kith_loop *server_loop(const struct server *server)
{
    return server->loop;
}

struct topology *server_topology(const struct server *server)
{
    return server->topology;
}

struct kith_pool *server_pool(const struct server *server)
{
    return server->pool;
}

struct encode_cache *server_cache(const struct server *server)
{
    return server->cache;
}

struct text_models *server_models(const struct server *server)
{
    return server->models;
}

struct gateway *server_gateway(const struct server *server)
{
    return server->gateway;
}

struct http_stats *server_stats(struct server *server)
{
    return server->stats;
}

const struct pipeline_stats *server_stage_stats(const struct server *server)
{
    return &server->stage_stats;
}

struct census *server_census(struct server *server)
{
    return &server->census;
}

struct kith_metrics *server_metrics(const struct server *server)
{
    return server->metrics;
}

bool server_clustered(const struct server *server)
{
    return server->clustered;
}

enum kith_err server_check_factory(const struct server *server, const char *factory, uint32_t dim,
                                   enum kith_metric metric, struct kith_diag *diag)
{
    if (!server->check_factory)
        return KITH_OK;
    enum kith_err err = server->check_factory(factory, dim, metric, diag);
    if (err)
        kith_diag_prefix(diag, "index");
    return err;
}

uint64_t server_cluster(const struct server *server)
{
    return topology_cluster(server->topology);
}

uint64_t server_op_id(struct server *server)
{
    /* A random start and a step that is odd: no value comes twice, and two processes that began
     * near one another do not stay so. 0 means "none". */
    do
        server->op_id += UINT64_C(0x9e3779b97f4a7c15);
    while (server->op_id == 0);
    return server->op_id;
}

const char *server_started(const struct server *server)
{
    return server->started;
}

void server_remember(struct server *server, struct request *req)
{
    req->next = server->requests;
    if (req->next)
        req->next->prev = req;
    server->requests = req;
}

void server_forget(struct server *server, struct request *req)
{
    if (req->prev)
        req->prev->next = req->next;
    else
        server->requests = req->next;
    if (req->next)
        req->next->prev = req->prev;
}
