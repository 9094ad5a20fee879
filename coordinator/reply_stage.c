/* The answer: {"result": ..., "status": "ok", "time": s}, with coverage beside it when asked for or
 * incomplete. */
#include <string.h>

#include "common/kith_arena.h"
#include "common/kith_clock.h"
#include "common/kith_log.h"
#include "coordinator/http_stats.h"
#include "coordinator/pipeline.h"
#include "coordinator/routes.h"
#include "coordinator/server.h"

static uint64_t took_ns(const struct request *req)
{
    return kith_now_ns() - req->http->start_ns;
}

static void count(struct request *req, int status)
{
    uint32_t route = req->route ? routes_index(req->route) : routes_count();
    http_stats_add(server_stats(req->server), route, status, took_ns(req));
}

/* What lives in the arena goes with the reply; what it holds must go before. */
static void release(struct request *req)
{
    if (req->work && req->work->fini)
        req->work->fini(req);
    scatter_fini(&req->scatter);
}

static void write_coverage(const struct coverage *coverage, struct kith_json_writer *w)
{
    kith_jw_key(w, "coverage");
    kith_jw_begin_object(w);
    kith_jw_key(w, "complete");
    kith_jw_bool(w, coverage->ok == coverage->total);
    kith_jw_key(w, "slices");
    kith_jw_begin_object(w);
    kith_jw_key(w, "total");
    kith_jw_u64(w, coverage->total);
    kith_jw_key(w, "ok");
    kith_jw_u64(w, coverage->ok);
    kith_jw_key(w, "timed_out");
    kith_jw_u64(w, coverage->timed_out);
    kith_jw_key(w, "failed");
    kith_jw_u64(w, coverage->failed);
    kith_jw_end_object(w);
    kith_jw_key(w, "points");
    kith_jw_begin_object(w);
    kith_jw_key(w, "searched");
    kith_jw_u64(w, coverage->points_searched);
    kith_jw_key(w, "total");
    if (coverage->points_known)
        kith_jw_u64(w, coverage->points_total);
    else
        kith_jw_null(w);
    kith_jw_end_object(w);
    kith_jw_end_object(w);
}

enum step reply_stage_run(struct request *req)
{
    struct kith_json_writer w = {.buf = &req->out};
    static const struct gateway_pair incomplete = {"X-Search-Complete", "false"};
    if (req->bare) {
        req->work->write_result(req, &w);
    } else {
        kith_jw_begin_object(&w);
        kith_jw_key(&w, "result");
        req->work->write_result(req, &w);
        kith_jw_key(&w, "status");
        kith_jw_cstr(&w, "ok");
        kith_jw_key(&w, "time");
        kith_jw_f64(&w, (double)(took_ns(req) / 1000u) / 1e6);
        if (req->want_coverage || req->coverage.partial)
            write_coverage(&req->coverage, &w);
        if (req->work->write_beside)
            req->work->write_beside(req, &w);
        kith_jw_end_object(&w);
    }
    int status = req->status ? req->status : 200;
    count(req, req->out.failed ? 503 : status);
    release(req);
    gateway_reply(req->http, status, req->content_type, &req->out, &incomplete,
                  req->coverage.partial ? 1 : 0);
    req->http = NULL;
    return STEP_NEXT;
}

/* A 405 tells what would be allowed. */
static void reply_method(struct request *req)
{
    struct kith_json_writer w = {.buf = &req->out};
    const struct gateway_pair allow = {"Allow", req->allow ? req->allow : "GET"};
    kith_jw_begin_object(&w);
    kith_jw_key(&w, "status");
    kith_jw_begin_object(&w);
    kith_jw_key(&w, "error");
    kith_jw_cstr(&w, req->diag.text);
    kith_jw_end_object(&w);
    kith_jw_key(&w, "time");
    kith_jw_f64(&w, (double)(took_ns(req) / 1000u) / 1e6);
    kith_jw_end_object(&w);
    gateway_reply(req->http, kith_err_http(KITH_METHOD), NULL, &req->out, &allow, 1);
}

void reply_stage_fail(struct request *req)
{
    kith_assert(req->err != KITH_OK);
    count(req, kith_err_http(req->err));
    const char *text = req->diag.text[0] ? req->diag.text : kith_err_text(req->err);
    if (req->err == KITH_INTERNAL || req->err == KITH_CORRUPT || req->err == KITH_IO)
        kith_log(WARN, "request.failed", "request=%llu path=%s error=%s",
                 (unsigned long long)req->http->id, req->http->path, text);
    release(req);
    if (req->err == KITH_METHOD)
        reply_method(req);
    else
        gateway_reply_error(req->http, req->err, text);
    req->http = NULL;
}
