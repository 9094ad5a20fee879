/* Arbitrary texts as factory strings: one that is taken has a shape within the limits, and none is
 * read beyond its end. */
#include "common/kith_mem.h"
#include "proto/kith_limits.h"
#include "shard/index/faiss_factory.h"

#include <string.h>

#define CODE_WORDS_MAX 4096u /* of PQ#x12 */

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct kith_diag diag = {0};
    if (size < 3)
        return 0;
    uint32_t dim = (uint32_t)data[0] << 8 | data[1];
    enum kith_metric metric = (enum kith_metric)(KITH_COSINE + data[2] % 4);
    char *text = kith_xalloc(size - 3 + 1); /* of its very length: reading on is seen */
    memcpy(text, data + 3, size - 3);
    text[size - 3] = '\0';
    if (faiss_factory_check(text, dim, metric, &diag) == KITH_OK) {
        struct faiss_factory_shape shape = faiss_factory_shape_of(text);
        uint32_t most =
            KITH_FAISS_CENTROIDS_MAX > CODE_WORDS_MAX ? KITH_FAISS_CENTROIDS_MAX : CODE_WORDS_MAX;
        kith_assert(shape.ranked_len <= strlen(text) && strlen(text) <= KITH_FAISS_FACTORY_MAX);
        kith_assert(shape.lists <= KITH_FAISS_CENTROIDS_MAX && shape.centroids <= most);
        kith_assert(shape.lists <= shape.centroids);
    } else {
        kith_assert(diag.text[0] != '\0');
    }
    kith_free(text);
    return 0;
}
