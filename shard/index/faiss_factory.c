#include "shard/index/faiss_factory.h"

#include <string.h>

#include "proto/kith_limits.h"

enum piece { PIECE_TRANSFORM, PIECE_LISTS, PIECE_GRAPH, PIECE_CODE, PIECE_RERANK };

struct kind {
    const char *pattern; /* # is a number */
    enum piece piece;
    struct {
        uint32_t min, max;
    } numbers[2];
    bool divides; /* the first number divides the dimension */
    bool resizes; /* the last number is the dimension from here on */
};

#define LISTS                                                                                      \
    {                                                                                              \
        1, KITH_FAISS_CENTROIDS_MAX                                                                \
    }
#define LINKS                                                                                      \
    {                                                                                              \
        4, 256                                                                                     \
    }
#define WIDTH                                                                                      \
    {                                                                                              \
        1, KITH_FAISS_ROTATION_MAX                                                                 \
    }
#define BITS                                                                                       \
    {                                                                                              \
        4, 12                                                                                      \
    } /* 4096 centroids a piece; more would be trained for hours */
#define FOUR                                                                                       \
    {                                                                                              \
        4, 4                                                                                       \
    }
static const struct kind kinds[] = {
    {"PCA#", PIECE_TRANSFORM, {WIDTH}, false, true},
    {"PCAR#", PIECE_TRANSFORM, {WIDTH}, false, true},
    {"OPQ#", PIECE_TRANSFORM, {WIDTH}, true, false},
    {"OPQ#_#", PIECE_TRANSFORM, {WIDTH, WIDTH}, true, true},
    {"IVF#", PIECE_LISTS, {LISTS}, false, false},
    {"IVF#_HNSW#", PIECE_LISTS, {LISTS, LINKS}, false, false},
    {"HNSW#", PIECE_GRAPH, {LINKS}, false, false},
    {"Flat", PIECE_CODE, {{0}}, false, false},
    {"SQ4", PIECE_CODE, {{0}}, false, false},
    {"SQ6", PIECE_CODE, {{0}}, false, false},
    {"SQ8", PIECE_CODE, {{0}}, false, false},
    {"SQfp16", PIECE_CODE, {{0}}, false, false},
    {"PQ#", PIECE_CODE, {WIDTH}, true, false},
    {"PQ#x#", PIECE_CODE, {WIDTH, BITS}, true, false},
    {"PQ#x#fs", PIECE_CODE, {WIDTH, FOUR}, true, false},
    {"PQ#x#fsr", PIECE_CODE, {WIDTH, FOUR}, true, false},
    {"RFlat", PIECE_RERANK, {{0}}, false, false},
};

/* How many numbers the piece [at, end) of this pattern has; -1: it is not of it. */
static int match(const char *pattern, const char *at, const char *end, uint32_t numbers[2])
{
    int n = 0;
    for (; *pattern != '\0'; pattern++) {
        if (*pattern != '#') {
            if (at == end || *at++ != *pattern)
                return -1;
            continue;
        }
        uint32_t value = 0, digits = 0;
        for (; at < end && *at >= '0' && *at <= '9' && digits < 8; at++, digits++)
            value = value * 10 + (uint32_t)(*at - '0');
        if (digits == 0)
            return -1;
        numbers[n++] = value;
    }
    return at == end ? n : -1;
}

static const struct kind *kind_of(const char *at, const char *end, uint32_t numbers[2], int *count)
{
    for (size_t i = 0; i < sizeof kinds / sizeof *kinds; i++) {
        *count = match(kinds[i].pattern, at, end, numbers);
        if (*count >= 0)
            return &kinds[i];
    }
    return NULL;
}

static enum kith_err check_piece(const char *at, const char *end, uint32_t *dim,
                                 enum kith_metric metric, struct kith_diag *diag)
{
    uint32_t numbers[2] = {0};
    int count, width = (int)(end - at);
    const struct kind *kind = kind_of(at, end, numbers, &count);
    if (kind == NULL)
        return kith_fail(diag, KITH_BAD_REQUEST, "index factory: '%.*s' is not a known piece",
                         width, at);
    for (int i = 0; i < count; i++)
        if (numbers[i] < kind->numbers[i].min || numbers[i] > kind->numbers[i].max)
            return kith_fail(diag, KITH_BAD_REQUEST,
                             "index factory: '%.*s': %u is not from %u to %u", width, at,
                             numbers[i], kind->numbers[i].min, kind->numbers[i].max);
    if (kind->resizes)
        *dim = numbers[count - 1];
    if (kind->divides && *dim % numbers[0] != 0)
        return kith_fail(diag, KITH_BAD_REQUEST,
                         "index factory: '%.*s': %u does not divide dimension %u", width, at,
                         numbers[0], *dim);
    bool simple = kind->piece == PIECE_GRAPH || strncmp(at, "Flat", 4) == 0;
    if (metric == KITH_MANHATTAN && !simple)
        return kith_fail(diag, KITH_UNSUPPORTED,
                         "index factory: '%.*s' cannot be searched by manhattan distance; Flat and "
                         "HNSW# can",
                         width, at);
    return KITH_OK;
}

enum kith_err faiss_factory_check(const char *factory, uint32_t dim, enum kith_metric metric,
                                  struct kith_diag *diag)
{
    if (strlen(factory) > KITH_FAISS_FACTORY_MAX)
        return kith_fail(diag, KITH_TOO_BIG, "index factory: longer than %u characters",
                         KITH_FAISS_FACTORY_MAX);
    if (dim == 0 || dim > KITH_DIM_MAX)
        return kith_fail(diag, KITH_TOO_BIG, "index: dimension %u; 1 to %u are allowed", dim,
                         KITH_DIM_MAX);
    for (const char *at = factory;; at++) {
        const char *end = at + strcspn(at, ",");
        enum kith_err err = check_piece(at, end, &dim, metric, diag);
        if (err != KITH_OK || *end == '\0')
            return err;
        at = end;
    }
}

static void add_to_shape(const char *at, const char *end, struct faiss_factory_shape *shape)
{
    uint32_t numbers[2] = {0};
    int count;
    const struct kind *kind = kind_of(at, end, numbers, &count);
    kith_assert(kind != NULL);
    uint32_t centroids = 0;
    if (kind->piece == PIECE_LISTS)
        centroids = shape->lists = numbers[0];
    if (kind->piece == PIECE_GRAPH || (kind->piece == PIECE_LISTS && count == 2))
        shape->graph = true;
    if (kind->piece == PIECE_TRANSFORM || (kind->piece == PIECE_CODE && *at != 'F'))
        shape->coded = true;
    if (kind->piece == PIECE_CODE && *at == 'P')
        centroids = 1u << (count == 2 ? numbers[1] : 8);
    if (kind->piece == PIECE_TRANSFORM && *at == 'O')
        centroids = 256; /* of the codes it is trained with */
    if (centroids > shape->centroids)
        shape->centroids = centroids;
}

struct faiss_factory_shape faiss_factory_shape_of(const char *factory)
{
    struct faiss_factory_shape shape = {.ranked_len = (uint32_t)strlen(factory)};
    for (const char *at = factory;; at++) {
        const char *end = at + strcspn(at, ",");
        if (*at == 'R' && at > factory)
            shape.ranked_len = (uint32_t)(at - factory) - 1;
        else
            add_to_shape(at, end, &shape);
        if (*end == '\0')
            return shape;
        at = end;
    }
}
