/* Arbitrary bytes as the head of an index by Faiss: refused, or stored again the same, with numbers
 * that a search may use. */
#include <string.h>

#include "proto/kith_limits.h"
#include "shard/index/faiss_format.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct faiss_meta meta;
    uint8_t again[FAISS_FORMAT_BYTES_MAX];
    if (faiss_format_load(&meta, (struct kith_bytes){data, size}, NULL) != KITH_OK)
        return 0;
    for (uint32_t i = 0; i < meta.n_targets; i++)
        kith_assert(meta.targets[i].depth * meta.targets[i].effort.k_factor <= KITH_K_MAX);
    kith_assert(faiss_format_store(again, &meta) == size);
    kith_assert(memcmp(again, data, FAISS_FORMAT_HEADER_BYTES - 4) == 0);
    return 0;
}
