#include "shard/index/nearest.h"

#include <float.h>
#include <math.h>
#include <string.h>

#include "common/kith_f16.h"
#include "proto/kith_err.h"
#include "shard/index/blas.h"
#include "shard/index/build_kernels.h"

/* Products are made in tiles of so many centroids: the scratch stays in the second-level cache, and
 * its size has a bound. */
#define TILE 1024u

struct nearest_space nearest_space_of(enum kith_metric metric, uint32_t dim, float lift)
{
    bool lifted = metric == KITH_DOT;
    return (struct nearest_space){
        .dim = dim, .width = dim + 1 + (lifted ? 1 : 0), .lift = lifted ? lift : 0.0f};
}

static bool is_lifted(const struct nearest_space *space)
{
    return space->width > space->dim + 1;
}

static float square(const float *values, uint32_t n)
{
    float sum = 0.0f;
    for (uint32_t i = 0; i < n; i++)
        sum += values[i] * values[i];
    return sum;
}

float nearest_prepare(const struct nearest_space *space, const void *row, enum kith_row_type type,
                      float *out)
{
    if (type == KITH_ROWS_F16)
        kith_f16_unpack(out, row, space->dim);
    else
        memcpy(out, row, space->dim * sizeof *out);
    float length = build_kernels()->square(out, space->dim);
    if (is_lifted(space)) {
        out[space->dim] = length < space->lift ? sqrtf(space->lift - length) : 0.0f;
        length = length < space->lift ? space->lift : length;
    }
    out[space->width - 1] = 1.0f;
    return length;
}

void nearest_close(const struct nearest_space *space, float *centroid)
{
    centroid[space->width - 1] = -square(centroid, space->width - 1) / 2;
}

enum kith_err nearest_set_init(struct nearest_set *set, const struct nearest_space *space,
                               const float *centroids, uint32_t n, struct kith_diag *diag)
{
    *set = (struct nearest_set){.centroids = centroids, .n = n, .width = space->width};
    return nearest_bytes_init(&set->bytes, n, space->dim, space->width, nearest_kernels_best(),
                              diag);
}

void nearest_set_renew(struct nearest_set *set)
{
    nearest_bytes_set(&set->bytes, set->centroids);
}

void nearest_set_fini(struct nearest_set *set)
{
    nearest_bytes_fini(&set->bytes);
}

size_t nearest_scratch_bytes(const struct nearest_set *set)
{
    uint32_t tile = set->n < TILE ? set->n : TILE;
    size_t products = (size_t)NEAREST_ROWS * tile * sizeof(float);
    size_t by_bytes = nearest_bytes_scratch(&set->bytes, NEAREST_ROWS);
    return products > by_bytes ? products : by_bytes;
}

static void find_by_floats(const struct nearest_set *set, const struct nearest_rows *rows,
                           float *scratch, uint32_t *lists, float *scores)
{
    for (uint32_t i = 0; i < rows->n; i++) {
        lists[i] = 0;
        scores[i] = -FLT_MAX;
    }
    const struct build_kernels *kernels = build_kernels();
    for (uint32_t at = 0; at < set->n; at += TILE) {
        uint32_t tile = set->n - at < TILE ? set->n - at : TILE;
        struct blas_block centroids = {set->centroids + (size_t)at * set->width, tile, set->width};
        blas_products((struct blas_block){rows->values, rows->n, set->width}, centroids, scratch);
        for (uint32_t i = 0; i < rows->n; i++) {
            uint32_t best = kernels->largest(scratch + (size_t)i * tile, tile);
            float score = scratch[(size_t)i * tile + best];
            if (score > scores[i]) {
                scores[i] = score;
                lists[i] = at + best;
            }
        }
    }
}

void nearest_find(const struct nearest_set *set, const struct nearest_rows *rows, float *scratch,
                  uint32_t *lists, float *scores)
{
    kith_assert(rows->n <= NEAREST_ROWS);
    if (!nearest_bytes_find(&set->bytes, set->centroids, rows, scratch, lists, scores))
        find_by_floats(set, rows, scratch, lists, scores);
}
