/* Vectors that `kith plan` tries out: the user's own, from any file that `kith import` reads, or
 * made-up ones.
 *
 * Made-up vectors are normally distributed around the origin, and the variance of a dimension falls
 * like one over its number, as the principal components of embeddings roughly do. How many of them
 * a query looks at is about what it is among word vectors (docs/BENCHMARKS.md, plan).
 *
 * In random order either way, always the same. Owns: its rows. Threads: one. Errors: KITH_NOMEM; of
 * a file also KITH_NOT_FOUND, KITH_IO, and KITH_BAD_REQUEST for what is in it. */
#ifndef SAMPLE_H
#define SAMPLE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "cli/source.h"

struct sample {
    float *rows; /* [n][dim]; freed with sample_fini */
    uint32_t n, dim;
    bool cut; /* the file has more */
};

/* At most max_bytes of rows. Lines with text have no vectors yet: they are refused. */
enum kith_err sample_read(struct sample *out, const char *path, enum source_format format,
                          size_t max_bytes, struct kith_diag *diag);
enum kith_err sample_make_up(struct sample *out, uint32_t n, uint32_t dim, struct kith_diag *diag);
void sample_fini(struct sample *sample);

#endif
