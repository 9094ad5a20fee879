/* Changes to payloads, from msgpack to msgpack: nothing is unpacked into a tree.
 *
 * A path is keys joined by dots: "a.b" is field b of the map in field a. Fields keep their order;
 * new ones go to the end. Borrows: all inputs. Threads: no state.
 * Errors: KITH_BAD_REQUEST, KITH_TOO_BIG (KITH_PAYLOAD_MAX, depth, work), KITH_NOMEM; out may hold
 * a part of the result then. */
#ifndef PAYLOAD_EDIT_H
#define PAYLOAD_EDIT_H

#include "common/kith_buf.h"
#include "proto/kith_wire.h"

/* A payload must be a map with text keys, of JSON types, within depth and size; empty = none. */
enum kith_err payload_edit_check(struct kith_bytes payload, struct kith_diag *diag);
enum kith_err payload_edit_check_path(struct kith_bytes path, struct kith_diag *diag);

/* Appends `base` with the fields of `patch` set in the map at `path` ("" = the root). Maps missing
 * on the way are made; a value in the way that is no map is replaced by one. */
enum kith_err payload_edit_merge(struct kith_bytes base, struct kith_bytes patch,
                                 struct kith_bytes path, struct kith_buf *out,
                                 struct kith_diag *diag);
/* Appends `base` without the field at `path`; *changed = whether there was one. */
enum kith_err payload_edit_remove(struct kith_bytes base, struct kith_bytes path,
                                  struct kith_buf *out, bool *changed, struct kith_diag *diag);

#endif
