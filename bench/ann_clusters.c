/* A made-up set of vectors of any size for the `ann` benchmark.
 *
 * usage: bench_clusters FOLDER ROWS DIM [SEED]
 *
 * Real vectors are not points in a ball: they lie near surfaces of few dimensions, in clusters of
 * very different sizes that overlap. So: TOPICS directions; around each, its share of the CLUSTERS
 * centres; a row is its centre, plus FACTORS normal coordinates along directions of the cluster's
 * own, each weaker than the one before, plus a little noise in all dimensions; then length 1. The
 * cluster of rank r is chosen with probability like 1 / (r + CLUSTERS / 20). Queries are more rows.
 *
 * Rows are functions of seed and number: any number of threads makes the same file. Random numbers:
 * splitmix64 (Steele, Lea, Flood 2014); normal ones by Box and Muller (1958). */
#include <math.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "common/kith_mem.h"
#include "common/kith_random.h"

#define TOPICS      64u
#define CLUSTERS    1000u
#define FACTORS     32u
#define DECAY       0.97f /* of a factor's strength against the one before */
#define SPREAD      0.9f  /* of all factors together, the centre being 1 long */
#define NOISE       0.4f  /* of all dimensions together */
#define QUERIES     10000u
#define ROWS_MAX    50000000u
#define DIM_MAX     4096u
#define CHUNK       4096u
#define THREADS_MAX 16u

struct clusters {
    uint32_t dim;
    uint64_t seed;
    float *centres;         /* CLUSTERS * dim */
    float *factors;         /* CLUSTERS * FACTORS * dim */
    double until[CLUSTERS]; /* cumulated probability */
};

struct part {
    const struct clusters *clusters;
    FILE *file;
    pthread_mutex_t *lock;
    _Atomic uint32_t *next; /* chunk */
    uint64_t first;         /* number of the file's first row */
    uint32_t n;
    bool failed;
};

static double unit(uint64_t *state) /* (0, 1) */
{
    return ((double)(kith_random(state) >> 12) + 0.5) * 0x1p-52;
}

static void normals(uint64_t *state, float *out, uint32_t n, float scale)
{
    for (uint32_t i = 0; i < n; i += 2) {
        float radius = scale * sqrtf(-2 * logf((float)unit(state)));
        float angle = 6.28318531f * (float)unit(state);
        out[i] = radius * cosf(angle);
        if (i + 1 < n)
            out[i + 1] = radius * sinf(angle);
    }
}

static void normalise(float *row, uint32_t dim)
{
    float square = 0;

    for (uint32_t d = 0; d < dim; d++)
        square += row[d] * row[d];
    for (uint32_t d = 0; d < dim; d++)
        row[d] /= sqrtf(square);
}

static void make_clusters(struct clusters *clusters)
{
    uint32_t dim = clusters->dim;
    uint64_t state = clusters->seed;
    float *topics = kith_xalloc((size_t)TOPICS * dim * sizeof(float));
    float each = 1 / sqrtf((float)dim), strength = 0;
    double sum = 0;

    clusters->centres = kith_xalloc((size_t)CLUSTERS * dim * sizeof(float));
    clusters->factors = kith_xalloc((size_t)CLUSTERS * FACTORS * dim * sizeof(float));
    normals(&state, topics, TOPICS * dim, each);
    for (uint32_t f = 0; f < FACTORS; f++)
        strength += powf(DECAY, 2 * (float)f);
    for (uint32_t c = 0; c < CLUSTERS; c++) {
        float *centre = clusters->centres + (size_t)c * dim;
        const float *topic = topics + (kith_random(&state) % TOPICS) * dim;

        normals(&state, centre, dim, each);
        for (uint32_t d = 0; d < dim; d++)
            centre[d] += topic[d];
        normalise(centre, dim);
        for (uint32_t f = 0; f < FACTORS; f++)
            normals(&state, clusters->factors + ((size_t)c * FACTORS + f) * dim, dim,
                    SPREAD * each * powf(DECAY, (float)f) / sqrtf(strength));
        sum += 1 / (c + CLUSTERS / 20.0);
        clusters->until[c] = sum;
    }
    for (uint32_t c = 0; c < CLUSTERS; c++)
        clusters->until[c] /= sum;
    kith_free(topics);
}

static void make_row(const struct clusters *clusters, uint64_t number, float *out)
{
    uint32_t dim = clusters->dim, low = 0, high = CLUSTERS - 1;
    uint64_t state = clusters->seed ^ ((number + 1) * 0xd1342543de82ef95ull);
    double at = unit(&state);
    float along[FACTORS];

    while (low < high) {
        uint32_t middle = (low + high) / 2;
        if (clusters->until[middle] < at)
            low = middle + 1;
        else
            high = middle;
    }
    normals(&state, out, dim, NOISE / sqrtf((float)dim));
    normals(&state, along, FACTORS, 1);
    for (uint32_t d = 0; d < dim; d++)
        out[d] += clusters->centres[(size_t)low * dim + d];
    for (uint32_t f = 0; f < FACTORS; f++) {
        const float *factor = clusters->factors + ((size_t)low * FACTORS + f) * dim;
        for (uint32_t d = 0; d < dim; d++)
            out[d] += along[f] * factor[d];
    }
    normalise(out, dim);
}

static void *make_chunks(void *arg)
{
    struct part *part = arg;
    uint32_t dim = part->clusters->dim, chunks = (part->n + CHUNK - 1) / CHUNK;
    float *rows = kith_xalloc((size_t)CHUNK * dim * sizeof(float));

    for (uint32_t chunk; (chunk = atomic_fetch_add(part->next, 1u)) < chunks;) {
        uint32_t first = chunk * CHUNK, n = part->n - first < CHUNK ? part->n - first : CHUNK;

        for (uint32_t i = 0; i < n; i++)
            make_row(part->clusters, part->first + first + i, rows + (size_t)i * dim);
        pthread_mutex_lock(part->lock);
        if (fseeko(part->file, (off_t)first * dim * (off_t)sizeof(float), SEEK_SET) != 0 ||
            fwrite(rows, sizeof(float) * dim, n, part->file) != n)
            part->failed = true;
        if (isatty(STDERR_FILENO))
            fprintf(stderr, "\r%u of %u rows\033[K", first + n, part->n);
        pthread_mutex_unlock(part->lock);
    }
    kith_free(rows);
    return NULL;
}

static bool write_rows(const struct clusters *clusters, const char *path, uint64_t first,
                       uint32_t n)
{
    pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
    _Atomic uint32_t next_chunk = 0;
    FILE *file = fopen(path, "w");
    struct part parts[THREADS_MAX];
    pthread_t threads[THREADS_MAX];
    long cpus = sysconf(_SC_NPROCESSORS_ONLN);
    uint32_t n_threads = cpus > (long)THREADS_MAX ? THREADS_MAX : (uint32_t)cpus;
    bool failed = file == NULL;

    if (failed)
        return false;
    for (uint32_t i = 0; i < n_threads; i++) {
        parts[i] = (struct part){clusters, file, &lock, &next_chunk, first, n, false};
        if (pthread_create(&threads[i], NULL, make_chunks, &parts[i]) != 0)
            exit(1);
    }
    for (uint32_t i = 0; i < n_threads; i++) {
        pthread_join(threads[i], NULL);
        failed = failed || parts[i].failed;
    }
    return fclose(file) == 0 && !failed;
}

int main(int argc, char **argv)
{
    static struct clusters clusters;
    unsigned long rows = argc > 2 ? strtoul(argv[2], NULL, 10) : 0;
    unsigned long dim = argc > 3 ? strtoul(argv[3], NULL, 10) : 0;
    char path[4096];
    FILE *about;

    if (argc < 4 || argc > 5 || rows < 1000 || rows > ROWS_MAX || dim < 8 || dim > DIM_MAX) {
        fprintf(stderr,
                "usage: bench_clusters FOLDER ROWS DIM [SEED]: 1000 to %u rows, 8 to %u "
                "numbers\n",
                ROWS_MAX, DIM_MAX);
        return 2;
    }
    clusters.dim = (uint32_t)dim;
    clusters.seed = argc > 4 ? strtoull(argv[4], NULL, 10) : 20231;
    fprintf(stderr, "making %lu rows of %lu numbers in clusters, seed %llu\n", rows, dim,
            (unsigned long long)clusters.seed);
    make_clusters(&clusters);
    mkdir(argv[1], 0777);
    snprintf(path, sizeof(path), "%s/base.f32", argv[1]);
    if (!write_rows(&clusters, path, 0, (uint32_t)rows))
        goto failed;
    snprintf(path, sizeof(path), "%s/query.f32", argv[1]);
    if (!write_rows(&clusters, path, UINT64_C(1) << 40, QUERIES))
        goto failed;
    snprintf(path, sizeof(path), "%s/set.json", argv[1]);
    about = fopen(path, "w");
    if (about == NULL)
        goto failed;
    fprintf(about,
            "{\"name\":\"clustered\",\"dim\":%lu,\"queries\":%u,\"metric\":\"cosine\","
            "\"seed\":%llu,\"source\":\"bench_clusters\",\"licence\":\"made up\",\"base\":%lu}\n",
            dim, QUERIES, (unsigned long long)clusters.seed, rows);
    if (fclose(about) == 0)
        return 0;
failed:
    fprintf(stderr, "bench_clusters: %s cannot be written\n", path);
    return 1;
}
