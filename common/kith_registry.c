#include "common/kith_registry.h"

#include <string.h>

#include "common/kith_mem.h"
#include "common/kith_registry_impl.h"
#include "proto/kith_limits.h"

static void tell_listeners(void *ctx)
{
    struct kith_registry *registry = ctx;
    for (size_t i = 0; i < KITH_REGISTRY_LISTENERS; i++) {
        if (registry->listeners[i].fn) {
            registry->listeners[i].fn(registry->listeners[i].ctx);
        }
    }
}

enum kith_err kith_registry_init(struct kith_registry *registry,
                                 const struct kith_registry_ops *ops, struct kith_loop *loop,
                                 struct kith_diag *diag)
{
    registry->ops = ops;
    registry->loop = loop;
    const enum kith_err err = kith_timer_new(&registry->tell, loop, tell_listeners, registry);
    return err ? kith_fail(diag, err, "registry timer") : KITH_OK;
}

void kith_registry_fini(struct kith_registry *registry)
{
    kith_timer_free(registry->tell);
    kith_registry_mirror_fini(&registry->mirror);
}

void kith_registry_changed(struct kith_registry *registry)
{
    kith_timer_start(registry->tell, 0, 0);
}

void kith_registry_close(struct kith_registry *registry)
{
    if (registry) {
        registry->ops->close(registry);
    }
}

bool kith_registry_synced(const struct kith_registry *registry)
{
    return registry->synced;
}

bool kith_registry_connected(const struct kith_registry *registry)
{
    return registry->connected;
}

uint64_t kith_registry_revision(const struct kith_registry *registry)
{
    return registry->revision;
}

const char *kith_registry_trouble(const struct kith_registry *registry)
{
    return registry->troubled ? registry->trouble.text : NULL;
}

static struct kith_registry_value value_of(const struct kith_registry_entry *entry)
{
    return (struct kith_registry_value){
        .text = entry->text, .len = entry->len, .revision = entry->revision};
}

bool kith_registry_get(const struct kith_registry *registry, const char *key,
                       struct kith_registry_value *out)
{
    const struct kith_registry_entry *entry = kith_registry_mirror_get(&registry->mirror, key);
    if (!entry) {
        return false;
    }
    *out = value_of(entry);
    return true;
}

void kith_registry_each(const struct kith_registry *registry, const char *prefix,
                        kith_registry_each_fn fn, void *ctx)
{
    const struct kith_registry_mirror *mirror = &registry->mirror;
    const size_t len = strlen(prefix);
    for (size_t i = kith_registry_mirror_seek(mirror, prefix);
         i < mirror->n && strncmp(mirror->entries[i].key, prefix, len) == 0; i++) {
        const struct kith_registry_value value = value_of(&mirror->entries[i]);
        fn(ctx, mirror->entries[i].key, &value);
    }
}

bool kith_registry_key_ok(const char *key)
{
    const size_t len = strnlen(key, KITH_REGISTRY_KEY_MAX + 1);
    if (len == 0 || len > KITH_REGISTRY_KEY_MAX) {
        return false;
    }
    for (size_t i = 0; i < len; i++) {
        if (key[i] <= ' ' || key[i] == 0x7f) { /* signed or not: plain ASCII is all we write */
            return false;
        }
    }
    return true;
}

void kith_registry_finish(struct kith_registry_txn *txn, enum kith_err err,
                          const struct kith_diag *diag)
{
    static const struct kith_diag none;
    if (txn->done) {
        txn->done(txn->ctx, err, diag ? diag : &none);
    }
    kith_arena_fini(&txn->arena);
    kith_free(txn);
}

enum kith_err kith_registry_compare_all(const struct kith_registry_mirror *mirror,
                                        const struct kith_registry_txn *txn, struct kith_diag *diag)
{
    for (size_t i = 0; i < txn->n_compares; i++) {
        const struct kith_registry_compare *compare = &txn->compares[i];
        const struct kith_registry_entry *entry = kith_registry_mirror_get(mirror, compare->key);
        if ((entry ? entry->revision : 0) != compare->revision) {
            return kith_fail(diag, KITH_CONFLICT, "registry: %s was changed meanwhile",
                             compare->key);
        }
    }
    return KITH_OK;
}

static const char *copy_text(struct kith_registry_txn *txn, const char *text, bool *failed)
{
    const char *copy = kith_arena_text(&txn->arena, text, strlen(text));
    *failed |= !copy;
    return copy;
}

static bool copy_txn(struct kith_registry_txn *txn, const struct kith_registry_compare *compares,
                     const struct kith_registry_change *changes)
{
    struct kith_registry_compare *own_compares =
        kith_arena_array(&txn->arena, txn->n_compares + 1, sizeof *own_compares);
    struct kith_registry_change *own_changes =
        kith_arena_array(&txn->arena, txn->n_changes + 1, sizeof *own_changes);
    if (!own_compares || !own_changes) {
        return false;
    }
    bool failed = false;
    for (size_t i = 0; i < txn->n_compares; i++) {
        own_compares[i].revision = compares[i].revision;
        own_compares[i].key = copy_text(txn, compares[i].key, &failed);
    }
    for (size_t i = 0; i < txn->n_changes; i++) {
        own_changes[i].leased = changes[i].leased;
        own_changes[i].key = copy_text(txn, changes[i].key, &failed);
        own_changes[i].value = changes[i].value ? copy_text(txn, changes[i].value, &failed) : NULL;
    }
    txn->compares = own_compares;
    txn->changes = own_changes;
    return !failed;
}

static enum kith_err check_txn(const struct kith_registry_txn *txn, struct kith_diag *diag)
{
    for (size_t i = 0; i < txn->n_compares; i++) {
        if (!kith_registry_key_ok(txn->compares[i].key)) {
            return kith_fail(diag, KITH_TOO_BIG, "registry: not a key: %.64s",
                             txn->compares[i].key);
        }
    }
    for (size_t i = 0; i < txn->n_changes; i++) {
        const struct kith_registry_change *change = &txn->changes[i];
        if (!kith_registry_key_ok(change->key)) {
            return kith_fail(diag, KITH_TOO_BIG, "registry: not a key: %.64s", change->key);
        }
        if (change->value && strlen(change->value) > KITH_REGISTRY_VALUE_MAX) {
            return kith_fail(diag, KITH_TOO_BIG, "registry: %s: more than %u bytes", change->key,
                             KITH_REGISTRY_VALUE_MAX);
        }
    }
    return KITH_OK;
}

void kith_registry_commit(struct kith_registry *registry,
                          const struct kith_registry_compare *compares, size_t n_compares,
                          const struct kith_registry_change *changes, size_t n_changes,
                          kith_registry_done_fn done, void *ctx)
{
    static const struct kith_diag none;
    struct kith_registry_txn *txn = kith_alloc(sizeof *txn);
    if (!txn) {
        if (done) {
            done(ctx, KITH_NOMEM, &none);
        }
        return;
    }
    txn->of = registry;
    txn->done = done;
    txn->ctx = ctx;
    if (n_compares > KITH_REGISTRY_TXN_MAX || n_changes > KITH_REGISTRY_TXN_MAX) {
        txn->err = kith_fail(&txn->diag, KITH_TOO_BIG, "registry: more than %u changes at once",
                             KITH_REGISTRY_TXN_MAX);
    } else {
        txn->n_compares = n_compares;
        txn->n_changes = n_changes;
        if (!copy_txn(txn, compares, changes)) {
            kith_registry_finish(txn, KITH_NOMEM, NULL);
            return;
        }
        txn->err = check_txn(txn, &txn->diag);
    }
    registry->ops->commit(registry, txn);
}

enum kith_err kith_registry_announce(struct kith_registry *registry, const char *key,
                                     const char *value)
{
    kith_assert(kith_registry_key_ok(key));
    return registry->ops->announce(registry, key, value);
}

void kith_registry_listen(struct kith_registry *registry, kith_registry_event_fn fn, void *ctx)
{
    size_t at = 0;
    while (at < KITH_REGISTRY_LISTENERS && registry->listeners[at].fn) {
        at++;
    }
    kith_assert(at < KITH_REGISTRY_LISTENERS);
    registry->listeners[at].fn = fn;
    registry->listeners[at].ctx = ctx;
}

void kith_registry_unlisten(struct kith_registry *registry, kith_registry_event_fn fn, void *ctx)
{
    for (size_t i = 0; i < KITH_REGISTRY_LISTENERS; i++) {
        if (registry->listeners[i].fn == fn && registry->listeners[i].ctx == ctx) {
            registry->listeners[i].fn = NULL;
            registry->listeners[i].ctx = NULL;
        }
    }
}
