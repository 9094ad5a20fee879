/* Which rows of a segment or a head may be found, as words of bits with their exact count; and the
 * answers given lately, so that a filter asked again costs a look-up.
 *
 * An answer belongs to one part of one view: the rows that are live there and match the filter
 * (without one: that are live). It is kept under the part and the filter, with the version of the
 * part it was true for. Rows of a segment only ever go, so an older answer is brought up to date by
 * masking; a newer one than the view's is of no use to it and stays.
 *
 * Owns: answers are counted; hold one while its words are read, give it back with
 * filter_answer_unref, also after the cache is closed. Borrows: views and filters for the call.
 * Threads: any. Errors: those of filter_set.h; without memory to keep an answer it is only not
 * kept. Limits: KITH_FILTER_CACHE_BYTES, KITH_FILTER_CACHE_ENTRIES. Only views that a store
 * published may be asked about (filter_cache.c says why). */
#ifndef FILTER_CACHE_H
#define FILTER_CACHE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "common/kith_buf.h"
#include "proto/kith_filter.h"
#include "shard/storage/view.h"

struct filter_cache;

enum kith_err filter_cache_open(struct filter_cache **out, size_t bytes_max,
                                struct kith_diag *diag);
void filter_cache_close(struct filter_cache *cache); /* NULL allowed */

struct filter_answer {
    const uint64_t *words; /* bit r: row r may be found; (rows + 63) / 64, aligned to 64 bytes */
    uint32_t rows;
    uint32_t count;
};
void filter_answer_unref(const struct filter_answer *answer); /* NULL allowed */

struct filter_question {
    const struct view *view;
    uint32_t part;                    /* segments first, then heads */
    const struct kith_filter *filter; /* NULL or without nodes: every live row */
    struct kith_bytes key;            /* of the filter, by filter_cache_key; empty without one */
    uint64_t deadline_ms;             /* 0: none */
};

/* The answer if it is kept, or can be had by masking an older one; NULL: make it. Microseconds. */
const struct filter_answer *filter_cache_find(struct filter_cache *cache,
                                              const struct filter_question *question);
/* Evaluates the filter, and keeps the answer. */
enum kith_err filter_cache_make(struct filter_cache *cache, const struct filter_question *question,
                                const struct filter_answer **out, struct kith_diag *diag);

/* Appends the bytes that stand for a filter: equal bytes, equal meaning. */
enum kith_err filter_cache_key(const struct kith_filter *filter, struct kith_buf *out,
                               struct kith_diag *diag);

struct filter_cache_stats {
    uint64_t hits, masked, misses; /* masked: hits that were brought up to date */
    uint64_t evicted, bytes, entries;
};
void filter_cache_stats(struct filter_cache *cache, struct filter_cache_stats *out);

#endif
