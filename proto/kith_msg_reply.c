/* Replies: what a shard writes and a coordinator reads. The coordinator trusts them no more than
 * any bytes. */
#include "proto/kith_msg.h"

#include <math.h>
#include <string.h>

#include "proto/kith_msg_internal.h"

void kith_msg_write_slices(struct kith_writer *w, const struct kith_msg_slices *slices)
{
    kith_assert(slices->n_slices <= KITH_SLICES_PER_COLLECTION_MAX);
    kith_write_array(w, slices->n_slices);
    for (uint32_t i = 0; i < slices->n_slices; i++) {
        const struct kith_msg_slice *slice = &slices->slices[i];
        kith_write_array(w, 5);
        kith_write_u64(w, slice->slice);
        kith_write_u64(w, slice->err);
        kith_write_u64(w, slice->points);
        kith_write_u64(w, slice->seq);
        kith_write_str(w, (const char *)slice->detail.data, slice->detail.len);
    }
}

bool kith_msg_read_slices(struct kith_cursor *c, struct kith_msg_slices *out)
{
    if (!kith_read_array(c, &out->n_slices) || out->n_slices > KITH_SLICES_PER_COLLECTION_MAX)
        return false;
    for (uint32_t i = 0; i < out->n_slices; i++) {
        struct kith_msg_slice *slice = &out->slices[i];
        uint32_t n;
        uint64_t err;
        if (!kith_read_array(c, &n) || n != 5 || !kith_read_u32(c, &slice->slice) ||
            !kith_read_u64(c, &err) || !kith_read_u64(c, &slice->points) ||
            !kith_read_u64(c, &slice->seq) || !kith_read_str(c, &slice->detail))
            return false;
        if (slice->slice >= KITH_SLICES_PER_COLLECTION_MAX)
            return false;
        slice->err = kith_err_from_wire(err);
    }
    return true;
}

void kith_msg_write_error(struct kith_writer *w, enum kith_err err, const char *text)
{
    kith_write_array(w, 2);
    kith_write_u64(w, err);
    kith_write_cstr(w, text);
}

bool kith_msg_read_error(struct kith_bytes body, struct kith_msg_error *out)
{
    struct kith_cursor c;
    uint64_t err;
    if (!kith_msg_read_head(&c, body, 2) || !kith_read_u64(&c, &err) ||
        !kith_read_str(&c, &out->text))
        return false;
    out->err = kith_err_from_wire(err);
    return out->err != KITH_OK;
}

void kith_msg_write_slices_only(struct kith_writer *w, const struct kith_msg_slices *slices)
{
    kith_write_array(w, 1);
    kith_msg_write_slices(w, slices);
}

bool kith_msg_read_slices_only(struct kith_bytes body, struct kith_msg_slices *out)
{
    struct kith_cursor c;
    return kith_msg_read_head(&c, body, 1) && kith_msg_read_slices(&c, out);
}

void kith_msg_write_written(struct kith_writer *w, const struct kith_msg_written *msg)
{
    kith_write_array(w, 2);
    kith_msg_write_slices(w, &msg->slices);
    kith_write_u64(w, msg->affected);
}

bool kith_msg_read_written(struct kith_bytes body, struct kith_msg_written *out)
{
    struct kith_cursor c;
    return kith_msg_read_head(&c, body, 2) && kith_msg_read_slices(&c, &out->slices) &&
           kith_read_u64(&c, &out->affected);
}

void kith_msg_write_counted(struct kith_writer *w, const struct kith_msg_counted *msg)
{
    kith_write_array(w, 2);
    kith_msg_write_slices(w, &msg->slices);
    kith_write_u64(w, msg->count);
}

bool kith_msg_read_counted(struct kith_bytes body, struct kith_msg_counted *out)
{
    struct kith_cursor c;
    return kith_msg_read_head(&c, body, 2) && kith_msg_read_slices(&c, &out->slices) &&
           kith_read_u64(&c, &out->count);
}

/* ---- FOUND ------------------------------------------------------------------------------------
 */

void kith_msg_write_found(struct kith_writer *w, const struct kith_msg_slices *slices,
                          uint32_t n_parts)
{
    kith_write_array(w, 3);
    kith_msg_write_slices(w, slices);
    kith_write_array(w, n_parts);
}

void kith_msg_write_found_explains(struct kith_writer *w, uint32_t n)
{
    kith_write_array(w, n);
}

void kith_msg_write_found_explain(struct kith_writer *w, const struct kith_msg_explain *explain)
{
    kith_write_array(w, 20);
    kith_write_u64(w, explain->part);
    kith_write_str(w, (const char *)explain->plan.data, explain->plan.len);
    kith_write_u64(w, explain->filter_hits);
    kith_write_u64(w, explain->filter_misses);
    kith_write_u64(w, explain->segments_indexed);
    kith_write_u64(w, explain->segments_plain);
    kith_write_u64(w, explain->heads);
    kith_write_u64(w, explain->fell_back);
    kith_write_f32(w, explain->recall);
    kith_write_u64(w, explain->rows);
    kith_write_u64(w, explain->lists);
    kith_write_u64(w, explain->list_rows);
    kith_write_u64(w, explain->reranked);
    kith_write_u64(w, explain->reranked_exactly);
    kith_write_u64(w, explain->expected_ns);
    kith_write_u64(w, explain->exact_ns);
    kith_write_u64(w, explain->ns);
    kith_write_u64(w, explain->nprobe);
    kith_write_u64(w, explain->ef_search);
    kith_write_u64(w, explain->k_factor);
}

void kith_msg_write_found_part(struct kith_writer *w, uint64_t matched, uint32_t n_queries)
{
    kith_write_array(w, n_queries + 1);
    kith_write_u64(w, matched);
}

static void pack_hit(const struct kith_hit *hit, uint8_t out[KITH_HIT_BYTES])
{
    uint32_t rank_bits;
    memcpy(&rank_bits, &hit->rank, sizeof rank_bits);
    kith_id_to_wire(&hit->id, out);
    kith_store_u32(out + KITH_ID_WIRE_BYTES, rank_bits);
    kith_store_u64(out + KITH_ID_WIRE_BYTES + 4, hit->seq);
}

enum kith_err kith_msg_write_found_hits(struct kith_writer *w, const struct kith_hit *hits,
                                        uint32_t n)
{
    uint8_t small[KITH_HIT_BYTES * 64];
    size_t bytes = (size_t)n * KITH_HIT_BYTES;
    if (n <= 64) {
        for (uint32_t i = 0; i < n; i++)
            pack_hit(&hits[i], small + (size_t)i * KITH_HIT_BYTES);
        kith_write_bin(w, small, bytes);
        return w->failed ? KITH_NOMEM : KITH_OK;
    }
    /* A bin's head first, then its content in pieces: no buffer of k hits is needed. */
    uint8_t head[5] = {0xc6, (uint8_t)(bytes >> 24), (uint8_t)(bytes >> 16), (uint8_t)(bytes >> 8),
                       (uint8_t)bytes};
    kith_write_raw(w, head, sizeof head);
    for (uint32_t done = 0; done < n;) {
        uint32_t piece = n - done < 64 ? n - done : 64;
        for (uint32_t i = 0; i < piece; i++)
            pack_hit(&hits[done + i], small + (size_t)i * KITH_HIT_BYTES);
        kith_write_raw(w, small, (size_t)piece * KITH_HIT_BYTES);
        done += piece;
    }
    return w->failed ? KITH_NOMEM : KITH_OK;
}

bool kith_msg_read_found(struct kith_bytes body, struct kith_msg_found *out)
{
    struct kith_cursor c = kith_cursor_of(body.data, body.len);
    uint32_t n;
    if (!kith_read_array(&c, &n) || n < 2 || !kith_msg_read_slices(&c, &out->slices) ||
        !kith_read_array(&c, &out->n_parts) || out->n_parts > KITH_SEARCH_BATCH_MAX)
        return false;
    out->parts = c;
    out->has_explains = n > 2;
    return true;
}

bool kith_msg_found_part(struct kith_cursor *parts, uint64_t *matched, uint32_t *n_queries)
{
    uint32_t n;
    if (!kith_read_array(parts, &n) || n == 0 || n - 1 > KITH_SEARCH_BATCH_MAX ||
        !kith_read_u64(parts, matched))
        return false;
    *n_queries = n - 1;
    return true;
}

bool kith_msg_found_hits(struct kith_cursor *parts, struct kith_bytes *packed, uint32_t *n_hits)
{
    struct kith_bytes bytes;
    if (!kith_read_bin(parts, &bytes) || bytes.len % KITH_HIT_BYTES != 0 ||
        bytes.len / KITH_HIT_BYTES > KITH_K_MAX)
        return false;
    *packed = bytes;
    *n_hits = (uint32_t)(bytes.len / KITH_HIT_BYTES);
    return true;
}

bool kith_msg_found_explains(struct kith_cursor *parts, uint32_t *n)
{
    return kith_read_array(parts, n) && *n <= KITH_SEARCH_BATCH_MAX;
}

bool kith_msg_found_explain(struct kith_cursor *parts, struct kith_msg_explain *out)
{
    uint32_t n;
    struct kith_msg_explain e = {0};
    if (!kith_read_array(parts, &n) || n < 17 || !kith_read_u32(parts, &e.part) ||
        !kith_read_str(parts, &e.plan) || e.plan.len > KITH_PLAN_NAME_MAX ||
        !kith_read_u32(parts, &e.filter_hits) || !kith_read_u32(parts, &e.filter_misses) ||
        !kith_read_u32(parts, &e.segments_indexed) || !kith_read_u32(parts, &e.segments_plain) ||
        !kith_read_u32(parts, &e.heads) || !kith_read_u32(parts, &e.fell_back) ||
        !kith_read_f32(parts, &e.recall) || !(e.recall >= 0 && e.recall <= 1) ||
        !kith_read_u64(parts, &e.rows) || !kith_read_u64(parts, &e.lists) ||
        !kith_read_u64(parts, &e.list_rows) || !kith_read_u64(parts, &e.reranked) ||
        !kith_read_u64(parts, &e.reranked_exactly) || !kith_read_u64(parts, &e.expected_ns) ||
        !kith_read_u64(parts, &e.exact_ns) || !kith_read_u64(parts, &e.ns))
        return false;
    if (n >= 20 && (!kith_read_u32(parts, &e.nprobe) || !kith_read_u32(parts, &e.ef_search) ||
                    !kith_read_u32(parts, &e.k_factor)))
        return false;
    for (uint32_t known = n >= 20 ? 20 : 17; n > known; n--)
        if (!kith_read_skip(parts, NULL))
            return false;
    *out = e;
    return true;
}

bool kith_hit_unpack(const uint8_t *packed, struct kith_hit *out)
{
    struct kith_hit hit;
    uint32_t rank_bits = kith_load_u32(packed + KITH_ID_WIRE_BYTES);
    memcpy(&hit.rank, &rank_bits, sizeof hit.rank);
    hit.seq = kith_load_u64(packed + KITH_ID_WIRE_BYTES + 4);
    if (!kith_id_from_wire(packed, &hit.id) || isnan(hit.rank))
        return false;
    *out = hit;
    return true;
}

/* ---- RECORDS, SCROLLED --------------------------------------------------------------------------
 */

void kith_msg_write_records(struct kith_writer *w, const struct kith_msg_slices *slices,
                            uint32_t n_records)
{
    kith_write_array(w, 2);
    kith_msg_write_slices(w, slices);
    kith_write_array(w, n_records);
}

void kith_msg_write_record(struct kith_writer *w, const struct kith_record *record)
{
    kith_write_array(w, 5);
    kith_write_id(w, &record->id);
    kith_write_u64(w, record->seq);
    kith_msg_write_optional(w, record->payload);
    kith_write_bin(w, record->vector.data, record->vector.len);
    kith_msg_write_optional(w, record->order);
}

bool kith_msg_read_records(struct kith_bytes body, struct kith_msg_records *out)
{
    struct kith_cursor c;
    if (!kith_msg_read_head(&c, body, 2) || !kith_msg_read_slices(&c, &out->slices) ||
        !kith_read_array(&c, &out->n_records))
        return false;
    out->records = c;
    return true;
}

bool kith_msg_records_next(struct kith_cursor *records, struct kith_record *out)
{
    uint32_t n;
    struct kith_record record = {0};
    if (!kith_read_array(records, &n) || n < 5 || !kith_read_id(records, &record.id) ||
        !kith_read_u64(records, &record.seq) || !kith_msg_read_optional(records, &record.payload) ||
        !kith_read_bin(records, &record.vector) || record.vector.len % 4 != 0 ||
        record.vector.len / 4 > KITH_DIM_MAX || !kith_msg_read_optional(records, &record.order))
        return false;
    struct kith_cursor payload = kith_cursor_of(record.payload.data, record.payload.len);
    if (record.payload.len > 0 && kith_read_peek(&payload) != KITH_WIRE_MAP)
        return false;
    *out = record;
    return true;
}

/* ---- FACETS
 * -------------------------------------------------------------------------------------- */

void kith_msg_write_facets(struct kith_writer *w, const struct kith_msg_slices *slices,
                           uint32_t n_hits)
{
    kith_write_array(w, 2);
    kith_msg_write_slices(w, slices);
    kith_write_array(w, n_hits);
}

void kith_msg_write_facet_hit(struct kith_writer *w, struct kith_bytes value, uint64_t count)
{
    kith_write_array(w, 2);
    kith_write_raw(w, value.data, value.len);
    kith_write_u64(w, count);
}

bool kith_msg_read_facets(struct kith_bytes body, struct kith_msg_facets *out)
{
    struct kith_cursor c;
    if (!kith_msg_read_head(&c, body, 2) || !kith_msg_read_slices(&c, &out->slices) ||
        !kith_read_array(&c, &out->n_hits))
        return false;
    out->hits = c;
    return true;
}

bool kith_msg_facets_next(struct kith_cursor *hits, struct kith_bytes *value, uint64_t *count)
{
    uint32_t n;
    struct kith_bytes bytes;
    if (!kith_read_array(hits, &n) || n < 2)
        return false;
    enum kith_wire_type type = kith_read_peek(hits);
    if (type != KITH_WIRE_STR && type != KITH_WIRE_INT && type != KITH_WIRE_BOOL)
        return false;
    if (!kith_read_skip(hits, &bytes) || !kith_read_u64(hits, count))
        return false;
    *value = bytes;
    return true;
}

/* ---- INFOS
 * ---------------------------------------------------------------------------------------- */

void kith_msg_write_infos(struct kith_writer *w, const struct kith_msg_slices *slices,
                          const struct kith_msg_info_slice *info, uint32_t n_fields)
{
    kith_write_array(w, 4);
    kith_msg_write_slices(w, slices);
    kith_write_array(w, slices->n_slices);
    for (uint32_t i = 0; i < slices->n_slices; i++) {
        kith_write_array(w, 14);
        kith_write_u64(w, info[i].live_points);
        kith_write_u64(w, info[i].deleted_points);
        kith_write_u64(w, info[i].head_rows);
        kith_write_u64(w, info[i].segments);
        kith_write_u64(w, info[i].segment_bytes);
        kith_write_u64(w, info[i].wal_bytes);
        kith_write_u64(w, info[i].head_bytes);
        kith_write_bool(w, info[i].failed);
        kith_write_u64(w, info[i].indexed_points);
        kith_write_bool(w, info[i].busy);
        kith_write_u64(w, info[i].phase);
        kith_write_u64(w, info[i].generation);
        kith_write_u64(w, info[i].n_lists);
        kith_write_u64(w, info[i].codebook);
    }
    kith_write_array(w, n_fields);
}

void kith_msg_write_info_field(struct kith_writer *w, const struct kith_msg_info_field *field)
{
    kith_write_array(w, 3);
    kith_write_str(w, (const char *)field->path.data, field->path.len);
    kith_write_u64(w, field->types);
    kith_write_u64(w, field->points);
}

static bool read_info_slice(struct kith_cursor *c, struct kith_msg_info_slice *info)
{
    uint32_t m, phase;
    if (!kith_read_array(c, &m) || m < 13 || !kith_read_u64(c, &info->live_points) ||
        !kith_read_u64(c, &info->deleted_points) || !kith_read_u64(c, &info->head_rows) ||
        !kith_read_u64(c, &info->segments) || !kith_read_u64(c, &info->segment_bytes) ||
        !kith_read_u64(c, &info->wal_bytes) || !kith_read_u64(c, &info->head_bytes) ||
        !kith_read_bool(c, &info->failed) || !kith_read_u64(c, &info->indexed_points) ||
        !kith_read_bool(c, &info->busy) || !kith_read_u32(c, &phase) || phase > KITH_INDEX_READY ||
        !kith_read_u32(c, &info->generation) || !kith_read_u32(c, &info->n_lists))
        return false;
    info->phase = (enum kith_index_phase)phase;
    info->codebook = 0; /* an older node sends none */
    if (m > 13 && !kith_read_u64(c, &info->codebook))
        return false;
    for (; m > 14; m--)
        if (!kith_read_skip(c, NULL))
            return false;
    return true;
}

bool kith_msg_read_infos(struct kith_bytes body, struct kith_msg_infos *out)
{
    struct kith_cursor c = kith_cursor_of(body.data, body.len);
    uint32_t head, n;
    if (!kith_read_array(&c, &head) || head < 3 || !kith_msg_read_slices(&c, &out->slices) ||
        !kith_read_array(&c, &n) || n != out->slices.n_slices)
        return false;
    out->has_recalls = head > 3;
    for (uint32_t i = 0; i < n; i++)
        if (!read_info_slice(&c, &out->info[i]))
            return false;
    if (!kith_read_array(&c, &out->n_fields))
        return false;
    out->fields = c;
    return true;
}

bool kith_msg_infos_next(struct kith_cursor *fields, struct kith_msg_info_field *out)
{
    uint32_t n;
    struct kith_msg_info_field field;
    if (!kith_read_array(fields, &n) || n < 3 || !kith_read_str(fields, &field.path) ||
        !kith_read_u32(fields, &field.types) || !kith_read_u64(fields, &field.points))
        return false;
    *out = field;
    return true;
}

/* ---- MEMORIES -------------------------------------------------------------------------------- */

void kith_msg_write_memories(struct kith_writer *w, const struct kith_msg_memories *msg)
{
    kith_assert(msg->n_sections <= KITH_MEMORY_SECTIONS_MAX);
    kith_write_array(w, 5);
    kith_msg_write_slices(w, &msg->slices);
    kith_write_array(w, msg->n_sections);
    for (uint32_t i = 0; i < msg->n_sections; i++) {
        const struct kith_msg_memory_section *section = &msg->sections[i];
        kith_write_array(w, 5);
        kith_write_str(w, (const char *)section->name.data, section->name.len);
        kith_write_u64(w, section->file);
        kith_write_u64(w, section->mapped);
        kith_write_u64(w, section->resident);
        kith_write_u64(w, section->locked);
    }
    kith_write_u64(w, msg->lock_budget);
    kith_write_u64(w, msg->locked);
    kith_write_bool(w, msg->lock_refused);
}

static bool read_section(struct kith_cursor *c, struct kith_msg_memory_section *out)
{
    uint32_t n;
    if (!kith_read_array(c, &n) || n < 5 || !kith_read_str(c, &out->name) || out->name.len == 0 ||
        out->name.len > KITH_MEMORY_NAME_MAX || !kith_read_u64(c, &out->file) ||
        !kith_read_u64(c, &out->mapped) || !kith_read_u64(c, &out->resident) ||
        !kith_read_u64(c, &out->locked))
        return false;
    for (; n > 5; n--)
        if (!kith_read_skip(c, NULL))
            return false;
    return true;
}

bool kith_msg_read_memories(struct kith_bytes body, struct kith_msg_memories *out)
{
    struct kith_cursor c;
    if (!kith_msg_read_head(&c, body, 5) || !kith_msg_read_slices(&c, &out->slices) ||
        !kith_read_array(&c, &out->n_sections) || out->n_sections > KITH_MEMORY_SECTIONS_MAX)
        return false;
    for (uint32_t i = 0; i < out->n_sections; i++)
        if (!read_section(&c, &out->sections[i]))
            return false;
    return kith_read_u64(&c, &out->lock_budget) && kith_read_u64(&c, &out->locked) &&
           kith_read_bool(&c, &out->lock_refused);
}

/* ---- recalls, behind INFOS ------------------------------------------------------------------- */

void kith_msg_write_info_recalls(struct kith_writer *w, uint32_t n)
{
    kith_write_array(w, n);
}

void kith_msg_write_info_recall(struct kith_writer *w, const struct kith_msg_info_recall *recall)
{
    kith_write_array(w, 4);
    kith_write_str(w, (const char *)recall->plan.data, recall->plan.len);
    kith_write_str(w, (const char *)recall->share.data, recall->share.len);
    kith_write_u64(w, recall->queries);
    kith_write_f32(w, recall->recall);
}

bool kith_msg_info_recalls(struct kith_cursor *fields, uint32_t *n)
{
    return kith_read_array(fields, n) && *n <= KITH_RECALLS_MAX;
}

bool kith_msg_info_recall(struct kith_cursor *fields, struct kith_msg_info_recall *out)
{
    uint32_t n;
    struct kith_msg_info_recall recall;
    if (!kith_read_array(fields, &n) || n < 4 || !kith_read_str(fields, &recall.plan) ||
        recall.plan.len > KITH_PLAN_NAME_MAX || !kith_read_str(fields, &recall.share) ||
        recall.share.len > KITH_PLAN_NAME_MAX || !kith_read_u64(fields, &recall.queries) ||
        !kith_read_f32(fields, &recall.recall) || !(recall.recall >= 0 && recall.recall <= 1))
        return false;
    for (; n > 4; n--)
        if (!kith_read_skip(fields, NULL))
            return false;
    *out = recall;
    return true;
}
