/* What the two files of the etcd registry share; included by kith_registry_etcd*.c only.
 *
 * kith_registry_etcd.c keeps the mirror; kith_registry_etcd_txn.c changes etcd: transactions and
 * announced keys. Threads: loop only. */
#ifndef KITH_REGISTRY_ETCD_IMPL_H
#define KITH_REGISTRY_ETCD_IMPL_H

#include "common/kith_http_client.h"
#include "common/kith_registry_impl.h"

#define KITH_REGISTRY_ETCD_MS       5000u /* one request; then its outcome is unknown */
#define KITH_REGISTRY_ENDPOINTS_MAX 8
#define KITH_REGISTRY_ANNOUNCED_MAX 16

enum phase { PHASE_PAUSE, PHASE_CHECK, PHASE_GRANT, PHASE_READ, PHASE_WATCH };

struct announced {
    struct registry_etcd *etcd;
    char *key;
    char *value;
    bool busy; /* a transaction is under way */
    bool told; /* that somebody else holds it */
};

struct registry_etcd {
    struct kith_registry base;
    struct kith_http_client *http;
    char *endpoints[KITH_REGISTRY_ENDPOINTS_MAX];
    size_t n_endpoints, at;
    char *prefix;
    bool closing;

    enum phase phase;
    struct kith_http_call *step;  /* CHECK, GRANT, READ */
    struct kith_http_call *watch; /* WATCH */
    struct kith_http_call *beat;  /* keepalive, or a grant while watching */
    struct kith_timer *retry, *beat_timer, *stream_timer, *expire_timer, *announce_timer;
    uint32_t backoff_ms;

    uint64_t cluster; /* etcd's, as first seen; 0 = not yet */
    uint64_t lease;   /* 0 = none */
    bool reread;
    struct kith_registry_mirror fresh; /* READ */
    uint64_t fresh_revision;
    struct kith_buf stream; /* WATCH: bytes not yet read as lines */

    struct kith_registry_txn *waiting; /* done in etcd, not yet in the mirror */
    struct kith_registry_txn *early;   /* to be finished in the next turn */
    struct kith_registry_txn *asked;   /* under way */
    struct announced announced[KITH_REGISTRY_ANNOUNCED_MAX];
    size_t n_announced;
};

static inline struct registry_etcd *etcd_of(struct kith_registry *registry)
{
    return (struct registry_etcd *)registry; /* base is first */
}

/* POST to the present endpoint. */
enum kith_err kith_registry_etcd_ask(struct registry_etcd *etcd, const char *path,
                                     const struct kith_buf *body, uint32_t timeout_ms,
                                     kith_http_done_fn done, void *ctx,
                                     struct kith_http_call **out);
void kith_registry_etcd_lost_lease(struct registry_etcd *etcd); /* etcd says that it is gone */
void kith_registry_etcd_beat_now(struct registry_etcd *etcd);   /* keepalive or a new lease */

void kith_registry_etcd_txn_commit(struct kith_registry *registry, struct kith_registry_txn *txn);
/* The mirror is at a new revision: those who waited for it are done, in their order. */
void kith_registry_etcd_txn_settle(struct registry_etcd *etcd);
void kith_registry_etcd_txn_expire(void *etcd); /* a timer's function */
void kith_registry_etcd_txn_cancel_all(struct registry_etcd *etcd);
enum kith_err kith_registry_etcd_txn_announce(struct kith_registry *registry, const char *key,
                                              const char *value);
void kith_registry_etcd_txn_announce_all(struct registry_etcd *etcd);
void kith_registry_etcd_txn_on_announce(void *etcd); /* a timer's function */

#endif
