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
        at++;
        if (*at == '\0')
            break;
        if (i >= n)
            return 0;
        if (*at != '{') {
            /* Most patterns end here, most of them with their first letter. */
            const char *segment = segments[i];
            while (*segment && *segment == *at) {
                segment++;
                at++;
            }
            if (*segment || (*at && *at != '/'))
                return 0;
            score++;
        }
        while (*at && *at != '/')
            at++;
        i++;
    }
    return i == n ? score : 0;
}

/* The methods that the path knows. */
static void list_methods(const char *const *segments, uint32_t n, char allow[ROUTES_ALLOW_BYTES])
{
    for (size_t i = 0; i < N_ROUTES; i++) {
        const char *name = gateway_method_name(table[i].method);
        if (!match(table[i].pattern, segments, n) || strstr(allow, name))
            continue;
        if (*allow)
            strcat(allow, ", "); /* at most the six names of the enum */
        strcat(allow, name);
    }
}

enum kith_err routes_find(enum gateway_method method, const char *const *segments,
                          uint32_t segments_n, const struct route **out,
                          char allow[ROUTES_ALLOW_BYTES])
{
    const struct route *best = NULL;
    uint32_t best_score = 0;
    allow[0] = '\0';
    for (size_t i = 0; i < N_ROUTES; i++) {
        uint32_t score =
            table[i].method == method ? match(table[i].pattern, segments, segments_n) : 0;
        if (score > best_score) {
            best = &table[i];
            best_score = score;
        }
    }
    if (best) {
        *out = best;
        return KITH_OK;
    }
    list_methods(segments, segments_n, allow);
    return *allow ? KITH_METHOD : KITH_NOT_FOUND;
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
