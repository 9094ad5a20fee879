/* From the bytes of a request to its plan. The route and the collection are found on the loop; the
 * body is parsed and planned there too when it is small, else in the pool: a plan is pure, and a
 * body of megabytes would hold up every other request for as long as it takes to read. */
#include <stdlib.h>
#include <string.h>

#include "common/kith_arena.h"
#include "common/kith_clock.h"
#include "common/kith_pool.h"
#include "common/kith_thread.h"
#include "coordinator/pipeline.h"
#include "coordinator/routes.h"
#include "coordinator/server.h"

/* About 0.1 ms of parsing. */
#define PLAN_INLINE_BYTES_MAX (32u * 1024)

static enum kith_err find_route(struct request *req)
{
    const struct gateway_request *http = req->http;
    char allow[ROUTES_ALLOW_BYTES];
    enum kith_err err = routes_find(http->method, (const char *const *)http->segments,
                                    http->segments_n, &req->route, allow);
    if (err == KITH_METHOD) {
        req->allow = kith_arena_text(req->arena, allow, strlen(allow));
        return kith_fail(&req->diag, err, "%s is not allowed here; try %s",
                         gateway_method_name(http->method), allow);
    }
    if (err)
        return kith_fail(&req->diag, err, "there is nothing at %.200s", http->path);
    return KITH_OK;
}

static enum kith_err find_collection(struct request *req)
{
    /* A coordinator that has not seen the registry yet knows of no collection, not that there is
     * none: 404 or an empty list would be a wrong answer. */
    const char *const *segments = (const char *const *)req->http->segments;
    uint32_t n = req->http->segments_n;
    if (n > 0 && strcmp(segments[0], "v1") == 0) { /* Kith's own verbs: the same words below */
        segments++;
        n--;
    }
    if (n > 0 && strcmp(segments[0], "collections") == 0 &&
        !topology_synced(server_topology(req->server)))
        return kith_fail(&req->diag, KITH_UNAVAILABLE,
                         "the registry has not been reached since this coordinator started");
    if (!req->route->needs_collection)
        return KITH_OK;
    const char *name = segments[1];
    struct topology_collection *found = topology_find(server_topology(req->server), name);
    if (!found)
        return kith_fail(&req->diag, KITH_NOT_FOUND, "there is no collection `%.64s`", name);
    req->collection = topology_ref(found);
    req->target = (struct plan_target){
        .name = found->name,
        .dim = found->dim,
        .metric = found->metric,
        .vector_name = found->vector_name,
        .has_encoder = found->encoder != NULL,
        .n_slices = found->n_slices,
    };
    return KITH_OK;
}

static enum kith_err read_query(struct request *req)
{
    const char *wait = gateway_query(req->http, "wait");
    const char *timeout = gateway_query(req->http, "timeout");
    if (wait && strcmp(wait, "true") != 0 && strcmp(wait, "false") != 0)
        return kith_fail(&req->diag, KITH_BAD_REQUEST, "wait: expected true or false");
    req->wait = wait && strcmp(wait, "true") == 0;
    if (!timeout)
        return KITH_OK;
    char *end;
    unsigned long seconds = strtoul(timeout, &end, 10);
    if (*timeout < '0' || *timeout > '9' || *end || seconds == 0)
        return kith_fail(&req->diag, KITH_BAD_REQUEST, "timeout: expected seconds, at least 1");
    req->timeout_ms =
        seconds > KITH_DEADLINE_MAX_MS / 1000 ? KITH_DEADLINE_MAX_MS : (uint32_t)seconds * 1000;
    return KITH_OK;
}

static enum kith_err read_body(struct request *req)
{
    const struct gateway_request *http = req->http;
    if (!req->route->takes_body || http->body_bytes == 0)
        return KITH_OK;
    uint64_t start_ns = kith_now_ns();
    enum kith_err err = kith_json_open(&req->doc, http->body, http->body_bytes, &req->diag);
    req->parse_ns = kith_now_ns() - start_ns;
    if (err)
        return err;
    req->body = kith_json_root(req->doc);
    req->has_body = true;
    return KITH_OK;
}

static void make_plan(struct request *req)
{
    req->err = read_body(req);
    if (!req->err)
        req->err = req->route->plan(req, &req->diag);
}

static void set_deadline(struct request *req)
{
    if (req->timeout_ms)
        req->http->deadline_ms = req->http->start_ns / 1000000u + req->timeout_ms;
}

static void on_planned(void *ctx)
{
    struct request *req = ctx;
    req->in_pool = false;
    set_deadline(req);
    pipeline_resume(req);
}

static void plan_in_pool(void *ctx)
{
    struct request *req = ctx;
    kith_thread_bulk(); /* a body this large is points to be stored, as a rule */
    make_plan(req);
    kith_thread_ahead();
    kith_loop_post(server_loop(req->server), &req->letter);
}

enum step plan_stage_run(struct request *req)
{
    req->err = find_route(req);
    if (!req->err)
        req->err = find_collection(req);
    if (!req->err)
        req->err = read_query(req);
    if (req->err)
        return STEP_FAIL;
    if (req->route->takes_body && req->http->body_bytes > PLAN_INLINE_BYTES_MAX) {
        req->letter = (struct kith_letter){.fn = on_planned, .ctx = req};
        req->in_pool = true;
        if (kith_pool_submit(server_pool(req->server), plan_in_pool, req) == KITH_OK)
            return STEP_WAIT;
        req->in_pool = false;
        req->err = kith_fail(&req->diag, KITH_BUSY, "too many requests are being read");
        return STEP_FAIL;
    }
    make_plan(req);
    set_deadline(req);
    return req->err ? STEP_FAIL : STEP_NEXT;
}
