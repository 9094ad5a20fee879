#include "common/kith_arena.h"

#include <stdint.h>
#include <string.h>

#include "common/kith_mem.h"

#define CHUNK_BYTES (16u * 1024)
#define ALIGN       16u

#if defined(__SANITIZE_ADDRESS__)
#define ONE_BLOCK_EACH 1
#elif defined(__has_feature)
#if __has_feature(address_sanitizer)
#define ONE_BLOCK_EACH 1
#endif
#endif
#ifndef ONE_BLOCK_EACH
#define ONE_BLOCK_EACH 0
#endif

struct kith_arena_chunk {
    struct kith_arena_chunk *next;
    size_t used;
    size_t size;
    _Alignas(ALIGN) uint8_t data[];
};

static struct kith_arena_chunk *add_chunk(struct kith_arena *arena, size_t bytes)
{
    size_t total;
    if (!kith_add(sizeof(struct kith_arena_chunk), bytes, &total))
        return NULL;
    /* Not zeroed: of most chunks most is never used, and what is used is zeroed piece by piece. */
    struct kith_arena_chunk *chunk = kith_alloc_aligned(ALIGN, total);
    if (chunk == NULL)
        return NULL;
    *chunk = (struct kith_arena_chunk){.next = arena->chunks, .size = bytes};
    arena->chunks = chunk;
    return chunk;
}

/* Content undefined. */
static void *take(struct kith_arena *arena, size_t bytes)
{
    size_t size, used;
    if (!kith_add(bytes > 0 ? bytes : 1, ALIGN - 1, &size))
        return NULL;
    size &= ~(size_t)(ALIGN - 1);
    if (!kith_add(arena->used, size, &used) || (arena->limit != 0 && used > arena->limit))
        return NULL;

    struct kith_arena_chunk *chunk = arena->chunks;
    if (ONE_BLOCK_EACH || chunk == NULL || chunk->size - chunk->used < size) {
        chunk = add_chunk(arena, ONE_BLOCK_EACH || size > CHUNK_BYTES ? size : CHUNK_BYTES);
        if (chunk == NULL)
            return NULL;
    }
    void *ptr = chunk->data + chunk->used;
    chunk->used += size;
    arena->used = used;
    return ptr;
}

void *kith_arena_alloc(struct kith_arena *arena, size_t bytes)
{
    void *ptr = take(arena, bytes);
    return ptr == NULL ? NULL : memset(ptr, 0, bytes > 0 ? bytes : 1);
}

void *kith_arena_array(struct kith_arena *arena, size_t n, size_t elem)
{
    size_t bytes;
    return kith_mul(n, elem, &bytes) ? kith_arena_alloc(arena, bytes) : NULL;
}

void *kith_arena_dup(struct kith_arena *arena, const void *src, size_t bytes)
{
    void *copy = take(arena, bytes);
    if (copy != NULL && bytes > 0)
        memcpy(copy, src, bytes);
    return copy;
}

char *kith_arena_text(struct kith_arena *arena, const char *text, size_t len)
{
    size_t bytes;
    if (!kith_add(len, 1, &bytes))
        return NULL;
    char *copy = take(arena, bytes);
    if (copy == NULL)
        return NULL;
    if (len > 0)
        memcpy(copy, text, len);
    copy[len] = '\0';
    return copy;
}

void kith_arena_fini(struct kith_arena *arena)
{
    while (arena->chunks != NULL) {
        struct kith_arena_chunk *next = arena->chunks->next;
        kith_free(arena->chunks);
        arena->chunks = next;
    }
    arena->used = 0;
}
