#include "shard/index/filter_set.h"

#include <setjmp.h>
#include <stdarg.h>
#include <cmocka.h>

#include "shard/index/filter_doc.h"
#include "shard/index/filter_testing.h"

/* The oracle is filter_doc on each payload. Segment and head are fakes in memory: what is tested is
 * the algebra over real columns, not the disk. */

#define ROWS 120u

struct segment {
    struct kith_id ids[ROWS];
    struct kith_buf payloads[ROWS];
    struct columns *columns;
    uint8_t *section;
};

struct head {
    struct segment *rows;
};

static long payloads_read;
static long telling; /* filters that matched some rows and not others */

uint32_t segment_rows(const struct segment *segment)
{
    (void)segment;
    return ROWS;
}

const struct kith_id *segment_ids(const struct segment *segment)
{
    return segment->ids;
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

bool head_row_at(const struct head *head, uint32_t row, uint64_t seq, struct head_row *out)
{
    if (row % 5 == 0) /* deleted */
        return false;
    *out = (struct head_row){&head->rows->ids[row], seq, NULL,
                             testing_bytes(&head->rows->payloads[row])};
    return true;
}

static void fake_build(struct segment *segment, uint32_t depth)
{
    struct column_builder *builder = NULL;
    struct kith_buf out = {0};
    memset(segment, 0, sizeof *segment);
    assert_int_equal(column_builder_new(&builder, NULL), KITH_OK);
    for (uint32_t row = 0; row < ROWS; row++) {
        struct kith_writer w = testing_writer(&segment->payloads[row]);
        segment->ids[row] = kith_id_number(row * 2);
        if (testing_draw(10) > 0)
            testing_object(&w, depth);
        assert_int_equal(
            column_builder_add(builder, row, testing_bytes(&segment->payloads[row]), NULL),
            KITH_OK);
    }
    assert_int_equal(column_builder_finish(builder, ROWS, &out, NULL), KITH_OK);
    column_builder_free(builder);
    segment->section = kith_alloc_aligned(32, out.len);
    memcpy(segment->section, out.data, out.len);
    assert_int_equal(columns_open(&segment->columns, segment->section, out.len, ROWS, NULL),
                     KITH_OK);
    kith_buf_fini(&out);
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
    f->head.rows = &f->segment;
    f->deleted = bitmap_new();
    for (uint32_t row = 0; row < ROWS; row++)
        if (testing_draw(6) == 0)
            bitmap_add(f->deleted, row);
    f->part = (struct view_segment){&f->segment, testing_draw(4) ? f->deleted : NULL, 0};
    f->view = (struct view){.seq = 9, .n_segments = 1, .segments = &f->part, .n_heads = 1};
    f->view.heads[0] = (struct view_head){&f->head, ROWS, 0};
}

static void fixture_close(struct fixture *f)
{
    bitmap_free(f->deleted);
    fake_free(&f->segment);
}

static void check_agreement(struct fixture *f, const struct kith_filter *filter)
{
    struct bitmap *set = NULL;
    struct bitmap *head = NULL;
    assert_int_equal(filter_segment(filter, &f->view, 0, &set, NULL), KITH_OK);
    assert_int_equal(filter_head(filter, &f->view, 0, &head, NULL), KITH_OK);
    for (uint32_t row = 0; row < ROWS; row++) {
        bool live = f->part.deleted == NULL || !bitmap_contains(f->part.deleted, row);
        bool match = filter_doc(filter, NULL, &f->segment.ids[row],
                                testing_bytes(&f->segment.payloads[row]));
        if (bitmap_contains(set, row) != (live && match))
            fail_msg("row %u: the set says %d, the payload %d", row, bitmap_contains(set, row),
                     match);
        assert_int_equal(bitmap_contains(head, row), row % 5 != 0 && match);
    }
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
    for (int data = 0; data < 60; data++) {
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
    print_message("%ld of 12060 filters told rows apart\n", telling);
    assert_true(telling > 2000);
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
        assert_int_equal(filter_segment(&filter, &f.view, 0, &set, NULL), KITH_OK);
        if (payloads_read != 0)
            fail_msg("%s read %ld payloads", free_of_payloads[i], payloads_read);
        bitmap_free(set);
    }
    fixture_close(&f);
    kith_buf_fini(&buf);
}

static void test_filter_set_survives_each_oom(void **state)
{
    (void)state;
    static struct fixture f;
    struct kith_buf buf = {0};
    fixture_open(&f, 1);
    for (int round = 0; round < 150; round++) {
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
            enum kith_err err = filter_segment(&filter, &f.view, 0, &set, NULL);
            if (err == KITH_OK)
                err = filter_head(&filter, &f.view, 0, &head, NULL);
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
    testing_start();
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_filter_set_agrees_with_payloads),
        cmocka_unit_test(test_filter_set_reads_no_payload_it_can_avoid),
        cmocka_unit_test(test_filter_set_survives_each_oom),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
