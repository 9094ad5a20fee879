#include "ann_set.h"

#include <fcntl.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "common/kith_mem.h"

/* Exact answers: queries in groups of LANES, transposed, so that the innermost loop runs over
 * queries and the compiler makes SIMD of it without leave to reorder sums. */

#define LANES       16u
#define BLOCK       4u /* rows at a time: a transposed query is loaded once for all */
#define THREADS_MAX 16u
#define TIE         1e-6f /* scores nearer than this are equal: sums in another order */

static _Noreturn void die(const char *path, const char *what)
{
    fprintf(stderr, "ann: %s: %s\n", path, what);
    exit(1);
}

static const void *map(const char *path, uint64_t *bytes)
{
    int fd = open(path, O_RDONLY);
    struct stat st;
    void *data;

    if (fd < 0 || fstat(fd, &st) != 0 || st.st_size == 0)
        die(path, "is missing; bench/data/get makes data sets");
    data = mmap(NULL, (size_t)st.st_size, PROT_READ, MAP_SHARED | MAP_POPULATE, fd, 0);
    if (data == MAP_FAILED)
        die(path, "cannot be mapped");
    close(fd);
    *bytes = (uint64_t)st.st_size;
    return data;
}

/* The number behind "key": in the one line of set.json that our own scripts write. */
static uint32_t number_of(const char *json, const char *key)
{
    char quoted[32];
    const char *at;

    snprintf(quoted, sizeof(quoted), "\"%s\":", key);
    at = strstr(json, quoted);
    return at == NULL ? 0 : (uint32_t)strtoul(at + strlen(quoted), NULL, 10);
}

static void read_shape(struct ann_set *set, const char *dir)
{
    char path[4096], json[1024] = {0};
    const char *name = strrchr(dir, '/');
    FILE *file;

    snprintf(path, sizeof(path), "%s/set.json", dir);
    file = fopen(path, "r");
    if (file == NULL || fread(json, 1, sizeof(json) - 1, file) == 0)
        die(path, "is missing; bench/data/get makes data sets");
    fclose(file);
    snprintf(set->name, sizeof(set->name), "%s", name == NULL ? dir : name + 1);
    set->dim = number_of(json, "dim");
    set->n = number_of(json, "base");
    set->n_queries = number_of(json, "queries");
    if (set->dim == 0 || set->n < ANN_TRUTH_K || set->n_queries == 0)
        die(path, "has no dim, base and queries");
}

static const float *map_rows(const char *dir, const char *name, uint32_t n, uint32_t dim)
{
    char path[4096];
    uint64_t bytes;
    const float *rows;

    snprintf(path, sizeof(path), "%s/%s", dir, name);
    rows = map(path, &bytes);
    if (bytes != (uint64_t)n * dim * sizeof(float))
        die(path, "has another size than set.json says");
    return rows;
}

/* ---- exact answers --------------------------------------------------------------------------- */

struct truth_job {
    const struct ann_set *set;
    _Atomic uint32_t *next; /* group of queries to do */
    uint32_t *rows;
    float *scores;
};

struct best {
    float score[ANN_TRUTH_K];
    uint32_t row[ANN_TRUTH_K];
    uint32_t n;
};

/* By score, then the smaller row. `best` is kept sorted: few rows of a scan get in. */
static void offer(struct best *best, float score, uint32_t row)
{
    uint32_t at;

    if (best->n == ANN_TRUTH_K && score <= best->score[ANN_TRUTH_K - 1])
        return;
    at = best->n < ANN_TRUTH_K ? best->n++ : ANN_TRUTH_K - 1;
    for (; at > 0 && best->score[at - 1] < score; at--) {
        best->score[at] = best->score[at - 1];
        best->row[at] = best->row[at - 1];
    }
    best->score[at] = score;
    best->row[at] = row;
}

/* Inner products of rows [first, first + BLOCK) with all lanes. Past the end, the last row again.
 */
static void multiply(const struct ann_set *set, uint32_t first, const float *restrict turned,
                     float sums[BLOCK][LANES])
{
    const float *row[BLOCK];
    float s0[LANES] = {0}, s1[LANES] = {0}, s2[LANES] = {0}, s3[LANES] = {0};

    for (uint32_t r = 0; r < BLOCK; r++)
        row[r] = set->base + (size_t)(first + r < set->n ? first + r : set->n - 1) * set->dim;
    for (uint32_t d = 0; d < set->dim; d++)
        for (uint32_t q = 0; q < LANES; q++) {
            s0[q] += row[0][d] * turned[d * LANES + q];
            s1[q] += row[1][d] * turned[d * LANES + q];
            s2[q] += row[2][d] * turned[d * LANES + q];
            s3[q] += row[3][d] * turned[d * LANES + q];
        }
    memcpy(sums[0], s0, sizeof(s0));
    memcpy(sums[1], s1, sizeof(s1));
    memcpy(sums[2], s2, sizeof(s2));
    memcpy(sums[3], s3, sizeof(s3));
}

static void answer_group(const struct truth_job *job, uint32_t first, float *turned,
                         struct best *best)
{
    const struct ann_set *set = job->set;
    uint32_t n = set->n_queries - first < LANES ? set->n_queries - first : LANES;

    memset(turned, 0, (size_t)set->dim * LANES * sizeof(float));
    for (uint32_t q = 0; q < n; q++) {
        best[q].n = 0;
        for (uint32_t d = 0; d < set->dim; d++)
            turned[d * LANES + q] = set->queries[(size_t)(first + q) * set->dim + d];
    }
    for (uint32_t i = 0; i < set->n; i += BLOCK) {
        float sums[BLOCK][LANES];
        uint32_t rows = set->n - i < BLOCK ? set->n - i : BLOCK;

        multiply(set, i, turned, sums);
        for (uint32_t r = 0; r < rows; r++)
            for (uint32_t q = 0; q < n; q++)
                offer(&best[q], sums[r][q], i + r);
    }
    for (uint32_t q = 0; q < n; q++) {
        size_t at = (size_t)(first + q) * ANN_TRUTH_K;
        memcpy(job->rows + at, best[q].row, sizeof(best[q].row));
        memcpy(job->scores + at, best[q].score, sizeof(best[q].score));
    }
}

static void *answer(void *arg)
{
    struct truth_job *job = arg;
    uint32_t groups = (job->set->n_queries + LANES - 1) / LANES;
    float *turned = kith_xalloc((size_t)job->set->dim * LANES * sizeof(float));
    struct best *best = kith_xalloc(LANES * sizeof(struct best));

    for (uint32_t group; (group = atomic_fetch_add(job->next, 1)) < groups;) {
        answer_group(job, group * LANES, turned, best);
        if (isatty(STDERR_FILENO))
            fprintf(stderr, "\rexact answers: %u of %u queries\033[K",
                    (group + 1) * LANES < job->set->n_queries ? (group + 1) * LANES
                                                              : job->set->n_queries,
                    job->set->n_queries);
    }
    kith_free(turned);
    kith_free(best);
    return NULL;
}

static void make_truth(const struct ann_set *set, const char *path)
{
    size_t n = (size_t)set->n_queries * ANN_TRUTH_K;
    uint32_t *rows = kith_xalloc(n * sizeof(uint32_t));
    float *scores = kith_xalloc(n * sizeof(float));
    _Atomic uint32_t next = 0;
    struct truth_job job = {set, &next, rows, scores};
    long cpus = sysconf(_SC_NPROCESSORS_ONLN);
    uint32_t n_threads = cpus > (long)THREADS_MAX ? THREADS_MAX : (uint32_t)cpus;
    pthread_t threads[THREADS_MAX];
    char part[4200];
    FILE *file;

    fprintf(stderr, "exact answers of %u queries over %u rows of %s\n", set->n_queries, set->n,
            set->name);
    for (uint32_t i = 0; i < n_threads; i++)
        if (pthread_create(&threads[i], NULL, answer, &job) != 0)
            die(path, "no thread");
    for (uint32_t i = 0; i < n_threads; i++)
        pthread_join(threads[i], NULL);
    if (isatty(STDERR_FILENO))
        fputc('\n', stderr);

    snprintf(part, sizeof(part), "%s.part", path);
    file = fopen(part, "w");
    if (file == NULL || fwrite(rows, sizeof(uint32_t), n, file) != n ||
        fwrite(scores, sizeof(float), n, file) != n || fclose(file) != 0 || rename(part, path) != 0)
        die(path, "cannot be written");
    kith_free(rows);
    kith_free(scores);
}

/* ---- opening --------------------------------------------------------------------------------- */

void ann_set_open(struct ann_set *set, const char *dir, uint32_t n_max, uint32_t n_queries_max)
{
    char path[4096];
    uint64_t bytes;
    size_t n;

    *set = (struct ann_set){0};
    read_shape(set, dir);
    set->base = map_rows(dir, "base.f32", set->n, set->dim);
    set->queries = map_rows(dir, "query.f32", set->n_queries, set->dim);
    if (n_max >= ANN_TRUTH_K && n_max < set->n)
        set->n = n_max;
    if (n_queries_max != 0 && n_queries_max < set->n_queries)
        set->n_queries = n_queries_max;
    snprintf(path, sizeof(path), "%s/truth-%u-%u.bin", dir, set->n, set->n_queries);
    if (access(path, R_OK) != 0)
        make_truth(set, path);
    n = (size_t)set->n_queries * ANN_TRUTH_K;
    set->truth = map(path, &bytes);
    set->truth_scores = (const float *)(set->truth + n);
    if (bytes != n * (sizeof(uint32_t) + sizeof(float)))
        die(path, "has a wrong size: remove it");
}

uint32_t ann_set_hits(const struct ann_set *set, uint32_t query, const uint32_t *found, uint32_t n,
                      uint32_t k)
{
    const uint32_t *truth = set->truth + (size_t)query * ANN_TRUTH_K;
    const float *scores = set->truth_scores + (size_t)query * ANN_TRUTH_K;
    uint32_t hits = 0;

    for (uint32_t i = 0; i < ANN_TRUTH_K && scores[i] >= scores[k - 1] - TIE; i++)
        for (uint32_t j = 0; j < n; j++)
            hits += found[j] == truth[i];
    return hits < k ? hits : k;
}
