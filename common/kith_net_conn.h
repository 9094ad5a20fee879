/* One TCP connection that carries numbered messages both ways.
 *
 * On the wire each message is 16 bytes - body length (u32), zero (u32), number (u64), little
 * endian - and the body. A length above KITH_NET_MESSAGE_MAX ends the connection before memory is
 * taken for it.
 *
 * Owns: the stream, its operations, what is queued to be sent. Counted: kith_net_conn_ref/unref;
 * the last reference may be given back in a callback of the connection itself, so the memory then
 * goes to on_unused, and whoever may wait calls kith_net_conn_free.
 * Threads: any; callbacks come on NNG's threads, without locks, one message at a time.
 * Errors: a connection that fails is closed and says so once, through on_down. */
#ifndef KITH_NET_CONN_H
#define KITH_NET_CONN_H

#include "common/kith_net_internal.h"

struct kith_net_conn {
    struct kith_net_conn *next, *prev, **list; /* the owner's */
    void *owner;
};

struct kith_net_conn_events {
    /* Takes msg. False: no further messages until kith_net_conn_resume. */
    bool (*on_message)(struct kith_net_conn *conn, uint64_t number, nng_msg *msg);
    void (*on_down)(struct kith_net_conn *conn);   /* once; no on_message after it */
    void (*on_unused)(struct kith_net_conn *conn); /* no references left: free it, elsewhere */
};

/* Takes the stream, also on failure. One reference is the caller's. */
enum kith_err kith_net_conn_new(struct kith_net_conn **out, nng_stream *stream,
                                const struct kith_net_conn_events *events, void *owner);
void kith_net_conn_start(struct kith_net_conn *conn); /* begins to receive */
void kith_net_conn_resume(struct kith_net_conn *conn);
/* Takes msg; it is dropped when the connection is down, which on_down told or will tell. */
void kith_net_conn_send(struct kith_net_conn *conn, uint64_t number, nng_msg *msg);
void kith_net_conn_close(struct kith_net_conn *conn); /* on_down follows, unless it came before */
void kith_net_conn_ref(struct kith_net_conn *conn);
void kith_net_conn_unref(struct kith_net_conn *conn);
void kith_net_conn_free(struct kith_net_conn *conn); /* waits for callbacks: not in one of them */

/* The owner's lists, which its own lock guards. */
void kith_net_conn_link(struct kith_net_conn **list, struct kith_net_conn *conn);
void kith_net_conn_unlink(struct kith_net_conn *conn); /* off the list it is on, if it is on one */
uint32_t kith_net_conn_free_all(struct kith_net_conn *list); /* how many those were */

#endif
