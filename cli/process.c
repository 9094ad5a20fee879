#include "cli/process.h"

#include <inttypes.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "cli/identity.h"
#include "cli/member.h"
#include "cli/metrics_port.h"
#include "common/kith_keys.h"
#include "common/kith_log.h"
#include "common/kith_mem.h"
#include "common/kith_metrics.h"
#include "common/kith_realtime.h"
#include "common/kith_thread.h"
#include "coordinator/cluster/leader.h"
#include "coordinator/server.h"
#include "shard/index/faiss_build.h"

/* Order matters twice. Opening: what serves comes last, so that nothing is asked before it can
 * answer. Closing: first no new requests and an answer for those in hand (drain), then everything
 * that can still call back ends - connections, the registry's transactions, the node, the pool -
 * and only then is what they would call freed. All that happens after the loop's last turn. */

#define DRAIN_MS (KITH_CLOSE_GRACE_MS / 2) /* the other half closes the slices */

struct process {
    enum kith_config_role role;
    struct kith_config config;
    uint64_t self;
    int exit_status;
    bool stopping;
    bool announced;
    bool member_ready;
    char listen_url[320]; /* the member opens its node later: it must outlive open_member */
    char *advertise_url;  /* NULL = as bound */

    struct kith_loop *loop;
    struct kith_metrics *metrics;
    struct kith_pool *pool;
    struct kith_registry *registry;
    struct member *member;
    struct topology *topology;
    struct leader *leader;
    struct server *server;
    struct metrics_port *metrics_port; /* NULL: none */
};

static bool has_http(const struct process *process)
{
    return process->role != KITH_CONFIG_SHARD;
}

static bool has_node(const struct process *process)
{
    return process->role != KITH_CONFIG_COORDINATOR;
}

static void say(const struct kith_diag *diag, enum kith_err err)
{
    fprintf(stderr, "kith: %s\n", diag->text[0] ? diag->text : kith_err_text(err));
}

/* ---- ready ----------------------------------------------------------------------------------- */

static bool is_ready(const struct process *process)
{
    if (has_node(process) && !process->member_ready) {
        return false;
    }
    if (!has_http(process)) {
        return true;
    }
    struct topology_status status;
    topology_status(process->topology, &status);
    if (process->role == KITH_CONFIG_COORDINATOR) {
        return status.synced && status.cluster;
    }
    return status.ready && status.leading && status.n_nodes_ready > 0;
}

static void check_ready(void *ctx)
{
    struct process *process = ctx;
    if (process->announced || process->stopping || !is_ready(process)) {
        return;
    }
    process->announced = true;
    if (has_http(process)) {
        printf("kith is ready: %s\n", server_url(process->server));
    } else {
        printf("kith shard is ready: %s\n", member_url(process->member));
        if (process->metrics_port) {
            printf("metrics: %s\n", metrics_port_url(process->metrics_port));
        }
    }
    fflush(stdout);
}

static void on_member_ready(void *ctx)
{
    struct process *process = ctx;
    process->member_ready = true;
    check_ready(process);
}

/* ---- stopping -------------------------------------------------------------------------------- */

static void on_drained(void *ctx)
{
    struct process *process = ctx;
    kith_loop_stop(process->loop);
}

static void stop(struct process *process, int exit_status)
{
    if (process->stopping) {
        return;
    }
    process->stopping = true;
    process->exit_status = exit_status;
    if (process->server) {
        server_drain(process->server, DRAIN_MS, on_drained, process);
    } else {
        kith_loop_stop(process->loop);
    }
}

static void on_signal(void *ctx)
{
    kith_log(INFO, "process.stopping", "after a signal");
    stop(ctx, 0);
}

static void on_member_failed(void *ctx, enum kith_err err, const struct kith_diag *diag)
{
    say(diag, err);
    stop(ctx, 1);
}

/* ---- opening --------------------------------------------------------------------------------- */

static enum kith_err open_registry(struct process *process, struct kith_diag *diag)
{
    char path[4096];
    const struct kith_config *config = &process->config;
    if (process->role == KITH_CONFIG_UP) {
        snprintf(path, sizeof path, "%.4000s/registry", config->data);
        return kith_registry_open_file(&process->registry, process->loop, path, diag);
    }
    snprintf(path, sizeof path, "/kith/%.64s/", config->cluster);
    return kith_registry_open_etcd(&process->registry, process->loop, config->etcd, path, diag);
}

static enum kith_err open_member(struct process *process, struct kith_diag *diag)
{
    char advertise[320];
    const struct kith_config *config = &process->config;
    if (process->role == KITH_CONFIG_UP) {
        snprintf(process->listen_url, sizeof process->listen_url, "inproc://kith-%016" PRIx64,
                 process->self);
    } else {
        snprintf(process->listen_url, sizeof process->listen_url, "tcp://%.300s", config->listen);
        snprintf(advertise, sizeof advertise, "tcp://%.300s", config->advertise);
        if (config->advertise[0]) {
            process->advertise_url = kith_strdup(advertise);
            if (!process->advertise_url) {
                return kith_fail(diag, KITH_NOMEM, "out of memory");
            }
        }
    }
    const struct member_cfg cfg = {
        .loop = process->loop,
        .registry = process->registry,
        .metrics = process->metrics,
        .data_dir = config->data,
        .listen_url = process->listen_url,
        .advertise_url = process->advertise_url,
        .name = config->node_name,
        .threads = (uint32_t)config->threads,
        .memory_lock_bytes = config->memory_lock_mib << 20,
        .recall_one_in = (uint32_t)config->recall_one_in,
        .ready = on_member_ready,
        .failed = on_member_failed,
        .ctx = process,
    };
    return member_open(&process->member, &cfg, diag);
}

static enum kith_err open_http(struct process *process, struct kith_diag *diag)
{
    const struct kith_config *config = &process->config;
    const bool up = process->role == KITH_CONFIG_UP;
    const struct topology_cfg topology = {
        .loop = process->loop,
        .registry = process->registry,
        .self = process->self,
        .default_slices = config->default_slices ? (uint32_t)config->default_slices : up,
    };
    const struct server_cfg server = {
        .listen = config->listen,
        .encoders_dir = config->encoders[0] ? config->encoders : NULL,
        .metrics = process->metrics,
        .clustered = !up,
        .check_factory = faiss_build_check,
    };
    enum kith_err err = kith_pool_open_ahead(&process->pool, (uint32_t)config->threads, diag);
    if (err) {
        return err;
    }
    err = topology_open(&process->topology, &topology, diag);
    if (err) {
        return err;
    }
    struct server_cfg with_parts = server;
    with_parts.topology = process->topology;
    with_parts.pool = process->pool;
    err = server_open(&process->server, process->loop, &with_parts, diag);
    if (err) {
        return err;
    }
    char url[320];
    snprintf(url, sizeof url, "http://%.300s", config->advertise);
    const struct leader_cfg leader = {
        .loop = process->loop,
        .registry = process->registry,
        .topology = process->topology,
        .self = process->self,
        .http_url = config->advertise[0] ? url : server_url(process->server),
    };
    return leader_open(&process->leader, &leader, diag);
}

static enum kith_err open_parts(struct process *process, struct kith_diag *diag)
{
    struct identity identity;
    enum kith_err err = KITH_OK;
    if (has_node(process)) {
        err = identity_load(&identity, process->config.data, diag); /* makes the folder */
    }
    err = err ? err : kith_loop_open(&process->loop, diag);
    err = err ? err : kith_loop_on_signals(process->loop, on_signal, process);
    err = err ? err : kith_metrics_new(&process->metrics, diag);
    err = err ? err : open_registry(process, diag);
    if (!err && has_node(process)) {
        err = open_member(process, diag);
    }
    if (!err && has_http(process)) {
        err = open_http(process, diag);
    }
    if (!err && process->config.metrics[0]) {
        err = metrics_port_open(&process->metrics_port, process->loop, process->metrics,
                                process->config.metrics, diag);
    }
    if (!err) {
        kith_registry_listen(process->registry, check_ready, process);
    }
    return err;
}

static void close_parts(struct process *process)
{
    topology_close(process->topology);
    metrics_port_close(process->metrics_port); /* reads the node's numbers */
    kith_registry_close(process->registry);
    leader_close(process->leader);
    member_close(process->member);
    kith_pool_close(process->pool);
    server_close(process->server);
    kith_metrics_free(process->metrics);
    if (process->loop) {
        kith_loop_close(process->loop);
    }
    kith_free(process->advertise_url);
    kith_config_fini(&process->config);
}

/* ---- the verb -------------------------------------------------------------------------------- */

static void help(enum kith_config_role role, const char *verb)
{
    struct kith_config_key keys[32];
    const size_t n = kith_config_keys(role, keys, 32);
    printf("usage: kith %s [options]\n\n", verb);
    for (size_t i = 0; i < n; i++) {
        char flag[64];
        snprintf(flag, sizeof flag, "--%s %s", keys[i].name, keys[i].value);
        for (char *c = flag; *c && *c != ' '; c++) {
            *c = *c == '_' ? '-' : *c;
        }
        printf("  %-28s %s%s%s%s\n", flag, keys[i].text, keys[i].fallback[0] ? " [" : "",
               keys[i].fallback, keys[i].fallback[0] ? "]" : "");
    }
    printf("  %-28s %s\n  %-28s %s\n\n", "--config FILE",
           "read these keys from a YAML file (listen: ..., node_name: ...)", "--help", "this text");
    printf("Each key can also come from the environment (KITH_LISTEN, KITH_NODE_NAME...).\n"
           "A flag goes before the environment, the environment before the file.\n");
}

static void set_log_level(const char *name)
{
    static const char *const names[] = {"debug", "info", "warn", "error"};
    for (int i = 0; i < 4; i++) {
        if (strcmp(name, names[i]) == 0) {
            kith_log_level_min((enum kith_log_level)i);
        }
    }
}

int process_run(enum kith_config_role role, int argc, char **argv)
{
    struct kith_diag diag = {0};
    struct process process = {.role = role, .self = kith_keys_random_id()};
    enum kith_err err = kith_config_read(&process.config, role, argc - 1, argv + 1, environ, &diag);
    if (err || process.config.help) {
        if (err) {
            say(&diag, err);
        } else {
            help(role, argv[0]);
        }
        kith_config_fini(&process.config);
        return err ? 2 : 0;
    }
    set_log_level(process.config.log_level);
    if (process.config.no_realtime)
        kith_realtime_refuse();
    signal(SIGPIPE, SIG_IGN);
    err = open_parts(&process, &diag);
    if (err) {
        say(&diag, err);
        process.exit_status = 1;
    } else {
        kith_thread_ahead();
        kith_loop_run(process.loop);
        kith_realtime_leave(); /* closing waits for threads actively */
    }
    close_parts(&process);
    return process.exit_status;
}
