/* What the kith_msg*.c share; nobody else includes it. */
#ifndef KITH_MSG_INTERNAL_H
#define KITH_MSG_INTERNAL_H

#include "proto/kith_msg.h"

bool kith_msg_read_head(struct kith_cursor *c, struct kith_bytes body, uint32_t n_min);
void kith_msg_write_optional(struct kith_writer *w, struct kith_bytes msgpack);
bool kith_msg_read_optional(struct kith_cursor *c, struct kith_bytes *out);
/* What every request, and what every reply begins with. */
void kith_msg_write_scope(struct kith_writer *w, const struct kith_msg_scope *scope);
bool kith_msg_read_scope(struct kith_cursor *c, struct kith_msg_scope *out);
void kith_msg_write_slices(struct kith_writer *w, const struct kith_msg_slices *slices);
bool kith_msg_read_slices(struct kith_cursor *c, struct kith_msg_slices *out);

#endif
