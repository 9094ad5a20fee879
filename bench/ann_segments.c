#include "ann_segments.h"

#include <stdio.h>
#include <stdlib.h>

#include "common/kith_mem.h"
#include "shard/storage/segment_build.h"
#include "shard/storage/view_build.h"

#define DIR "segments"

/* Every step-th row from `first` on. */
struct share {
    const struct ann_set *set;
    uint32_t first, step, n;
};

static void must(enum kith_err err, const struct kith_diag *diag)
{
    if (err == KITH_OK)
        return;
    fprintf(stderr, "ann: segments: %s\n", diag->text);
    exit(1);
}

static const void *row_of(const void *ctx, uint32_t i)
{
    const struct share *share = ctx;
    return share->set->base + ((size_t)share->first + (size_t)i * share->step) * share->set->dim;
}

static bool never(const void *ctx)
{
    (void)ctx;
    return false;
}

static enum kith_err write_points(void *ctx, struct segment_building *building,
                                  struct kith_diag *diag)
{
    const struct share *share = ctx;
    enum kith_err err = KITH_OK;

    for (uint32_t i = 0; i < share->n && err == KITH_OK; i++) {
        struct kith_id id = kith_id_number(share->first + (uint64_t)i * share->step);
        struct segment_point point = {.id = &id, .seq = id.lo + 1};
        err = segment_build_point(building, i, &point, diag);
    }
    return err;
}

static struct segment *build_one(struct share *share, struct io *io,
                                 const struct slice_config *config,
                                 const struct segment_index_hooks *hooks)
{
    struct segment_build build = {
        .writer = {.io = io,
                   .dir = DIR,
                   .config = config,
                   .number = share->first + 1,
                   .n_rows = share->n},
        .rows = {.n_rows = share->n, .row = row_of, .ctx = share, .stop = never},
        .points = write_points,
        .points_ctx = share,
        .index = hooks};
    struct segment *segment = NULL;
    struct kith_diag diag = {0};
    uint32_t *place = NULL;
    uint64_t bytes;

    must(segment_build_run(&build, &place, &bytes, &diag), &diag);
    kith_free(place);
    must(segment_open(&segment, io, DIR, build.writer.number, config, &diag), &diag);
    must(segment_index_open(segment, hooks, &diag), &diag);
    return segment;
}

struct view *ann_segments_build(const struct ann_set *set, struct io *io,
                                const struct slice_config *config,
                                const struct segment_index_hooks *hooks, uint32_t n_segments)
{
    struct view_part *parts = kith_xalloc(n_segments * sizeof(*parts));
    struct view_parts all = {
        .config = *config, .seq = set->n, .n_segments = n_segments, .segments = parts};
    struct view *view = NULL;
    struct kith_diag diag = {0};

    must(io->make_dir(io->self, DIR, &diag), &diag);
    for (uint32_t i = 0; i < n_segments; i++) {
        struct share share = {set, i, n_segments, (set->n - i + n_segments - 1) / n_segments};
        parts[i].segment = build_one(&share, io, config, hooks);
    }
    must(view_new(&view, &all, &diag), &diag);
    for (uint32_t i = 0; i < n_segments; i++)
        segment_unref(parts[i].segment);
    kith_free(parts);
    return view;
}
