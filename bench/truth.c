/* What a search should have found, by comparing with every row.
 *
 * usage: bench_truth SET [--queries N] [--below KEY] --kth FILE                     writes FILE
 *        bench_truth SET [--queries N] [--below KEY] --kth FILE --answers FILE      prints the
 * recall SET is --dim D --points N [--base FILE --query FILE]
 *
 * The truth of a query is the cosine of its 10th nearest row among those whose key is below KEY. A
 * row that was found counts when it is in that set and its cosine is not below the 10th (less what
 * rounding may do), so ties are no mistakes. Answers are lines of JSON, one a query, as `load
 * --answers` keeps them. */
#include <errno.h>
#include <getopt.h>
#include <math.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/kith_mem.h"
#include "points.h"

#define K        10u
#define ROUNDING 1e-5F
#define LANES    16u
#define DIM_MAX  (POINTS_DIM_MAX + LANES)

struct truth {
    uint32_t dim, below, stride;
    uint64_t points, n;
    const char *base, *query, *kth_path, *answers_path;
    float *queries; /* unit length, padded to LANES */
    float *best;    /* K per query, unordered; best[0] is the least */
};

static void die(const char *what, const char *detail)
{
    fprintf(stderr, "bench_truth: %s: %s\n", what, detail);
    exit(1);
}

/* Sums in lanes, so that the compiler may use vectors. */
static float dot(const float *a, const float *b, uint32_t n)
{
    float lanes[LANES] = {0}, sum = 0;

    for (uint32_t i = 0; i < n; i += LANES)
        for (uint32_t l = 0; l < LANES; l++)
            lanes[l] += a[i + l] * b[i + l];
    for (uint32_t l = 0; l < LANES; l++)
        sum += lanes[l];
    return sum;
}

/* The row at unit length, zeros behind it. */
static void unit_row(const struct truth *truth, uint64_t row, float *out)
{
    memset(out, 0, truth->stride * sizeof *out);
    points_row(row, out);
    float length = sqrtf(dot(out, out, truth->stride));
    for (uint32_t i = 0; length > 0 && i < truth->dim; i++)
        out[i] /= length;
}

static void keep(float *best, float score)
{
    if (score <= best[0])
        return;
    best[0] = score;
    for (uint32_t i = 1; i < K; i++)
        if (best[i] < best[0]) {
            float least = best[i];
            best[i] = best[0];
            best[0] = least;
        }
}

static void find_truth(struct truth *truth)
{
    float row[DIM_MAX];

    for (uint64_t i = 0; i < truth->n * K; i++)
        truth->best[i] = -INFINITY;
    for (uint64_t r = 0; r < truth->points; r++) {
        if (points_key(r) >= truth->below)
            continue;
        unit_row(truth, r, row);
        for (uint64_t q = 0; q < truth->n; q++)
            keep(truth->best + q * K, dot(row, truth->queries + q * truth->stride, truth->stride));
    }
}

/* Fewer than K when the filter leaves fewer rows. */
static uint32_t count_found(const float *best)
{
    uint32_t n = 0;

    for (uint32_t i = 0; i < K; i++)
        n += best[i] > -INFINITY;
    return n;
}

static void write_kth(const struct truth *truth)
{
    FILE *file = fopen(truth->kth_path, "we");

    if (file == NULL)
        die(truth->kth_path, strerror(errno));
    for (uint64_t q = 0; q < truth->n; q++)
        fprintf(file, "%.9g %u\n", (double)truth->best[q * K], count_found(truth->best + q * K));
    if (fclose(file) != 0)
        die(truth->kth_path, strerror(errno));
}

/* How many of a query's true neighbours the answer has. */
static uint32_t count_right(const struct truth *truth, const char *answer, uint64_t q, float kth)
{
    const char *at = answer;
    float row[DIM_MAX];
    uint32_t right = 0;

    while ((at = strstr(at, "\"id\":")) != NULL) {
        at += 5;
        uint64_t id = strtoull(at, NULL, 10);
        if (id >= truth->points || points_key(id) >= truth->below)
            continue;
        unit_row(truth, id, row);
        float score = dot(row, truth->queries + q * truth->stride, truth->stride);
        right += score >= kth - ROUNDING && right < K;
    }
    return right;
}

static double recall_of(const struct truth *truth)
{
    FILE *kth_file = fopen(truth->kth_path, "re"), *answers = fopen(truth->answers_path, "re");
    char *line = NULL;
    size_t cap = 0;
    uint64_t right = 0, wanted = 0;

    if (kth_file == NULL || answers == NULL)
        die(kth_file == NULL ? truth->kth_path : truth->answers_path, strerror(errno));
    for (uint64_t q = 0; q < truth->n; q++) {
        float kth;
        uint32_t n;
        if (fscanf(kth_file, "%f %u", &kth, &n) != 2 || getline(&line, &cap, answers) <= 0)
            die("too few lines", truth->answers_path);
        right += count_right(truth, line, q, kth);
        wanted += n;
    }
    free(line); /* getline's own */
    fclose(kth_file);
    fclose(answers);
    return wanted == 0 ? 1 : (double)right / (double)wanted;
}

static uint64_t number(const char *text, uint64_t max)
{
    char *end;
    uint64_t value = strtoull(text, &end, 10);

    if (*text == '\0' || *end != '\0' || value > max)
        die("no number in range", text);
    return value;
}

static void options_parse(struct truth *truth, int argc, char **argv)
{
    static const struct option known[] = {
        {"dim", 1, NULL, 'd'},   {"points", 1, NULL, 'p'},  {"queries", 1, NULL, 'n'},
        {"below", 1, NULL, 'k'}, {"base", 1, NULL, 'b'},    {"query", 1, NULL, 'q'},
        {"kth", 1, NULL, 't'},   {"answers", 1, NULL, 'a'}, {NULL, 0, NULL, 0},
    };
    bool good = true;

    *truth = (struct truth){.n = 500, .below = POINTS_KEYS};
    for (int c; (c = getopt_long(argc, argv, "", known, NULL)) != -1;) {
        switch (c) {
        case 'd':
            truth->dim = (uint32_t)number(optarg, POINTS_DIM_MAX);
            break;
        case 'p':
            truth->points = number(optarg, 100000000);
            break;
        case 'n':
            truth->n = number(optarg, 100000);
            break;
        case 'k':
            truth->below = (uint32_t)number(optarg, POINTS_KEYS);
            break;
        case 'b':
            truth->base = optarg;
            break;
        case 'q':
            truth->query = optarg;
            break;
        case 't':
            truth->kth_path = optarg;
            break;
        case 'a':
            truth->answers_path = optarg;
            break;
        default:
            good = false;
        }
    }
    if (!good || truth->dim == 0 || truth->points == 0 || truth->kth_path == NULL ||
        (truth->base == NULL) != (truth->query == NULL))
        die("usage", "see the head of bench/truth.c");
}

int main(int argc, char **argv)
{
    struct truth truth;

    options_parse(&truth, argc, argv);
    truth.stride = (truth.dim + LANES - 1) / LANES * LANES;
    if (truth.base != NULL)
        points_init_files(truth.dim, truth.base, truth.query);
    else
        points_init(truth.dim);
    truth.queries = kith_xalloc(truth.n * truth.stride * sizeof *truth.queries);
    truth.best = kith_xalloc(truth.n * K * sizeof *truth.best);
    for (uint64_t q = 0; q < truth.n; q++)
        unit_row(&truth, POINTS_QUERIES + q, truth.queries + q * truth.stride);
    if (truth.answers_path == NULL) {
        find_truth(&truth);
        write_kth(&truth);
    } else {
        printf("%.4f\n", recall_of(&truth));
    }
    kith_free(truth.best);
    kith_free(truth.queries);
    return 0;
}
