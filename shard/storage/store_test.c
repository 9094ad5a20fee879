#include "shard/storage/index_testing.h"
#include "shard/storage/store_testing.h"

#include <sched.h>

/* ---- a model: what the slice must hold --------------------------------------------------------
 */

#define IDS 300u

struct model {
    uint64_t version[IDS]; /* 0 = absent */
    bool has_s[IDS];       /* field "s" set to the version; lost by a put */
    bool cleared[IDS];
};

struct fixture {
    struct io *io;
    struct store *store;
    struct store_options options;
    struct slice_config config;
    struct test_index index;
    atomic_uint n_calls;
    uint32_t n_others; /* heads that fill up while an index is being made */
};

static void open_store(struct fixture *f)
{
    struct kith_diag diag = {0};
    if (store_open(&f->store, &f->options, &diag) != KITH_OK)
        fail_msg("open: %s", diag.text);
}

static void reopen(struct fixture *f)
{
    store_close(f->store);
    open_store(f);
}

static int start(void **state, bool indexed)
{
    struct fixture *f = kith_xalloc(sizeof *f);
    assert_int_equal(io_fake_new(&f->io, NULL), KITH_OK);
    f->options = test_options(f->io);
    test_index_init(&f->index, 10);
    if (indexed)
        f->options.index = &f->index.hooks;
    f->config = test_config;
    struct kith_diag diag = {0};
    if (store_create(&f->options, &f->config, &diag) != KITH_OK)
        fail_msg("create: %s", diag.text);
    open_store(f);
    *state = f;
    return 0;
}

static int setup(void **state)
{
    return start(state, false);
}

static int setup_indexed(void **state)
{
    return start(state, true);
}

static int teardown(void **state)
{
    struct fixture *f = *state;
    store_close(f->store);
    io_fake_free(f->io);
    kith_free(f);
    assert_int_equal(kith_mem_live(), 0);
    return 0;
}

static void maintain_all(struct store *store)
{
    bool did = true;
    struct kith_diag diag = {0};
    while (did)
        if (store_maintain(store, &did, &diag) != KITH_OK)
            fail_msg("maintain: %s", diag.text);
}

static void test_store_keeps_points_over_reopen(void **state)
{
    struct fixture *f = *state;
    struct kith_buf ops = {0};
    struct kith_writer w = test_writer(&ops);
    kith_write_array(&w, 3);
    test_put(&w, 1, 10);
    test_put(&w, 2, 11);
    test_delete(&w, 1);
    struct store_write_result result = test_write(f->store, &ops);
    assert_int_equal(result.err, KITH_OK);
    assert_int_equal(result.affected, 3);
    assert_int_equal(result.seq, 3);
    for (int i = 0; i < 2; i++) {
        struct view *view = store_view(f->store);
        assert_int_equal(test_version(view, 1), 0);
        assert_int_equal(test_version(view, 2), 11);
        assert_int_equal(test_count(view), 1);
        assert_int_equal(view->seq, 3);
        view_unref(view);
        reopen(f);
    }
    kith_buf_fini(&ops);
}

static void test_store_exists_and_destroy(void **state)
{
    struct fixture *f = *state;
    assert_int_equal(store_create(&f->options, &f->config, NULL), KITH_EXISTS);
    store_close(f->store);
    assert_int_equal(store_destroy(&f->options, NULL), KITH_OK);
    assert_int_equal(store_open(&f->store, &f->options, NULL), KITH_NOT_FOUND);
    assert_int_equal(store_create(&f->options, &f->config, NULL), KITH_OK);
    open_store(f);
}

static void check_model(const struct view *view, const struct model *model)
{
    uint64_t live = 0;
    for (uint64_t id = 0; id < IDS; id++) {
        struct kith_id key = kith_id_number(id);
        struct test_point point = test_get(view, &key);
        if (point.live != (model->version[id] != 0))
            fail_msg("id %u: live %d, expected version %u", (unsigned)id, point.live,
                     (unsigned)model->version[id]);
        if (point.live) {
            live++;
            float expected[DIM];
            test_vector(id, model->version[id], expected);
            assert_memory_equal(point.vector, expected, sizeof expected);
            struct kith_cursor c = kith_cursor_of(point.payload.data, point.payload.len);
            uint32_t n = 0;
            if (point.payload.len > 0) /* none and {} are the same */
                assert_true(kith_read_map(&c, &n));
            assert_int_equal(n, (model->cleared[id] ? 0 : 2) + (model->has_s[id] ? 1 : 0));
        }
        kith_buf_fini(&point.payload);
    }
    assert_int_equal(test_count(view), live);
}

/* One random operation into the writer, and into the model. */
static void random_op(struct kith_writer *w, struct model *model, uint64_t *random,
                      uint64_t version)
{
    uint64_t id = kith_random(random) % IDS;
    uint64_t dice = kith_random(random) % 100;
    if (dice < 55) {
        test_put(w, id, version);
        model->version[id] = version;
        model->has_s[id] = model->cleared[id] = false;
    } else if (dice < 75) {
        test_delete(w, id);
        model->version[id] = 0;
    } else if (dice < 82) { /* VECTOR: new vector, old payload; kept recognisable by a put before */
        float vector[DIM];
        struct kith_id key = kith_id_number(id);
        test_vector(id, version, vector);
        kith_op_write_vector(w, &key, vector, DIM);
        if (model->version[id] != 0)
            model->version[id] = version;
    } else if (dice < 90) {
        kith_op_write_head(w, KITH_OP_SET);
        test_target_id(w, id);
        kith_write_map(w, 1);
        kith_write_cstr(w, "s");
        kith_write_u64(w, version);
        kith_write_str(w, "", 0);
        if (model->version[id] != 0)
            model->has_s[id] = true;
    } else if (dice < 94) {
        kith_op_write_head(w, KITH_OP_CLEAR);
        test_target_id(w, id);
        model->cleared[id] = true;
        model->has_s[id] = false;
    } else if (dice < 97) {
        kith_op_write_head(w, KITH_OP_REMOVE);
        test_target_id(w, id);
        kith_write_array(w, 1);
        kith_write_cstr(w, "s");
        model->has_s[id] = false;
    } else {
        uint64_t modulus = 3 + kith_random(random) % 20;
        uint64_t rest = kith_random(random) % modulus;
        kith_op_write_head(w, KITH_OP_DELETE);
        test_filter(w, modulus, rest);
        for (uint64_t i = rest; i < IDS; i += modulus)
            model->version[i] = 0;
    }
    if (model->version[id] == 0)
        model->has_s[id] = model->cleared[id] = false;
}

static void run_model(struct fixture *f, uint64_t seed, uint64_t n_writes)
{
    print_message("model: seed %llu (KITH_SEED)\n", (unsigned long long)seed);
    struct model model = {0};
    uint64_t random = seed, version = 1;
    struct kith_buf ops = {0};
    for (uint64_t i = 0; i < n_writes; i++) {
        kith_buf_reset(&ops);
        struct kith_writer w = test_writer(&ops);
        uint32_t n = 1 + (uint32_t)(kith_random(&random) % 12);
        if (kith_random(&random) % 60 == 0)
            n = 400; /* more than a head holds */
        kith_write_array(&w, n);
        for (uint32_t k = 0; k < n; k++)
            random_op(&w, &model, &random, version++);
        for (uint64_t id = 0; id < IDS; id++)
            if (model.version[id] == 0)
                model.has_s[id] = model.cleared[id] = false;
        struct store_write_result result = test_write(f->store, &ops);
        assert_int_equal(result.err, KITH_OK);
        uint64_t dice = kith_random(&random) % 40;
        bool did;
        if (dice < 4)
            assert_int_equal(store_maintain(f->store, &did, NULL), KITH_OK);
        if (dice == 4)
            assert_int_equal(store_rest(f->store, &did, NULL), KITH_OK);
        if (dice == 5)
            reopen(f);
        if (dice == 9)
            atomic_fetch_add(&f->index.generation, 1);
        if (dice < 8) {
            struct view *view = store_view(f->store);
            assert_int_equal(view->seq, result.seq);
            check_model(view, &model);
            view_unref(view);
        }
    }
    maintain_all(f->store);
    reopen(f);
    struct view *view = store_view(f->store);
    check_model(view, &model);
    view_unref(view);
    kith_buf_fini(&ops);
}

static void test_store_matches_the_model(void **state)
{
    run_model(*state, test_env("KITH_SEED", 1), test_env("KITH_MODEL_WRITES", 3000));
}

/* Six heads full, of which five are sealed: fewer segments than are merged. */
static void fill_segments(struct fixture *f)
{
    struct kith_buf ops = {0};
    for (uint32_t i = 0; i < 6; i++) {
        kith_buf_reset(&ops);
        struct kith_writer w = test_writer(&ops);
        kith_write_array(&w, 51);
        for (uint32_t k = 0; k < 51; k++)
            test_put(&w, i * 51 + k, 7);
        assert_int_equal(test_write(f->store, &ops).err, KITH_OK);
    }
    maintain_all(f->store);
    kith_buf_fini(&ops);
}

static void test_store_gathers_segments_at_rest(void **state)
{
    struct fixture *f = *state;
    struct store_stats stats;
    fill_segments(f);
    store_stats(f->store, &stats);
    assert_int_equal(stats.segments, 5);
    assert_false(stats.busy); /* there is nothing that has to be done */
    store_assume_rest(f->store);
    maintain_all(f->store);
    store_stats(f->store, &stats);
    assert_int_equal(stats.segments, 1);
    assert_int_equal(stats.indexed_points, 5 * 51);
    struct view *view = store_view(f->store);
    for (uint64_t id = 0; id < 6 * 51; id++)
        assert_int_equal(test_version(view, id), 7);
    view_unref(view);
}

/* Rows that no index has are not left to searches. */
static void test_store_rewrites_what_has_no_index(void **state)
{
    struct fixture *f = *state;
    struct store_stats stats;
    atomic_store(&f->index.min_rows, 1000);
    fill_segments(f);
    store_stats(f->store, &stats);
    assert_int_equal(stats.segments, 5);
    assert_int_equal(stats.indexed_points, 0);
    atomic_store(&f->index.min_rows, 10);
    store_nudge(f->store);
    maintain_all(f->store);
    store_stats(f->store, &stats);
    assert_int_equal(stats.segments, 1);
    assert_int_equal(stats.indexed_points, 5 * 51);
    assert_int_equal(stats.index_pending, 0);
}

static void test_store_rewrites_older_indexes_at_rest(void **state)
{
    struct fixture *f = *state;
    fill_segments(f);
    struct store_stats before, after;
    store_stats(f->store, &before);
    assert_int_equal(before.segments, 5);
    assert_int_equal(before.indexed_points, 5 * 51);
    assert_false(before.busy);
    /* A new generation is no reason to write, but at rest, when it comes with the gathering. */
    atomic_fetch_add(&f->index.generation, 1);
    store_nudge(f->store);
    maintain_all(f->store);
    store_stats(f->store, &after);
    assert_int_equal(after.written[STORE_INDEX] + after.written[STORE_REST], 0);
    assert_int_equal(after.index_pending, 0);
    assert_false(after.busy);
    struct view *old = store_view(f->store);
    store_assume_rest(f->store);
    maintain_all(f->store);
    store_stats(f->store, &after);
    assert_false(after.busy);
    assert_int_equal(after.segments, 1);
    assert_int_equal(after.indexed_points, 5 * 51);
    assert_int_equal(after.index_pending, 0);
    assert_in_range(after.written[STORE_REST], 1, before.written[STORE_SEAL]);
    assert_int_equal(after.written[STORE_MERGE] + after.written[STORE_INDEX], 0);
    struct view *view = store_view(f->store);
    for (uint64_t id = 0; id < 6 * 51; id++) {
        assert_int_equal(test_version(view, id), 7);
        assert_int_equal(test_version(old, id), 7); /* the old index serves whoever has it */
    }
    view_unref(old);
    view_unref(view);
}

static void delete_some(void *store)
{
    struct kith_buf ops = {0};
    struct kith_writer w = test_writer(&ops);
    kith_write_array(&w, 6);
    for (uint32_t id = 4; id < 60; id += 10)
        test_delete(&w, id);
    assert_int_equal(test_write(store, &ops).err, KITH_OK);
    kith_buf_fini(&ops);
}

/* Rows deleted while a segment is being written: the swap carries them to where the index put their
 * rows. */
static void carry_deletes(struct fixture *f, bool while_sealing)
{
    struct kith_buf ops = {0};
    struct kith_writer w = test_writer(&ops);
    kith_write_array(&w, 60);
    for (uint32_t id = 0; id < 60; id++)
        test_put(&w, id, 3);
    assert_int_equal(test_write(f->store, &ops).err, KITH_OK);
    kith_buf_reset(&ops);
    w = test_writer(&ops);
    kith_write_array(&w, 1);
    test_put(&w, 100, 3);
    assert_int_equal(test_write(f->store, &ops).err, KITH_OK);
    if (!while_sealing) {
        maintain_all(f->store);
        atomic_fetch_add(&f->index.generation, 1);
        store_assume_rest(f->store);
    }
    f->index.during = delete_some;
    f->index.during_ctx = f->store;
    maintain_all(f->store);
    f->index.during = NULL;
    struct view *view = store_view(f->store);
    for (uint64_t id = 0; id < 60; id++)
        assert_int_equal(test_version(view, id), id % 10 == 4 ? 0 : 3);
    view_unref(view);
    reopen(f);
    view = store_view(f->store);
    assert_int_equal(test_count(view), 60 + 1 - 6);
    view_unref(view);
    kith_buf_fini(&ops);
}

static void test_store_carries_deletes_through_a_merge(void **state)
{
    carry_deletes(*state, false);
}

static void test_store_carries_deletes_through_a_seal(void **state)
{
    carry_deletes(*state, true);
}

static void put_range(struct store *store, uint32_t first, uint32_t n)
{
    struct kith_buf ops = {0};
    struct kith_writer w = test_writer(&ops);
    kith_write_array(&w, n);
    for (uint32_t id = first; id < first + n; id++)
        test_put(&w, id, 3);
    assert_int_equal(test_write(store, &ops).err, KITH_OK);
    kith_buf_fini(&ops);
}

/* While the first head's index is being made, others fill up. */
static void fill_others(void *arg)
{
    struct fixture *f = arg;
    if (atomic_fetch_add(&f->n_calls, 1) > 0)
        return;
    for (uint32_t i = 1; i <= f->n_others; i++)
        put_range(f->store, i * 1000, 60);
    put_range(f->store, 9000, 1); /* turns the last one */
}

static void seal_while_others_fill(struct fixture *f, uint32_t n_others)
{
    store_close(f->store);
    f->options.background = true;
    f->index.during = fill_others;
    f->index.during_ctx = f;
    f->n_others = n_others;
    open_store(f);
    put_range(f->store, 0, 60);
    put_range(f->store, 100, 1); /* turns the head */
    struct store_stats stats = {0};
    while (stats.segments < 1 + n_others) {
        store_stats(f->store, &stats);
        (void)sched_yield();
    }
    struct view *view = store_view(f->store);
    assert_int_equal(test_count(view), 62 + n_others * 60);
    assert_int_equal(test_version(view, 59), 3);
    assert_int_equal(test_version(view, 1059), 3);
    view_unref(view);
}

static void test_store_seals_without_an_index_under_pressure(void **state)
{
    struct fixture *f = *state;
    seal_while_others_fill(f, 2); /* as many as a store has */
    assert_int_equal(atomic_load(&f->index.n_stopped), 1);
}

static void test_store_keeps_the_index_while_there_is_room(void **state)
{
    struct fixture *f = *state;
    struct store_stats stats;
    seal_while_others_fill(f, 1);
    assert_int_equal(atomic_load(&f->index.n_stopped), 0);
    store_stats(f->store, &stats);
    assert_int_equal(stats.indexed_points, 121);
}

static void test_store_seals_a_head_at_rest(void **state)
{
    struct fixture *f = *state;
    struct store_stats stats;
    bool did;
    put_range(f->store, 0, 9); /* the index takes 10 */
    assert_int_equal(store_rest(f->store, &did, NULL), KITH_OK);
    assert_false(did);
    put_range(f->store, 9, 1);
    assert_int_equal(store_rest(f->store, &did, NULL), KITH_OK);
    assert_true(did);
    store_stats(f->store, &stats);
    assert_int_equal(stats.head_rows, 0);
    assert_int_equal(stats.indexed_points, 10);
    assert_int_equal(store_rest(f->store, &did, NULL), KITH_OK);
    assert_false(did);
    reopen(f);
    struct view *view = store_view(f->store);
    assert_int_equal(test_count(view), 10);
    view_unref(view);
}

/* By itself, also when the hooks take it only later; and not while it is written to. */
static void test_store_seals_by_itself_what_rests(void **state)
{
    struct fixture *f = *state;
    struct store_stats stats = {0};
    store_close(f->store);
    f->options.background = true;
    f->options.rest_ms = 3600000;
    open_store(f);
    put_range(f->store, 0, 20);
    store_nudge(f->store); /* the sealer looks, and leaves it */
    put_range(f->store, 20, 20);
    store_stats(f->store, &stats);
    assert_int_equal(stats.head_rows, 40);
    store_close(f->store);
    f->options.rest_ms = 1;
    atomic_store(&f->index.min_rows, 1000);
    open_store(f);
    put_range(f->store, 40, 1);
    store_stats(f->store, &stats);
    assert_int_equal(stats.head_rows, 41);
    atomic_store(&f->index.min_rows, 10);
    store_nudge(f->store);
    while (stats.indexed_points < 41) {
        store_stats(f->store, &stats);
        (void)sched_yield();
    }
    assert_int_equal(stats.head_rows, 0);
    assert_int_equal(stats.segments, 1);
    store_close(f->store);
    open_store(f);
    struct view *view = store_view(f->store);
    assert_int_equal(test_count(view), 41);
    view_unref(view);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_store_keeps_points_over_reopen, setup, teardown),
        cmocka_unit_test_setup_teardown(test_store_exists_and_destroy, setup, teardown),
        cmocka_unit_test_setup_teardown(test_store_matches_the_model, setup, teardown),
        cmocka_unit_test_setup_teardown(test_store_matches_the_model, setup_indexed, teardown),
        cmocka_unit_test_setup_teardown(test_store_gathers_segments_at_rest, setup_indexed,
                                        teardown),
        cmocka_unit_test_setup_teardown(test_store_rewrites_what_has_no_index, setup_indexed,
                                        teardown),
        cmocka_unit_test_setup_teardown(test_store_rewrites_older_indexes_at_rest, setup_indexed,
                                        teardown),
        cmocka_unit_test_setup_teardown(test_store_seals_without_an_index_under_pressure,
                                        setup_indexed, teardown),
        cmocka_unit_test_setup_teardown(test_store_keeps_the_index_while_there_is_room,
                                        setup_indexed, teardown),
        cmocka_unit_test_setup_teardown(test_store_seals_a_head_at_rest, setup_indexed, teardown),
        cmocka_unit_test_setup_teardown(test_store_seals_by_itself_what_rests, setup_indexed,
                                        teardown),
        cmocka_unit_test_setup_teardown(test_store_carries_deletes_through_a_merge, setup_indexed,
                                        teardown),
        cmocka_unit_test_setup_teardown(test_store_carries_deletes_through_a_seal, setup_indexed,
                                        teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
