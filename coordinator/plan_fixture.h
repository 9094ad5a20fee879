/* For tests and fuzzing: a request without a gateway, planned but never sent. */
#ifndef PLAN_FIXTURE_H
#define PLAN_FIXTURE_H

#include <stdio.h>
#include <string.h>

#include "common/kith_arena.h"
#include "common/kith_mem.h"
#include "coordinator/plan.h"
#include "coordinator/routes.h"

struct plan_fixture {
    struct gateway_request http;
    struct request req;
    char path[256];
    const char *segments[16];
    char *body;
};

static void plan_fixture_path(struct plan_fixture *f, const char *path)
{
    snprintf(f->path, sizeof(f->path), "%s", path);
    f->http.path = path;
    f->http.segments = f->segments;
    f->http.segments_n = 0;
    for (char *at = f->path; *at;) {
        while (*at == '/')
            *at++ = '\0';
        if (!*at)
            break;
        f->segments[f->http.segments_n++] = at;
        while (*at && *at != '/')
            at++;
    }
}

/* A collection `c` of dim 4, cosine, 3 slices. */
static enum kith_err plan_fixture_run(struct plan_fixture *f, enum gateway_method method,
                                      const char *path, const char *body, size_t body_bytes,
                                      const char *vector_name, bool has_encoder)
{
    *f = (struct plan_fixture){.path = ""};
    plan_fixture_path(f, path);
    f->http.method = method;
    struct request *req = &f->req;
    req->http = &f->http;
    req->arena = &f->http.arena;
    req->target = (struct plan_target){.name = "c",
                                       .dim = 4,
                                       .metric = KITH_COSINE,
                                       .vector_name = vector_name,
                                       .has_encoder = has_encoder,
                                       .n_slices = 3};
    char allow[ROUTES_ALLOW_BYTES];
    enum kith_err err = routes_find(method, f->segments, f->http.segments_n, &req->route, allow);
    if (err)
        return kith_fail(&req->diag, err, "route");
    f->body = kith_alloc(body_bytes + KITH_JSON_PADDING);
    if (!f->body)
        return kith_fail(&req->diag, KITH_NOMEM, "body");
    if (body_bytes)
        memcpy(f->body, body, body_bytes);
    if (req->route->takes_body && body_bytes) {
        err = kith_json_open(&req->doc, f->body, body_bytes, &req->diag);
        if (err)
            return err;
        req->body = kith_json_root(req->doc);
        req->has_body = true;
    }
    return req->route->plan(req, &req->diag);
}

static void plan_fixture_fini(struct plan_fixture *f)
{
    kith_json_close(f->req.doc);
    kith_buf_fini(&f->req.scratch);
    kith_free(f->body);
    kith_arena_fini(&f->http.arena);
}

#endif
