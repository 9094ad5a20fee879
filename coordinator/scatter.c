/* All messages of a round are written before the first is sent, so a round that does not fit in
 * memory or in a frame has had no effect. Each ask then gets exactly one callback, on any
 * thread, which does nothing but post the ask's letter; asks that cannot even be sent post it
 * themselves, so the end of a round is always reached the same way and never from inside
 * scatter_begin.
 *
 * A reply is believed only as far as the question went: frame, cluster, request id, message number,
 * and exactly the slices asked for. A slice that answers NOT_FOUND is one its node has not opened
 * (yet); the collection is in the picture, so for the user that is "not reachable now".
 *
 * A slice has one copy today. With replicas, a read whose error is of the class ELSEWHERE goes to
 * the next copy in on_letter, before n_left is counted down. */
#include "coordinator/scatter.h"

#include <string.h>

#include "common/kith_arena.h"
#include "coordinator/census.h"
#include "coordinator/request.h"
#include "coordinator/server.h"
#include "proto/kith_frame.h"

static void ask_failed(struct scatter_ask *ask, enum kith_err err, const char *detail)
{
    for (uint32_t i = 0; i < ask->scope.n_slices; i++)
        ask->slice_err[i] = err;
    ask->detail = detail;
    ask->judged = true;
}

enum kith_err scatter_verdicts(struct scatter_ask *ask, const struct kith_msg_slices *slices,
                               struct kith_diag *diag)
{
    if (slices->n_slices != ask->scope.n_slices)
        return kith_fail(diag, KITH_PROTOCOL, "answered for %u slices, asked for %u",
                         slices->n_slices, ask->scope.n_slices);
    for (uint32_t i = 0; i < slices->n_slices; i++)
        if (slices->slices[i].slice != ask->scope.slices[i])
            return kith_fail(diag, KITH_PROTOCOL, "answered for slice %u, asked for %u",
                             slices->slices[i].slice, ask->scope.slices[i]);
    for (uint32_t i = 0; i < slices->n_slices; i++) {
        const struct kith_msg_slice *slice = &slices->slices[i];
        enum kith_err err = slice->err == KITH_NOT_FOUND ? KITH_UNAVAILABLE : slice->err;
        ask->slice_err[i] = err;
        ask->slice_points[i] = slice->points;
        if (!err && slice->seq > ask->seq_max)
            ask->seq_max = slice->seq;
        if (err && !ask->detail && slice->detail.len)
            ask->detail = kith_arena_text(ask->req->arena, (const char *)slice->detail.data,
                                          slice->detail.len > 160 ? 160 : slice->detail.len);
    }
    ask->judged = true;
    return KITH_OK;
}

/* ---- what came back -------------------------------------------------------------------------- */

static enum kith_err open_reply(struct scatter_ask *ask, struct kith_bytes *body,
                                struct kith_diag *diag)
{
    const uint8_t *data = kith_net_msg_data(ask->reply);
    struct kith_frame frame;
    enum kith_err err = kith_frame_open(data, kith_net_msg_len(ask->reply),
                                        server_cluster(ask->req->server), &frame, diag);
    if (err)
        return err;
    *body = (struct kith_bytes){data + KITH_FRAME_HEADER_BYTES, frame.body_bytes};
    if (frame.request != ask->req->http->id)
        return kith_fail(diag, KITH_PROTOCOL, "answer to another request");
    if (frame.message == KITH_MSG_ERROR) {
        struct kith_msg_error error;
        if (!kith_msg_read_error(*body, &error) || error.err == KITH_OK)
            return kith_fail(diag, KITH_PROTOCOL, "malformed error");
        enum kith_err told = error.err == KITH_NOT_FOUND ? KITH_UNAVAILABLE : error.err;
        return kith_fail(diag, told, "%.*s", (int)(error.text.len > 200 ? 200 : error.text.len),
                         (const char *)error.text.data);
    }
    if (frame.message != (uint16_t)ask->round->message + 1)
        return kith_fail(diag, KITH_PROTOCOL, "message %u in answer to %u", frame.message,
                         (unsigned)ask->round->message);
    return KITH_OK;
}

static void take_reply(struct scatter_ask *ask)
{
    struct kith_diag diag = {.err = KITH_OK, .text = ""};
    struct kith_bytes body;
    enum kith_err err = ask->err;
    if (!err)
        err = open_reply(ask, &body, &diag);
    if (!err)
        err = ask->round->take(ask->req, ask, body, &diag);
    if (err)
        ask_failed(ask, err,
                   diag.text[0] ? kith_arena_text(ask->req->arena, diag.text, strlen(diag.text))
                                : NULL);
    else if (!ask->judged)
        ask_failed(ask, KITH_PROTOCOL, "malformed answer");
    for (uint32_t i = 0; i < ask->scope.n_slices; i++)
        if (!ask->slice_err[i] && !ask->round->per_slice)
            census_note(server_census(ask->req->server), ask->scope.collection,
                        ask->scope.slices[i], ask->slice_points[i]);
}

static void on_letter(void *ctx)
{
    struct scatter_ask *ask = ctx;
    struct scatter *scatter = &ask->req->scatter;
    kith_assert(scatter->n_left > 0);
    take_reply(ask);
    if (--scatter->n_left == 0)
        scatter->done(ask->req);
}

/* On any thread. */
static void on_answer(void *ctx, enum kith_err err, struct kith_net_msg *reply)
{
    struct scatter_ask *ask = ctx;
    ask->err = err;
    ask->reply = reply;
    kith_loop_post(ask->loop, &ask->letter);
}

/* ---- asking ---------------------------------------------------------------------------------- */

static struct scatter_ask *ask_new(struct request *req, const struct scatter_round *round,
                                   struct topology_node *node, uint32_t n_slices)
{
    struct scatter_ask *ask = kith_arena_alloc(req->arena, sizeof(*ask));
    if (!ask)
        return NULL;
    ask->slice_err = kith_arena_array(req->arena, n_slices, sizeof(*ask->slice_err));
    ask->slice_points = kith_arena_array(req->arena, n_slices, sizeof(*ask->slice_points));
    if (!ask->slice_err || !ask->slice_points)
        return NULL;
    ask->req = req;
    ask->round = round;
    ask->node = node;
    ask->loop = server_loop(req->server);
    ask->scope.collection = req->collection->id;
    ask->letter = (struct kith_letter){.fn = on_letter, .ctx = ask};
    ask->older = req->scatter.newest;
    req->scatter.newest = ask;
    return ask;
}

/* Gives each wanted slice to the ask of its node. */
static enum kith_err make_asks(struct request *req, const struct scatter_round *round,
                               bool (*wants)(struct request *req, uint32_t slice))
{
    const struct topology_collection *collection = req->collection;
    struct scatter *scatter = &req->scatter;
    scatter->asks = kith_arena_array(req->arena, collection->n_slices, sizeof(*scatter->asks));
    scatter->n_asks = 0;
    if (!scatter->asks)
        return KITH_NOMEM;
    for (uint32_t slice = 0; slice < collection->n_slices; slice++) {
        if (wants && !wants(req, slice))
            continue;
        struct topology_node *node = collection->slices[slice].node;
        struct scatter_ask *ask = NULL;
        for (uint32_t i = 0; i < scatter->n_asks && !round->per_slice && !ask; i++)
            if (scatter->asks[i]->node == node)
                ask = scatter->asks[i];
        if (!ask) {
            ask = ask_new(req, round, node, round->per_slice ? 1 : collection->n_slices);
            if (!ask)
                return KITH_NOMEM;
            scatter->asks[scatter->n_asks++] = ask;
        }
        ask->scope.slices[ask->scope.n_slices++] = slice;
    }
    return KITH_OK;
}

static enum kith_err write_message(struct scatter_ask *ask, uint32_t left_ms)
{
    static const uint8_t blank[KITH_FRAME_HEADER_BYTES];
    ask->message = kith_net_msg_new(0);
    if (!ask->message || kith_net_msg_sink(ask->message, (const char *)blank, sizeof(blank)) != 0)
        return KITH_NOMEM;
    struct kith_writer w = {.write = kith_net_msg_sink, .sink = ask->message};
    ask->round->write_body(ask->req, ask, &w);
    size_t len = kith_net_msg_len(ask->message);
    if (w.failed)
        return len > KITH_FRAME_BODY_MAX / 2 ? KITH_TOO_BIG : KITH_NOMEM;
    if (len - KITH_FRAME_HEADER_BYTES > KITH_FRAME_BODY_MAX)
        return KITH_TOO_BIG;
    struct kith_frame header = {.cluster = server_cluster(ask->req->server),
                                .request = ask->req->http->id,
                                .deadline_ms = left_ms,
                                .message = (uint16_t)ask->round->message};
    kith_frame_seal(kith_net_msg_data(ask->message), len, &header);
    return KITH_OK;
}

static void send_message(struct scatter_ask *ask, uint32_t left_ms)
{
    enum kith_err err = KITH_UNAVAILABLE;
    if (left_ms == 0)
        err = KITH_TIMEOUT;
    else if (ask->node && ask->node->peer)
        err = kith_net_ask(ask->node->peer, ask->message, left_ms, on_answer, ask);
    if (!err) {
        ask->message = NULL;
        return;
    }
    ask->err = err;
    kith_loop_post(ask->loop, &ask->letter);
}

enum kith_err scatter_begin(struct request *req, const struct scatter_round *round,
                            bool (*wants)(struct request *req, uint32_t slice),
                            scatter_done_fn done, struct kith_diag *diag)
{
    struct scatter *scatter = &req->scatter;
    kith_assert(scatter->n_left == 0);
    if (make_asks(req, round, wants))
        return kith_fail(diag, KITH_NOMEM, "request: out of memory");
    uint32_t left_ms = request_left_ms(req);
    for (uint32_t i = 0; i < scatter->n_asks; i++) {
        enum kith_err err = write_message(scatter->asks[i], left_ms);
        if (err)
            return kith_fail(diag, err, "request: %s",
                             err == KITH_TOO_BIG ? "too big for one message to a node"
                                                 : "out of memory");
    }
    scatter->done = done;
    scatter->n_left = scatter->n_asks;
    for (uint32_t i = 0, n = scatter->n_asks; i < n; i++)
        send_message(scatter->asks[i], left_ms);
    return KITH_OK;
}

/* ---- the verdict ----------------------------------------------------------------------------- */

/* What users are told when err kept a slice from answering. */
static enum kith_err told(enum kith_err err, bool write)
{
    switch (err) {
    case KITH_TIMEOUT:
    case KITH_BUSY:
    case KITH_DISK_FULL:
    case KITH_TOO_BIG:
    case KITH_BAD_REQUEST:
    case KITH_UNSUPPORTED:
    case KITH_UNPROCESSABLE:
        return err;
    case KITH_IO:
    case KITH_CORRUPT:
        return write ? err : KITH_UNAVAILABLE;
    default:
        return KITH_UNAVAILABLE;
    }
}

/* Whether a write may have happened all the same. */
static bool outcome_unknown(enum kith_err err)
{
    return err == KITH_TIMEOUT || err == KITH_UNAVAILABLE || err == KITH_CANCELLED ||
           err == KITH_PROTOCOL || err == KITH_IO;
}

static double coverage_share(const struct coverage *coverage)
{
    double slices = coverage->total ? (double)coverage->ok / coverage->total : 1.0;
    if (!coverage->points_known || coverage->points_total == 0)
        return slices;
    double points = (double)coverage->points_searched / (double)coverage->points_total;
    return points < slices ? points : slices;
}

struct tally {
    const struct scatter_ask *worst; /* a timed out ask, or the first that failed */
    uint32_t worst_slice;
    enum kith_err worst_err;
};

static void tally_slice(struct request *req, const struct scatter_ask *ask, uint32_t i,
                        struct tally *tally)
{
    struct coverage *coverage = &req->coverage;
    enum kith_err err = ask->slice_err[i];
    coverage->total++;
    if (!err) {
        coverage->ok++;
        coverage->points_searched += ask->slice_points[i];
        coverage->points_total += ask->slice_points[i];
        return;
    }
    coverage->timed_out += err == KITH_TIMEOUT;
    coverage->failed += err != KITH_TIMEOUT;
    uint64_t points;
    if (census_get(server_census(req->server), ask->scope.collection, ask->scope.slices[i],
                   &points))
        coverage->points_total += points;
    else
        coverage->points_known = false;
    if (!tally->worst || (err == KITH_TIMEOUT && tally->worst_err != KITH_TIMEOUT))
        *tally = (struct tally){ask, ask->scope.slices[i], err};
}

enum kith_err scatter_judge(struct request *req, struct kith_diag *diag)
{
    struct scatter *scatter = &req->scatter;
    struct coverage *coverage = &req->coverage;
    struct tally tally = {NULL, 0, KITH_OK};
    *coverage = (struct coverage){.points_known = true};
    for (uint32_t i = 0; i < scatter->n_asks; i++)
        for (uint32_t j = 0; j < scatter->asks[i]->scope.n_slices; j++)
            tally_slice(req, scatter->asks[i], j, &tally);
    if (!tally.worst)
        return KITH_OK;
    const struct scatter_ask *ask = tally.worst;
    bool write = ask->round->per_slice;
    if (!write && req->allow_partial && coverage_share(coverage) >= req->min_coverage) {
        coverage->partial = true;
        return KITH_OK;
    }
    const char *node = ask->node ? ask->node->name : "nobody";
    const char *detail = ask->detail ? ask->detail : kith_err_text(tally.worst_err);
    return kith_fail(
        diag, told(tally.worst_err, write), "%s: slice %u (held by %s): %s; %u of %u slices %s%s",
        write ? "write" : "incomplete answer", tally.worst_slice, node, detail, coverage->ok,
        coverage->total, write ? "acknowledged" : "answered",
        write && outcome_unknown(tally.worst_err) ? "; the outcome for the others is unknown" : "");
}

uint64_t scatter_seq(const struct scatter *scatter)
{
    uint64_t seq = 0;
    for (uint32_t i = 0; i < scatter->n_asks; i++)
        if (scatter->asks[i]->seq_max > seq)
            seq = scatter->asks[i]->seq_max;
    return seq;
}

void scatter_fini(struct scatter *scatter)
{
    kith_assert(scatter->n_left == 0);
    for (struct scatter_ask *ask = scatter->newest; ask; ask = ask->older) {
        kith_net_msg_free(ask->reply);
        kith_net_msg_free(ask->message);
    }
    *scatter = (struct scatter){.asks = NULL};
}
