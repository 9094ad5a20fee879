/* What the `quantizers` benchmark shares: lists of a data set, and codes of its rows by one
 * quantizer or another, all of them in the form that Kith's kernels scan.
 *
 * Every quantizer here is a table look-up: n_subs codes of 4 bits a row, and the sum y of the
 * entries they choose, which is the product of the query with a vector that stands for the row's
 * residual r. With row x and centroid c, the estimate of <q,x> is
 *
 *   <q,c> * centre_times[row] + y * times[row] + plus[row]
 *
 * which is what each row's own few numbers make of it: see enum quantizers_estimate.
 *
 * Owns: init/fini and make/free pairs. Threads: one. Errors: end the program with a message. */
#ifndef QUANTIZERS_H
#define QUANTIZERS_H

#include <stdint.h>

#include "ann_set.h"
#include "shard/index/blas.h"
#include "shard/index/codebook.h"
#include "shard/index/ivf_encode.h"
#include "shard/index/workers.h"

struct quantizers_world {
    struct ann_set set;
    struct codebook *codebook; /* its lists */
    uint32_t *list_of;         /* of each row of the set */
    uint32_t *order;           /* order[i]: number in the set of row i in the order of lists */
    uint32_t *lists;           /* n_lists + 1: where each begins */
    struct workers workers;
    double train_s; /* CPU time for the lists */
};

/* `dir`: of the data set. Rows are put in lists by Kith's own training and assignment. */
void quantizers_world_init(struct quantizers_world *world, const char *dir, uint32_t n_queries);
void quantizers_world_fini(struct quantizers_world *world);

_Noreturn void quantizers_die(const char *what, const struct kith_diag *diag);
double quantizers_cpu_s(void); /* of the process */

enum quantizers_turn {
    QUANTIZERS_NONE,
    QUANTIZERS_HADAMARD,
    QUANTIZERS_RANDOM,
    QUANTIZERS_PCA,
    QUANTIZERS_OPQ
};

/* An orthonormal map of dim numbers. */
struct quantizers_rotation {
    enum quantizers_turn turn;
    uint32_t dim;
    float *numbers; /* the matrix, row-major; HADAMARD: signs */
};

/* NONE, HADAMARD and RANDOM. */
struct quantizers_rotation quantizers_rotation_new(enum quantizers_turn turn, uint32_t dim);
/* PCA: directions of falling variance; OPQ: what suits a product quantizer of n_subs parts, which
 * must divide the dimension. Memory: 3 copies of the rows and 6 matrices of doubles. */
struct quantizers_rotation quantizers_rotation_learn(enum quantizers_turn turn,
                                                     struct blas_block rows, uint32_t n_subs);
void quantizers_rotation_free(struct quantizers_rotation *rotation);
/* out is not in; scratch has room for dim numbers. */
void quantizers_rotate(const struct quantizers_rotation *rotation, const float *in, float *out,
                       float *scratch);
/* n rows, kith_alloc'd. */
float *quantizers_rotate_all(const struct quantizers_rotation *rotation, const float *rows,
                             uint32_t n);

/* How a vector y that stands for r says something of <q,x>. */
enum quantizers_estimate {
    /* (<q,c> + <q,y>) / (1 - t), t the share of the coding error r - y that lies along the row:
     * what Kith did before. */
    QUANTIZERS_ALONG_ROW,
    /* RaBitQ's: <q,c> + <c,r> + f <q - c,y> with f = |r|^2 / <y,r>, so that f y - r is orthogonal
     * to r: no part of the error depends on how far along r the query is. */
    QUANTIZERS_OWN_SCALE,
    /* Kith's: the same with one f for all rows, and what that leaves in the row's term. */
    QUANTIZERS_ONE_SCALE,
};

/* What an estimate's standard error is proportional to, beside the row's own share of it. */
enum quantizers_error { QUANTIZERS_BY_LENGTH, QUANTIZERS_BY_CENTRE, QUANTIZERS_BY_TENTH };

struct quantizer {
    char name[48];
    struct quantizers_rotation rotation; /* of the query, before all else */
    uint32_t bits;                       /* RaBitQ: a dimension; 0: product quantizer */
    enum quantizers_estimate estimate;
    enum quantizers_error error_by; /* |q| = 1, |q - c|, or the distance of the 10th neighbour */
    struct codebook codebook;       /* as the tables and the scan want it; borrows words */
    float *words;
    uint8_t *codes;
    int16_t *terms; /* as stored; zeros where the estimate is not Kith's: it takes as long */
    float *centre_times, *times, *plus, *errors;
    uint8_t *rows8; /* product quantizers: the next sieve */
    uint32_t row8_bytes;
    double bytes_a_row, train_s, encode_us_a_row;
};

struct quantizers_choice {
    uint32_t bits, sub_dim; /* one of them 0 */
    enum quantizers_turn turn;
    enum quantizers_estimate estimate;
};

void quantizers_name(const struct quantizers_choice *choice, char name[48]);
void quantizers_make(struct quantizer *out, struct quantizers_world *world,
                     const struct quantizers_choice *choice);
void quantizers_free(struct quantizer *quantizer);

#endif
