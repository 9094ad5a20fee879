/* What kith_msg.c and kith_msg_reply.c share; nobody else includes it. */
#ifndef KITH_MSG_INTERNAL_H
#define KITH_MSG_INTERNAL_H

#include "proto/kith_wire.h"

bool kith_msg_read_head(struct kith_cursor *c, struct kith_bytes body, uint32_t n_min);
void kith_msg_write_optional(struct kith_writer *w, struct kith_bytes msgpack);
bool kith_msg_read_optional(struct kith_cursor *c, struct kith_bytes *out);

#endif
