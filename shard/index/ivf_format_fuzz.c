/* Arbitrary bytes as the head of an index: refused, or written back they are the same, but for what
 * an older version does not have. */
#include <string.h>

#include "shard/index/ivf_format.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct ivf_meta meta;
    uint8_t again[IVF_META_BYTES_MAX], expected[IVF_META_BYTES_MAX];
    if (ivf_format_load_meta(&meta, (struct kith_bytes){data, size}, NULL) != KITH_OK)
        return 0;
    kith_assert(meta.n_targets <= IVF_TARGETS && isfinite(meta.error));
    uint32_t version = kith_load_u32(data + 4);
    size_t more = version < IVF_META_WITH_FAR ? IVF_META_HEADER_BYTES - IVF_META_FAR : 0;
    kith_assert(ivf_format_store_meta(again, &meta) == size + more);
    memset(expected, 0, sizeof expected);
    memcpy(expected, data, IVF_META_FAR);
    memcpy(expected + IVF_META_FAR + more, data + IVF_META_FAR, size - IVF_META_FAR);
    kith_store_u32(expected + 4, IVF_FORMAT_VERSION);
    if (version < IVF_META_WITH_GROWTH)
        kith_store_f32(expected + 44, IVF_GROWTH_USUAL);
    kith_assert(memcmp(again, expected, size + more) == 0);
    return 0;
}
