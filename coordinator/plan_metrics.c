/* /metrics: what this process counts, and what each collection holds. The nodes are asked for the
 * latter at the moment of reading, one collection after another, within METRICS_MS; a collection
 * whose nodes are away or too slow shows the points it had when they last answered. */
#include <dirent.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "common/kith_arena.h"
#include "common/kith_clock.h"
#include "common/kith_metrics.h"
#include "coordinator/census.h"
#include "coordinator/encode/encode_cache.h"
#include "coordinator/gateway/gateway.h"
#include "coordinator/http_stats.h"
#include "coordinator/pipeline.h"
#include "coordinator/plan_collections.h"
#include "coordinator/server.h"

#define METRICS_MS 2000u

struct metrics_row {
    struct topology_collection *collection; /* a reference */
    uint64_t points, segments, bytes;
    bool known;
    const struct info_recall *recalls;
    size_t n_recalls;
};

struct metrics_plan {
    struct info_plan info; /* first: run_info_round writes into req->plan */
    struct metrics_row *rows;
    uint32_t n_rows, at;
};

static struct metrics_plan *plan_of(const struct request *req)
{
    return req->plan;
}

/* ---- asking ---------------------------------------------------------------------------------- */

static void count_one(void *ctx, struct topology_collection *collection)
{
    (void)collection;
    plan_of(ctx)->n_rows++;
}

static void add_row(void *ctx, struct topology_collection *collection)
{
    struct metrics_plan *plan = plan_of(ctx);
    plan->rows[plan->at++].collection = topology_ref(collection);
}

static bool wants(struct request *req, uint32_t slice)
{
    const struct topology_node *node = req->collection->slices[slice].node;
    return node && topology_node_up(node);
}

static void next_row(struct request *req);

static void on_round(struct request *req)
{
    struct metrics_plan *plan = plan_of(req);
    struct metrics_row *row = &plan->rows[plan->at++];
    req->collection = NULL; /* the row has the reference */
    row->points = plan->info.sum.live_points;
    row->segments = plan->info.sum.segments;
    row->bytes =
        plan->info.sum.segment_bytes + plan->info.sum.wal_bytes + plan->info.sum.head_bytes;
    row->recalls = plan->info.recalls;
    row->n_recalls = plan->info.n_recalls;
    row->known = true;
    for (uint32_t i = 0; i < req->scatter.n_asks; i++)
        for (uint32_t j = 0; j < req->scatter.asks[i]->scope.n_slices; j++)
            row->known = row->known && !req->scatter.asks[i]->slice_err[j];
    next_row(req);
}

/* Begins the next collection that has somebody to ask; ends the stage after the last. */
static void next_row(struct request *req)
{
    struct metrics_plan *plan = plan_of(req);
    for (; plan->at < plan->n_rows && request_left_ms(req) > 0; plan->at++) {
        plan->info = (struct info_plan){.n_fields = 0};
        req->collection = plan->rows[plan->at].collection;
        enum kith_err err = scatter_begin(req, &run_info_round, wants, on_round, NULL);
        if (!err && req->scatter.n_asks > 0)
            return;
        req->collection = NULL;
    }
    pipeline_resume(req);
}

static void begin(void *ctx)
{
    next_row(ctx);
}

static enum kith_err start(struct request *req, struct kith_diag *diag)
{
    struct metrics_plan *plan = plan_of(req);
    const struct topology *topology = server_topology(req->server);
    uint64_t limit_ms = kith_now_ms() + METRICS_MS;
    if (req->http->deadline_ms > limit_ms)
        req->http->deadline_ms = limit_ms;
    topology_each_collection(topology, count_one, req);
    plan->rows = kith_arena_array(req->arena, plan->n_rows ? plan->n_rows : 1, sizeof(*plan->rows));
    if (!plan->rows)
        return kith_fail(diag, KITH_NOMEM, "request: out of memory");
    topology_each_collection(topology, add_row, req);
    plan->at = 0;
    req->letter = (struct kith_letter){.fn = begin, .ctx = req};
    kith_loop_post(server_loop(req->server), &req->letter);
    return KITH_OK;
}

/* ---- the page -------------------------------------------------------------------------------- */

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

static void family(struct kith_buf *out, const char *name, const char *help)
{
    kith_buf_printf(out, "# HELP %s %s\n# TYPE %s gauge\n", name, help, name);
}

static void sample(struct kith_buf *out, const char *name, const struct metrics_row *row,
                   uint64_t value)
{
    kith_buf_printf(out, "%s{id=\"%s\"} %" PRIu64 "\n", name, row->collection->name, value);
}

static uint64_t last_points(struct request *req, const struct metrics_row *row)
{
    uint64_t sum = 0, points;
    for (uint32_t i = 0; i < row->collection->n_slices; i++)
        if (census_get(server_census(req->server), row->collection->id, i, &points))
            sum += points;
    return sum;
}

static uint64_t dead_slices(const struct topology_collection *collection)
{
    uint64_t dead = 0;
    for (uint32_t i = 0; i < collection->n_slices; i++) {
        const struct topology_node *node = collection->slices[i].node;
        dead += !node || node->state == TOPOLOGY_GONE;
    }
    return dead;
}

static void write_collections(struct request *req, struct kith_buf *out)
{
    const struct metrics_plan *plan = plan_of(req);
    family(out, "collection_points", "points, live");
    for (uint32_t i = 0; i < plan->n_rows; i++)
        sample(out, "collection_points", &plan->rows[i],
               plan->rows[i].known ? plan->rows[i].points : last_points(req, &plan->rows[i]));
    family(out, "kith_collection_bytes", "bytes on disk and in heads, of the slices that answered");
    for (uint32_t i = 0; i < plan->n_rows; i++)
        sample(out, "kith_collection_bytes", &plan->rows[i], plan->rows[i].bytes);
    family(out, "kith_collection_segments", "sealed segments of the slices that answered");
    for (uint32_t i = 0; i < plan->n_rows; i++)
        sample(out, "kith_collection_segments", &plan->rows[i], plan->rows[i].segments);
    family(out, "collection_dead_replicas", "slices whose node is gone");
    for (uint32_t i = 0; i < plan->n_rows; i++)
        sample(out, "collection_dead_replicas", &plan->rows[i],
               dead_slices(plan->rows[i].collection));
}

/* ---- recall ---------------------------------------------------------------------------------- */

#define RECALL_OVER 50u /* queries that a node's mean is about, at most */

static bool same_kind(const struct kith_msg_info_recall *a, const struct kith_msg_info_recall *b)
{
    return a->plan.len == b->plan.len && memcmp(a->plan.data, b->plan.data, a->plan.len) == 0 &&
           a->share.len == b->share.len && memcmp(a->share.data, b->share.data, a->share.len) == 0;
}

static void recall_sample(struct kith_buf *out, const char *name, const struct metrics_row *row,
                          const struct info_recall *recall, bool by_node, double value)
{
    char plan[KITH_PLAN_NAME_MAX + 1] = "", share[KITH_PLAN_NAME_MAX + 1] = "";
    struct kith_buf labels = {.limit = 4096};
    memcpy(plan, recall->seen.plan.data, recall->seen.plan.len);
    memcpy(share, recall->seen.share.data, recall->seen.share.len);
    kith_metrics_label(&labels, "collection", row->collection->name);
    kith_metrics_label(&labels, "plan", plan);
    kith_metrics_label(&labels, "selectivity", share);
    if (by_node)
        kith_metrics_label(&labels, "node", recall->node ? recall->node->name : "");
    kith_buf_byte(&labels, 0);
    if (!labels.failed)
        kith_metrics_sample(out, name, (const char *)labels.data, value);
    kith_buf_fini(&labels);
}

/* Over all nodes, each with as many queries as its mean is about; once for each kind. */
static void recall_sums(struct kith_buf *out, const char *name, const struct metrics_row *row,
                        bool count)
{
    for (size_t i = 0; i < row->n_recalls; i++) {
        double weight = 0, sum = 0, queries = 0;
        bool told = false;
        for (size_t j = 0; j < row->n_recalls; j++) {
            const struct kith_msg_info_recall *seen = &row->recalls[j].seen;
            if (!same_kind(seen, &row->recalls[i].seen))
                continue;
            told = told || j < i;
            double n = (double)(seen->queries < RECALL_OVER ? seen->queries : RECALL_OVER);
            weight += n;
            sum += n * (double)seen->recall;
            queries += (double)seen->queries;
        }
        if (!told && weight > 0)
            recall_sample(out, name, row, &row->recalls[i], false, count ? queries : sum / weight);
    }
}

static void write_recalls(const struct metrics_plan *plan, struct kith_buf *out)
{
    const char *all = "recall_at_k", *one = "kith_node_recall_at_k";
    const char *queries = "kith_recall_queries_total";
    kith_metrics_family(out, all, "gauge",
                        "Share of the nearest points that queries found of late.");
    for (uint32_t i = 0; i < plan->n_rows; i++)
        recall_sums(out, all, &plan->rows[i], false);
    kith_metrics_family(out, one, "gauge", "The same, of one node.");
    for (uint32_t i = 0; i < plan->n_rows; i++)
        for (size_t j = 0; j < plan->rows[i].n_recalls; j++)
            recall_sample(out, one, &plan->rows[i], &plan->rows[i].recalls[j], true,
                          (double)plan->rows[i].recalls[j].seen.recall);
    kith_metrics_family(out, queries, "counter", "Queries compared with an exact search.");
    for (uint32_t i = 0; i < plan->n_rows; i++)
        recall_sums(out, queries, &plan->rows[i], true);
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

static void write_result(struct request *req, struct kith_json_writer *w)
{
    struct kith_buf *out = w->buf;
    struct topology_status status;
    topology_status(server_topology(req->server), &status);
    kith_buf_text(out, "# HELP app_info name and version\n# TYPE app_info gauge\n"
                       "app_info{name=\"kith\",version=\"" KITH_VERSION "\"} 1\n");
    gauge(out, "collections_total", "collections", status.n_collections);
    gauge(out, "cluster_enabled", "whether this is a cluster", server_clustered(req->server));
    gauge(out, "cluster_peers_total", "nodes known", status.n_nodes);
    gauge(out, "kith_nodes_ready", "nodes ready", status.n_nodes_ready);
    gauge(out, "kith_slices_unplaced", "slices nobody holds", status.n_slices_unplaced);
    gauge(out, "kith_registry_connected", "whether the registry is there", status.connected);
    write_collections(req, out);
    write_recalls(plan_of(req), out);
    http_stats_write(server_stats(req->server), out);
    write_gateway(req, out);
    write_cache(req, out);
    gauge(out, "memory_resident_bytes", "resident memory of this process", resident_bytes());
    gauge(out, "process_open_fds", "open file descriptors", open_fds());
    if (server_metrics(req->server))
        kith_metrics_render(server_metrics(req->server), out);
}

static void fini(struct request *req)
{
    struct metrics_plan *plan = plan_of(req);
    req->collection = NULL; /* one of the rows' */
    for (uint32_t i = 0; plan->rows && i < plan->n_rows; i++)
        topology_unref(plan->rows[i].collection);
}

static const struct work metrics_work = {
    .name = "metrics", .start = start, .write_result = write_result, .fini = fini};

enum kith_err plan_metrics_metrics(struct request *req, struct kith_diag *diag)
{
    req->plan = kith_arena_alloc(req->arena, sizeof(struct metrics_plan));
    if (!req->plan)
        return kith_fail(diag, KITH_NOMEM, "request: out of memory");
    req->work = &metrics_work;
    req->bare = true;
    req->content_type = "text/plain; version=0.0.4";
    return KITH_OK;
}
