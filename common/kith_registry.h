/* The registry: membership, the slice map, collections - small keys and JSON values that all nodes
 * agree on.
 *
 * Two implementations of one interface: a file (kith up: one process) and etcd. Both keep a mirror
 * of all keys under the cluster's prefix in memory, fed by a watch; reading is reading the mirror,
 * so losing etcd changes nothing for readers. Changes are compare-and-swap transactions. A leased
 * key lives as long as its owner.
 *
 * Keys here are relative to the prefix ("nodes/a1b2"); docs/ARCHITECTURE.md lists them.
 * Threads: loop only. Owns: the mirror; strings from get/each are borrowed until the next turn of
 * the loop. Errors: transactions answer KITH_CONFLICT when a comparison failed, KITH_UNAVAILABLE
 * when etcd cannot be reached (the outcome may be unknown then: look at the mirror), KITH_TOO_BIG
 * for KITH_REGISTRY_*_MAX. */
#ifndef KITH_REGISTRY_H
#define KITH_REGISTRY_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "common/kith_loop.h"
#include "proto/kith_err.h"

struct kith_registry;

struct kith_registry_value {
    const char *text; /* NUL-terminated */
    size_t len;
    uint64_t revision; /* of the last change of this key; never 0 */
};

/* Comparisons: the key's revision must be this one; 0 = the key must not exist. */
struct kith_registry_compare {
    const char *key;
    uint64_t revision;
};
struct kith_registry_change {
    const char *key;
    const char *value; /* NULL = delete */
    bool leased;       /* the key goes when this process goes */
};

typedef void (*kith_registry_done_fn)(void *ctx, enum kith_err err, const struct kith_diag *diag);
typedef void (*kith_registry_each_fn)(void *ctx, const char *key,
                                      const struct kith_registry_value *value);
typedef void (*kith_registry_event_fn)(void *ctx);

/* ---- opening
 * ------------------------------------------------------------------------------------- */

/* path: the file (created if missing), written whole and renamed at each change, synced before a
 * transaction is done. Leased keys are kept in memory only. */
enum kith_err kith_registry_open_file(struct kith_registry **out, struct kith_loop *loop,
                                      const char *path, struct kith_diag *diag);
/* endpoints: "http://127.0.0.1:2379[,http://...]"; prefix: "/kith/<cluster>/". Connects and
 * reconnects by itself with backoff. */
enum kith_err kith_registry_open_etcd(struct kith_registry **out, struct kith_loop *loop,
                                      const char *endpoints, const char *prefix,
                                      struct kith_diag *diag);
void kith_registry_close(struct kith_registry *registry); /* gives up the lease; NULL allowed */

/* ---- using
 * ----------------------------------------------------------------------------------------- */

bool kith_registry_synced(
    const struct kith_registry *registry); /* the mirror was complete at least once */
bool kith_registry_connected(const struct kith_registry *registry); /* now */
uint64_t kith_registry_revision(const struct kith_registry *registry);
/* What a human must look at, one sentence ("etcd went back..."); NULL when all is well. Borrowed
 * until the next turn of the loop. */
const char *kith_registry_trouble(const struct kith_registry *registry);
bool kith_registry_get(const struct kith_registry *registry, const char *key,
                       struct kith_registry_value *out);
void kith_registry_each(const struct kith_registry *registry, const char *prefix,
                        kith_registry_each_fn fn, void *ctx); /* ascending keys */

/* The callback runs after the mirror shows the result (read your own writes), never from inside the
 * call unless memory is out. done may be NULL. At most KITH_REGISTRY_TXN_MAX comparisons and as
 * many changes. When the registry is closed first: KITH_CANCELLED. */
void kith_registry_commit(struct kith_registry *registry,
                          const struct kith_registry_compare *compares, size_t n_compares,
                          const struct kith_registry_change *changes, size_t n_changes,
                          kith_registry_done_fn done, void *ctx);

/* A leased key that is put again by itself whenever the lease had to be renewed from scratch (etcd
 * was away too long). A key that somebody else holds is waited for, never taken over: it is ours
 * when the mirror shows our value. Announcing again changes the value. At most 16 keys. */
enum kith_err kith_registry_announce(struct kith_registry *registry, const char *key,
                                     const char *value);

/* fn runs on the loop after changes of the mirror (merged) and when `connected` or `synced`
 * changes. At most 8 listeners. */
void kith_registry_listen(struct kith_registry *registry, kith_registry_event_fn fn, void *ctx);
void kith_registry_unlisten(struct kith_registry *registry, kith_registry_event_fn fn, void *ctx);

#endif
