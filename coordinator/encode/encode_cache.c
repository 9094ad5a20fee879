/* A chained hash table whose entries are also on a doubly linked list in order of use. Entries are
 * one allocation each: header, vector, text. The table is sized once (at most one entry a bucket on
 * average), so there is no rehash under the lock.
 *
 * Lost: sharding by key. A look-up holds the lock for about 0.1 us, an HTTP request costs tens of
 * microseconds, so one lock is not the limit on any machine Kith is for. */
#include "coordinator/encode/encode_cache.h"

#include <pthread.h>
#include <string.h>

#include "common/kith_mem.h"
#include "proto/kith_hash.h"

struct entry {
    struct entry *chain;
    struct entry *newer;
    struct entry *older;
    uint64_t hash;
    uint64_t fingerprint;
    uint32_t len;
    uint32_t dim;
    float vector[]; /* dim floats, then len bytes of text */
};

struct encode_cache {
    /* Immutable after new. */
    size_t entries_max;
    size_t bytes_max;
    size_t buckets; /* power of two */
    struct entry **table;
    /* Guarded by lock. */
    pthread_mutex_t lock;
    struct entry *newest;
    struct entry *oldest;
    struct encode_cache_stats stats;
};

static uint64_t key_hash(uint64_t fingerprint, const char *text, size_t len)
{
    return kith_hash_mix(kith_hash_bytes(KITH_HASH_START ^ fingerprint, text, len));
}

static const char *entry_text(const struct entry *entry)
{
    return (const char *)(entry->vector + entry->dim);
}

static size_t entry_bytes(const struct entry *entry)
{
    return sizeof *entry + entry->dim * sizeof(float) + entry->len;
}

static void list_unlink(struct encode_cache *cache, struct entry *entry)
{
    *(entry->newer != NULL ? &entry->newer->older : &cache->newest) = entry->older;
    *(entry->older != NULL ? &entry->older->newer : &cache->oldest) = entry->newer;
    entry->newer = NULL;
    entry->older = NULL;
}

static void list_push(struct encode_cache *cache, struct entry *entry)
{
    entry->older = cache->newest;
    entry->newer = NULL;
    *(cache->newest != NULL ? &cache->newest->newer : &cache->oldest) = entry;
    cache->newest = entry;
}

enum kith_err encode_cache_new(struct encode_cache **out, size_t entries_max, size_t bytes_max,
                               struct kith_diag *diag)
{
    enum kith_err err = KITH_NOMEM;
    kith_assert(out != NULL && entries_max > 0 && entries_max <= (1u << 24));
    struct encode_cache *cache = kith_alloc(sizeof *cache);
    if (cache == NULL) {
        return kith_fail(diag, KITH_NOMEM, "encode cache");
    }
    pthread_mutex_init(&cache->lock, NULL);
    cache->entries_max = entries_max;
    cache->bytes_max = bytes_max;
    cache->buckets = 16;
    while (cache->buckets < entries_max) {
        cache->buckets *= 2;
    }
    cache->table = kith_alloc(cache->buckets * sizeof *cache->table);
    if (cache->table == NULL) {
        err = kith_fail(diag, KITH_NOMEM, "encode cache, %zu entries", entries_max);
        goto out;
    }
    *out = cache;
    cache = NULL;
    err = KITH_OK;
out:
    encode_cache_free(cache);
    return err;
}

void encode_cache_free(struct encode_cache *cache)
{
    if (cache == NULL) {
        return;
    }
    for (struct entry *entry = cache->newest; entry != NULL;) {
        struct entry *older = entry->older;
        kith_free(entry);
        entry = older;
    }
    pthread_mutex_destroy(&cache->lock);
    kith_free(cache->table);
    kith_free(cache);
}

/* The link that points at the entry, or at the NULL where it would be. */
static struct entry **find_locked(struct encode_cache *cache, uint64_t hash, uint64_t fingerprint,
                                  const char *text, size_t len)
{
    struct entry **link = &cache->table[hash & (cache->buckets - 1)];
    while (*link != NULL) {
        struct entry *entry = *link;
        if (entry->hash == hash && entry->fingerprint == fingerprint && entry->len == len &&
            memcmp(entry_text(entry), text, len) == 0) {
            break;
        }
        link = &entry->chain;
    }
    return link;
}

static void remove_locked(struct encode_cache *cache, struct entry **link)
{
    struct entry *entry = *link;
    *link = entry->chain;
    list_unlink(cache, entry);
    cache->stats.entries--;
    cache->stats.bytes -= entry_bytes(entry);
    kith_free(entry);
}

static void evict_locked(struct encode_cache *cache)
{
    struct entry *entry = cache->oldest;
    kith_assert(entry != NULL);
    struct entry **link = &cache->table[entry->hash & (cache->buckets - 1)];
    while (*link != entry) {
        link = &(*link)->chain;
    }
    remove_locked(cache, link);
    cache->stats.evictions++;
}

bool encode_cache_get(struct encode_cache *cache, uint64_t fingerprint, const char *text,
                      size_t len, float *out, size_t dim)
{
    kith_assert(cache != NULL && out != NULL);
    uint64_t hash = key_hash(fingerprint, text, len);
    pthread_mutex_lock(&cache->lock);
    struct entry *entry = *find_locked(cache, hash, fingerprint, text, len);
    bool hit = entry != NULL && entry->dim == dim;
    if (hit) {
        memcpy(out, entry->vector, dim * sizeof *out);
        list_unlink(cache, entry);
        list_push(cache, entry);
        cache->stats.hits++;
    } else {
        cache->stats.misses++;
    }
    pthread_mutex_unlock(&cache->lock);
    return hit;
}

void encode_cache_put(struct encode_cache *cache, uint64_t fingerprint, const char *text,
                      size_t len, const float *vector, size_t dim)
{
    kith_assert(cache != NULL && vector != NULL);
    size_t bytes = sizeof(struct entry) + dim * sizeof *vector + len;
    if (len > ENCODE_CACHE_TEXT_MAX || (cache->bytes_max != 0 && bytes > cache->bytes_max)) {
        return;
    }
    struct entry *entry = kith_alloc(bytes);
    if (entry == NULL) {
        return;
    }
    entry->hash = key_hash(fingerprint, text, len);
    entry->fingerprint = fingerprint;
    entry->len = (uint32_t)len;
    entry->dim = (uint32_t)dim;
    memcpy(entry->vector, vector, dim * sizeof *vector);
    memcpy(entry->vector + dim, text, len);

    pthread_mutex_lock(&cache->lock);
    struct entry **link = find_locked(cache, entry->hash, fingerprint, text, len);
    if (*link != NULL) {
        remove_locked(cache, link);
    }
    while (cache->stats.entries > 0 &&
           (cache->stats.entries == cache->entries_max ||
            (cache->bytes_max != 0 && cache->stats.bytes + bytes > cache->bytes_max))) {
        evict_locked(cache);
    }
    link = &cache->table[entry->hash & (cache->buckets - 1)];
    entry->chain = *link;
    *link = entry;
    list_push(cache, entry);
    cache->stats.entries++;
    cache->stats.bytes += bytes;
    pthread_mutex_unlock(&cache->lock);
}

void encode_cache_stats(struct encode_cache *cache, struct encode_cache_stats *out)
{
    pthread_mutex_lock(&cache->lock);
    *out = cache->stats;
    pthread_mutex_unlock(&cache->lock);
}
