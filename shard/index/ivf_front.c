/* The first lists, how far they go (ivf_lists_unit), and what a filter does to both.
 *
 * A filter that leaves one row in n at random leaves the front where it is: the k-th best hit shows
 * by itself that rows are rare. But where rows lie in tight clusters, reach is below 1, and what is
 * left of the query's cluster may be less than k rows: all other clusters are then about as far as
 * the k-th best hit, and each may hold it. So under a filter no list nearer than that hit is out of
 * reach; on word and sentence vectors that adds no lists.
 *
 * Lost: moving the front as far as the local dimension says that neighbours move (twice the rows of
 * word vectors at 10 %, and in clusters 0.2 of the far matches); going on until a part of the
 * visited rows has brought no hit (no fewer rows, and sure of nothing). */
#include "shard/index/ivf_job.h"

#include <string.h>

#define FEW_LEFT_OUT 0.75 /* shares above: hardly a list is empty */

static uint32_t count_allowed(const struct ivf_part *part, uint32_t first, uint32_t end)
{
    if (part->allowed == NULL || first == end)
        return end - first;
    uint32_t n = 0, last = (end - 1) / 64;
    uint64_t mask = UINT64_MAX << (first % 64), tail = UINT64_MAX >> (63 - (end - 1) % 64);
    for (uint32_t word = first / 64; word < last; word++, mask = UINT64_MAX)
        n += (uint32_t)__builtin_popcountll(part->allowed[word] & mask);
    return n + (uint32_t)__builtin_popcountll(part->allowed[last] & mask & tail);
}

static void set_bit(uint64_t *bits, uint32_t i, bool value)
{
    bits[i / 64] |= (uint64_t)value << (i % 64);
}

/* Which lists have a row that a filter leaves, and which of those at least half of the share that
 * it leaves of all. */
static void look_at_lists(struct ivf_job *job, double share)
{
    uint64_t *kept = job->scratch->lists.kept, *typical = job->scratch->typical;
    uint32_t n_lists = job->codebook->n_lists;
    memset(kept, 0, sizeof *kept * (n_lists / 64 + 1));
    memset(typical, 0, sizeof *typical * (n_lists / 64 + 1));
    for (uint32_t list = 0; list < n_lists; list++) {
        uint32_t rows = 0, allowed = 0;
        for (uint32_t p = 0; p < job->n_parts; p++) {
            const uint32_t *lists = job->parts[p].index->lists;
            rows += lists[list + 1] - lists[list];
            allowed += count_allowed(&job->parts[p], lists[list], lists[list + 1]);
        }
        set_bit(kept, list, allowed > 0);
        set_bit(typical, list, allowed > 0 && allowed >= share / 2 * rows);
    }
}

static double allowed_share(const struct ivf_job *job)
{
    double rows = 0, allowed = 0;
    for (uint32_t p = 0; p < job->n_parts; p++) {
        const struct ivf_part *part = &job->parts[p];
        rows += part->index->n_rows;
        allowed += part->allowed == NULL ? part->index->n_rows : (double)part->n_allowed;
    }
    return rows > 0 ? allowed / rows : 1;
}

static float front_of(const struct ivf_job *job)
{
    return ivf_lists_distance(&job->scratch->lists, job->codebook, job->length2);
}

/* A filter that leaves little in the nearest lists pushes those away that are like the whole. The
 * rows there are all about equally far, and any of their lists may hold the hits: the push counts
 * twice. Lists in which nothing is left are not visited. */
void ivf_front_take(struct ivf_job *job, uint32_t portion)
{
    struct ivf_lists *lists = &job->scratch->lists;
    double share = allowed_share(job);
    ivf_lists_take(lists, portion);
    job->front = front_of(job);
    if (share > FEW_LEFT_OUT)
        return;
    look_at_lists(job, share);
    float nearest = job->front;
    float pushed = fmaxf(nearest, ivf_lists_distance_among(lists, job->scratch->typical, portion,
                                                           job->codebook, job->length2));
    job->front = nearest > 0 ? pushed * (pushed / nearest) : pushed;
    job->filtered = true;
    ivf_lists_keep(lists);
    ivf_lists_take(lists, portion);
}
