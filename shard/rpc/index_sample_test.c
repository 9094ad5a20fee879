#include "shard/rpc/index_sample.h"

#include "shard/storage/store_testing.h"

#define ROWS   200u
#define TAKEN  20u
#define ROUNDS 4000u

/* Rows in two segments and a head; every tenth was deleted. The first element names the row. */
static struct store *fill(const struct store_options *options)
{
    struct store *store = NULL;
    struct kith_buf ops = {0};
    assert_int_equal(store_create(options, &test_config, NULL), KITH_OK);
    assert_int_equal(store_open(&store, options, NULL), KITH_OK);
    for (uint32_t first = 0; first < ROWS; first += 20) {
        kith_buf_reset(&ops);
        struct kith_writer w = test_writer(&ops);
        kith_write_array(&w, 20);
        for (uint32_t i = 0; i < 20; i++)
            test_put(&w, first + i, 0);
        assert_int_equal(test_write(store, &ops).err, KITH_OK);
    }
    kith_buf_reset(&ops);
    struct kith_writer w = test_writer(&ops);
    kith_write_array(&w, 1);
    kith_op_write_head(&w, KITH_OP_DELETE);
    test_filter(&w, 10, 3);
    assert_int_equal(test_write(store, &ops).err, KITH_OK);
    bool did = true;
    while (did)
        assert_int_equal(store_maintain(store, &did, NULL), KITH_OK);
    kith_buf_fini(&ops);
    return store;
}

struct filled {
    struct io *io;
    struct store *store;
    struct view *view;
};

static void open_filled(struct filled *f)
{
    assert_int_equal(io_fake_new(&f->io, NULL), KITH_OK);
    struct store_options options = test_options(f->io);
    f->store = fill(&options);
    f->view = store_view(f->store);
}

static void close_filled(struct filled *f)
{
    view_unref(f->view);
    store_close(f->store);
    io_fake_free(f->io);
    assert_int_equal(kith_mem_live(), 0);
}

static void test_index_sample_takes_every_row_alike(void **state)
{
    (void)state;
    struct filled f = {0};
    open_filled(&f);
    assert_true(f.view->n_segments > 1 && f.view->heads[f.view->n_heads - 1].live > 0);
    uint32_t seen[ROWS] = {0}, n;
    double places[ROWS] = {0};
    for (uint32_t round = 0; round < ROUNDS; round++) {
        struct index_sample sample = {
            .views = &f.view, .n_views = 1, .n_wanted = TAKEN, .seed = round};
        float rows[TAKEN * DIM];
        bool now[ROWS] = {false};
        assert_int_equal(index_sample_run(&sample, rows, &n, NULL), KITH_OK);
        assert_int_equal(n, TAKEN);
        index_sample_shuffle(rows, n, DIM, ~(uint64_t)round);
        for (uint32_t i = 0; i < n; i++) {
            uint32_t row = (uint32_t)rows[(size_t)i * DIM];
            assert_true(row < ROWS && !now[row]); /* none twice */
            assert_true(rows[(size_t)i * DIM + 3] == (float)row + 3);
            now[row] = true;
            seen[row]++;
            places[row] += i;
        }
    }
    /* 180 live rows: 444 times each, within five standard deviations (20); on average in the
     * middle of the sample (a standard deviation of 0.27). */
    for (uint32_t row = 0; row < ROWS; row++) {
        if (row % 10 == 3) {
            assert_int_equal(seen[row], 0);
            continue;
        }
        assert_in_range(seen[row], 344, 544);
        double middle = places[row] / seen[row];
        assert_true(middle > (TAKEN - 1) / 2.0 - 1.5 && middle < (TAKEN - 1) / 2.0 + 1.5);
    }
    close_filled(&f);
}

static bool at_once(const void *ctx)
{
    (void)ctx;
    return true;
}

static void test_index_sample_takes_all_of_a_few(void **state)
{
    (void)state;
    struct filled f = {0};
    open_filled(&f);
    struct index_sample sample = {
        .views = &f.view, .n_views = 1, .n_wanted = ROWS, .stop = at_once};
    float rows[ROWS * DIM];
    uint32_t n = 0;
    assert_int_equal(index_sample_run(&sample, rows, &n, NULL), KITH_OK); /* rarely asked */
    assert_int_equal(n, ROWS * 9 / 10);
    close_filled(&f);
}

/* Every row in one part, none in two. */
static void test_index_sample_of_parts_is_the_whole(void **state)
{
    (void)state;
    struct filled f = {0};
    open_filled(&f);
    float rows[ROWS * DIM];
    for (uint32_t n_parts = 1; n_parts <= ROWS + 1; n_parts += 1 + n_parts / 3) {
        uint32_t seen[ROWS] = {0};
        for (uint32_t part = 0; part < n_parts; part++) {
            struct index_sample sample = {.views = &f.view,
                                          .n_views = 1,
                                          .n_wanted = ROWS,
                                          .part = part,
                                          .n_parts = n_parts};
            uint32_t n = 0;
            assert_int_equal(index_sample_run(&sample, rows, &n, NULL), KITH_OK);
            for (uint32_t i = 0; i < n; i++)
                seen[(uint32_t)rows[(size_t)i * DIM]]++;
        }
        for (uint32_t row = 0; row < ROWS; row++)
            assert_int_equal(seen[row], row % 10 != 3);
    }
    close_filled(&f);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_index_sample_takes_every_row_alike),
        cmocka_unit_test(test_index_sample_takes_all_of_a_few),
        cmocka_unit_test(test_index_sample_of_parts_is_the_whole),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
