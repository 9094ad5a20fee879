/* Compression of payload blocks: the one home of zstd.
 *
 * Threads: any; each keeps its own state until it ends. Errors: KITH_NOMEM; KITH_CORRUPT for bytes
 * that do not decompress to exactly the size claimed (which the caller has bounded). */
#ifndef BLOCK_CODEC_H
#define BLOCK_CODEC_H

#include <stddef.h>
#include <stdint.h>

#include "common/kith_buf.h"

/* Appends the compressed block to out; *bytes = its length. A block that does not shrink is stored
 * as it is: *bytes == len says so. */
enum kith_err block_codec_pack(const uint8_t *data, size_t len, struct kith_buf *out, size_t *bytes,
                               struct kith_diag *diag);
enum kith_err block_codec_unpack(const uint8_t *data, size_t len, uint8_t *out, size_t out_len,
                                 struct kith_diag *diag);

#endif
