/* What the registry's two implementations share; included by kith_registry*.c only.
 *
 * Owns: the mirror, the queue of listeners, copies of transactions. Threads: loop only. */
#ifndef KITH_REGISTRY_IMPL_H
#define KITH_REGISTRY_IMPL_H

#include "common/kith_arena.h"
#include "common/kith_registry.h"
#include "common/kith_registry_mirror.h"

#define KITH_REGISTRY_LISTENERS 8

/* A commit, copied and checked. */
struct kith_registry_txn {
    struct kith_registry_txn *next;
    struct kith_arena arena;
    const struct kith_registry_compare *compares;
    const struct kith_registry_change *changes;
    size_t n_compares, n_changes;
    kith_registry_done_fn done;
    void *ctx;
    enum kith_err err; /* known before it started: a limit */
    struct kith_diag diag;

    uint64_t revision;    /* etcd: wait until the mirror is here */
    uint64_t deadline_ms; /* etcd */
    void *extra;          /* etcd: the call under way */
    struct kith_registry *of;
};

struct kith_registry_ops {
    void (*close)(struct kith_registry *registry); /* frees the whole */
    void (*commit)(struct kith_registry *registry, struct kith_registry_txn *txn); /* takes txn */
    enum kith_err (*announce)(struct kith_registry *registry, const char *key, const char *value);
};

struct kith_registry {
    const struct kith_registry_ops *ops;
    struct kith_loop *loop;
    struct kith_registry_mirror mirror;
    uint64_t revision;
    bool synced;
    bool connected;
    bool troubled;
    struct kith_diag trouble;
    struct kith_timer *tell; /* runs the listeners in the next turn */
    struct {
        kith_registry_event_fn fn;
        void *ctx;
    } listeners[KITH_REGISTRY_LISTENERS];
};

enum kith_err kith_registry_init(struct kith_registry *registry,
                                 const struct kith_registry_ops *ops, struct kith_loop *loop,
                                 struct kith_diag *diag);
void kith_registry_fini(struct kith_registry *registry);
void kith_registry_changed(struct kith_registry *registry); /* tell the listeners, soon */
/* Calls done and frees. */
void kith_registry_finish(struct kith_registry_txn *txn, enum kith_err err,
                          const struct kith_diag *diag);
/* KITH_CONFLICT names the key. */
enum kith_err kith_registry_compare_all(const struct kith_registry_mirror *mirror,
                                        const struct kith_registry_txn *txn,
                                        struct kith_diag *diag);
bool kith_registry_key_ok(const char *key);

#endif
