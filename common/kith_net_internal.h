/* What the files of kith_net share; nobody else includes it.
 *
 * kith_net.c             the face: messages, and which of the two ways a URL goes
 * kith_net_inproc.c      inproc://: calls within the process
 * kith_net_tcp_server.c  tcp://: servers
 * kith_net_tcp_peer.c    tcp://: peers, requests to them
 * kith_net_conn.c        tcp://: one connection that carries messages both ways
 *
 * NNG has these five homes and no other (inproc takes its messages only). Why not its REQ and REP:
 * docs/decisions/tcp-over-streams.md, docs/decisions/inproc-is-a-call.md. */
#ifndef KITH_NET_INTERNAL_H
#define KITH_NET_INTERNAL_H

#include <nng/nng.h>

#include "common/kith_net.h"
#include "proto/kith_frame.h"
#include "proto/kith_limits.h"

#define KITH_NET_MESSAGE_MAX (KITH_FRAME_BODY_MAX + KITH_FRAME_HEADER_BYTES)
#define KITH_NET_URL_BYTES   256u

/* The first member of each implementation's structs. */
struct kith_net_server {
    bool tcp;
    char url[KITH_NET_URL_BYTES];
};
struct kith_net_call {
    bool tcp;
};
struct kith_net_peer {
    bool tcp;
};

enum kith_err kith_net_from_nng(int rv);
nng_msg *kith_net_to_nng(struct kith_net_msg *msg);

enum kith_err kith_net_inproc_listen(struct kith_net_server **out, const char *url,
                                     kith_net_serve_fn serve, void *ctx, struct kith_diag *diag);
void kith_net_inproc_reply(struct kith_net_call *call, struct kith_net_msg *reply);
void kith_net_inproc_server_close(struct kith_net_server *server);
enum kith_err kith_net_inproc_dial(struct kith_net_peer **out, const char *url,
                                   struct kith_diag *diag);
void kith_net_inproc_peer_close(struct kith_net_peer *peer);
bool kith_net_inproc_peer_up(struct kith_net_peer *peer);
enum kith_err kith_net_inproc_ask(struct kith_net_peer *peer, struct kith_net_msg *request,
                                  uint32_t timeout_ms, kith_net_done_fn done, void *ctx);

enum kith_err kith_net_tcp_listen(struct kith_net_server **out, const char *url,
                                  kith_net_serve_fn serve, void *ctx, struct kith_diag *diag);
void kith_net_tcp_reply(struct kith_net_call *call, struct kith_net_msg *reply);
void kith_net_tcp_server_close(struct kith_net_server *server);
enum kith_err kith_net_tcp_dial(struct kith_net_peer **out, const char *url,
                                struct kith_diag *diag);
void kith_net_tcp_peer_close(struct kith_net_peer *peer);
bool kith_net_tcp_peer_up(struct kith_net_peer *peer);
enum kith_err kith_net_tcp_ask(struct kith_net_peer *peer, struct kith_net_msg *request,
                               uint32_t timeout_ms, kith_net_done_fn done, void *ctx);

#endif
