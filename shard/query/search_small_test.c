/* Segments too small to measure an effort of their own, and heads at rest, over the real store:
 * they are searched by their lists, and the recall asked for is reached. */
#include "shard/query/search.h"

#include <math.h>

#include "shard/index/ivf_build.h"
#include "shard/index/kernels.h"
#include "shard/index/topk.h"
#include "shard/query/context_testing.h"
#include "shard/storage/store_testing.h"

#define WIDE     64u
#define LARGE    6000u /* rows of the segment that is measured */
#define SMALL    4160u /* just IVF_PAYS_BYTES */
#define TINY     1000u /* not worth a segment */
#define ROWS     (LARGE + SMALL + TINY)
#define CLUSTERS 50u
#define QUERIES  200u
#define K        10u
#define LISTS    64u
#define LEANING  0.04 /* of queries that the centres were trained on: ivf_build_test.c */

static float rows[ROWS][WIDE], centers[CLUSTERS][WIDE];

static int set_up(void **state)
{
    (void)random_set_up(state);
    return context_open(1);
}

static void new_vector(float *out)
{
    const float *center = centers[random_below(CLUSTERS)];
    float square = 0;
    for (uint32_t i = 0; i < WIDE; i++) {
        out[i] = center[i] + 0.5f * random_unit();
        square += out[i] * out[i];
    }
    for (uint32_t i = 0; i < WIDE; i++)
        out[i] /= sqrtf(square);
}

static void write_rows(struct store *store, uint32_t first, uint32_t n)
{
    struct kith_buf ops = {0};
    struct kith_writer w = test_writer(&ops);
    kith_write_array(&w, n);
    for (uint32_t i = first; i < first + n; i++) {
        struct kith_id id = kith_id_number(i);
        new_vector(rows[i]);
        kith_op_write_put(&w, KITH_PUT_UPSERT, &id, rows[i], WIDE, (struct kith_bytes){0});
    }
    assert_int_equal(test_write(store, &ops).err, KITH_OK);
    kith_buf_fini(&ops);
}

static struct codebook *train(const struct slice_config *config)
{
    static float sample[LARGE][WIDE];
    for (uint32_t i = 0; i < LARGE; i++)
        new_vector(sample[i]);
    struct codebook_training training = {.config = config,
                                         .codes = CODEBOOK_PQ4,
                                         .rows = &sample[0][0],
                                         .n_rows = LARGE,
                                         .collection_rows = LARGE,
                                         .n_lists = LISTS,
                                         .generation = 1,
                                         .threads = 1};
    struct codebook *codebook;
    assert_int_equal(codebook_train(&codebook, &training, NULL), KITH_OK);
    return codebook;
}

static float kth_rank(const float *query)
{
    static float ranks[ROWS];
    struct kith_hit hits[K];
    struct topk top;
    topk_init(&top, K, -INFINITY, hits);
    kernels_scalar.scan[KERNELS_IP][KERNELS_F32](query, (struct kernels_rows){&rows[0][0], WIDE},
                                                 ROWS, ranks);
    for (uint32_t i = 0; i < ROWS; i++)
        (void)topk_push(&top, &(struct kith_hit){.id = kith_id_number(i), .rank = ranks[i]});
    return hits[0].rank; /* a heap, the worst first */
}

static void check_recall(struct view *view, const struct ivf *const *indexes, uint32_t n,
                         float recall)
{
    float vectors[QUERIES][WIDE];
    /* What the planner takes, whatever lists cost on this machine just now. */
    const struct ivf_target target = ivf_target_for(indexes, n, recall, IVF_TARGET_HITS);
    struct search_part part = {.n_queries = QUERIES,
                               .k = K,
                               .vectors = (const uint8_t *)vectors,
                               .effort = &target.effort};
    struct search_request request = {.views = &view, .n_views = 1, .parts = &part, .n_parts = 1};
    struct search_result result;
    uint32_t found = 0;
    for (uint32_t q = 0; q < QUERIES; q++)
        new_vector(vectors[q]);
    assert_int_equal(search_run(context, &request, &result, NULL), KITH_OK);
    for (uint32_t q = 0; q < QUERIES; q++) {
        float worst = kth_rank(vectors[q]) - 1e-6f;
        assert_int_equal(result.found[q].n, K);
        for (uint32_t i = 0; i < K; i++)
            found += result.found[q].hits[i].rank >= worst;
    }
    assert_int_equal(result.explain.segments_indexed, n);
    assert_int_equal(result.explain.segments_plain, 0);
    assert_int_equal(result.explain.rows, QUERIES * TINY); /* those of the head, one by one */
    assert_int_equal(result.explain.fell_back, 0);
    search_result_fini(&result);
    double got = (double)found / (QUERIES * K);
    if (got < (double)recall - LEANING)
        fail_msg("recall %.3f for %.3f", got, (double)recall);
}

static void rest(struct store *store, bool seals)
{
    bool did;
    assert_int_equal(store_rest(store, &did, NULL), KITH_OK);
    assert_int_equal(did, seals);
}

static void test_search_small_reaches_the_recall_in_what_it_took_over(void **state)
{
    (void)state;
    struct slice_config config = test_config;
    config.metric = KITH_COSINE;
    config.dim = WIDE;
    for (uint32_t c = 0; c < CLUSTERS; c++)
        for (uint32_t i = 0; i < WIDE; i++)
            centers[c][i] = random_unit();
    const struct ivf_builder_options building = {
        .config = config, .codes = CODEBOOK_PQ4, .threads = 1};
    struct ivf_builder *builder;
    struct io *io;
    struct store *store;
    struct codebook *codebook = train(&config);
    assert_int_equal(ivf_builder_new(&builder, &building, NULL), KITH_OK);
    assert_int_equal(io_fake_new(&io, NULL), KITH_OK);
    struct store_options options = test_options(io);
    options.head_rows_max = ROWS;
    options.index = ivf_builder_hooks(builder);
    assert_int_equal(store_create(&options, &config, NULL), KITH_OK);
    assert_int_equal(store_open(&store, &options, NULL), KITH_OK);
    write_rows(store, 0, LARGE);
    rest(store, false); /* there is no codebook */
    ivf_builder_set_codebook(builder, codebook);
    rest(store, true);
    write_rows(store, LARGE, SMALL);
    rest(store, true);
    write_rows(store, LARGE + SMALL, TINY);
    rest(store, false);
    struct view *view = store_view(store);
    const struct ivf *indexes[2];
    assert_int_equal(view->n_segments, 2);
    for (uint32_t i = 0; i < 2; i++) {
        indexes[i] = segment_index(view->segments[i].segment);
        assert_non_null(indexes[i]);
        assert_int_equal(indexes[i]->measured_rows, LARGE);
    }
    check_recall(view, indexes, 2, 0.9f);
    check_recall(view, indexes, 2, 0.95f);
    check_recall(view, indexes, 2, 0.98f);
    view_unref(view);
    store_close(store);
    codebook_unref(codebook);
    ivf_builder_free(builder);
    io_fake_free(io);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_search_small_reaches_the_recall_in_what_it_took_over),
    };
    return cmocka_run_group_tests(tests, set_up, context_tear_down);
}
