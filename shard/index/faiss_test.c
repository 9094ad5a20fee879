#include "shard/index/faiss.h"

#include <float.h>
#include <math.h>
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include "common/kith_mem.h"
#include "common/kith_testing.h"
#include "proto/kith_limits.h"

#define DIM   16u
#define ROWS  2000u
#define PILES 20u

static float rows[ROWS * DIM];

/* Rows in PILES heaps, so that there is something to find. */
static int set_up(void **state)
{
    (void)random_set_up(state);
    float middles[PILES * DIM];
    for (uint32_t i = 0; i < PILES * DIM; i++)
        middles[i] = random_unit();
    for (uint32_t r = 0; r < ROWS; r++)
        for (uint32_t j = 0; j < DIM; j++)
            rows[r * DIM + j] = middles[r % PILES * DIM + j] + 0.3f * random_unit();
    return 0;
}

static struct blas_block all_rows(void)
{
    return (struct blas_block){rows, ROWS, DIM};
}

#define QUERIES 50u
#define TOP     10u

static struct faiss_index *made(const char *factory, enum kith_metric metric)
{
    struct faiss_index *index = NULL;
    struct kith_diag diag = {0};
    if (faiss_index_new(factory, DIM, metric, &index, &diag) != KITH_OK)
        fail_msg("%s: %s", factory, diag.text);
    struct blas_block sample = all_rows(), first = all_rows(), rest = all_rows();
    if (strncmp(factory, "OPQ", 3) == 0)
        sample.n = 300; /* OPQ takes its time */
    assert_int_equal(faiss_index_train(index, sample, NULL), KITH_OK);
    first.n = 700;
    rest.n = ROWS - 700;
    rest.rows += 700 * DIM;
    assert_int_equal(faiss_index_add(index, first, (struct faiss_poll){0}, NULL), KITH_OK);
    assert_int_equal(faiss_index_add(index, rest, (struct faiss_poll){0}, NULL), KITH_OK);
    assert_int_equal(faiss_index_rows(index), ROWS);
    return index;
}

static float rank_of(enum kith_metric metric, const float *a, const float *b)
{
    float sum = 0.0f;
    for (uint32_t j = 0; j < DIM; j++) {
        float gap = a[j] - b[j];
        sum += metric == KITH_EUCLID      ? -gap * gap
               : metric == KITH_MANHATTAN ? -fabsf(gap)
                                          : a[j] * b[j];
    }
    return sum;
}

/* Queries are every 31st row, a little moved. */
static void make_queries(float *queries)
{
    for (uint32_t q = 0; q < QUERIES; q++)
        for (uint32_t j = 0; j < DIM; j++)
            queries[q * DIM + j] = rows[q * 31 * DIM + j] + 0.1f * random_unit();
}

/* The rank of the TOP-th best row, by a look at all. */
static float worst_of(enum kith_metric metric, const float *query)
{
    float best[TOP];
    uint32_t n = 0;
    for (uint32_t r = 0; r < ROWS; r++) {
        float rank = rank_of(metric, query, rows + r * DIM);
        if (n == TOP && rank <= best[TOP - 1])
            continue;
        uint32_t at = n < TOP ? n++ : TOP - 1;
        for (; at > 0 && best[at - 1] < rank; at--)
            best[at] = best[at - 1];
        best[at] = rank;
    }
    return best[TOP - 1];
}

/* Of the TOP hits of each query the part that is as good as the exact TOP-th. */
static double recall_of(struct faiss_index *index, enum kith_metric metric,
                        struct faiss_effort effort)
{
    float queries[QUERIES * DIM], ranks[QUERIES * TOP];
    int64_t found[QUERIES * TOP];
    make_queries(queries);
    struct kith_diag diag = {0};
    if (faiss_index_search(index, (struct blas_block){queries, QUERIES, DIM}, TOP, effort,
                           (struct faiss_hits){found, ranks}, &diag) != KITH_OK)
        fail_msg("%s", diag.text);
    uint32_t good = 0;
    for (uint32_t q = 0; q < QUERIES; q++) {
        float worst = worst_of(metric, queries + q * DIM);
        for (uint32_t i = 0; i < TOP; i++) {
            if (found[q * TOP + i] < 0)
                continue;
            float rank = rank_of(metric, queries + q * DIM, rows + found[q * TOP + i] * DIM);
            good += worst <= rank + 1e-5f;
            assert_true(i == 0 || ranks[q * TOP + i] <= ranks[q * TOP + i - 1]);
        }
    }
    return good / (double)(QUERIES * TOP);
}

struct recipe {
    const char *factory;
    enum kith_metric metric;
    struct faiss_effort effort;
    double recall;
};

static const struct recipe recipes[] = {
    {"Flat", KITH_DOT, {0}, 1.0},
    {"Flat", KITH_EUCLID, {0}, 1.0},
    {"Flat", KITH_MANHATTAN, {0}, 1.0},
    {"HNSW16", KITH_MANHATTAN, {.ef_search = 64}, 0.9},
    {"HNSW16", KITH_EUCLID, {.ef_search = 64}, 0.9},
    {"HNSW16,SQ8", KITH_COSINE, {.ef_search = 100}, 0.6},
    {"IVF64,Flat", KITH_EUCLID, {.nprobe = 16}, 0.9},
    {"IVF64,Flat", KITH_DOT, {.nprobe = 64}, 0.999},
    {"IVF32_HNSW8,Flat", KITH_EUCLID, {.nprobe = 8, .ef_search = 32}, 0.8},
    {"IVF64,PQ8x4fs,RFlat", KITH_EUCLID, {.nprobe = 32, .k_factor = 16}, 0.9},
    {"PCA16,IVF16,PQ8x4fsr,RFlat", KITH_DOT, {.nprobe = 16, .k_factor = 32}, 0.8},
    {"PCAR8,SQ8,RFlat", KITH_EUCLID, {.k_factor = 64}, 0.8},
    {"OPQ4_8,PQ4,RFlat", KITH_EUCLID, {.k_factor = 64}, 0.8},
    {"SQfp16", KITH_DOT, {0}, 0.9},
};

struct bytes {
    uint8_t *data;
    size_t n, cap, fail_after;
};

static enum kith_err take(void *ctx, const void *data, size_t n, struct kith_diag *diag)
{
    struct bytes *bytes = ctx;
    if (bytes->n + n > bytes->fail_after)
        return kith_fail(diag, KITH_DISK_FULL, "full");
    assert_true(kith_grow((void **)&bytes->data, &bytes->cap, bytes->n + n, 1));
    memcpy(bytes->data + bytes->n, data, n);
    bytes->n += n;
    return KITH_OK;
}

static void assert_comes_back(struct faiss_index *index, const struct recipe *recipe)
{
    struct bytes bytes = {.fail_after = SIZE_MAX};
    struct faiss_index *loaded = NULL;
    struct kith_diag diag = {0};
    assert_int_equal(faiss_index_write(index, (struct faiss_sink){take, &bytes}, NULL), KITH_OK);
    if (faiss_index_load(bytes.data, bytes.n, DIM, recipe->metric, &loaded, &diag) != KITH_OK)
        fail_msg("%s: %s", recipe->factory, diag.text);
    int64_t found[2][TOP];
    float ranks[2][TOP];
    for (uint32_t at = 0; at < 2; at++)
        assert_int_equal(faiss_index_search(at == 0 ? index : loaded,
                                            (struct blas_block){rows, 1, DIM}, TOP, recipe->effort,
                                            (struct faiss_hits){found[at], ranks[at]}, NULL),
                         KITH_OK);
    assert_memory_equal(found[0], found[1], sizeof found[0]);
    assert_memory_equal(ranks[0], ranks[1], sizeof ranks[0]);
    assert_int_equal(faiss_index_rows(loaded), ROWS);
    faiss_index_free(loaded);
    kith_free(bytes.data);
}

static void test_faiss_index_finds_the_nearest_also_from_its_bytes(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof recipes / sizeof *recipes; i++) {
        const struct recipe *recipe = &recipes[i];
        struct faiss_index *index = made(recipe->factory, recipe->metric);
        double recall = recall_of(index, recipe->metric, recipe->effort);
        print_message("%-28s recall %.3f\n", recipe->factory, recall);
        assert_true(recall >= recipe->recall);
        assert_comes_back(index, recipe);
        faiss_index_free(index);
    }
}

static void test_faiss_index_ranks_as_kith_does(void **state)
{
    (void)state;
    const enum kith_metric metrics[] = {KITH_DOT, KITH_EUCLID, KITH_MANHATTAN};
    for (uint32_t m = 0; m < 3; m++) {
        struct faiss_index *index = made("Flat", metrics[m]);
        int64_t found[TOP];
        float ranks[TOP];
        assert_int_equal(faiss_index_search(index, (struct blas_block){rows, 1, DIM}, TOP,
                                            (struct faiss_effort){0},
                                            (struct faiss_hits){found, ranks}, NULL),
                         KITH_OK);
        for (uint32_t i = 0; i < TOP; i++)
            assert_true(fabsf(ranks[i] - rank_of(metrics[m], rows, rows + found[i] * DIM)) < 1e-4f);
        faiss_index_free(index);
    }
}

/* A search leaves nothing behind for the next. */
static void test_faiss_index_effort_is_of_one_search(void **state)
{
    (void)state;
    struct faiss_index *index = made("IVF64,Flat", KITH_EUCLID);
    struct faiss_effort all = {.nprobe = 64}, none = {0};
    int64_t first[ROWS], second[ROWS];
    static float ranks[ROWS];
    struct blas_block query = {rows, 1, DIM};
    assert_int_equal(
        faiss_index_search(index, query, ROWS, none, (struct faiss_hits){first, ranks}, NULL),
        KITH_OK);
    assert_true(first[ROWS - 1] == -1 && ranks[ROWS - 1] == -FLT_MAX && first[0] == 0);
    assert_int_equal(
        faiss_index_search(index, query, ROWS, all, (struct faiss_hits){second, ranks}, NULL),
        KITH_OK);
    assert_true(second[ROWS - 1] >= 0);
    assert_int_equal(
        faiss_index_search(index, query, ROWS, none, (struct faiss_hits){second, ranks}, NULL),
        KITH_OK);
    assert_memory_equal(first, second, sizeof first);
    faiss_index_free(index);
}

struct searcher {
    pthread_t thread;
    struct faiss_index *index;
    uint32_t nprobe;
    uint32_t wrong;
};

static void *search_again_and_again(void *ctx)
{
    struct searcher *searcher = ctx;
    struct faiss_effort effort = {.nprobe = searcher->nprobe};
    for (uint32_t i = 0; i < TEST_SCALE(200, 20); i++) {
        int64_t *found = kith_xalloc(ROWS * sizeof *found);
        float *ranks = kith_xalloc(ROWS * sizeof *ranks);
        enum kith_err err =
            faiss_index_search(searcher->index, (struct blas_block){rows, 1, DIM}, ROWS, effort,
                               (struct faiss_hits){found, ranks}, NULL);
        /* All lists hold all rows; one list does not. */
        searcher->wrong += err != KITH_OK || (found[ROWS - 1] >= 0) != (searcher->nprobe == 64);
        kith_free(found);
        kith_free(ranks);
    }
    return NULL;
}

static void test_faiss_index_searches_on_many_threads(void **state)
{
    (void)state;
    struct faiss_index *index = made("IVF64,Flat", KITH_EUCLID);
    struct searcher searchers[4];
    for (uint32_t i = 0; i < 4; i++) {
        searchers[i] = (struct searcher){.index = index, .nprobe = i % 2 == 0 ? 64 : 1};
        assert_int_equal(
            pthread_create(&searchers[i].thread, NULL, search_again_and_again, &searchers[i]), 0);
    }
    for (uint32_t i = 0; i < 4; i++) {
        assert_int_equal(pthread_join(searchers[i].thread, NULL), 0);
        assert_int_equal(searchers[i].wrong, 0);
    }
    faiss_index_free(index);
}

/* --- bytes ----------------------------------------------------------------------------------- */

static void test_faiss_index_refuses_other_bytes(void **state)
{
    (void)state;
    struct faiss_index *index = made("Flat", KITH_EUCLID), *loaded = NULL;
    struct bytes bytes = {.fail_after = SIZE_MAX};
    assert_int_equal(faiss_index_write(index, (struct faiss_sink){take, &bytes}, NULL), KITH_OK);
    struct kith_diag diag = {0};
    assert_int_equal(faiss_index_load(bytes.data, 0, DIM, KITH_EUCLID, &loaded, &diag),
                     KITH_CORRUPT);
    assert_int_equal(faiss_index_load(bytes.data, 3, DIM, KITH_EUCLID, &loaded, &diag),
                     KITH_CORRUPT);
    assert_int_equal(faiss_index_load("xxxxyyyyzzzz", 12, DIM, KITH_EUCLID, &loaded, &diag),
                     KITH_CORRUPT);
    assert_non_null(strstr(diag.text, "not recognized"));
    assert_int_equal(faiss_index_load(bytes.data, bytes.n, DIM + 1, KITH_EUCLID, &loaded, &diag),
                     KITH_CORRUPT);
    assert_int_equal(faiss_index_load(bytes.data, bytes.n, DIM, KITH_DOT, &loaded, &diag),
                     KITH_CORRUPT);
    assert_int_equal(take(&bytes, "!", 1, NULL), KITH_OK);
    assert_int_equal(faiss_index_load(bytes.data, bytes.n, DIM, KITH_EUCLID, &loaded, &diag),
                     KITH_CORRUPT);
    assert_non_null(strstr(diag.text, "after its end"));
    assert_null(loaded);
    kith_free(bytes.data);
    faiss_index_free(index);
}

static void test_faiss_index_passes_on_what_the_sink_says(void **state)
{
    (void)state;
    struct faiss_index *index = made("IVF64,Flat", KITH_EUCLID);
    const size_t limits[] = {0, 1, 5000, 100000};
    for (size_t i = 0; i < sizeof limits / sizeof *limits; i++) {
        struct bytes bytes = {.fail_after = limits[i]};
        struct kith_diag diag = {0};
        assert_int_equal(faiss_index_write(index, (struct faiss_sink){take, &bytes}, &diag),
                         KITH_DISK_FULL);
        assert_string_equal(diag.text, "full");
        kith_free(bytes.data);
    }
    faiss_index_free(index);
}

/* --- what is refused ------------------------------------------------------------------------- */

static void test_faiss_index_refuses_bad_factories(void **state)
{
    (void)state;
    const struct {
        const char *factory;
        enum kith_err err;
        const char *text;
    } cases[] = {
        {"LSH", KITH_BAD_REQUEST, "'LSH' is not a known piece"},
        {"IVF64", KITH_BAD_REQUEST, "could not parse"},
        {"IVF64,HNSW16", KITH_BAD_REQUEST, "could not parse"},
        {"Flat,Flat", KITH_BAD_REQUEST, "could not parse index string Flat,Flat"},
        {"RFlat", KITH_BAD_REQUEST, "could not parse"},
        {"OPQ4", KITH_BAD_REQUEST, "could not parse"},
    };
    struct faiss_index *index = NULL;
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct kith_diag diag = {0};
        assert_int_equal(faiss_index_new(cases[i].factory, DIM, KITH_EUCLID, &index, &diag),
                         cases[i].err);
        if (strstr(diag.text, cases[i].text) == NULL)
            fail_msg("%s: %s", cases[i].factory, diag.text);
        assert_null(strstr(diag.text, ".cpp"));
    }
    assert_int_equal(faiss_index_new("Flat", KITH_DIM_MAX + 1, KITH_DOT, &index, NULL),
                     KITH_TOO_BIG);
    assert_int_equal(faiss_index_new("SQ8", DIM, KITH_MANHATTAN, &index, NULL), KITH_UNSUPPORTED);
    /* HNSW over PQ would take no notice of the metric. */
    assert_int_equal(faiss_index_new("HNSW16,PQ4", DIM, KITH_DOT, &index, NULL), KITH_UNSUPPORTED);
    kith_mem_fail_after(0);
    assert_int_equal(faiss_index_new("Flat", DIM, KITH_DOT, &index, NULL), KITH_NOMEM);
    kith_mem_fail_after(-1);
    assert_null(index);
    faiss_index_free(NULL);
}

static void test_faiss_index_refuses_rows_it_would_hang_on(void **state)
{
    (void)state;
    const float bad[] = {NAN, INFINITY, -INFINITY, 3e19f, FLT_MAX};
    struct faiss_index *index = NULL;
    struct kith_diag diag = {0};
    assert_int_equal(faiss_index_new("IVF25,Flat", DIM, KITH_EUCLID, &index, NULL), KITH_OK);
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        float saved = rows[777 * DIM + 5];
        rows[777 * DIM + 5] = bad[i];
        assert_int_equal(faiss_index_train(index, all_rows(), &diag), KITH_UNPROCESSABLE);
        assert_non_null(strstr(diag.text, "index training: row 777 has a NaN"));
        rows[777 * DIM + 5] = saved;
    }
    faiss_index_free(index);
    /* The largest that is let through ends, too. */
    float huge[64 * FAISS_ROWS_A_CENTROID];
    uint32_t n = sizeof huge / sizeof *huge;
    for (uint32_t i = 0; i < n; i++)
        huge[i] = (i % 2 == 0 ? 1.0f : -1.0f) * (i < n / 2 ? 3.1e18f : 1.0f);
    assert_int_equal(faiss_index_new("IVF4,Flat", 1, KITH_EUCLID, &index, NULL), KITH_OK);
    assert_int_equal(faiss_index_train(index, (struct blas_block){huge, n, 1}, NULL), KITH_OK);
    faiss_index_free(index);
}

struct countdown {
    uint32_t left, asked;
};

static enum kith_err count_down(void *ctx, struct kith_diag *diag)
{
    struct countdown *countdown = ctx;
    countdown->asked++;
    if (countdown->left-- == 0)
        return kith_fail(diag, KITH_TIMEOUT, "enough");
    return KITH_OK;
}

static void test_faiss_index_refuses_wrong_use(void **state)
{
    (void)state;
    struct faiss_index *index = NULL;
    struct kith_diag diag = {0};
    int64_t found[TOP];
    float ranks[TOP];
    struct faiss_hits hits = {found, ranks};
    struct faiss_effort effort = {0};
    struct blas_block query = {rows, 1, DIM}, few = {rows, 10, DIM};
    assert_int_equal(faiss_index_new("IVF64,Flat", DIM, KITH_EUCLID, &index, NULL), KITH_OK);
    assert_int_equal(faiss_index_add(index, all_rows(), (struct faiss_poll){0}, &diag),
                     KITH_UNPROCESSABLE);
    assert_int_equal(faiss_index_search(index, query, TOP, effort, hits, &diag),
                     KITH_UNPROCESSABLE);
    assert_string_equal(diag.text, "the index is not trained yet");
    assert_int_equal(faiss_index_train(index, few, &diag), KITH_UNPROCESSABLE);
    assert_non_null(strstr(diag.text, "Number of training points (10)"));
    few.n = KITH_FAISS_TRAIN_ROWS_MAX + 1;
    assert_int_equal(faiss_index_train(index, few, &diag), KITH_TOO_BIG);
    assert_non_null(strstr(diag.text, "rows to train on"));
    assert_int_equal(faiss_index_train(index, all_rows(), NULL), KITH_OK);

    assert_int_equal(faiss_index_search(index, query, 0, effort, hits, NULL), KITH_TOO_BIG);
    assert_int_equal(faiss_index_search(index, query, KITH_K_MAX + 1, effort, hits, NULL),
                     KITH_TOO_BIG);
    effort.ef_search = 10;
    assert_int_equal(faiss_index_search(index, query, TOP, effort, hits, &diag), KITH_BAD_REQUEST);
    assert_string_equal(diag.text, "this index has no setting efSearch");
    effort = (struct faiss_effort){.nprobe = KITH_FAISS_NPROBE_MAX + 1};
    assert_int_equal(faiss_index_search(index, query, TOP, effort, hits, NULL), KITH_TOO_BIG);

    float bad[DIM] = {NAN};
    query.rows = bad;
    effort = (struct faiss_effort){0};
    assert_int_equal(faiss_index_search(index, query, TOP, effort, hits, NULL), KITH_UNPROCESSABLE);
    assert_int_equal(faiss_index_add(index, query, (struct faiss_poll){0}, NULL),
                     KITH_UNPROCESSABLE);
    assert_int_equal(faiss_index_train(index, query, NULL), KITH_UNPROCESSABLE);

    struct countdown countdown = {.left = 0};
    assert_int_equal(
        faiss_index_add(index, all_rows(), (struct faiss_poll){count_down, &countdown}, &diag),
        KITH_TIMEOUT);
    assert_string_equal(diag.text, "enough");
    assert_int_equal(countdown.asked, 1);
    assert_int_equal(faiss_index_rows(index), 0);
    faiss_index_free(index);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_faiss_index_finds_the_nearest_also_from_its_bytes),
        cmocka_unit_test(test_faiss_index_ranks_as_kith_does),
        cmocka_unit_test(test_faiss_index_effort_is_of_one_search),
        cmocka_unit_test(test_faiss_index_searches_on_many_threads),
        cmocka_unit_test(test_faiss_index_refuses_other_bytes),
        cmocka_unit_test(test_faiss_index_passes_on_what_the_sink_says),
        cmocka_unit_test(test_faiss_index_refuses_bad_factories),
        cmocka_unit_test(test_faiss_index_refuses_rows_it_would_hang_on),
        cmocka_unit_test(test_faiss_index_refuses_wrong_use),
    };
    return cmocka_run_group_tests(tests, set_up, NULL);
}
