#include <inttypes.h>
#include <string.h>

#include "common/kith_clock.h"
#include "common/kith_etcd_decode.h"
#include "common/kith_etcd_encode.h"
#include "common/kith_log.h"
#include "common/kith_mem.h"
#include "common/kith_registry_etcd_impl.h"
#include "proto/kith_limits.h"

#define RETRY_MS 1000u

/* ---- transactions ---------------------------------------------------------------------------- */

static void unlink_txn(struct kith_registry_txn **list, struct kith_registry_txn *txn)
{
    while (*list != txn) {
        kith_assert(*list);
        list = &(*list)->next;
    }
    *list = txn->next;
    txn->next = NULL;
}

static void push_txn(struct kith_registry_txn **list, struct kith_registry_txn *txn)
{
    while (*list) {
        list = &(*list)->next;
    }
    txn->next = NULL;
    *list = txn;
}

void kith_registry_etcd_txn_settle(struct registry_etcd *etcd)
{
    struct kith_registry_txn *ready = NULL;
    struct kith_registry_txn *next = NULL;
    for (struct kith_registry_txn *txn = etcd->waiting; txn; txn = next) {
        next = txn->next;
        if (txn->revision <= etcd->base.revision) {
            unlink_txn(&etcd->waiting, txn);
            push_txn(&ready, txn);
        }
    }
    for (; ready; ready = next) {
        next = ready->next;
        kith_registry_finish(ready, KITH_OK, NULL);
    }
}

void kith_registry_etcd_txn_expire(void *ctx)
{
    struct registry_etcd *etcd = ctx;
    const uint64_t now_ms = kith_now_ms();
    struct kith_registry_txn *late = etcd->early;
    struct kith_registry_txn *next = NULL;
    etcd->early = NULL;
    for (struct kith_registry_txn *txn = etcd->waiting; txn; txn = next) {
        next = txn->next;
        if (txn->deadline_ms <= now_ms) {
            unlink_txn(&etcd->waiting, txn);
            txn->err = kith_fail(&txn->diag, KITH_UNAVAILABLE,
                                 "etcd took the change, but did not show it in time");
            push_txn(&late, txn);
        }
    }
    if (etcd->waiting) {
        kith_timer_start(etcd->expire_timer, RETRY_MS, 0);
    }
    for (; late; late = next) {
        next = late->next;
        kith_registry_finish(late, late->err, &late->diag);
    }
}

static void on_txn(void *ctx, enum kith_err err, const struct kith_http_response *response,
                   const struct kith_diag *diag)
{
    struct kith_registry_txn *txn = ctx;
    struct registry_etcd *etcd = etcd_of(txn->of);
    struct kith_etcd_txn answer = {0};
    unlink_txn(&etcd->asked, txn);
    if (err == KITH_CANCELLED) {
        kith_registry_finish(txn, KITH_CANCELLED, diag);
        return;
    }
    if (err) {
        err = kith_fail(&txn->diag, KITH_UNAVAILABLE,
                        "etcd did not answer, the change may have happened: %.200s", diag->text);
    } else {
        err = kith_etcd_read_txn((const char *)response->body.data, response->body.len, &answer,
                                 &txn->diag);
    }
    if (err == KITH_UNAVAILABLE && strstr(txn->diag.text, "lease not found")) {
        kith_registry_etcd_lost_lease(etcd);
        kith_registry_etcd_beat_now(etcd);
    }
    if (!err && !answer.succeeded) {
        err = kith_fail(&txn->diag, KITH_CONFLICT, "registry: %s was changed meanwhile",
                        txn->n_compares ? txn->compares[0].key : "a key");
    }
    if (err || !answer.changed || answer.header.revision <= etcd->base.revision) {
        kith_registry_finish(txn, err, &txn->diag);
        return;
    }
    txn->revision = answer.header.revision;
    txn->deadline_ms = kith_now_ms() + KITH_REGISTRY_ETCD_MS;
    push_txn(&etcd->waiting, txn);
    kith_timer_start(etcd->expire_timer, RETRY_MS, 0);
}

static bool has_leased(const struct kith_registry_txn *txn)
{
    for (size_t i = 0; i < txn->n_changes; i++) {
        if (txn->changes[i].leased) {
            return true;
        }
    }
    return false;
}

void kith_registry_etcd_txn_commit(struct kith_registry *registry, struct kith_registry_txn *txn)
{
    struct registry_etcd *etcd = etcd_of(registry);
    if (!txn->err && !etcd->base.connected) {
        txn->err = kith_fail(&txn->diag, KITH_UNAVAILABLE, "etcd is away: the map cannot change");
    }
    if (!txn->err && !etcd->lease && has_leased(txn)) {
        txn->err = kith_fail(&txn->diag, KITH_UNAVAILABLE, "etcd has given no lease yet");
    }
    if (!txn->err) {
        const struct kith_etcd_txn_spec spec = {
            .compares = txn->compares,
            .changes = txn->changes,
            .n_compares = txn->n_compares,
            .n_changes = txn->n_changes,
            .lease = etcd->lease,
        };
        struct kith_buf body = {0};
        struct kith_http_call *call = NULL;
        kith_etcd_write_txn(&body, etcd->prefix, &spec);
        txn->err = kith_registry_etcd_ask(etcd, "/v3/kv/txn", &body, KITH_REGISTRY_ETCD_MS, on_txn,
                                          txn, &call);
        kith_buf_fini(&body);
    }
    if (txn->err) {
        push_txn(&etcd->early, txn);
        kith_timer_start(etcd->expire_timer, 0, 0);
    } else {
        push_txn(&etcd->asked, txn);
    }
}

/* ---- announcing ------------------------------------------------------------------------------ */

static void on_announced(void *ctx, enum kith_err err, const struct kith_diag *diag)
{
    struct announced *announced = ctx;
    (void)diag;
    announced->busy = false;
    if (err && !announced->etcd->closing) {
        kith_timer_start(announced->etcd->announce_timer, RETRY_MS, 0);
    } else if (!announced->etcd->closing) {
        kith_timer_start(announced->etcd->announce_timer, 0, 0); /* the value may have changed */
    }
}

static void announce_one(struct registry_etcd *etcd, struct announced *announced)
{
    const struct kith_registry_entry *entry =
        kith_registry_mirror_get(&etcd->base.mirror, announced->key);
    if (announced->busy) {
        return;
    }
    if (entry && entry->lease != etcd->lease) {
        if (!announced->told) {
            kith_log(INFO, "registry.key_held",
                     "key=%s: waiting for the lease of its holder to end", announced->key);
        }
        announced->told = true;
        return;
    }
    announced->told = false;
    if (entry && strcmp(entry->text, announced->value) == 0) {
        return;
    }
    const struct kith_registry_compare compare = {.key = announced->key,
                                                  .revision = entry ? entry->revision : 0};
    const struct kith_registry_change change = {
        .key = announced->key, .value = announced->value, .leased = true};
    announced->busy = true;
    kith_registry_commit(&etcd->base, &compare, 1, &change, 1, on_announced, announced);
}

void kith_registry_etcd_txn_announce_all(struct registry_etcd *etcd)
{
    for (size_t i = 0; i < etcd->n_announced && etcd->base.connected && etcd->lease; i++) {
        announce_one(etcd, &etcd->announced[i]);
    }
}

void kith_registry_etcd_txn_on_announce(void *ctx)
{
    kith_registry_etcd_txn_announce_all(ctx);
}

enum kith_err kith_registry_etcd_txn_announce(struct kith_registry *registry, const char *key,
                                              const char *value)
{
    struct registry_etcd *etcd = etcd_of(registry);
    size_t i = 0;
    while (i < etcd->n_announced && strcmp(etcd->announced[i].key, key) != 0) {
        i++;
    }
    kith_assert(i < KITH_REGISTRY_ANNOUNCED_MAX);
    char *copy = kith_strdup(value);
    char *name = i == etcd->n_announced ? kith_strdup(key) : NULL;
    if (!copy || (i == etcd->n_announced && !name)) {
        kith_free(copy);
        kith_free(name);
        return KITH_NOMEM;
    }
    struct announced *announced = &etcd->announced[i];
    if (name) {
        *announced = (struct announced){.etcd = etcd, .key = name};
        etcd->n_announced++;
    }
    kith_free(announced->value);
    announced->value = copy;
    kith_timer_start(etcd->announce_timer, 0, 0);
    return KITH_OK;
}

static void cancel_all(struct kith_registry_txn **list)
{
    while (*list) {
        struct kith_registry_txn *txn = *list;
        *list = txn->next;
        kith_registry_finish(txn, KITH_CANCELLED, NULL);
    }
}

void kith_registry_etcd_txn_cancel_all(struct registry_etcd *etcd)
{
    cancel_all(&etcd->early);
    cancel_all(&etcd->waiting);
}
