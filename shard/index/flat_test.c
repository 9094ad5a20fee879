#include "shard/index/flat.h"

#include <float.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <cmocka.h>

#include "common/kith_f16.h"
#include "common/kith_mem.h"
#include "common/kith_testing.h"

#define ROWS_MAX 9000u /* more than two of the longest blocks */
#define DIM_MAX  130u
#define Q_MAX    20u
#define K_MAX    50u

/* One random world: rows, queries, who is allowed, and how it is to be cut. */
struct world {
    uint32_t dim, n, n_queries, k;
    enum kernels_form form;
    enum kernels_type type;
    float floor;
    bool masked;
    uint8_t rows[ROWS_MAX * DIM_MAX * 4];
    float queries[Q_MAX * DIM_MAX];
    bool allowed[ROWS_MAX];
    bool dead[ROWS_MAX]; /* `name` refuses them */
};
static struct world world;

static bool name_row(void *ctx, uint32_t row, struct kith_id *id, uint64_t *seq)
{
    struct world *w = ctx;
    *id = (struct kith_id){.lo = (row * 7919u) % 9001u}; /* ids are not in row order */
    *seq = row;
    return !w->dead[row];
}

/* Values on a coarse grid tie often; a far offset makes squared distances cancel; huge ones
 * overflow. */
static float random_value(uint32_t flavour)
{
    float unit = random_unit();
    switch (flavour) {
    case 0:
        return (float)(random_u32() % 3) - 1.0f;
    case 1:
        return 1000.0f + unit;
    case 2:
        return unit * 3e19f;
    default:
        return unit;
    }
}

static void make_world(struct world *w)
{
    w->dim = 1 + random_u32() % DIM_MAX;
    w->n = random_u32() % ROWS_MAX;
    w->n_queries = 1 + random_u32() % Q_MAX;
    w->k = 1 + random_u32() % K_MAX;
    w->form = (enum kernels_form)(random_u32() % KERNELS_FORMS);
    w->type = (enum kernels_type)(random_u32() % KERNELS_TYPES);
    w->masked = random_u32() % 2 == 0;
    w->floor = random_u32() % 4 == 0 ? (float)(random_u32() % 3) : -FLT_MAX;
    uint32_t flavour = random_u32() % 8, keep = 1 + random_u32() % 100;
    for (uint32_t i = 0; i < w->n * w->dim; i++) {
        float value = random_value(flavour);
        uint16_t half = kith_f16_from_f32(value);
        if (w->type == KERNELS_F16)
            memcpy(w->rows + 2 * (size_t)i, &half, 2);
        else
            memcpy(w->rows + 4 * (size_t)i, &value, 4);
    }
    for (uint32_t i = 0; i < w->n_queries * w->dim; i++)
        w->queries[i] = random_value(flavour);
    for (uint32_t i = 0; i < w->n; i++) {
        w->allowed[i] = !w->masked || random_u32() % 100 < keep;
        w->dead[i] = random_u32() % 20 == 0;
    }
}

/* The hits of one query by the scalar kernel and a sort. */
static uint32_t oracle(struct world *w, uint32_t query, struct kith_hit *hits)
{
    uint32_t n = 0;
    for (uint32_t row = 0; row < w->n; row++) {
        struct kith_hit hit = {0};
        struct kernels_rows one = {w->rows + (size_t)row * kernels_row_bytes(w->type, w->dim),
                                   w->dim};
        kernels_scalar.scan[w->form][w->type](w->queries + (size_t)query * w->dim, one, 1,
                                              &hit.rank);
        if (w->allowed[row] && hit.rank >= w->floor && name_row(w, row, &hit.id, &hit.seq))
            hits[n++] = hit;
    }
    qsort(hits, n, sizeof hits[0], (int (*)(const void *, const void *))topk_compare);
    return n < w->k ? n : w->k;
}

static void scan_run(struct world *w, struct flat_search *search, uint32_t first, uint32_t n,
                     struct flat_scratch *scratch)
{
    static uint64_t words[ROWS_MAX / 64 + 1];
    static uint32_t list[ROWS_MAX];
    struct flat_rows run = {.data = w->rows + (size_t)first * kernels_row_bytes(w->type, w->dim),
                            .first = first,
                            .n = n,
                            .name = name_row,
                            .name_ctx = w};
    memset(words, 0, sizeof words);
    for (uint32_t i = 0; i < n; i++)
        if (w->allowed[first + i]) {
            words[i / 64] |= UINT64_C(1) << (i % 64);
            list[run.n_list++] = i;
        }
    if (w->masked && random_u32() % 2 == 0)
        run.list = list;
    else if (w->masked)
        run.allowed = words;
    flat_scan(search, &run, scratch);
}

static void check_world(struct world *w, struct flat_scratch **scratch)
{
    static struct kith_hit memory[2][Q_MAX][K_MAX], want[ROWS_MAX];
    struct topk tops[2][Q_MAX];
    _Atomic float floors[Q_MAX];
    bool shared = random_u32() % 2 == 0;
    for (uint32_t q = 0; q < w->n_queries; q++) {
        floors[q] = -FLT_MAX;
        for (int t = 0; t < 2; t++)
            topk_init(&tops[t][q], w->k, w->floor, memory[t][q]);
    }
    struct flat_search search[2];
    for (int t = 0; t < 2; t++)
        search[t] = (struct flat_search){.form = w->form,
                                         .type = w->type,
                                         .dim = w->dim,
                                         .n_queries = w->n_queries,
                                         .queries = w->queries,
                                         .tops = tops[t],
                                         .floors = shared ? floors : NULL};
    assert_int_equal(flat_scratch_fit(scratch, w->dim, w->n_queries, NULL), KITH_OK);
    for (uint32_t at = 0, n; at < w->n; at += n) {
        n = 1 + random_u32() % ROWS_MAX;
        n = n > w->n - at ? w->n - at : n;
        scan_run(w, &search[random_u32() % 2], at, n, *scratch);
    }
    for (uint32_t q = 0; q < w->n_queries; q++) {
        uint32_t n = oracle(w, q, want);
        topk_merge(&tops[0][q], &tops[1][q]);
        topk_sort(&tops[0][q]);
        assert_int_equal(tops[0][q].n, n);
        for (uint32_t i = 0; i < n; i++) {
            assert_true(tops[0][q].hits[i].rank == want[i].rank);
            assert_int_equal(tops[0][q].hits[i].id.lo, want[i].id.lo);
            assert_int_equal(tops[0][q].hits[i].seq, want[i].seq);
        }
    }
}

static void test_flat_finds_what_a_sort_finds(void **state)
{
    (void)state;
    struct flat_scratch *scratch = NULL;
    uint64_t first = test_env("KITH_SEED", (uint64_t)time(NULL) * 1000);
    for (uint64_t round = 0; round < TEST_SCALE(150, 30); round++) {
        random_begin(first + round);
        make_world(&world);
        check_world(&world, &scratch);
    }
    flat_scratch_free(scratch);
}

static void test_flat_scratch_survives_each_oom(void **state)
{
    (void)state;
    long before = kith_mem_live();
    struct flat_scratch *scratch = NULL;
    enum kith_err err = KITH_NOMEM;
    for (long n = 0; err == KITH_NOMEM; n++) {
        kith_mem_fail_after(n);
        err = flat_scratch_fit(&scratch, 10, 4, NULL);
        kith_mem_fail_after(-1);
        assert_true(err == KITH_OK || (err == KITH_NOMEM && scratch == NULL));
    }
    assert_int_equal(flat_scratch_fit(&scratch, 100, 2, NULL), KITH_OK);
    flat_scratch_free(scratch);
    assert_int_equal(kith_mem_live(), before);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_teardown(test_flat_finds_what_a_sort_finds, random_say_seed),
        cmocka_unit_test(test_flat_scratch_survives_each_oom),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
