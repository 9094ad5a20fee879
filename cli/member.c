#include "cli/member.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "cli/identity.h"
#include "cli/slice_map.h"
#include "common/kith_inbox.h"
#include "common/kith_keys.h"
#include "common/kith_log.h"
#include "common/kith_mem.h"
#include "common/kith_request.h"
#include "shard/rpc/node.h"

#define RETRY_MS 1000u
#define DROP_MS  30000u /* removing the files of many slices */
#define MAP_MS   1000u  /* between two readings of the whole map */

enum letter_kind { LETTER_READY, LETTER_DROPPED };

struct letter {
    struct kith_inbox_item item; /* first */
    enum letter_kind kind;
    enum kith_err err;
    struct kith_net_msg *reply;
};

/* The slices of one dropped collection that this node has to remove. */
struct drop {
    bool busy; /* DROP was sent, or its keys are being removed */
    struct kith_msg_scope scope;
    uint64_t revisions[KITH_SLICES_PER_COLLECTION_MAX];
};

struct member {
    struct member_cfg cfg; /* with texts of its own: the node may open much later */
    char *data_dir, *listen_url, *advertise_url, *name;
    struct identity identity;
    struct node *node;
    struct kith_net_peer *self; /* to ask the node what others ask it */
    struct kith_inbox *inbox;
    struct kith_timer *retry;
    struct kith_timer *mapping; /* runs after a reading of the map: the next one waits for it */
    uint64_t mapped_revision;   /* of the registry, at the last reading */
    bool map_rests;
    struct drop *drop;
    struct letter ready, dropped;
    bool is_ready;
    bool has_failed;
    bool closing;
};

static void fail(struct member *member, enum kith_err err, const struct kith_diag *diag)
{
    if (!member->has_failed) {
        member->has_failed = true;
        member->cfg.failed(member->cfg.ctx, err, diag);
    }
}

const char *member_url(const struct member *member)
{
    if (!member->node) {
        return "";
    }
    return member->cfg.advertise_url ? member->cfg.advertise_url : node_url(member->node);
}

static void announce(struct member *member)
{
    char key[KITH_KEY_BYTES];
    struct kith_buf text = {0};
    struct kith_node_value value = {.ready = member->is_ready, .version = KITH_VERSION};
    snprintf(value.url, sizeof value.url, "%s", member_url(member));
    snprintf(value.name, sizeof value.name, "%s", member->cfg.name);
    kith_keys_node(key, member->identity.node);
    kith_keys_write_node(&text, &value);
    if (text.failed || kith_registry_announce(member->cfg.registry, key, (const char *)text.data)) {
        kith_timer_start(member->retry, RETRY_MS, 0);
    }
    kith_buf_fini(&text);
}

/* ---- which node has what --------------------------------------------------------------------- */

/* Many changes come one by one, and each reading looks at all slices: at most one a second. */
static void map_step(struct member *member)
{
    struct node_map map;
    struct kith_diag diag = {0};
    const uint64_t revision = kith_registry_revision(member->cfg.registry);
    if (member->map_rests || !kith_registry_synced(member->cfg.registry) ||
        revision == member->mapped_revision) {
        return;
    }
    enum kith_err err =
        slice_map_read(&map, member->cfg.registry, member->identity.node, &diag);
    if (!err) {
        err = node_set_map(member->node, &map, &diag);
        slice_map_fini(&map);
    }
    if (err) {
        kith_log(WARN, "member.no_map", "error=\"%s\"", diag.text);
    } else {
        member->mapped_revision = revision;
    }
    member->map_rests = true;
    kith_timer_start(member->mapping, MAP_MS, 0);
}

static void on_mapping(void *ctx)
{
    struct member *member = ctx;
    member->map_rests = false;
    if (!member->closing) {
        map_step(member);
    }
}

/* ---- removing what was dropped --------------------------------------------------------------- */

static void collect_slice(void *ctx, const char *key, const struct kith_registry_value *text)
{
    struct member *member = ctx;
    struct drop *drop = member->drop;
    struct kith_slice_value value;
    uint64_t collection = 0;
    uint32_t slice = 0;
    /* One transaction holds a comparison and a change for each. */
    if (drop->scope.n_slices < KITH_REGISTRY_TXN_MAX &&
        kith_keys_parse_slice(key, &collection, &slice) &&
        !kith_keys_read_slice(text->text, text->len, &value) &&
        value.primary == member->identity.node) {
        drop->revisions[drop->scope.n_slices] = text->revision;
        drop->scope.slices[drop->scope.n_slices++] = slice;
    }
}

static void collect_dropped(void *ctx, const char *key, const struct kith_registry_value *value)
{
    struct member *member = ctx;
    struct drop *drop = member->drop;
    uint64_t collection = 0;
    (void)value;
    if (drop->scope.n_slices > 0 || !kith_keys_parse_dropped(key, &collection)) {
        return; /* one collection at a time */
    }
    char prefix[KITH_KEY_BYTES];
    drop->scope.collection = collection;
    snprintf(prefix, sizeof prefix, KITH_KEYS_SLICES "%016" PRIx64 "/", collection);
    kith_registry_each(member->cfg.registry, prefix, collect_slice, member);
}

/* On any thread. */
static void on_drop_reply(void *ctx, enum kith_err err, struct kith_net_msg *reply)
{
    struct member *member = ctx;
    member->dropped.err = err;
    member->dropped.reply = reply;
    kith_inbox_put(member->inbox, &member->dropped.item);
}

static bool send_drop(struct member *member)
{
    const struct kith_frame frame = {.cluster = member->identity.cluster,
                                     .request = kith_keys_random_id(),
                                     .deadline_ms = DROP_MS,
                                     .message = KITH_MSG_DROP};
    struct kith_writer w;
    struct kith_net_msg *msg = kith_request_begin(&w);
    if (!w.failed) {
        kith_msg_write_scope_only(&w, &member->drop->scope);
    }
    if (kith_request_end(msg, &w, &frame) &&
        !kith_net_ask(member->self, msg, DROP_MS, on_drop_reply, member)) {
        return true;
    }
    kith_net_msg_free(msg);
    return false;
}

static void drop_step(struct member *member)
{
    struct drop *drop = member->drop;
    if (drop->busy || !member->is_ready || member->closing) {
        return;
    }
    drop->scope.n_slices = 0;
    kith_registry_each(member->cfg.registry, KITH_KEYS_DROPPED, collect_dropped, member);
    if (drop->scope.n_slices == 0) {
        return;
    }
    drop->busy = send_drop(member);
    if (!drop->busy) {
        kith_timer_start(member->retry, RETRY_MS, 0);
    }
}

static void on_keys_removed(void *ctx, enum kith_err err, const struct kith_diag *diag)
{
    struct member *member = ctx;
    (void)diag;
    member->drop->busy = false;
    if (!member->closing && err != KITH_CANCELLED) {
        kith_timer_start(member->retry, err ? RETRY_MS : 0, 0);
    }
}

/* The slices that the node no longer has: their keys go. */
static void remove_keys(struct member *member, const struct kith_msg_slices *slices)
{
    struct drop *drop = member->drop;
    struct work {
        char keys[KITH_REGISTRY_TXN_MAX][KITH_KEY_BYTES];
        struct kith_registry_compare compares[KITH_REGISTRY_TXN_MAX];
        struct kith_registry_change changes[KITH_REGISTRY_TXN_MAX];
    } *work = kith_alloc(sizeof *work);
    size_t n = 0;
    for (uint32_t i = 0; work && i < drop->scope.n_slices; i++) {
        bool gone = false;
        for (uint32_t j = 0; j < slices->n_slices; j++) {
            gone |= slices->slices[j].slice == drop->scope.slices[i] && !slices->slices[j].err;
        }
        if (gone) {
            kith_keys_slice(work->keys[n], drop->scope.collection, drop->scope.slices[i]);
            work->compares[n] = (struct kith_registry_compare){.key = work->keys[n],
                                                               .revision = drop->revisions[i]};
            work->changes[n] = (struct kith_registry_change){.key = work->keys[n]};
            n++;
        }
    }
    if (n > 0) {
        kith_log(INFO, "member.dropped", "collection=%016" PRIx64 " slices=%zu",
                 drop->scope.collection, n);
        kith_registry_commit(member->cfg.registry, work->compares, n, work->changes, n,
                             on_keys_removed, member);
    } else {
        drop->busy = false;
        kith_timer_start(member->retry, RETRY_MS, 0);
    }
    kith_free(work);
}

static void on_dropped(struct member *member)
{
    struct kith_net_msg *reply = member->dropped.reply;
    struct kith_msg_slices *slices = kith_alloc(sizeof *slices);
    struct kith_bytes body;
    member->dropped.reply = NULL;
    const bool ok =
        slices && reply && !member->closing &&
        !kith_request_reply(reply, member->identity.cluster, KITH_MSG_DROP, &body, NULL) &&
        kith_msg_read_slices_only(body, slices);
    if (ok) {
        remove_keys(member, slices);
    } else {
        member->drop->busy = false;
        kith_timer_start(member->retry, RETRY_MS, 0);
    }
    kith_net_msg_free(reply);
    kith_free(slices);
}

/* ---- joining --------------------------------------------------------------------------------- */

/* On a thread of the node. */
static void on_node_ready(void *ctx)
{
    struct member *member = ctx;
    kith_inbox_put(member->inbox, &member->ready.item);
}

static enum kith_err start(struct member *member, struct kith_diag *diag)
{
    const struct node_options options = {
        .data_dir = member->cfg.data_dir,
        .listen_url = member->cfg.listen_url,
        .cluster = member->identity.cluster,
        .threads = member->cfg.threads,
        .memory_lock_bytes = member->cfg.memory_lock_bytes,
        .mapped = true,
        .recall_one_in = member->cfg.recall_one_in,
        .metrics = member->cfg.metrics,
        .on_ready = on_node_ready,
        .on_ready_ctx = member,
    };
    enum kith_err err = node_open(&member->node, &options, diag);
    err = err ? err : kith_net_dial(&member->self, node_url(member->node), diag);
    if (!err) {
        announce(member);
    }
    return err;
}

static void join_cluster(struct member *member)
{
    struct kith_diag diag = {0};
    const uint64_t cluster = kith_keys_cluster(member->cfg.registry);
    if (!cluster || member->has_failed) {
        return;
    }
    enum kith_err err = KITH_OK;
    if (!member->identity.cluster) {
        member->identity.cluster = cluster;
        err = identity_save(&member->identity, member->cfg.data_dir, &diag);
        err = err ? err : start(member, &diag);
    } else if (member->identity.cluster != cluster) {
        err = kith_fail(&diag, KITH_CONFLICT,
                        "%.200s belongs to another cluster (%016" PRIx64 ", not %016" PRIx64 ")",
                        member->cfg.data_dir, member->identity.cluster, cluster);
    }
    if (err) {
        fail(member, err, &diag);
    }
}

static void on_registry(void *ctx)
{
    struct member *member = ctx;
    if (member->closing || member->has_failed) {
        return;
    }
    join_cluster(member);
    if (member->node) {
        map_step(member);
        drop_step(member);
    }
}

static void on_retry(void *ctx)
{
    struct member *member = ctx;
    if (member->node && !member->closing) {
        announce(member);
    }
    on_registry(member);
}

static void on_letter(void *ctx, struct kith_inbox_item *item)
{
    struct member *member = ctx;
    const struct letter *letter = (const struct letter *)item;
    if (letter->kind == LETTER_DROPPED) {
        on_dropped(member);
        return;
    }
    member->is_ready = true;
    if (!member->closing) {
        announce(member);
        member->cfg.ready(member->cfg.ctx);
        drop_step(member);
    }
}

/* ---- opening --------------------------------------------------------------------------------- */

static bool copy_texts(struct member *member)
{
    struct member_cfg *cfg = &member->cfg;
    const bool has_advertise = cfg->advertise_url != NULL;
    cfg->data_dir = member->data_dir = kith_strdup(cfg->data_dir);
    cfg->listen_url = member->listen_url = kith_strdup(cfg->listen_url);
    cfg->name = member->name = kith_strdup(cfg->name);
    if (has_advertise) {
        cfg->advertise_url = member->advertise_url = kith_strdup(cfg->advertise_url);
    }
    return cfg->data_dir && cfg->listen_url && cfg->name && (cfg->advertise_url || !has_advertise);
}

enum kith_err member_open(struct member **out, const struct member_cfg *cfg, struct kith_diag *diag)
{
    struct member *member = kith_alloc(sizeof *member);
    if (!member) {
        return kith_fail(diag, KITH_NOMEM, "member");
    }
    member->cfg = *cfg;
    member->ready.kind = LETTER_READY;
    member->dropped.kind = LETTER_DROPPED;
    member->drop = kith_alloc(sizeof *member->drop);
    enum kith_err err =
        member->drop && copy_texts(member) ? KITH_OK : kith_fail(diag, KITH_NOMEM, "member");
    err = err ? err : identity_load(&member->identity, cfg->data_dir, diag);
    err = err ? err : kith_inbox_open(&member->inbox, cfg->loop, on_letter, member, diag);
    if (!err) {
        err = kith_timer_new(&member->retry, cfg->loop, on_retry, member);
        err = err ? err : kith_timer_new(&member->mapping, cfg->loop, on_mapping, member);
        if (err) {
            kith_fail(diag, err, "member timer");
        }
    }
    /* A node that knows its cluster does not wait for the registry. */
    if (!err && member->identity.cluster) {
        err = start(member, diag);
    }
    if (err) {
        member_close(member);
        return err;
    }
    kith_registry_listen(cfg->registry, on_registry, member);
    kith_timer_start(member->retry, 0, 0);
    *out = member;
    return KITH_OK;
}

void member_close(struct member *member)
{
    if (!member) {
        return;
    }
    member->closing = true;
    kith_net_peer_close(member->self);
    node_close(member->node);
    kith_inbox_close(member->inbox);
    kith_timer_free(member->retry);
    kith_timer_free(member->mapping);
    kith_free(member->drop);
    kith_free(member->data_dir);
    kith_free(member->listen_url);
    kith_free(member->advertise_url);
    kith_free(member->name);
    kith_free(member);
}
