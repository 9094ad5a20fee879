/* Messages between nodes: tcp over streams of NNG, whose home this is
 * (docs/decisions/tcp-over-streams.md), and inproc as calls (docs/decisions/inproc-is-a-call.md).
 *
 * A message is one frame (proto/kith_frame.h). URLs: tcp://host:port, inproc://name.
 * No message above KITH_FRAME_BODY_MAX and a frame's header is received: its length is looked at
 * before memory is taken for it.
 * Threads: callbacks run on NNG's threads and on those that ask and reply: they may hand the
 * message on, and nothing else (no blocking, no closing). Messages: struct kith_net_msg is owned by
 * one party at a time; send takes it on success only. */
#ifndef KITH_NET_H
#define KITH_NET_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "proto/kith_err.h"

struct kith_net_msg;
struct kith_net_msg *kith_net_msg_new(size_t bytes) KITH_MUST_CHECK; /* content undefined */
uint8_t *kith_net_msg_data(struct kith_net_msg *msg);
size_t kith_net_msg_len(const struct kith_net_msg *msg);
void kith_net_msg_free(struct kith_net_msg *msg); /* NULL allowed */
/* A kith_sink_fn (proto/kith_wire.h) that appends to a message made with bytes = 0, so bodies are
 * written without a copy; fails beyond KITH_FRAME_BODY_MAX plus a header. */
int kith_net_msg_sink(void *msg, const char *data, size_t len);

/* ---- serving ------------------------------------------------------------------------------------
 */

struct kith_net_server;
struct kith_net_call; /* one request in hand */

/* Called with a request, on an NNG thread, the asker's own (inproc) or another; call and message
 * stay valid until kith_net_reply, which may come from any thread. */
typedef void (*kith_net_serve_fn)(void *ctx, struct kith_net_call *call,
                                  struct kith_net_msg *request);

/* KITH_NET_CONTEXTS requests are in hand at once; further ones wait in their sender. Port 0 takes a
 * free one: kith_net_server_url tells which. */
enum kith_err kith_net_listen(struct kith_net_server **out, const char *url,
                              kith_net_serve_fn serve, void *ctx, struct kith_diag *diag);
const char *kith_net_server_url(const struct kith_net_server *server);
void kith_net_reply(
    struct kith_net_call *call,
    struct kith_net_msg *reply); /* takes reply; NULL drops the request; frees the request */
void kith_net_server_close(
    struct kith_net_server *server); /* waits until every call was replied to; NULL allowed */

/* ---- asking -------------------------------------------------------------------------------------
 */

struct kith_net_peer; /* a connection that keeps itself up */

enum kith_err kith_net_dial(struct kith_net_peer **out, const char *url,
                            struct kith_diag *diag);  /* does not wait */
void kith_net_peer_close(struct kith_net_peer *peer); /* outstanding requests end with
                                                         KITH_CANCELLED first; NULL allowed */
bool kith_net_peer_up(const struct kith_net_peer *peer);

/* Exactly one callback per request, on any thread, be it this one before the return: KITH_OK with a
 * reply that the callee now owns; or KITH_TIMEOUT; KITH_UNAVAILABLE at once when the connection
 * breaks, or when none came up within KITH_RPC_CONNECT_GRACE_MS. A request is sent at most once. */
typedef void (*kith_net_done_fn)(void *ctx, enum kith_err err, struct kith_net_msg *reply);
enum kith_err kith_net_ask(struct kith_net_peer *peer, struct kith_net_msg *request,
                           uint32_t timeout_ms, kith_net_done_fn done, void *ctx);

#endif
