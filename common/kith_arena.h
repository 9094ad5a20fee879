/* An arena: many small allocations, freed in one call. A request owns one and frees it after its
 * reply.
 *
 * Zero-initialise to start. `limit` (bytes, 0 = none) caps what one request may take.
 * Under AddressSanitizer every piece is its own heap block, so that overruns are seen.
 * Threads: one owner at a time. Errors: NULL when memory or the limit is out. */
#ifndef KITH_ARENA_H
#define KITH_ARENA_H

#include <stddef.h>

#include "proto/kith_err.h"

struct kith_arena_chunk;

struct kith_arena {
    struct kith_arena_chunk *chunks;
    size_t used;
    size_t limit;
};

void *kith_arena_alloc(struct kith_arena *arena,
                       size_t bytes) KITH_MUST_CHECK; /* zeroed, 16-aligned */
void *kith_arena_array(struct kith_arena *arena, size_t n,
                       size_t elem) KITH_MUST_CHECK; /* checked n * elem */
void *kith_arena_dup(struct kith_arena *arena, const void *src, size_t bytes) KITH_MUST_CHECK;
char *kith_arena_text(struct kith_arena *arena, const char *text,
                      size_t len) KITH_MUST_CHECK; /* adds NUL */
void kith_arena_fini(struct kith_arena *arena);

#endif
