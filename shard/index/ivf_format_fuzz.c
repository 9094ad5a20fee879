/* Arbitrary bytes as the head of an index: refused, or written back they are the same, but those of
 * the version before. */
#include <string.h>

#include "shard/index/ivf_format.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct ivf_meta meta;
    uint8_t again[IVF_META_BYTES_MAX];
    if (ivf_format_load_meta(&meta, (struct kith_bytes){data, size}, NULL) != KITH_OK)
        return 0;
    kith_assert(meta.n_targets <= IVF_TARGETS && isfinite(meta.error));
    kith_assert(ivf_format_store_meta(again, &meta) == size);
    kith_assert(kith_load_u32(data + 4) != IVF_FORMAT_VERSION || memcmp(again, data, size) == 0);
    return 0;
}
