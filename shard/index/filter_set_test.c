#include "shard/index/filter_set.h"

#include <setjmp.h>
#include <stdarg.h>
#include <cmocka.h>

#include "common/kith_testing.h"
#include "shard/index/filter_doc.h"
#include "shard/index/filter_testing.h"

/* The oracle is filter_doc on each payload. Segment and head are fakes in memory: what is tested is
 * the algebra over real columns, not the disk. */

#define ROWS   120u
#define WORLDS TEST_SCALE(60, 12)

struct segment {
    struct kith_id ids[ROWS];
    struct kith_buf payloads[ROWS];
    struct columns *columns;
    uint8_t *section;
};

/* The same rows again as a head: the last of a block and the first after it, all before them gone.
 */
#define HEAD_FIRST (HEAD_BLOCK_ROWS - ROWS / 2)
#define HEAD_ROWS  (HEAD_FIRST + ROWS)

struct head {
    struct segment *rows;
    struct columns *columns;
    uint8_t *section;
    bool busy; /* somebody else is building the block */
};

static long payloads_read;
static long telling; /* filters that matched some rows and not others */

uint32_t segment_rows(const struct segment *segment)
{
    (void)segment;
    return ROWS;
}

struct kith_id segment_id(const struct segment *segment, uint32_t row)
{
    return segment->ids[row];
}

const struct columns *segment_columns(const struct segment *segment)
{
    return segment->columns;
}

bool segment_find(const struct segment *segment, const struct kith_id *id, uint32_t *row)
{
    for (*row = 0; *row < ROWS; ++*row)
        if (kith_id_equal(&segment->ids[*row], id))
            return true;
    return false;
}

enum kith_err segment_payload_cached(const struct segment *segment, uint32_t row,
                                     struct segment_cache *cache, struct kith_bytes *out,
                                     struct kith_diag *diag)
{
    (void)cache;
    (void)diag;
    payloads_read++;
    *out = testing_bytes(&segment->payloads[row]);
    return KITH_OK;
}

void segment_cache_fini(struct segment_cache *cache)
{
    (void)cache;
}

bool head_row_live(const struct head *head, uint32_t row, uint64_t seq)
{
    (void)head;
    (void)seq;
    return row >= HEAD_FIRST && (row - HEAD_FIRST) % 5 != 0;
}

void head_row_get(const struct head *head, uint32_t row, struct head_row *out)
{
    assert_in_range(row, HEAD_FIRST, HEAD_ROWS - 1);
    row -= HEAD_FIRST;
    *out = (struct head_row){&head->rows->ids[row], 1, NULL,
                             testing_bytes(&head->rows->payloads[row])};
}

bool head_row_at(const struct head *head, uint32_t row, uint64_t seq, struct head_row *out)
{
    if (!head_row_live(head, row, seq))
        return false;
    head_row_get(head, row, out);
    return true;
}

bool head_find(const struct head *head, const struct kith_id *id, uint32_t rows, uint64_t seq,
               uint32_t *row)
{
    assert_int_equal(rows, HEAD_ROWS);
    if (!segment_find(head->rows, id, row))
        return false;
    *row += HEAD_FIRST;
    return head_row_live(head, *row, seq);
}

const struct columns *head_block(const struct head *head, uint32_t block)
{
    assert_int_equal(block, 0);
    return head->busy ? NULL : head->columns;
}

/* Columns of n rows, of which those from `skip` on are the segment's. */
static void fake_columns(const struct segment *segment, uint32_t n, uint32_t skip,
                         struct columns **columns, uint8_t **section)
{
    struct column_builder *builder = NULL;
    struct kith_buf out = {0};
    assert_int_equal(column_builder_new(&builder, NULL), KITH_OK);
    for (uint32_t row = 0; row < n; row++) {
        struct kith_bytes payload = {0};
        if (row >= skip)
            payload = testing_bytes(&segment->payloads[row - skip]);
        assert_int_equal(column_builder_add(builder, row, payload, NULL), KITH_OK);
    }
    assert_int_equal(column_builder_finish(builder, n, &out, NULL), KITH_OK);
    column_builder_free(builder);
    *section = kith_alloc_aligned(32, out.len);
    memcpy(*section, out.data, out.len);
    assert_int_equal(columns_open(columns, *section, out.len, n, NULL), KITH_OK);
    kith_buf_fini(&out);
}

static void fake_build(struct segment *segment, uint32_t depth)
{
    memset(segment, 0, sizeof *segment);
    for (uint32_t row = 0; row < ROWS; row++) {
        struct kith_writer w = testing_writer(&segment->payloads[row]);
        segment->ids[row] = kith_id_number(row * 2);
        if (random_below(10) > 0)
            testing_object(&w, depth);
    }
    fake_columns(segment, ROWS, 0, &segment->columns, &segment->section);
}

static void fake_free(struct segment *segment)
{
    for (uint32_t row = 0; row < ROWS; row++)
        kith_buf_fini(&segment->payloads[row]);
    columns_close(segment->columns);
    kith_free(segment->section);
}

struct fixture {
    struct segment segment;
    struct head head;
    struct bitmap *deleted;
    struct view_segment part;
    struct view view;
};

/* Depth 1 stays below the limit of indexed paths, depth 3 passes it. */
static void fixture_open(struct fixture *f, uint32_t depth)
{
    fake_build(&f->segment, depth);
    f->head = (struct head){.rows = &f->segment, .busy = random_below(4) == 0};
    fake_columns(&f->segment, HEAD_BLOCK_ROWS, HEAD_FIRST, &f->head.columns, &f->head.section);
    f->deleted = bitmap_new();
    for (uint32_t row = 0; row < ROWS; row++)
        if (random_below(6) == 0)
            bitmap_add(f->deleted, row);
    f->part = (struct view_segment){&f->segment, random_below(4) ? f->deleted : NULL, 0};
    f->view = (struct view){.seq = 9, .n_segments = 1, .segments = &f->part, .n_heads = 1};
    f->view.heads[0] = (struct view_head){&f->head, HEAD_ROWS, 0};
}

static void fixture_close(struct fixture *f)
{
    bitmap_free(f->deleted);
    columns_close(f->head.columns);
    kith_free(f->head.section);
    fake_free(&f->segment);
}

static void check_agreement(struct fixture *f, const struct kith_filter *filter)
{
    struct bitmap *set = NULL;
    struct bitmap *head = NULL;
    assert_int_equal(filter_segment(filter, &f->view, 0, 0, &set, NULL), KITH_OK);
    assert_int_equal(filter_head(filter, &f->view, 0, 0, &head, NULL), KITH_OK);
    for (uint32_t row = 0; row < ROWS; row++) {
        bool live = f->part.deleted == NULL || !bitmap_contains(f->part.deleted, row);
        bool match = filter_doc(filter, NULL, &f->segment.ids[row],
                                testing_bytes(&f->segment.payloads[row]));
        if (bitmap_contains(set, row) != (live && match))
            fail_msg("row %u: the set says %d, the payload %d", row, bitmap_contains(set, row),
                     match);
        if (bitmap_contains(head, HEAD_FIRST + row) != (row % 5 != 0 && match))
            fail_msg("row %u of the head: the set says %d, the payload %d", row,
                     bitmap_contains(head, HEAD_FIRST + row), match);
    }
    uint32_t below[1];
    assert_true(bitmap_read(head, 0, below, 1) == 0 || below[0] >= HEAD_FIRST);
    uint64_t count = bitmap_count(set);
    telling += count > 0 && count < ROWS * 3 / 4;
    bitmap_free(head);
    bitmap_free(set);
}

static void test_filter_set_agrees_with_payloads(void **state)
{
    (void)state;
    static struct fixture f;
    struct kith_buf buf = {0};
    long before = kith_mem_live();
    for (int data = 0; data < WORLDS; data++) {
        fixture_open(&f, 1 + (uint32_t)data % 3);
        for (int round = 0; round < 200; round++) {
            struct kith_filter filter;
            struct kith_writer w = testing_writer(&buf);
            struct kith_diag diag = {0};
            kith_buf_reset(&buf);
            testing_filter(&w, 3);
            enum kith_err err = kith_filter_parse(&filter, testing_bytes(&buf), "filter", &diag);
            if (err != KITH_OK)
                fail_msg("%s", diag.text);
            check_agreement(&f, &filter);
        }
        struct kith_filter none = {0};
        check_agreement(&f, &none);
        fixture_close(&f);
    }
    kith_buf_fini(&buf);
    assert_int_equal(kith_mem_live(), before);
    print_message("%ld of %d filters told rows apart\n", telling, WORLDS * 201);
    assert_true(telling > WORLDS * 201 / 6);
}

static void test_filter_set_reads_no_payload_it_can_avoid(void **state)
{
    (void)state;
    static struct fixture f;
    static const char *const free_of_payloads[] = {
        "{'must': [{'key': 'k', 'match': {'any': ['x', 1, true]}}, {'key': 'n', 'range': {'gt': "
        "0}}]}",
        "{'must_not': [{'is_empty': {'key': 'o.k'}}], 'should': [{'is_null': {'key': 'l'}}, "
        "{'has_id': [2, 4]}]}",
        "{'must': [{'key': 'nowhere', 'match': {'value': 1}}]}",
        "{'must': [{'key': 'k', 'match': {'value': 'nothing'}}, {'key': 'l[0].k', 'match': "
        "{'value': 1}}]}",
        "{'must': [{'nested': {'key': 'l', 'filter': {'must': [{'key': 'k', 'match': {'value': "
        "'nothing'}}]}}}]}",
    };
    struct kith_buf buf = {0};
    fixture_open(&f, 1);
    for (size_t i = 0; i < sizeof free_of_payloads / sizeof *free_of_payloads; i++) {
        struct kith_filter filter;
        struct bitmap *set = NULL;
        assert_int_equal(
            kith_filter_parse(&filter, testing_pack(&buf, free_of_payloads[i]), "filter", NULL),
            KITH_OK);
        payloads_read = 0;
        assert_int_equal(filter_segment(&filter, &f.view, 0, 0, &set, NULL), KITH_OK);
        if (payloads_read != 0)
            fail_msg("%s read %ld payloads", free_of_payloads[i], payloads_read);
        bitmap_free(set);
    }
    fixture_close(&f);
    kith_buf_fini(&buf);
}

static void test_filter_set_gives_up_at_its_deadline(void **state)
{
    (void)state;
    static struct fixture f;
    struct kith_buf buf = {0};
    struct kith_filter filter;
    struct bitmap *set = NULL;
    fixture_open(&f, 1);
    assert_int_equal(
        kith_filter_parse(&filter,
                          testing_pack(&buf, "{'must': [{'key': 'a[2]', 'match': {'value': 1}}]}"),
                          "filter", NULL),
        KITH_OK);
    payloads_read = 0;
    assert_int_equal(filter_segment(&filter, &f.view, 0, 1, &set, NULL), KITH_TIMEOUT);
    assert_int_equal(filter_head(&filter, &f.view, 0, 1, &set, NULL), KITH_TIMEOUT);
    assert_int_equal(payloads_read, 0);
    assert_null(set);
    fixture_close(&f);
    kith_buf_fini(&buf);
}

static void test_filter_set_survives_each_oom(void **state)
{
    (void)state;
    static struct fixture f;
    struct kith_buf buf = {0};
    fixture_open(&f, 1);
    for (int round = 0; round < TEST_SCALE(150, 30); round++) {
        struct kith_filter filter;
        struct kith_writer w = testing_writer(&buf);
        kith_buf_reset(&buf);
        testing_filter(&w, 2);
        assert_int_equal(kith_filter_parse(&filter, testing_bytes(&buf), "filter", NULL), KITH_OK);
        long before = kith_mem_live();
        bool done = false;
        for (long n = 0; !done; n++) {
            struct bitmap *set = NULL;
            struct bitmap *head = NULL;
            kith_mem_fail_after(n);
            enum kith_err err = filter_segment(&filter, &f.view, 0, 0, &set, NULL);
            if (err == KITH_OK)
                err = filter_head(&filter, &f.view, 0, 0, &head, NULL);
            kith_mem_fail_after(-1);
            assert_true(err == KITH_OK || err == KITH_NOMEM);
            done = err == KITH_OK;
            assert_true(done || head == NULL);
            bitmap_free(set);
            bitmap_free(head);
            assert_int_equal(kith_mem_live(), before);
        }
    }
    fixture_close(&f);
    kith_buf_fini(&buf);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_filter_set_agrees_with_payloads),
        cmocka_unit_test(test_filter_set_reads_no_payload_it_can_avoid),
        cmocka_unit_test(test_filter_set_gives_up_at_its_deadline),
        cmocka_unit_test(test_filter_set_survives_each_oom),
    };
    return cmocka_run_group_tests(tests, random_set_up, NULL);
}
