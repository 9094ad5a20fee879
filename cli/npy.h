/* The header of a NumPy .npy file (format versions 1 to 3) that holds a matrix of float32 in C
 * order.
 *
 * Owns: nothing. Threads: none. Errors: KITH_UNSUPPORTED for what NumPy can do and we do not read
 * (it says how to convert), KITH_CORRUPT for what is no .npy. Limits: NPY_HEADER_MAX. */
#ifndef NPY_H
#define NPY_H

#include <stddef.h>
#include <stdint.h>

#include "proto/kith_err.h"

#define NPY_HEADER_MAX (64u * 1024)

struct npy {
    uint64_t rows;
    uint32_t dim;
    size_t data_at; /* offset of the first row */
};

/* bytes: the beginning of the file, the whole of it or at least NPY_HEADER_MAX. */
enum kith_err npy_read(struct npy *out, const uint8_t *bytes, size_t n,
                       struct kith_diag *diag) KITH_MUST_CHECK;

#endif
