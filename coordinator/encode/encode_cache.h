/* A bounded LRU of encoded texts: (encoder fingerprint, text) -> vector.
 *
 * Owns: its entries; vectors and texts are copied in and out. Borrows: nothing.
 * Threads: any; one lock, held for a hash look-up and a memcpy.
 * Errors: a full cache evicts the least recently used; when memory is out, put drops the entry (a
 * cache may forget). Limits: entries_max and bytes_max, both given at birth; a text longer than
 * ENCODE_CACHE_TEXT_MAX is never kept. */
#ifndef ENCODE_CACHE_H
#define ENCODE_CACHE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "proto/kith_err.h"

#define ENCODE_CACHE_TEXT_MAX 4096u /* long texts are documents: they do not come twice */

struct encode_cache;

struct encode_cache_stats {
    uint64_t hits;
    uint64_t misses;
    uint64_t evictions;
    uint64_t entries;
    uint64_t bytes; /* of entries, their headers included */
};

/* bytes_max 0 = no cap but entries_max. On failure *out is untouched. */
enum kith_err encode_cache_new(struct encode_cache **out, size_t entries_max, size_t bytes_max,
                               struct kith_diag *diag) KITH_MUST_CHECK;
void encode_cache_free(struct encode_cache *cache); /* NULL is allowed */

/* True: the vector (dim floats) was copied to out. Counts one hit or one miss. */
bool encode_cache_get(struct encode_cache *cache, uint64_t fingerprint, const char *text,
                      size_t len, float *out, size_t dim);
/* Keeps a copy, or does nothing when it is too long or memory is out. An equal key is replaced. */
void encode_cache_put(struct encode_cache *cache, uint64_t fingerprint, const char *text,
                      size_t len, const float *vector, size_t dim);
void encode_cache_stats(struct encode_cache *cache, struct encode_cache_stats *out);

#endif
