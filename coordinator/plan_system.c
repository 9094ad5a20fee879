/* What is about the process: who it is, whether it is well, what it counts. */
#include <dirent.h>
#include <inttypes.h>
#include <stdio.h>
#include <unistd.h>

#include "coordinator/census.h"
#include "coordinator/encode_cache.h"
#include "coordinator/gateway.h"
#include "coordinator/http_stats.h"
#include "coordinator/plan.h"
#include "coordinator/routes.h"
#include "coordinator/server.h"

/* The version of the API spoken here, which clients compare with their own. */
#define API_VERSION "1.19.0"

static enum kith_err bare(struct request *req, const struct work *work, const char *content_type)
{
    req->work = work;
    req->bare = true;
    req->content_type = content_type;
    return KITH_OK;
}

/* ---- root, health ---------------------------------------------------------------------------- */

static void root_result(struct request *req, struct kith_json_writer *w)
{
    (void)req;
    kith_jw_begin_object(w);
    kith_jw_key(w, "title");
    kith_jw_cstr(w, "kith - semantic search cluster");
    kith_jw_key(w, "version");
    kith_jw_cstr(w, API_VERSION);
    kith_jw_key(w, "kith_version");
    kith_jw_cstr(w, KITH_VERSION);
    kith_jw_end_object(w);
}

static void health_result(struct request *req, struct kith_json_writer *w)
{
    (void)req;
    kith_buf_text(w->buf, "healthz check passed");
}

static void ready_result(struct request *req, struct kith_json_writer *w)
{
    struct topology_status status;
    topology_status(server_topology(req->server), &status);
    req->status = status.ready ? 200 : 503;
    kith_buf_text(w->buf, status.ready ? "all shards are ready" : "some shards are not ready");
}

static const struct work root_work = {.name = "root", .write_result = root_result};
static const struct work health_work = {.name = "health", .write_result = health_result};
static const struct work ready_work = {.name = "ready", .write_result = ready_result};

enum kith_err plan_system_root(struct request *req, struct kith_diag *diag)
{
    (void)diag;
    return bare(req, &root_work, NULL);
}

enum kith_err plan_system_health(struct request *req, struct kith_diag *diag)
{
    (void)diag;
    return bare(req, &health_work, "text/plain");
}

enum kith_err plan_system_ready(struct request *req, struct kith_diag *diag)
{
    (void)diag;
    return bare(req, &ready_work, "text/plain");
}

enum kith_err plan_system_unsupported(struct request *req, struct kith_diag *diag)
{
    return kith_fail(diag, KITH_UNSUPPORTED, "%s %s: not supported yet",
                     gateway_method_name(req->http->method), req->route->pattern);
}

/* ---- metrics --------------------------------------------------------------------------------- */

static void gauge(struct kith_buf *out, const char *name, const char *help, double value)
{
    kith_buf_printf(out, "# HELP %s %s\n# TYPE %s gauge\n%s %.17g\n", name, help, name, name,
                    value);
}

static void counter(struct kith_buf *out, const char *name, const char *help, uint64_t value)
{
    kith_buf_printf(out, "# HELP %s %s\n# TYPE %s counter\n%s %" PRIu64 "\n", name, help, name,
                    name, value);
}

static double resident_bytes(void)
{
    unsigned long size = 0, resident = 0;
    FILE *file = fopen("/proc/self/statm", "r");
    if (!file)
        return 0;
    if (fscanf(file, "%lu %lu", &size, &resident) != 2)
        resident = 0;
    fclose(file);
    return (double)resident * (double)sysconf(_SC_PAGESIZE);
}

static double open_fds(void)
{
    double n = 0;
    DIR *dir = opendir("/proc/self/fd");
    if (!dir)
        return 0;
    while (readdir(dir))
        n++;
    closedir(dir);
    return n > 3 ? n - 3 : 0; /* ".", "..", and the one of this walk */
}

struct metrics_walk {
    struct kith_buf *out;
    const struct census *census;
};

static void write_points(void *ctx, struct topology_collection *collection)
{
    struct metrics_walk *walk = ctx;
    uint64_t sum = 0, points;
    for (uint32_t i = 0; i < collection->n_slices; i++)
        if (census_get(walk->census, collection->id, i, &points))
            sum += points;
    kith_buf_printf(walk->out, "collection_points{id=\"%s\"} %" PRIu64 "\n", collection->name, sum);
}

static void write_dead(void *ctx, struct topology_collection *collection)
{
    struct metrics_walk *walk = ctx;
    uint32_t dead = 0;
    for (uint32_t i = 0; i < collection->n_slices; i++) {
        const struct topology_node *node = collection->slices[i].node;
        dead += !node || node->state == TOPOLOGY_GONE;
    }
    kith_buf_printf(walk->out, "collection_dead_replicas{id=\"%s\"} %u\n", collection->name, dead);
}

static void write_gateway(struct request *req, struct kith_buf *out)
{
    struct gateway_stats stats;
    gateway_stats(server_gateway(req->server), &stats);
    counter(out, "kith_http_requests_total", "requests taken in", stats.requests);
    counter(out, "kith_http_refused_total", "requests refused before they were read",
            stats.refused);
    counter(out, "kith_http_connections_total", "connections accepted", stats.connections);
    gauge(out, "kith_http_connections", "connections open", stats.connections_n);
    gauge(out, "kith_http_inflight", "requests in hand", stats.inflight_n);
    gauge(out, "kith_http_inflight_bytes", "bytes of bodies in hand", (double)stats.inflight_bytes);
    counter(out, "kith_http_received_bytes_total", "bytes read", stats.bytes_in);
    counter(out, "kith_http_sent_bytes_total", "bytes written", stats.bytes_out);
}

static void write_cache(struct request *req, struct kith_buf *out)
{
    struct encode_cache_stats stats;
    encode_cache_stats(server_cache(req->server), &stats);
    counter(out, "kith_encode_cache_hits_total", "texts found encoded", stats.hits);
    counter(out, "kith_encode_cache_misses_total", "texts that had to be encoded", stats.misses);
    counter(out, "kith_encode_cache_evictions_total", "texts forgotten", stats.evictions);
    gauge(out, "kith_encode_cache_entries", "texts kept", (double)stats.entries);
    gauge(out, "kith_encode_cache_bytes", "bytes kept", (double)stats.bytes);
}

static void metrics_result(struct request *req, struct kith_json_writer *w)
{
    struct kith_buf *out = w->buf;
    const struct topology *topology = server_topology(req->server);
    struct metrics_walk walk = {out, server_census(req->server)};
    struct topology_status status;
    topology_status(topology, &status);
    kith_buf_text(out, "# HELP app_info name and version\n# TYPE app_info gauge\n"
                       "app_info{name=\"kith\",version=\"" KITH_VERSION "\"} 1\n");
    gauge(out, "collections_total", "collections", status.n_collections);
    gauge(out, "cluster_enabled", "whether this is a cluster", server_clustered(req->server));
    gauge(out, "cluster_peers_total", "nodes known", status.n_nodes);
    gauge(out, "kith_nodes_ready", "nodes ready", status.n_nodes_ready);
    gauge(out, "kith_slices_unplaced", "slices nobody holds", status.n_slices_unplaced);
    gauge(out, "kith_registry_connected", "whether the registry is there", status.connected);
    kith_buf_text(out, "# HELP collection_points points when its slices last answered\n"
                       "# TYPE collection_points gauge\n");
    topology_each_collection(topology, write_points, &walk);
    kith_buf_text(out, "# HELP collection_dead_replicas slices whose node is gone\n"
                       "# TYPE collection_dead_replicas gauge\n");
    topology_each_collection(topology, write_dead, &walk);
    http_stats_write(server_stats(req->server), out);
    write_gateway(req, out);
    write_cache(req, out);
    gauge(out, "memory_resident_bytes", "resident memory of this process", resident_bytes());
    gauge(out, "process_open_fds", "open file descriptors", open_fds());
}

static const struct work metrics_work = {.name = "metrics", .write_result = metrics_result};

enum kith_err plan_system_metrics(struct request *req, struct kith_diag *diag)
{
    (void)diag;
    return bare(req, &metrics_work, "text/plain; version=0.0.4");
}

/* ---- telemetry, issues ----------------------------------------------------------------------- */

static void telemetry_result(struct request *req, struct kith_json_writer *w)
{
    struct topology_status status;
    char id[24];
    topology_status(server_topology(req->server), &status);
    snprintf(id, sizeof(id), "%016" PRIx64, status.self);
    kith_jw_begin_object(w);
    kith_jw_key(w, "id");
    kith_jw_cstr(w, id);
    kith_jw_key(w, "app");
    kith_jw_begin_object(w);
    kith_jw_key(w, "name");
    kith_jw_cstr(w, "kith");
    kith_jw_key(w, "version");
    kith_jw_cstr(w, KITH_VERSION);
    kith_jw_key(w, "startup");
    kith_jw_cstr(w, server_started(req->server));
    kith_jw_end_object(w);
    kith_jw_key(w, "collections");
    kith_jw_begin_object(w);
    kith_jw_key(w, "number_of_collections");
    kith_jw_u64(w, status.n_collections);
    kith_jw_end_object(w);
    kith_jw_end_object(w);
}

static void issues_result(struct request *req, struct kith_json_writer *w)
{
    if (req->http->method == GATEWAY_DELETE) {
        kith_jw_bool(w, true);
        return;
    }
    kith_jw_begin_object(w);
    kith_jw_key(w, "issues");
    kith_jw_begin_array(w);
    kith_jw_end_array(w);
    kith_jw_end_object(w);
}

static const struct work telemetry_work = {.name = "telemetry", .write_result = telemetry_result};
static const struct work issues_work = {.name = "issues", .write_result = issues_result};

enum kith_err plan_system_telemetry(struct request *req, struct kith_diag *diag)
{
    (void)diag;
    req->work = &telemetry_work;
    return KITH_OK;
}

enum kith_err plan_system_issues(struct request *req, struct kith_diag *diag)
{
    (void)diag;
    req->work = &issues_work;
    return KITH_OK;
}
