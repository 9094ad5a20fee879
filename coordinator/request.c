#include "coordinator/request.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "common/kith_arena.h"
#include "common/kith_clock.h"
#include "common/kith_mem.h"

void *request_grow(struct request *req, void *items, size_t n, size_t *cap, size_t elem)
{
    if (n < *cap)
        return items;
    size_t more = *cap ? *cap * 2 : 8;
    void *grown = kith_arena_array(req->arena, more, elem);
    if (!grown)
        return NULL;
    if (n)
        memcpy(grown, items, n * elem);
    *cap = more;
    return grown;
}

const char *request_text_of(struct request *req, const char *fmt, ...)
{
    char text[KITH_DIAG_BYTES];
    va_list args;
    va_start(args, fmt);
    vsnprintf(text, sizeof(text), fmt, args);
    va_end(args);
    const char *kept = kith_arena_text(req->arena, text, strlen(text));
    return kept ? kept : "";
}

uint32_t request_left_ms(const struct request *req)
{
    uint64_t now = kith_now_ms();
    if (now >= req->http->deadline_ms)
        return 0;
    uint64_t left = req->http->deadline_ms - now;
    return left > KITH_DEADLINE_MAX_MS ? KITH_DEADLINE_MAX_MS : (uint32_t)left;
}
