/* Answers of etcd's v3 JSON gateway, and base64.
 *
 * The gateway writes 64-bit numbers as strings, leaves out zeroes, and keys and values in base64.
 * Everything is checked; nothing is believed. Threads: no state. Errors: KITH_PROTOCOL with what
 * was expected, KITH_NOMEM, and what the etcd itself answered: KITH_UNAVAILABLE. */
#ifndef KITH_ETCD_DECODE_H
#define KITH_ETCD_DECODE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "common/kith_buf.h"
#include "proto/kith_err.h"

void kith_etcd_base64_encode(struct kith_buf *out, const void *data, size_t len);
/* RFC 4648, padding required. False: not base64, or the buffer failed; it may hold a part then. */
bool kith_etcd_base64_decode(struct kith_buf *out, const char *text, size_t len);

struct kith_etcd_header {
    uint64_t cluster;
    uint64_t revision;
};

/* Borrowed for the callback. key and value end with a NUL that is not counted. */
struct kith_etcd_kv {
    const char *key;
    size_t key_len;
    const char *value;
    size_t value_len;
    uint64_t revision;
    uint64_t lease;
    bool deleted; /* watch only */
};
/* Returning an error ends the reading with it. */
typedef enum kith_err (*kith_etcd_kv_fn)(void *ctx, const struct kith_etcd_kv *kv);

/* KITH_JSON_PADDING readable bytes must follow text[len], here and below. */
enum kith_err kith_etcd_read_range(const char *text, size_t len, struct kith_etcd_header *header,
                                   bool *more, kith_etcd_kv_fn fn, void *ctx,
                                   struct kith_diag *diag);

struct kith_etcd_watch {
    struct kith_etcd_header header;
    bool created;
    bool canceled;
    uint64_t compact_revision; /* not 0: what was asked for is gone; read everything again */
};
/* One line of the stream. */
enum kith_err kith_etcd_read_watch(const char *text, size_t len, struct kith_etcd_watch *out,
                                   kith_etcd_kv_fn fn, void *ctx, struct kith_diag *diag);

struct kith_etcd_txn {
    struct kith_etcd_header header;
    bool succeeded;
    bool changed; /* something was put or deleted, so a watch will tell */
};
enum kith_err kith_etcd_read_txn(const char *text, size_t len, struct kith_etcd_txn *out,
                                 struct kith_diag *diag);

struct kith_etcd_lease {
    uint64_t id;
    uint64_t ttl_s; /* 0: it is gone */
};
/* Grant and keepalive. */
enum kith_err kith_etcd_read_lease(const char *text, size_t len, struct kith_etcd_lease *out,
                                   struct kith_diag *diag);

#endif
