/* Lists and rotations for the `quantizers` benchmark. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "common/kith_mem.h"
#include "common/kith_random.h"
#include "quantizers.h"
#include "shard/index/blas.h"
#include "shard/index/ivf_assign.h"
#include "shard/index/kernels.h"

#define THREADS     2u
#define ROUNDS      4u /* of signs and transforms */
#define RANDOM_SEED UINT64_C(20231)
#define CHUNK       4096u /* rows multiplied at a time */

_Noreturn void quantizers_die(const char *what, const struct kith_diag *diag)
{
    fprintf(stderr, "quantizers: %s: %s\n", what, diag->text);
    exit(1);
}

double quantizers_cpu_s(void)
{
    struct timespec at;
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &at);
    return (double)at.tv_sec + (double)at.tv_nsec * 1e-9;
}

/* ---- lists ----------------------------------------------------------------------------------- */

static const void *row_of(const void *ctx, uint32_t i)
{
    const struct ann_set *set = ctx;
    return set->base + (size_t)i * set->dim;
}

/* Counting sort by list. */
static void put_in_order(struct quantizers_world *world)
{
    uint32_t n_lists = world->codebook->n_lists, n = world->set.n;
    uint32_t *next = kith_xalloc((n_lists + 1) * sizeof *next);
    for (uint32_t i = 0; i < n; i++)
        next[world->list_of[i] + 1]++;
    for (uint32_t c = 0; c < n_lists; c++)
        next[c + 1] += next[c];
    memcpy(world->lists, next, (n_lists + 1) * sizeof *next);
    for (uint32_t i = 0; i < n; i++)
        world->order[next[world->list_of[i]]++] = i;
    kith_free(next);
}

void quantizers_world_init(struct quantizers_world *world, const char *dir, uint32_t n_queries)
{
    struct kith_diag diag = {0};
    *world = (struct quantizers_world){.train_s = 0};
    ann_set_open(&world->set, dir, 0, n_queries);
    const struct ann_set *set = &world->set;
    struct slice_config config = {.dim = set->dim, .metric = KITH_COSINE, .rows = KITH_ROWS_F32};
    struct codebook_training training = {.config = &config,
                                         .codes = CODEBOOK_INT8,
                                         .rows = set->base,
                                         .n_rows = codebook_sample_rows(set->n, set->dim),
                                         .collection_rows = set->n,
                                         .threads = THREADS};
    double before = quantizers_cpu_s();
    if (codebook_train(&world->codebook, &training, &diag) != KITH_OK ||
        workers_init(&world->workers, THREADS, NULL, NULL, &diag) != KITH_OK)
        quantizers_die("lists", &diag);
    world->train_s = quantizers_cpu_s() - before;
    world->list_of = kith_xalloc(set->n * sizeof *world->list_of);
    world->order = kith_xalloc(set->n * sizeof *world->order);
    world->lists = kith_xalloc((world->codebook->n_lists + 1) * sizeof *world->lists);
    struct segment_source source = {.n_rows = set->n, .row = row_of, .ctx = set};
    struct ivf_assign assign;
    float energy;
    if (ivf_assign_init(&assign, world->codebook, &diag) != KITH_OK ||
        ivf_assign_run(&assign, &source, KITH_ROWS_F32, &world->workers, world->list_of, &energy,
                       &diag) != KITH_OK)
        quantizers_die("assignment", &diag);
    ivf_assign_fini(&assign);
    put_in_order(world);
}

void quantizers_world_fini(struct quantizers_world *world)
{
    workers_fini(&world->workers);
    codebook_unref(world->codebook);
    kith_free(world->list_of);
    kith_free(world->order);
    kith_free(world->lists);
}

/* ---- rotations ------------------------------------------------------------------------------- */

static float dot(const float *a, const float *b, uint32_t dim)
{
    static const uint32_t itself = 0;
    float sum;
    kernels_best()->pick[KERNELS_IP][KERNELS_F32](a, (struct kernels_rows){b, dim}, &itself, 1,
                                                  &sum);
    return sum;
}

/* Gram-Schmidt on rows of normal numbers (about: sums of twelve uniform ones). */
static void fill_random(float *matrix, uint32_t dim)
{
    uint64_t state = RANDOM_SEED;
    for (size_t i = 0; i < (size_t)dim * dim; i++)
        for (int j = 0; j < 12; j++)
            matrix[i] += (float)(kith_random(&state) >> 40) * 0x1p-24f - 0.5f;
    for (uint32_t i = 0; i < dim; i++) {
        float *row = matrix + (size_t)i * dim;
        for (uint32_t k = 0; k < 2 * i; k++) { /* twice, for the rounding errors */
            const float *other = matrix + (size_t)(k % i) * dim;
            float along = dot(row, other, dim);
            for (uint32_t j = 0; j < dim; j++)
                row[j] -= along * other[j];
        }
        float scale = 1 / sqrtf(dot(row, row, dim));
        for (uint32_t j = 0; j < dim; j++)
            row[j] *= scale;
    }
}

struct quantizers_rotation quantizers_rotation_new(enum quantizers_turn turn, uint32_t dim)
{
    struct quantizers_rotation rotation = {turn, dim, NULL};
    if (turn == QUANTIZERS_RANDOM) {
        rotation.numbers = kith_xalloc((size_t)dim * dim * sizeof(float));
        fill_random(rotation.numbers, dim);
    } else if (turn == QUANTIZERS_HADAMARD) {
        uint64_t state = RANDOM_SEED;
        rotation.numbers = kith_xalloc((size_t)ROUNDS * dim * sizeof(float));
        for (uint32_t i = 0; i < ROUNDS * dim; i++)
            rotation.numbers[i] = (kith_random(&state) & 1) != 0 ? 1.0f : -1.0f;
    }
    return rotation;
}

void quantizers_rotation_free(struct quantizers_rotation *rotation)
{
    kith_free(rotation->numbers);
    rotation->numbers = NULL;
}

/* Walsh and Hadamard's transform of n (a power of two) numbers, in the geometry that every stage
 * shares (Pease: An adaptation of the fast Fourier transform for parallel processing, 1968). */
static void transform(float *restrict x, float *restrict y, uint32_t n)
{
    float *from = x, *to = y;
    for (uint32_t stage = 1; stage < n; stage *= 2) {
        const float *restrict a = from, *restrict b = from + n / 2;
        float *restrict out = to;
        for (uint32_t i = 0; i < n / 2; i++) {
            out[2 * i] = a[i] + b[i];
            out[2 * i + 1] = a[i] - b[i];
        }
        float *swap = from;
        from = to;
        to = swap;
    }
    if (from != x)
        memcpy(x, from, n * sizeof *x);
}

/* Random signs and transforms of the first and the last numbers in turn: as many as a power of two
 * allows, so every dimension is served. */
static void rotate_fast(const struct quantizers_rotation *rotation, const float *in, float *out,
                        float *scratch)
{
    uint32_t dim = rotation->dim, n = 1;
    while (n * 2 <= dim)
        n *= 2;
    float scale = 1 / sqrtf((float)n);
    memcpy(out, in, dim * sizeof *out);
    for (uint32_t round = 0; round < (n == dim ? ROUNDS / 2 : ROUNDS); round++) {
        const float *signs = rotation->numbers + (size_t)round * dim;
        float *part = out + (round % 2 == 0 ? 0 : dim - n);
        for (uint32_t i = 0; i < n; i++)
            part[i] *= signs[i] * scale;
        transform(part, scratch, n);
    }
}

void quantizers_rotate(const struct quantizers_rotation *rotation, const float *in, float *out,
                       float *scratch)
{
    uint32_t dim = rotation->dim;
    if (rotation->turn == QUANTIZERS_NONE)
        memcpy(out, in, dim * sizeof *out);
    else if (rotation->turn == QUANTIZERS_HADAMARD)
        rotate_fast(rotation, in, out, scratch);
    else
        kernels_best()->scan[KERNELS_IP][KERNELS_F32](
            in, (struct kernels_rows){rotation->numbers, dim}, dim, out);
}

float *quantizers_rotate_all(const struct quantizers_rotation *rotation, const float *rows,
                             uint32_t n)
{
    uint32_t dim = rotation->dim;
    bool by_matrix = rotation->turn != QUANTIZERS_NONE && rotation->turn != QUANTIZERS_HADAMARD;
    float *out = kith_xalloc((size_t)n * dim * sizeof *out),
          *scratch = kith_xalloc(dim * sizeof *scratch);
    for (uint32_t i = 0; i < n; i += by_matrix ? CHUNK : 1) {
        size_t at = (size_t)i * dim;
        if (by_matrix)
            blas_products((struct blas_block){rows + at, n - i < CHUNK ? n - i : CHUNK, dim},
                          (struct blas_block){rotation->numbers, dim, dim}, out + at);
        else
            quantizers_rotate(rotation, rows + at, out + at, scratch);
    }
    kith_free(scratch);
    return out;
}
