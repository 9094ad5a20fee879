/* The fields that the live points of a node have: path, types, and how many points have a value.
 *
 * Types are the bits of struct kith_msg_info_field. Objects have no entry of their own, their
 * fields do. Owns: the result (info_fini). Borrows: views. Threads: any; it stands aside where the
 * caller does (kith_aside.h).
 * Errors: KITH_NOMEM, KITH_CORRUPT. Limits: KITH_FIELDS_INDEXED_MAX fields of each part. */
#ifndef INFO_H
#define INFO_H

#include "common/kith_arena.h"
#include "proto/kith_msg.h"
#include "shard/storage/view.h"

struct info {
    uint32_t n;
    struct kith_msg_info_field *fields; /* ascending by path */
    size_t cap;
    struct kith_arena memory; /* the paths */
};

/* *out must be zeroed; also after a failure it is freed by info_fini. */
enum kith_err info_run(struct info *out, struct view *const *views, uint32_t n_views,
                       struct kith_diag *diag);
void info_fini(struct info *info);

#endif
