#include "shard/storage/bitmap.h"

#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>
#include <cmocka.h>

#include "common/kith_mem.h"
#include "common/kith_testing.h"

#define ROWS 200000u

/* A bitmap with all three kinds of containers, and the same as a plain array of flags. */
static struct bitmap *mixed(uint8_t *flags)
{
    struct bitmap *set = bitmap_new();
    assert_non_null(set);
    memset(flags, 0, ROWS);
    for (int i = 0; i < 30000; i++) { /* bitset */
        uint32_t row = random_below(65536);
        bitmap_add(set, row);
        flags[row] = 1;
    }
    for (int i = 0; i < 500; i++) { /* array */
        uint32_t row = 65536 + random_below(65536);
        bitmap_add(set, row);
        flags[row] = 1;
    }
    for (int i = 0; i < 20; i++) { /* runs */
        uint32_t row = 131072 + random_below(60000);
        uint32_t end = row + 1 + random_below(900);
        bitmap_add_range(set, row, end);
        memset(flags + row, 1, end - row);
    }
    return set;
}

static void same(const struct bitmap *set, const uint8_t *flags)
{
    uint64_t count = 0;
    for (uint32_t row = 0; row < ROWS; row++) {
        count += flags[row];
        assert_int_equal(bitmap_contains(set, row), flags[row]);
    }
    assert_int_equal(bitmap_count(set), count);
}

static void test_bitmap_reads_rows_and_words(void **state)
{
    (void)state;
    static uint8_t flags[ROWS];
    struct bitmap *set = mixed(flags);
    bitmap_optimize(set);
    same(set, flags);

    uint32_t rows[777];
    uint32_t from = 0;
    uint64_t seen = 0;
    size_t n;
    while ((n = bitmap_read(set, from, rows, 777)) > 0) {
        for (size_t i = 0; i < n; i++)
            assert_true(flags[rows[i]] && rows[i] >= from);
        seen += n;
        from = rows[n - 1] + 1;
    }
    assert_int_equal(seen, bitmap_count(set));

    for (int round = 0; round < 200; round++) {
        uint64_t words[100];
        uint32_t first = round < 100 ? random_below(ROWS / 64) * 64 : random_below(ROWS);
        size_t n_words = random_below(101);
        bitmap_words(set, first, words, n_words);
        for (uint32_t i = 0; i < 64 * n_words; i++) {
            bool bit = (words[i / 64] >> (i % 64)) & 1;
            assert_int_equal(bit, first + i < ROWS && flags[first + i]);
        }
    }
    bitmap_free(set);
}

static void test_bitmap_adds_words(void **state)
{
    (void)state;
    static uint8_t flags[ROWS];
    static uint64_t words[ROWS / 64];
    struct bitmap *set = mixed(flags);
    struct bitmap *copy = bitmap_new();
    bitmap_words(set, 0, words, ROWS / 64);
    bitmap_add_words(copy, words, ROWS / 64);
    same(copy, flags);
    assert_true(bitmap_equal(set, copy));
    bitmap_add_words(copy, words, ROWS / 64); /* once more, into a set that has them */
    assert_true(bitmap_equal(set, copy));
    bitmap_flip(copy, ROWS);
    assert_int_equal(bitmap_count(copy) + bitmap_count(set), ROWS);
    assert_int_equal(bitmap_count_and(copy, set), 0);
    bitmap_or(copy, set);
    assert_int_equal(bitmap_count(copy), ROWS);
    bitmap_andnot(copy, set);
    bitmap_and(copy, set);
    assert_true(bitmap_empty(copy));
    bitmap_free(copy);
    bitmap_free(set);
}

static void test_bitmap_survives_store_and_freeze(void **state)
{
    (void)state;
    static uint8_t flags[ROWS];
    struct bitmap *set = mixed(flags);
    bitmap_optimize(set);
    size_t len = bitmap_bytes(set);
    uint8_t *bytes = kith_alloc(len);
    bitmap_store(set, bytes);
    struct bitmap *loaded = NULL;
    assert_int_equal(bitmap_load(&loaded, bytes, len, ROWS, NULL), KITH_OK);
    same(loaded, flags);

    size_t frozen_len = bitmap_frozen_bytes(set);
    uint8_t *frozen = kith_alloc_aligned(32, frozen_len);
    bitmap_freeze(set, frozen);
    uint64_t count = 0;
    assert_true(bitmap_frozen_check(frozen, frozen_len, ROWS, &count));
    assert_int_equal(count, bitmap_count(set));
    struct bitmap *view = bitmap_view(frozen, frozen_len);
    assert_non_null(view);
    same(view, flags);
    bitmap_or(loaded, view);
    same(loaded, flags);
    struct bitmap *copy = bitmap_copy(view);
    bitmap_add(copy, ROWS - 1);
    bitmap_free(copy);
    bitmap_free(view);
    bitmap_free(loaded);

    /* A bound below the last row refuses both. */
    uint32_t last = 0;
    for (uint32_t row = 0; row < ROWS; row++)
        last = flags[row] ? row : last;
    loaded = NULL;
    assert_int_equal(bitmap_load(&loaded, bytes, len, last, NULL), KITH_CORRUPT);
    assert_null(loaded);
    assert_false(bitmap_frozen_check(frozen, frozen_len, last, &count));
    kith_free(frozen);
    kith_free(bytes);
    bitmap_free(set);
}

/* Whatever the bytes, the answer is CORRUPT or a bitmap whose rows are below the bound. */
static void test_bitmap_refuses_damage(void **state)
{
    (void)state;
    static uint8_t flags[ROWS];
    struct bitmap *set = mixed(flags);
    bitmap_optimize(set);
    size_t len = bitmap_bytes(set);
    size_t frozen_len = bitmap_frozen_bytes(set);
    uint8_t *bytes = kith_alloc(len);
    uint8_t *frozen = kith_alloc_aligned(32, frozen_len);
    for (int round = 0; round < 3000; round++) {
        bitmap_store(set, bytes);
        bitmap_freeze(set, frozen);
        size_t cut = round % 3 == 0 ? random_below((uint32_t)len) : len;
        size_t frozen_cut = round % 3 == 0 ? random_below((uint32_t)frozen_len) : frozen_len;
        for (uint32_t i = random_below(4); i > 0; i--) {
            uint32_t near = round % 2 ? 40 : UINT32_MAX;
            bytes[random_below((uint32_t)len < near ? (uint32_t)len : near)] ^=
                (uint8_t)(1u << random_below(8));
            uint32_t back = random_below((uint32_t)frozen_len < near ? (uint32_t)frozen_len : near);
            frozen[frozen_len - 1 - back] ^= (uint8_t)(1u << random_below(8));
        }
        struct bitmap *loaded = NULL;
        if (bitmap_load(&loaded, bytes, cut, ROWS, NULL) == KITH_OK) {
            uint32_t row;
            assert_int_equal(bitmap_read(loaded, ROWS, &row, 1), 0);
            bitmap_and(loaded, set);
            bitmap_free(loaded);
        }
        uint64_t count;
        if (bitmap_frozen_check(frozen, frozen_cut, ROWS, &count)) {
            struct bitmap *view = bitmap_view(frozen, frozen_cut);
            assert_non_null(view);
            assert_int_equal(bitmap_count(view), count);
            bitmap_free(view);
        }
    }
    kith_free(frozen);
    kith_free(bytes);
    bitmap_free(set);
}

/* ---- bytes that become zero while they are read, as those of a lost map do ----------------------
 */

#define CHUNKS     2000u
#define CHUNK_ROWS 65536u

struct vanishing {
    uint8_t *at;
    size_t bytes;
    atomic_uint turn; /* of the one who may touch the map: odd, who takes it away */
    atomic_bool ends;
};

/* By the kernel, as map_guard.c does: to the program it is no write. (TSan takes mmap for one.) */
static void *take_away(void *arg)
{
    struct vanishing *v = arg;
    while (!atomic_load(&v->ends)) {
        if (atomic_load(&v->turn) % 2 == 0)
            continue;
        for (uint32_t i = random_u32() % 20000; i > 0; i--)
            (void)atomic_load(&v->ends);
        kith_assert(syscall(SYS_mmap, v->at, v->bytes, PROT_READ,
                            MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0) == (long)v->at);
        atomic_fetch_add(&v->turn, 1);
    }
    return NULL;
}

static void test_bitmap_bears_bytes_that_become_zero(void **state)
{
    (void)state;
    struct bitmap *set = bitmap_new();
    for (uint32_t i = 0; i < CHUNKS; i++)
        bitmap_add(set, i * CHUNK_ROWS + i);
    size_t len = bitmap_frozen_bytes(set), bytes = (len + 4095) / 4096 * 4096;
    uint8_t *frozen = kith_alloc_aligned(32, len);
    bitmap_freeze(set, frozen);
    int fd = memfd_create("frozen", 0);
    assert_int_equal(pwrite(fd, frozen, len, 0), len);
    assert_int_equal(ftruncate(fd, (off_t)bytes), 0);
    struct vanishing v = {.bytes = bytes};
    v.at = mmap(NULL, bytes, PROT_READ, MAP_PRIVATE, fd, 0);
    pthread_t thread;
    assert_int_equal(pthread_create(&thread, NULL, take_away, &v), 0);
    uint64_t count;
    for (uint32_t round = 0; round < TEST_SCALE(2000, 200); round++) {
        assert_ptr_equal(mmap(v.at, bytes, PROT_READ, MAP_PRIVATE | MAP_FIXED, fd, 0), v.at);
        assert_true(bitmap_frozen_check(v.at, len, CHUNKS * CHUNK_ROWS, &count));
        atomic_fetch_add(&v.turn, 1);
        while (atomic_load(&v.turn) % 2 == 1) {
            struct bitmap *view = bitmap_view(v.at, len);
            (void)bitmap_frozen_check(v.at, len, CHUNKS * CHUNK_ROWS, &count);
            if (view != NULL)
                assert_int_equal(bitmap_count(view), CHUNKS); /* of what was copied */
            bitmap_free(view);
        }
        assert_null(bitmap_view(v.at, len));
    }
    atomic_store(&v.ends, true);
    pthread_join(thread, NULL);
    munmap(v.at, bytes);
    close(fd);
    kith_free(frozen);
    bitmap_free(set);
}

static void test_bitmap_empty_survives(void **state)
{
    (void)state;
    struct bitmap *set = bitmap_new();
    uint8_t bytes[64];
    size_t len = bitmap_bytes(set);
    assert_true(len <= sizeof bytes);
    bitmap_store(set, bytes);
    struct bitmap *loaded = NULL;
    assert_int_equal(bitmap_load(&loaded, bytes, len, 0, NULL), KITH_OK);
    assert_true(bitmap_empty(loaded));
    bitmap_free(loaded);
    _Alignas(32) uint8_t frozen[64];
    len = bitmap_frozen_bytes(set);
    assert_true(len <= sizeof frozen);
    bitmap_freeze(set, frozen);
    uint64_t count = 1;
    assert_true(bitmap_frozen_check(frozen, len, 0, &count));
    assert_int_equal(count, 0);
    bitmap_free(set);
}

static void test_bitmap_survives_each_oom(void **state)
{
    (void)state;
    long before = kith_mem_live();
    struct bitmap *set = bitmap_new();
    bitmap_add_range(set, 3, 3000);
    uint8_t bytes[64];
    assert_true(bitmap_bytes(set) <= sizeof bytes);
    bitmap_optimize(set);
    bitmap_store(set, bytes);
    _Alignas(32) uint8_t frozen[64];
    size_t len = bitmap_frozen_bytes(set);
    assert_true(len <= sizeof frozen);
    bitmap_freeze(set, frozen);
    kith_mem_fail_after(0);
    uint64_t count;
    assert_true(bitmap_frozen_check(frozen, len, 3000, &count)); /* takes no memory */
    assert_int_equal(count, 2997);
    assert_null(bitmap_view(frozen, len));
    kith_mem_fail_after(1);
    assert_null(bitmap_view(frozen, len));
    kith_mem_fail_after(0);
    struct bitmap *none = NULL;
    assert_null(bitmap_new());
    assert_null(bitmap_copy(set));
    assert_int_equal(bitmap_load(&none, bytes, bitmap_bytes(set), 3000, NULL), KITH_NOMEM);
    kith_mem_fail_after(-1);
    assert_null(none);
    bitmap_free(set);
    assert_int_equal(kith_mem_live(), before);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_bitmap_reads_rows_and_words),
        cmocka_unit_test(test_bitmap_adds_words),
        cmocka_unit_test(test_bitmap_survives_store_and_freeze),
        cmocka_unit_test(test_bitmap_refuses_damage),
        cmocka_unit_test(test_bitmap_bears_bytes_that_become_zero),
        cmocka_unit_test(test_bitmap_empty_survives),
        cmocka_unit_test(test_bitmap_survives_each_oom),
    };
    return cmocka_run_group_tests(tests, random_set_up, NULL);
}
