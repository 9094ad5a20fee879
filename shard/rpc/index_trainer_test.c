/* Codebooks come by themselves, segments follow them, and nothing is lost on the way. */
#include "shard/rpc/index_trainer.h"

#include <sched.h>

#include "shard/query/select.h"
#include "shard/storage/store_testing.h"

#define COLLECTION 77u
#define SLICES     2u
#define HEAD_ROWS  512u
#define MIN_ROWS   400u

struct rig {
    struct io *io;
    struct collection_indexes *indexes;
    struct slice_table *slices;
    struct index_trainer *trainer;
    enum kith_index kind;
};

static void start(struct rig *rig, bool trains)
{
    struct kith_diag diag = {0};
    assert_int_equal(collection_indexes_open(&rig->indexes, MIN_ROWS, 1, &diag), KITH_OK);
    struct slice_table_options options = {
        .io = rig->io, .select = select_ids, .indexes = rig->indexes, .head_rows_max = HEAD_ROWS};
    assert_int_equal(slice_table_open(&rig->slices, &options, &diag), KITH_OK);
    slice_table_warm(rig->slices, NULL);
    struct index_trainer_options trainer = {
        .slices = rig->slices, .indexes = rig->indexes, .threads = 1};
    if (trains)
        assert_int_equal(index_trainer_open(&rig->trainer, &trainer, &diag), KITH_OK);
}

static void stop(struct rig *rig)
{
    index_trainer_close(rig->trainer);
    slice_table_close(rig->slices);
    collection_indexes_close(rig->indexes);
    rig->trainer = NULL;
}

static struct slice *get(struct rig *rig, uint32_t number)
{
    struct slice *slice = NULL;
    const char *why = "";
    if (slice_table_get(rig->slices, COLLECTION, number, &slice, &why) != KITH_OK)
        fail_msg("slice %u: %s", number, why);
    return slice;
}

static void create(struct rig *rig)
{
    for (uint32_t i = 0; i < SLICES; i++) {
        struct slice_config config = {.collection = COLLECTION,
                                      .slice = i,
                                      .dim = DIM,
                                      .metric = KITH_EUCLID,
                                      .rows = KITH_ROWS_F32,
                                      .index = rig->kind};
        struct kith_diag diag = {0};
        if (slice_table_create(rig->slices, &config, &diag) != KITH_OK)
            fail_msg("create: %s", diag.text);
    }
}

/* Points [first, end), even ones into slice 0, odd ones into slice 1. */
static void fill(struct rig *rig, uint32_t first, uint32_t end)
{
    struct kith_buf ops = {0};
    for (uint32_t slice = 0; slice < SLICES; slice++) {
        struct slice *held = get(rig, slice);
        for (uint32_t from = first + slice; from < end; from += 200) {
            uint32_t n = (from + 200 < end ? 200 : end - from + 1) / 2;
            kith_buf_reset(&ops);
            struct kith_writer w = test_writer(&ops);
            kith_write_array(&w, n);
            for (uint32_t i = 0; i < n; i++)
                test_put(&w, from + i * 2, 5);
            assert_int_equal(test_write(slice_store(held), &ops).err, KITH_OK);
        }
        slice_put(rig->slices, held);
    }
    kith_buf_fini(&ops);
}

/* Whether all segments of a slice have the newest codebook, of at least this generation. */
static bool is_ready(struct rig *rig, uint32_t number, uint32_t generation)
{
    struct store_stats stats;
    struct slice *held = get(rig, number);
    store_stats(slice_store(held), &stats);
    struct collection_index_state now = collection_index_state(slice_index(held), &stats);
    struct view *view = store_view(slice_store(held));
    bool ready = now.phase == KITH_INDEX_READY && now.generation >= generation;
    for (uint32_t i = 0; i < view->n_segments; i++) {
        const struct ivf *ivf = segment_index(view->segments[i].segment);
        ready = ready && ivf != NULL && ivf->codebook->generation == now.generation;
    }
    view_unref(view);
    slice_put(rig->slices, held);
    return ready;
}

static void wait_for_generation(struct rig *rig, uint32_t generation)
{
    for (uint32_t slice = 0; slice < SLICES; slice++)
        while (!is_ready(rig, slice, generation))
            (void)sched_yield();
}

static void check_points(struct rig *rig, uint32_t end)
{
    for (uint32_t slice = 0; slice < SLICES; slice++) {
        struct slice *held = get(rig, slice);
        struct view *view = store_view(slice_store(held));
        for (uint32_t id = slice; id < end; id += SLICES)
            assert_int_equal(test_version(view, id), 5);
        view_unref(view);
        slice_put(rig->slices, held);
    }
}

static void grow_and_reopen(enum kith_index kind)
{
    struct rig rig = {.kind = kind};
    uint32_t few = 3 * HEAD_ROWS, many = 9 * few;
    assert_int_equal(io_fake_new(&rig.io, NULL), KITH_OK);
    start(&rig, true);
    create(&rig);
    fill(&rig, 0, few);
    wait_for_generation(&rig, 1);
    check_points(&rig, few);
    fill(&rig, few, many); /* more than eight times as many */
    wait_for_generation(&rig, 2);
    check_points(&rig, many);
    stop(&rig);
    /* Without a trainer: what is known comes from the segments. */
    start(&rig, false);
    wait_for_generation(&rig, 2);
    check_points(&rig, many);
    for (uint32_t i = 0; i < SLICES; i++)
        assert_int_equal(slice_table_drop(rig.slices, COLLECTION, i, NULL), KITH_OK);
    stop(&rig);
    io_fake_free(rig.io);
    assert_int_equal(kith_mem_live(), 0);
}

static void test_index_trainer_follows_a_collection(void **state)
{
    (void)state;
    grow_and_reopen(KITH_INDEX_PQ4);
}

static void test_index_trainer_leaves_others_alone(void **state)
{
    (void)state;
    struct rig rig = {.kind = KITH_INDEX_NONE};
    struct store_stats stats;
    assert_int_equal(io_fake_new(&rig.io, NULL), KITH_OK);
    start(&rig, true);
    create(&rig);
    fill(&rig, 0, 2 * HEAD_ROWS);
    struct slice *held = get(&rig, 0);
    assert_null(slice_index(held));
    store_stats(slice_store(held), &stats);
    assert_int_equal(collection_index_state(slice_index(held), &stats).phase, KITH_INDEX_ABSENT);
    slice_put(rig.slices, held);
    stop(&rig);
    io_fake_free(rig.io);
    assert_int_equal(kith_mem_live(), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_index_trainer_follows_a_collection),
        cmocka_unit_test(test_index_trainer_leaves_others_alone),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
