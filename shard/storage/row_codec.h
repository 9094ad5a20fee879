/* Vectors as they come (f32) and rows as they are stored (f32 or f16; normalised under cosine).
 *
 * Threads: no state. Errors: KITH_BAD_REQUEST for NaN, Inf and a wrong length, KITH_UNPROCESSABLE
 * for a value that float16 cannot hold. */
#ifndef ROW_CODEC_H
#define ROW_CODEC_H

#include <stdint.h>

#include "proto/kith_wire.h"
#include "shard/storage/slice_config.h"

uint32_t row_codec_bytes(const struct slice_config *config); /* of one stored row */
/* Whether the vector (raw f32 LE, any alignment) can be stored. */
enum kith_err row_codec_check(const struct slice_config *config, struct kith_bytes vector,
                              struct kith_diag *diag);
/* Writes one row; the vector has passed row_codec_check. A zero vector stays zero: under cosine it
 * scores 0 against everything. */
void row_codec_encode(const struct slice_config *config, struct kith_bytes vector, void *row);
/* The stored row as f32. */
void row_codec_decode(const struct slice_config *config, const void *row, float *vector);

#endif
