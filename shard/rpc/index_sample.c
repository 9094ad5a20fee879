#include "shard/rpc/index_sample.h"

#include "common/kith_random.h"
#include "shard/storage/row_codec.h"

/* Selection sampling (Knuth, The Art of Computer Programming 2, 3.4.2, algorithm S): each row is
 * taken with the probability (still wanted) / (still to come), so every set of rows is as likely as
 * any other, and rows are read in the order they lie. */

#define STOP_EVERY 65536u

struct taking {
    const struct index_sample *sample;
    const struct slice_config *config;
    uint64_t to_pass; /* live rows before the part */
    uint64_t to_come; /* live rows of the part not yet looked at */
    uint32_t wanted;  /* still */
    uint32_t taken;
    float *rows;
    uint64_t random;
    uint32_t since_stop;
};

/* Whether the next live row is taken, and then its place. */
static bool pick(struct taking *taking, float **to)
{
    if (taking->to_pass > 0) {
        taking->to_pass--;
        return false;
    }
    if (taking->to_come == 0)
        return false;
    bool yes = kith_random_below(&taking->random, taking->to_come--) < taking->wanted;
    if (!yes)
        return false;
    taking->wanted--;
    *to = taking->rows + (size_t)taking->taken++ * taking->config->dim;
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

/* Whether all of so many live rows lie before the part. */
static bool pass_over(struct taking *taking, uint32_t live)
{
    bool all = live <= taking->to_pass;
    taking->to_pass -= all ? live : 0;
    return all;
}

static bool take_segment(struct taking *taking, const struct view_segment *part)
{
    uint32_t n = segment_rows(part->segment);
    float *to;
    if (pass_over(taking, part->live))
        return true;
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
    if (pass_over(taking, part->live))
        return true;
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
    for (uint32_t i = 0; i < view->n_segments && taking->to_come > 0; i++)
        if (!take_segment(taking, &view->segments[i]))
            return false;
    for (uint32_t i = 0; i < view->n_heads && taking->to_come > 0; i++)
        if (!take_head(taking, view, &view->heads[i]))
            return false;
    return true;
}

void index_sample_shuffle(float *rows, uint32_t n_rows, uint32_t dim, uint64_t seed)
{
    for (uint32_t i = n_rows; i > 1; i--) {
        float *a = rows + (size_t)(i - 1) * dim;
        float *b = rows + (size_t)kith_random_below(&seed, i) * dim;
        for (uint32_t d = 0; d < dim; d++) {
            float kept = a[d];
            a[d] = b[d];
            b[d] = kept;
        }
    }
}

/* The live rows before the part's first one; live is that of a share of n_parts. */
static uint64_t before_part(const struct index_sample *sample, uint64_t live, uint32_t part)
{
    uint32_t n_parts = sample->n_parts > 0 ? sample->n_parts : 1;
    return (uint64_t)((unsigned __int128)live * part / n_parts);
}

enum kith_err index_sample_run(const struct index_sample *sample, float *rows, uint32_t *n_rows,
                               struct kith_diag *diag)
{
    struct taking taking = {.sample = sample, .rows = rows, .random = sample->seed};
    enum kith_err err = KITH_OK;
    uint64_t live = 0;
    for (uint32_t v = 0; v < sample->n_views; v++)
        live += sample->views[v]->live_points;
    if (live > 0)
        taking.config = &sample->views[0]->config;
    taking.to_pass = before_part(sample, live, sample->part);
    taking.to_come = before_part(sample, live, sample->part + 1) - taking.to_pass;
    taking.wanted = taking.to_come < sample->n_wanted ? (uint32_t)taking.to_come : sample->n_wanted;
    uint32_t n = taking.wanted;
    for (uint32_t v = 0; v < sample->n_views && err == KITH_OK; v++)
        if (!take_view(&taking, sample->views[v]))
            err = kith_fail(diag, KITH_CANCELLED, "sample");
    err = view_verdict(sample->views, sample->n_views, err, diag);
    if (err == KITH_OK) {
        kith_assert(taking.taken == n);
        *n_rows = n;
    }
    return err;
}
