#include "shard/storage/segment.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <cmocka.h>

#include "common/kith_mem.h"
#include "common/kith_testing.h"
#include "shard/storage/io_fake.h"
#include "shard/storage/segment_format.h"
#include "shard/storage/segment_writer.h"

#define DIM 3u

static const struct slice_config config = {
    .collection = 9, .slice = 2, .dim = DIM, .metric = KITH_EUCLID, .rows = KITH_ROWS_F32};

/* What the rows have. */
static struct {
    enum { NUMBERS_AND_UUIDS, NUMBERS, UUIDS } ids;
    bool far_seqs;
    bool no_payloads;
} shape;

/* Ids out of order; payloads of all sizes, some none. */
static struct kith_id id_of(uint32_t row)
{
    struct kith_id id = kith_id_number((uint64_t)row * 7919 % 100003);
    if (shape.ids == UUIDS || (shape.ids == NUMBERS_AND_UUIDS && row % 5 == 0)) {
        id.is_uuid = 1;
        id.hi = ~(uint64_t)row;
    }
    return id;
}

static uint64_t seq_of(uint32_t row)
{
    return shape.far_seqs ? 100 + ((uint64_t)row << 33) : 100 + row;
}

static void payload_of(uint32_t row, struct kith_buf *out)
{
    struct kith_writer w = {.write = kith_buf_sink, .sink = out};
    kith_buf_reset(out);
    if (row % 3 == 1 || shape.no_payloads)
        return;
    size_t len = row % 100 == 0 ? 40000 : row % 50;
    char *text = kith_xalloc(len + 1);
    for (size_t i = 0; i < len; i++)
        text[i] = (char)('a' + (row + i * i) % 26);
    kith_write_map(&w, 1);
    kith_write_cstr(&w, "t");
    kith_write_str(&w, text, len);
    kith_free(text);
}

/* The i-th point written: odd rows downwards, then even rows upwards. */
static uint32_t point_order(uint32_t i, uint32_t n)
{
    uint32_t odd = n / 2;
    return i < odd ? (odd - 1 - i) * 2 + 1 : (i - odd) * 2;
}

static enum kith_err write_one(struct io *io, uint32_t n, struct kith_diag *diag)
{
    struct segment_writer_options options = {
        .io = io, .dir = "s", .config = &config, .number = 4, .n_rows = n};
    struct segment_writer *writer = NULL;
    struct kith_buf payload = {0};
    enum kith_err err = segment_writer_new(&writer, &options, diag);
    for (uint32_t row = 0; row < n && err == KITH_OK; row++) {
        float values[DIM] = {(float)row, 1, -(float)row};
        err = segment_writer_row(writer, values, diag);
    }
    /* Index sections, and points in another order than the rows. */
    if (err == KITH_OK)
        err = segment_writer_index(writer, SEGMENT_INDEX_FIRST + 1, "abc", 3, diag);
    if (err == KITH_OK)
        err = segment_writer_index(writer, SEGMENT_INDEX_FIRST + 1, "de", 2, diag);
    if (err == KITH_OK)
        err = segment_writer_index(writer, SEGMENT_INDEX_FIRST + 4, "f", 1, diag);
    for (uint32_t i = 0; i < n && err == KITH_OK; i++) {
        uint32_t row = point_order(i, n);
        struct kith_id id = id_of(row);
        payload_of(row, &payload);
        struct segment_point point = {
            .id = &id, .seq = seq_of(row), .payload = {payload.data, payload.len}};
        if (payload.failed)
            err = KITH_NOMEM;
        else
            err = segment_writer_point(writer, row, &point, diag);
    }
    if (err == KITH_OK)
        err = segment_writer_finish(writer, diag);
    segment_writer_free(writer);
    kith_buf_fini(&payload);
    return err;
}

/* Every row once; blocks follow each other as the points came, rows without payload at the end. */
static void check_payload_order(const struct segment *segment, uint32_t n)
{
    uint32_t *rows = kith_xalloc(n * sizeof *rows);
    uint8_t *seen = kith_xalloc(n);
    uint32_t last = 0;
    assert_int_equal(segment_payload_order(segment, rows, NULL), KITH_OK);
    for (uint32_t i = 0; i < n; i++)
        assert_true(rows[i] < n && !seen[rows[i]]++);
    for (uint32_t i = 0; i < n && rows[i] % 3 != 1 && !shape.no_payloads; i++) {
        uint32_t place = rows[i] % 2 == 1 ? n / 2 - 1 - rows[i] / 2 : n / 2 + rows[i] / 2;
        assert_true(place + 4000 > last); /* more points than a block holds */
        last = place > last ? place : last;
    }
    kith_free(rows);
    kith_free(seen);
}

static void check(const struct segment *segment, uint32_t n)
{
    struct kith_buf expected = {0}, got = {0};
    struct segment_cache cache = {0};
    const float *rows = segment_row_data(segment, 0, segment_rows(segment));
    assert_int_equal(segment_rows(segment), n);
    assert_int_equal(segment_row_bytes(segment), DIM * 4);
    for (uint32_t row = 0; row < n; row++) {
        struct kith_id id = id_of(row);
        struct kith_bytes cached;
        uint32_t found;
        assert_true(segment_find(segment, &id, &found));
        assert_int_equal(found, row);
        assert_true(rows[row * DIM] == (float)row && rows[row * DIM + 1] == 1);
        assert_true(segment_seq(segment, row) == seq_of(row));
        payload_of(row, &expected);
        kith_buf_reset(&got);
        assert_int_equal(segment_payload(segment, row, &got, NULL), KITH_OK);
        assert_int_equal(segment_payload_cached(segment, row, &cache, &cached, NULL), KITH_OK);
        assert_int_equal(got.len, expected.len);
        assert_int_equal(cached.len, expected.len);
        if (got.len > 0) {
            assert_memory_equal(got.data, expected.data, got.len);
            assert_memory_equal(cached.data, expected.data, got.len);
        }
    }
    for (uint32_t i = 1; i < n; i++) {
        struct kith_id before = segment_id(segment, segment_by_id(segment, i - 1)),
                       id = segment_id(segment, segment_by_id(segment, i));
        assert_true(kith_id_compare(&before, &id) < 0);
    }
    check_payload_order(segment, n);
    struct kith_bytes part = segment_index_section(segment, SEGMENT_INDEX_FIRST + 1);
    assert_int_equal(part.len, 5);
    assert_memory_equal(part.data, "abcde", 5);
    part = segment_index_section(segment, SEGMENT_INDEX_FIRST + 4);
    assert_int_equal(part.len, 1);
    assert_int_equal(segment_index_section(segment, SEGMENT_INDEX_FIRST).len, 0);
    assert_int_equal(segment_index_section(segment, SEGMENT_INDEX_FIRST + 2).len, 0);
    struct kith_id absent = kith_id_number(UINT64_MAX);
    uint32_t found;
    assert_false(segment_find(segment, &absent, &found));
    kith_buf_fini(&expected);
    kith_buf_fini(&got);
    segment_cache_fini(&cache);
}

/* Makes the header's, its block's and the table's right again, after the header was changed. */
static void set_checksums(uint8_t *file)
{
    uint64_t body = kith_load_u64(file + 56), blocks = (body - 1) / KITH_SEGMENT_BLOCK + 1;
    size_t first = body < KITH_SEGMENT_BLOCK ? (size_t)body : KITH_SEGMENT_BLOCK;
    kith_store_u32(file + SEGMENT_HEADER_CRC, kith_crc32c(0, file, SEGMENT_HEADER_CRC));
    kith_store_u32(file + body, segment_format_block_crc(file, first, 4, 0));
    kith_store_u32(file + body + blocks * 4,
                   segment_format_block_crc(file + body, (size_t)blocks * 4, 4, UINT64_MAX));
}

static struct io *new_disk(void)
{
    struct io *io = NULL;
    assert_int_equal(io_fake_new(&io, NULL), KITH_OK);
    assert_int_equal(io->make_dir(io->self, "s", NULL), KITH_OK);
    return io;
}

/* The bytes of a point's section, when all is well. */
static uint64_t write_and_check(uint32_t n, unsigned kind)
{
    struct io *io = new_disk();
    struct segment *segment = NULL;
    struct kith_diag diag = {0};
    if (write_one(io, n, &diag) != KITH_OK ||
        segment_open(&segment, io, "s", 4, &config, &diag) != KITH_OK)
        fail_msg("%s", diag.text);
    check(segment, n);
    uint64_t bytes = segment_place(segment, kind).len;
    segment_unref(segment);
    io_fake_free(io);
    assert_int_equal(bytes % n, 0);
    return bytes / n;
}

static void test_segment_gives_back_what_was_written(void **state)
{
    (void)state;
    static const uint32_t sizes[] = {1, 2, 11, 1000, 20000};
    for (size_t i = 0; i < sizeof sizes / sizeof sizes[0]; i++)
        (void)write_and_check(sizes[i], SEGMENT_IDS);
    assert_int_equal(kith_mem_live(), 0);
}

/* Ids, seqs and where payloads lie take no more bytes than they need. */
static void test_segment_stores_what_it_needs_to(void **state)
{
    (void)state;
    assert_int_equal(write_and_check(1000, SEGMENT_IDS), 24);
    assert_int_equal(write_and_check(1000, SEGMENT_SEQS), 4);
    assert_int_equal(write_and_check(1000, SEGMENT_PAYLOAD_INDEX), 8);
    shape.ids = NUMBERS;
    assert_int_equal(write_and_check(1000, SEGMENT_IDS), 8);
    shape.ids = UUIDS;
    assert_int_equal(write_and_check(1000, SEGMENT_IDS), 16);
    shape.far_seqs = true;
    assert_int_equal(write_and_check(1000, SEGMENT_SEQS), 8);
    shape.no_payloads = true;
    assert_int_equal(write_and_check(1000, SEGMENT_PAYLOAD_INDEX), 0);
    memset(&shape, 0, sizeof shape);
    assert_int_equal(kith_mem_live(), 0);
}

/* Files of the version before have the wide forms, which are still known. */
static void test_segment_reads_the_version_before(void **state)
{
    (void)state;
    struct io *io = new_disk();
    struct segment *segment = NULL;
    uint8_t *bytes;
    uint64_t len;
    shape.far_seqs = true;
    assert_int_equal(write_one(io, 40, NULL), KITH_OK);
    assert_true(io_fake_peek(io, "s/seg-0000000000000004", &bytes, &len));
    for (uint32_t version = SEGMENT_VERSION_READ - 1; version <= SEGMENT_VERSION + 1; version++) {
        bool known = version >= SEGMENT_VERSION_READ && version <= SEGMENT_VERSION;
        kith_store_u32(bytes + 8, version);
        set_checksums(bytes);
        assert_int_equal(segment_open(&segment, io, "s", 4, &config, NULL),
                         known ? KITH_OK : KITH_CORRUPT);
        if (known)
            check(segment, 40);
        if (known)
            segment_unref(segment);
    }
    memset(&shape, 0, sizeof shape);
    io_fake_free(io);
}

/* Opens it and reads all of it, in the way of a query. */
static enum kith_err read_all(struct io *io, const struct slice_config *as)
{
    struct segment *segment = NULL;
    enum kith_err err = segment_open(&segment, io, "s", 4, as, NULL);
    if (err != KITH_OK)
        return err;
    struct segment_cache cache = {0};
    const struct column *column;
    struct kith_bytes payload;
    uint32_t n = segment_rows(segment), found;
    (void)segment_row_data(segment, 0, n);
    (void)columns_find(segment_columns(segment), (struct kith_bytes){(const uint8_t *)"t", 1},
                       &column);
    for (uint32_t row = 0; row < n; row++) {
        struct kith_id id = segment_id(segment, segment_by_id(segment, row));
        (void)segment_find(segment, &id, &found);
        (void)segment_seq(segment, row);
        (void)segment_payload_cached(segment, row, &cache, &payload, NULL);
    }
    err = segment_check(segment, NULL);
    segment_cache_fini(&cache);
    segment_unref(segment);
    return err;
}

static enum kith_err verify(struct io *io)
{
    struct segment *segment = NULL;
    enum kith_err err = segment_open(&segment, io, "s", 4, &config, NULL);
    if (err == KITH_OK)
        err = segment_verify(segment, NULL, NULL, NULL);
    segment_unref(segment);
    return err;
}

/* Blocks of several per file: flips anywhere, and one block over another. */
static void test_segment_notices_every_damage(void **state)
{
    (void)state;
    struct io *io = new_disk();
    struct segment *segment = NULL;
    uint8_t *bytes;
    uint64_t len;
    assert_int_equal(write_one(io, 5000, NULL), KITH_OK);
    assert_true(io_fake_peek(io, "s/seg-0000000000000004", &bytes, &len));
    assert_true(len > 3 * KITH_SEGMENT_BLOCK);
    for (uint64_t at = 0; at < len; at += at < 4096 ? TEST_SCALE(1, 7) : TEST_SCALE(997, 4999)) {
        bytes[at] ^= 0x80;
        if (verify(io) != KITH_CORRUPT)
            fail_msg("a flip at %llu", (unsigned long long)at);
        bytes[at] ^= 0x80;
    }
    uint8_t *good = kith_memdup(bytes, (size_t)len);
    memcpy(bytes + KITH_SEGMENT_BLOCK, bytes + 2 * KITH_SEGMENT_BLOCK, KITH_SEGMENT_BLOCK);
    assert_int_equal(verify(io), KITH_CORRUPT);
    assert_int_equal(read_all(io, &config), KITH_CORRUPT);
    memcpy(bytes, good, (size_t)len);
    /* A block is verified by whoever uses it. */
    for (uint64_t at = KITH_SEGMENT_BLOCK / 2; at < len; at += KITH_SEGMENT_BLOCK) {
        bytes[at] ^= 0x80;
        if (read_all(io, &config) != KITH_CORRUPT)
            fail_msg("a flip at %llu was read", (unsigned long long)at);
        bytes[at] ^= 0x80;
    }
    assert_int_equal(read_all(io, &config), KITH_OK);
    struct slice_config other = config;
    other.slice++;
    assert_int_equal(segment_open(&segment, io, "s", 4, &other, NULL), KITH_CORRUPT);
    assert_int_equal(segment_open(&segment, io, "s", 4, &config, NULL), KITH_OK);
    segment_unref(segment);
    kith_free(good);
    io_fake_free(io);
}

static void test_segment_survives_each_failed_allocation(void **state)
{
    (void)state;
    bool done = false;
    for (long n = 0; !done; n += 1 + n / 16) {
        struct io *io = new_disk();
        struct segment *segment = NULL;
        kith_mem_fail_after(n);
        enum kith_err err = write_one(io, 40, NULL);
        if (err == KITH_OK)
            err = segment_open(&segment, io, "s", 4, &config, NULL);
        kith_mem_fail_after(-1);
        assert_true(err == KITH_OK || err == KITH_NOMEM);
        done = err == KITH_OK;
        segment_unref(segment);
        io_fake_free(io);
        assert_int_equal(kith_mem_live(), 0);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_segment_gives_back_what_was_written),
        cmocka_unit_test(test_segment_stores_what_it_needs_to),
        cmocka_unit_test(test_segment_reads_the_version_before),
        cmocka_unit_test(test_segment_notices_every_damage),
        cmocka_unit_test(test_segment_survives_each_failed_allocation),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
