/* A bound that lets about n lists through is found by bisection over the maxima of groups of 8
 * lists: that n groups have a list above a bound means at least n lists do, and there are 8 times
 * fewer numbers to count. The groups also tell where no list need be looked at when a portion is
 * picked. */
#include "shard/index/ivf_lists.h"

#include <float.h>
#include <math.h>
#include <string.h>

#include "common/kith_mem.h"
#include "shard/index/ivf_format.h"
#include "shard/index/ivf_kernels.h"

#define CLASSES    32u
#define STEPS_MAX  14u /* of a bisection */
#define FARTHEST   (-1e37f)
#define SCALE_MAX  1e20f /* sums of products times it stay finite */
#define LENGTH_MIN 1e-30f
#define ROUNDING_ERROR                                                                             \
    0.2887f /* standard deviation of a uniform error of one step: 1 / sqrt 12                      \
             */

enum kith_err ivf_lists_init(struct ivf_lists *lists, const struct codebook *codebook,
                             struct kith_diag *diag)
{
    uint32_t n = codebook->n_lists8;
    uint32_t spans = (n + IVF_KERNELS_SPAN - 1) / IVF_KERNELS_SPAN;
    *lists = (struct ivf_lists){.n_lists = codebook->n_lists,
                                .n_keys = n,
                                .n_maxima = spans * IVF_KERNELS_LANES,
                                .dim4 = (codebook->dim + 3) / 4};
    size_t slack = IVF_KERNELS_SLACK;
    lists->keys = kith_alloc_aligned(64, sizeof(float) * n);
    lists->maxima = kith_alloc_aligned(64, sizeof(float) * lists->n_maxima);
    lists->picked = kith_alloc(sizeof(uint32_t) * (n + slack));
    lists->sorted = kith_alloc(sizeof(uint32_t) * (n + slack));
    lists->classes = kith_alloc(n);
    lists->bytes = kith_alloc(lists->dim4 * 4u);
    bool whole = true;
    for (uint32_t i = 0; i < IVF_KERNELS_BATCH; i++) {
        struct ivf_lists_ranked *ranked = &lists->ranked[i];
        ranked->keys = kith_alloc_aligned(64, sizeof(float) * n);
        ranked->maxima = kith_alloc_aligned(64, sizeof(float) * lists->n_maxima);
        ranked->bytes = kith_alloc(lists->dim4 * 4u);
        whole = whole && ranked->keys != NULL && ranked->maxima != NULL && ranked->bytes != NULL;
    }
    if (!whole || lists->keys == NULL || lists->maxima == NULL || lists->picked == NULL ||
        lists->sorted == NULL || lists->classes == NULL || lists->bytes == NULL) {
        ivf_lists_fini(lists);
        return kith_fail(diag, KITH_NOMEM, "order of %u lists", n);
    }
    return KITH_OK;
}

void ivf_lists_fini(struct ivf_lists *lists)
{
    kith_free(lists->keys);
    kith_free(lists->maxima);
    kith_free(lists->picked);
    kith_free(lists->sorted);
    kith_free(lists->classes);
    kith_free(lists->bytes);
    for (uint32_t i = 0; i < IVF_KERNELS_BATCH; i++) {
        kith_free(lists->ranked[i].keys);
        kith_free(lists->ranked[i].maxima);
        kith_free(lists->ranked[i].bytes);
    }
    *lists = (struct ivf_lists){0};
}

/* Under manhattan bytes are compared, not multiplied: the query gets the centroids' scale. */
static float byte_scale(const struct codebook *codebook, const float *query, float *of_sums)
{
    if (codebook->metric == KITH_MANHATTAN) {
        *of_sums = codebook->centroid_scale8;
        return codebook->centroid_scale8 > 0 ? 1 / codebook->centroid_scale8 : 0;
    }
    float largest = ivf_format_largest(query, codebook->dim);
    *of_sums = largest > LENGTH_MIN ? codebook->centroid_scale8 * (largest / 127) : 0;
    return largest > LENGTH_MIN ? 127 / largest : 0;
}

static void round_clamped(const float *query, uint32_t dim, float scale, int8_t *out)
{
    for (uint32_t i = 0; i < dim; i++) {
        float value = query[i] * scale;
        out[i] = (int8_t)(!(value > -127) ? -127 : value > 127 ? 127 : lrintf(value));
    }
}

void ivf_lists_restart(struct ivf_lists *lists)
{
    lists->low = INFINITY;
    lists->n = 0;
}

/* The query as bytes. False: its numbers are too large. */
static bool ask(struct ivf_kernels_lists *asked, const struct ivf_lists *lists,
                const struct codebook *codebook, const float *query, int8_t *bytes,
                float *query_scale)
{
    *asked = (struct ivf_kernels_lists){.centroids = codebook->centroids8,
                                        .minus = codebook->minus,
                                        .query = bytes,
                                        .dim4 = lists->dim4,
                                        .n = lists->n_keys};
    float scale = byte_scale(codebook, query, &asked->scale);
    if (!(asked->scale < SCALE_MAX) || !(scale < SCALE_MAX * SCALE_MAX))
        return false;
    if (codebook->metric == KITH_MANHATTAN)
        round_clamped(query, codebook->dim, scale, bytes);
    else
        ivf_kernels_best()->round(query, codebook->dim, scale, bytes);
    *query_scale = scale;
    return true;
}

static void begin(struct ivf_lists *lists, const struct codebook *codebook, float query_scale,
                  float length2)
{
    ivf_lists_restart(lists);
    lists->spread = length2 / 2;
    /* Either side is rounded, and a centroid worth visiting is about as long as the query. */
    lists->error = ROUNDING_ERROR *
                   hypotf(codebook->centroid_scale8, query_scale > 0 ? 1 / query_scale : 0) *
                   sqrtf(length2);
}

bool ivf_lists_rank(struct ivf_lists *lists, const struct codebook *codebook, const float *query,
                    float length2)
{
    const struct ivf_kernels *kernels = ivf_kernels_best();
    bool l1 = codebook->metric == KITH_MANHATTAN;
    struct ivf_kernels_lists asked;
    float scale;
    if (!ask(&asked, lists, codebook, query, lists->bytes, &scale))
        return false;
    (l1 ? kernels->rank_lists_l1 : kernels->rank_lists)(&asked, lists->keys, lists->maxima);
    if (l1) /* the other keys have minus */
        for (uint32_t i = lists->n_lists; i < lists->n_keys; i++)
            lists->keys[i] = -FLT_MAX;
    begin(lists, codebook, scale, length2);
    return true;
}

bool ivf_lists_rank_batch(struct ivf_lists *lists, const struct codebook *codebook,
                          const float *const queries[IVF_KERNELS_BATCH])
{
    const struct ivf_kernels *kernels = ivf_kernels_best();
    struct ivf_kernels_lists asked[IVF_KERNELS_BATCH];
    float *keys[IVF_KERNELS_BATCH], *maxima[IVF_KERNELS_BATCH];
    if (kernels->rank_batch == NULL || codebook->metric == KITH_MANHATTAN)
        return false;
    for (uint32_t i = 0; i < IVF_KERNELS_BATCH; i++) {
        struct ivf_lists_ranked *ranked = &lists->ranked[i];
        if (!ask(&asked[i], lists, codebook, queries[i], ranked->bytes, &ranked->scale))
            return false;
        keys[i] = ranked->keys;
        maxima[i] = ranked->maxima;
    }
    kernels->rank_batch(asked, keys, maxima);
    return true;
}

void ivf_lists_begin_ranked(struct ivf_lists *lists, const struct codebook *codebook, uint32_t i,
                            float length2)
{
    struct ivf_lists_ranked *ranked = &lists->ranked[i];
    float *keys = lists->keys, *maxima = lists->maxima;
    lists->keys = ranked->keys;
    lists->maxima = ranked->maxima;
    ranked->keys = keys;
    ranked->maxima = maxima;
    begin(lists, codebook, ranked->scale, length2);
}

bool ivf_lists_all_taken(const struct ivf_lists *lists)
{
    return lists->low < FARTHEST;
}

/* A bound that about n of the values (at least n, or FARTHEST) are not below. */
static float bound_of(const struct ivf_lists *lists, const float *values, uint32_t n_values,
                      uint32_t n)
{
    const struct ivf_kernels *kernels = ivf_kernels_best();
    float high = -FLT_MAX;
    for (uint32_t i = 0; i < lists->n_maxima; i++)
        high = lists->maxima[i] > high ? lists->maxima[i] : high;
    float step = 0.02f * (fabsf(high) + lists->spread) + FLT_MIN;
    float low = high - step;
    uint32_t count = kernels->count(values, n_values, low);
    while (count < n && low >= FARTHEST) {
        step *= 2;
        low = high - step;
        count = kernels->count(values, n_values, low);
    }
    for (uint32_t i = 0; i < STEPS_MAX && count > n + n / 2; i++) {
        float middle = (low + high) / 2;
        uint32_t above = kernels->count(values, n_values, middle);
        if (above >= n) {
            low = middle;
            count = above;
        } else {
            high = middle;
        }
    }
    return low;
}

/* Counting sort of the picked lists by how far below the nearest they are. */
static void put_in_order(struct ivf_lists *lists)
{
    float top = -FLT_MAX;
    for (uint32_t i = 0; i < lists->n; i++)
        top = lists->keys[lists->picked[i]] > top ? lists->keys[lists->picked[i]] : top;
    float bottom = top;
    for (uint32_t i = 0; i < lists->n; i++)
        bottom = lists->keys[lists->picked[i]] < bottom ? lists->keys[lists->picked[i]] : bottom;
    lists->farthest = bottom;
    float scale = top > bottom ? ((float)CLASSES - 0.01f) / (top - bottom) : 0;
    uint32_t starts[CLASSES + 1] = {0};
    for (uint32_t i = 0; i < lists->n; i++) {
        float class = (top - lists->keys[lists->picked[i]]) * scale;
        lists->classes[i] = (uint8_t)(!(class < CLASSES) ? CLASSES - 1 : class);
        starts[lists->classes[i] + 1]++;
    }
    for (uint32_t i = 1; i <= CLASSES; i++)
        starts[i] += starts[i - 1];
    for (uint32_t i = 0; i < lists->n; i++)
        lists->sorted[starts[lists->classes[i]]++] = lists->picked[i];
    lists->order = lists->sorted;
}

void ivf_lists_take_above(struct ivf_lists *lists, float low)
{
    /* The farthest keys are as good as infinitely far; padding has them, too. */
    if (!(low > FARTHEST))
        low = -INFINITY;
    lists->n = 0;
    if (low < lists->low) {
        lists->n = ivf_kernels_best()->pick(lists->keys, lists->maxima, lists->n_keys, low,
                                            lists->low, lists->picked);
        uint32_t n = 0;
        for (uint32_t i = 0; i < lists->n; i++)
            if (lists->picked[i] < lists->n_lists)
                lists->picked[n++] = lists->picked[i];
        lists->n = n;
        lists->low = low;
    }
    put_in_order(lists);
}

void ivf_lists_take(struct ivf_lists *lists, uint32_t n)
{
    /* The taken ones are nearest, so the bound for so many more is that for all together. */
    uint32_t taken = lists->low == INFINITY
                         ? 0
                         : ivf_kernels_best()->count(lists->keys, lists->n_keys, lists->low);
    float low = -INFINITY;
    if (taken + n < lists->n_lists) {
        bool few = taken + n <= lists->n_maxima / 4;
        low = bound_of(lists, few ? lists->maxima : lists->keys,
                       few ? lists->n_maxima : lists->n_keys, taken + n);
    }
    ivf_lists_take_above(lists, low);
}

float ivf_lists_distance(float key, const struct codebook *codebook, float length2)
{
    float distance =
        codebook->metric == KITH_MANHATTAN ? -key : codebook->weight * length2 - 2 * key;
    return distance > 0 ? distance : 0;
}

float ivf_lists_hit_distance(const struct codebook *codebook, float length2, float score)
{
    float weight = codebook->weight;
    float length = codebook->metric == KITH_COSINE ? 1 : codebook->lift;
    float distance = weight * length2 + length / weight - 2 * score;
    if (codebook->metric == KITH_EUCLID || codebook->metric == KITH_MANHATTAN)
        distance = ivf_format_distance(codebook, length2, score);
    return distance > 0 ? distance : 0;
}
