#include "shard/query/filter_cache.h"

#include <pthread.h>
#include <stdatomic.h>
#include <string.h>

#include "common/kith_mem.h"
#include "proto/kith_crc32c.h"
#include "proto/kith_limits.h"
#include "shard/index/filter_set.h"

/* A hash table of entries and a list of them by last use, under one lock that is held for pointers
 * and one comparison of keys, never while a filter is evaluated or words are copied.
 *
 * The key of an entry is (serial of the segment or head, bytes of the filter). A serial is given
 * once in the life of a process, so an entry whose segment was merged away is never found again; it
 * ages out. The version says which rows were live:
 *
 *   segment  the number of deleted rows. Published views of a segment see a growing set of deletes
 *            (an undone write takes back only what was never published), so equal numbers are
 *            equal sets, and an answer for fewer deletes, minus those of the view, is the answer.
 *   head     the view's sequence number, which names what it sees. (A view may have more rows than
 *            another of the same number: places of a write that was undone. Such answers differ in
 *            length only, but are not taken for each other.)
 *
 * Two threads that miss at once both evaluate; the answer of the newer version stays. Evaluating
 * under a lock lost: a filter may read payloads for seconds.
 *
 * Lost: roaring bitmaps in the cache. A scan wants words, and turning a bitmap into words costs as
 * much as a cheap filter; for 1 M rows words are 125 KB whatever they say. */

#define BUCKETS     4096u
#define ENTRY_SHARE 8u /* of the cache: a larger answer would drive out too many others */

struct entry {
    struct filter_answer answer; /* first: an answer is its entry */
    atomic_uint refs;            /* acq_rel on the last drop: the freer sees every use */
    /* Immutable once made. */
    uint64_t serial, version;
    uint32_t hash;
    size_t key_bytes, bytes;
    /* Guarded by the cache's lock. */
    struct entry *next;          /* in the bucket */
    struct entry *newer, *older; /* by last use */
    /* words, then the key */
};

struct filter_cache {
    size_t bytes_max; /* immutable */
    pthread_mutex_t lock;
    /* Guarded by lock. */
    struct entry *buckets[BUCKETS];
    struct entry *newest, *oldest;
    struct filter_cache_stats stats;
};

/* ---- entries --------------------------------------------------------------------------------- */

static uint64_t *words_of(struct entry *entry)
{
    return (uint64_t *)(void *)((uint8_t *)entry + (sizeof *entry + 63) / 64 * 64);
}

static uint32_t words_count(uint32_t rows)
{
    return (uint32_t)(((uint64_t)rows + 63) / 64);
}

static uint8_t *key_of(struct entry *entry)
{
    return (uint8_t *)(words_of(entry) + words_count(entry->answer.rows));
}

/* One reference, the caller's. The words are not set. */
static struct entry *entry_new(uint32_t rows, struct kith_bytes key)
{
    size_t bytes =
        (sizeof(struct entry) + 63) / 64 * 64 + words_count(rows) * sizeof(uint64_t) + key.len;
    struct entry *entry = kith_alloc_aligned(64, bytes);
    if (entry == NULL)
        return NULL;
    *entry = (struct entry){.key_bytes = key.len, .bytes = bytes};
    atomic_init(&entry->refs, 1);
    entry->answer.rows = rows;
    entry->answer.words = words_of(entry);
    if (key.len > 0)
        memcpy(key_of(entry), key.data, key.len);
    return entry;
}

static void entry_ref(struct entry *entry)
{
    atomic_fetch_add_explicit(&entry->refs, 1, memory_order_relaxed);
}

static void entry_unref(struct entry *entry)
{
    if (atomic_fetch_sub_explicit(&entry->refs, 1, memory_order_acq_rel) == 1)
        kith_free(entry);
}

void filter_answer_unref(const struct filter_answer *answer)
{
    if (answer != NULL)
        entry_unref((struct entry *)(uintptr_t)answer);
}

static void entry_count(struct entry *entry)
{
    uint64_t count = 0;
    for (uint32_t w = 0; w < words_count(entry->answer.rows); w++)
        count += (uint64_t)__builtin_popcountll(entry->answer.words[w]);
    entry->answer.count = (uint32_t)count;
}

/* ---- the table ------------------------------------------------------------------------------- */

static void unlink_locked(struct filter_cache *cache, struct entry *entry)
{
    *(entry->newer != NULL ? &entry->newer->older : &cache->newest) = entry->older;
    *(entry->older != NULL ? &entry->older->newer : &cache->oldest) = entry->newer;
}

static void link_newest_locked(struct filter_cache *cache, struct entry *entry)
{
    entry->newer = NULL;
    entry->older = cache->newest;
    *(cache->newest != NULL ? &cache->newest->newer : &cache->oldest) = entry;
    cache->newest = entry;
}

static void drop_locked(struct filter_cache *cache, struct entry *entry)
{
    struct entry **at = &cache->buckets[entry->hash % BUCKETS];
    while (*at != entry)
        at = &(*at)->next;
    *at = entry->next;
    unlink_locked(cache, entry);
    cache->stats.bytes -= entry->bytes;
    cache->stats.entries--;
    entry_unref(entry);
}

static struct entry *find_locked(struct filter_cache *cache, const struct entry *like,
                                 struct kith_bytes key)
{
    for (struct entry *entry = cache->buckets[like->hash % BUCKETS]; entry != NULL;
         entry = entry->next)
        if (entry->hash == like->hash && entry->serial == like->serial &&
            entry->key_bytes == key.len &&
            (key.len == 0 || memcmp(key_of(entry), key.data, key.len) == 0))
            return entry;
    return NULL;
}

/* The entry for a question, with a reference; NULL: none of this version or an older one. */
static struct entry *look_up(struct filter_cache *cache, const struct entry *like,
                             struct kith_bytes key, bool older_will_do)
{
    (void)pthread_mutex_lock(&cache->lock);
    struct entry *entry = find_locked(cache, like, key);
    if (entry != NULL &&
        (entry->answer.rows != like->answer.rows || entry->version > like->version ||
         (entry->version < like->version && !older_will_do)))
        entry = NULL;
    if (entry != NULL) {
        entry_ref(entry);
        unlink_locked(cache, entry);
        link_newest_locked(cache, entry);
        cache->stats.hits++;
        cache->stats.masked += entry->version != like->version;
    } else {
        cache->stats.misses++;
    }
    (void)pthread_mutex_unlock(&cache->lock);
    return entry;
}

static void keep(struct filter_cache *cache, struct entry *entry, struct kith_bytes key)
{
    if (entry->bytes > cache->bytes_max / ENTRY_SHARE)
        return;
    (void)pthread_mutex_lock(&cache->lock);
    struct entry *there = find_locked(cache, entry, key);
    if (there == NULL || there->version < entry->version ||
        (there->version == entry->version && there->answer.rows < entry->answer.rows)) {
        if (there != NULL)
            drop_locked(cache, there);
        struct entry **bucket = &cache->buckets[entry->hash % BUCKETS];
        entry_ref(entry);
        entry->next = *bucket;
        *bucket = entry;
        link_newest_locked(cache, entry);
        cache->stats.bytes += entry->bytes;
        cache->stats.entries++;
        while (cache->stats.bytes > cache->bytes_max ||
               cache->stats.entries > KITH_FILTER_CACHE_ENTRIES) {
            drop_locked(cache, cache->oldest);
            cache->stats.evicted++;
        }
    }
    (void)pthread_mutex_unlock(&cache->lock);
}

enum kith_err filter_cache_open(struct filter_cache **out, size_t bytes_max, struct kith_diag *diag)
{
    struct filter_cache *cache = kith_alloc(sizeof *cache);
    if (cache == NULL)
        return kith_fail(diag, KITH_NOMEM, "filter cache");
    cache->bytes_max = bytes_max;
    (void)pthread_mutex_init(&cache->lock, NULL);
    *out = cache;
    return KITH_OK;
}

void filter_cache_close(struct filter_cache *cache)
{
    if (cache == NULL)
        return;
    while (cache->oldest != NULL)
        drop_locked(cache, cache->oldest);
    (void)pthread_mutex_destroy(&cache->lock);
    kith_free(cache);
}

void filter_cache_stats(struct filter_cache *cache, struct filter_cache_stats *out)
{
    (void)pthread_mutex_lock(&cache->lock);
    *out = cache->stats;
    (void)pthread_mutex_unlock(&cache->lock);
}

/* ---- questions ------------------------------------------------------------------------------- */

static const struct view_segment *segment_of(const struct filter_question *question)
{
    const struct view *view = question->view;
    return question->part < view->n_segments ? &view->segments[question->part] : NULL;
}

static const struct view_head *head_of(const struct filter_question *question)
{
    return &question->view->heads[question->part - question->view->n_segments];
}

static void mask(struct entry *entry, const struct bitmap *deleted)
{
    uint64_t window[512];
    uint64_t *words = words_of(entry);
    uint32_t n = words_count(entry->answer.rows);
    for (uint32_t at = 0; at < n; at += 512) {
        uint32_t n_window = n - at < 512 ? n - at : 512;
        bitmap_words(deleted, at * 64, window, n_window);
        for (uint32_t w = 0; w < n_window; w++)
            words[at + w] &= ~window[w];
    }
}

static void all_rows(struct entry *entry)
{
    uint32_t rows = entry->answer.rows, n = words_count(rows);
    memset(words_of(entry), 0xff, n * sizeof(uint64_t));
    if (rows % 64 != 0)
        words_of(entry)[n - 1] = (UINT64_C(1) << rows % 64) - 1;
}

static enum kith_err evaluate(const struct filter_question *question, struct entry *entry,
                              struct kith_diag *diag)
{
    const struct view_segment *segment = segment_of(question);
    bool filtered = question->filter != NULL && question->filter->n_nodes > 0;
    if (!filtered && segment != NULL) {
        all_rows(entry);
        if (segment->deleted != NULL)
            mask(entry, segment->deleted);
        return KITH_OK;
    }
    static const struct kith_filter none;
    const struct kith_filter *filter = filtered ? question->filter : &none;
    struct bitmap *set = NULL;
    enum kith_err err = segment != NULL ? filter_segment(filter, question->view, question->part,
                                                         question->deadline_ms, &set, diag)
                                        : filter_head(filter, question->view,
                                                      question->part - question->view->n_segments,
                                                      question->deadline_ms, &set, diag);
    if (err == KITH_OK)
        bitmap_words(set, 0, words_of(entry), words_count(entry->answer.rows));
    bitmap_free(set);
    return err;
}

/* What an entry for the question would be found by. */
static struct entry like_of(const struct filter_question *question)
{
    const struct view_segment *segment = segment_of(question);
    struct entry like = {0};
    if (segment != NULL) {
        like.answer.rows = segment_rows(segment->segment);
        like.serial = segment_serial(segment->segment) * 2;
        like.version = like.answer.rows - segment->live;
    } else {
        like.answer.rows = head_of(question)->rows;
        like.serial = head_serial(head_of(question)->head) * 2 + 1;
        like.version = question->view->seq;
    }
    like.hash = kith_crc32c((uint32_t)like.serial, question->key.data, question->key.len) ^
                (uint32_t)like.serial * 2654435761u;
    return like;
}

static struct entry *entry_like(const struct entry *like, struct kith_bytes key)
{
    struct entry *entry = entry_new(like->answer.rows, key);
    if (entry == NULL)
        return NULL;
    entry->serial = like->serial;
    entry->version = like->version;
    entry->hash = like->hash;
    return entry;
}

const struct filter_answer *filter_cache_find(struct filter_cache *cache,
                                              const struct filter_question *question)
{
    const struct view_segment *segment = segment_of(question);
    const struct entry like = like_of(question);
    struct entry *old = look_up(cache, &like, question->key, segment != NULL);
    if (old == NULL || old->version == like.version)
        return old != NULL ? &old->answer : NULL;
    struct entry *entry = entry_like(&like, question->key);
    if (entry != NULL) { /* of a segment, with fewer deletes: so this view has some */
        memcpy(words_of(entry), old->answer.words,
               words_count(entry->answer.rows) * sizeof(uint64_t));
        mask(entry, segment->deleted);
        entry_count(entry);
        keep(cache, entry, question->key);
    }
    entry_unref(old);
    return entry != NULL ? &entry->answer : NULL;
}

enum kith_err filter_cache_make(struct filter_cache *cache, const struct filter_question *question,
                                const struct filter_answer **out, struct kith_diag *diag)
{
    const struct entry like = like_of(question);
    struct entry *entry = entry_like(&like, question->key);
    if (entry == NULL)
        return kith_fail(diag, KITH_NOMEM, "filter of %u rows", like.answer.rows);
    enum kith_err err = evaluate(question, entry, diag);
    if (err != KITH_OK) {
        entry_unref(entry);
        return err;
    }
    entry_count(entry);
    keep(cache, entry, question->key);
    *out = &entry->answer;
    return KITH_OK;
}

/* ---- the bytes of a filter ------------------------------------------------------------------- */

static void put(struct kith_buf *out, const void *data, size_t bytes)
{
    kith_buf_append(out, data, bytes);
}

static void put_u32(struct kith_buf *out, uint32_t value)
{
    put(out, &value, sizeof value);
}

static void put_bytes(struct kith_buf *out, struct kith_bytes bytes)
{
    put_u32(out, (uint32_t)bytes.len);
    put(out, bytes.data, bytes.len);
}

static void put_range(struct kith_buf *out, const struct kith_filter_node *node)
{
    uint8_t flags =
        (uint8_t)(node->has_low | node->has_high << 1 | node->low_open << 2 | node->high_open << 3);
    put(out, &flags, 1);
    if (node->kind == KITH_FILTER_TIME_RANGE) {
        put(out, &node->low_us, sizeof node->low_us);
        put(out, &node->high_us, sizeof node->high_us);
    } else {
        put(out, &node->low, sizeof node->low);
        put(out, &node->high, sizeof node->high);
    }
}

/* Children follow their node, each with a length's worth of structure of its own, and an end mark.
 * "All of one" and "any of one" are that one. */
static void put_node(const struct kith_filter *filter, uint32_t at, struct kith_buf *out)
{
    const struct kith_filter_node *node = &filter->nodes[at];
    bool branch = node->first_child != KITH_FILTER_NO_NODE || node->kind <= KITH_FILTER_AT_LEAST;
    uint8_t kind = (uint8_t)node->kind;
    if ((node->kind == KITH_FILTER_ALL || node->kind == KITH_FILTER_ANY) &&
        node->first_child != KITH_FILTER_NO_NODE &&
        filter->nodes[node->first_child].next_sibling == KITH_FILTER_NO_NODE) {
        put_node(filter, node->first_child, out);
        return;
    }
    put(out, &kind, 1);
    put_u32(out, node->min_count);
    put_bytes(out, node->key);
    put_u32(out, node->n_values);
    put_bytes(out, node->values);
    if (node->kind == KITH_FILTER_RANGE || node->kind == KITH_FILTER_TIME_RANGE ||
        node->kind == KITH_FILTER_VALUES_COUNT)
        put_range(out, node);
    if (!branch)
        return;
    for (uint32_t child = node->first_child; child != KITH_FILTER_NO_NODE;
         child = filter->nodes[child].next_sibling)
        put_node(filter, child, out);
    kind = UINT8_MAX;
    put(out, &kind, 1);
}

enum kith_err filter_cache_key(const struct kith_filter *filter, struct kith_buf *out,
                               struct kith_diag *diag)
{
    if (filter != NULL && filter->n_nodes > 0)
        put_node(filter, 0, out);
    return out->failed ? kith_fail(diag, KITH_NOMEM, "filter") : KITH_OK;
}
