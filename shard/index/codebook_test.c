#include "shard/index/codebook.h"

#include <float.h>
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include "common/kith_mem.h"
#include "common/kith_testing.h"
#include "proto/kith_limits.h"
#include "shard/index/codebook_format.h"

#define ROWS    6000u
#define DIM_MAX 24u

static float rows[ROWS * DIM_MAX];

/* Rows around `clusters` centres; under cosine of length 1. */
static void make_rows(uint32_t dim, uint32_t clusters, enum kith_metric metric)
{
    static float centres[256 * DIM_MAX];
    for (uint32_t i = 0; i < clusters * dim; i++)
        centres[i] = random_unit();
    for (uint32_t i = 0; i < ROWS; i++) {
        const float *centre = centres + (size_t)(random_u32() % clusters) * dim;
        float *row = rows + (size_t)i * dim, length = 0.0f;
        for (uint32_t j = 0; j < dim; j++) {
            row[j] = centre[j] + 0.1f * random_unit();
            length += row[j] * row[j];
        }
        for (uint32_t j = 0; j < dim && metric == KITH_COSINE; j++)
            row[j] /= sqrtf(length);
    }
}

static struct slice_config config_of(enum kith_metric metric, uint32_t dim)
{
    return (struct slice_config){
        .collection = 1, .dim = dim, .metric = metric, .rows = KITH_ROWS_F32};
}

static struct codebook_training training_of(const struct slice_config *config,
                                            enum codebook_codes codes)
{
    return (struct codebook_training){.config = config,
                                      .codes = codes,
                                      .rows = rows,
                                      .n_rows = ROWS,
                                      .collection_rows = ROWS,
                                      .generation = 3,
                                      .threads = 2};
}

static void check_shape(const struct codebook *c, const struct slice_config *config,
                        enum codebook_codes codes)
{
    assert_true(c->metric == config->metric && c->dim == config->dim && c->codes == codes);
    assert_true(c->generation == 3 && c->trained_rows == ROWS);
    assert_int_equal(c->n_lists8 % 16, 0);
    assert_true(c->residual_energy >= 0.0f && isfinite(c->residual_energy));
    for (uint32_t list = 0; list < c->n_lists; list++) {
        float half = c->lifts != NULL ? c->lifts[list] * c->lifts[list] / 2 : 0.0f;
        for (uint32_t j = 0; j < c->dim; j++) {
            float value = c->centroids[list * c->dim + j];
            int8_t byte =
                c->centroids8[((list / 16 * ((c->dim + 3) / 4) + j / 4) * 16 + list % 16) * 4 +
                              j % 4];
            half += value * value / 2;
            assert_true(fabsf(value - (float)byte * c->centroid_scale8) <
                        0.51f * c->centroid_scale8);
        }
        assert_true(fabsf(half - c->minus[list] * c->weight) <= 1e-5f * (1.0f + half));
    }
    for (uint32_t list = c->n_lists; list < c->n_lists8; list++)
        assert_true(c->minus[list] == FLT_MAX);
}

static void test_codebook_is_the_same_after_its_bytes_were_read(void **state)
{
    (void)state;
    static const enum codebook_codes codes[] = {CODEBOOK_ROWS, CODEBOOK_INT8, CODEBOOK_PQ4};
    for (int metric = KITH_COSINE; metric <= KITH_MANHATTAN; metric++)
        for (int i = 0; i < 3; i++) {
            if (metric == KITH_MANHATTAN && codes[i] == CODEBOOK_PQ4)
                continue;
            struct slice_config config = config_of((enum kith_metric)metric, 1 + random_u32() % 24);
            make_rows(config.dim, 40, config.metric);
            struct codebook_training training = training_of(&config, codes[i]);
            struct codebook *made, *read;
            assert_int_equal(codebook_train(&made, &training, NULL), KITH_OK);
            check_shape(made, &config, codes[i]);
            struct kith_bytes bytes = codebook_bytes(made);
            assert_int_equal(codebook_load(&read, bytes, &config, NULL), KITH_OK);
            check_shape(read, &config, codes[i]);
            assert_true(read->hash == made->hash && codebook_bytes(read).len == bytes.len);
            assert_memory_equal(codebook_bytes(read).data, bytes.data, bytes.len);
            assert_int_equal(made->n_subs % 2, 0);
            codebook_ref(read);
            codebook_unref(read);
            codebook_unref(read);
            codebook_unref(made);
        }
}

/* Mean squared distance from the nearest centroid, the slow way. */
static double energy_of(const struct codebook *c)
{
    double sum = 0.0;
    for (uint32_t i = 0; i < ROWS; i++) {
        double best = DBL_MAX;
        for (uint32_t list = 0; list < c->n_lists; list++) {
            double distance = 0.0;
            for (uint32_t j = 0; j < c->dim; j++) {
                double gap = (double)rows[i * c->dim + j] - (double)c->centroids[list * c->dim + j];
                distance += gap * gap;
            }
            best = distance < best ? distance : best;
        }
        sum += best / ROWS;
    }
    return sum;
}

static void test_codebook_finds_clusters(void **state)
{
    (void)state;
    struct slice_config config = config_of(KITH_EUCLID, 16);
    make_rows(16, 50, KITH_EUCLID);
    struct codebook_training training = training_of(&config, CODEBOOK_PQ4);
    struct codebook *codebook;
    training.n_lists = 100; /* twice the clusters, so that each can get one */
    assert_int_equal(codebook_train(&codebook, &training, NULL), KITH_OK);
    /* Within a cluster: 16 * 0.01 / 3; some clusters share a centroid. Without centroids it would
     * be about 16 / 3. */
    double energy = energy_of(codebook);
    assert_true(energy < 0.8);
    assert_true(fabs(energy - (double)codebook->residual_energy) < 0.01 + energy / 4);
    codebook_unref(codebook);
}

/* The product of a piece of a row with the word that stands for it, and its squared length. */
static void add_piece(const struct codebook *c, uint32_t sub, const float *row, double *product,
                      double *square)
{
    const float *words = c->subs + (size_t)sub * c->sub_dim * 16;
    double best = INFINITY, of_best = 0;
    for (uint32_t w = 0; w < 16; w++) {
        double gap = 0, along = 0;
        for (uint32_t j = 0; j < c->sub_dim; j++) {
            double r =
                (double)row[sub * c->sub_dim + j] - (double)c->centroids[sub * c->sub_dim + j];
            double word = (double)words[j * 16 + w], off = r - word / (double)c->stretch;
            gap += off * off;
            along += r * word;
            *square += w == 0 ? r * r : 0;
        }
        of_best = gap < best ? along : of_best;
        best = gap < best ? gap : best;
    }
    *product += of_best;
}

static void test_codebook_words_are_as_long_as_rows(void **state)
{
    (void)state;
    struct slice_config config = config_of(KITH_EUCLID, 24);
    make_rows(24, 200, KITH_EUCLID);
    struct codebook_training training = training_of(&config, CODEBOOK_PQ4);
    training.n_lists = 1;
    training.sub_dim = 12;
    struct codebook *c;
    assert_int_equal(codebook_train(&c, &training, NULL), KITH_OK);
    double product = 0, square = 0;
    for (uint32_t i = 0; i < ROWS; i++)
        for (uint32_t sub = 0; sub < c->n_subs; sub++)
            add_piece(c, sub, rows + (size_t)i * 24, &product, &square);
    assert_true(c->stretch > 1.2f); /* means are shorter */
    assert_true(fabs(product / square - 1) < 0.02);
    codebook_unref(c);
}

static void test_codebook_does_not_depend_on_threads(void **state)
{
    (void)state;
    struct slice_config config = config_of(KITH_DOT, 19);
    make_rows(19, 50, KITH_DOT);
    struct codebook_training training = training_of(&config, CODEBOOK_PQ4);
    uint64_t hash = 0;
    for (uint32_t threads = 1; threads <= 3; threads++) {
        struct codebook *codebook;
        training.threads = threads;
        assert_int_equal(codebook_train(&codebook, &training, NULL), KITH_OK);
        assert_true(threads == 1 || codebook->hash == hash);
        hash = codebook->hash;
        codebook_unref(codebook);
    }
}

static void test_codebook_takes_odd_samples(void **state)
{
    (void)state;
    struct slice_config config = config_of(KITH_COSINE, 5);
    for (uint32_t n = 1; n < 70; n += 1 + n / 8) {
        make_rows(5, 1 + n % 3, KITH_COSINE);
        for (uint32_t i = 0; i < n * 5 && n % 2 == 0; i++)
            rows[i] = n % 4 == 0 ? 0.0f : rows[i % 5]; /* all the same */
        struct codebook_training training = training_of(&config, CODEBOOK_PQ4);
        struct codebook *codebook;
        training.n_rows = n;
        training.sub_dim = n % 5;
        assert_int_equal(codebook_train(&codebook, &training, NULL), KITH_OK);
        check_shape(codebook, &config, CODEBOOK_PQ4);
        assert_true(codebook->n_lists <= n);
        codebook_unref(codebook);
    }
}

static void test_codebook_refuses_what_it_cannot_train(void **state)
{
    (void)state;
    struct slice_config config = config_of(KITH_MANHATTAN, 8);
    make_rows(8, 10, KITH_MANHATTAN);
    struct codebook_training training = training_of(&config, CODEBOOK_PQ4);
    struct codebook *codebook;
    assert_int_equal(codebook_train(&codebook, &training, NULL), KITH_UNSUPPORTED);
    training.codes = CODEBOOK_ROWS;
    training.n_rows = 0;
    assert_int_equal(codebook_train(&codebook, &training, NULL), KITH_UNPROCESSABLE);
    training.n_rows = ROWS;
    training.n_lists = CODEBOOK_LISTS_MAX + 1;
    assert_int_equal(codebook_train(&codebook, &training, NULL), KITH_TOO_BIG);
    training.n_lists = 0;
    rows[8 * 100] = NAN;
    assert_int_equal(codebook_train(&codebook, &training, NULL), KITH_UNPROCESSABLE);
    rows[8 * 100] = FLT_MAX;
    assert_int_equal(codebook_train(&codebook, &training, NULL), KITH_UNPROCESSABLE);
}

static bool stop_after(const void *ctx)
{
    _Atomic int *left = (void *)(uintptr_t)ctx;
    return atomic_fetch_sub(left, 1) <= 0;
}

static void test_codebook_training_stops_when_told(void **state)
{
    (void)state;
    struct slice_config config = config_of(KITH_COSINE, 8);
    make_rows(8, 10, KITH_COSINE);
    struct codebook_training training = training_of(&config, CODEBOOK_PQ4);
    long before = kith_mem_live();
    enum kith_err err = KITH_CANCELLED;
    uint32_t rounds = 0;
    for (int n = 0; err == KITH_CANCELLED; n = n * 2 + 1, rounds++) {
        _Atomic int left = n;
        struct codebook *codebook = NULL;
        training.stop = stop_after;
        training.stop_ctx = &left;
        err = codebook_train(&codebook, &training, NULL);
        codebook_unref(codebook);
        assert_int_equal(kith_mem_live(), before);
    }
    assert_int_equal(err, KITH_OK);
    assert_true(rounds > 6); /* asked often: the last n was above 100 */
}

static void test_codebook_survives_each_oom(void **state)
{
    (void)state;
    struct slice_config config = config_of(KITH_DOT, 6);
    make_rows(6, 10, KITH_DOT);
    struct codebook_training training = training_of(&config, CODEBOOK_PQ4);
    training.n_rows = 500;
    struct codebook *codebook = NULL, *read = NULL;
    long before = kith_mem_live();
    enum kith_err err = KITH_NOMEM;
    for (long n = 0; err == KITH_NOMEM; n++) {
        kith_mem_fail_after(n);
        err = codebook_train(&codebook, &training, NULL);
        kith_mem_fail_after(-1);
        assert_true(err == KITH_OK || kith_mem_live() == before);
    }
    assert_int_equal(err, KITH_OK);
    long with_one = kith_mem_live();
    err = KITH_NOMEM;
    for (long n = 0; err == KITH_NOMEM; n++) {
        kith_mem_fail_after(n);
        err = codebook_load(&read, codebook_bytes(codebook), &config, NULL);
        kith_mem_fail_after(-1);
        assert_true(err == KITH_OK || kith_mem_live() == with_one);
    }
    assert_int_equal(err, KITH_OK);
    codebook_unref(read);
    codebook_unref(codebook);
    assert_int_equal(kith_mem_live(), before);
}

static void sign(uint8_t *bytes, size_t len)
{
    kith_store_u64(bytes + len - CODEBOOK_HASH_BYTES,
                   codebook_hash(bytes, len - CODEBOOK_HASH_BYTES));
}

/* What was measured for an index holds for the order of lists that it was measured with. */
static void test_codebook_of_the_version_before_ranks_as_it_did(void **state)
{
    (void)state;
    for (int metric = KITH_COSINE; metric <= KITH_EUCLID; metric++) {
        struct slice_config config = config_of((enum kith_metric)metric, 6);
        make_rows(6, 10, config.metric);
        struct codebook_training training = training_of(&config, CODEBOOK_PQ4);
        struct codebook *made, *read;
        assert_int_equal(codebook_train(&made, &training, NULL), KITH_OK);
        assert_true(made->weight == (metric == KITH_EUCLID ? 1 : CODEBOOK_WEIGHT));
        struct kith_bytes now = codebook_bytes(made);
        uint8_t *before = kith_memdup(now.data, now.len);
        assert_non_null(before);
        kith_store_u32(before + 4, CODEBOOK_OLDEST);
        sign(before, now.len);
        struct kith_bytes bytes = {before, now.len};
        assert_int_equal(codebook_load(&read, bytes, &config, NULL), KITH_OK);
        assert_true(read->weight == 1);
        check_shape(read, &config, CODEBOOK_PQ4);
        kith_free(before);
        codebook_unref(read);
        codebook_unref(made);
    }
}

static void test_codebook_refuses_damaged_bytes(void **state)
{
    (void)state;
    struct slice_config config = config_of(KITH_DOT, 6);
    make_rows(6, 10, KITH_DOT);
    struct codebook_training training = training_of(&config, CODEBOOK_PQ4);
    struct codebook *codebook, *read;
    training.n_rows = 300;
    assert_int_equal(codebook_train(&codebook, &training, NULL), KITH_OK);
    struct kith_bytes good = codebook_bytes(codebook);
    uint8_t *bytes = kith_memdup(good.data, good.len);
    assert_non_null(bytes);
    for (size_t cut = 0; cut < good.len; cut++)
        assert_int_equal(codebook_load(&read, (struct kith_bytes){bytes, cut}, &config, NULL),
                         KITH_CORRUPT);
    for (size_t at = 0; at < good.len; at++) { /* any byte: the hash tells */
        bytes[at] ^= 0x40;
        assert_int_equal(codebook_load(&read, (struct kith_bytes){bytes, good.len}, &config, NULL),
                         KITH_CORRUPT);
        bytes[at] ^= 0x40;
    }
    static const struct {
        size_t at;
        uint32_t value;
    } damages[] = {{4, CODEBOOK_OLDEST - 1},
                   {4, CODEBOOK_VERSION + 1},
                   {8, KITH_COSINE},
                   {12, 0},
                   {12, CODEBOOK_ROWS},
                   {16, 7},
                   {20, 0},
                   {20, 1u << 20},
                   {24, 0},
                   {24, 4},
                   {28, 5},
                   {36, 0x3f700000u},
                   {36, 0x7f800000u},
                   {48, 0x7f800000u},
                   {52, 0xbf800000u},
                   {56, 0},
                   {60, 0x7fc00000u},
                   {CODEBOOK_HEADER_BYTES, 0x7fc00000u},
                   {CODEBOOK_HEADER_BYTES + 4, 0x7f7fffffu}}; /* its square is infinite */
    for (size_t i = 0; i < sizeof damages / sizeof damages[0]; i++) {
        memcpy(bytes, good.data, good.len);
        kith_store_u32(bytes + damages[i].at, damages[i].value);
        sign(bytes, good.len);
        assert_int_equal(codebook_load(&read, (struct kith_bytes){bytes, good.len}, &config, NULL),
                         KITH_CORRUPT);
    }
    struct slice_config other = config_of(KITH_DOT, 7);
    assert_int_equal(codebook_load(&read, good, &other, NULL), KITH_CORRUPT);
    kith_free(bytes);
    codebook_unref(codebook);
}

static void test_codebook_sizes_have_bounds(void **state)
{
    (void)state;
    assert_int_equal(codebook_lists_for(0), 16);
    assert_int_equal(codebook_lists_for(331479), 1152);
    assert_int_equal(codebook_lists_for(UINT64_MAX), CODEBOOK_LISTS_MAX);
    for (uint32_t dim = 1; dim <= KITH_DIM_MAX; dim *= 2) {
        assert_int_equal(codebook_sample_rows(100, dim), 100);
        assert_true((uint64_t)codebook_sample_rows(UINT64_MAX, dim) * dim <= 1u << 28);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_codebook_is_the_same_after_its_bytes_were_read),
        cmocka_unit_test(test_codebook_finds_clusters),
        cmocka_unit_test(test_codebook_words_are_as_long_as_rows),
        cmocka_unit_test(test_codebook_does_not_depend_on_threads),
        cmocka_unit_test(test_codebook_takes_odd_samples),
        cmocka_unit_test(test_codebook_refuses_what_it_cannot_train),
        cmocka_unit_test(test_codebook_training_stops_when_told),
        cmocka_unit_test(test_codebook_survives_each_oom),
        cmocka_unit_test(test_codebook_of_the_version_before_ranks_as_it_did),
        cmocka_unit_test(test_codebook_refuses_damaged_bytes),
        cmocka_unit_test(test_codebook_sizes_have_bounds),
    };
    return cmocka_run_group_tests(tests, random_set_up, NULL);
}
