/* A request to a node as a message, and what its reply says.
 *
 * Owns: nothing. Threads: no state. Errors: kith_request_reply: KITH_PROTOCOL for a malformed or
 * another reply; the error that the node answered with, and its text. */
#ifndef KITH_REQUEST_H
#define KITH_REQUEST_H

#include "common/kith_net.h"
#include "proto/kith_frame.h"
#include "proto/kith_msg.h"

/* A message whose body is then written with w; NULL when memory is out. */
struct kith_net_msg *kith_request_begin(struct kith_writer *w) KITH_MUST_CHECK;
/* After the body: false when it could not be written; the message is the caller's still. */
bool kith_request_end(struct kith_net_msg *msg, const struct kith_writer *w,
                      const struct kith_frame *header);

/* The body of the reply to `message`, borrowed from it. */
enum kith_err kith_request_reply(struct kith_net_msg *reply, uint64_t cluster,
                                 enum kith_message message, struct kith_bytes *body,
                                 struct kith_diag *diag);

#endif
