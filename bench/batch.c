/* Queries of one request against the same queries one by one: Kith's lists, one thread.
 *
 * usage: bench_batch FOLDER [--rows N] [--queries Q] [--rounds R] [--index SPEC]
 *
 * The settings are recall targets 0.95 and 0.99. In every round each size of batch runs in turn for
 * a moment; a ratio is taken within a round, and the median of the rounds counts. Times are CPU
 * time of the searching thread. */
#include <getopt.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "ann_engine.h"
#include "common/kith_clock.h"
#include "common/kith_mem.h"
#include "median.h"

#define K          10u
#define ROUNDS_MAX 64u
#define SLICE_NS   300000000u

static const uint32_t sizes[] = {1, 4, 16, 64, 128};
static const char *const targets[] = {"recall 0.95", "recall 0.99"};
#define SIZES   (sizeof(sizes) / sizeof(sizes[0]))
#define TARGETS (sizeof(targets) / sizeof(targets[0]))
#define LARGEST 128u

struct bench {
    struct ann_set set;
    struct ann_engine engine;
    uint32_t rounds, rows, queries;
    const char *index;
};

struct run {
    double us, recall;
};

/* Queries from number *next on, so many at a time, for SLICE_NS. */
static struct run run_slice(struct bench *bench, uint32_t size, uint32_t *next)
{
    const struct ann_set *set = &bench->set;
    uint32_t rows[LARGEST * K], found[LARGEST];
    uint64_t cpu = 0, queries = 0, hits = 0;

    while (cpu < SLICE_NS) {
        if (*next + size > set->n_queries)
            *next = 0;
        uint64_t begun = kith_thread_ns();
        bench->engine.search_batch(bench->engine.index, set->queries + (size_t)*next * set->dim,
                                   size, K, rows, found);
        cpu += kith_thread_ns() - begun;
        for (uint32_t i = 0; i < size; i++)
            hits += ann_set_hits(set, *next + i, rows + (size_t)i * K, found[i], K);
        queries += size;
        *next += size;
    }
    return (struct run){(double)cpu / 1e3 / (double)queries, (double)hits / (double)queries / K};
}

static void choose_target(struct bench *bench, const char *target)
{
    char name[ANN_NAME_BYTES];

    for (uint32_t i = 0; i < bench->engine.n_settings; i++) {
        bench->engine.describe(bench->engine.index, i, name);
        if (strcmp(name, target) == 0) {
            bench->engine.choose(bench->engine.index, i);
            return;
        }
    }
    fprintf(stderr, "batch: no setting '%s'\n", target);
    exit(1);
}

static void measure(struct bench *bench, const char *target)
{
    double us[SIZES][ROUNDS_MAX], ratio[SIZES][ROUNDS_MAX], recall[SIZES] = {0};
    uint32_t next[SIZES] = {0};

    choose_target(bench, target);
    for (uint32_t s = 0; s < SIZES; s++)
        (void)run_slice(bench, sizes[s], &next[s]);
    for (uint32_t r = 0; r < bench->rounds; r++)
        for (uint32_t s = 0; s < SIZES; s++) {
            struct run run = run_slice(bench, sizes[s], &next[s]);
            us[s][r] = run.us;
            ratio[s][r] = us[0][r] / run.us;
            recall[s] += run.recall / bench->rounds;
        }
    for (uint32_t s = 0; s < SIZES; s++) {
        fprintf(stderr, "%-12s batches of %3u: %7.1f us of CPU a query, recall %.4f, x %.2f\n",
                target, sizes[s], median(us[s], bench->rounds), recall[s],
                median(ratio[s], bench->rounds));
        printf("{\"bench\":\"batch\",\"case\":\"%s\",\"data\":\"%s\",\"rows\":%u,\"dim\":%u,"
               "\"batch\":%u,\"value\":%.2f,\"unit\":\"us\",\"recall\":%.4f,\"ratio\":%.3f}\n",
               target, bench->set.name, bench->set.n, bench->set.dim, sizes[s],
               median(us[s], bench->rounds), recall[s], median(ratio[s], bench->rounds));
    }
    fflush(stdout);
}

int main(int argc, char **argv)
{
    static const struct option options[] = {{"rows", required_argument, NULL, 'n'},
                                            {"queries", required_argument, NULL, 'q'},
                                            {"rounds", required_argument, NULL, 'r'},
                                            {"index", required_argument, NULL, 'i'},
                                            {0}};
    struct bench bench = {.rounds = 7, .index = "pq4"};
    int option;

    while ((option = getopt_long(argc, argv, "", options, NULL)) != -1) {
        if (option == 'n')
            bench.rows = (uint32_t)strtoul(optarg, NULL, 10);
        else if (option == 'q')
            bench.queries = (uint32_t)strtoul(optarg, NULL, 10);
        else if (option == 'r')
            bench.rounds = (uint32_t)strtoul(optarg, NULL, 10);
        else if (option == 'i')
            bench.index = optarg;
        else
            return 2;
    }
    if (optind + 1 != argc || bench.rounds < 1 || bench.rounds > ROUNDS_MAX) {
        fprintf(stderr, "usage: bench_batch FOLDER [--rows N] [--queries Q] [--rounds R] "
                        "[--index SPEC]\n");
        return 2;
    }
    ann_set_open(&bench.set, argv[optind], bench.rows, bench.queries);
    if (bench.set.n_queries < LARGEST) {
        fprintf(stderr, "batch: a set of at least %u queries is needed\n", LARGEST);
        return 1;
    }
    ann_kith_open(&bench.engine, &bench.set, bench.index, 2);
    for (uint32_t t = 0; t < TARGETS; t++)
        measure(&bench, targets[t]);
    bench.engine.close(bench.engine.index);
    return 0;
}
