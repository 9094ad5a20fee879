/* <x,c> = <x8,c8> + <x,c-c8> + <x-x8,c8>, so it is above <x8,c8> by at most |x8| |c-c8| +
 * |x-x8| |c|, where x8 and c8 are what the bytes say. With bounds of all scores of a row at hand,
 * what is below the largest by more than twice the largest error is not the nearest. Of the rest
 * the one with the largest bound is compared first: few others' bounds reach its score.
 *
 * Rows whose centroids bytes cannot tell apart (far from the origin, close to each other) would
 * have all of them compared, one by one, so they are left to products of floats. */
#include "shard/index/nearest_bytes.h"

#include <float.h>
#include <math.h>
#include <string.h>

#include "common/kith_mem.h"
#include "proto/kith_limits.h"
#include "shard/index/build_kernels.h"
#include "shard/index/kernels.h"

#define ROWS       NEAREST_KERNELS_ROWS
#define LANES      NEAREST_KERNELS_LANES
#define STEP       NEAREST_KERNELS_STEP
#define TILE_BYTES (256u * 1024) /* of centroids, that stay in the second-level cache */
#define TILE_MAX   1024u
#define TINY       1e-30f
#define LENGTH_MAX 1e15f /* products and their sums stay finite */
#define FEW        32u   /* centroids compared for a row on average; more take longer than floats */

static uint32_t tile_of(uint32_t n_padded, uint32_t dim4)
{
    uint32_t lists = TILE_BYTES / (dim4 * 4) / STEP * STEP;
    lists = lists < STEP ? STEP : lists > TILE_MAX ? TILE_MAX : lists;
    return lists < n_padded ? lists : n_padded;
}

static uint32_t padded(uint32_t n)
{
    return (n + STEP - 1) / STEP * STEP;
}

enum kith_err nearest_bytes_init(struct nearest_bytes *bytes, uint32_t n, uint32_t dim,
                                 uint32_t width, const struct nearest_kernels *kernels,
                                 struct kith_diag *diag)
{
    *bytes = (struct nearest_bytes){.kernels = kernels,
                                    .n = n,
                                    .n_padded = padded(n),
                                    .dim = dim,
                                    .width = width,
                                    .dim4 = (dim + 3) / 4};
    if (kernels == NULL)
        return KITH_OK;
    size_t all = bytes->n_padded;
    bytes->bytes = kith_alloc_aligned(64, all * bytes->dim4 * 4);
    bytes->scales = kith_alloc_aligned(64, 5 * all * sizeof(float));
    if (bytes->bytes == NULL || bytes->scales == NULL) {
        nearest_bytes_fini(bytes);
        return kith_fail(diag, KITH_NOMEM, "bytes of %u centroids", n);
    }
    bytes->halves = bytes->scales + all;
    bytes->lengths = bytes->halves + all;
    bytes->errors = bytes->lengths + all;
    bytes->lifts = bytes->errors + all;
    return KITH_OK;
}

void nearest_bytes_fini(struct nearest_bytes *bytes)
{
    kith_free(bytes->bytes);
    kith_free(bytes->scales);
    *bytes = (struct nearest_bytes){0};
}

/* out[i] = 128 + values[i] / scale, rounded. Returns the length of what they leave. */
static float round_to_bytes(const float *values, uint32_t n, float *scale, uint8_t *out)
{
    const struct build_kernels *kernels = build_kernels();
    float most = kernels->most(values, n);
    if (most > TINY) {
        *scale = most / 127.0f;
        kernels->bytes(values, n, 127.0f / most, out);
    } else {
        *scale = 0.0f;
        memset(out, 128, n);
    }
    return sqrtf(kernels->rounding(values, out, n, *scale));
}

/* The coordinate behind the others under dot, which may be far larger than they. */
static float lift_of(const struct nearest_bytes *bytes, const float *prepared)
{
    return bytes->width > bytes->dim + 1 ? prepared[bytes->dim] : 0.0f;
}

static float length_of(const struct nearest_bytes *bytes, const float *prepared)
{
    return sqrtf(build_kernels()->square(prepared, bytes->dim));
}

static void set_one(struct nearest_bytes *bytes, uint32_t c, const float *centroid, uint8_t *row)
{
    bytes->halves[c] = -centroid[bytes->width - 1];
    bytes->lengths[c] = length_of(bytes, centroid);
    bytes->errors[c] = round_to_bytes(centroid, bytes->dim, &bytes->scales[c], row);
    bytes->lifts[c] = lift_of(bytes, centroid);
    if (!(bytes->halves[c] <= LENGTH_MAX * LENGTH_MAX))
        bytes->usable = false;
    if (bytes->lengths[c] > bytes->length_max)
        bytes->length_max = bytes->lengths[c];
    if (bytes->errors[c] > bytes->error_max)
        bytes->error_max = bytes->errors[c];
    uint8_t *out = bytes->bytes + (size_t)(c / LANES) * bytes->dim4 * LANES * 4 + c % LANES * 4;
    for (uint32_t group = 0; group < bytes->dim4; group++)
        memcpy(out + (size_t)group * LANES * 4, row + (size_t)group * 4, 4);
}

void nearest_bytes_set(struct nearest_bytes *bytes, const float *centroids)
{
    uint8_t row[KITH_DIM_MAX + 8] = {0};
    bytes->usable = bytes->kernels != NULL;
    bytes->length_max = bytes->error_max = 0.0f;
    for (uint32_t c = 0; c < bytes->n_padded && bytes->usable; c++) {
        if (c < bytes->n) {
            set_one(bytes, c, centroids + (size_t)c * bytes->width, row);
            continue;
        }
        bytes->scales[c] = bytes->lengths[c] = bytes->errors[c] = bytes->lifts[c] = 0.0f;
        bytes->halves[c] = FLT_MAX;
    }
}

/* ---- finding --------------------------------------------------------------------------------- */

/* What a call needs, cut out of the scratch. */
struct find {
    const struct nearest_bytes *bytes;
    const float *centroids;
    float *bounds;    /* ROWS * a tile */
    uint32_t *picked; /* of one row */
    uint8_t *row;     /* bytes of one row */
    int8_t *rows8;    /* of all rows, by eights */
    float *scales, *lengths, *errors, *lifts;
    int32_t *sums128;
    uint32_t *lists;
    float *scores;
    uint64_t n_compared;
};

static size_t take(size_t *at, size_t bytes)
{
    size_t place = *at;
    *at += (bytes + 63) & ~(size_t)63;
    return place;
}

/* Returns the bytes it takes. */
static size_t cut(const struct nearest_bytes *bytes, uint32_t n_rows, uint8_t *scratch,
                  struct find *find)
{
    size_t at = 0, rows = padded(n_rows), dim = (size_t)bytes->dim4 * 4;
    uint32_t tile = tile_of(bytes->n_padded, bytes->dim4);
    size_t bounds = take(&at, (size_t)ROWS * tile * sizeof(float));
    size_t picked = take(&at, (tile + KERNELS_SELECT_SLACK) * sizeof(uint32_t));
    size_t row = take(&at, dim);
    size_t rows8 = take(&at, rows * dim);
    size_t scales = take(&at, rows * sizeof(float));
    size_t lengths = take(&at, rows * sizeof(float));
    size_t errors = take(&at, rows * sizeof(float));
    size_t lifts = take(&at, rows * sizeof(float));
    size_t sums128 = take(&at, rows * sizeof(int32_t));
    if (scratch != NULL) {
        find->bounds = (void *)(scratch + bounds);
        find->picked = (void *)(scratch + picked);
        find->row = scratch + row;
        find->rows8 = (void *)(scratch + rows8);
        find->scales = (void *)(scratch + scales);
        find->lengths = (void *)(scratch + lengths);
        find->errors = (void *)(scratch + errors);
        find->lifts = (void *)(scratch + lifts);
        find->sums128 = (void *)(scratch + sums128);
    }
    return at;
}

size_t nearest_bytes_scratch(const struct nearest_bytes *bytes, uint32_t n_rows)
{
    return cut(bytes, n_rows, NULL, NULL) + 64; /* to begin at a cache line */
}

static void prepare_row(struct find *find, uint32_t r, const float *row)
{
    uint32_t n = find->bytes->dim, dim4 = find->bytes->dim4;
    find->errors[r] = round_to_bytes(row, n, &find->scales[r], find->row);
    find->lengths[r] = length_of(find->bytes, row) + find->errors[r];
    find->lifts[r] = lift_of(find->bytes, row);
    int32_t sum = 0;
    for (uint32_t j = 0; j < n; j++)
        sum += find->row[j];
    find->sums128[r] = (sum - 128 * (int32_t)n) * 128;
    int8_t *out = find->rows8 + (size_t)(r / ROWS) * dim4 * ROWS * 4 + r % ROWS * 4;
    for (uint32_t group = 0; group < dim4; group++) {
        uint32_t four;
        memcpy(&four, find->row + (size_t)group * 4, 4);
        four ^= 0x80808080u; /* 128 more than a signed byte has the same bits but the first */
        memcpy(out + (size_t)group * ROWS * 4, &four, 4);
    }
}

/* False: a row is too long. */
static bool prepare_rows(struct find *find, const struct nearest_rows *rows)
{
    uint32_t n = (rows->n + ROWS - 1) / ROWS * ROWS;
    memset(find->row, 128, (size_t)find->bytes->dim4 * 4); /* behind the last value: zeros */
    for (uint32_t r = 0; r < rows->n; r++) {
        if (!(rows->lengths2[r] <= LENGTH_MAX * LENGTH_MAX))
            return false;
        prepare_row(find, r, rows->values + (size_t)r * find->bytes->width);
        find->lists[r] = 0;
        find->scores[r] = -FLT_MAX;
    }
    for (uint32_t r = rows->n; r < n; r++) { /* nobody looks at their bounds */
        find->scales[r] = find->lengths[r] = find->errors[r] = find->lifts[r] = 0.0f;
        find->sums128[r] = 0;
    }
    return true;
}

static void compare(struct find *find, uint32_t r, const float *row, uint32_t c)
{
    const float *centroid = find->centroids + (size_t)c * find->bytes->width;
    float score = build_kernels()->product(row, centroid, find->bytes->width - 1) +
                  centroid[find->bytes->width - 1];
    find->n_compared++;
    if (score > find->scores[r] || (score == find->scores[r] && c < find->lists[r])) {
        find->scores[r] = score;
        find->lists[r] = c;
    }
}

/* The centroids of a tile, from `first` on, that may be nearer than what row r has. */
static void compare_tile(struct find *find, uint32_t r, const float *row,
                         const struct nearest_kernels_tile *tile, uint32_t first, float most)
{
    const struct nearest_bytes *bytes = find->bytes;
    if (most < find->scores[r])
        return;
    const float *bounds = find->bounds + (size_t)(r % ROWS) * tile->n;
    float error = find->errors[r] * bytes->length_max + find->lengths[r] * bytes->error_max;
    float low = most - 2 * error > find->scores[r] ? most - 2 * error : find->scores[r];
    uint32_t n = kernels_best()->select(bounds, tile->n, low, find->picked), best = 0;
    for (uint32_t i = 1; i < n; i++)
        best = bounds[find->picked[i]] > bounds[find->picked[best]] ? i : best;
    if (n > 0 && first + find->picked[best] < bytes->n)
        compare(find, r, row, first + find->picked[best]);
    for (uint32_t i = 0; i < n; i++)
        if (i != best && bounds[find->picked[i]] >= find->scores[r] &&
            first + find->picked[i] < bytes->n)
            compare(find, r, row, first + find->picked[i]);
}

/* Eight rows with a tile. */
static void find_eight(struct find *find, const struct nearest_rows *rows, uint32_t at,
                       const struct nearest_kernels_tile *tile, uint32_t first)
{
    float maxima[ROWS];
    struct nearest_kernels_rows eight = {.bytes = find->rows8 + (size_t)at * tile->dim4 * 4,
                                         .sums128 = find->sums128 + at,
                                         .scales = find->scales + at,
                                         .lengths = find->lengths + at,
                                         .errors = find->errors + at,
                                         .lifts = find->lifts + at};
    find->bytes->kernels->bounds(tile, &eight, find->bounds, maxima);
    for (uint32_t r = at; r < at + ROWS && r < rows->n; r++)
        compare_tile(find, r, rows->values + (size_t)r * find->bytes->width, tile, first,
                     maxima[r - at]);
}

static struct nearest_kernels_tile tile_at(const struct nearest_bytes *bytes, uint32_t first)
{
    uint32_t tile = tile_of(bytes->n_padded, bytes->dim4), left = bytes->n_padded - first;
    return (struct nearest_kernels_tile){.bytes = bytes->bytes + (size_t)first * bytes->dim4 * 4,
                                         .scales = bytes->scales + first,
                                         .halves = bytes->halves + first,
                                         .lengths = bytes->lengths + first,
                                         .errors = bytes->errors + first,
                                         .lifts = bytes->lifts + first,
                                         .n = left < tile ? left : tile,
                                         .dim4 = bytes->dim4};
}

bool nearest_bytes_find(const struct nearest_bytes *bytes, const float *centroids,
                        const struct nearest_rows *rows, void *scratch, uint32_t *lists,
                        float *scores)
{
    struct find find = {.bytes = bytes, .centroids = centroids, .lists = lists, .scores = scores};
    if (!bytes->usable)
        return false;
    uint8_t *aligned = (uint8_t *)(((uintptr_t)scratch + 63) & ~(uintptr_t)63);
    (void)cut(bytes, rows->n, aligned, &find);
    if (!prepare_rows(&find, rows))
        return false;
    struct nearest_kernels_tile tile;
    for (uint32_t first = 0; first < bytes->n_padded; first += tile.n) {
        tile = tile_at(bytes, first);
        for (uint32_t at = 0; at < rows->n; at += ROWS) {
            find_eight(&find, rows, at, &tile, first);
            if (find.n_compared > (uint64_t)FEW * rows->n)
                return false;
        }
    }
    return true;
}
