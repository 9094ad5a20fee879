/* Questions to etcd's v3 JSON gateway.
 *
 * Each writes one JSON body into an empty buffer; a failed allocation shows in buf->failed. Keys
 * are relative; `prefix` goes before each. Threads: no state. */
#ifndef KITH_ETCD_ENCODE_H
#define KITH_ETCD_ENCODE_H

#include "common/kith_buf.h"
#include "common/kith_registry.h"

/* Keys of the prefix, not below `from` (relative; "" = all), as of `revision` (0 = now). */
void kith_etcd_write_range(struct kith_buf *buf, const char *prefix, const char *from,
                           uint64_t revision, uint32_t limit);
/* The present revision, and nothing else. */
void kith_etcd_write_check(struct kith_buf *buf, const char *prefix);
void kith_etcd_write_watch(struct kith_buf *buf, const char *prefix, uint64_t start_revision);
struct kith_etcd_txn_spec {
    const struct kith_registry_compare *compares;
    const struct kith_registry_change *changes;
    size_t n_compares, n_changes;
    uint64_t lease; /* of leased changes */
};
void kith_etcd_write_txn(struct kith_buf *buf, const char *prefix,
                         const struct kith_etcd_txn_spec *txn);
void kith_etcd_write_grant(struct kith_buf *buf, uint64_t ttl_s);
void kith_etcd_write_lease(struct kith_buf *buf, uint64_t lease); /* keepalive, revoke */

#endif
