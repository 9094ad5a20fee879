/* The store of the `filter` benchmark: a set of vectors, each with fields to filter by, sealed,
 * merged and indexed in a temporary folder.
 *
 * Owns: the folder, removed on close. Errors: ends the program with a message. */
#ifndef FILTER_STORE_H
#define FILTER_STORE_H

#include <stdint.h>

#include "ann_set.h"
#include "shard/index/ivf_build.h"
#include "shard/storage/store.h"

#define FILTER_STORE_BOUND      10000u /* the field r is below it */
#define FILTER_STORE_CATEGORIES 1000u  /* and the field c below this */

/* Of the rows as they are stored. */
struct filter_store_shape {
    enum kith_metric metric;
    float norms; /* lengths are from 1 to this, independent of the direction */
};

struct filter_store {
    char dir[4096];
    struct filter_store_shape shape;
    float *row; /* being written */
    struct io *io;
    struct ivf_builder *builder;
    struct store *store;
    struct view *view;
    float *centers;       /* of categories */
    uint16_t *categories; /* of rows */
};

void filter_store_open(struct filter_store *out, const struct ann_set *set,
                       struct filter_store_shape shape);
void filter_store_close(struct filter_store *store);
uint32_t filter_store_number(uint32_t row); /* its r */
/* What a row is multiplied by; queries are rows from n on. */
float filter_store_length(const struct filter_store *store, uint32_t row);

#endif
