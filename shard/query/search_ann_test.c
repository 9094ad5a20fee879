/* Search by real indexes over the real store: sealed and merged segments, heads, deletes, filters
 * over columns, against a model. */
#include "shard/query/search.h"

#include <float.h>
#include <math.h>
#include <stdatomic.h>

#include "shard/index/faiss_build.h"
#include "shard/index/ivf_build.h"
#include "shard/index/kernels.h"
#include "shard/index/sketch.h"
#include "shard/index/topk.h"
#include "shard/query/context_testing.h"
#include "shard/query/select.h"
#include "shard/storage/store_testing.h"

#define WIDE     16u /* dimensions */
#define IDS      3000u
#define CLUSTERS 20u
#define QUERIES  60u
#define K        10u
#define ROWS_MIN 100u /* of a segment with an index */

/* Lists are taken whatever they cost: these sets are too small for them to pay. */
static const struct ivf_effort effort = {.reach = 2.0f, .margin = 4.0f, .first_lists = 8};

static int set_up(void **state)
{
    (void)random_set_up(state);
    return context_open(2);
}

struct model {
    struct slice_config config;
    struct io *io;
    struct ivf_builder *builder;
    struct faiss_builder *faiss; /* not NULL: instead */
    struct store *store;
    float centers[CLUSTERS][WIDE];
    float vectors[IDS][WIDE]; /* as stored */
    bool live[IDS];
};

static uint32_t group_of(uint32_t id)
{
    return id * 2654435761u >> 20 & 63;
}

static void new_vector(struct model *m, float *out)
{
    const float *center = m->centers[random_below(CLUSTERS)];
    float square = 0;
    for (uint32_t i = 0; i < WIDE; i++) {
        out[i] = center[i] + 0.3f * random_unit();
        square += out[i] * out[i];
    }
    for (uint32_t i = 0; i < WIDE && m->config.metric == KITH_COSINE; i++)
        out[i] /= sqrtf(square);
}

static void add_put(struct model *m, struct kith_writer *w, uint32_t id)
{
    struct kith_buf payload = {0};
    struct kith_writer p = test_writer(&payload);
    struct kith_id key = kith_id_number(id);
    new_vector(m, m->vectors[id]);
    m->live[id] = true;
    kith_write_map(&p, 1);
    kith_write_cstr(&p, "g");
    kith_write_u64(&p, group_of(id));
    kith_op_write_put(w, KITH_PUT_UPSERT, &key, m->vectors[id], WIDE,
                      (struct kith_bytes){payload.data, payload.len});
    kith_buf_fini(&payload);
}

static void write_some(struct model *m, uint32_t first, uint32_t n, bool also_delete)
{
    struct kith_buf ops = {0};
    struct kith_writer w = test_writer(&ops);
    kith_write_array(&w, n);
    for (uint32_t id = first; id < first + n; id++) {
        if (also_delete && random_below(2) == 0) {
            test_delete(&w, id);
            m->live[id] = false;
        } else {
            add_put(m, &w, id);
        }
    }
    assert_int_equal(test_write(m->store, &ops).err, KITH_OK);
    kith_buf_fini(&ops);
}

static void maintain(struct model *m)
{
    for (bool worked = true; worked;)
        assert_int_equal(store_maintain(m->store, &worked, NULL), KITH_OK);
}

static enum codebook_codes codes_of(const struct model *m)
{
    return m->config.metric == KITH_MANHATTAN ? CODEBOOK_INT8 : CODEBOOK_PQ4;
}

static void train(struct model *m)
{
    static float sample[IDS][WIDE];
    for (uint32_t i = 0; i < IDS; i++)
        new_vector(m, sample[i]);
    struct codebook_training training = {.config = &m->config,
                                         .codes = codes_of(m),
                                         .rows = &sample[0][0],
                                         .n_rows = IDS,
                                         .collection_rows = IDS,
                                         .n_lists = 40,
                                         .generation = 1,
                                         .threads = 1};
    struct codebook *codebook;
    assert_int_equal(codebook_train(&codebook, &training, NULL), KITH_OK);
    ivf_builder_set_codebook(m->builder, codebook);
    codebook_unref(codebook);
}

static struct store_options options_of(const struct model *m, bool background)
{
    struct store_options options = test_options(m->io);
    options.head_rows_max = m->faiss != NULL ? 1400 : 400; /* Faiss trains on more */
    options.index =
        m->faiss != NULL ? faiss_builder_hooks(m->faiss) : ivf_builder_hooks(m->builder);
    options.select = select_ids;
    options.background = background;
    return options;
}

static void open_faiss(struct model *m, const char *factory)
{
    m->config.index = KITH_INDEX_FAISS;
    (void)strcpy(m->config.factory, factory);
    const struct faiss_builder_options options = {
        .config = m->config, .min_rows = ROWS_MIN, .threads = 1};
    assert_int_equal(faiss_builder_new(&m->faiss, &options, NULL), KITH_OK);
}

/* factory NULL: lists of ours. */
static void open_model(struct model *m, enum kith_metric metric, const char *factory,
                       bool background)
{
    memset(m, 0, sizeof *m);
    m->config = test_config;
    m->config.metric = metric;
    m->config.dim = WIDE;
    for (uint32_t c = 0; c < CLUSTERS; c++)
        for (uint32_t i = 0; i < WIDE; i++)
            m->centers[c][i] = random_unit();
    const struct ivf_builder_options building = {
        .config = m->config, .codes = codes_of(m), .min_rows = ROWS_MIN, .threads = 1};
    assert_int_equal(ivf_builder_new(&m->builder, &building, NULL), KITH_OK);
    train(m);
    if (factory != NULL)
        open_faiss(m, factory);
    assert_int_equal(io_fake_new(&m->io, NULL), KITH_OK);
    struct store_options options = options_of(m, background);
    options.sketch = sketch_of;
    assert_int_equal(store_create(&options, &m->config, NULL), KITH_OK);
    assert_int_equal(store_open(&m->store, &options, NULL), KITH_OK);
    for (uint32_t id = 0; id < IDS; id += 50) {
        write_some(m, id, 50, false);
        if (!background)
            maintain(m);
    }
    for (uint32_t i = 0; i < 20; i++)
        write_some(m, random_below(IDS / 10) * 10, 10, true); /* heads, and deleted rows */
}

static void close_model(struct model *m)
{
    store_close(m->store);
    ivf_builder_free(m->builder);
    faiss_builder_free(m->faiss);
    io_fake_free(m->io);
}

static void filter_below(struct kith_filter *out, struct kith_buf *bytes, uint32_t below)
{
    context_filter(out, bytes, "range", "lt", below);
}

static int by_order(const void *a, const void *b)
{
    return topk_compare(a, b);
}

static uint32_t expected(const struct model *m, const float *query, uint32_t below,
                         struct kith_hit *hits)
{
    float unit[WIDE];
    double square = 0;
    uint32_t n = 0;
    for (uint32_t i = 0; i < WIDE; i++)
        square += (double)query[i] * (double)query[i];
    for (uint32_t i = 0; i < WIDE; i++)
        unit[i] = m->config.metric == KITH_COSINE ? (float)((double)query[i] * (1 / sqrt(square)))
                                                  : query[i];
    for (uint32_t id = 0; id < IDS; id++) {
        if (!m->live[id] || group_of(id) >= below)
            continue;
        hits[n] = (struct kith_hit){.id = kith_id_number(id)};
        kernels_scalar.scan[kernels_form_of(m->config.metric)][KERNELS_F32](
            unit, (struct kernels_rows){m->vectors[id], WIDE}, 1, &hits[n].rank);
        n++;
    }
    qsort(hits, n, sizeof *hits, by_order);
    return n;
}

/* How many of the best hits were found; everything that holds for each answer is checked. */
static uint32_t check_query(const struct model *m, const float *query, uint32_t below,
                            const struct search_hits *found, uint64_t matched)
{
    static struct kith_hit want[IDS];
    uint32_t n = expected(m, query, below, want), hits = 0;
    assert_int_equal(matched, n);
    assert_int_equal(found->n, n < K ? n : K);
    for (uint32_t i = 0; i < found->n; i++) {
        assert_true(i == 0 || topk_compare(&found->hits[i - 1], &found->hits[i]) < 0);
        bool known = false;
        for (uint32_t j = 0; !known && j < n; j++)
            if (want[j].id.lo == found->hits[i].id.lo) {
                known = true;
                /* Stored under cosine as the store rounded it. */
                assert_true(fabsf(want[j].rank - found->hits[i].rank) <=
                            1e-5f * (1 + fabsf(want[j].rank)));
                hits += j < found->n;
            }
        assert_true(known);
    }
    return hits;
}

/* Returns how it was searched. */
static struct search_explain check_recall(const struct model *m, struct view *view, uint32_t below,
                                          double least)
{
    static float queries[QUERIES][WIDE];
    struct kith_buf bytes = {0};
    struct kith_filter filter;
    struct search_result result;
    uint32_t hits = 0, wanted = 0;
    filter_below(&filter, &bytes, below);
    for (uint32_t q = 0; q < QUERIES; q++)
        new_vector((struct model *)(uintptr_t)m, queries[q]);
    struct search_part part = {.n_queries = QUERIES,
                               .k = K,
                               .vectors = (const uint8_t *)queries,
                               .filter = below < 64 ? &filter : NULL,
                               .effort = &effort};
    struct search_request request = {.views = &view, .n_views = 1, .parts = &part, .n_parts = 1};
    assert_int_equal(search_run(context, &request, &result, NULL), KITH_OK);
    for (uint32_t q = 0; q < QUERIES; q++) {
        hits += check_query(m, queries[q], below, &result.found[q], result.matched);
        wanted += result.found[q].n;
    }
    if (hits < least * wanted)
        fail_msg("metric %d %s below %u: %u of %u", m->config.metric, m->config.factory, below,
                 hits, wanted);
    struct search_explain explain = result.explain;
    search_result_fini(&result);
    kith_buf_fini(&bytes);
    return explain;
}

static const uint32_t belows[] = {64, 32, 8, 1, 0}; /* of 64 that match */

static void test_search_ann_finds_most_of_the_best(void **state)
{
    (void)state;
    static struct model m;
    static const enum kith_metric metrics[] = {KITH_COSINE, KITH_DOT, KITH_EUCLID, KITH_MANHATTAN};
    for (uint32_t metric = 0; metric < 4; metric++) {
        open_model(&m, metrics[metric], NULL, false);
        struct view *view = store_view(m.store);
        for (uint32_t b = 0; b < 5; b++) {
            struct search_explain explain = check_recall(&m, view, belows[b], 0.95);
            if (belows[b] > 0)
                assert_true(explain.segments_indexed > 0 && explain.lists.rows > 0);
        }
        view_unref(view);
        close_model(&m);
    }
}

/* The same holds of every answer; an index by Faiss serves what it was measured for. */
static void test_search_ann_finds_most_by_faiss(void **state)
{
    (void)state;
    static struct model m;
    static const char *const factories[] = {"IVF8,PQ8x4fs,RFlat", "HNSW16,Flat", "IVF8,SQ8"};
    for (uint32_t i = 0; i < 3; i++) {
        open_model(&m, (enum kith_metric)(KITH_COSINE + i), factories[i], false);
        struct view *view = store_view(m.store);
        for (uint32_t b = 0; b < 5; b++) {
            struct search_explain explain = check_recall(&m, view, belows[b], 0.93);
            bool used = explain.plan == SEARCH_PLAN_FAISS;
            assert_true(used == (explain.segments_indexed > 0));
            assert_true(used == (explain.faiss.k_factor > 0));
            assert_true(!used || explain.lists.exact >= QUERIES * K);
            assert_true(used || belows[b] < 64);
        }
        view_unref(view);
        close_model(&m);
    }
}

/* ---- searches while the store changes -------------------------------------------------------- */

struct racing {
    struct model *m;
    atomic_bool stop;
    atomic_uint wrong, searches;
};

/* On one view: as many hits as there must be, each live in it, with the rank of its vector there.
 */
static bool view_is_served(struct racing *racing, uint64_t *random)
{
    struct kith_buf bytes = {0};
    struct kith_filter filter;
    float query[WIDE];
    for (uint32_t i = 0; i < WIDE; i++)
        query[i] = (float)(kith_random(random) % 1000) / 500.0f - 1;
    uint32_t below = 1 + (uint32_t)(kith_random(random) % 64);
    filter_below(&filter, &bytes, below);
    struct view *view = store_view(racing->m->store);
    struct search_part part = {.n_queries = 1,
                               .k = K,
                               .vectors = (const uint8_t *)query,
                               .filter = &filter,
                               .effort = &effort};
    struct search_request request = {.views = &view, .n_views = 1, .parts = &part, .n_parts = 1};
    struct search_result result = {0};
    bool ok = search_run(context, &request, &result, NULL) == KITH_OK;
    ok = ok && result.found[0].n == (result.matched < K ? result.matched : K);
    for (uint32_t i = 0; ok && i < result.found[0].n; i++) {
        const struct kith_hit *hit = &result.found[0].hits[i];
        struct view_place place;
        ok = view_find(view, &hit->id, &place) && group_of((uint32_t)hit->id.lo) < below;
        if (!ok || place.in_head)
            continue;
        const struct segment *segment = view->segments[place.part].segment;
        float rank;
        kernels_scalar.scan[KERNELS_L2][KERNELS_F32](
            query, (struct kernels_rows){segment_row_data(segment, place.row, 1), WIDE}, 1, &rank);
        ok = rank == hit->rank && segment_seq(segment, place.row) == hit->seq;
    }
    search_result_fini(&result);
    view_unref(view);
    kith_buf_fini(&bytes);
    return ok;
}

static void *search_until_stopped(void *ctx)
{
    struct racing *racing = ctx;
    uint64_t random = (uint64_t)(uintptr_t)&random;
    while (!atomic_load(&racing->stop)) {
        if (!view_is_served(racing, &random))
            atomic_fetch_add(&racing->wrong, 1);
        atomic_fetch_add(&racing->searches, 1);
    }
    return NULL;
}

static void test_search_ann_races_with_writes_and_merges(void **state)
{
    (void)state;
    static struct model m;
    struct racing racing = {.m = &m};
    pthread_t threads[2];
    open_model(&m, KITH_EUCLID, NULL, true);
    for (int i = 0; i < 2; i++)
        assert_int_equal(pthread_create(&threads[i], NULL, search_until_stopped, &racing), 0);
    for (uint32_t round = 0; round < 150 || atomic_load(&racing.searches) < 100; round++)
        write_some(&m, random_below(IDS / 20) * 20, 20, true);
    atomic_store(&racing.stop, true);
    for (int i = 0; i < 2; i++)
        assert_int_equal(pthread_join(threads[i], NULL), 0);
    assert_int_equal(atomic_load(&racing.wrong), 0);
    close_model(&m);
}

static void check_each_oom(const char *factory, uint32_t below)
{
    static struct model m;
    struct kith_buf bytes = {0};
    struct kith_filter filter;
    float query[WIDE];
    open_model(&m, KITH_COSINE, factory, false);
    /* The writer may still be putting its last write away; one that was opened just now has none.
     */
    struct store_options options = options_of(&m, false);
    store_close(m.store);
    assert_int_equal(store_open(&m.store, &options, NULL), KITH_OK);
    filter_below(&filter, &bytes, below);
    new_vector(&m, query);
    struct view *view = store_view(m.store);
    struct search_part part = {.n_queries = 1,
                               .k = K,
                               .vectors = (const uint8_t *)query,
                               .filter = &filter,
                               .effort = &effort};
    struct search_request request = {.views = &view, .n_views = 1, .parts = &part, .n_parts = 1};
    context_check_each_oom(&request);
    view_unref(view);
    close_model(&m);
    kith_buf_fini(&bytes);
}

static void test_search_ann_survives_each_oom(void **state)
{
    (void)state;
    check_each_oom(NULL, 20);
    check_each_oom("IVF8,Flat", 60);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_search_ann_finds_most_of_the_best),
        cmocka_unit_test(test_search_ann_finds_most_by_faiss),
        cmocka_unit_test(test_search_ann_races_with_writes_and_merges),
        cmocka_unit_test(test_search_ann_survives_each_oom),
    };
    return cmocka_run_group_tests(tests, set_up, context_tear_down);
}
