/* Search over the real store: heads, sealed and merged segments, deletes, filters over columns. */
#include "shard/query/search.h"

#include <float.h>
#include <stdatomic.h>

#include "shard/index/kernels.h"
#include "shard/index/sketch.h"
#include "shard/index/topk.h"
#include "shard/query/context_testing.h"
#include "shard/storage/store_testing.h"

#define STORES 2u
#define IDS    600u

static int set_up(void **state)
{
    (void)random_set_up(state);
    return context_open(2);
}

/* ---- one thread, against a model ------------------------------------------------------------- */

struct model {
    struct io *io[STORES];
    struct store *stores[STORES];
    struct slice_config config;
    uint64_t versions[IDS]; /* 0: not there */
    uint64_t next_version;
};

static void open_model(struct model *m, enum kith_metric metric)
{
    memset(m, 0, sizeof *m);
    m->config = test_config;
    m->config.metric = metric;
    for (uint32_t s = 0; s < STORES; s++) {
        assert_int_equal(io_fake_new(&m->io[s], NULL), KITH_OK);
        struct store_options options = test_options(m->io[s]);
        options.sketch = s == 0 ? sketch_of : NULL;
        assert_int_equal(store_create(&options, &m->config, NULL), KITH_OK);
        assert_int_equal(store_open(&m->stores[s], &options, NULL), KITH_OK);
    }
}

static void close_model(struct model *m)
{
    for (uint32_t s = 0; s < STORES; s++) {
        store_close(m->stores[s]);
        io_fake_free(m->io[s]);
    }
}

static void change(struct model *m)
{
    uint32_t s = random_below(STORES), n = 1 + random_below(20);
    struct kith_buf ops = {0};
    struct kith_writer w = test_writer(&ops);
    kith_write_array(&w, n);
    for (uint32_t i = 0; i < n; i++) {
        uint32_t id = random_below(IDS / STORES) * STORES + s;
        if (random_below(3) == 0) {
            test_delete(&w, id);
            m->versions[id] = 0;
        } else {
            m->versions[id] = ++m->next_version;
            test_put(&w, id, m->versions[id]);
        }
    }
    assert_int_equal(test_write(m->stores[s], &ops).err, KITH_OK);
    kith_buf_fini(&ops);
    bool worked;
    if (random_below(6) == 0)
        assert_int_equal(store_maintain(m->stores[s], &worked, NULL), KITH_OK);
}

static int by_order(const void *a, const void *b)
{
    return topk_compare(a, b);
}

static uint32_t expected(const struct model *m, const float *query, int group,
                         struct kith_hit *hits)
{
    uint32_t n = 0;
    for (uint32_t id = 0; id < IDS; id++) {
        if (m->versions[id] == 0 || (group >= 0 && (int)(id % 7) != group))
            continue;
        float vector[DIM];
        test_vector(id, m->versions[id], vector);
        hits[n] = (struct kith_hit){.id = kith_id_number(id)};
        kernels_scalar.scan[kernels_form_of(m->config.metric)][KERNELS_F32](
            query, (struct kernels_rows){vector, DIM}, 1, &hits[n].rank);
        n++;
    }
    qsort(hits, n, sizeof *hits, by_order);
    return n;
}

static void check_search(const struct model *m)
{
    struct kith_filter filter;
    struct kith_buf bytes = {0};
    struct kith_hit want[IDS];
    struct view *views[STORES];
    for (uint32_t s = 0; s < STORES; s++)
        views[s] = store_view(m->stores[s]);
    int group = (int)random_below(9) - 1; /* -1: no filter; 7: nothing matches */
    float query[DIM];
    for (uint32_t i = 0; i < DIM; i++)
        query[i] = (float)random_below(2000) / 2.0f - 500.0f;
    struct search_part part = {
        .n_queries = 1, .k = 1 + random_below(60), .vectors = (uint8_t *)query};
    if (group >= 0) {
        context_filter(&filter, &bytes, "match", "value", (uint64_t)group);
        part.filter = &filter;
    }
    struct search_request request = {
        .views = views, .n_views = STORES, .parts = &part, .n_parts = 1};
    struct search_result result = {0};
    assert_int_equal(search_run(context, &request, &result, NULL), KITH_OK);
    uint32_t n = expected(m, query, group, want);
    assert_int_equal(result.matched, n);
    assert_int_equal(result.found[0].n, n < part.k ? n : part.k);
    for (uint32_t i = 0; i < result.found[0].n; i++) {
        assert_int_equal(result.found[0].hits[i].id.lo, want[i].id.lo);
        assert_true(result.found[0].hits[i].rank == want[i].rank);
    }
    search_result_fini(&result);
    kith_buf_fini(&bytes);
    for (uint32_t s = 0; s < STORES; s++)
        view_unref(views[s]);
}

static void test_search_follows_the_store(void **state)
{
    (void)state;
    static const enum kith_metric metrics[] = {KITH_DOT, KITH_EUCLID, KITH_MANHATTAN};
    for (uint32_t i = 0; i < 3; i++) {
        struct model m;
        open_model(&m, metrics[i]);
        for (int step = 0; step < 150; step++) {
            change(&m);
            check_search(&m);
        }
        close_model(&m);
    }
}

/* ---- searches while the store changes -------------------------------------------------------- */

struct racing {
    struct store *store;
    atomic_bool stop;
    atomic_uint wrong, searches;
};

/* On one view: every live point matches, k of them come back, the same ones each time, with the
 * ranks of the vectors that this view holds. */
static bool view_is_consistent(struct view *view, uint64_t *random)
{
    float query[DIM];
    for (uint32_t i = 0; i < DIM; i++)
        query[i] = (float)(kith_random(random) % 100) / 4.0f - 12.0f;
    struct search_part part = {.n_queries = 1, .k = 20, .vectors = (uint8_t *)query};
    struct search_request request = {.views = &view, .n_views = 1, .parts = &part, .n_parts = 1};
    struct search_result a = {0}, b = {0};
    bool ok = search_run(context, &request, &a, NULL) == KITH_OK &&
              search_run(context, &request, &b, NULL) == KITH_OK;
    uint64_t want = view->live_points < part.k ? view->live_points : part.k;
    ok = ok && a.matched == view->live_points && a.found[0].n == want && b.found[0].n == want;
    for (uint32_t i = 0; ok && i < want; i++) {
        const struct kith_hit *hit = &a.found[0].hits[i];
        struct test_point point = test_get(view, &hit->id);
        float rank;
        kernels_scalar.scan[KERNELS_IP][KERNELS_F32](
            query, (struct kernels_rows){point.vector, DIM}, 1, &rank);
        ok = point.live && rank == hit->rank && point.seq == hit->seq &&
             memcmp(hit, &b.found[0].hits[i], sizeof *hit) == 0;
        kith_buf_fini(&point.payload);
    }
    search_result_fini(&a);
    search_result_fini(&b);
    return ok;
}

static void *search_until_stopped(void *ctx)
{
    struct racing *racing = ctx;
    uint64_t random = (uint64_t)(uintptr_t)&random;
    while (!atomic_load(&racing->stop)) {
        struct view *view = store_view(racing->store);
        if (!view_is_consistent(view, &random))
            atomic_fetch_add(&racing->wrong, 1);
        atomic_fetch_add(&racing->searches, 1);
        view_unref(view);
    }
    return NULL;
}

static void test_search_races_with_writes_and_merges(void **state)
{
    (void)state;
    struct io *io;
    struct racing racing = {0};
    assert_int_equal(io_fake_new(&io, NULL), KITH_OK);
    struct store_options options = test_options(io);
    options.background = true;
    options.sketch = sketch_of;
    assert_int_equal(store_create(&options, &test_config, NULL), KITH_OK);
    assert_int_equal(store_open(&racing.store, &options, NULL), KITH_OK);
    pthread_t threads[2];
    for (int i = 0; i < 2; i++)
        assert_int_equal(pthread_create(&threads[i], NULL, search_until_stopped, &racing), 0);
    for (uint64_t version = 1; version <= 300 || atomic_load(&racing.searches) < 50; version++) {
        struct kith_buf ops = {0};
        struct kith_writer w = test_writer(&ops);
        kith_write_array(&w, 10);
        for (uint32_t i = 0; i < 10; i++) {
            if (random_below(4) == 0)
                test_delete(&w, random_below(IDS));
            else
                test_put(&w, random_below(IDS), version);
        }
        assert_int_equal(test_write(racing.store, &ops).err, KITH_OK);
        kith_buf_fini(&ops);
    }
    atomic_store(&racing.stop, true);
    for (int i = 0; i < 2; i++)
        assert_int_equal(pthread_join(threads[i], NULL), 0);
    assert_int_equal(atomic_load(&racing.wrong), 0);
    store_close(racing.store);
    io_fake_free(io);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_search_follows_the_store),
        cmocka_unit_test(test_search_races_with_writes_and_merges),
    };
    return cmocka_run_group_tests(tests, set_up, context_tear_down);
}
