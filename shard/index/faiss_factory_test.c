#include "shard/index/faiss_factory.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <string.h>
#include <cmocka.h>

#include "proto/kith_limits.h"

#define DIM 16u

static void test_faiss_factory_takes_known_pieces(void **state)
{
    (void)state;
    const char *taken[] = {"Flat",
                           "SQ4",
                           "SQ6",
                           "SQfp16",
                           "HNSW4",
                           "HNSW256,Flat",
                           "IVF1,Flat",
                           "IVF65536,SQ8",
                           "IVF32_HNSW8,PQ16x12",
                           "PQ8x4fs",
                           "PQ8x4fsr",
                           "PCA6,PQ3",
                           "PCAR8,SQ8,RFlat",
                           "OPQ4,PQ4",
                           "OPQ4_8,IVF16,PQ8x4fs,RFlat"};
    const enum kith_metric metrics[] = {KITH_COSINE, KITH_DOT, KITH_EUCLID};
    for (size_t i = 0; i < sizeof taken / sizeof *taken; i++)
        for (size_t m = 0; m < sizeof metrics / sizeof *metrics; m++) {
            struct kith_diag diag = {0};
            if (faiss_factory_check(taken[i], DIM, metrics[m], &diag) != KITH_OK)
                fail_msg("%s: %s", taken[i], diag.text);
        }
    const char *by_l1[] = {"Flat", "HNSW16", "HNSW16,Flat"};
    for (size_t i = 0; i < sizeof by_l1 / sizeof *by_l1; i++)
        assert_int_equal(faiss_factory_check(by_l1[i], DIM, KITH_MANHATTAN, NULL), KITH_OK);
}

static void test_faiss_factory_refuses_bad_pieces(void **state)
{
    (void)state;
    const struct {
        const char *factory, *text;
    } cases[] = {
        {"", "'' is not a known piece"},
        {"flat", "'flat' is not"},
        {"LSH", "'LSH' is not"},
        {"IVF16(Index5),Flat", "'IVF16(Index5)'"},
        {"Flat,Refine(IVF4,Flat)", "'Refine(IVF4'"},
        {"NSG16", "'NSG16' is not"},
        {"IVF,Flat", "'IVF' is not"},
        {"IVF64,Flat,", "'' is not"},
        {"IVF0,Flat", "0 is not from 1 to 65536"},
        {"IVF65537,Flat", "65537 is not"},
        {"IVF999999999,Flat", "is not a known piece"},
        {"HNSW1", "1 is not from 4"},
        {"PQ5", "5 does not divide dimension 16"},
        {"PCA6,PQ4", "4 does not divide dimension 6"},
        {"PQ8x16", "16 is not from 4 to 12"},
        {"PQ8x5fs", "5 is not from 4 to 4"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct kith_diag diag = {0};
        assert_int_equal(faiss_factory_check(cases[i].factory, DIM, KITH_EUCLID, &diag),
                         KITH_BAD_REQUEST);
        if (strstr(diag.text, cases[i].text) == NULL)
            fail_msg("%s: %s", cases[i].factory, diag.text);
    }
}

static void test_faiss_factory_refuses_what_is_too_big(void **state)
{
    (void)state;
    char longest[KITH_FAISS_FACTORY_MAX + 2];
    memset(longest, 'x', sizeof longest - 1);
    longest[sizeof longest - 1] = '\0';
    assert_int_equal(faiss_factory_check(longest, DIM, KITH_DOT, NULL), KITH_TOO_BIG);
    longest[sizeof longest - 2] = '\0';
    assert_int_equal(faiss_factory_check(longest, DIM, KITH_DOT, NULL), KITH_BAD_REQUEST);
    assert_int_equal(faiss_factory_check("Flat", 0, KITH_DOT, NULL), KITH_TOO_BIG);
    assert_int_equal(faiss_factory_check("Flat", KITH_DIM_MAX, KITH_DOT, NULL), KITH_OK);
    assert_int_equal(faiss_factory_check("Flat", KITH_DIM_MAX + 1, KITH_DOT, NULL), KITH_TOO_BIG);
}

static void test_faiss_factory_knows_who_has_no_manhattan(void **state)
{
    (void)state;
    const char *not_l1[] = {"IVF64,Flat", "SQ8", "PQ4", "PCA4,Flat", "HNSW16,SQ8", "Flat,RFlat"};
    for (size_t i = 0; i < sizeof not_l1 / sizeof *not_l1; i++)
        assert_int_equal(faiss_factory_check(not_l1[i], DIM, KITH_MANHATTAN, NULL),
                         KITH_UNSUPPORTED);
}

static void test_faiss_factory_tells_the_shape(void **state)
{
    (void)state;
    const struct {
        const char *factory;
        struct faiss_factory_shape shape;
    } cases[] = {
        {"Flat", {.ranked_len = 4}},
        {"Flat,RFlat", {.ranked_len = 4}},
        {"SQ8", {.coded = true, .ranked_len = 3}},
        {"HNSW32,Flat", {.graph = true, .ranked_len = 11}},
        {"IVF64,Flat", {.lists = 64, .centroids = 64, .ranked_len = 10}},
        {"IVF512_HNSW8,SQ8,RFlat",
         {.lists = 512, .centroids = 512, .graph = true, .coded = true, .ranked_len = 16}},
        {"IVF64,PQ8", {.lists = 64, .centroids = 256, .coded = true, .ranked_len = 9}},
        {"IVF64,PQ8x4fs,RFlat", {.lists = 64, .centroids = 64, .coded = true, .ranked_len = 13}},
        {"PQ8x10", {.centroids = 1024, .coded = true, .ranked_len = 6}},
        {"PCA8,Flat", {.coded = true, .ranked_len = 9}},
        {"OPQ4_8,IVF16,PQ4x4fs", {.lists = 16, .centroids = 256, .coded = true, .ranked_len = 20}},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        assert_int_equal(faiss_factory_check(cases[i].factory, DIM, KITH_DOT, NULL), KITH_OK);
        struct faiss_factory_shape found = faiss_factory_shape_of(cases[i].factory);
        const struct faiss_factory_shape *want = &cases[i].shape;
        print_message("%s\n", cases[i].factory);
        assert_int_equal(found.lists, want->lists);
        assert_int_equal(found.centroids, want->centroids);
        assert_int_equal(found.graph, want->graph);
        assert_int_equal(found.coded, want->coded);
        assert_int_equal(found.ranked_len, want->ranked_len);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_faiss_factory_takes_known_pieces),
        cmocka_unit_test(test_faiss_factory_refuses_bad_pieces),
        cmocka_unit_test(test_faiss_factory_refuses_what_is_too_big),
        cmocka_unit_test(test_faiss_factory_knows_who_has_no_manhattan),
        cmocka_unit_test(test_faiss_factory_tells_the_shape),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
