/* The bytes of a codebook, shared by codebook.c (reads) and codebook_train.c (writes): a header,
 * then, all f32, centroids[n_lists][dim], under dot lifts[n_lists], words[n_subs][sub_dim][16], and
 * the hash (u64) of all before. Little endian. Disk values: never renumber. Threads: no state. */
#ifndef CODEBOOK_FORMAT_H
#define CODEBOOK_FORMAT_H

#include "shard/index/codebook.h"

#define CODEBOOK_MAGIC        0x4b42434bu /* "KCBK" */
#define CODEBOOK_VERSION      3u
#define CODEBOOK_OLDEST       2u /* that is read, too: its weight is 1 */
#define CODEBOOK_HEADER_BYTES 64u
#define CODEBOOK_HASH_BYTES   8u
#define CODEBOOK_SUB_DIM_MAX  64u
#define CODEBOOK_WORDS        16u

/* The numbers of a codebook before it is one. */
struct codebook_parts {
    enum kith_metric metric;
    enum codebook_codes codes;
    uint32_t dim, n_lists, sub_dim, n_subs, generation;
    uint64_t trained_rows;
    float residual_energy, lift, scale8, offset8, stretch;
    float weight; /* by the version */
};

uint64_t codebook_hash(const uint8_t *bytes, size_t len);
/* Bytes of a codebook of this shape. */
size_t codebook_format_bytes(const struct codebook_parts *parts);
void codebook_format_store_header(uint8_t *out, const struct codebook_parts *parts);
/* The generation in the header of a codebook. */
static inline uint32_t codebook_format_generation(const uint8_t *header)
{
    return kith_load_u32(header + 32);
}
/* The hash at the end of a codebook. */
static inline uint64_t codebook_format_hash(struct kith_bytes codebook)
{
    return kith_load_u64(codebook.data + codebook.len - CODEBOOK_HASH_BYTES);
}
/* Sub-quantizers of so many dimensions: even. */
uint32_t codebook_format_subs(uint32_t dim, uint32_t sub_dim);

/* Takes bytes (kith_alloc) that are a whole codebook, on success only. */
enum kith_err codebook_adopt(struct codebook **out, uint8_t *bytes, size_t len,
                             const struct slice_config *config, struct kith_diag *diag);

#endif
