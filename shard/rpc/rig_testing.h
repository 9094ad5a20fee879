/* For tests: a slice table on a fake disk, with one slice whose segments have product codes and
 * rows of bytes. Threads: one. */
#ifndef RIG_TESTING_H
#define RIG_TESTING_H

#include <sched.h>

#include "shard/query/select.h"
#include "shard/rpc/index_trainer.h"
#include "shard/storage/store_testing.h"

#define RIG_COLLECTION 5u
#define POINTS         2000u

static struct {
    struct io *io;
    struct collection_indexes *indexes;
    struct slice_table *slices;
    struct slice *slice;
} rig;

static inline void fill(void)
{
    struct kith_buf ops = {0};
    for (uint32_t from = 0; from < POINTS; from += 100) {
        kith_buf_reset(&ops);
        struct kith_writer w = test_writer(&ops);
        kith_write_array(&w, 100);
        for (uint32_t i = 0; i < 100; i++)
            test_put(&w, from + i, 5);
        assert_int_equal(test_write(slice_store(rig.slice), &ops).err, KITH_OK);
    }
    kith_buf_fini(&ops);
}

static inline bool is_ready(void)
{
    struct store_stats stats;
    store_stats(slice_store(rig.slice), &stats);
    return collection_index_state(slice_index(rig.slice), &stats).phase == KITH_INDEX_READY &&
           stats.index_pending == 0 && !stats.busy;
}

/* One slice whose segments have product codes and bytes, and nothing more to do. */
static inline void open_rig(void)
{
    struct kith_diag diag = {0};
    struct index_trainer *trainer;
    const char *why = "";
    assert_int_equal(io_fake_new(&rig.io, NULL), KITH_OK);
    assert_int_equal(collection_indexes_open(&rig.indexes, 400, 1, &diag), KITH_OK);
    struct slice_table_options options = {
        .io = rig.io, .select = select_ids, .indexes = rig.indexes, .head_rows_max = 500};
    assert_int_equal(slice_table_open(&rig.slices, &options, &diag), KITH_OK);
    struct slice_config config = {.collection = RIG_COLLECTION,
                                  .dim = DIM,
                                  .metric = KITH_EUCLID,
                                  .rows = KITH_ROWS_F32,
                                  .index = KITH_INDEX_PQ4};
    assert_int_equal(slice_table_create(rig.slices, &config, &diag), KITH_OK);
    assert_int_equal(slice_table_get(rig.slices, RIG_COLLECTION, 0, &rig.slice, &why), KITH_OK);
    struct index_trainer_options training = {
        .slices = rig.slices, .indexes = rig.indexes, .threads = 1};
    fill();
    assert_int_equal(index_trainer_open(&trainer, &training, &diag), KITH_OK);
    while (!is_ready())
        (void)sched_yield();
    index_trainer_close(trainer);
}

static inline void close_rig(void)
{
    slice_put(rig.slices, rig.slice);
    slice_table_close(rig.slices);
    collection_indexes_close(rig.indexes);
    io_fake_free(rig.io);
}

#endif
