#include "common/kith_aside.h"
#include "common/kith_clock.h"
#include "shard/index/filter_work.h"

/* Rows are visited in ascending order, so that a block of payloads is unpacked once. */

#define SORT_LISTS_ABOVE 8u  /* shorter lists are as fast unsorted */
#define LOOKS_AT_ONCE    16u /* payloads between two looks at the clock */

/* Asked before each payload; a payload may be a megabyte, a look at the clock is nothing beside 16
 * small ones. */
static enum kith_err in_time(struct filter_work *work)
{
    if (work->looked++ % LOOKS_AT_ONCE != 0)
        return KITH_OK;
    kith_aside_look();
    if (work->deadline_ms == 0 || kith_now_ms() < work->deadline_ms)
        return KITH_OK;
    return kith_fail(work->diag, KITH_TIMEOUT, "the filter took longer than its deadline");
}

static enum kith_err make_lists(struct filter_work *work)
{
    if (work->lists != NULL || work->filter->n_values <= SORT_LISTS_ABOVE)
        return KITH_OK;
    return filter_lists_new(&work->lists, work->filter, work->diag);
}

static enum kith_err look(struct filter_work *work, uint32_t row, struct kith_id *id,
                          struct kith_bytes *payload)
{
    if (work->segment != NULL) {
        *id = segment_id(work->segment, row);
        return segment_payload_cached(work->segment, row, &work->cache, payload, work->diag);
    }
    struct head_row found;
    head_row_get(work->head->head, work->first + row, &found);
    *id = *found.id;
    *payload = found.payload;
    return KITH_OK;
}

enum kith_err filter_walk_rows(struct filter_work *work, uint32_t node,
                               const struct bitmap *candidates, struct bitmap *into)
{
    uint32_t rows[256];
    uint32_t from = 0;
    size_t n;
    enum kith_err err = make_lists(work);
    while (err == KITH_OK && (n = bitmap_read(candidates, from, rows, 256)) > 0) {
        for (size_t i = 0; err == KITH_OK && i < n; i++) {
            struct kith_id id;
            struct kith_bytes payload = {0};
            err = in_time(work);
            if (err == KITH_OK)
                err = look(work, rows[i], &id, &payload);
            if (err == KITH_OK && filter_doc_node(work->filter, work->lists, node, &id, payload))
                bitmap_add(into, rows[i]);
        }
        if (rows[n - 1] == UINT32_MAX)
            break;
        from = rows[n - 1] + 1;
    }
    return err;
}

enum kith_err filter_walk_head(struct filter_work *work, uint32_t first, uint32_t end,
                               struct bitmap *into)
{
    enum kith_err err = first < end ? make_lists(work) : KITH_OK;
    for (uint32_t row = first; err == KITH_OK && row < end; row++) {
        struct head_row found;
        err = in_time(work);
        if (err == KITH_OK && head_row_at(work->head->head, row, work->seq, &found) &&
            filter_doc(work->filter, work->lists, found.id, found.payload))
            bitmap_add(into, row);
    }
    return err;
}
