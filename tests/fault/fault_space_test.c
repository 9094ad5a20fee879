/* A small file system that fills up: writes are refused, reads go on, deletes and merges work from
 * the reserve and give space back, writes go on by themselves. Needs root to mount a tmpfs. */
#include <sys/mount.h>
#include <unistd.h>

#include "shard/storage/store_testing.h"

#define DISK_BYTES "12m"
#define BATCH      200u

static char folder[64];
static struct io *io;

static enum kith_err put_batch(struct store *store, uint64_t first)
{
    struct kith_buf ops = {0};
    struct kith_writer w = test_writer(&ops);
    struct kith_diag diag = {0};
    kith_write_array(&w, BATCH);
    for (uint64_t id = first; id < first + BATCH; id++)
        test_put(&w, id, 1);
    enum kith_err err = test_write_id(store, 0, &ops, &diag).err;
    kith_buf_fini(&ops);
    return err;
}

static enum kith_err delete_batch(struct store *store, uint64_t first)
{
    struct kith_buf ops = {0};
    struct kith_writer w = test_writer(&ops);
    struct kith_diag diag = {0};
    kith_write_array(&w, BATCH);
    for (uint64_t id = first; id < first + BATCH; id++)
        test_delete(&w, id);
    enum kith_err err = test_write_id(store, 0, &ops, &diag).err;
    kith_buf_fini(&ops);
    if (err != KITH_OK)
        print_message("delete of %llu...: %s\n", (unsigned long long)first, diag.text);
    return err;
}

static void expect_points(struct store *store, uint64_t first, uint64_t end)
{
    struct view *view = store_view(store);
    for (uint64_t id = 0; id < end; id += 7)
        assert_int_equal(test_version(view, id), id >= first);
    assert_int_equal(view->live_points, end - first);
    view_unref(view);
}

static void maintain(struct store *store)
{
    struct kith_diag diag = {0};
    bool did = true;
    for (int i = 0; i < 20 && did; i++)
        if (store_maintain(store, &did, &diag) != KITH_OK) {
            assert_int_equal(diag.err, KITH_DISK_FULL);
            did = true; /* and again, as the background threads do */
        }
}

static void test_space_runs_out_and_comes_back(void **state)
{
    (void)state;
    if (geteuid() != 0 || mount("none", folder, "tmpfs", 0, "size=" DISK_BYTES) != 0) {
        print_message("SKIPPED (needs root and tmpfs): a full disk and its reserve\n");
        skip();
    }
    struct kith_diag diag = {0};
    struct store *store = NULL;
    assert_int_equal(io_real_open(&io, folder, &diag), KITH_OK);
    assert_int_equal(io_real_reserve(io, 2u << 20, &diag), KITH_OK);
    struct store_options options = test_options(io);
    options.head_rows_max = 2000;
    options.wal_step_bytes = 65536;
    assert_int_equal(store_create(&options, &test_config, &diag), KITH_OK);
    assert_int_equal(store_open(&store, &options, &diag), KITH_OK);
    uint64_t end = 0, first = 0;
    enum kith_err err = KITH_OK;
    while (err == KITH_OK) {
        err = put_batch(store, end);
        if (err == KITH_OK)
            end += BATCH;
        if (end % 2000 == 0)
            maintain(store);
    }
    assert_int_equal(err, KITH_DISK_FULL);
    print_message("full after %llu points\n", (unsigned long long)end);
    expect_points(store, 0, end);
    struct store_stats stats;
    store_stats(store, &stats);
    double point_bytes = (double)stats.segment_bytes / (double)(end - stats.head_rows);
    /* Full, and no less so when it is asked again. */
    assert_int_equal(put_batch(store, end), KITH_DISK_FULL);
    expect_points(store, 0, end);
    for (; first < end * 3 / 4 / BATCH * BATCH; first += BATCH) {
        assert_int_equal(delete_batch(store, first), KITH_OK);
        if (first % 2000 == 0) /* what the background threads do at once */
            maintain(store);
    }
    expect_points(store, first, end);
    maintain(store);
    store_stats(store, &stats);
    print_message("%.2f of the live points' bytes, after %llu of %llu were deleted\n",
                  (double)stats.segment_bytes / (point_bytes * (double)(end - first)),
                  (unsigned long long)first, (unsigned long long)end);
    assert_true((double)stats.segment_bytes <= point_bytes * (1.3 * (double)(end - first) + 2000));
    assert_int_equal(put_batch(store, end), KITH_OK);
    end += BATCH;
    expect_points(store, first, end);
    store_stats(store, &stats);
    assert_false(stats.failed);
    store_close(store);
    assert_int_equal(store_open(&store, &options, &diag), KITH_OK);
    expect_points(store, first, end);
    store_close(store);
    io_real_close(io);
    assert_int_equal(umount(folder), 0);
}

static int set_up(void **state)
{
    (void)state;
    (void)snprintf(folder, sizeof folder, "/tmp/kith-space-XXXXXX");
    return mkdtemp(folder) != NULL ? 0 : -1;
}

static int tear_down(void **state)
{
    (void)state;
    (void)umount2(folder, MNT_DETACH);
    return rmdir(folder);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_space_runs_out_and_comes_back),
    };
    return cmocka_run_group_tests(tests, set_up, tear_down);
}
