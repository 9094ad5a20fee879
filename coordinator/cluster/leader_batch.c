/* Transactions of the leader. Each compares the leader's key, so that one who was cut off and
 * replaced changes nothing, and each slice's key, so that nothing is overwritten unseen. */
#include "common/kith_log.h"
#include "common/kith_mem.h"
#include "coordinator/cluster/leader_impl.h"

uint64_t leader_read_slice(const struct leader *leader, uint64_t collection, uint32_t slice,
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
    kith_timer_start(leader->retry, err ? LEADER_RETRY_MS : 0, 0);
}

void leader_commit(struct leader *leader, const struct kith_registry_compare *compares,
                   size_t n_compares, const struct kith_registry_change *changes, size_t n_changes)
{
    leader->busy = true;
    kith_registry_commit(leader->cfg.registry, compares, n_compares, changes, n_changes,
                         on_committed, leader);
}

struct leader_batch *leader_batch_new(const struct leader *leader)
{
    struct leader_batch *batch = kith_alloc(sizeof *batch);
    if (batch) {
        batch->compares[batch->n_compares++] =
            (struct kith_registry_compare){.key = KITH_KEYS_LEADER, .revision = leader->revision};
    }
    return batch;
}

bool leader_batch_full(const struct leader_batch *batch)
{
    return batch->n_changes == LEADER_BATCH_SLICES;
}

void leader_batch_put_slice(struct leader_batch *batch, uint64_t collection, uint32_t slice,
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

void leader_batch_commit(struct leader *leader, struct leader_batch *batch)
{
    if (batch->failed) {
        leader_step_later(leader);
    } else if (batch->n_changes > 0) {
        leader_commit(leader, batch->compares, batch->n_compares, batch->changes, batch->n_changes);
    }
    for (size_t i = 0; i < batch->n_changes; i++) {
        kith_buf_fini(&batch->values[i]);
    }
    kith_free(batch);
}
