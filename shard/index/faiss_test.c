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
#include <time.h>
#include <cmocka.h>

#include "common/kith_mem.h"
#include "proto/kith_limits.h"

#define DIM   16u
#define ROWS  2000u
#define PILES 20u

static uint64_t seed;
static float rows[ROWS * DIM];

static float random_unit(void)
{
    seed = seed * 6364136223846793005u + 1442695040888963407u;
    return (float)(uint32_t)(seed >> 32) * 0x1p-31f - 1.0f;
}

/* Rows in PILES heaps, so that there is something to find. */
static int set_up(void **state)
{
    (void)state;
    seed = (uint64_t)time(NULL);
    print_message("seed %llu\n", (unsigned long long)seed);
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

static float distance(const float *a, const float *b, uint32_t dim)
{
    float sum = 0.0f;
    for (uint32_t j = 0; j < dim; j++)
        sum += (a[j] - b[j]) * (a[j] - b[j]);
    return sum;
}

/* The mean squared distance of the rows to their nearest centroid. */
static double error_of(const float *centroids, uint32_t k)
{
    double sum = 0.0;
    for (uint32_t r = 0; r < ROWS; r++) {
        float best = FLT_MAX;
        for (uint32_t c = 0; c < k; c++)
            best = fminf(best, distance(rows + r * DIM, centroids + c * DIM, DIM));
        sum += (double)best;
    }
    return sum / ROWS;
}

/* --- k-means --------------------------------------------------------------------------------- */

#define K 25u

static struct faiss_kmeans kmeans_of(uint32_t iterations)
{
    return (struct faiss_kmeans){.rows = all_rows(), .k = K, .iterations = iterations, .seed = 7};
}

static void test_faiss_kmeans_lowers_the_error(void **state)
{
    (void)state;
    double before = DBL_MAX;
    for (uint32_t iterations = 1; iterations <= 8; iterations *= 2) {
        float centroids[K * DIM];
        struct faiss_kmeans job = kmeans_of(iterations);
        assert_int_equal(faiss_kmeans_run(&job, centroids, NULL), KITH_OK);
        double error = error_of(centroids, K);
        assert_true(error < before * 1.0001);
        before = error;
    }
    /* Noise alone is DIM * 0.09 / 3; one middle for all would leave DIM / 3 more. */
    assert_true(before < DIM * 0.2);
}

static void test_faiss_kmeans_is_the_same_each_time(void **state)
{
    (void)state;
    float first[K * DIM], second[K * DIM], other[K * DIM];
    struct faiss_kmeans job = kmeans_of(3);
    assert_int_equal(faiss_kmeans_run(&job, first, NULL), KITH_OK);
    assert_int_equal(faiss_kmeans_run(&job, second, NULL), KITH_OK);
    assert_memory_equal(first, second, sizeof first);
    job.seed = 8;
    assert_int_equal(faiss_kmeans_run(&job, other, NULL), KITH_OK);
    assert_memory_not_equal(first, other, sizeof first);
}

static void test_faiss_kmeans_goes_on_from_centroids(void **state)
{
    (void)state;
    float at_once[K * DIM], in_parts[K * DIM];
    struct faiss_kmeans job = kmeans_of(6);
    assert_int_equal(faiss_kmeans_run(&job, at_once, NULL), KITH_OK);
    job.iterations = 2;
    assert_int_equal(faiss_kmeans_run(&job, in_parts, NULL), KITH_OK);
    job.iterations = 4;
    job.initial = in_parts;
    assert_int_equal(faiss_kmeans_run(&job, in_parts, NULL), KITH_OK);
    assert_memory_equal(at_once, in_parts, sizeof at_once);
}

static void test_faiss_kmeans_of_as_many_rows_as_centroids(void **state)
{
    (void)state;
    float centroids[K * DIM];
    struct faiss_kmeans job = kmeans_of(2);
    job.rows.n = K;
    assert_int_equal(faiss_kmeans_run(&job, centroids, NULL), KITH_OK);
    assert_memory_equal(centroids, rows, sizeof centroids);
}

static void test_faiss_kmeans_splits_for_empty_centroids(void **state)
{
    (void)state;
    float same[64 * 2], centroids[8 * 2];
    for (uint32_t i = 0; i < 64 * 2; i++)
        same[i] = 1.0f;
    struct faiss_kmeans job = {.rows = {same, 64, 2}, .k = 8, .iterations = 5};
    assert_int_equal(faiss_kmeans_run(&job, centroids, NULL), KITH_OK);
    for (uint32_t i = 0; i < 8 * 2; i++)
        assert_true(fabsf(centroids[i] - 1.0f) < 0.01f);
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

static void test_faiss_kmeans_ends_when_the_poll_says_so(void **state)
{
    (void)state;
    float centroids[K * DIM] = {42.0f};
    struct countdown countdown = {.left = 3};
    struct faiss_kmeans job = kmeans_of(1000000);
    job.poll = (struct faiss_poll){count_down, &countdown};
    struct kith_diag diag = {0};
    assert_int_equal(faiss_kmeans_run(&job, centroids, &diag), KITH_TIMEOUT);
    assert_string_equal(diag.text, "enough");
    assert_int_equal(countdown.asked, 4);
    assert_true(centroids[0] == 42.0f);
}

static void refused(const struct faiss_kmeans *job, enum kith_err err, const char *text)
{
    float centroids[K * DIM];
    struct kith_diag diag = {0};
    assert_int_equal(faiss_kmeans_run(job, centroids, &diag), err);
    assert_non_null(strstr(diag.text, text));
}

static void test_faiss_kmeans_refuses_what_cannot_be(void **state)
{
    (void)state;
    struct faiss_kmeans job = kmeans_of(1);
    job.rows.n = K - 1;
    refused(&job, KITH_UNPROCESSABLE, "24 rows for 25 centroids");
    job = kmeans_of(1);
    job.k = 0;
    refused(&job, KITH_TOO_BIG, "0 centroids");
    job.k = KITH_FAISS_CENTROIDS_MAX + 1;
    refused(&job, KITH_TOO_BIG, "65537 centroids");
    job = kmeans_of(1);
    job.rows.n = KITH_FAISS_TRAIN_ROWS_MAX + 1;
    refused(&job, KITH_TOO_BIG, "rows to train on");
    job = kmeans_of(1);
    job.rows.dim = KITH_DIM_MAX + 1;
    refused(&job, KITH_TOO_BIG, "dimension 8193");
    job.rows.dim = 0;
    refused(&job, KITH_TOO_BIG, "dimension 0");
}

static void test_faiss_kmeans_refuses_rows_it_would_hang_on(void **state)
{
    (void)state;
    const float bad[] = {NAN, INFINITY, -INFINITY, 3e19f, FLT_MAX};
    float centroids[K * DIM];
    struct faiss_kmeans job = kmeans_of(1);
    assert_int_equal(faiss_kmeans_run(&job, centroids, NULL), KITH_OK);
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        float saved = rows[777 * DIM + 5];
        rows[777 * DIM + 5] = bad[i];
        job.initial = NULL;
        refused(&job, KITH_UNPROCESSABLE, "k-means: row 777 has a NaN");
        rows[777 * DIM + 5] = saved;
        saved = centroids[11 * DIM];
        centroids[11 * DIM] = bad[i];
        job.initial = centroids;
        refused(&job, KITH_UNPROCESSABLE, "initial centroids: row 11 has");
        centroids[11 * DIM] = saved;
    }
    /* The largest that is let through ends, too. */
    float huge[64], ends[4];
    for (uint32_t i = 0; i < 64; i++)
        huge[i] = (i % 2 == 0 ? 1.0f : -1.0f) * (i < 32 ? 3.1e18f : 1.0f);
    job = (struct faiss_kmeans){.rows = {huge, 64, 1}, .k = 4, .iterations = 10};
    assert_int_equal(faiss_kmeans_run(&job, ends, NULL), KITH_OK);
}

struct runner {
    pthread_t thread;
    float centroids[K * DIM];
    enum kith_err err;
};

static void *run_kmeans(void *ctx)
{
    struct runner *runner = ctx;
    struct faiss_kmeans job = kmeans_of(5);
    runner->err = faiss_kmeans_run(&job, runner->centroids, NULL);
    return NULL;
}

static void test_faiss_kmeans_runs_on_many_threads(void **state)
{
    (void)state;
    struct runner runners[4];
    for (uint32_t i = 0; i < 4; i++)
        assert_int_equal(pthread_create(&runners[i].thread, NULL, run_kmeans, &runners[i]), 0);
    for (uint32_t i = 0; i < 4; i++) {
        assert_int_equal(pthread_join(runners[i].thread, NULL), 0);
        assert_int_equal(runners[i].err, KITH_OK);
        assert_memory_equal(runners[i].centroids, runners[0].centroids,
                            sizeof runners[i].centroids);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_faiss_kmeans_lowers_the_error),
        cmocka_unit_test(test_faiss_kmeans_is_the_same_each_time),
        cmocka_unit_test(test_faiss_kmeans_goes_on_from_centroids),
        cmocka_unit_test(test_faiss_kmeans_of_as_many_rows_as_centroids),
        cmocka_unit_test(test_faiss_kmeans_splits_for_empty_centroids),
        cmocka_unit_test(test_faiss_kmeans_ends_when_the_poll_says_so),
        cmocka_unit_test(test_faiss_kmeans_refuses_what_cannot_be),
        cmocka_unit_test(test_faiss_kmeans_refuses_rows_it_would_hang_on),
        cmocka_unit_test(test_faiss_kmeans_runs_on_many_threads),
    };
    return cmocka_run_group_tests(tests, set_up, NULL);
}
