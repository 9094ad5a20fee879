/* Arbitrary bytes as a codebook: refused, or every number of it is inside and finite. The first
 * byte chooses metric and dimension; the hash is put right, or nothing would come past it. */
#include <math.h>
#include <string.h>

#include "common/kith_mem.h"
#include "shard/index/codebook_format.h"

static void walk(const struct codebook *c)
{
    double sum = 0.0;
    for (size_t i = 0; i < (size_t)c->n_lists * c->dim; i++)
        sum += (double)c->centroids[i];
    for (size_t i = 0; i < (size_t)c->n_subs * c->sub_dim * CODEBOOK_WORDS; i++)
        sum += (double)c->subs[i];
    for (uint32_t list = 0; list < c->n_lists8; list++)
        sum += (double)c->minus[list];
    for (uint32_t list = 0; list < c->n_lists && c->lifts != NULL; list++)
        sum += (double)c->lifts[list];
    for (size_t i = 0; i < c->n_lists8 * (((size_t)c->dim + 3) / 4 * 4); i++)
        sum += c->centroids8[i];
    kith_assert(isfinite(sum));
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (size < 1 + CODEBOOK_HASH_BYTES)
        return 0;
    struct slice_config config = {.dim = 1 + data[0] / 4,
                                  .metric = (enum kith_metric)(KITH_COSINE + data[0] % 4),
                                  .rows = KITH_ROWS_F32};
    uint8_t *bytes = kith_memdup(data + 1, size - 1);
    struct codebook *codebook;
    kith_assert(bytes != NULL);
    kith_store_u64(bytes + size - 1 - CODEBOOK_HASH_BYTES,
                   codebook_hash(bytes, size - 1 - CODEBOOK_HASH_BYTES));
    struct kith_bytes all = {bytes, size - 1};
    if (codebook_load(&codebook, all, &config, NULL) == KITH_OK) {
        walk(codebook);
        codebook_unref(codebook);
    }
    kith_free(bytes);
    return 0;
}
