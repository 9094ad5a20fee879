/* The registry's mirror: all keys of the cluster in memory, sorted.
 *
 * Owns: its texts. Threads: one owner. Errors: false when memory is out; the mirror is as before.
 */
#ifndef KITH_REGISTRY_MIRROR_H
#define KITH_REGISTRY_MIRROR_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "proto/kith_err.h"

struct kith_registry_entry {
    char *key;
    char *text; /* NUL-terminated */
    size_t len;
    uint64_t revision;
    uint64_t lease; /* 0 = none */
};

struct kith_registry_mirror {
    struct kith_registry_entry *entries; /* ascending keys */
    size_t n;
    size_t cap;
};

void kith_registry_mirror_fini(struct kith_registry_mirror *mirror); /* empty and usable again */
/* The first entry whose key is not below `key`. */
size_t kith_registry_mirror_seek(const struct kith_registry_mirror *mirror, const char *key);
/* NULL: no such key. */
const struct kith_registry_entry *
kith_registry_mirror_get(const struct kith_registry_mirror *mirror, const char *key);
/* entry's texts are copied. */
bool kith_registry_mirror_put(struct kith_registry_mirror *mirror,
                              const struct kith_registry_entry *entry) KITH_MUST_CHECK;
bool kith_registry_mirror_drop(struct kith_registry_mirror *mirror,
                               const char *key); /* was there one? */
/* into: empty. */
bool kith_registry_mirror_copy(const struct kith_registry_mirror *from,
                               struct kith_registry_mirror *into) KITH_MUST_CHECK;

#endif
