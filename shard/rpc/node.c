#include "shard/rpc/node.h"

#include <stdatomic.h>

#include "common/kith_log.h"
#include "common/kith_mem.h"
#include "shard/query/select.h"
#include "shard/rpc/index_trainer.h"
#include "shard/rpc/memory_lock.h"
#include "shard/rpc/prefault.h"
#include "shard/rpc/recall_probe.h"
#include "shard/rpc/rpc.h"
#include "shard/storage/scrub.h"

struct node {
    /* Immutable after open. */
    struct io *io;
    struct rpc_env env;
    struct collection_indexes *indexes;
    struct node_peers *peers; /* NULL: it is alone */
    struct index_trainer *trainer;
    struct kith_net_server *server;
    struct scrub *scrub;
    struct prefault prefault; /* of the admin worker; its numbers and its end: any thread */
    void (*on_ready)(void *ctx);
    void *on_ready_ctx;
    /* Set by the admin worker; relaxed: it says "no more waiting", and publishes nothing. */
    atomic_bool ready;
};

static void warm(void *ctx)
{
    struct node *node = ctx;
    slice_table_warm(node->env.slices, node->env.workers);
    prefault_run(&node->prefault);
    struct slice_table_counts counts;
    slice_table_counts(node->env.slices, &counts);
    kith_log(INFO, "node.ready", "slices=%u open=%u failed=%u index_mib=%llu", counts.slices,
             counts.open, counts.failed,
             (unsigned long long)(atomic_load_explicit(&node->prefault.bytes_done,
                                                       memory_order_relaxed) >>
                                  20));
    scrub_wake(node->scrub);
    atomic_store_explicit(&node->ready, true, memory_order_relaxed);
    if (node->on_ready != NULL)
        node->on_ready(node->on_ready_ctx);
}

static bool add_stats(void *ctx, const struct slice_config *config, struct store *store)
{
    struct node_counts *counts = ctx;
    struct store_stats stats;
    (void)config;
    store_stats(store, &stats);
    counts->points += stats.live_points;
    counts->segment_bytes += stats.segment_bytes;
    counts->wal_bytes += stats.wal_bytes;
    counts->head_bytes += stats.head_bytes;
    counts->fsyncs += stats.fsyncs;
    counts->writes += stats.writes;
    counts->paused_ns += stats.paused_ns;
    for (enum store_cause cause = 0; cause < STORE_CAUSES; cause++)
        counts->written[cause] += stats.written[cause];
    counts->segments_quarantined += stats.quarantined;
    if (stats.pause_ns_max > counts->pause_ns_max)
        counts->pause_ns_max = stats.pause_ns_max;
    if (stats.sync_ns_max > counts->sync_ns_max)
        counts->sync_ns_max = stats.sync_ns_max;
    return true;
}

void node_counts(struct node *node, struct node_counts *out)
{
    struct slice_table_counts slices;
    slice_table_counts(node->env.slices, &slices);
    *out = (struct node_counts){.slices = slices.slices,
                                .slices_open = slices.open,
                                .slices_warming = slices.warming,
                                .slices_failed = slices.failed,
                                .tasks_waiting = kith_pool_waiting(node->env.workers)};
    slice_table_each(node->env.slices, add_stats, out);
}

static void one(struct kith_buf *out, const char *name, const char *kind, const char *help,
                double value)
{
    kith_metrics_family(out, name, kind, help);
    kith_metrics_sample(out, name, "", value);
}

static void collect_searches(const struct node *node, struct kith_buf *out)
{
    struct search_stats stats;
    search_context_stats(node->env.search, &stats);
    const char *queries = "kith_search_queries_total", *rows = "kith_search_rows_total";
    const char *filters = "kith_filter_cache_total";
    kith_metrics_family(out, queries, "counter", "Queries run by this node, by plan.");
    for (int i = 0; i < SEARCH_PLANS; i++) {
        char text[64] = "";
        struct kith_buf label = {
            .data = (uint8_t *)text, .cap = sizeof text - 1, .limit = sizeof text - 1};
        kith_metrics_label(&label, "plan", search_plan_name((enum search_plan)i));
        kith_metrics_sample(out, queries, text, (double)stats.queries[i]);
    }
    one(out, "kith_search_fell_back_total", "counter",
        "Queries whose index gave too little, done again exactly.", (double)stats.fell_back);
    kith_metrics_family(out, rows, "counter", "Rows looked at by searches, by what was read.");
    kith_metrics_sample(out, rows, "read=\"rows\"", (double)(stats.rows + stats.lists.exact));
    kith_metrics_sample(out, rows, "read=\"codes\"", (double)stats.lists.rows);
    kith_metrics_sample(out, rows, "read=\"bytes\"", (double)stats.lists.reranked);
    kith_metrics_family(out, filters, "counter", "Filters asked of segments and heads, by answer.");
    kith_metrics_sample(out, filters, "answer=\"kept\"", (double)stats.filters.hits);
    kith_metrics_sample(out, filters, "answer=\"made\"", (double)stats.filters.misses);
    one(out, "kith_filter_cache_bytes", "gauge", "Memory of kept answers of filters.",
        (double)stats.filters.bytes);
}

static void collect(void *ctx, struct kith_buf *out)
{
    struct node_counts counts;
    node_counts(ctx, &counts);
    collect_searches(ctx, out);
    const char *slices = "kith_shard_slices";
    kith_metrics_family(out, slices, "gauge", "Slices on this node, by state.");
    kith_metrics_sample(out, slices, "state=\"open\"", counts.slices_open);
    kith_metrics_sample(out, slices, "state=\"warming\"", counts.slices_warming);
    kith_metrics_sample(out, slices, "state=\"failed\"", counts.slices_failed);
    const char *bytes = "kith_shard_bytes";
    kith_metrics_family(out, bytes, "gauge", "Bytes of this node's slices, by place.");
    kith_metrics_sample(out, bytes, "place=\"segments\"", (double)counts.segment_bytes);
    kith_metrics_sample(out, bytes, "place=\"wal\"", (double)counts.wal_bytes);
    kith_metrics_sample(out, bytes, "place=\"head\"", (double)counts.head_bytes);
    const char *written = "kith_shard_written_bytes";
    kith_metrics_family(out, written, "gauge",
                        "Bytes that the open slices wrote since they were opened, by cause.");
    for (enum store_cause cause = 0; cause < STORE_CAUSES; cause++) {
        char text[64] = "";
        struct kith_buf label = {
            .data = (uint8_t *)text, .cap = sizeof text - 1, .limit = sizeof text - 1};
        kith_metrics_label(&label, "cause", store_cause_name(cause));
        kith_metrics_sample(out, written, text, (double)counts.written[cause]);
    }
    const char *prefault = "kith_shard_prefault_bytes";
    const struct prefault *read_in = &((struct node *)ctx)->prefault;
    kith_metrics_family(out, prefault, "gauge",
                        "Bytes of indexes to be read in before the node is ready, and done.");
    kith_metrics_sample(out, prefault, "what=\"all\"",
                        (double)atomic_load_explicit(&read_in->bytes_total, memory_order_relaxed));
    kith_metrics_sample(out, prefault, "what=\"done\"",
                        (double)atomic_load_explicit(&read_in->bytes_done, memory_order_relaxed));
    one(out, "kith_shard_points", "gauge", "Live points on this node.", (double)counts.points);
    one(out, "kith_shard_tasks_waiting", "gauge", "Requests waiting for a worker.",
        counts.tasks_waiting);
    struct scrub_stats scrubbed;
    scrub_stats(((struct node *)ctx)->scrub, &scrubbed);
    one(out, "kith_shard_segments_quarantined", "gauge",
        "Damaged segments; their slices answer with an error.",
        (double)counts.segments_quarantined);
    one(out, "kith_shard_scrub_rounds", "gauge", "Rounds of the scrubber.",
        (double)scrubbed.rounds);
    one(out, "kith_shard_scrub_bytes", "gauge", "Bytes read by the scrubber.",
        (double)scrubbed.bytes);
    one(out, "kith_shard_scrub_damaged", "gauge", "Files the scrubber found damaged.",
        (double)scrubbed.damaged);
    one(out, "kith_shard_writer_pause_seconds_max", "gauge",
        "The longest that a seal, merge or checkpoint kept a slice's writer.",
        (double)counts.pause_ns_max / 1e9);
    one(out, "kith_shard_write_paused_seconds", "gauge",
        "Time the writers of the open slices waited for seals and merges to catch up.",
        (double)counts.paused_ns / 1e9);
    one(out, "kith_shard_writer_sync_seconds_max", "gauge",
        "The longest write and sync of a group of writes.", (double)counts.sync_ns_max / 1e9);
    one(out, "kith_shard_fsyncs", "gauge", "fdatasync calls of the open slices' logs.",
        (double)counts.fsyncs);
    one(out, "kith_shard_writes", "gauge", "Writes applied by the open slices.",
        (double)counts.writes);
}

struct visit {
    scrub_store_fn fn;
    void *ctx;
};

static bool visit_slice(void *ctx, const struct slice_config *config, struct store *store)
{
    const struct visit *visit = ctx;
    (void)config;
    return visit->fn(visit->ctx, store);
}

static void each_store(void *owner, scrub_store_fn fn, void *ctx)
{
    struct visit visit = {fn, ctx};
    slice_table_each(owner, visit_slice, &visit);
}

static enum kith_err open_slices(struct node *node, const struct node_options *options,
                                 struct kith_diag *diag)
{
    struct rpc_env *env = &node->env;
    /* Half of the CPUs for what can wait. */
    uint32_t threads = (kith_pool_threads(env->workers) + 1) / 2;
    enum kith_err err =
        collection_indexes_open(&node->indexes, options->index_min_rows, threads, diag);
    struct slice_table_options slices = {
        .io = node->io,
        .select = select_ids,
        .indexes = node->indexes,
        .head_rows_max = options->head_rows_max,
    };
    if (err == KITH_OK)
        err = slice_table_open(&env->slices, &slices, diag);
    env->indexes = node->indexes;
    if (err == KITH_OK && options->mapped)
        err = node_peers_open(&node->peers, options->cluster, diag);
    struct index_trainer_options trainer = {
        .slices = env->slices, .indexes = node->indexes, .peers = node->peers, .threads = threads};
    struct memory_lock_options memory = {
        .slices = env->slices, .budget_bytes = options->memory_lock_bytes, .background = true};
    struct recall_probe_options recall = {
        .env = env, .one_in = options->recall_one_in, .background = true};
    if (err == KITH_OK)
        err = memory_lock_open(&env->memory, &memory, diag);
    if (err == KITH_OK)
        err = recall_probe_open(&env->recall, &recall, diag);
    return err == KITH_OK ? index_trainer_open(&node->trainer, &trainer, diag) : err;
}

enum kith_err node_open(struct node **out, const struct node_options *options,
                        struct kith_diag *diag)
{
    struct node *node = kith_alloc(sizeof *node);
    if (node == NULL)
        return kith_fail(diag, KITH_NOMEM, "no memory for a shard node");
    struct rpc_env *env = &node->env;
    env->cluster = options->cluster;
    rpc_measure(env, options->metrics);
    node->on_ready = options->on_ready;
    node->on_ready_ctx = options->on_ready_ctx;
    enum kith_err err = io_real_open(&node->io, options->data_dir, diag);
    if (err == KITH_OK)
        err = io_real_reserve(node->io, KITH_DISK_RESERVE, diag);
    if (err == KITH_OK)
        err = kith_pool_open_ahead(&env->workers, options->threads, diag);
    if (err == KITH_OK)
        err = kith_pool_open(&env->admin, 1, diag);
    if (err == KITH_OK)
        err = search_context_open(&env->search, env->workers, diag);
    if (err == KITH_OK)
        err = open_slices(node, options, diag);
    if (err == KITH_OK)
        node->prefault.slices = env->slices;
    if (err == KITH_OK)
        err = scrub_open(
            &node->scrub,
            &(struct scrub_options){.each = each_store, .owner = env->slices, .background = true},
            diag);
    if (err == KITH_OK)
        err = kith_net_listen(&node->server, options->listen_url, rpc_serve, env, diag);
    if (err == KITH_OK)
        err = kith_pool_submit(env->admin, warm, node);
    if (err != KITH_OK) {
        node_close(node);
        return err;
    }
    if (env->metrics != NULL)
        kith_metrics_collect(env->metrics, collect, node);
    *out = node;
    return KITH_OK;
}

void node_close(struct node *node)
{
    if (node == NULL)
        return;
    struct rpc_env *env = &node->env;
    prefault_stop(&node->prefault);
    if (env->slices != NULL)
        slice_table_hurry(env->slices);
    kith_net_server_close(node->server); /* waits for the calls, so first */
    recall_probe_close(env->recall);     /* has views */
    index_trainer_close(node->trainer);
    node_peers_close(node->peers);
    kith_pool_close(env->admin);
    if (env->metrics != NULL)
        kith_metrics_uncollect(env->metrics, collect, node);
    search_context_close(env->search);
    kith_pool_close(env->workers);
    scrub_close(node->scrub);
    memory_lock_close(env->memory);
    slice_table_close(env->slices);
    collection_indexes_close(node->indexes);
    if (node->io != NULL)
        io_real_close(node->io);
    kith_free(node);
}

enum kith_err node_set_map(struct node *node, const struct node_map *map, struct kith_diag *diag)
{
    return node->peers != NULL ? node_peers_set(node->peers, map, diag) : KITH_OK;
}

const char *node_url(const struct node *node)
{
    return kith_net_server_url(node->server);
}

bool node_ready(struct node *node)
{
    return atomic_load_explicit(&node->ready, memory_order_relaxed);
}
