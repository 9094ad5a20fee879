/* Requests to nodes to open slices. OPEN creates a slice that is missing, so it is sent only before
 * "opened": later, a node without the slice has lost its disk, and an empty slice would be an
 * answer that is silently incomplete. One request for each node and collection is under way at a
 * time; one that failed stays in the list for a while so that nobody asks this node again at once.
 */
#include <inttypes.h>
#include <string.h>

#include "common/kith_clock.h"
#include "common/kith_log.h"
#include "common/kith_mem.h"
#include "common/kith_request.h"
#include "coordinator/cluster/leader_impl.h"

#define OPEN_MS 5000u

struct leader_opening {
    struct kith_inbox_item item; /* first */
    struct leader *of;
    struct kith_net_msg *reply;
    enum kith_err err;
    bool answered;          /* and waits for its turn to be recorded */
    uint64_t rest_until_ms; /* failed: not asked again before; 0 = not failed */
    uint64_t node;
    struct kith_msg_open msg;
    struct leader_opening *next, **link;
};

static void opening_free(struct leader_opening *opening)
{
    if (opening->link) {
        *opening->link = opening->next;
        if (opening->next) {
            opening->next->link = opening->link;
        }
    }
    kith_net_msg_free(opening->reply);
    kith_free(opening);
}

/* On any thread. */
static void on_open_reply(void *ctx, enum kith_err err, struct kith_net_msg *reply)
{
    struct leader_opening *opening = ctx;
    opening->err = err;
    opening->reply = reply;
    kith_inbox_put(opening->of->inbox, &opening->item);
}

static enum kith_err read_opened(const struct leader_opening *opening, struct kith_msg_slices *out,
                                 struct kith_diag *diag)
{
    struct kith_bytes body;
    if (opening->err) {
        return kith_fail(diag, opening->err, "%s", kith_err_text(opening->err));
    }
    const enum kith_err err = kith_request_reply(
        opening->reply, topology_cluster(opening->of->cfg.topology), KITH_MSG_OPEN, &body, diag);
    if (err) {
        return err;
    }
    return kith_msg_read_slices_only(body, out)
               ? KITH_OK
               : kith_fail(diag, KITH_PROTOCOL, "malformed reply to OPEN");
}

/* A verdict that asking again will not change soon. Whoever creates the collection reads it and
 * gives up (topology_change.c); if nobody does any more, asking goes on. */
static bool is_final(enum kith_err err)
{
    return err == KITH_DISK_FULL || err == KITH_IO;
}

/* False: not every slice was opened. */
static bool mark_opened(struct leader *leader, const struct leader_opening *opening,
                        const struct kith_msg_slices *slices)
{
    struct leader_batch *batch = leader_batch_new(leader);
    bool all = true;
    if (!batch) {
        return false;
    }
    for (uint32_t i = 0; i < slices->n_slices && !leader_batch_full(batch); i++) {
        struct kith_slice_value value = {0};
        const struct kith_msg_slice *slice = &slices->slices[i];
        if (slice->err) {
            kith_log(WARN, "leader.open_failed", "slice=%" PRIu32 " node=%016" PRIx64 " error=%s",
                     slice->slice, opening->node, kith_err_name(slice->err));
            all = false;
        }
        const enum kith_err error = is_final(slice->err) ? slice->err : KITH_OK;
        const uint64_t revision =
            leader_read_slice(leader, opening->msg.scope.collection, slice->slice, &value);
        if (revision && !value.opened && value.primary == opening->node &&
            (!slice->err || value.error != error)) {
            value.opened = !slice->err;
            value.error = error;
            leader_batch_put_slice(batch, opening->msg.scope.collection, slice->slice, revision,
                                   &value);
        }
    }
    leader_batch_commit(leader, batch);
    return all;
}

static void record(struct leader *leader, struct leader_opening *opening)
{
    struct kith_diag diag = {0};
    struct kith_msg_slices *slices = kith_alloc(sizeof *slices);
    const enum kith_err err = slices ? read_opened(opening, slices, &diag) : KITH_NOMEM;
    opening->answered = false;
    if (err) {
        kith_log(WARN, "leader.open_failed", "node=%016" PRIx64 " error=\"%s\"", opening->node,
                 diag.text);
    }
    if (!err && mark_opened(leader, opening, slices)) {
        opening_free(opening);
    } else {
        /* It stays in the list so that nobody asks this node again at once. */
        opening->rest_until_ms = kith_now_ms() + LEADER_RETRY_MS;
        leader_step_later(leader);
    }
    kith_free(slices);
}

void leader_record_openings(struct leader *leader)
{
    struct leader_opening *next = NULL;
    for (struct leader_opening *opening = leader->openings; opening; opening = next) {
        next = opening->next;
        if (opening->answered && !leader->busy) {
            record(leader, opening);
        } else if (opening->rest_until_ms && opening->rest_until_ms <= kith_now_ms()) {
            opening_free(opening);
        } else if (opening->rest_until_ms) {
            leader_step_later(leader);
        }
    }
}

void leader_on_opened(void *ctx, struct kith_inbox_item *item)
{
    struct leader *leader = ctx;
    struct leader_opening *opening = (struct leader_opening *)item;
    opening->answered = true;
    if (leader->closing) {
        opening_free(opening);
    } else if (!leader->busy) {
        leader_step(leader);
    }
}

static struct kith_net_msg *open_frame(const struct leader *leader,
                                       const struct leader_opening *opening)
{
    const struct kith_frame frame = {
        .cluster = topology_cluster(leader->cfg.topology),
        .request = kith_keys_random_id(),
        .deadline_ms = OPEN_MS,
        .message = KITH_MSG_OPEN,
    };
    struct kith_writer w;
    struct kith_net_msg *msg = kith_request_begin(&w);
    if (!w.failed) {
        kith_msg_write_open(&w, &opening->msg);
    }
    if (!kith_request_end(msg, &w, &frame)) {
        kith_net_msg_free(msg);
        return NULL;
    }
    return msg;
}

static bool is_opening(const struct leader *leader, uint64_t collection, uint64_t node)
{
    for (const struct leader_opening *o = leader->openings; o; o = o->next) {
        if (o->msg.scope.collection == collection && o->node == node) {
            return true;
        }
    }
    return false;
}

struct open_ctx {
    struct leader *leader;
    const struct topology_node *node;
};

static void open_send(struct leader *leader, const struct topology_node *node,
                      struct leader_opening *opening)
{
    struct kith_net_msg *msg = open_frame(leader, opening);
    opening->link = &leader->openings;
    opening->next = leader->openings;
    if (opening->next) {
        opening->next->link = &opening->next;
    }
    leader->openings = opening;
    if (!msg || kith_net_ask(node->peer, msg, OPEN_MS, on_open_reply, opening)) {
        kith_net_msg_free(msg);
        opening_free(opening);
        leader_step_later(leader);
    }
}

/* One OPEN for what this node has to open of this collection. */
static void open_collection(void *ctx, struct topology_collection *collection)
{
    const struct open_ctx *open = ctx;
    struct leader *leader = open->leader;
    if (collection->ready || is_opening(leader, collection->id, open->node->id)) {
        return;
    }
    struct leader_opening *opening = kith_alloc(sizeof *opening);
    if (!opening) {
        leader_step_later(leader);
        return;
    }
    opening->of = leader;
    opening->node = open->node->id;
    opening->msg.dim = collection->dim;
    opening->msg.metric = collection->metric;
    opening->msg.rows = collection->rows;
    opening->msg.index = collection->index;
    if (collection->factory) {
        memcpy(opening->msg.factory, collection->factory, strlen(collection->factory) + 1);
    }
    opening->msg.scope.collection = collection->id;
    for (uint32_t i = 0; i < collection->n_slices; i++) {
        struct kith_slice_value value = {0};
        const uint64_t revision = leader_read_slice(leader, collection->id, i, &value);
        if (revision && !value.opened && value.primary == open->node->id &&
            opening->msg.scope.n_slices < LEADER_BATCH_SLICES) {
            opening->msg.scope.slices[opening->msg.scope.n_slices++] = i;
        }
    }
    if (opening->msg.scope.n_slices > 0) {
        open_send(leader, open->node, opening);
    } else {
        kith_free(opening);
    }
}

static void open_node(void *ctx, const struct topology_node *node)
{
    struct open_ctx open = {.leader = ctx, .node = node};
    if (node->state == TOPOLOGY_READY && node->peer) {
        topology_each_collection(open.leader->cfg.topology, open_collection, &open);
    }
}

void leader_open_slices(struct leader *leader)
{
    topology_each_node(leader->cfg.topology, open_node, leader);
}

void leader_drop_openings(struct leader *leader)
{
    while (leader->openings) {
        kith_assert(leader->openings->answered || leader->openings->rest_until_ms);
        opening_free(leader->openings);
    }
}
