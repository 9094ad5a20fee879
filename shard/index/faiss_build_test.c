#include "shard/index/faiss_build.h"

#include "shard/index/build_testing.h"
#include "shard/storage/segment_format.h"
#include "shard/storage/segment_writer.h"

#define DIM 32u

static struct world world;

static struct faiss_builder *new_builder(struct world *w, const char *factory)
{
    w->config.index = KITH_INDEX_FAISS;
    (void)strcpy(w->config.factory, factory);
    struct faiss_builder_options options = {.config = w->config, .min_rows = 10, .threads = 2};
    struct faiss_builder *builder;
    struct kith_diag diag = {0};
    if (faiss_builder_new(&builder, &options, &diag) != KITH_OK)
        fail_msg("%s: %s", factory, diag.text);
    return builder;
}

/* What a target finds of the K nearest, which is what it was measured for or less. */
static double recall_at(const struct world *w, const struct segment *segment,
                        const struct faiss_target *target, const float *worst)
{
    const struct faiss_segment *index = segment_index(segment);
    uint32_t fetch = target->depth * target->effort.k_factor, good = 0;
    int64_t *rows = kith_xalloc(fetch * sizeof *rows);
    float *ranks = kith_xalloc(fetch * sizeof *ranks);
    struct faiss_effort effort = target->effort;
    effort.k_factor = 0;
    for (uint32_t q = 0; q < HELD; q++) {
        const float *query = w->rows + (size_t)(w->n + q) * DIM;
        uint32_t found = 0;
        assert_int_equal(faiss_index_search(index->index, (struct blas_block){query, 1, DIM}, fetch,
                                            effort, (struct faiss_hits){rows, ranks}, NULL),
                         KITH_OK);
        for (uint32_t i = 0; i < fetch && rows[i] >= 0; i++) {
            const void *row = segment_row_data(segment, (uint32_t)rows[i], 1);
            float rank;
            kernels_scalar.scan[kernels_form_of(w->config.metric)][kernels_type_of(w->config.rows)](
                query, (struct kernels_rows){row, DIM}, 1, &rank);
            found += rank >= worst[q];
        }
        good += found < K ? found : K;
    }
    kith_free(rows);
    kith_free(ranks);
    return (double)good / HELD / K;
}

static void check_recalls(const struct world *w, const struct segment *segment)
{
    const struct faiss_segment *index = segment_index(segment);
    float worst[HELD];
    assert_non_null(index);
    for (uint32_t q = 0; q < HELD; q++)
        worst[q] = kth_rank(w, w->rows + (size_t)(w->n + q) * DIM, K);
    uint32_t n = 0;
    for (uint32_t i = 0; i < index->meta.n_targets; i++) {
        const struct faiss_target *target = &index->meta.targets[i];
        if (target->depth != K)
            continue;
        double recall = recall_at(w, segment, target, worst);
        n++;
        if (recall < (double)target->recall - 0.05)
            fail_msg("%s metric %d: recall %.3f for %.3f", w->config.factory, w->config.metric,
                     recall, (double)target->recall);
    }
    assert_true(n > 0);
    assert_non_null(faiss_segment_target(index, K, 0.9f));
    assert_null(faiss_segment_target(index, KITH_K_MAX, 0.5f));
}

static void test_faiss_build_reaches_the_recall_asked_for(void **state)
{
    (void)state;
    static const char *const factories[] = {"IVF32,PQ8x4fs,RFlat", "HNSW16,Flat",
                                            "IVF32_HNSW8,SQ4",     "OPQ8,IVF16,SQ8",
                                            "IVF24,Flat",          "HNSW8,SQ8,RFlat"};
    uint32_t next = 0;
    for (int metric = KITH_COSINE; metric <= KITH_EUCLID; metric++)
        for (uint32_t i = 0; i < TEST_SCALE(2, 1); i++, next++) {
            long before = kith_mem_live();
            make_rows(&world, (enum kith_metric)metric, DIM, 3000);
            world.n = 3000 - HELD;
            struct io *io = new_disk();
            struct faiss_builder *builder = new_builder(&world, factories[next % 6]);
            const struct segment_index_hooks *hooks = faiss_builder_hooks(builder);
            assert_int_equal(write_segment_with(&world, io, hooks, 1), KITH_OK);
            struct segment *segment = open_segment_with(&world, io, hooks, 1);
            if (next % 6 == 3) { /* OPQ: its training takes 39 * 256 rows */
                assert_null(segment_index(segment));
                assert_int_equal(hooks->wants(hooks->self, segment), INDEX_WANT_NOTHING);
            } else {
                check_recalls(&world, segment);
                assert_int_equal(hooks->wants(hooks->self, segment), INDEX_WANT_NOTHING);
            }
            segment_unref(segment);
            faiss_builder_free(builder);
            io_fake_free(io);
            assert_int_equal(kith_mem_live(), before);
        }
}

/* Rows are permuted, none is lost, and the index numbers them as the segment does. */
static void test_faiss_build_keeps_rows_and_numbers_together(void **state)
{
    (void)state;
    make_rows(&world, KITH_EUCLID, DIM, 900);
    struct io *io = new_disk();
    struct faiss_builder *builder = new_builder(&world, "Flat");
    assert_int_equal(write_segment_with(&world, io, faiss_builder_hooks(builder), 1), KITH_OK);
    struct segment *segment = open_segment_with(&world, io, faiss_builder_hooks(builder), 1);
    const struct faiss_segment *index = segment_index(segment);
    bool seen[900] = {false};
    for (uint32_t row = 0; row < world.n; row++) {
        uint32_t from = (uint32_t)segment_id(segment, row).lo; /* write_points numbers them */
        assert_false(seen[from]);
        seen[from] = true;
        assert_memory_equal(segment_row_data(segment, row, 1), row_at(&world, from),
                            segment_row_bytes(segment));
        const struct blas_block query = {world.rows + (size_t)from * DIM, 1, DIM};
        int64_t found;
        float rank;
        assert_int_equal(faiss_index_search(index->index, query, 1, (struct faiss_effort){0},
                                            (struct faiss_hits){&found, &rank}, NULL),
                         KITH_OK);
        assert_int_equal(found, row);
    }
    segment_unref(segment);
    faiss_builder_free(builder);
    io_fake_free(io);
}

/* What Faiss cannot take is noted once, not tried for ever. */
static void test_faiss_build_notes_what_cannot_be_indexed(void **state)
{
    (void)state;
    make_rows(&world, KITH_DOT, DIM, 900);
    world.config.rows = KITH_ROWS_F32;
    world.rows[500 * DIM] = 3e19f;
    struct io *io = new_disk();
    struct faiss_builder *builder = new_builder(&world, "IVF8,Flat");
    const struct segment_index_hooks *hooks = faiss_builder_hooks(builder);
    assert_int_equal(write_segment_with(&world, io, NULL, 1), KITH_OK);
    assert_int_equal(write_segment_with(&world, io, hooks, 2), KITH_OK);
    struct segment *bare = open_segment_with(&world, io, hooks, 1);
    struct segment *noted = open_segment_with(&world, io, hooks, 2);
    assert_null(segment_index(bare));
    assert_null(segment_index(noted));
    assert_int_equal(hooks->wants(hooks->self, bare), INDEX_WANT_ANY);
    assert_int_equal(hooks->wants(hooks->self, noted), INDEX_WANT_NOTHING);
    world.n = 8 * FAISS_ROWS_A_CENTROID; /* too few to hold some out */
    assert_int_equal(write_segment_with(&world, io, hooks, 3), KITH_OK);
    struct segment *small = open_segment_with(&world, io, hooks, 3);
    assert_null(segment_index(small));
    assert_int_equal(hooks->wants(hooks->self, small), INDEX_WANT_NOTHING);
    segment_unref(bare);
    segment_unref(noted);
    segment_unref(small);
    faiss_builder_free(builder);
    io_fake_free(io);
}

/* An index of another string is none, and is made again. */
static void test_faiss_build_takes_its_own_string_only(void **state)
{
    (void)state;
    make_rows(&world, KITH_COSINE, DIM, 900);
    struct io *io = new_disk();
    struct faiss_builder *one = new_builder(&world, "SQ8");
    assert_int_equal(write_segment_with(&world, io, faiss_builder_hooks(one), 1), KITH_OK);
    struct faiss_builder *other = new_builder(&world, "SQ4");
    const struct segment_index_hooks *hooks = faiss_builder_hooks(other);
    struct segment *segment = open_segment_with(&world, io, hooks, 1);
    assert_null(segment_index(segment));
    assert_int_equal(hooks->wants(hooks->self, segment), INDEX_WANT_ANY);
    segment_unref(segment);
    faiss_builder_free(one);
    faiss_builder_free(other);
    io_fake_free(io);
}

/* Every flip in the index's bytes is found before Faiss reads them. */
static void test_faiss_build_refuses_damage(void **state)
{
    (void)state;
    make_rows(&world, KITH_EUCLID, DIM, 900);
    struct io *io = new_disk();
    struct faiss_builder *builder = new_builder(&world, "IVF8,PQ4x4fs");
    const struct segment_index_hooks *hooks = faiss_builder_hooks(builder);
    assert_int_equal(write_segment_with(&world, io, hooks, 1), KITH_OK);
    struct segment *segment = open_segment_with(&world, io, hooks, 1);
    const uint8_t *base = segment_place(segment, SEGMENT_ROWS).data - SEGMENT_HEADER_BYTES;
    struct kith_bytes place = segment_place(segment, FAISS_SECTION_BYTES);
    size_t at = (size_t)(place.data - base), len = place.len;
    assert_non_null(segment_index(segment));
    segment_unref(segment);
    char path[64];
    uint8_t *bytes;
    uint64_t size;
    segment_writer_path(path, sizeof path, "s", 1);
    assert_true(io_fake_peek(io, path, &bytes, &size));
    for (uint32_t i = 0; i < TEST_SCALE(40, 10); i++) {
        size_t flipped = at + random_u32() % len;
        uint8_t was = bytes[flipped];
        bytes[flipped] = was ^ (uint8_t)(1u << random_u32() % 8);
        assert_int_equal(segment_open(&segment, io, "s", 1, &world.config, NULL), KITH_OK);
        assert_int_equal(segment_index_open(segment, hooks, NULL), KITH_CORRUPT);
        segment_unref(segment);
        bytes[flipped] = was;
    }
    faiss_builder_free(builder);
    io_fake_free(io);
}

static void test_faiss_build_stops_when_told(void **state)
{
    (void)state;
    make_rows(&world, KITH_EUCLID, DIM, 1500);
    struct faiss_builder *builder = new_builder(&world, "IVF16,PQ8x4fs");
    assert_true(stop_ever_later(&world, faiss_builder_hooks(builder), 2) > 4);
    faiss_builder_free(builder);
}

static void test_faiss_build_survives_each_oom(void **state)
{
    (void)state;
    make_rows(&world, KITH_DOT, DIM, 600);
    struct faiss_builder *builder = new_builder(&world, "IVF4,SQ8");
    const struct segment_index_hooks *hooks = faiss_builder_hooks(builder);
    fail_each_allocation(&world, hooks);
    struct io *io = new_disk();
    assert_int_equal(write_segment_with(&world, io, hooks, 1), KITH_OK);
    struct segment *segment = open_despite_oom(&world, io, hooks, 1);
    assert_non_null(segment_index(segment));
    segment_unref(segment);
    faiss_builder_free(builder);
    io_fake_free(io);
}

static void test_faiss_build_says_what_a_collection_may_have(void **state)
{
    (void)state;
    static const struct {
        const char *factory;
        uint32_t dim;
        enum kith_metric metric;
        enum kith_err err;
        const char *text;
    } cases[] = {
        {"IVF1024,PQ50x4fs,RFlat", 100, KITH_COSINE, KITH_OK, ""},
        {"HNSW32,Flat", 768, KITH_EUCLID, KITH_OK, ""},
        {"IVF256,SQ8", 4, KITH_DOT, KITH_OK, ""},
        {"IVF256,PQ7", 100, KITH_COSINE, KITH_BAD_REQUEST, "7 does not divide dimension 100"},
        {"IVF256,Quux", 100, KITH_COSINE, KITH_BAD_REQUEST, "'Quux' is not a known piece"},
        {"", 100, KITH_COSINE, KITH_BAD_REQUEST, "'' is not a known piece"},
        {"RFlat", 100, KITH_COSINE, KITH_BAD_REQUEST, ""},
        {"HNSW32,Flat", 100, KITH_MANHATTAN, KITH_UNSUPPORTED, "not for Manhattan"},
        {"IVF8192,Flat", 100, KITH_COSINE, KITH_TOO_BIG, "at most 4096 lists"},
        {"IVF4096,Flat", 1536, KITH_COSINE, KITH_TOO_BIG, "the limit is 256 MiB"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct kith_diag diag = {0};
        enum kith_err err =
            faiss_build_check(cases[i].factory, cases[i].dim, cases[i].metric, &diag);
        if (err != cases[i].err || strstr(diag.text, cases[i].text) == NULL)
            fail_msg("%s: %s: %s", cases[i].factory, kith_err_name(err), diag.text);
    }
}

static void test_faiss_build_keeps_its_format(void **state)
{
    (void)state;
    struct faiss_meta meta = {.n_rows = 7,
                              .factory = faiss_format_hash("Flat"),
                              .bytes = 99,
                              .crc = 5,
                              .n_targets = 2,
                              .targets = {{10, 0.9f, 100, {1, 0, 2}}, {10, 0.95f, 90, {2, 0, 4}}}};
    uint8_t bytes[FAISS_FORMAT_BYTES_MAX];
    struct faiss_meta got;
    size_t n = faiss_format_store(bytes, &meta);
    assert_int_equal(faiss_format_load(&got, (struct kith_bytes){bytes, n}, NULL), KITH_OK);
    assert_memory_equal(&got, &meta, sizeof meta);
    for (size_t cut = 0; cut < n; cut++)
        assert_int_equal(faiss_format_load(&got, (struct kith_bytes){bytes, cut}, NULL),
                         KITH_CORRUPT);
    meta.targets[1].recall = 0.8f; /* less than the one before */
    n = faiss_format_store(bytes, &meta);
    assert_int_equal(faiss_format_load(&got, (struct kith_bytes){bytes, n}, NULL), KITH_CORRUPT);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_faiss_build_reaches_the_recall_asked_for),
        cmocka_unit_test(test_faiss_build_keeps_rows_and_numbers_together),
        cmocka_unit_test(test_faiss_build_notes_what_cannot_be_indexed),
        cmocka_unit_test(test_faiss_build_takes_its_own_string_only),
        cmocka_unit_test(test_faiss_build_refuses_damage),
        cmocka_unit_test(test_faiss_build_stops_when_told),
        cmocka_unit_test(test_faiss_build_survives_each_oom),
        cmocka_unit_test(test_faiss_build_says_what_a_collection_may_have),
        cmocka_unit_test(test_faiss_build_keeps_its_format),
    };
    return cmocka_run_group_tests(tests, random_set_up, NULL);
}
