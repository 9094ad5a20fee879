/* The look-up tables of a query: for every sub-quantizer the products with its 16 code words, as
 * bytes on one scale.
 *
 * Owns: its memory, from ivf_tables_init. Threads: one at a time. Errors: KITH_NOMEM. */
#ifndef IVF_TABLES_H
#define IVF_TABLES_H

#include "shard/index/codebook.h"

struct ivf_tables {
    uint8_t *bytes; /* as ivf_kernels.h has them */
    /* A score is base + (sum of bytes) / scale, about. */
    float scale, base;
    float error;  /* standard deviation of what rounding to bytes adds to a score */
    int16_t bias; /* added to sums of bytes, so that they fit i16 */
    /* Inside. */
    float *query, *products, *lows, *highs;
};

enum kith_err ivf_tables_init(struct ivf_tables *tables, const struct codebook *codebook,
                              struct kith_diag *diag);
void ivf_tables_fini(struct ivf_tables *tables); /* a zeroed one is allowed */
void ivf_tables_fill(struct ivf_tables *tables, const struct codebook *codebook,
                     const float *query);

#endif
