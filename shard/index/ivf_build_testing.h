/* For tests of building indexes of lists, over build_testing.h. Threads: one. */
#ifndef IVF_BUILD_TESTING_H
#define IVF_BUILD_TESTING_H

#include "shard/index/build_testing.h"
#include "shard/index/ivf_build.h"
#include "shard/index/ivf_format.h"
#include "shard/storage/segment_writer.h"

static struct world world;

static inline void make_world(struct world *w, enum kith_metric metric, enum codebook_codes codes,
                              uint32_t n)
{
    make_rows(w, metric, 1 + random_u32() % DIM_MAX, n);
    w->codes = codes;
}

static inline enum kith_err write_segment(struct world *w, struct io *io,
                                          struct ivf_builder *builder, uint64_t number)
{
    return write_segment_with(w, io, ivf_builder_hooks(builder), number);
}

static inline struct segment *open_segment(struct world *w, struct io *io,
                                           struct ivf_builder *builder, uint64_t number)
{
    return open_segment_with(w, io, ivf_builder_hooks(builder), number);
}

static inline struct codebook *train(const struct world *w, uint32_t generation)
{
    struct codebook_training training = {.config = &w->config,
                                         .codes = (enum codebook_codes)w->codes,
                                         .rows = w->rows,
                                         .n_rows = w->n,
                                         .collection_rows = w->n,
                                         .n_lists = 40,
                                         .generation = generation,
                                         .threads = 1};
    struct codebook *codebook;
    assert_int_equal(codebook_train(&codebook, &training, NULL), KITH_OK);
    return codebook;
}

static inline struct ivf_builder *new_builder(const struct world *w)
{
    struct ivf_builder_options options = {
        .config = w->config, .codes = (enum codebook_codes)w->codes, .min_rows = 10, .threads = 2};
    struct ivf_builder *builder;
    assert_int_equal(ivf_builder_new(&builder, &options, NULL), KITH_OK);
    return builder;
}

/* What it takes to index the rows of a world. */
struct rig {
    struct io *io;
    struct codebook *codebook; /* generation 1, trained on them */
    struct ivf_builder *builder;
};

static inline struct rig new_rig(const struct world *w)
{
    struct rig rig = {new_disk(), train(w, 1), new_builder(w)};
    ivf_builder_set_codebook(rig.builder, rig.codebook);
    return rig;
}

static inline void free_rig(struct rig *rig)
{
    ivf_builder_free(rig->builder);
    codebook_unref(rig->codebook);
    io_fake_free(rig->io);
}

#endif
