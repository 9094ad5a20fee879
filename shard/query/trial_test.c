#include "shard/query/trial.h"

#include <dirent.h>
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <cmocka.h>

#include "common/kith_mem.h"
#include "common/kith_testing.h"
#include "shard/index/ivf_build.h"

#define DIM     8u
#define ROWS    (IVF_TRAIN_ROWS + 500u)
#define QUERIES 50u

static char parent[] = "/tmp/kith-trial-test-XXXXXX";
static float *rows;

static uint32_t entries(void)
{
    uint32_t n = 0;
    DIR *dir = opendir(parent);
    assert_non_null(dir);
    for (const struct dirent *entry; (entry = readdir(dir)) != NULL;)
        n += entry->d_name[0] != '.';
    closedir(dir);
    return n;
}

static struct trial trial_of(enum kith_metric metric, enum kith_row_type type,
                             enum kith_index index)
{
    return (struct trial){
        .config = {.collection = 1, .dim = DIM, .metric = metric, .rows = type, .index = index},
        .rows = rows,
        .n_rows = ROWS,
        .n_queries = QUERIES,
        .parent = parent,
        .threads = 2};
}

static int set_up(void **state)
{
    if (random_set_up(state) != 0 || mkdtemp(parent) == NULL)
        return -1;
    rows = kith_xalloc((size_t)(ROWS + QUERIES) * DIM * sizeof *rows);
    for (size_t i = 0; i < (size_t)(ROWS + QUERIES) * DIM; i++)
        rows[i] = (float)random_below(20001) / 10000 - 1;
    return 0;
}

static int tear_down(void **state)
{
    (void)state;
    kith_free(rows);
    return rmdir(parent);
}

static void test_trial_tries_the_index_and_leaves_nothing(void **state)
{
    (void)state;
    static const struct {
        enum kith_metric metric;
        enum kith_row_type type;
        enum kith_index index;
    } cases[] = {{KITH_COSINE, KITH_ROWS_F32, KITH_INDEX_PQ4},
                 {KITH_EUCLID, KITH_ROWS_F16, KITH_INDEX_INT8},
                 {KITH_DOT, KITH_ROWS_F32, KITH_INDEX_ROWS}};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct trial trial = trial_of(cases[i].metric, cases[i].type, cases[i].index);
        struct trial_found found;
        struct kith_diag diag = {0};
        assert_int_equal(trial_run(&trial, &found, &diag), KITH_OK);
        assert_int_equal(found.n_rows, ROWS);
        assert_true(found.exact_ns > 0 && found.lists_ns > 0);
        assert_true(found.recall >= 0.85 && found.recall <= 1);
        assert_true(found.rows_share < 1);
        assert_int_equal(entries(), 0);
    }
}

static void test_trial_without_an_index_has_no_time_of_one(void **state)
{
    (void)state;
    struct trial trial = trial_of(KITH_COSINE, KITH_ROWS_F32, KITH_INDEX_PQ4);
    struct trial_found found;
    trial.n_rows = IVF_TRAIN_ROWS - 1;
    assert_int_equal(trial_run(&trial, &found, NULL), KITH_OK);
    assert_true(found.exact_ns > 0 && found.lists_ns == 0 && found.recall == 1);
    trial.config.index = KITH_INDEX_NONE;
    trial.n_rows = ROWS;
    assert_int_equal(trial_run(&trial, &found, NULL), KITH_OK);
    assert_true(found.exact_ns > 0 && found.lists_ns == 0);
}

static void test_trial_names_the_vector_it_cannot_take(void **state)
{
    (void)state;
    struct trial trial = trial_of(KITH_COSINE, KITH_ROWS_F32, KITH_INDEX_PQ4);
    struct trial_found found = {.n_rows = 7};
    struct kith_diag diag = {0};
    float kept = rows[4321 * DIM + 3];
    rows[4321 * DIM + 3] = NAN;
    assert_int_equal(trial_run(&trial, &found, &diag), KITH_BAD_REQUEST);
    assert_non_null(strstr(diag.text, "vector 4321"));
    rows[4321 * DIM + 3] = kept;
    trial.parent = "/nonexistent/folder";
    assert_int_equal(trial_run(&trial, &found, &diag), KITH_IO);
    assert_non_null(strstr(diag.text, "/nonexistent/folder"));
    assert_int_equal(found.n_rows, 7);
    assert_int_equal(entries(), 0);
}

static bool stop_after(const void *ctx)
{
    _Atomic int64_t *left = *(_Atomic int64_t *const *)ctx;
    return atomic_fetch_sub(left, 1) <= 0;
}

/* At whatever question it is stopped: cancelled, and nothing left. Done before the question came:
 * so be it. */
static void test_trial_can_be_stopped_anywhere(void **state)
{
    (void)state;
    _Atomic int64_t left, *at = &left;
    bool done = false;
    for (int64_t after = 0; !done; after = 16 * after + 1) {
        struct trial trial = trial_of(KITH_COSINE, KITH_ROWS_F32, KITH_INDEX_PQ4);
        struct trial_found found;
        trial.stop = stop_after;
        trial.stop_ctx = &at;
        atomic_store(&left, after);
        enum kith_err err = trial_run(&trial, &found, NULL);
        done = err == KITH_OK;
        assert_true(done || err == KITH_CANCELLED);
        assert_true(after > 0 || !done);
        assert_int_equal(entries(), 0);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_trial_tries_the_index_and_leaves_nothing),
        cmocka_unit_test(test_trial_without_an_index_has_no_time_of_one),
        cmocka_unit_test(test_trial_names_the_vector_it_cannot_take),
        cmocka_unit_test(test_trial_can_be_stopped_anywhere),
    };
    return cmocka_run_group_tests(tests, set_up, tear_down);
}
