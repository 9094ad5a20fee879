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

#define FEW_LEFT_OUT    0.75 /* shares above: hardly a list is empty */
#define PORTION_GROWTH  4u   /* of lists, while there are too few typical ones */
#define SHARE_LEAST     1e-4 /* of all rows; less is no list's business */
#define FILTERED_GROWTH 0.5f /* of what reach grows by for as many times more hits */

/* The bits of a word that are rows in [first, end). */
static uint64_t bits_of(const struct ivf_part *part, uint32_t word, uint32_t first, uint32_t end)
{
    uint64_t bits = part->allowed[word];
    if (word == first / 64)
        bits &= UINT64_MAX << (first % 64);
    if (word == (end - 1) / 64)
        bits &= UINT64_MAX >> (63 - (end - 1) % 64);
    return bits;
}

static uint32_t count_allowed(const struct ivf_part *part, uint32_t first, uint32_t end)
{
    if (part->allowed == NULL || first == end)
        return end - first;
    uint32_t n = 0;
    for (uint32_t word = first / 64; word <= (end - 1) / 64; word++)
        n += (uint32_t)__builtin_popcountll(bits_of(part, word, first, end));
    return n;
}

bool ivf_front_has_rows(const struct ivf_part *part, uint32_t list)
{
    uint32_t first = part->index->lists[list], end = part->index->lists[list + 1];
    if (part->allowed == NULL || first == end)
        return first < end;
    for (uint32_t word = first / 64; word <= (end - 1) / 64; word++)
        if (bits_of(part, word, first, end) != 0)
            return true;
    return false;
}

/* Whether a list has at least half of the share that a filter leaves of all. */
static bool is_typical(const struct ivf_job *job, uint32_t list, double share)
{
    uint32_t rows = 0, allowed = 0;
    for (uint32_t p = 0; p < job->n_parts; p++) {
        const uint32_t *lists = job->parts[p].index->lists;
        rows += lists[list + 1] - lists[list];
        allowed += count_allowed(&job->parts[p], lists[list], lists[list + 1]);
    }
    return allowed > 0 && allowed >= share / 2 * rows;
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

struct typical {
    uint32_t found;
    float lowest; /* key */
};

/* What is allowed of the lists that are taken is all over the answer of the filter, which need not
 * be in the cache. */
static void fetch_allowed(const struct ivf_job *job)
{
    const struct ivf_lists *lists = &job->scratch->lists;
    for (uint32_t p = 0; p < job->n_parts; p++) {
        const struct ivf_part *part = &job->parts[p];
        for (uint32_t i = 0; i < lists->n && part->allowed != NULL; i++)
            __builtin_prefetch(part->allowed + part->index->lists[lists->order[i]] / 64);
    }
}

/* Adds those of the portion that is taken, until there are n. */
static void add_typical(const struct ivf_job *job, uint32_t n, double share,
                        struct typical *typical)
{
    const struct ivf_lists *lists = &job->scratch->lists;
    for (uint32_t i = 0; i < lists->n && typical->found < n; i++)
        if (is_typical(job, lists->order[i], share)) {
            typical->lowest = fminf(typical->lowest, lists->keys[lists->order[i]]);
            typical->found++;
        }
}

/* How far the nearest n typical lists go, from the portions after the one that is taken on. */
static float typical_front(struct ivf_job *job, uint32_t n, double share, struct typical typical)
{
    struct ivf_lists *lists = &job->scratch->lists;
    for (uint32_t portion = n; typical.found < n && !ivf_lists_all_taken(lists);) {
        portion *= PORTION_GROWTH;
        ivf_lists_take(lists, portion);
        add_typical(job, n, share, &typical);
    }
    return typical.found > 0 ? ivf_lists_distance(typical.lowest, job->codebook, job->length2) : 0;
}

/* Whether lists can be chosen by the hits expected in them. */
static bool can_expect(const struct ivf_job *job)
{
    const struct ivf_effort *effort = &job->query->effort;
    return job->codebook->codes == CODEBOOK_PQ4 && job->codebook->metric != KITH_EUCLID &&
           effort->misses > 0 && effort->lists_max == 0;
}

/* The ten nearest of a tenth are spread like the hundred nearest of all, and codes know as much
 * less of them. (With all of the reach that hundred take, recall is 0.01 to 0.015 higher than
 * without a filter.) */
static void widen(struct ivf_job *job, double share)
{
    float decades = (float)-log10(fmax(share, SHARE_LEAST));
    job->margin += IVF_MARGIN_GROWTH * decades;
    job->reach += FILTERED_GROWTH * job->query->effort.growth * decades;
}

/* A filter that leaves little in the nearest lists pushes those away that are like the whole. The
 * rows there are all about equally far, and any of their lists may hold the hits: they are chosen
 * by ivf_far.h, or the push counts twice. */
void ivf_front_take(struct ivf_job *job, uint32_t n)
{
    struct ivf_lists *lists = &job->scratch->lists;
    double share = allowed_share(job);
    ivf_lists_take(lists, n);
    float nearest = ivf_lists_distance(lists->farthest, job->codebook, job->length2);
    job->front = nearest;
    if (share > FEW_LEFT_OUT)
        return;
    job->filtered = true;
    widen(job, share);
    struct typical typical = {.lowest = FLT_MAX};
    fetch_allowed(job);
    add_typical(job, lists->n, share, &typical);
    job->far = typical.found < lists->n / 2 && can_expect(job);
    if (job->far) {
        ivf_far_begin(job);
        return;
    }
    float low = lists->low;
    float pushed = fmaxf(nearest, typical_front(job, lists->n, share, typical));
    job->front = nearest > 0 ? pushed * (pushed / nearest) : pushed;
    if (lists->low < low) {
        ivf_lists_restart(lists);
        ivf_lists_take(lists, n);
    }
}
