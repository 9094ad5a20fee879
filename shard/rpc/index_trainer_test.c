/* Codebooks come by themselves, nodes share them, segments follow, and nothing is lost on the way.
 */
#include "shard/rpc/index_trainer.h"

#include <sched.h>

#include "shard/query/select.h"
#include "shard/rpc/rpc.h"
#include "shard/storage/store_testing.h"

#define COLLECTION 77u
#define SLICES     2u
#define HEAD_ROWS  TEST_SCALE(512u, 256u)
#define MIN_ROWS   TEST_SCALE(400u, 200u)
#define NODES      3u
#define CLUSTER    5u
#define LOOK_MS    20u

/* One node, with slices `base` and `base` + 1. */
struct rig {
    struct io *io;
    struct collection_indexes *indexes;
    struct slice_table *slices;
    struct index_trainer *trainer;
    enum kith_index kind;
    uint32_t base;
    /* Of a cluster. */
    struct rpc_env env;
    struct kith_net_server *server;
    struct node_peers *peers;
    uint32_t away_ms;
};

static void start(struct rig *rig, bool trains)
{
    struct kith_diag diag = {0};
    assert_int_equal(collection_indexes_open(&rig->indexes, MIN_ROWS, 1, &diag), KITH_OK);
    struct slice_table_options options = {
        .io = rig->io, .select = select_ids, .indexes = rig->indexes, .head_rows_max = HEAD_ROWS};
    assert_int_equal(slice_table_open(&rig->slices, &options, &diag), KITH_OK);
    slice_table_warm(rig->slices, NULL);
    struct index_trainer_options trainer = {.slices = rig->slices,
                                            .indexes = rig->indexes,
                                            .peers = rig->peers,
                                            .look_ms = LOOK_MS,
                                            .away_ms = rig->away_ms,
                                            .threads = 1};
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
    if (slice_table_get(rig->slices, COLLECTION, rig->base + number, &slice, &why) != KITH_OK)
        fail_msg("slice %u: %s", number, why);
    return slice;
}

static void create(struct rig *rig)
{
    for (uint32_t i = 0; i < SLICES; i++) {
        struct slice_config config = {.collection = COLLECTION,
                                      .slice = rig->base + i,
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
    store_assume_rest(slice_store(held));
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

/* ---- several nodes --------------------------------------------------------------------------- */

/* On the map, node k is k + 1 and has slices 2 * k and 2 * k + 1. */
static void set_map(struct rig *rig)
{
    struct node_map_node nodes[NODES] = {{0}};
    struct node_map_slice slices[NODES * SLICES];
    for (uint32_t k = 0; k < NODES; k++) {
        nodes[k].id = k + 1;
        (void)snprintf(nodes[k].url, sizeof nodes[k].url, "inproc://trainer-test-%u", k);
    }
    for (uint32_t i = 0; i < NODES * SLICES; i++)
        slices[i] = (struct node_map_slice){COLLECTION, i, i / SLICES};
    struct node_map map = {.self = rig->base / SLICES + 1,
                           .nodes = nodes,
                           .slices = slices,
                           .n_nodes = NODES,
                           .n_slices = NODES * SLICES};
    assert_int_equal(node_peers_set(rig->peers, &map, NULL), KITH_OK);
}

static void join_in(struct rig *rig, bool trains)
{
    char url[64];
    (void)snprintf(url, sizeof url, "inproc://trainer-test-%u", rig->base / SLICES);
    assert_int_equal(node_peers_open(&rig->peers, CLUSTER, NULL), KITH_OK);
    set_map(rig);
    start(rig, trains);
    rig->env = (struct rpc_env){.cluster = CLUSTER, .slices = rig->slices, .indexes = rig->indexes};
    assert_int_equal(kith_pool_open(&rig->env.workers, 1, NULL), KITH_OK);
    assert_int_equal(kith_net_listen(&rig->server, url, rpc_serve, &rig->env, NULL), KITH_OK);
}

static void leave(struct rig *rig)
{
    kith_net_server_close(rig->server);
    index_trainer_close(rig->trainer);
    rig->trainer = NULL;
    node_peers_close(rig->peers);
    kith_pool_close(rig->env.workers);
    stop(rig);
}

static void open_cluster(struct rig *rigs)
{
    for (uint32_t k = 0; k < NODES; k++) {
        rigs[k] = (struct rig){.kind = KITH_INDEX_INT8, .base = k * SLICES};
        assert_int_equal(io_fake_new(&rigs[k].io, NULL), KITH_OK);
    }
}

/* All have joined in. */
static void close_cluster(struct rig *rigs)
{
    for (uint32_t k = 0; k < NODES; k++)
        leave(&rigs[k]);
    for (uint32_t k = 0; k < NODES; k++)
        io_fake_free(rigs[k].io);
    assert_int_equal(kith_mem_live(), 0);
}

static void join_with_points(struct rig *rig, uint32_t n, bool trains)
{
    join_in(rig, false);
    create(rig);
    fill(rig, 0, n);
    leave(rig);
    join_in(rig, trains);
}

static struct ivf_fit fit_of(struct rig *rig)
{
    struct collection_index *index = collection_index_find(rig->indexes, COLLECTION);
    struct ivf_fit fit = ivf_builder_fit(index->builder);
    collection_index_put(index);
    return fit;
}

static const struct codebook *codebook_of(struct rig *rig)
{
    struct collection_index *index = collection_index_find(rig->indexes, COLLECTION);
    const struct codebook *codebook = ivf_builder_codebook(index->builder);
    collection_index_put(index);
    return codebook;
}

static uint64_t wait_for_hash(struct rig *rig)
{
    while (fit_of(rig).hash == 0)
        (void)sched_yield();
    return fit_of(rig).hash;
}

static void test_index_trainer_shares_with_other_nodes(void **state)
{
    (void)state;
    struct rig rigs[NODES];
    open_cluster(rigs);
    /* No node has enough rows for itself. */
    for (uint32_t k = 0; k < NODES; k++)
        join_with_points(&rigs[k], MIN_ROWS / 2, true);
    uint64_t hash = wait_for_hash(&rigs[0]);
    for (uint32_t k = 1; k < NODES; k++)
        assert_int_equal(wait_for_hash(&rigs[k]), hash);
    const struct codebook *codebook = codebook_of(&rigs[1]);
    assert_int_equal(codebook->generation, 1);
    assert_in_range(codebook->trained_rows, MIN_ROWS, NODES * MIN_ROWS / 2); /* not of one alone */
    codebook_unref(codebook);
    close_cluster(rigs);
}

static void test_index_trainer_catches_up(void **state)
{
    (void)state;
    struct rig rigs[NODES];
    open_cluster(rigs);
    for (uint32_t k = 0; k < NODES; k++)
        join_with_points(&rigs[k], 3 * HEAD_ROWS, k == 0);
    leave(&rigs[2]);
    wait_for_generation(&rigs[0], 1);
    uint64_t hash = fit_of(&rigs[0]).hash;
    /* One that was away, or is restored from before. */
    join_in(&rigs[2], true);
    assert_int_equal(wait_for_hash(&rigs[2]), hash);
    wait_for_generation(&rigs[2], 1);
    check_points(&rigs[2], 3 * HEAD_ROWS);
    /* The one that trained comes back: what it knows is in its segments. */
    leave(&rigs[0]);
    join_in(&rigs[0], true);
    assert_int_equal(wait_for_hash(&rigs[0]), hash);
    close_cluster(rigs);
}

static void test_index_trainer_steps_in_for_a_silent_node(void **state)
{
    (void)state;
    struct rig rigs[NODES];
    open_cluster(rigs);
    join_with_points(&rigs[0], MIN_ROWS, false);
    leave(&rigs[0]);
    rigs[1].away_ms = 1;
    for (uint32_t k = 1; k < NODES; k++)
        join_with_points(&rigs[k], MIN_ROWS, true);
    uint64_t hash = wait_for_hash(&rigs[1]);
    assert_int_equal(wait_for_hash(&rigs[2]), hash); /* it asks the next one too */
    join_in(&rigs[0], true);
    assert_int_equal(wait_for_hash(&rigs[0]), hash); /* and trains nothing */
    close_cluster(rigs);
}

/* New rows lie where no centroid is, and on other nodes than the one that trains. */
static void test_index_trainer_hears_of_drift(void **state)
{
    (void)state;
    struct rig rigs[NODES];
    uint32_t few = 3 * HEAD_ROWS;
    open_cluster(rigs);
    for (uint32_t k = NODES; k-- > 0;) /* the one that trains comes last, and sees all rows */
        join_with_points(&rigs[k], few, true);
    for (uint32_t k = 0; k < NODES; k++)
        wait_for_generation(&rigs[k], 1);
    for (uint32_t k = 1; k < NODES; k++)
        fill(&rigs[k], few, 2 * few); /* not nearly eight times as many */
    for (uint32_t k = 0; k < NODES; k++)
        wait_for_generation(&rigs[k], 2);
    for (uint32_t k = 1; k < NODES; k++) {
        assert_int_equal(wait_for_hash(&rigs[k]), wait_for_hash(&rigs[0]));
        check_points(&rigs[k], 2 * few);
    }
    close_cluster(rigs);
}

static void set_own_codebook(struct rig *rig, uint32_t seed)
{
    struct collection_index *index = collection_index_find(rig->indexes, COLLECTION);
    float *rows = kith_xalloc(MIN_ROWS * DIM * sizeof *rows);
    for (uint32_t i = 0; i < MIN_ROWS * DIM; i++)
        rows[i] = (float)((i * 7919u + seed) % 1000u);
    struct codebook_training training = {.config = &index->config,
                                         .codes = CODEBOOK_INT8,
                                         .rows = rows,
                                         .n_rows = MIN_ROWS,
                                         .collection_rows = MIN_ROWS,
                                         .generation = 1,
                                         .threads = 1};
    struct codebook *codebook = NULL;
    assert_int_equal(codebook_train(&codebook, &training, NULL), KITH_OK);
    ivf_builder_set_codebook(index->builder, codebook);
    codebook_unref(codebook);
    kith_free(rows);
    collection_index_put(index);
}

/* Two nodes that could not hear each other have trained: then they agree. */
static void test_index_trainer_settles_on_one_of_two(void **state)
{
    (void)state;
    struct rig rigs[NODES];
    struct index_trainer_options options = {.threads = 1, .look_ms = LOOK_MS};
    open_cluster(rigs);
    for (uint32_t k = 0; k < NODES; k++) {
        join_with_points(&rigs[k], MIN_ROWS, false);
        set_own_codebook(&rigs[k], k);
    }
    uint64_t best = 0;
    for (uint32_t k = 0; k < NODES; k++)
        best = fit_of(&rigs[k]).hash > best ? fit_of(&rigs[k]).hash : best;
    assert_true(fit_of(&rigs[0]).hash != fit_of(&rigs[1]).hash);
    for (uint32_t k = 0; k < NODES; k++) {
        options.slices = rigs[k].slices;
        options.indexes = rigs[k].indexes;
        options.peers = rigs[k].peers;
        assert_int_equal(index_trainer_open(&rigs[k].trainer, &options, NULL), KITH_OK);
    }
    for (uint32_t k = 0; k < NODES; k++)
        while (fit_of(&rigs[k]).hash != best)
            (void)sched_yield();
    close_cluster(rigs);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_index_trainer_follows_a_collection),
        cmocka_unit_test(test_index_trainer_leaves_others_alone),
        cmocka_unit_test(test_index_trainer_shares_with_other_nodes),
        cmocka_unit_test(test_index_trainer_catches_up),
        cmocka_unit_test(test_index_trainer_steps_in_for_a_silent_node),
        cmocka_unit_test(test_index_trainer_hears_of_drift),
        cmocka_unit_test(test_index_trainer_settles_on_one_of_two),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
