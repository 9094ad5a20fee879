/* Approximate search: Kith and its peers over the same vectors, one query at a time on one thread.
 *
 * usage: bench_ann FOLDER [--engine NAME=SPEC]... [--rounds R] [--rows N] [--queries Q]
 *                         [--threads T] [--tune Q]
 *
 * 1. Every engine builds its index with T threads (time, memory).
 * 2. Tuning: each setting of each engine answers the first queries of the set; of each family the
 *    settings that nothing else beats in both recall and rate stay.
 * 3. Measuring, with the other queries: recall of each remaining setting; then rounds, in each of
 *    which all settings of all engines run in turn for a moment. A ratio is taken within a round,
 *    and the median of the rounds counts.
 *
 * Rates are queries per second of CPU time of the searching thread, which never waits: on an idle
 * machine that is the wall clock's; on a busy one it leaves out other programs' turns, though not
 * what they do to the caches. */
#include <getopt.h>
#include <malloc.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "ann_engine.h"
#include "common/kith_clock.h"
#include "common/kith_mem.h"
#include "median.h"

#define K_DEFAULT   10u
#define ENGINES_MAX 16u
#define POINTS_MAX  512u
#define ROUNDS_MAX  64u
#define KEPT_MAX    12u /* settings of one family that are measured, but for those near a target */
#define NEAR_BELOW  0.006
#define NEAR_ABOVE  0.016
#define RECALL_MIN  0.80 /* below nobody looks */
#define MANY        50u  /* settings of an engine: half the queries are enough to tune */
#define SLICE_NS    250000000u
#define TUNE_NS     3000000000u /* for one setting: exact search is slow */
#define SLACK       0.93 /* tuning is noisy: a setting this near to the best is measured, too */

static const double targets[] = {0.95, 0.99};

/* A setting of an engine, and what it does. */
struct point {
    struct ann_engine *engine;
    uint32_t setting, next;                       /* query to go on with */
    double recall, tuned_per_s, wall_share, rows; /* looked at, of a query */
    double per_s[ROUNDS_MAX];
};

struct bench {
    struct ann_set set;
    struct ann_engine engines[ENGINES_MAX];
    struct point points[POINTS_MAX];
    uint32_t n_engines, n_points, n_rounds, n_tune, threads, rows, queries, k;
};

static uint64_t cpu_ns(clockid_t whose)
{
    struct timespec now;

    clock_gettime(whose, &now);
    return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

static uint64_t resident_bytes(void)
{
    unsigned long long total = 0, resident = 0;
    FILE *file = fopen("/proc/self/statm", "r");

    malloc_trim(0);
    if (file == NULL || fscanf(file, "%llu %llu", &total, &resident) != 2)
        resident = 0;
    if (file != NULL)
        fclose(file);
    return resident * (uint64_t)sysconf(_SC_PAGESIZE);
}

/* How many dimensions the set has near a query, whatever it is stored in: the median of the maximum
 * likelihood estimates over the nearest rows (Levina and Bickel 2004; Amsaleg et al. 2015). The
 * higher, the harder every index has it. */
static double local_dimension(const struct ann_set *set)
{
    double *all = kith_xalloc(set->n_queries * sizeof(*all)), result;

    for (uint32_t q = 0; q < set->n_queries; q++) {
        const float *scores = set->truth_scores + (size_t)q * ANN_TRUTH_K;
        double edge = 2 - 2 * (double)scores[ANN_TRUTH_K - 1], sum = 0;
        for (uint32_t i = 0; i + 1 < ANN_TRUTH_K; i++)
            sum += 0.5 * log(fmax(2 - 2 * (double)scores[i], 1e-6) / fmax(edge, 1e-6));
        all[q] = sum < 0 ? -(double)(ANN_TRUTH_K - 1) / sum : 0;
    }
    qsort(all, set->n_queries, sizeof(*all), median_compare);
    result = all[set->n_queries / 2];
    kith_free(all);
    return result;
}

/* ---- building -------------------------------------------------------------------------------- */

static void open_engine(struct bench *bench, const char *name, const char *spec)
{
    static const struct {
        const char *name;
        void (*open)(struct ann_engine *, const struct ann_set *, const char *, uint32_t);
    } known[] = {
        {"kith", ann_kith_open},
#ifdef ANN_HNSWLIB
        {"hnswlib", ann_hnswlib_open},
#endif
#ifdef ANN_FAISS
        {"faiss", ann_faiss_open},
#endif
    };
    struct ann_engine *engine = &bench->engines[bench->n_engines];
    uint64_t before, start, cpu;
    double seconds, cpu_s, bytes;
    uint32_t rows[ANN_TRUTH_K];

    for (size_t i = 0; i < sizeof(known) / sizeof(known[0]); i++) {
        if (strcmp(known[i].name, name) != 0)
            continue;
        before = resident_bytes();
        start = kith_now_ns();
        cpu = cpu_ns(CLOCK_PROCESS_CPUTIME_ID);
        known[i].open(engine, &bench->set, spec, bench->threads);
        seconds = (double)(kith_now_ns() - start) / 1e9;
        cpu_s = (double)(cpu_ns(CLOCK_PROCESS_CPUTIME_ID) - cpu) / 1e9;
        /* What is mapped counts once it was read. */
        engine->choose(engine->index, engine->n_settings - 1);
        start = kith_now_ns();
        for (uint32_t q = 0; q < bench->n_tune && kith_now_ns() - start < TUNE_NS; q++)
            (void)engine->search(engine->index, bench->set.queries + (size_t)q * bench->set.dim,
                                 bench->k, rows);
        bytes = ((double)resident_bytes() - (double)before) / bench->set.n;
        fprintf(stderr,
                "%-11s %-30s built in %6.1f s (%.1f s of CPU), %5.0f bytes a point resident\n",
                engine->family, engine->build, seconds, cpu_s, bytes);
        printf("{\"bench\":\"ann\",\"case\":\"build\",\"data\":\"%s\",\"rows\":%u,\"dim\":%u,"
               "\"engine\":\"%s\",\"build\":\"%s\",\"threads\":%u,\"value\":%.2f,\"unit\":\"s\","
               "\"cpu_s\":%.2f,\"bytes_per_point\":%.0f}\n",
               bench->set.name, bench->set.n, bench->set.dim, engine->family, engine->build,
               bench->threads, seconds, cpu_s, bytes);
        fflush(stdout);
        bench->n_engines++;
        return;
    }
    fprintf(stderr, "ann: no engine '%s' in this build: bench/setup installs the peers\n", name);
    exit(1);
}

/* ---- searching ------------------------------------------------------------------------------- */

struct run {
    uint64_t queries, hits, cpu_ns, wall_ns, rows;
};

/* Queries [first, end), beginning at point->next and around, until n are done or the time is over.
 */
static struct run run_queries(const struct bench *bench, struct point *point, uint32_t first,
                              uint32_t end, uint32_t n, uint64_t limit_ns)
{
    const struct ann_set *set = &bench->set;
    struct ann_engine *engine = point->engine;
    struct run run = {0};
    uint32_t rows[ANN_TRUTH_K];
    uint64_t rows_before = engine->rows_read != NULL ? engine->rows_read(engine->index) : 0;

    engine->choose(engine->index, point->setting);
    while (run.queries < n && run.wall_ns < limit_ns) {
        uint32_t q = first + point->next, found;
        uint64_t cpu = cpu_ns(CLOCK_THREAD_CPUTIME_ID), wall = kith_now_ns();

        found = engine->search(engine->index, set->queries + (size_t)q * set->dim, bench->k, rows);
        run.wall_ns += kith_now_ns() - wall;
        run.cpu_ns += cpu_ns(CLOCK_THREAD_CPUTIME_ID) - cpu;
        run.hits += ann_set_hits(set, q, rows, found, bench->k);
        run.queries++;
        point->next = q + 1 < end ? point->next + 1 : 0;
    }
    if (engine->rows_read != NULL)
        run.rows = engine->rows_read(engine->index) - rows_before;
    return run;
}

static double rate(const struct run *run)
{
    return (double)run->queries * 1e9 / (double)run->cpu_ns;
}

static bool is_better(const struct point *a, const struct point *b)
{
    return strcmp(a->engine->family, b->engine->family) == 0 && a->recall >= b->recall &&
           a->tuned_per_s * SLACK > b->tuned_per_s;
}

static int by_family_and_recall(const void *a, const void *b)
{
    const struct point *x = a, *y = b;
    int family = strcmp(x->engine->family, y->engine->family);

    return family != 0 ? family : (x->recall > y->recall) - (x->recall < y->recall);
}

static bool is_near_target(const struct point *point)
{
    for (size_t i = 0; i < sizeof(targets) / sizeof(targets[0]); i++)
        if (point->recall > targets[i] - NEAR_BELOW && point->recall < targets[i] + NEAR_ABOVE)
            return true;
    return false;
}

/* Of each family: the settings near a target, and at most KEPT_MAX others, spread evenly. */
static void thin(struct bench *bench)
{
    uint32_t kept = 0;

    for (uint32_t i = 0, end; i < bench->n_points; i = end) {
        const char *family = bench->points[i].engine->family;
        uint32_t far = 0, seen = 0;
        for (end = i;
             end < bench->n_points && strcmp(bench->points[end].engine->family, family) == 0; end++)
            far += !is_near_target(&bench->points[end]);
        for (uint32_t j = i; j < end; j++) {
            if (is_near_target(&bench->points[j])) {
                bench->points[kept++] = bench->points[j];
                continue;
            }
            if (far <= KEPT_MAX || seen * KEPT_MAX / far != (seen + 1) * KEPT_MAX / far)
                bench->points[kept++] = bench->points[j];
            seen++;
        }
    }
    bench->n_points = kept;
}

static void tune(struct bench *bench)
{
    struct point *all = kith_xalloc(ENGINES_MAX * POINTS_MAX * sizeof(*all));
    uint32_t n = 0;

    for (uint32_t e = 0; e < bench->n_engines; e++) {
        for (uint32_t s = 0; s < bench->engines[e].n_settings && s < POINTS_MAX; s++) {
            struct point *point = &all[n];
            uint32_t queries =
                bench->engines[e].n_settings > MANY ? bench->n_tune / 2 : bench->n_tune;
            struct run run;

            *point = (struct point){.engine = &bench->engines[e], .setting = s};
            (void)run_queries(bench, point, 0, bench->n_tune, 20, TUNE_NS / 10);
            point->next = 0;
            run = run_queries(bench, point, 0, queries, queries, TUNE_NS);
            point->recall = (double)run.hits / (double)(run.queries * bench->k);
            point->tuned_per_s = rate(&run);
            n += point->recall >= RECALL_MIN || bench->engines[e].n_settings == 1;
        }
    }
    bench->n_points = 0;
    for (uint32_t i = 0; i < n; i++) {
        bool beaten = false;
        for (uint32_t j = 0; j < n && !beaten; j++)
            beaten = is_better(&all[j], &all[i]);
        if (!beaten && bench->n_points < POINTS_MAX)
            bench->points[bench->n_points++] = all[i];
    }
    kith_free(all);
    qsort(bench->points, bench->n_points, sizeof(struct point), by_family_and_recall);
    thin(bench);
}

static void measure(struct bench *bench)
{
    uint32_t first = bench->n_tune, end = bench->set.n_queries;

    for (uint32_t i = 0; i < bench->n_points; i++) {
        struct point *point = &bench->points[i];
        point->next = 0;
        struct run run = run_queries(bench, point, first, end, end - first, 4 * (uint64_t)TUNE_NS);
        point->recall = (double)run.hits / (double)(run.queries * bench->k);
        point->rows = (double)run.rows / (double)run.queries;
        point->next = 0;
    }
    for (uint32_t r = 0; r < bench->n_rounds; r++)
        for (uint32_t i = 0; i < bench->n_points; i++) {
            struct point *point = &bench->points[i];
            struct run run;

            (void)run_queries(bench, point, first, end, 20, SLICE_NS / 10);
            run = run_queries(bench, point, first, end, UINT32_MAX, SLICE_NS);
            point->per_s[r] = rate(&run);
            point->wall_share += (double)run.cpu_ns / (double)run.wall_ns / bench->n_rounds;
        }
}

/* ---- telling --------------------------------------------------------------------------------- */

static void tell_points(const struct bench *bench)
{
    char setting[ANN_NAME_BYTES];

    fprintf(stderr, "\n%-11s %-30s %-26s %7s %10s %6s %9s\n", "engine", "build", "setting",
            "recall", "queries/s", "on CPU", "rows");
    for (uint32_t i = 0; i < bench->n_points; i++) {
        const struct point *point = &bench->points[i];
        double per_s = median(point->per_s, bench->n_rounds);

        point->engine->describe(point->engine->index, point->setting, setting);
        fprintf(stderr, "%-11s %-30s %-26s %7.4f %10.0f %5.0f%% %9.0f\n", point->engine->family,
                point->engine->build, setting, point->recall, per_s, 100 * point->wall_share,
                point->rows);
        printf("{\"bench\":\"ann\",\"case\":\"curve\",\"data\":\"%s\",\"rows\":%u,\"dim\":%u,"
               "\"engine\":\"%s\",\"build\":\"%s\",\"setting\":\"%s\",\"recall\":%.4f,"
               "\"value\":%.1f,\"unit\":\"queries/s\",\"on_cpu\":%.2f,\"rows_read\":%.0f}\n",
               bench->set.name, bench->set.n, bench->set.dim, point->engine->family,
               point->engine->build, setting, point->recall, per_s, point->wall_share, point->rows);
    }
}

/* The rate of a family's best setting with this recall in round r; 0: it has none. */
static double best_in_round(const struct bench *bench, const char *family, double recall,
                            uint32_t r)
{
    double best = 0;

    for (uint32_t i = 0; i < bench->n_points; i++) {
        const struct point *point = &bench->points[i];
        if (strcmp(point->engine->family, family) == 0 && point->recall >= recall)
            best = fmax(best, point->per_s[r]);
    }
    return best;
}

static void tell_at(const struct bench *bench, const char *family, double recall)
{
    double rates[ROUNDS_MAX] = {0}, ratios[ROUNDS_MAX] = {0};
    bool compared = strncmp(family, "kith", 4) != 0;

    for (uint32_t r = 0; r < bench->n_rounds; r++) {
        double ours = best_in_round(bench, "kith", recall, r);
        rates[r] = best_in_round(bench, family, recall, r);
        compared = compared && rates[r] > 0 && ours > 0;
        ratios[r] = rates[r] > 0 ? ours / rates[r] : 0;
    }
    if (rates[0] <= 0) {
        fprintf(stderr, "  %-11s does not reach it\n", family);
        return;
    }
    fprintf(stderr, "  %-11s %10.0f /s", family, median(rates, bench->n_rounds));
    printf("{\"bench\":\"ann\",\"case\":\"at-recall\",\"data\":\"%s\",\"rows\":%u,\"dim\":%u,"
           "\"recall\":%g,\"engine\":\"%s\",\"value\":%.1f,\"unit\":\"queries/s\"",
           bench->set.name, bench->set.n, bench->set.dim, recall, family,
           median(rates, bench->n_rounds));
    if (compared) {
        double ratio = median(ratios, bench->n_rounds), low = ratios[0];
        for (uint32_t r = 1; r < bench->n_rounds; r++)
            low = fmin(low, ratios[r]);
        fprintf(stderr, "   kith is %.2f times as fast (worst round %.2f)", ratio, low);
        printf(",\"ratio\":%.3f,\"ratio_min\":%.3f", ratio, low);
    }
    fputc('\n', stderr);
    puts("}");
}

static void tell_at_recall(const struct bench *bench, double recall)
{
    fprintf(stderr, "\nat recall %.2f, each one's best setting\n", recall);
    for (uint32_t e = 0; e < bench->n_engines; e++) {
        bool told = false;
        for (uint32_t i = 0; i < e && !told; i++)
            told = strcmp(bench->engines[i].family, bench->engines[e].family) == 0;
        if (!told)
            tell_at(bench, bench->engines[e].family, recall);
    }
}

/* ---- main ------------------------------------------------------------------------------------ */

static _Noreturn void usage(void)
{
    fputs("usage: bench_ann FOLDER [--engine NAME=SPEC]... [--rounds R] [--rows N] [--queries Q] "
          "[--threads T] [--tune Q] [--k K]\n",
          stderr);
    exit(2);
}

/* Of points sorted by recall: what lies at `recall` on the line between the two around it; 0: none
 * do. */
static double at_recall(const struct point *points, uint32_t n, double recall,
                        double (*value)(const struct point *, uint32_t), uint32_t n_rounds)
{
    for (uint32_t i = 1; i < n; i++) {
        const struct point *low = &points[i - 1], *high = &points[i];
        if (low->recall >= recall || high->recall < recall)
            continue;
        double part = (recall - low->recall) / (high->recall - low->recall);
        return value(low, n_rounds) + part * (value(high, n_rounds) - value(low, n_rounds));
    }
    return 0;
}

static double rows_of(const struct point *point, uint32_t n_rounds)
{
    (void)n_rounds;
    return point->rows;
}

static double us_of(const struct point *point, uint32_t n_rounds)
{
    return 1e6 / median(point->per_s, n_rounds);
}

/* Every family at the very same recall, between its settings: for comparing sets and builds. */
static void tell_between(const struct bench *bench, double recall)
{
    fprintf(stderr, "\nat recall %.2f, between two settings\n", recall);
    for (uint32_t i = 0, end; i < bench->n_points; i = end) {
        const struct point *first = &bench->points[i];
        for (end = i + 1; end < bench->n_points &&
                          strcmp(bench->points[end].engine->family, first->engine->family) == 0;
             end++)
            ;
        double us = at_recall(first, end - i, recall, us_of, bench->n_rounds);
        double rows = at_recall(first, end - i, recall, rows_of, bench->n_rounds);
        if (us <= 0)
            continue;
        fprintf(stderr, "  %-11s %8.1f us, %9.0f rows\n", first->engine->family, us, rows);
        printf("{\"bench\":\"ann\",\"case\":\"between\",\"data\":\"%s\",\"rows\":%u,\"dim\":%u,"
               "\"recall\":%g,\"engine\":\"%s\",\"value\":%.2f,\"unit\":\"us of CPU\","
               "\"rows_read\":%.0f}\n",
               bench->set.name, bench->set.n, bench->set.dim, recall, first->engine->family, us,
               rows);
    }
}

int main(int argc, char **argv)
{
    static const struct option known[] = {
        {"engine", 1, NULL, 'e'},  {"rounds", 1, NULL, 'r'},  {"rows", 1, NULL, 'n'},
        {"queries", 1, NULL, 'q'}, {"threads", 1, NULL, 't'}, {"tune", 1, NULL, 'u'},
        {"k", 1, NULL, 'k'},       {NULL, 0, NULL, 0},
    };
    static struct bench bench = {.n_rounds = 7, .threads = 2, .k = K_DEFAULT};
    const char *engines[ENGINES_MAX];
    uint32_t n_engines = 0;

    for (int c; (c = getopt_long(argc, argv, "", known, NULL)) != -1;) {
        uint32_t number = c == 'e' || c == '?' ? 0 : (uint32_t)strtoul(optarg, NULL, 10);
        if (c == 'e' && n_engines < ENGINES_MAX && strchr(optarg, '=') != NULL)
            engines[n_engines++] = optarg;
        else if (c == 'r' && number >= 1 && number <= ROUNDS_MAX)
            bench.n_rounds = number;
        else if (c == 'n')
            bench.rows = number;
        else if (c == 'q')
            bench.queries = number;
        else if (c == 't' && number >= 1)
            bench.threads = number;
        else if (c == 'k' && number >= 1 && number <= ANN_TRUTH_K)
            bench.k = number;
        else if (c == 'u')
            bench.n_tune = number;
        else
            usage();
    }
    if (optind + 1 != argc)
        usage();
    ann_set_open(&bench.set, argv[optind], bench.rows, bench.queries);
    if (bench.n_tune == 0)
        bench.n_tune = bench.set.n_queries / 4 < 1000 ? bench.set.n_queries / 4 : 1000;
    if (bench.n_tune == 0 || bench.n_tune >= bench.set.n_queries)
        usage();
    fprintf(stderr,
            "%s: %u rows of %u (near a query: %.1f dimensions), %u queries for tuning, %u for "
            "measuring, k = %u\n",
            bench.set.name, bench.set.n, bench.set.dim, local_dimension(&bench.set), bench.n_tune,
            bench.set.n_queries - bench.n_tune, bench.k);
    if (n_engines == 0)
        engines[n_engines++] = "kith=pq4";
    for (uint32_t e = 0; e < n_engines; e++) {
        char name[ANN_NAME_BYTES];
        snprintf(name, sizeof(name), "%.*s", (int)(strchr(engines[e], '=') - engines[e]),
                 engines[e]);
        open_engine(&bench, name, strchr(engines[e], '=') + 1);
    }
    tune(&bench);
    measure(&bench);
    tell_points(&bench);
    for (size_t i = 0; i < sizeof(targets) / sizeof(targets[0]); i++)
        tell_at_recall(&bench, targets[i]);
    for (size_t i = 0; i < sizeof(targets) / sizeof(targets[0]); i++)
        tell_between(&bench, targets[i]);
    for (uint32_t e = 0; e < bench.n_engines; e++)
        if (bench.engines[e].tell_memory != NULL)
            bench.engines[e].tell_memory(bench.engines[e].index, &bench.set);
    for (uint32_t e = 0; e < bench.n_engines; e++)
        bench.engines[e].close(bench.engines[e].index);
    return 0;
}
