#include "shard/index/ivf_needed.h"

#include <string.h>

#include "common/kith_f16.h"
#include "shard/index/ivf_format.h"
#include "shard/index/kernels.h"

static uint32_t list_of(const struct ivf *index, uint32_t row)
{
    return ivf_format_list_of(index->lists, index->codebook->n_lists, row);
}

static float length2_of(const struct codebook *c, const float *query)
{
    float length2;
    kernels_best()->norms((struct kernels_rows){query, c->dim}, 1, &length2);
    return length2;
}

/* The distances of ivf_effort: squared, but under manhattan. */
static float centroid_distance(const struct codebook *c, const float *query, float length2,
                               uint32_t list)
{
    struct kernels_rows centroid = {c->centroids + (size_t)list * c->dim, c->dim};
    float rank;
    bool sums = c->metric == KITH_MANHATTAN;
    kernels_best()->scan[sums ? KERNELS_L1 : KERNELS_IP][KERNELS_F32](query, centroid, 1, &rank);
    return sums ? -rank : c->weight * length2 - 2 * (rank - c->minus[list]);
}

static float row_distance(const struct codebook *c, float length2, float rank)
{
    /* Through a score, a small euclidean distance would be lost in roundings. */
    return c->metric == KITH_EUCLID ? -rank : ivf_lists_hit_distance(c, length2, rank);
}

/* How far the first lists of a search go. */
static float front_of(const struct ivf_needed *job, const float *query, float length2)
{
    const struct codebook *c = job->index->codebook;
    if (!ivf_lists_rank(job->lists, c, query, length2))
        return 0.0f;
    ivf_lists_take(job->lists, IVF_FIRST_LISTS);
    return ivf_lists_distance(job->lists->farthest, c, length2);
}

float ivf_needed_by(const struct ivf_needed *job, const float *query, uint32_t own,
                    const struct kith_hit *hits, uint32_t k, float *needed)
{
    const struct codebook *c = job->index->codebook;
    float length2 = length2_of(c, query), worst = 0;
    for (uint32_t i = 0, n = 0; n < k; i++)
        if (hits[i].id.lo != own) {
            worst = hits[i].rank;
            n++;
        }
    float unit = ivf_lists_unit(row_distance(c, length2, worst), front_of(job, query, length2));
    uint32_t nearest = list_of(job->index, own);
    for (uint32_t i = 0, n = 0; n < k; i++) {
        if (hits[i].id.lo == own)
            continue;
        uint32_t list = list_of(job->index, (uint32_t)hits[i].id.lo);
        float reach = centroid_distance(c, query, length2, list) / unit;
        if (c->metric == KITH_MANHATTAN)
            reach *= reach;
        if (list == nearest) /* is always looked at */
            needed[n++] = 0;
        else
            needed[n++] = reach >= 0 && reach < IVF_NEEDED_MAX ? reach : IVF_NEEDED_MAX;
    }
    return worst;
}

void ivf_needed_queries(const struct ivf *index, uint32_t n, float *out)
{
    uint32_t dim = index->codebook->dim;
    for (uint32_t q = 0; q < n; q++, out += dim) {
        const void *row = ivf_row(index, ivf_needed_row(index, n, q));
        if (index->row_type == KITH_ROWS_F16)
            kith_f16_unpack(out, row, dim);
        else
            memcpy(out, row, dim * sizeof *out);
        float stretch = ivf_format_stretch(index->codebook, length2_of(index->codebook, out));
        for (uint32_t i = 0; i < dim; i++)
            out[i] *= stretch;
    }
}
