#include "shard/index/ivf_reuse.h"

#include "shard/storage/segment.h"

void ivf_reuse_init(struct ivf_reuse *reuse, const struct segment_source *source,
                    const struct codebook *codebook)
{
    *reuse = (struct ivf_reuse){0};
    kith_assert(source->n_origins <= SEGMENT_ORIGINS_MAX);
    for (uint32_t i = 0; i < source->n_origins; i++) {
        const struct segment_origin *origin = &source->origins[i];
        const struct ivf *index = segment_index(origin->segment);
        if (index == NULL || index->codebook->hash != codebook->hash || origin->n == 0)
            continue;
        reuse->parts[reuse->n_parts++] = (struct ivf_reuse_part){index, *origin};
        reuse->n_rows += origin->n;
    }
}

const struct ivf *ivf_reuse_find(const struct ivf_reuse *reuse, uint32_t i, uint32_t *row)
{
    for (uint32_t p = 0; p < reuse->n_parts; p++) {
        const struct segment_origin *origin = &reuse->parts[p].origin;
        if (i - origin->first < origin->n) {
            *row = origin->rows[i - origin->first];
            return reuse->parts[p].index;
        }
    }
    return NULL;
}

uint32_t ivf_reuse_gap(const struct ivf_reuse *reuse, uint32_t i, uint32_t n_rows, uint32_t *end)
{
    *end = n_rows;
    for (uint32_t p = 0; p < reuse->n_parts; p++) {
        const struct segment_origin *origin = &reuse->parts[p].origin;
        if (i < origin->first) {
            *end = origin->first;
            break;
        }
        if (i < origin->first + origin->n)
            i = origin->first + origin->n;
    }
    return i;
}

double ivf_reuse_lists(const struct ivf_reuse *reuse, uint32_t *lists)
{
    double energy = 0.0;
    for (uint32_t p = 0; p < reuse->n_parts; p++) {
        const struct ivf *index = reuse->parts[p].index;
        const struct segment_origin *origin = &reuse->parts[p].origin;
        uint32_t list = 0;
        for (uint32_t i = 0; i < origin->n; i++) {
            while (index->lists[list + 1] <= origin->rows[i])
                list++;
            lists[origin->first + i] = list;
        }
        energy += (double)index->residual_energy * origin->n;
    }
    return energy;
}
