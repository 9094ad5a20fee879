#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include <cmocka.h>

#include "common/kith_testing.h"
#include "coordinator/cluster/placement.h"

static uint64_t state;

static uint64_t next_random(void)
{
    return kith_random(&state);
}

static void test_placement_without_nodes_assigns_nothing(void **unused)
{
    (void)unused;
    struct placement_slice slice = {.collection = 1};
    assert_int_equal(placement_assign(NULL, 0, &slice, 1), 0);
    assert_int_equal(slice.node, 0);
}

static void test_placement_spreads_a_collection(void **unused)
{
    (void)unused;
    struct placement_node nodes[] = {{.id = 30}, {.id = 10}, {.id = 20}};
    struct placement_slice slices[6] = {0};
    for (uint32_t i = 0; i < 6; i++) {
        slices[i] = (struct placement_slice){.collection = 1, .slice = i};
    }
    assert_int_equal(placement_assign(nodes, 3, slices, 6), 6);
    static const uint64_t expected[] = {10, 20, 30, 10, 20, 30};
    for (size_t i = 0; i < 6; i++) {
        assert_int_equal(slices[i].node, expected[i]);
    }
}

static void test_placement_prefers_the_emptier_node(void **unused)
{
    (void)unused;
    struct placement_node nodes[] = {{.id = 1}, {.id = 2}};
    struct placement_slice slices[] = {
        {.collection = 1, .slice = 0, .node = 1},
        {.collection = 1, .slice = 1, .node = 1},
        {.collection = 2, .slice = 0},
    };
    assert_int_equal(placement_assign(nodes, 2, slices, 3), 1);
    assert_int_equal(slices[2].node, 2);
}

/* Random clusters: nothing moves, all is placed, only on given nodes, new collections balanced, and
 * the same input gives the same answer. */
static void check_one(uint64_t seed)
{
    enum { NODES = 12, SLICES = 200 };
    struct placement_node nodes[NODES] = {0};
    struct placement_slice slices[SLICES];
    struct placement_slice before[SLICES];
    state = seed;
    const size_t n_nodes = 1 + next_random() % NODES;
    const size_t n_collections = 1 + next_random() % 8;
    for (size_t i = 0; i < n_nodes; i++) {
        nodes[i].id = i + 1;
    }
    size_t n = 0;
    size_t n_missing = 0;
    for (uint64_t c = 0; c < n_collections; c++) {
        const size_t n_here = 1 + next_random() % (SLICES / 8);
        const bool fresh = next_random() % 2;
        for (uint32_t s = 0; s < n_here; s++) {
            /* Some are on nodes that are away (ids 100 and more). */
            const uint64_t kind = next_random() % 3;
            const uint64_t at = kind == 0 ? 1 + next_random() % n_nodes : 100 + next_random() % 3;
            slices[n++] = (struct placement_slice){
                .collection = c, .slice = s, .node = fresh || kind == 2 ? 0 : at};
            n_missing += slices[n - 1].node == 0;
        }
    }
    memcpy(before, slices, sizeof slices);
    assert_int_equal(placement_assign(nodes, n_nodes, slices, n), n_missing);
    for (size_t i = 0; i < n; i++) {
        if (before[i].node) {
            assert_int_equal(slices[i].node, before[i].node);
        } else {
            assert_in_range(slices[i].node, 1, n_nodes);
        }
    }
    for (uint64_t c = 0; c < n_collections; c++) {
        size_t counts[NODES + 1] = {0};
        bool fresh = true;
        for (size_t i = 0; i < n; i++) {
            if (slices[i].collection == c) {
                fresh &= before[i].node == 0;
                counts[slices[i].node <= n_nodes ? slices[i].node : 0]++;
            }
        }
        size_t low = SIZE_MAX;
        size_t high = 0;
        for (size_t i = 1; i <= n_nodes; i++) {
            low = counts[i] < low ? counts[i] : low;
            high = counts[i] > high ? counts[i] : high;
        }
        assert_true(!fresh || high - low <= 1);
    }
    struct placement_slice again[SLICES];
    memcpy(again, before, sizeof before);
    placement_assign(nodes, n_nodes, again, n);
    assert_memory_equal(again, slices, n * sizeof *slices);
}

static void test_placement_holds_its_promises(void **unused)
{
    (void)unused;
    const uint64_t seed = test_env("KITH_SEED", (uint64_t)time(NULL));
    printf("KITH_SEED=%llu\n", (unsigned long long)seed);
    for (uint64_t i = 0; i < 2000; i++) {
        check_one(seed + i);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_placement_without_nodes_assigns_nothing),
        cmocka_unit_test(test_placement_spreads_a_collection),
        cmocka_unit_test(test_placement_prefers_the_emptier_node),
        cmocka_unit_test(test_placement_holds_its_promises),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
