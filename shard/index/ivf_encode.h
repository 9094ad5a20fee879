/* Codes, terms and bytes of the rows of a segment, in the order of their lists (ivf_format.h).
 * Codes and bytes say something of one row alone, so those of a row that has them are copied, and
 * come out as if they were made; its term is put on the new segment's scale (a rounding by at most
 * 1/500 of their root mean square), and the errors are those that were measured where the row was.
 *
 * Threads: one build at a time, with the threads of its workers. Memory: what is made, 4 bytes a
 * row for a while, and a few blocks for each thread. Errors: KITH_NOMEM, KITH_CANCELLED. */
#ifndef IVF_ENCODE_H
#define IVF_ENCODE_H

#include "shard/index/ivf_format.h"
#include "shard/index/ivf_reuse.h"
#include "shard/index/workers.h"
#include "shard/storage/segment_index.h"

struct ivf_encode {
    const struct codebook *codebook;
    const struct segment_source *source;
    enum kith_row_type type;
    const uint32_t *order;         /* the source's number of row i */
    const uint32_t *lists;         /* u32[n_lists + 1]: where each list begins */
    const struct ivf_reuse *reuse; /* rows that have codes and bytes already */
    struct workers *workers;
};

/* kith_alloc'd; NULL when the codebook has none of the kind. */
struct ivf_encoded {
    uint8_t *codes, *rows8;
    int16_t *terms;
    uint32_t row8_bytes;
    float term_scale, error, error8;
};

enum kith_err ivf_encode_run(const struct ivf_encode *encode, struct ivf_encoded *out,
                             struct kith_diag *diag);
void ivf_encode_free(struct ivf_encoded *encoded); /* a zeroed one is allowed */

#endif
