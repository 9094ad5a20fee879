/* Who a shard's folder belongs to: the node's id and the cluster's, in a small file.
 *
 * With it a shard serves its points while the registry is away, and a folder that was carried to
 * another cluster is refused. Written once (the cluster's id a moment later), synced and renamed.
 * Threads: start-up. Errors: KITH_CORRUPT, KITH_IO, KITH_DISK_FULL. */
#ifndef IDENTITY_H
#define IDENTITY_H

#include <stdint.h>

#include "proto/kith_err.h"

struct identity {
    uint64_t node;
    uint64_t cluster; /* 0 = not known yet */
};

/* Makes the folder, and a new node id, where they are missing. */
enum kith_err identity_load(struct identity *out, const char *dir, struct kith_diag *diag);
enum kith_err identity_save(const struct identity *identity, const char *dir,
                            struct kith_diag *diag);

#endif
