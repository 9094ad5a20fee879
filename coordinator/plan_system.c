/* What is about the process: who it is and whether it is well. */
#include <inttypes.h>
#include <stdio.h>

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
