#include "shard/storage/wal.h"

#include <setjmp.h>
#include <stdarg.h>
#include <string.h>
#include <cmocka.h>

#include "common/kith_mem.h"
#include "proto/kith_limits.h"
#include "shard/storage/io_fake.h"
#include "shard/storage/wal_reader.h"

static const struct slice_config config = {.collection = 1, .dim = 4};

struct fixture {
    struct io *io;
    struct wal_options options;
    struct wal *wal;
    uint64_t group_end[8]; /* file offsets */
};

static void add(struct fixture *f, uint64_t seq, size_t bytes)
{
    uint8_t body[300];
    memset(body, (int)seq, sizeof body);
    wal_begin(f->wal);
    kith_buf_append(wal_body(f->wal), body, bytes);
    assert_int_equal(wal_end(f->wal, WAL_WRITE, seq, NULL), KITH_OK);
}

/* Four groups of two records: seqs 1..8. */
static int setup(void **state)
{
    struct fixture *f = kith_xalloc(sizeof *f);
    assert_int_equal(io_fake_new(&f->io, NULL), KITH_OK);
    f->options =
        (struct wal_options){.io = f->io, .dir = "w", .config = &config, .step_bytes = 8192};
    assert_int_equal(f->io->make_dir(f->io->self, "w", NULL), KITH_OK);
    assert_int_equal(wal_create(&f->wal, &f->options, 1, NULL, NULL), KITH_OK);
    f->group_end[0] = WAL_HEADER_BYTES;
    for (uint64_t g = 1; g <= 4; g++) {
        add(f, g * 2 - 1, 100 + g);
        add(f, g * 2, 200 - g);
        assert_int_equal(wal_commit(f->wal, NULL), KITH_OK);
        f->group_end[g] = wal_bytes(f->wal);
    }
    *state = f;
    return 0;
}

static int teardown(void **state)
{
    struct fixture *f = *state;
    wal_close(f->wal);
    io_fake_free(f->io);
    kith_free(f);
    assert_int_equal(kith_mem_live(), 0);
    return 0;
}

/* Reads file 1: how many records, and whether the tail is fine. */
static enum kith_err read_all(struct fixture *f, uint64_t *last_seq, uint64_t *end)
{
    struct wal_reader *reader = NULL;
    struct wal_record record;
    bool unfinished = false, got = true;
    enum kith_err err = wal_reader_open(&reader, &f->options, 1, &unfinished, NULL);
    *last_seq = 0;
    if (err != KITH_OK || unfinished)
        return err;
    while (err == KITH_OK && got) {
        err = wal_reader_next(reader, &record, &got, NULL);
        if (err == KITH_OK && got) {
            assert_int_equal(record.seq, *last_seq + 1);
            for (size_t i = 0; i < record.body_bytes; i++)
                assert_int_equal(record.body[i], record.seq);
            *last_seq = record.seq;
        }
    }
    if (err == KITH_OK)
        err = wal_reader_check_tail(reader, NULL);
    *end = wal_reader_end(reader);
    wal_reader_close(reader);
    return err;
}

static uint8_t *bytes_of(struct fixture *f, uint64_t *len)
{
    uint8_t *bytes = NULL;
    char path[64];
    wal_path(path, sizeof path, "w", 1);
    assert_true(io_fake_peek(f->io, path, &bytes, len));
    return bytes;
}

static void test_wal_reads_what_was_committed(void **state)
{
    struct fixture *f = *state;
    uint64_t seq, end;
    add(f, 9, 10); /* never committed */
    assert_int_equal(read_all(f, &seq, &end), KITH_OK);
    assert_int_equal(seq, 8);
    assert_int_equal(end, f->group_end[4]);
}

/* Damage in a group with a later group behind it is refused at every byte; in the last group, where
 * a power loss could have done it, the log ends at the last good record. */
static void test_wal_tells_damage_from_a_torn_tail(void **state)
{
    struct fixture *f = *state;
    uint64_t len, seq, end;
    uint8_t *bytes = bytes_of(f, &len);
    for (uint64_t at = WAL_HEADER_BYTES; at < f->group_end[4]; at++) {
        bytes[at] ^= 0x10;
        enum kith_err err = read_all(f, &seq, &end);
        if (at < f->group_end[3]) {
            if (err != KITH_CORRUPT)
                fail_msg("damage at %llu was not noticed", (unsigned long long)at);
        } else {
            assert_int_equal(err, KITH_OK);
            assert_in_range(seq, 6, 7);
            assert_true(end <= at);
        }
        bytes[at] ^= 0x10;
    }
}

static void test_wal_cuts_a_torn_group_with_a_good_record_behind(void **state)
{
    struct fixture *f = *state;
    uint64_t len, seq, end;
    uint8_t *bytes = bytes_of(f, &len);
    memset(bytes + f->group_end[3], 0, 48); /* the first record of the last group did not make it */
    assert_int_equal(read_all(f, &seq, &end), KITH_OK);
    assert_int_equal(seq, 6);
    assert_int_equal(end, f->group_end[3]);
}

static void test_wal_goes_on_behind_a_cut(void **state)
{
    struct fixture *f = *state;
    uint64_t len, seq, end;
    struct wal_reader *reader = NULL;
    struct wal_record record;
    bool unfinished, got = true;
    bytes_of(f, &len)[f->group_end[4] - 1] ^= 1;
    assert_int_equal(wal_reader_open(&reader, &f->options, 1, &unfinished, NULL), KITH_OK);
    while (got)
        assert_int_equal(wal_reader_next(reader, &record, &got, NULL), KITH_OK);
    wal_close(f->wal);
    f->wal = NULL;
    assert_int_equal(wal_resume(&f->wal, &f->options, wal_reader_header(reader),
                                wal_reader_end(reader), wal_reader_last_crc(reader), NULL),
                     KITH_OK);
    wal_reader_close(reader);
    add(f, 8, 50);
    add(f, 9, 50);
    assert_int_equal(wal_commit(f->wal, NULL), KITH_OK);
    assert_int_equal(read_all(f, &seq, &end), KITH_OK);
    assert_int_equal(seq, 9);
}

static void test_wal_refuses_a_record_too_large(void **state)
{
    struct fixture *f = *state;
    uint64_t seq, end;
    wal_begin(f->wal);
    struct kith_buf *body = wal_body(f->wal);
    assert_non_null(kith_buf_reserve(body, KITH_WAL_RECORD_MAX));
    body->len += KITH_WAL_RECORD_MAX;
    assert_int_equal(wal_end(f->wal, WAL_WRITE, 9, NULL), KITH_TOO_BIG);
    add(f, 9, 8);
    assert_int_equal(wal_commit(f->wal, NULL), KITH_OK);
    assert_int_equal(read_all(f, &seq, &end), KITH_OK);
    assert_int_equal(seq, 9);
}

static void test_wal_takes_a_group_back_when_the_disk_is_full(void **state)
{
    struct fixture *f = *state;
    uint64_t seq, end;
    add(f, 9, 60);
    io_fake_fail(f->io, IO_FAKE_SPACE, 0, KITH_DISK_FULL, false);
    assert_int_equal(wal_commit(f->wal, NULL), KITH_DISK_FULL);
    assert_int_equal(read_all(f, &seq, &end), KITH_OK);
    assert_int_equal(seq, 8);
    add(f, 9, 70);
    assert_int_equal(wal_commit(f->wal, NULL), KITH_OK);
    assert_int_equal(read_all(f, &seq, &end), KITH_OK);
    assert_int_equal(seq, 9);
}

static void test_wal_create_survives_each_failure(void **state)
{
    struct fixture *f = *state;
    bool done = false;
    for (long n = 0; !done; n++) {
        struct wal *wal = NULL;
        kith_mem_fail_after(n);
        enum kith_err err = wal_create(&wal, &f->options, 2, f->wal, NULL);
        kith_mem_fail_after(-1);
        done = err == KITH_OK;
        assert_true(done || err == KITH_NOMEM);
        wal_close(wal);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_wal_reads_what_was_committed, setup, teardown),
        cmocka_unit_test_setup_teardown(test_wal_tells_damage_from_a_torn_tail, setup, teardown),
        cmocka_unit_test_setup_teardown(test_wal_cuts_a_torn_group_with_a_good_record_behind, setup,
                                        teardown),
        cmocka_unit_test_setup_teardown(test_wal_goes_on_behind_a_cut, setup, teardown),
        cmocka_unit_test_setup_teardown(test_wal_refuses_a_record_too_large, setup, teardown),
        cmocka_unit_test_setup_teardown(test_wal_takes_a_group_back_when_the_disk_is_full, setup,
                                        teardown),
        cmocka_unit_test_setup_teardown(test_wal_create_survives_each_failure, setup, teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
