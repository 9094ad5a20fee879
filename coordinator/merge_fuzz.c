/* Packed hits of a hostile node into a list: whatever comes, the list stays sorted and its ids
 * distinct. */
#include "coordinator/merge.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static const uint32_t even[] = {0, 2}, odd[] = {1, 3};
    if (size < 3)
        return 0;
    uint32_t k = data[0] % 16;
    size_t cut = 3 + (size_t)data[1] * (size - 3) / 255;
    struct kith_arena arena = {.chunks = NULL};
    struct merge_scratch scratch;
    struct merge_list list;
    struct kith_bytes first = {data + 3, cut - 3}, second = {data + cut, size - cut};
    struct merge_source sources[] = {{even, 2, 4}, {odd, 2, 4}};
    if (merge_scratch_init(&scratch, &arena, k, NULL) == KITH_OK &&
        merge_list_init(&list, &arena, k, NULL) == KITH_OK) {
        (void)!merge_add(&list, first, (uint32_t)(first.len / KITH_HIT_BYTES), &sources[0],
                         &scratch, NULL);
        (void)!merge_add(&list, second, (uint32_t)(second.len / KITH_HIT_BYTES), &sources[1],
                         &scratch, NULL);
        kith_assert(list.n <= k);
        for (uint32_t i = 0; i + 1 < list.n; i++)
            kith_assert(merge_compare(&list.hits[i], &list.hits[i + 1]) < 0);
        for (uint32_t i = 0; i < list.n; i++)
            for (uint32_t j = i + 1; j < list.n; j++)
                kith_assert(!kith_id_equal(&list.hits[i].id, &list.hits[j].id));
    }
    kith_arena_fini(&arena);
    return 0;
}
