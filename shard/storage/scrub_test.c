/* A bit flips in a file of an open store: the scrubber finds every one, and what the store holds in
 * memory as well is whole again afterwards. */
#include "shard/storage/scrub.h"

#include "shard/storage/store_testing.h"
#include "shard/storage/wal.h"

#define IDS   200u
#define FILES 64u

struct disk {
    struct io *io;
    struct store *store;
    struct store_options options;
    char names[FILES][64];
    uint32_t n_names;
};

static void on_name(void *ctx, const char *name)
{
    struct disk *disk = ctx;
    assert_true(disk->n_names < FILES);
    (void)snprintf(disk->names[disk->n_names++], sizeof disk->names[0], "%s", name);
}

static void list_files(struct disk *disk)
{
    disk->n_names = 0;
    assert_int_equal(disk->io->list(disk->io->self, "c/0", on_name, disk, NULL), KITH_OK);
}

static void put_some(struct disk *disk, uint64_t first, uint64_t n, uint64_t version)
{
    struct kith_buf ops = {0};
    struct kith_writer w = test_writer(&ops);
    kith_write_array(&w, (uint32_t)n);
    for (uint64_t id = first; id < first + n; id++)
        test_put(&w, id, version);
    assert_int_equal(test_write(disk->store, &ops).err, KITH_OK);
    kith_buf_fini(&ops);
}

/* Two segments, deletes in one of them, a log with records. */
static void disk_open(struct disk *disk)
{
    bool did;
    memset(disk, 0, sizeof *disk);
    assert_int_equal(io_fake_new(&disk->io, NULL), KITH_OK);
    disk->options = test_options(disk->io);
    assert_int_equal(store_create(&disk->options, &test_config, NULL), KITH_OK);
    assert_int_equal(store_open(&disk->store, &disk->options, NULL), KITH_OK);
    for (uint64_t first = 0; first < IDS; first += 20)
        put_some(disk, first, 20, 1);
    for (int i = 0; i < 4; i++)
        assert_int_equal(store_maintain(disk->store, &did, NULL), KITH_OK);
    put_some(disk, 0, 5, 2); /* rows gone from a segment */
    store_close(disk->store);
    assert_int_equal(store_open(&disk->store, &disk->options, NULL), KITH_OK);
    put_some(disk, 10, 3, 2);
    list_files(disk);
}

static void disk_close(struct disk *disk)
{
    store_close(disk->store);
    io_fake_free(disk->io);
}

static uint64_t version_of(uint64_t id)
{
    return id < 5 || (id >= 10 && id < 13) ? 2 : 1;
}

static void expect_all(struct disk *disk)
{
    struct view *view = store_view(disk->store);
    for (uint64_t id = 0; id < IDS; id++)
        assert_int_equal(test_version(view, id), version_of(id));
    assert_int_equal(view_verdict(&view, 1, KITH_OK, NULL), KITH_OK);
    view_unref(view);
}

static struct store_scrub_result scrub(struct disk *disk)
{
    struct store_scrub_options options = {0};
    struct store_scrub_result result = {0};
    struct kith_diag diag = {0};
    if (store_scrub(disk->store, &options, &result, &diag) != KITH_OK)
        fail_msg("%s", diag.text);
    return result;
}

/* A place whose bit means something. */
static uint64_t some_bit(const char *name, uint64_t len, uint64_t wal_end, uint64_t *random)
{
    if (strncmp(name, "wal-", 4) != 0)
        return kith_random(random) % (len * 8);
    uint64_t at = kith_random(random) % (84 + wal_end - WAL_HEADER_BYTES);
    return (at < 84 ? at : at - 84 + WAL_HEADER_BYTES) * 8 + kith_random(random) % 8;
}

static void test_scrub_finds_every_flipped_bit(void **state)
{
    (void)state;
    uint64_t random = test_env("KITH_SEED", 1), n = test_env("KITH_FLIPS", 400);
    uint64_t found[128] = {0}, repaired = 0;
    print_message("KITH_SEED=%llu\n", (unsigned long long)random);
    for (uint64_t i = 0; i < n; i++) {
        struct disk disk;
        struct store_stats stats;
        char path[128];
        uint8_t *bytes;
        uint64_t len;
        disk_open(&disk);
        assert_int_equal(scrub(&disk).damaged, 0);
        store_stats(disk.store, &stats);
        const char *name = disk.names[i % disk.n_names];
        (void)snprintf(path, sizeof path, "c/0/%.63s", name);
        assert_true(io_fake_peek(disk.io, path, &bytes, &len));
        uint64_t bit = some_bit(name, len, stats.wal_bytes, &random);
        bytes[bit / 8] ^= (uint8_t)(1u << (bit % 8));
        if (scrub(&disk).damaged != 1)
            fail_msg("bit %llu of %s was not found", (unsigned long long)bit, name);
        found[(unsigned char)name[0]]++;
        store_stats(disk.store, &stats);
        assert_int_equal(stats.quarantined, name[0] == 's');
        struct view *view = store_view(disk.store);
        assert_int_equal(view_verdict(&view, 1, KITH_OK, NULL),
                         name[0] == 's' ? KITH_CORRUPT : KITH_OK);
        view_unref(view);
        if (name[0] != 's') {
            /* Sealing makes a damaged log needless. */
            bool did;
            assert_int_equal(store_maintain(disk.store, &did, NULL), KITH_OK);
            assert_int_equal(scrub(&disk).damaged, 0);
            store_close(disk.store);
            struct kith_diag diag = {0};
            if (store_open(&disk.store, &disk.options, &diag) != KITH_OK)
                fail_msg("%s, bit %llu: %s", name, (unsigned long long)bit, diag.text);
            expect_all(&disk);
            repaired++;
        }
        disk_close(&disk);
    }
    print_message("flips: %llu, all found; in segments %llu, repaired %llu\n",
                  (unsigned long long)n, (unsigned long long)found['s'],
                  (unsigned long long)repaired);
    assert_true(found['s'] > 0 && found['d'] > 0 && found['w'] > 0 && found['M'] > 0);
    assert_int_equal(kith_mem_live(), 0);
}

static void test_scrub_notices_stale_and_misplaced_blocks(void **state)
{
    (void)state;
    struct disk disk;
    uint8_t *bytes;
    uint64_t len;
    disk_open(&disk);
    /* One segment's file in the place of another's: every block is good, none is its own. */
    const char *a = NULL, *b = NULL;
    for (uint32_t i = 0; i < disk.n_names; i++)
        if (strncmp(disk.names[i], "seg-", 4) == 0) {
            b = a;
            a = disk.names[i];
        }
    assert_non_null(b);
    char from[128], to[128];
    (void)snprintf(from, sizeof from, "c/0/%s", a);
    (void)snprintf(to, sizeof to, "c/0/%s", b);
    assert_true(io_fake_peek(disk.io, from, &bytes, &len));
    uint8_t *copy = kith_memdup(bytes, (size_t)len);
    uint64_t to_len;
    assert_true(io_fake_peek(disk.io, to, &bytes, &to_len));
    memcpy(bytes, copy, (size_t)(len < to_len ? len : to_len));
    kith_free(copy);
    assert_int_equal(scrub(&disk).damaged, 1);
    disk_close(&disk);
}

/* ---- the thread ------------------------------------------------------------------------------
 */

static void each(void *owner, scrub_store_fn fn, void *ctx)
{
    (void)fn(ctx, owner);
}

static void test_scrub_thread_verifies_and_stops(void **state)
{
    (void)state;
    struct disk disk;
    struct scrub *scrubber = NULL;
    disk_open(&disk);
    struct scrub_options options = {
        .each = each, .owner = disk.store, .bytes_per_s = 1, .period_s = 1, .background = true};
    assert_int_equal(scrub_open(&scrubber, &options, NULL), KITH_OK);
    scrub_wake(scrubber);
    scrub_close(scrubber); /* whatever it is doing, at one byte a second */
    options.background = false;
    assert_int_equal(scrub_open(&scrubber, &options, NULL), KITH_OK);
    scrub_round(scrubber);
    struct scrub_stats stats;
    scrub_stats(scrubber, &stats);
    assert_int_equal(stats.rounds, 1);
    assert_int_equal(stats.files, disk.n_names);
    assert_int_equal(stats.damaged, 0);
    assert_true(stats.bytes > 0);
    scrub_close(scrubber);
    disk_close(&disk);
    assert_int_equal(kith_mem_live(), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_scrub_finds_every_flipped_bit),
        cmocka_unit_test(test_scrub_notices_stale_and_misplaced_blocks),
        cmocka_unit_test(test_scrub_thread_verifies_and_stops),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
