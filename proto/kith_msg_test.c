#include "proto/kith_msg.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <cmocka.h>

#include "proto/kith_frame.h"
#include "proto/kith_ops.h"

struct out {
    uint8_t data[16384];
    size_t len;
};

static int sink(void *ctx, const char *data, size_t len)
{
    struct out *out = ctx;
    if (len > sizeof out->data - out->len)
        return -1;
    memcpy(out->data + out->len, data, len);
    out->len += len;
    return 0;
}

static struct out out;

static struct kith_writer fresh(void)
{
    out.len = 0;
    return (struct kith_writer){.write = sink, .sink = &out};
}

static struct kith_bytes body(void)
{
    return (struct kith_bytes){out.data, out.len};
}

static const struct kith_msg_scope scope = {.collection = 7, .n_slices = 2, .slices = {0, 3}};

/* Every prefix of a good body must be refused, never read past its end. */
#define CHECK_PREFIXES(read_, type_)                                                               \
    do {                                                                                           \
        static type_ ignored;                                                                      \
        for (size_t len = 0; len < out.len; len++) {                                               \
            uint8_t *exact = malloc(len > 0 ? len : 1);                                            \
            memcpy(exact, out.data, len);                                                          \
            assert_false(read_((struct kith_bytes){exact, len}, &ignored));                        \
            free(exact);                                                                           \
        }                                                                                          \
    } while (0)

static void test_msg_requests_round_trip(void **state)
{
    (void)state;
    struct kith_writer w = fresh();
    static struct kith_msg_scope got_scope;
    kith_msg_write_scope_only(&w, &scope);
    assert_true(kith_msg_read_scope_only(body(), &got_scope));
    assert_int_equal(got_scope.collection, 7);
    assert_int_equal(got_scope.slices[1], 3);
    CHECK_PREFIXES(kith_msg_read_scope_only, struct kith_msg_scope);

    w = fresh();
    static struct kith_msg_open open, got_open;
    open = (struct kith_msg_open){scope, 100, KITH_EUCLID, KITH_ROWS_F16, KITH_INDEX_INT8, ""};
    kith_msg_write_open(&w, &open);
    assert_true(kith_msg_read_open(body(), &got_open));
    assert_int_equal(got_open.dim, 100);
    assert_int_equal(got_open.metric, KITH_EUCLID);
    assert_int_equal(got_open.rows, KITH_ROWS_F16);
    assert_int_equal(got_open.index, KITH_INDEX_INT8);
    CHECK_PREFIXES(kith_msg_read_open, struct kith_msg_open);

    w = fresh();
    static struct kith_msg_scroll scroll, got_scroll;
    scroll = (struct kith_msg_scroll){.scope = scope,
                                      .limit = 11,
                                      .has_from = true,
                                      .from = kith_id_number(5),
                                      .order_key = {(const uint8_t *)"price", 5},
                                      .descending = true,
                                      .with_vector = true};
    kith_msg_write_scroll(&w, &scroll);
    assert_true(kith_msg_read_scroll(body(), &got_scroll));
    assert_true(kith_bytes_equal(got_scroll.order_key, "price"));
    assert_true(got_scroll.has_from && got_scroll.descending && got_scroll.with_vector);
    assert_int_equal(got_scroll.limit, 11);
    assert_int_equal(got_scroll.filter.len, 0);
    CHECK_PREFIXES(kith_msg_read_scroll, struct kith_msg_scroll);

    w = fresh();
    static struct kith_msg_facet facet, got_facet;
    facet = (struct kith_msg_facet){.scope = scope, .key = {(const uint8_t *)"tag", 3}};
    kith_msg_write_facet(&w, &facet);
    assert_true(kith_msg_read_facet(body(), &got_facet));
    CHECK_PREFIXES(kith_msg_read_facet, struct kith_msg_facet);
}

static void test_msg_search_round_trips(void **state)
{
    (void)state;
    struct kith_writer w = fresh();
    float vectors[] = {1, 2, 3, 4};
    struct kith_msg_search_part part = {.n_queries = 2,
                                        .vectors = {(const uint8_t *)vectors, sizeof vectors},
                                        .k = 10,
                                        .has_threshold = true,
                                        .threshold = 0.5f};
    kith_msg_write_search(&w, &scope, 2, 1);
    kith_msg_write_search_part(&w, &part, 2);
    static struct kith_msg_search search;
    struct kith_msg_search_part got;
    assert_true(kith_msg_read_search(body(), &search));
    struct kith_cursor parts = kith_cursor_of(search.parts.data, search.parts.len);
    assert_true(kith_msg_search_next(&parts, search.dim, &got));
    assert_true(kith_cursor_done(&parts));
    assert_int_equal(got.n_queries, 2);
    assert_memory_equal(got.vectors.data, vectors, sizeof vectors);
    assert_true(got.has_threshold && got.threshold > 0.49f);
    assert_int_equal(got.filter.len, 0);

    /* A vector of another size than dim says is refused. */
    parts = kith_cursor_of(search.parts.data, search.parts.len);
    assert_false(kith_msg_search_next(&parts, 3, &got));
}

static void test_msg_search_says_how_hard(void **state)
{
    (void)state;
    struct kith_writer w = fresh();
    float vector[] = {1, 2};
    struct kith_msg_search_part got, part = {.n_queries = 1,
                                             .vectors = {(const uint8_t *)vector, sizeof vector},
                                             .k = 10,
                                             .indexed_only = true,
                                             .explain = true,
                                             .no_rescore = true,
                                             .recall = 0.75f,
                                             .margin = INFINITY};
    kith_msg_write_search(&w, &scope, 2, 2);
    kith_msg_write_search_part(&w, &part, 2);
    /* A newer node's part: more values, and a flag nobody here knows. */
    kith_write_array(&w, 10);
    kith_write_u64(&w, 1);
    kith_write_bin(&w, vector, sizeof vector);
    kith_write_u64(&w, 10);
    kith_write_nil(&w);
    kith_write_nil(&w);
    kith_write_u64(&w, 1 | 1u << 20);
    kith_write_f32(&w, 0);
    kith_write_f32(&w, 2);
    kith_write_array(&w, 1);
    kith_write_nil(&w);
    kith_write_nil(&w);
    static struct kith_msg_search search;
    assert_true(kith_msg_read_search(body(), &search));
    struct kith_cursor parts = kith_cursor_of(search.parts.data, search.parts.len);
    assert_true(kith_msg_search_next(&parts, search.dim, &got));
    assert_true(!got.exact && got.indexed_only && got.explain && got.no_rescore);
    assert_true(got.recall == 0.75f && got.margin > 1e38f);
    assert_true(kith_msg_search_next(&parts, search.dim, &got));
    assert_true(got.exact && !got.indexed_only && !got.explain && !got.no_rescore);
    assert_true(got.recall == 0 && got.margin == 2);
    assert_true(kith_cursor_done(&parts));

    static const float bad[][2] = {{-0.5f, 0}, {1.5f, 0}, {NAN, 0}, {0.5f, 0.5f}, {0.5f, NAN}};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        w = fresh();
        part = (struct kith_msg_search_part){.n_queries = 1,
                                             .vectors = {(const uint8_t *)vector, sizeof vector},
                                             .exact = true,
                                             .recall = bad[i][0],
                                             .margin = bad[i][1]};
        kith_msg_write_search_part(&w, &part, 2);
        parts = kith_cursor_of(out.data, out.len);
        assert_false(kith_msg_search_next(&parts, 2, &got));
    }
}

static struct kith_msg_slices two_slices(void)
{
    static const char why[] = "late";
    struct kith_msg_slices slices = {.n_slices = 2};
    slices.slices[0] = (struct kith_msg_slice){.slice = 0, .points = 100, .seq = 9};
    slices.slices[1] = (struct kith_msg_slice){
        .slice = 3, .err = KITH_TIMEOUT, .detail = {(const uint8_t *)why, 4}};
    return slices;
}

static void test_msg_found_round_trips_many_hits(void **state)
{
    (void)state;
    static struct kith_msg_slices slices;
    static struct kith_msg_found found;
    struct kith_hit hits[200];
    for (uint32_t i = 0; i < 200; i++)
        hits[i] = (struct kith_hit){kith_id_number(i), (float)(200 - i), i + 1};
    slices = two_slices();
    struct kith_writer w = fresh();
    kith_msg_write_found(&w, &slices, 1);
    kith_msg_write_found_part(&w, 1234, 2);
    assert_int_equal(kith_msg_write_found_hits(&w, hits, 3), KITH_OK);
    assert_int_equal(kith_msg_write_found_hits(&w, hits, 200), KITH_OK);
    struct kith_msg_explain explain = {.plan = {(const uint8_t *)"lists_masked", 12},
                                       .fell_back = 2,
                                       .recall = 0.5f,
                                       .rows = 1u << 20,
                                       .reranked_exactly = 77,
                                       .ns = 123456789};
    kith_msg_write_found_explains(&w, 1);
    kith_msg_write_found_explain(&w, &explain);

    assert_true(kith_msg_read_found(body(), &found));
    assert_int_equal(found.slices.slices[1].err, KITH_TIMEOUT);
    assert_true(kith_bytes_equal(found.slices.slices[1].detail, "late"));
    uint64_t matched;
    uint32_t n_queries, n;
    struct kith_bytes packed;
    struct kith_hit hit;
    assert_true(kith_msg_found_part(&found.parts, &matched, &n_queries));
    assert_int_equal(matched, 1234);
    assert_int_equal(n_queries, 2);
    assert_true(kith_msg_found_hits(&found.parts, &packed, &n) && n == 3);
    assert_true(kith_msg_found_hits(&found.parts, &packed, &n) && n == 200);
    assert_true(kith_hit_unpack(packed.data + 199 * KITH_HIT_BYTES, &hit));
    assert_int_equal(hit.id.lo, 199);
    assert_true(hit.rank > 0.5f && hit.rank < 1.5f);
    assert_true(found.has_explains && kith_msg_found_explains(&found.parts, &n) && n == 1);
    struct kith_msg_explain got;
    assert_true(kith_msg_found_explain(&found.parts, &got));
    assert_true(kith_bytes_equal(got.plan, "lists_masked") && got.recall == 0.5f);
    assert_int_equal(got.fell_back, 2);
    assert_int_equal(got.rows, 1u << 20);
    assert_int_equal(got.reranked_exactly, 77);
    assert_int_equal(got.ns, 123456789);
    assert_true(kith_cursor_done(&found.parts));

    uint8_t bad[KITH_HIT_BYTES];
    memcpy(bad, packed.data, sizeof bad);
    memcpy(bad + KITH_ID_WIRE_BYTES, &(uint32_t){0x7fc00000}, 4);
    assert_false(kith_hit_unpack(bad, &hit));
}

static void test_msg_memories_round_trip(void **state)
{
    (void)state;
    static struct kith_msg_memories msg, got;
    msg = (struct kith_msg_memories){.slices = two_slices(),
                                     .n_sections = 2,
                                     .sections = {{{(const uint8_t *)"rows", 4}, 1, 2, 3, 4},
                                                  {{(const uint8_t *)"wal", 3}, 5, 6, 7, 8}},
                                     .lock_budget = 1ull << 40,
                                     .locked = 9,
                                     .lock_refused = true};
    struct kith_writer w = fresh();
    kith_msg_write_memories(&w, &msg);
    assert_true(kith_msg_read_memories(body(), &got));
    assert_int_equal(got.n_sections, 2);
    assert_true(kith_bytes_equal(got.sections[1].name, "wal"));
    assert_int_equal(got.sections[1].file, 5);
    assert_int_equal(got.sections[1].locked, 8);
    assert_true(got.lock_refused && got.lock_budget == 1ull << 40 && got.locked == 9);
    CHECK_PREFIXES(kith_msg_read_memories, struct kith_msg_memories);
}

static void test_msg_codebooks_round_trip(void **state)
{
    (void)state;
    static struct kith_msg_codebook asked, got_asked;
    static struct kith_msg_codebooked msg, got;
    asked = (struct kith_msg_codebook){scope, UINT64_MAX, 1ull << 33};
    struct kith_writer w = fresh();
    kith_msg_write_codebook(&w, &asked);
    assert_true(kith_msg_read_codebook(body(), &got_asked));
    assert_true(got_asked.hash == UINT64_MAX && got_asked.offset == 1ull << 33);
    CHECK_PREFIXES(kith_msg_read_codebook, struct kith_msg_codebook);

    msg = (struct kith_msg_codebooked){.slices = two_slices(),
                                       .generation = 3,
                                       .hash = 99,
                                       .bytes = KITH_CODEBOOK_MAX,
                                       .energy = 0.5f,
                                       .energy_rows = 7,
                                       .piece = {(const uint8_t *)"piece", 5}};
    w = fresh();
    kith_msg_write_codebooked(&w, &msg);
    assert_true(kith_msg_read_codebooked(body(), &got));
    assert_int_equal(got.generation, 3);
    assert_true(got.hash == 99 && got.bytes == KITH_CODEBOOK_MAX && got.energy_rows == 7);
    assert_true(got.energy == 0.5f && kith_bytes_equal(got.piece, "piece"));
    assert_int_equal(got.slices.slices[1].err, KITH_TIMEOUT);
    CHECK_PREFIXES(kith_msg_read_codebooked, struct kith_msg_codebooked);

    struct kith_msg_codebooked bad[4] = {msg, msg, msg, msg};
    bad[0].bytes = (uint64_t)KITH_CODEBOOK_MAX + 1;
    bad[1].energy = NAN;
    bad[2].energy = -1.0f;
    bad[3].generation = 0; /* of a codebook that has bytes */
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        w = fresh();
        kith_msg_write_codebooked(&w, &bad[i]);
        assert_false(kith_msg_read_codebooked(body(), &got));
    }
}

static void test_msg_samples_round_trip(void **state)
{
    (void)state;
    static const float rows[] = {1, 2, 3, 4, 5, 6};
    static struct kith_msg_sample asked, got_asked;
    static struct kith_msg_sampled msg, got;
    asked = (struct kith_msg_sample){scope, 1000, 2, 3, UINT64_MAX};
    struct kith_writer w = fresh();
    kith_msg_write_sample(&w, &asked);
    assert_true(kith_msg_read_sample(body(), &got_asked));
    assert_int_equal(got_asked.n_rows, 1000);
    assert_true(got_asked.part == 2 && got_asked.n_parts == 3 && got_asked.seed == UINT64_MAX);
    CHECK_PREFIXES(kith_msg_read_sample, struct kith_msg_sample);
    static const uint32_t bad_parts[][2] = {{3, 3}, {0, 0}, {0, KITH_SAMPLE_PARTS + 1}};
    for (size_t i = 0; i < sizeof bad_parts / sizeof *bad_parts; i++) {
        w = fresh();
        asked.part = bad_parts[i][0];
        asked.n_parts = bad_parts[i][1];
        kith_msg_write_sample(&w, &asked);
        assert_false(kith_msg_read_sample(body(), &got_asked));
    }

    static const struct {
        uint32_t dim;
        bool good;
    } dims[] = {{3, true}, {2, true}, {4, false}, {0, false}, {KITH_DIM_MAX + 1, false}};
    for (size_t i = 0; i < sizeof dims / sizeof *dims; i++) {
        w = fresh();
        msg = (struct kith_msg_sampled){
            two_slices(), dims[i].dim, {(const uint8_t *)rows, sizeof rows}};
        kith_msg_write_sampled(&w, &msg);
        assert_int_equal(kith_msg_read_sampled(body(), &got), dims[i].good);
        if (dims[i].good)
            assert_memory_equal(got.rows.data, rows, sizeof rows);
        CHECK_PREFIXES(kith_msg_read_sampled, struct kith_msg_sampled);
    }
}

static void test_msg_records_facets_infos_round_trip(void **state)
{
    (void)state;
    static struct kith_msg_slices slices;
    slices = two_slices();
    struct kith_writer w = fresh();
    struct kith_record record = {.id = kith_id_number(1),
                                 .seq = 4,
                                 .payload = {(const uint8_t *)"\x80", 1}},
                       got;
    kith_msg_write_records(&w, &slices, 1);
    kith_msg_write_record(&w, &record);
    static struct kith_msg_records records;
    assert_true(kith_msg_read_records(body(), &records));
    assert_true(kith_msg_records_next(&records.records, &got));
    assert_int_equal(got.payload.len, 1);
    assert_int_equal(got.vector.len, 0);

    w = fresh();
    static struct kith_msg_facets facets;
    struct kith_bytes value;
    uint64_t count;
    kith_msg_write_facets(&w, &slices, 1);
    kith_msg_write_facet_hit(&w, (struct kith_bytes){(const uint8_t *)"\xa1x", 2}, 5);
    assert_true(kith_msg_read_facets(body(), &facets));
    assert_true(kith_msg_facets_next(&facets.hits, &value, &count));
    assert_int_equal(count, 5);
    assert_int_equal(value.len, 2);

    w = fresh();
    static struct kith_msg_info_slice info[2];
    static struct kith_msg_infos infos;
    info[1].live_points = 77;
    info[1].indexed_points = 70;
    info[1].busy = true;
    info[1].phase = KITH_INDEX_BUILDING;
    info[1].generation = 3;
    info[1].n_lists = 400;
    kith_msg_write_infos(&w, &slices, info, 1);
    struct kith_msg_info_field field = {
        .path = {(const uint8_t *)"del", 3}, .types = 2, .points = 6};
    kith_msg_write_info_field(&w, &field);
    struct kith_msg_info_recall recall = {
        {(const uint8_t *)"lists", 5}, {(const uint8_t *)"0.01", 4}, 12, 0.5f};
    uint32_t n_recalls = 0;
    kith_msg_write_info_recalls(&w, 1);
    kith_msg_write_info_recall(&w, &recall);
    assert_true(kith_msg_read_infos(body(), &infos));
    assert_int_equal(infos.info[1].live_points, 77);
    assert_memory_equal(&infos.info[1], &info[1], sizeof info[1]);
    assert_true(kith_msg_infos_next(&infos.fields, &field));
    assert_int_equal(field.types, 2);
    memset(&recall, 0, sizeof recall);
    assert_true(infos.has_recalls && kith_msg_info_recalls(&infos.fields, &n_recalls));
    assert_true(n_recalls == 1 && kith_msg_info_recall(&infos.fields, &recall));
    assert_true(kith_bytes_equal(recall.share, "0.01") && recall.queries == 12);
    assert_true(recall.recall == 0.5f && kith_cursor_done(&infos.fields));
}

static void test_ops_round_trip_and_prefixes_fail(void **state)
{
    (void)state;
    struct kith_writer w = fresh();
    float vector[] = {1, 2};
    struct kith_id id = kith_id_number(9);
    static const uint8_t map[] = {0x81, 0xa1, 'a', 0x01};
    kith_write_array(&w, 4);
    kith_op_write_put(&w, KITH_PUT_UPSERT, &id, vector, 2, (struct kith_bytes){map, sizeof map});
    kith_op_write_vector(&w, &id, vector, 2);
    kith_op_write_head(&w, KITH_OP_DELETE);
    kith_write_array(&w, 1);
    kith_write_id(&w, &id);
    kith_op_write_head(&w, KITH_OP_REMOVE);
    kith_write_raw(&w, map, sizeof map); /* a filter, as far as this layer knows */
    kith_write_array(&w, 1);
    kith_write_cstr(&w, "a");

    struct kith_ops_reader reader;
    struct kith_op op;
    assert_true(kith_ops_begin(&reader, body()));
    assert_true(kith_ops_next(&reader, &op) && op.kind == KITH_OP_PUT);
    assert_int_equal(op.vector.len, 8);
    assert_int_equal(op.payload.len, sizeof map);
    assert_true(kith_ops_next(&reader, &op) && op.kind == KITH_OP_VECTOR);
    assert_true(kith_ops_next(&reader, &op) && op.kind == KITH_OP_DELETE && op.target.n_ids == 1);
    assert_true(kith_ops_next(&reader, &op) && op.target.by_filter && op.n_keys == 1);
    assert_false(kith_ops_next(&reader, &op));
    assert_int_equal(reader.cursor.err, KITH_OK);

    for (size_t len = 1; len < out.len; len++) {
        if (!kith_ops_begin(&reader, (struct kith_bytes){out.data, len}))
            continue;
        while (kith_ops_next(&reader, &op)) {
        }
        assert_int_equal(reader.cursor.err, KITH_PROTOCOL);
    }
}

static void hex(const uint8_t *bytes, size_t len, char *text)
{
    for (size_t i = 0; i < len; i++)
        (void)snprintf(text + 2 * i, 3, "%02x", bytes[i]);
}

/* These bytes are a promise to nodes of other releases. A change needs a new KITH_FRAME_VERSION,
 * not a new string here. */
static void test_frame_golden(void **state)
{
    (void)state;
    struct kith_frame header = {.cluster = 0x1122334455667788,
                                .request = 42,
                                .deadline_ms = 2000,
                                .message = KITH_MSG_COUNT};
    static struct kith_msg_count msg;
    msg = (struct kith_msg_count){.scope = scope};
    struct kith_writer w = fresh();
    uint8_t space[KITH_FRAME_HEADER_BYTES] = {0};
    kith_write_raw(&w, space, sizeof space);
    kith_msg_write_count(&w, &msg);
    kith_frame_seal(out.data, out.len, &header);
    char text[200];
    hex(out.data, out.len, text);
    assert_string_equal(
        text, "65fd647f22eb2de488776655443322112a0000000000000006000000d007000001000e0000000000"
              "9307920003c0");

    /* A search as most are, and one that says how hard. */
    static const float vector[2] = {1, -2};
    struct kith_msg_search_part part = {
        .n_queries = 1, .vectors = {(const uint8_t *)vector, sizeof vector}, .k = 10};
    w = fresh();
    kith_msg_write_search(&w, &scope, 2, 2);
    kith_msg_write_search_part(&w, &part, 2);
    part.exact = part.explain = true;
    part.recall = 0.5f;
    part.margin = 2;
    kith_msg_write_search_part(&w, &part, 2);
    hex(out.data, out.len, text);
    assert_string_equal(text, "940792000302929501c4080000803f000000c00ac0c09801c4080000803f"
                              "000000c00ac0c005ca3f000000ca40000000");
}

static void test_frame_any_flipped_bit_is_found(void **state)
{
    (void)state;
    struct kith_frame header = {.cluster = 5, .request = 42, .message = KITH_MSG_PING}, got;
    uint8_t frame[KITH_FRAME_HEADER_BYTES + 33] = {0};
    kith_frame_seal(frame, sizeof frame, &header);
    struct kith_diag diag;
    assert_int_equal(kith_frame_open(frame, sizeof frame, 5, &got, &diag), KITH_OK);
    assert_int_equal(got.request, 42);
    assert_int_equal(got.message, KITH_MSG_PING);
    assert_int_equal(kith_frame_open(frame, sizeof frame, 6, &got, &diag), KITH_PROTOCOL);
    assert_non_null(strstr(diag.text, "cluster"));
    assert_int_equal(kith_frame_open(frame, sizeof frame - 1, 5, &got, &diag), KITH_PROTOCOL);
    assert_int_equal(kith_frame_open(frame, 39, 5, &got, &diag), KITH_PROTOCOL);
    for (size_t bit = 0; bit < sizeof frame * 8; bit++) {
        frame[bit / 8] ^= (uint8_t)(1u << bit % 8);
        assert_int_equal(kith_frame_open(frame, sizeof frame, 5, &got, NULL), KITH_PROTOCOL);
        frame[bit / 8] ^= (uint8_t)(1u << bit % 8);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_msg_requests_round_trip),
        cmocka_unit_test(test_msg_search_round_trips),
        cmocka_unit_test(test_msg_search_says_how_hard),
        cmocka_unit_test(test_msg_found_round_trips_many_hits),
        cmocka_unit_test(test_msg_memories_round_trip),
        cmocka_unit_test(test_msg_codebooks_round_trip),
        cmocka_unit_test(test_msg_samples_round_trip),
        cmocka_unit_test(test_msg_records_facets_infos_round_trip),
        cmocka_unit_test(test_ops_round_trip_and_prefixes_fail),
        cmocka_unit_test(test_frame_golden),
        cmocka_unit_test(test_frame_any_flipped_bit_is_found),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
