/* Arbitrary bytes as a columns section: refused, or every read stays inside. */
#include <string.h>

#include "common/kith_mem.h"
#include "shard/storage/column.h"

static void walk(const struct columns *columns, uint32_t n_rows)
{
    for (uint32_t i = 0; i < columns_count(columns); i++) {
        const struct column *column = columns_at(columns, i);
        struct bitmap *set = bitmap_new();
        const struct column *found;
        uint32_t row;
        kith_assert(set != NULL);
        kith_assert(columns_find(columns, column_path(column), &found) == COLUMN_FOUND);
        for (int s = 0; s < COLUMN_SETS; s++)
            kith_assert(column_add(column, (enum column_set)s, set));
        for (uint32_t t = 0; t < column_terms(column); t++)
            kith_assert(column_match_keyword(column, column_term(column, t), set));
        struct column_range all = {0};
        struct column_time_range always = {0};
        kith_assert(column_match_range(column, &all, set));
        kith_assert(column_match_time(column, &always, set));
        kith_assert(bitmap_read(set, n_rows, &row, 1) == 0);
        bitmap_free(set);
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* Byte 0 chooses the number of rows, so that both sides of the bound are met. */
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct columns *columns = NULL;
    if (size < 1)
        return 0;
    uint8_t *section = kith_alloc_aligned(32, size);
    kith_assert(section != NULL);
    memcpy(section, data + 1, size - 1);
    if (columns_open(&columns, section, size - 1, data[0], NULL) == KITH_OK) {
        walk(columns, data[0]);
        columns_close(columns);
    }
    kith_free(section);
    return 0;
}
