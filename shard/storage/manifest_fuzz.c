#include <string.h>

#include "common/kith_mem.h"
#include "proto/kith_crc32c.h"
#include "proto/kith_wire.h"
#include "shard/storage/manifest.h"

/* Any bytes as a manifest; once as they are, once with the checksum made right, so that what lies
 * behind it is reached. */
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct manifest manifest = {0};
    if (manifest_decode(&manifest, data, size, NULL) == KITH_OK)
        manifest_fini(&manifest);
    if (size < 4)
        return 0;
    uint8_t *copy = kith_memdup(data, size);
    kith_store_u32(copy + size - 4, kith_crc32c(0, copy, size - 4));
    if (manifest_decode(&manifest, copy, size, NULL) == KITH_OK)
        manifest_fini(&manifest);
    kith_free(copy);
    return 0;
}
