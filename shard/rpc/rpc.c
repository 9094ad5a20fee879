#include "shard/rpc/rpc.h"

#include <string.h>

#include "common/kith_aside.h"
#include "common/kith_clock.h"
#include "common/kith_log.h"
#include "common/kith_mem.h"

static const struct rpc_stats *stats_of(const struct rpc_call *call);

/* ---- replies --------------------------------------------------------------------------------- */

static struct kith_counter *requests_counter(const struct rpc_env *env, const char *message,
                                             enum kith_err err)
{
    char labels[96] = "";
    struct kith_buf text = {
        .data = (uint8_t *)labels, .cap = sizeof labels - 1, .limit = sizeof labels - 1};
    kith_metrics_label(&text, "message", message);
    kith_metrics_label(&text, "result", kith_err_name(err));
    return kith_metrics_counter(env->metrics, "kith_rpc_requests_total", labels,
                                "Requests answered by a shard.");
}

/* Does what can wait stand aside for it? */
static bool is_awaited(const struct rpc_call *call)
{
    return call->handler != NULL &&
           (call->handler->run == rpc_search_run || call->handler->run == rpc_records_fetch);
}

static void end_call(struct rpc_call *call, enum kith_err err)
{
    if (is_awaited(call))
        kith_aside_answer_end();
    if (call->env->metrics != NULL) {
        const struct rpc_stats *stats = stats_of(call);
        if (stats != NULL)
            kith_histogram_observe_ns(stats->seconds, kith_now_ns() - call->arrived_ns);
        if (stats != NULL && err == KITH_OK)
            kith_counter_add(stats->ok, 1);
        else
            kith_counter_add(
                requests_counter(call->env, stats != NULL ? call->handler->name : "none", err), 1);
    }
    kith_free(call);
}

void rpc_begin(struct rpc_reply *reply)
{
    static const char header[KITH_FRAME_HEADER_BYTES];
    memset(reply, 0, sizeof *reply);
    reply->msg = kith_net_msg_new(0);
    reply->w = (struct kith_writer){.write = kith_net_msg_sink, .sink = reply->msg};
    reply->w.failed =
        reply->msg == NULL || kith_net_msg_sink(reply->msg, header, sizeof header) != 0;
}

static void seal_and_reply(struct rpc_call *call, struct kith_net_msg *msg, uint16_t message)
{
    struct kith_frame frame = {
        .cluster = call->env->cluster, .request = call->frame.request, .message = message};
    kith_frame_seal(kith_net_msg_data(msg), kith_net_msg_len(msg), &frame);
    kith_net_reply(call->net, msg);
}

void rpc_fail(struct rpc_call *call, enum kith_err err, const char *text)
{
    struct rpc_reply reply;
    rpc_begin(&reply);
    if (!reply.w.failed)
        kith_msg_write_error(&reply.w, err, text);
    if (reply.w.failed) { /* not even this fits: the asker's deadline ends it */
        kith_net_msg_free(reply.msg);
        kith_net_reply(call->net, NULL);
    } else {
        seal_and_reply(call, reply.msg, KITH_MSG_ERROR);
    }
    end_call(call, err);
}

void rpc_fail_with(struct rpc_call *call, struct rpc_reply *reply, enum kith_err err,
                   const struct kith_diag *diag)
{
    if (reply != NULL)
        kith_net_msg_free(reply->msg);
    rpc_fail(call, err, diag->text[0] != '\0' ? diag->text : kith_err_text(err));
}

void rpc_malformed(struct rpc_call *call)
{
    rpc_fail(call, KITH_PROTOCOL, "the request's body is malformed");
}

void rpc_send(struct rpc_call *call, struct rpc_reply *reply)
{
    if (reply->w.failed) {
        bool no_memory = reply->msg == NULL;
        kith_net_msg_free(reply->msg);
        rpc_fail(call, no_memory ? KITH_NOMEM : KITH_TOO_BIG,
                 no_memory ? "no memory for the answer" : "the answer does not fit one message");
        return;
    }
    seal_and_reply(call, reply->msg, (uint16_t)(call->frame.message + 1));
    end_call(call, KITH_OK);
}

/* ---- views ----------------------------------------------------------------------------------- */

void rpc_set_slice(struct kith_msg_slice *slice, uint32_t number, enum kith_err err,
                   const char *why)
{
    *slice = (struct kith_msg_slice){
        .slice = number,
        .err = err,
        .detail = {.data = (const uint8_t *)why, .len = why == NULL ? 0 : strlen(why)}};
}

void rpc_take_views(struct rpc_env *env, const struct kith_msg_scope *scope, struct rpc_views *out)
{
    static const char *const damaged = "a file of the slice is damaged; the node's log says which";
    out->n_views = 0;
    out->damage.text[0] = '\0';
    out->slices.n_slices = scope->n_slices;
    for (uint32_t i = 0; i < scope->n_slices; i++) {
        struct slice *slice = NULL;
        const char *why = NULL;
        enum kith_err err =
            slice_table_get(env->slices, scope->collection, scope->slices[i], &slice, &why);
        rpc_set_slice(&out->slices.slices[i], scope->slices[i], err, why);
        if (err != KITH_OK)
            continue;
        struct view *view = store_view(slice_store(slice));
        bool first = out->damage.text[0] == '\0';
        err = view_verdict(&view, 1, KITH_OK, first ? &out->damage : NULL);
        if (err != KITH_OK) {
            rpc_set_slice(&out->slices.slices[i], scope->slices[i], err,
                          first ? out->damage.text : damaged);
            view_unref(view);
            slice_put(env->slices, slice);
            continue;
        }
        out->slices.slices[i].points = view->live_points;
        out->slices.slices[i].seq = view->seq;
        out->held[out->n_views] = slice;
        out->views[out->n_views++] = view;
    }
}

void rpc_give_views(struct rpc_env *env, struct rpc_views *views)
{
    for (uint32_t i = 0; i < views->n_views; i++) {
        view_unref(views->views[i]);
        slice_put(env->slices, views->held[i]);
    }
    views->n_views = 0;
}

bool rpc_retake_views(struct rpc_env *env, const struct kith_msg_scope *scope,
                      struct rpc_views *views)
{
    if (view_verdict(views->views, views->n_views, KITH_OK, NULL) == KITH_OK)
        return false;
    rpc_give_views(env, views);
    rpc_take_views(env, scope, views);
    return true;
}

/* ---- dispatch -------------------------------------------------------------------------------- */

static void ping(struct rpc_call *call)
{
    struct rpc_reply reply;
    rpc_begin(&reply);
    kith_write_array(&reply.w, 0);
    rpc_send(call, &reply);
}

/* Indexed by half the message number: requests are even. */
static const struct rpc_handler handlers[] = {
    [KITH_MSG_PING / 2] = {ping, RPC_HERE, "ping"},
    [KITH_MSG_OPEN / 2] = {rpc_admin_open, RPC_ADMIN, "open"},
    [KITH_MSG_DROP / 2] = {rpc_admin_drop, RPC_ADMIN, "drop"},
    [KITH_MSG_WRITE / 2] = {rpc_write_run, RPC_HERE, "write"},
    [KITH_MSG_SEARCH / 2] = {rpc_search_run, RPC_WORKERS, "search"},
    [KITH_MSG_FETCH / 2] = {rpc_records_fetch, RPC_WORKERS, "fetch"},
    [KITH_MSG_COUNT / 2] = {rpc_records_count, RPC_WORKERS, "count"},
    [KITH_MSG_SCROLL / 2] = {rpc_records_scroll, RPC_WORKERS, "scroll"},
    [KITH_MSG_FACET / 2] = {rpc_records_facet, RPC_WORKERS, "facet"},
    [KITH_MSG_MEMORY / 2] = {rpc_memory_run, RPC_WORKERS, "memory"},
    [KITH_MSG_CODEBOOK / 2] = {rpc_codebook_run, RPC_WORKERS, "codebook"},
    [KITH_MSG_SAMPLE / 2] = {rpc_codebook_sample, RPC_WORKERS, "sample"},
    [KITH_MSG_INFO / 2] = {rpc_admin_info, RPC_WORKERS, "info"},
};

static const struct rpc_handler *find_handler(uint16_t message)
{
    size_t index = message / 2u;
    if (message % 2 != 0 || index >= sizeof handlers / sizeof *handlers ||
        handlers[index].run == NULL)
        return NULL;
    return &handlers[index];
}

static const struct rpc_stats *stats_of(const struct rpc_call *call)
{
    return call->handler == NULL ? NULL : &call->env->stats[call->handler - handlers];
}

void rpc_measure(struct rpc_env *env, struct kith_metrics *metrics)
{
    _Static_assert(sizeof handlers / sizeof *handlers <= RPC_MESSAGES_MAX, "one each");
    env->metrics = metrics;
    for (size_t i = 0; metrics != NULL && i < sizeof handlers / sizeof *handlers; i++) {
        char labels[64] = "";
        struct kith_buf text = {
            .data = (uint8_t *)labels, .cap = sizeof labels - 1, .limit = sizeof labels - 1};
        if (handlers[i].run == NULL)
            continue;
        kith_metrics_label(&text, "message", handlers[i].name);
        struct rpc_stats *stats = &env->stats[i];
        stats->seconds =
            kith_metrics_histogram(metrics, "kith_rpc_seconds", labels,
                                   "Time from a request's arrival at a shard to its reply.");
        if (handlers[i].place == RPC_WORKERS)
            stats->wait_seconds = kith_metrics_histogram(
                metrics, "kith_rpc_wait_seconds", labels,
                "Time from a request's arrival at a shard until a worker took it up.");
        stats->ok = requests_counter(env, handlers[i].name, KITH_OK);
    }
}

static void run_call(void *ctx)
{
    struct rpc_call *call = ctx;
    uint64_t now_ns = kith_now_ns();
    kith_histogram_observe_ns(stats_of(call)->wait_seconds, now_ns - call->arrived_ns);
    if (now_ns / 1000000u >= call->deadline_ms)
        rpc_fail(call, KITH_TIMEOUT, "the deadline passed while the request waited its turn");
    else
        call->handler->run(call);
}

static void dispatch(struct rpc_call *call)
{
    call->handler = find_handler(call->frame.message);
    if (call->handler == NULL) {
        rpc_fail(call, KITH_UNSUPPORTED, "this node does not know that message");
        return;
    }
    if (is_awaited(call))
        kith_aside_answer_begin();
    enum kith_err err = KITH_OK;
    if (call->handler->place == RPC_HERE)
        run_call(call);
    else
        err = kith_pool_submit(call->handler->place == RPC_ADMIN ? call->env->admin
                                                                 : call->env->workers,
                               run_call, call);
    if (err != KITH_OK)
        rpc_fail(call, err, "this node has too much to do");
}

void rpc_serve(void *env, struct kith_net_call *net, struct kith_net_msg *request)
{
    struct rpc_call *call = kith_alloc(sizeof *call);
    if (call == NULL) {
        kith_net_reply(net, NULL);
        return;
    }
    call->env = env;
    call->net = net;
    call->arrived_ns = kith_now_ns();
    struct kith_diag diag = {0};
    const uint8_t *data = kith_net_msg_data(request);
    enum kith_err err =
        kith_frame_open(data, kith_net_msg_len(request), call->env->cluster, &call->frame, &diag);
    if (err != KITH_OK) {
        kith_log(WARN, "rpc.bad_frame", "text=\"%s\"", diag.text);
        call->frame.request = 0; /* the header may be garbage */
        rpc_fail(call, err, diag.text);
        return;
    }
    call->body =
        (struct kith_bytes){.data = data + KITH_FRAME_HEADER_BYTES, .len = call->frame.body_bytes};
    uint32_t left_ms = call->frame.deadline_ms;
    if (left_ms == 0)
        left_ms = KITH_DEADLINE_DEFAULT_MS; /* none given */
    if (left_ms > KITH_DEADLINE_MAX_MS)
        left_ms = KITH_DEADLINE_MAX_MS;
    call->deadline_ms = call->arrived_ns / 1000000u + left_ms;
    dispatch(call);
}
