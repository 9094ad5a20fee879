#include "points.h"

#include <fcntl.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "common/kith_random.h"

#define CENTRES 256u
#define NOISE   0.7f /* of a component against its centre's: clusters overlap, as topics do */

static float centres[CENTRES][POINTS_DIM_MAX];
static uint32_t dims;

static struct rows {
    const float *data;
    uint64_t n;
} base_rows, query_rows;

static float unit(uint64_t *state)
{
    return (float)(int32_t)(kith_random(state) >> 32) * 0x1p-31f;
}

void points_init(uint32_t dim)
{
    uint64_t state = dim;

    dims = dim < POINTS_DIM_MAX ? dim : POINTS_DIM_MAX;
    for (uint32_t c = 0; c < CENTRES; c++)
        for (uint32_t i = 0; i < dims; i++)
            centres[c][i] = unit(&state);
}

static struct rows map_rows(const char *path)
{
    struct stat info;
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    size_t row_bytes = dims * sizeof(float);

    if (fd < 0 || fstat(fd, &info) != 0 || info.st_size == 0 ||
        (size_t)info.st_size % row_bytes != 0) {
        fprintf(stderr, "%s: not a file of rows of %u floats\n", path, dims);
        exit(1);
    }
    void *data = mmap(NULL, (size_t)info.st_size, PROT_READ, MAP_SHARED, fd, 0);
    if (data == MAP_FAILED) {
        perror(path);
        exit(1);
    }
    close(fd);
    return (struct rows){data, (size_t)info.st_size / row_bytes};
}

void points_init_files(uint32_t dim, const char *base, const char *queries)
{
    dims = dim;
    base_rows = map_rows(base);
    query_rows = map_rows(queries);
}

uint64_t points_in_file(void)
{
    return base_rows.n;
}

uint32_t points_key(uint64_t row)
{
    uint64_t state = ~row;

    return (uint32_t)(kith_random(&state) % POINTS_KEYS);
}

void points_row(uint64_t row, float *out)
{
    if (base_rows.n > 0) {
        const struct rows *rows = row < POINTS_QUERIES ? &base_rows : &query_rows;
        uint64_t at = row < POINTS_QUERIES ? row : row - POINTS_QUERIES;
        memcpy(out, rows->data + at % rows->n * dims, dims * sizeof *out);
        return;
    }
    uint64_t state = (row + 1) * 0xd1342543de82ef95ull;
    const float *centre = centres[kith_random(&state) % CENTRES];
    float square = 0;

    for (uint32_t i = 0; i < dims; i++) {
        out[i] = centre[i] + NOISE * unit(&state);
        square += out[i] * out[i];
    }
    for (uint32_t i = 0; i < dims; i++)
        out[i] /= sqrtf(square);
}
