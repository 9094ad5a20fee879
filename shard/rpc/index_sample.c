#include "shard/rpc/index_sample.h"

#include "common/kith_mem.h"
#include "shard/storage/row_codec.h"

/* Selection sampling (Knuth, The Art of Computer Programming 2, 3.4.2, algorithm S): each row is
 * taken with the probability (still wanted) / (still to come), so every set of rows is as likely as
 * any other, and rows are read in the order they lie. Where each goes is a random permutation,
 * because a training may look at the first rows only. */

#define STOP_EVERY 65536u

struct taking {
    const struct index_sample *sample;
    const struct slice_config *config;
    uint64_t to_come; /* live rows not yet looked at */
    uint32_t wanted;  /* still */
    uint32_t taken;
    uint32_t *order; /* the i-th row taken becomes row order[i] */
    float *rows;
    uint64_t random;
    uint32_t since_stop;
};

/* splitmix64 (Steele, Lea, Flood: Fast splittable pseudorandom number generators, 2014). */
static uint64_t next_random(uint64_t *state)
{
    uint64_t z = (*state += UINT64_C(0x9e3779b97f4a7c15));
    z = (z ^ (z >> 30)) * UINT64_C(0xbf58476d1ce4e5b9);
    z = (z ^ (z >> 27)) * UINT64_C(0x94d049bb133111eb);
    return z ^ (z >> 31);
}

static uint64_t below(uint64_t *state, uint64_t n)
{
    return (uint64_t)(((unsigned __int128)next_random(state) * n) >> 64);
}

/* Whether the next live row is taken, and then its place. */
static bool pick(struct taking *taking, float **to)
{
    if (taking->to_come == 0)
        return false;
    bool yes = below(&taking->random, taking->to_come--) < taking->wanted;
    if (!yes)
        return false;
    taking->wanted--;
    *to = taking->rows + (size_t)taking->order[taking->taken++] * taking->config->dim;
    return true;
}

static bool stopped(struct taking *taking)
{
    const struct index_sample *sample = taking->sample;
    if (++taking->since_stop < STOP_EVERY || sample->stop == NULL)
        return false;
    taking->since_stop = 0;
    return sample->stop(sample->stop_ctx);
}

static bool take_segment(struct taking *taking, const struct view_segment *part)
{
    uint32_t n = segment_rows(part->segment);
    float *to;
    for (uint32_t row = 0; row < n; row++) {
        if (stopped(taking))
            return false;
        if ((part->deleted == NULL || !bitmap_contains(part->deleted, row)) && pick(taking, &to))
            row_codec_decode(taking->config, segment_row_data(part->segment, row, 1), to);
    }
    return true;
}

static bool take_head(struct taking *taking, const struct view *view, const struct view_head *part)
{
    struct head_row found;
    float *to;
    for (uint32_t row = 0; row < part->rows; row++) {
        if (stopped(taking))
            return false;
        if (head_row_at(part->head, row, view->seq, &found) && pick(taking, &to))
            row_codec_decode(taking->config, found.row, to);
    }
    return true;
}

static bool take_view(struct taking *taking, const struct view *view)
{
    for (uint32_t i = 0; i < view->n_segments; i++)
        if (!take_segment(taking, &view->segments[i]))
            return false;
    for (uint32_t i = 0; i < view->n_heads; i++)
        if (!take_head(taking, view, &view->heads[i]))
            return false;
    return true;
}

static void shuffle(struct taking *taking, uint32_t n)
{
    for (uint32_t i = 0; i < n; i++) {
        uint32_t j = (uint32_t)below(&taking->random, i + 1);
        taking->order[i] = taking->order[j];
        taking->order[j] = i;
    }
}

enum kith_err index_sample_run(const struct index_sample *sample, float **rows, uint32_t *n_rows,
                               struct kith_diag *diag)
{
    struct taking taking = {.sample = sample, .random = sample->seed};
    size_t bytes = 0;
    for (uint32_t v = 0; v < sample->n_views; v++)
        taking.to_come += sample->views[v]->live_points;
    taking.wanted = taking.to_come < sample->n_wanted ? (uint32_t)taking.to_come : sample->n_wanted;
    uint32_t n = taking.wanted;
    enum kith_err err = KITH_OK;
    if (n > 0)
        taking.config = &sample->views[0]->config;
    if (n > 0 && kith_mul((size_t)n * sizeof(float), taking.config->dim, &bytes))
        taking.rows = kith_alloc(bytes);
    taking.order = kith_alloc((size_t)n * sizeof *taking.order);
    if (taking.order == NULL || (n > 0 && taking.rows == NULL))
        err = kith_fail(diag, KITH_NOMEM, "a sample of %u rows", n);
    if (err == KITH_OK)
        shuffle(&taking, n);
    for (uint32_t v = 0; v < sample->n_views && err == KITH_OK; v++)
        if (!take_view(&taking, sample->views[v]))
            err = kith_fail(diag, KITH_CANCELLED, "sample");
    kith_free(taking.order);
    err = view_verdict(sample->views, sample->n_views, err, diag);
    if (err == KITH_OK) {
        kith_assert(taking.taken == n);
        *rows = taking.rows;
        *n_rows = n;
    } else {
        kith_free(taking.rows);
    }
    return err;
}
