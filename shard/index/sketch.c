/* A row x is s X + e: bytes X in [-127, 127], a scale s, |e_i| <= HALF s. A query q is t Q + d,
 * with d known. So
 *
 *   <q,x> = s (t <Q,X> + <d,X>) + <q,e>
 *        <= s t (<Q,X> + c),  c = (127 |d|_1 + HALF |q|_1) / t
 *
 * and the bound of a row is one product of bytes, to which a number is added that is the query's
 * alone: it goes into what the kernel subtracts anyway. (127 |d|_1 or 127 sqrt(dim) |d|_2: the
 * smaller.) With l2 the kernel ranks -|q - x|^2 = 2 <q,x> - |q|^2 - |x|^2, and -|x|^2 / 2 is kept
 * as the row's bias.
 *
 * Roundings. u = 2^-24, g = kernels_gamma(dim + 8). The ranks that bounds are compared with are
 * computed in floats, too: off by g |q| |x| (ip), by g |q - x|^2 <= 2 g (|q|^2 + |x|^2) (l2). |x|
 * is below 128 s sqrt(dim), so c has 4 g |q| 128 sqrt(dim) / t more, of which one g is for the rank
 * and three, more than 200 u, for the few roundings of the bound itself; the l2 parts are in bias
 * and threshold, twice as large as they need to be for the same reason. What floats may not hold (a
 * largest value outside [VALUE_MIN, VALUE_MAX]) gets a bias of infinity: always ranked. */
#include "shard/index/sketch.h"

#include <math.h>
#include <string.h>

#include "shard/index/ivf_format.h"
#include "shard/index/kernels_sum.h"

#define HALF      0.5005 /* half a step, and the roundings of scale and product */
#define VALUE_MIN 1e-30f
#define VALUE_MAX 1e15f /* its square is far from FLT_MAX, whatever the dimension */
#define AT_ONCE   256u

static void make(const float *row, uint32_t dim, bool l2, uint8_t *out)
{
    uint32_t bytes = ivf_format_row8_bytes(dim);
    float largest = ivf_format_largest(row, dim), scale = largest / 127, bias = 0;
    memset(out, 0, bytes);
    if (largest > 0 && !(largest >= VALUE_MIN && largest <= VALUE_MAX)) {
        scale = 0;
        bias = INFINITY;
    } else if (largest > 0) {
        float norm;
        ivf_kernels_best()->round(row, dim, 127 / largest, (int8_t *)out);
        kernels_best()->norms((struct kernels_rows){row, dim}, 1, &norm);
        /* 1 g: the norm itself. */
        if (l2)
            bias = nextafterf((float)(-0.5 * (double)norm * (1 - 8 * kernels_gamma(dim + 8))),
                              INFINITY);
    }
    for (uint32_t i = 0; i < dim; i++)
        out[i] ^= IVF_BYTE_ZERO;
    float tail[2] = {scale, bias};
    memcpy(out + bytes - IVF_ROW8_TAIL, tail, sizeof tail);
}

static void make_ip(const void *row, uint32_t row_bytes, uint8_t *out)
{
    make(row, row_bytes / sizeof(float), false, out);
}

static void make_l2(const void *row, uint32_t row_bytes, uint8_t *out)
{
    make(row, row_bytes / sizeof(float), true, out);
}

void sketch_of(const struct slice_config *config, struct head_sketch *out)
{
    enum kernels_form form = kernels_form_of(config->metric);
    *out = (struct head_sketch){0};
    if (form == KERNELS_L1 || config->rows != KITH_ROWS_F32)
        return;
    out->bytes = ivf_format_row8_bytes(config->dim);
    out->make = form == KERNELS_IP ? make_ip : make_l2;
}

void sketch_where_it_pays(const struct slice_config *config, struct head_sketch *out)
{
    *out = (struct head_sketch){0};
    if (config->dim >= SKETCH_DIM_MIN)
        sketch_of(config, out);
}

bool sketch_query_init(struct sketch_query *query, enum kernels_form form, const float *vector,
                       uint32_t dim)
{
    uint32_t bytes = ivf_format_row8_bytes(dim);
    float largest = ivf_format_largest(vector, dim), scale = largest / 127;
    double sum = 0, square = 0, lost = 0, lost_square = 0;
    int32_t byte_sum = 0;
    if (!(largest >= VALUE_MIN && largest <= VALUE_MAX))
        return false;
    memset(query->bytes, 0, bytes);
    int8_t *rounded = (int8_t *)query->bytes;
    ivf_kernels_best()->round(vector, dim, 127 / largest, rounded);
    for (uint32_t i = 0; i < dim; i++) {
        double value = (double)vector[i], off = value - (double)scale * rounded[i];
        sum += fabs(value);
        square += value * value;
        lost += fabs(off);
        lost_square += off * off;
        byte_sum += rounded[i];
    }
    double root = sqrt(dim), g = kernels_gamma(dim + 8);
    double c =
        127 * fmin(lost, root * sqrt(lost_square)) + HALF * sum + 4 * g * sqrt(square) * 128 * root;
    query->rows8 = (struct ivf_kernels_rows8){.query = query->bytes,
                                              .row_bytes = bytes,
                                              .minus = byte_sum * (int32_t)IVF_BYTE_ZERO -
                                                       (int32_t)(c / (double)scale * 1.000001) - 2,
                                              .scale = scale};
    query->halved = form == KERNELS_L2;
    query->minus = query->halved ? square / 2 * (1 - 8 * g) : 0;
    return true;
}

uint32_t sketch_choose(struct sketch_query *query, const uint8_t *sketches, uint32_t n, float floor,
                       uint32_t *list)
{
    uint32_t rows[AT_ONCE], n_list = 0;
    float bounds[AT_ONCE];
    double wanted = (double)floor * (query->halved ? 0.5 : 1) + query->minus;
    float bound = nextafterf((float)wanted, -INFINITY);
    for (uint32_t i = 0; i < AT_ONCE; i++)
        rows[i] = i;
    for (uint32_t at = 0; at < n; at += AT_ONCE) {
        uint32_t some = n - at < AT_ONCE ? n - at : AT_ONCE;
        query->rows8.rows = sketches + (size_t)at * query->rows8.row_bytes;
        ivf_kernels_best()->dot8(&query->rows8, rows, some, bounds);
        uint32_t chosen = kernels_best()->select(bounds, some, bound, list + n_list);
        for (uint32_t i = n_list; i < n_list + chosen; i++)
            list[i] += at;
        n_list += chosen;
    }
    return n_list;
}
