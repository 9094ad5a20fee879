#include "coordinator/cluster/leader.h"

#include <inttypes.h>
#include <stdio.h>

#include "common/kith_log.h"
#include "common/kith_mem.h"
#include "coordinator/cluster/leader_impl.h"

/* A loop of small steps: after each change of the registry, and a second after anything failed, do
 * the first thing that is not as it should be. One transaction is under way at a time; its result
 * changes the mirror, which brings the next step. So there is no plan to lose in a crash: the next
 * leader looks at the same keys and goes on.
 *
 * A slice's life: no key -> {primary, opened: false} -> OPEN answered by the primary ->
 * {opened: true}. While a slice is not opened nothing can be in it, so it may be placed again
 * if its node has gone. A node whose disk is full says so, and that is written into the key. */

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
        leader_commit(leader, &absent, 1, &put, 1);
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

/* ---- tombstones ------------------------------------------------------------------------------ */

struct sweep {
    struct leader *leader;
    struct leader_batch *batch;
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
    struct leader_batch *batch = sweep->batch;
    uint64_t collection = 0;
    bool any = false;
    if (leader_batch_full(batch) || !kith_keys_parse_dropped(key, &collection)) {
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
    struct sweep sweep = {.leader = leader, .batch = leader_batch_new(leader)};
    if (sweep.batch) {
        kith_registry_each(leader->cfg.registry, KITH_KEYS_DROPPED, on_tombstone, &sweep);
        leader_batch_commit(leader, sweep.batch);
    }
}

/* ---- the loop -------------------------------------------------------------------------------- */

void leader_step(struct leader *leader)
{
    const struct kith_registry *registry = leader->cfg.registry;
    if (leader->busy || leader->closing || !kith_registry_synced(registry) ||
        !kith_registry_connected(registry) || !topology_cluster(leader->cfg.topology) ||
        !lead(leader)) {
        return;
    }
    leader_record_openings(leader);
    if (!leader->busy) {
        leader_place(leader);
    }
    if (!leader->busy) {
        leader_open_slices(leader);
    }
    if (!leader->busy) {
        sweep_tombstones(leader);
    }
}

static void on_retry(void *ctx)
{
    leader_step(ctx);
}

void leader_step_later(struct leader *leader)
{
    kith_timer_start(leader->retry, LEADER_RETRY_MS, 0);
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
    err = kith_inbox_open(&leader->inbox, cfg->loop, leader_on_opened, leader, diag);
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
    leader_drop_openings(leader); /* all were answered by now */
    kith_timer_free(leader->retry);
    kith_free(leader->http_url);
    kith_free(leader);
}
