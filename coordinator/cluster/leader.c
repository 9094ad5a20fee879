#include "coordinator/cluster/leader.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "common/kith_clock.h"
#include "common/kith_inbox.h"
#include "common/kith_keys.h"
#include "common/kith_log.h"
#include "common/kith_mem.h"
#include "common/kith_request.h"
#include "coordinator/cluster/placement.h"

/* A loop of small steps: after each change of the registry, and a second after anything failed, do
 * the first thing that is not as it should be. One transaction is under way at a time; its result
 * changes the mirror, which brings the next step. So there is no plan to lose in a crash: the next
 * leader looks at the same keys and goes on.
 *
 * A slice's life: no key -> {primary, opened: false} -> OPEN answered by the primary ->
 * {opened: true}. OPEN creates a slice that is missing, so it is sent only before "opened": later,
 * a node without the slice has lost its disk, and an empty slice would be an answer that is
 * silently incomplete. While a slice is not opened nothing can be in it, so it may be placed again
 * if its node has gone. A node whose disk is full says so, and that is written into the key. */

#define RETRY_MS       1000u
#define OPEN_MS        5000u
#define SLICES_PER_TXN 60u /* changes; comparisons are two more */

struct opening {
    struct kith_inbox_item item; /* first */
    struct leader *of;
    struct kith_net_msg *reply;
    enum kith_err err;
    bool answered;          /* and waits for its turn to be recorded */
    uint64_t rest_until_ms; /* failed: not asked again before; 0 = not failed */
    uint64_t node;
    struct kith_msg_open msg;
    struct opening *next, **link;
};

struct leader {
    struct leader_cfg cfg;
    char *http_url;
    struct kith_timer *retry;
    struct kith_inbox *inbox;
    struct opening *openings;
    bool busy; /* a transaction is under way */
    bool leading;
    bool closing;
    uint64_t revision; /* of the leader's key, when leading */
};

static void step(struct leader *leader);

static void on_retry(void *ctx)
{
    step(ctx);
}

/* ---- transactions ---------------------------------------------------------------------------- */

static void on_committed(void *ctx, enum kith_err err, const struct kith_diag *diag)
{
    struct leader *leader = ctx;
    leader->busy = false;
    if (leader->closing || err == KITH_CANCELLED) {
        return;
    }
    if (err && err != KITH_CONFLICT) {
        kith_log(WARN, "leader.commit", "error=\"%s\"", diag->text);
    }
    kith_timer_start(leader->retry, err ? RETRY_MS : 0, 0);
}

struct batch {
    size_t n_compares, n_changes;
    struct kith_registry_compare compares[SLICES_PER_TXN + 2];
    struct kith_registry_change changes[SLICES_PER_TXN];
    char keys[SLICES_PER_TXN][KITH_KEY_BYTES];
    struct kith_buf values[SLICES_PER_TXN];
    char collection_key[KITH_KEY_BYTES];
    bool failed;
};

static struct batch *batch_new(const struct leader *leader)
{
    struct batch *batch = kith_alloc(sizeof *batch);
    if (batch) {
        batch->compares[batch->n_compares++] =
            (struct kith_registry_compare){.key = KITH_KEYS_LEADER, .revision = leader->revision};
    }
    return batch;
}

static bool batch_full(const struct batch *batch)
{
    return batch->n_changes == SLICES_PER_TXN;
}

/* revision: what the slice's key must be at now; 0 = absent. */
static void batch_put_slice(struct batch *batch, uint64_t collection, uint32_t slice,
                            uint64_t revision, const struct kith_slice_value *value)
{
    const size_t i = batch->n_changes++;
    kith_keys_slice(batch->keys[i], collection, slice);
    kith_keys_write_slice(&batch->values[i], value);
    batch->failed |= batch->values[i].failed;
    batch->compares[batch->n_compares++] =
        (struct kith_registry_compare){.key = batch->keys[i], .revision = revision};
    batch->changes[i] = (struct kith_registry_change){.key = batch->keys[i],
                                                      .value = (const char *)batch->values[i].data};
}

/* Frees the batch. */
static void batch_commit(struct leader *leader, struct batch *batch)
{
    if (batch->failed) {
        kith_timer_start(leader->retry, RETRY_MS, 0);
    } else if (batch->n_changes > 0) {
        leader->busy = true;
        kith_registry_commit(leader->cfg.registry, batch->compares, batch->n_compares,
                             batch->changes, batch->n_changes, on_committed, leader);
    }
    for (size_t i = 0; i < batch->n_changes; i++) {
        kith_buf_fini(&batch->values[i]);
    }
    kith_free(batch);
}

/* ---- election -------------------------------------------------------------------------------- */

static void campaign(struct leader *leader)
{
    struct kith_leader_value value = {.id = leader->cfg.self};
    struct kith_buf text = {0};
    snprintf(value.url, sizeof value.url, "%s", leader->http_url);
    kith_keys_write_leader(&text, &value);
    if (!text.failed) {
        const struct kith_registry_compare absent = {.key = KITH_KEYS_LEADER};
        const struct kith_registry_change put = {
            .key = KITH_KEYS_LEADER, .value = (const char *)text.data, .leased = true};
        leader->busy = true;
        kith_registry_commit(leader->cfg.registry, &absent, 1, &put, 1, on_committed, leader);
    }
    kith_buf_fini(&text);
}

/* Is this process the leader? Stands for election when nobody is. */
static bool lead(struct leader *leader)
{
    struct kith_registry_value text;
    struct kith_leader_value value;
    if (!kith_registry_get(leader->cfg.registry, KITH_KEYS_LEADER, &text)) {
        leader->leading = false;
        campaign(leader);
        return false;
    }
    const bool leading =
        !kith_keys_read_leader(text.text, text.len, &value) && value.id == leader->cfg.self;
    if (leading && !leader->leading) {
        kith_log(INFO, "leader.elected", "self=%016" PRIx64, leader->cfg.self);
    }
    leader->leading = leading;
    leader->revision = text.revision;
    return leading;
}

/* ---- nodes ----------------------------------------------------------------------------------- */

struct node_search {
    uint64_t id;
    const struct topology_node *found;
};

static void on_node_search(void *ctx, const struct topology_node *node)
{
    struct node_search *search = ctx;
    if (node->id == search->id) {
        search->found = node;
    }
}

static const struct topology_node *find_node(const struct leader *leader, uint64_t id)
{
    struct node_search search = {.id = id};
    topology_each_node(leader->cfg.topology, on_node_search, &search);
    return search.found;
}

/* What the mirror says of a slice; revision 0 = no key. */
static uint64_t read_slice(const struct leader *leader, uint64_t collection, uint32_t slice,
                           struct kith_slice_value *out)
{
    char key[KITH_KEY_BYTES];
    struct kith_registry_value text;
    kith_keys_slice(key, collection, slice);
    if (!kith_registry_get(leader->cfg.registry, key, &text)) {
        return 0;
    }
    if (kith_keys_read_slice(text.text, text.len, out)) {
        /* Not ours to overwrite: somebody must look. It counts as placed and opened. */
        *out = (struct kith_slice_value){.primary = UINT64_MAX, .opened = true};
    }
    return text.revision;
}

/* ---- placing --------------------------------------------------------------------------------- */

struct plan {
    struct leader *leader;
    struct placement_node nodes[KITH_NODES_MAX];
    size_t n_nodes;
    struct placement_slice *slices;
    uint64_t *revisions; /* of the slices' keys, where they are to be placed (again) */
    uint64_t *terms;
    const struct topology_collection **collections; /* of each slice */
    size_t n_slices, cap_slices, cap_revisions, cap_terms, cap_collections;
    size_t n_missing;
    bool failed;
};

static void plan_node(void *ctx, const struct topology_node *node)
{
    struct plan *plan = ctx;
    if (node->state == TOPOLOGY_READY && plan->n_nodes < KITH_NODES_MAX) {
        plan->nodes[plan->n_nodes++] = (struct placement_node){.id = node->id};
    }
}

static bool plan_grow(struct plan *plan, size_t n)
{
    void *slices = plan->slices;
    void *revisions = plan->revisions;
    void *terms = plan->terms;
    void *collections = plan->collections;
    const size_t need = plan->n_slices + n;
    const bool ok = kith_grow(&slices, &plan->cap_slices, need, sizeof *plan->slices) &&
                    kith_grow(&revisions, &plan->cap_revisions, need, sizeof *plan->revisions) &&
                    kith_grow(&terms, &plan->cap_terms, need, sizeof *plan->terms) &&
                    kith_grow(&collections, &plan->cap_collections, need, sizeof(void *));
    plan->slices = slices;
    plan->revisions = revisions;
    plan->terms = terms;
    plan->collections = collections;
    return ok;
}

static void plan_collection(void *ctx, struct topology_collection *collection)
{
    struct plan *plan = ctx;
    if (plan->failed || !plan_grow(plan, collection->n_slices)) {
        plan->failed = true;
        return;
    }
    for (uint32_t i = 0; i < collection->n_slices; i++) {
        struct kith_slice_value value = {0};
        const uint64_t revision = read_slice(plan->leader, collection->id, i, &value);
        bool place = revision == 0;
        if (revision && !value.opened) {
            const struct topology_node *node = find_node(plan->leader, value.primary);
            place = !node || node->state == TOPOLOGY_GONE;
        }
        const size_t at = plan->n_slices++;
        plan->slices[at] = (struct placement_slice){
            .collection = collection->id, .slice = i, .node = place ? 0 : value.primary};
        plan->revisions[at] = revision;
        plan->terms[at] = value.term;
        plan->collections[at] = collection;
        plan->n_missing += place;
    }
}

/* The first collection's new slices, as far as one transaction holds. `was`: 0 where one is new. */
static void plan_commit(struct plan *plan, const uint64_t *was)
{
    struct batch *batch = batch_new(plan->leader);
    const struct topology_collection *collection = NULL;
    if (!batch) {
        kith_timer_start(plan->leader->retry, RETRY_MS, 0);
        return;
    }
    for (size_t i = 0; i < plan->n_slices && !batch_full(batch); i++) {
        if (was[i] || !plan->slices[i].node) {
            continue;
        }
        if (!collection) {
            /* A collection that was deleted or changed meanwhile gets no slices. */
            collection = plan->collections[i];
            kith_keys_collection(batch->collection_key, collection->name);
            batch->compares[batch->n_compares++] = (struct kith_registry_compare){
                .key = batch->collection_key, .revision = collection->revision};
        }
        if (plan->collections[i] != collection) {
            break;
        }
        const struct kith_slice_value value = {
            .term = plan->terms[i] + 1,
            .primary = plan->slices[i].node,
            .n_in_sync = 1,
            .n_replicas = 1,
            .in_sync = {plan->slices[i].node},
            .replicas = {plan->slices[i].node},
        };
        batch_put_slice(batch, collection->id, plan->slices[i].slice, plan->revisions[i], &value);
    }
    batch_commit(plan->leader, batch);
}

static void place(struct leader *leader)
{
    struct plan *plan = kith_alloc(sizeof *plan);
    uint64_t *was = NULL;
    if (!plan) {
        kith_timer_start(leader->retry, RETRY_MS, 0);
        return;
    }
    plan->leader = leader;
    topology_each_node(leader->cfg.topology, plan_node, plan);
    topology_each_collection(leader->cfg.topology, plan_collection, plan);
    if (plan->failed) {
        kith_timer_start(leader->retry, RETRY_MS, 0);
    } else if (plan->n_missing > 0 && plan->n_nodes > 0) {
        was = kith_alloc(plan->n_slices * sizeof *was);
        for (size_t i = 0; was && i < plan->n_slices; i++) {
            was[i] = plan->slices[i].node;
        }
        if (was) {
            placement_assign(plan->nodes, plan->n_nodes, plan->slices, plan->n_slices);
            plan_commit(plan, was);
        } else {
            kith_timer_start(leader->retry, RETRY_MS, 0);
        }
    }
    kith_free(was);
    kith_free(plan->slices);
    kith_free(plan->revisions);
    kith_free(plan->terms);
    kith_free(plan->collections);
    kith_free(plan);
}

/* ---- opening --------------------------------------------------------------------------------- */

static void opening_free(struct opening *opening)
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
    struct opening *opening = ctx;
    opening->err = err;
    opening->reply = reply;
    kith_inbox_put(opening->of->inbox, &opening->item);
}

static enum kith_err read_opened(const struct opening *opening, struct kith_msg_slices *out,
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
static bool mark_opened(struct leader *leader, const struct opening *opening,
                        const struct kith_msg_slices *slices)
{
    struct batch *batch = batch_new(leader);
    bool all = true;
    if (!batch) {
        return false;
    }
    for (uint32_t i = 0; i < slices->n_slices && !batch_full(batch); i++) {
        struct kith_slice_value value = {0};
        const struct kith_msg_slice *slice = &slices->slices[i];
        if (slice->err) {
            kith_log(WARN, "leader.open_failed", "slice=%" PRIu32 " node=%016" PRIx64 " error=%s",
                     slice->slice, opening->node, kith_err_name(slice->err));
            all = false;
        }
        const enum kith_err error = is_final(slice->err) ? slice->err : KITH_OK;
        const uint64_t revision =
            read_slice(leader, opening->msg.scope.collection, slice->slice, &value);
        if (revision && !value.opened && value.primary == opening->node &&
            (!slice->err || value.error != error)) {
            value.opened = !slice->err;
            value.error = error;
            batch_put_slice(batch, opening->msg.scope.collection, slice->slice, revision, &value);
        }
    }
    batch_commit(leader, batch);
    return all;
}

static void record(struct leader *leader, struct opening *opening)
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
        opening->rest_until_ms = kith_now_ms() + RETRY_MS;
        kith_timer_start(leader->retry, RETRY_MS, 0);
    }
    kith_free(slices);
}

/* Answers that came while a transaction was under way, and failures that have rested. */
static void record_all(struct leader *leader)
{
    struct opening *next = NULL;
    for (struct opening *opening = leader->openings; opening; opening = next) {
        next = opening->next;
        if (opening->answered && !leader->busy) {
            record(leader, opening);
        } else if (opening->rest_until_ms && opening->rest_until_ms <= kith_now_ms()) {
            opening_free(opening);
        } else if (opening->rest_until_ms) {
            kith_timer_start(leader->retry, RETRY_MS, 0);
        }
    }
}

static void on_opened(void *ctx, struct kith_inbox_item *item)
{
    struct leader *leader = ctx;
    struct opening *opening = (struct opening *)item;
    opening->answered = true;
    if (leader->closing) {
        opening_free(opening);
    } else if (!leader->busy) {
        step(leader);
    }
}

static struct kith_net_msg *open_frame(const struct leader *leader, const struct opening *opening)
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
    for (const struct opening *o = leader->openings; o; o = o->next) {
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
                      struct opening *opening)
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
        kith_timer_start(leader->retry, RETRY_MS, 0);
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
    struct opening *opening = kith_alloc(sizeof *opening);
    if (!opening) {
        kith_timer_start(leader->retry, RETRY_MS, 0);
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
        const uint64_t revision = read_slice(leader, collection->id, i, &value);
        if (revision && !value.opened && value.primary == open->node->id &&
            opening->msg.scope.n_slices < SLICES_PER_TXN) {
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

/* ---- tombstones ------------------------------------------------------------------------------ */

struct sweep {
    struct leader *leader;
    struct batch *batch;
};

static void note_any(void *ctx, const char *key, const struct kith_registry_value *value)
{
    (void)key;
    (void)value;
    *(bool *)ctx = true;
}

/* A node that removed a dropped slice removes the slice's key; a tombstone without any is done. */
static void on_tombstone(void *ctx, const char *key, const struct kith_registry_value *value)
{
    struct sweep *sweep = ctx;
    struct batch *batch = sweep->batch;
    uint64_t collection = 0;
    bool any = false;
    if (batch_full(batch) || !kith_keys_parse_dropped(key, &collection)) {
        return;
    }
    const size_t i = batch->n_changes;
    snprintf(batch->keys[i], KITH_KEY_BYTES, KITH_KEYS_SLICES "%016" PRIx64 "/", collection);
    kith_registry_each(sweep->leader->cfg.registry, batch->keys[i], note_any, &any);
    if (any) {
        return;
    }
    kith_keys_dropped(batch->keys[i], collection);
    batch->compares[batch->n_compares++] =
        (struct kith_registry_compare){.key = batch->keys[i], .revision = value->revision};
    batch->changes[batch->n_changes++] = (struct kith_registry_change){.key = batch->keys[i]};
}

static void sweep_tombstones(struct leader *leader)
{
    struct sweep sweep = {.leader = leader, .batch = batch_new(leader)};
    if (sweep.batch) {
        kith_registry_each(leader->cfg.registry, KITH_KEYS_DROPPED, on_tombstone, &sweep);
        batch_commit(leader, sweep.batch);
    }
}

/* ---- the loop -------------------------------------------------------------------------------- */

static void step(struct leader *leader)
{
    const struct kith_registry *registry = leader->cfg.registry;
    if (leader->busy || leader->closing || !kith_registry_synced(registry) ||
        !kith_registry_connected(registry) || !topology_cluster(leader->cfg.topology) ||
        !lead(leader)) {
        return;
    }
    record_all(leader);
    if (!leader->busy) {
        place(leader);
    }
    if (!leader->busy) {
        topology_each_node(leader->cfg.topology, open_node, leader);
    }
    if (!leader->busy) {
        sweep_tombstones(leader);
    }
}

enum kith_err leader_open(struct leader **out, const struct leader_cfg *cfg, struct kith_diag *diag)
{
    struct leader *leader = kith_alloc(sizeof *leader);
    if (!leader) {
        return kith_fail(diag, KITH_NOMEM, "leader");
    }
    leader->cfg = *cfg;
    leader->http_url = kith_strdup(cfg->http_url ? cfg->http_url : "");
    enum kith_err err = leader->http_url ? KITH_OK : kith_fail(diag, KITH_NOMEM, "leader");
    if (err) {
        goto out;
    }
    err = kith_timer_new(&leader->retry, cfg->loop, on_retry, leader);
    if (err) {
        kith_fail(diag, err, "leader timer");
        goto out;
    }
    err = kith_inbox_open(&leader->inbox, cfg->loop, on_opened, leader, diag);
    if (err) {
        goto out;
    }
    kith_registry_listen(cfg->registry, on_retry, leader);
    kith_timer_start(leader->retry, 0, 0);
    *out = leader;
    return KITH_OK;
out:
    leader->closing = true;
    leader_close(leader);
    return err;
}

void leader_close(struct leader *leader)
{
    if (!leader) {
        return;
    }
    leader->closing = true;
    kith_inbox_close(leader->inbox);
    while (leader->openings) { /* all were answered by now */
        kith_assert(leader->openings->answered || leader->openings->rest_until_ms);
        opening_free(leader->openings);
    }
    kith_timer_free(leader->retry);
    kith_free(leader->http_url);
    kith_free(leader);
}
