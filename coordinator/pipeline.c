/* gateway -> plan -> encode -> lookup -> scatter -> merge -> fetch -> reply.
 *
 * Stages share nothing but the request. Each runs on the loop and either ends at once or waits for
 * something (a pool task, nodes, the registry) that ends with pipeline_resume on the loop; so a
 * request has one owner at any moment, and is freed in one place. */
#include "coordinator/pipeline.h"

#include <stdio.h>

#include "common/kith_arena.h"
#include "common/kith_aside.h"
#include "common/kith_clock.h"
#include "common/kith_mem.h"
#include "coordinator/plan_query.h"
#include "coordinator/server.h"

static void on_round(struct request *req)
{
    pipeline_resume(req);
}

static enum step begin_round(struct request *req, const struct scatter_round *round,
                             bool (*wants)(struct request *req, uint32_t slice))
{
    req->err = scatter_begin(req, round, wants, on_round, &req->diag);
    if (req->err)
        return STEP_FAIL;
    return req->scatter.n_asks ? STEP_WAIT : STEP_NEXT;
}

static enum step start_run(struct request *req)
{
    if (!req->work->start)
        return STEP_NEXT;
    req->err = req->work->start(req, &req->diag);
    return req->err ? STEP_FAIL : STEP_WAIT;
}

static enum step scatter_run(struct request *req)
{
    return req->work->round ? begin_round(req, req->work->round, req->work->wants) : STEP_NEXT;
}

static enum step merge_run(struct request *req)
{
    if (req->work->round)
        req->err = scatter_judge(req, &req->diag);
    if (!req->err && req->work->merge)
        req->err = req->work->merge(req, &req->diag);
    return req->err ? STEP_FAIL : STEP_NEXT;
}

static enum step fetch_run(struct request *req)
{
    return req->work->fetch ? begin_round(req, req->work->fetch, req->work->fetch_wants)
                            : STEP_NEXT;
}

/* A payload that cannot be had makes the answer as incomplete as a slice that was not searched. */
static enum step fetched_run(struct request *req)
{
    if (!req->work->fetch || req->scatter.n_asks == 0)
        return STEP_NEXT;
    struct coverage searched = req->coverage;
    req->err = scatter_judge(req, &req->diag);
    bool partial = req->coverage.partial || searched.partial;
    req->coverage = searched;
    req->coverage.partial = partial;
    return req->err ? STEP_FAIL : STEP_NEXT;
}

static const struct {
    const char *name;
    enum step (*run)(struct request *req);
} stages[] = {
    {"plan", plan_stage_run},     {"start", start_run},     {"encode", encode_stage_run},
    {"lookup", lookup_stage_run}, {"scatter", scatter_run}, {"merge", merge_run},
    {"fetch", fetch_run},         {"fetched", fetched_run}, {"reply", reply_stage_run},
};
#define N_STAGES (sizeof(stages) / sizeof(stages[0]))
_Static_assert(N_STAGES + 2 <= PIPELINE_STATS_MAX, "a series each, and two more");

/* ---- where the time of a search goes --------------------------------------------------------- */

enum { STATS_RECEIVE = N_STAGES, STATS_PARSE };

void pipeline_measure(struct pipeline_stats *stats, struct kith_metrics *metrics)
{
    for (uint32_t i = 0; metrics && i < N_STAGES + 2; i++) {
        char labels[64];
        const char *name = i == STATS_RECEIVE ? "receive"
                           : i == STATS_PARSE ? "parse"
                                              : stages[i].name;
        (void)snprintf(labels, sizeof(labels), "stage=\"%s\"", name);
        stats->seconds[i] = kith_metrics_histogram(
            metrics, "kith_search_stage_seconds", labels,
            "Time of each stage of a search at the coordinator; scatter and fetch are the way to "
            "the nodes, their work, the way back, and the merging of what came.");
    }
}

/* Searches only: one cheap look at the clock per stage. */
static void measure_stage(struct request *req)
{
    if (req->work != &run_query_work)
        return;
    const struct pipeline_stats *stats = server_stage_stats(req->server);
    uint64_t now_ns = kith_now_ns(), took_ns = now_ns - req->stage_ns;
    if (req->stage == 0) {
        kith_histogram_observe_ns(stats->seconds[STATS_RECEIVE],
                                  req->stage_ns - req->http->start_ns);
        kith_histogram_observe_ns(stats->seconds[STATS_PARSE], req->parse_ns);
        took_ns -= req->parse_ns;
    }
    kith_histogram_observe_ns(stats->seconds[req->stage], took_ns);
    req->stage_ns = now_ns;
}

/* Not before its texts are encoded: the pool that does it may be busy with bodies, whose readers
 * stand aside. */
static void await_search(struct request *req)
{
    if (req->work != &run_query_work || stages[req->stage].run != encode_stage_run)
        return;
    req->awaited = true;
    kith_aside_answer_begin();
}

static void request_free(struct request *req)
{
    if (req->awaited)
        kith_aside_answer_end();
    server_forget(req->server, req);
    scatter_fini(&req->scatter);
    kith_json_close(req->doc);
    kith_buf_fini(&req->scratch);
    kith_buf_fini(&req->out);
    topology_unref(req->collection);
    kith_free(req);
}

static void end_stage(struct request *req)
{
    measure_stage(req);
    await_search(req);
    req->stage++;
}

static void run(struct request *req)
{
    while (req->stage < N_STAGES) {
        enum step step = stages[req->stage].run(req);
        if (step == STEP_WAIT)
            return;
        if (step == STEP_FAIL) {
            reply_stage_fail(req);
            break;
        }
        end_stage(req);
    }
    request_free(req);
}

void pipeline_begin(struct server *server, struct gateway_request *http)
{
    struct request *req = kith_alloc(sizeof(*req));
    if (!req) {
        gateway_reply_error(http, KITH_NOMEM, "request: out of memory");
        return;
    }
    req->server = server;
    req->http = http;
    req->arena = &http->arena;
    req->stage_ns = kith_now_ns();
    server_remember(server, req);
    run(req);
}

void pipeline_resume(struct request *req)
{
    if (req->err) {
        reply_stage_fail(req);
        request_free(req);
        return;
    }
    end_stage(req);
    run(req);
}

void pipeline_abandon(struct request *req)
{
    req->err = kith_fail(&req->diag, KITH_CANCELLED, "shutting down");
    req->scatter.n_left = 0;
    reply_stage_fail(req);
    request_free(req);
}
