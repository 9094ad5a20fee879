#include "coordinator/routes.h"

#include <string.h>

static const struct route table[] = {
#define X(method_, pattern_, plan_, collection_, body_)                                            \
    {GATEWAY_##method_, pattern_, plan_, collection_, body_},
#include "coordinator/routes.def"
#undef X
};
#define N_ROUTES (sizeof(table) / sizeof(table[0]))

/* 0 = no match; more literal segments score higher, so "points/count" beats "points/{id}". */
static uint32_t match(const char *pattern, const char *const *segments, uint32_t n)
{
    uint32_t score = 1, i = 0;
    const char *at = pattern;
    while (*at == '/') {
        const char *part = at + 1;
        size_t len = strcspn(part, "/");
        at = part + len;
        if (len == 0)
            break;
        if (i >= n)
            return 0;
        bool literal = part[0] != '{';
        if (literal && (strlen(segments[i]) != len || memcmp(segments[i], part, len) != 0))
            return 0;
        score += literal;
        i++;
    }
    return i == n ? score : 0;
}

enum kith_err routes_find(enum gateway_method method, const char *const *segments,
                          uint32_t segments_n, const struct route **out,
                          char allow[ROUTES_ALLOW_BYTES])
{
    const struct route *best = NULL;
    uint32_t best_score = 0;
    allow[0] = '\0';
    for (size_t i = 0; i < N_ROUTES; i++) {
        uint32_t score = match(table[i].pattern, segments, segments_n);
        if (score == 0)
            continue;
        if (table[i].method == method) {
            if (score > best_score) {
                best = &table[i];
                best_score = score;
            }
            continue;
        }
        const char *name = gateway_method_name(table[i].method);
        if (!strstr(allow, name)) {
            if (*allow)
                strcat(allow, ", "); /* at most the six names of the enum */
            strcat(allow, name);
        }
    }
    if (!best)
        return *allow ? KITH_METHOD : KITH_NOT_FOUND;
    *out = best;
    return KITH_OK;
}

uint32_t routes_count(void)
{
    return N_ROUTES;
}

const struct route *routes_at(uint32_t index)
{
    kith_assert(index < N_ROUTES);
    return &table[index];
}

uint32_t routes_index(const struct route *route)
{
    return (uint32_t)(route - table);
}
