#include "shard/index/nearest.h"

#include <float.h>
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include "common/kith_mem.h"
#include "common/kith_testing.h"

#define LISTS_MAX 2100u
#define DIM_MAX   520u

static float centroids[LISTS_MAX * (DIM_MAX + 2)], values[NEAREST_ROWS * (DIM_MAX + 2)];
static float lengths2[NEAREST_ROWS], scores[NEAREST_ROWS];
static uint32_t lists[NEAREST_ROWS];

static const uint32_t dims[] = {1, 2, 3, 4, 5, 31, 32, 33, 100, 512};
#define N_DIMS (sizeof dims / sizeof dims[0])

/* Centroids of numbers of this size around a point of this size; rows, too, or, if near > 0, so
 * far from the centroids. */
struct world {
    enum kith_metric metric;
    uint32_t dim, n_lists, n_rows;
    float spread, offset, near;
};

static void fill(const struct world *world, const struct nearest_space *space)
{
    float row[DIM_MAX];
    for (uint32_t i = 0; i < world->n_lists + world->n_rows; i++) {
        bool is_list = i < world->n_lists;
        uint32_t r = is_list ? i : i - world->n_lists;
        const float *near = centroids + (size_t)random_below(world->n_lists) * space->width;
        for (uint32_t j = 0; j < world->dim; j++)
            if (!is_list && world->near > 0.0f)
                row[j] = near[j] + world->near * random_unit();
            else
                row[j] =
                    world->offset * (j % 3 == 0 ? 1.0f : -0.5f) + world->spread * random_unit();
        float *out = (is_list ? centroids : values) + (size_t)r * space->width;
        float length2 = nearest_prepare(space, row, KITH_ROWS_F32, out);
        if (is_list)
            nearest_close(space, out);
        else
            lengths2[r] = length2;
    }
}

static struct nearest_space make(const struct world *world)
{
    float most = fabsf(world->offset) + world->spread;
    struct nearest_space space =
        nearest_space_of(world->metric, world->dim, most * most * (float)world->dim);
    fill(world, &space);
    return space;
}

static double score_of(const struct nearest_space *space, uint32_t r, uint32_t c)
{
    const float *row = values + (size_t)r * space->width;
    const float *centroid = centroids + (size_t)c * space->width;
    double score = 0.0;
    for (uint32_t j = 0; j + 1 < space->width; j++)
        score +=
            ((double)row[j] - (double)centroid[j] / 2) * (double)centroid[j]; /* less cancelled */
    return score;
}

/* What was found is nearest but for the roundings of floats. */
static void check(const struct world *world, const struct nearest_space *space)
{
    for (uint32_t r = 0; r < world->n_rows; r++) {
        assert_true(lists[r] < world->n_lists);
        double best = -DBL_MAX, found = score_of(space, r, lists[r]);
        for (uint32_t c = 0; c < world->n_lists; c++) {
            double score = score_of(space, r, c);
            best = score > best ? score : best;
        }
        const float *nearest = centroids + (size_t)lists[r] * space->width;
        double slack = 1e-5 * (double)(lengths2[r] - 2 * nearest[space->width - 1] + FLT_MIN);
        assert_true(found >= best - slack);
        assert_true(fabs((double)scores[r] - found) <= 2 * slack);
    }
}

static struct world any_world(void)
{
    static const float spreads[] = {1.0f, 1e-10f, 1e10f};
    return (struct world){.metric = random_below(2) ? KITH_EUCLID : KITH_DOT,
                          .dim = dims[random_below(N_DIMS)],
                          .n_lists = 1 + random_below(random_below(2) ? 40 : 1500),
                          .n_rows = 1 + random_below(NEAREST_ROWS),
                          .spread = spreads[random_below(3)]};
}

static void find(const struct nearest_set *set, uint32_t n_rows)
{
    float *scratch = kith_xalloc(nearest_scratch_bytes(set));
    struct nearest_rows rows = {values, lengths2, n_rows};
    memset(lists, 0xff, sizeof lists);
    nearest_find(set, &rows, scratch, lists, scores);
    kith_free(scratch);
}

static void find_all(const struct world *world, const struct nearest_space *space)
{
    struct nearest_set set;
    struct kith_diag diag = {0};
    assert_int_equal(nearest_set_init(&set, space, centroids, world->n_lists, &diag), KITH_OK);
    nearest_set_renew(&set);
    find(&set, world->n_rows);
    nearest_set_fini(&set);
}

static void test_nearest_is_nearest(void **state)
{
    (void)state;
    for (uint32_t round = 0; round < 60; round++) {
        struct world world = any_world();
        struct nearest_space space = make(&world);
        find_all(&world, &space);
        check(&world, &space);
    }
}

/* Bytes cannot tell them apart, and must not pretend to. */
static void test_nearest_of_centroids_far_from_the_origin(void **state)
{
    (void)state;
    for (uint32_t round = 0; round < 20; round++) {
        struct world world = {.metric = KITH_EUCLID,
                              .dim = dims[3 + random_below(N_DIMS - 3)],
                              .n_lists = 200 + random_below(200),
                              .n_rows = NEAREST_ROWS,
                              .spread = 1.0f,
                              .offset = (float)(1u << random_below(12))};
        struct nearest_space space = make(&world);
        find_all(&world, &space);
        check(&world, &space);
    }
}

static void test_nearest_by_bytes_with_each_kernel(void **state)
{
    (void)state;
    for (uint32_t round = 0; round < 12; round++) {
        struct world world = any_world();
        world.dim = dims[5 + random_below(N_DIMS - 5)]; /* of fewer, bytes say too little */
        world.near = world.spread / 4;
        struct nearest_space space = make(&world);
        const struct nearest_kernels *kernels;
        for (uint32_t v = 0; (kernels = nearest_kernels_variant(v)) != NULL; v++) {
            struct nearest_bytes bytes;
            struct kith_diag diag = {0};
            assert_int_equal(
                nearest_bytes_init(&bytes, world.n_lists, space.dim, space.width, kernels, &diag),
                KITH_OK);
            nearest_bytes_set(&bytes, centroids);
            void *scratch = kith_xalloc(nearest_bytes_scratch(&bytes, NEAREST_ROWS));
            struct nearest_rows rows = {values, lengths2, world.n_rows};
            assert_true(nearest_bytes_find(&bytes, centroids, &rows, scratch, lists, scores));
            check(&world, &space);
            kith_free(scratch);
            nearest_bytes_fini(&bytes);
        }
    }
}

static void test_nearest_of_rows_that_are_no_numbers(void **state)
{
    (void)state;
    static const float odd[] = {NAN, INFINITY, -INFINITY, 3e38f, 1e25f, 0.0f};
    struct world world = {
        .metric = KITH_EUCLID, .dim = 33, .n_lists = 70, .n_rows = 6, .spread = 1.0f};
    struct nearest_space space = make(&world);
    for (uint32_t r = 0; r < 6; r++) {
        float row[33] = {0};
        row[7] = odd[r];
        lengths2[r] = nearest_prepare(&space, row, KITH_ROWS_F32, values + r * space.width);
    }
    find_all(&world, &space);
    for (uint32_t r = 0; r < 6; r++)
        assert_true(lists[r] < world.n_lists);
    world.n_rows = 1; /* the row of zeros alone, among numbers */
    lengths2[0] = lengths2[5];
    memcpy(values, values + 5 * space.width, space.width * sizeof *values);
    find_all(&world, &space);
    check(&world, &space);
}

/* ---- kernels --------------------------------------------------------------------------------- */

static void test_nearest_kernels_agree_to_the_bit(void **state)
{
    (void)state;
    enum { TILE = 96, DIM4 = 9, ROWS = NEAREST_KERNELS_ROWS };
    static uint8_t bytes[TILE * DIM4 * 4];
    static int8_t rows8[ROWS * DIM4 * 4];
    float numbers[5][TILE], of_rows[4][ROWS], want[ROWS * TILE], got[ROWS * TILE];
    float most[ROWS], maxima[ROWS];
    int32_t sums128[ROWS];
    for (uint32_t i = 0; i < sizeof bytes; i++)
        bytes[i] = (uint8_t)(1 + random_below(255));
    for (uint32_t i = 0; i < sizeof rows8; i++)
        rows8[i] = (int8_t)((int)random_below(255) - 127);
    for (uint32_t i = 0; i < TILE; i++)
        for (uint32_t k = 0; k < 5; k++)
            numbers[k][i] = fabsf(random_unit());
    for (uint32_t r = 0; r < ROWS; r++) {
        for (uint32_t k = 0; k < 4; k++)
            of_rows[k][r] = fabsf(random_unit());
        sums128[r] = (int32_t)random_below(100000) - 50000;
    }
    struct nearest_kernels_tile tile = {bytes,      numbers[0], numbers[1], numbers[2],
                                        numbers[3], numbers[4], TILE,       DIM4};
    struct nearest_kernels_rows rows = {rows8,      sums128,    of_rows[0],
                                        of_rows[1], of_rows[2], of_rows[3]};
    const struct nearest_kernels *kernels;
    nearest_kernels_variant(0)->bounds(&tile, &rows, want, most);
    for (uint32_t v = 1; (kernels = nearest_kernels_variant(v)) != NULL; v++) {
        kernels->bounds(&tile, &rows, got, maxima);
        assert_memory_equal(got, want, sizeof want);
        assert_memory_equal(maxima, most, sizeof most);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_nearest_is_nearest),
        cmocka_unit_test(test_nearest_of_centroids_far_from_the_origin),
        cmocka_unit_test(test_nearest_by_bytes_with_each_kernel),
        cmocka_unit_test(test_nearest_of_rows_that_are_no_numbers),
        cmocka_unit_test(test_nearest_kernels_agree_to_the_bit),
    };
    return cmocka_run_group_tests(tests, random_set_up, NULL);
}
