#include "shard/query/records.h"

/* The bytes of all records share one growing buffer. While it grows, a record's pointers would go
 * stale, so until records_finish they hold offsets: data is NULL and the lengths alone, added up in
 * order, say where each piece lies. */

#include "common/kith_mem.h"
#include "shard/storage/row_codec.h"

void records_fini(struct records *records)
{
    segment_cache_fini(&records->cache);
    kith_buf_fini(&records->memory);
    kith_free(records->items);
    *records = (struct records){0};
}

static enum kith_err full(const struct records *records, struct kith_diag *diag)
{
    if (records->memory.len > RECORDS_BYTES_MAX - KITH_PAYLOAD_MAX - KITH_DIM_MAX * 4)
        return kith_fail(diag, KITH_TOO_BIG,
                         "the points asked for take more than %u MiB; ask for fewer at once",
                         RECORDS_BYTES_MAX >> 20);
    return kith_fail(diag, KITH_NOMEM, "records");
}

enum kith_err records_add(struct records *records, const struct records_want *want,
                          const struct parts_spot *spot, struct kith_bytes order,
                          struct kith_diag *diag)
{
    struct parts_row row;
    enum kith_err err = parts_read(spot, want->payload, &records->cache, &row, diag);
    if (err != KITH_OK)
        return err;
    if (!kith_grow((void **)&records->items, &records->cap, (size_t)records->n + 1,
                   sizeof *records->items))
        return kith_fail(diag, KITH_NOMEM, "records");
    struct kith_record record = {.id = row.id, .seq = row.seq};
    records->memory.limit = RECORDS_BYTES_MAX;
    if (want->vector) {
        uint32_t dim = spot->view->config.dim;
        float vector[KITH_DIM_MAX];
        kith_assert(dim <= KITH_DIM_MAX);
        row_codec_decode(&spot->view->config, row.row, vector);
        record.vector.len = dim * sizeof *vector;
        kith_buf_append(&records->memory, vector, record.vector.len);
    }
    if (want->payload && row.payload.len > 0) {
        record.payload.len = row.payload.len;
        kith_buf_append(&records->memory, row.payload.data, row.payload.len);
    }
    if (order.len > 0) {
        record.order.len = order.len;
        kith_buf_append(&records->memory, order.data, order.len);
    }
    if (records->memory.failed)
        return full(records, diag);
    records->items[records->n++] = record;
    return KITH_OK;
}

static const uint8_t *place(struct kith_bytes *piece, const uint8_t *at)
{
    if (piece->len == 0)
        return at; /* also when nothing was written at all, and `at` is NULL */
    piece->data = at;
    return at + piece->len;
}

void records_finish(struct records *records)
{
    const uint8_t *at = records->memory.data;
    for (uint32_t i = 0; i < records->n; i++) {
        at = place(&records->items[i].vector, at);
        at = place(&records->items[i].payload, at);
        at = place(&records->items[i].order, at);
    }
}

static enum kith_err fetch_one(struct records *out, struct view *const *views, uint32_t n_views,
                               const struct records_want *want, const struct kith_id *id,
                               struct kith_diag *diag)
{
    for (uint32_t v = 0; v < n_views; v++) {
        struct view_place found;
        if (!view_find(views[v], id, &found))
            continue;
        const struct parts_spot spot = {views[v], parts_of_place(views[v], &found), found.row};
        return records_add(out, want, &spot, (struct kith_bytes){0}, diag);
    }
    return KITH_OK;
}

enum kith_err records_fetch(struct records *out, struct view *const *views, uint32_t n_views,
                            const struct kith_msg_fetch *fetch, struct kith_diag *diag)
{
    const struct records_want want = {fetch->with_payload, fetch->with_vector};
    struct kith_cursor c = kith_cursor_of(fetch->ids.data, fetch->ids.len);
    struct kith_id id;
    enum kith_err err = KITH_OK;
    for (uint32_t i = 0; err == KITH_OK && i < fetch->n_ids; i++)
        err = kith_read_id(&c, &id)
                  ? fetch_one(out, views, n_views, &want, &id, diag)
                  : kith_fail(diag, KITH_PROTOCOL, "id %u of a fetch is malformed", i);
    err = view_verdict(views, n_views, err, diag);
    if (err == KITH_OK)
        records_finish(out);
    return err;
}
