#include "points.h"

#include <math.h>

#define CENTRES 256u
#define NOISE   0.7f /* of a component against its centre's: clusters overlap, as topics do */

static float centres[CENTRES][POINTS_DIM_MAX];
static uint32_t dims;

/* splitmix64 (Steele, Lea, Flood 2014): any row can be made without those before it. */
static uint64_t next(uint64_t *state)
{
    uint64_t z = (*state += 0x9e3779b97f4a7c15ull);
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9ull;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebull;
    return z ^ (z >> 31);
}

static float unit(uint64_t *state)
{
    return (float)(int32_t)(next(state) >> 32) * 0x1p-31f;
}

void points_init(uint32_t dim)
{
    uint64_t state = dim;

    dims = dim < POINTS_DIM_MAX ? dim : POINTS_DIM_MAX;
    for (uint32_t c = 0; c < CENTRES; c++)
        for (uint32_t i = 0; i < dims; i++)
            centres[c][i] = unit(&state);
}

void points_row(uint64_t row, float *out)
{
    uint64_t state = (row + 1) * 0xd1342543de82ef95ull;
    const float *centre = centres[next(&state) % CENTRES];
    float square = 0;

    for (uint32_t i = 0; i < dims; i++) {
        out[i] = centre[i] + NOISE * unit(&state);
        square += out[i] * out[i];
    }
    for (uint32_t i = 0; i < dims; i++)
        out[i] /= sqrtf(square);
}
