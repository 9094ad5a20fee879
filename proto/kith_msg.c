/* Requests: what a coordinator writes and a shard reads. Replies are in kith_msg_reply.c,
 * what nodes ask each other in kith_msg_index.c.
 *
 * A body is one msgpack array. read_head() takes its length; a reader that expects n positions
 * accepts more (a newer peer) and never fewer. */
#include "proto/kith_msg.h"

#include <math.h>
#include <string.h>

#include "proto/kith_msg_internal.h"

bool kith_msg_read_head(struct kith_cursor *c, struct kith_bytes body, uint32_t n_min)
{
    uint32_t n;
    *c = kith_cursor_of(body.data, body.len);
    if (!kith_read_array(c, &n))
        return false;
    if (n < n_min)
        kith_cursor_fail(c);
    return n >= n_min;
}

void kith_msg_write_scope(struct kith_writer *w, const struct kith_msg_scope *scope)
{
    kith_assert(scope->n_slices <= KITH_SLICES_PER_COLLECTION_MAX);
    kith_write_u64(w, scope->collection);
    kith_write_array(w, scope->n_slices);
    for (uint32_t i = 0; i < scope->n_slices; i++)
        kith_write_u64(w, scope->slices[i]);
}

bool kith_msg_read_scope(struct kith_cursor *c, struct kith_msg_scope *out)
{
    if (!kith_read_u64(c, &out->collection) || !kith_read_array(c, &out->n_slices))
        return false;
    if (out->n_slices > KITH_SLICES_PER_COLLECTION_MAX)
        return false;
    for (uint32_t i = 0; i < out->n_slices; i++) {
        if (!kith_read_u32(c, &out->slices[i]))
            return false;
        /* Ascending, so none is named twice. */
        if (out->slices[i] >= KITH_SLICES_PER_COLLECTION_MAX ||
            (i > 0 && out->slices[i] <= out->slices[i - 1]))
            return false;
    }
    return true;
}

/* A map, or nil for "none". */
void kith_msg_write_optional(struct kith_writer *w, struct kith_bytes msgpack)
{
    if (msgpack.len > 0)
        kith_write_raw(w, msgpack.data, msgpack.len);
    else
        kith_write_nil(w);
}

bool kith_msg_read_optional(struct kith_cursor *c, struct kith_bytes *out)
{
    *out = (struct kith_bytes){0};
    return kith_read_peek(c) == KITH_WIRE_NIL ? kith_read_nil(c) : kith_read_skip(c, out);
}

static bool read_optional_map(struct kith_cursor *c, struct kith_bytes *out)
{
    enum kith_wire_type type = kith_read_peek(c);
    return (type == KITH_WIRE_NIL || type == KITH_WIRE_MAP) && kith_msg_read_optional(c, out);
}

void kith_msg_write_scope_only(struct kith_writer *w, const struct kith_msg_scope *scope)
{
    kith_write_array(w, 2);
    kith_msg_write_scope(w, scope);
}

bool kith_msg_read_scope_only(struct kith_bytes body, struct kith_msg_scope *out)
{
    struct kith_cursor c;
    return kith_msg_read_head(&c, body, 2) && kith_msg_read_scope(&c, out);
}

void kith_msg_write_open(struct kith_writer *w, const struct kith_msg_open *msg)
{
    kith_write_array(w, msg->index == KITH_INDEX_FAISS ? 7 : 6);
    kith_msg_write_scope(w, &msg->scope);
    kith_write_u64(w, msg->dim);
    kith_write_u64(w, msg->metric);
    kith_write_u64(w, msg->rows);
    kith_write_u64(w, msg->index);
    if (msg->index == KITH_INDEX_FAISS)
        kith_write_str(w, msg->factory, strlen(msg->factory));
}

static bool read_factory(struct kith_cursor *c, char out[KITH_FAISS_FACTORY_MAX + 1])
{
    struct kith_bytes text;
    if (!kith_read_str(c, &text) || text.len == 0 || text.len > KITH_FAISS_FACTORY_MAX ||
        memchr(text.data, 0, text.len) != NULL)
        return false;
    memset(out, 0, KITH_FAISS_FACTORY_MAX + 1);
    memcpy(out, text.data, text.len);
    return true;
}

bool kith_msg_read_open(struct kith_bytes body, struct kith_msg_open *out)
{
    struct kith_cursor c;
    uint32_t metric, rows, index;
    if (!kith_msg_read_head(&c, body, 6) || !kith_msg_read_scope(&c, &out->scope) ||
        !kith_read_u32(&c, &out->dim) || !kith_read_u32(&c, &metric) || !kith_read_u32(&c, &rows) ||
        !kith_read_u32(&c, &index))
        return false;
    if (out->dim == 0 || out->dim > KITH_DIM_MAX || metric < KITH_COSINE ||
        metric > KITH_MANHATTAN || rows < KITH_ROWS_F32 || rows > KITH_ROWS_F16 ||
        index > KITH_INDEX_FAISS)
        return false;
    out->factory[0] = '\0';
    if (index == KITH_INDEX_FAISS && !read_factory(&c, out->factory))
        return false;
    out->metric = (enum kith_metric)metric;
    out->rows = (enum kith_row_type)rows;
    out->index = (enum kith_index)index;
    return true;
}

void kith_msg_write_write(struct kith_writer *w, const struct kith_msg_write *msg)
{
    kith_write_array(w, 4);
    kith_msg_write_scope(w, &msg->scope);
    kith_write_u64(w, msg->op_id);
    kith_write_raw(w, msg->ops.data, msg->ops.len);
}

bool kith_msg_read_write(struct kith_bytes body, struct kith_msg_write *out)
{
    struct kith_cursor c;
    return kith_msg_read_head(&c, body, 4) && kith_msg_read_scope(&c, &out->scope) &&
           out->scope.n_slices == 1 && kith_read_u64(&c, &out->op_id) &&
           kith_read_peek(&c) == KITH_WIRE_ARRAY && kith_read_skip(&c, &out->ops);
}

/* Bits of a part's flags. A node passes over those it does not know. */
enum { PART_EXACT = 1, PART_INDEXED_ONLY = 2, PART_EXPLAIN = 4, PART_NO_RESCORE = 8 };

void kith_msg_write_search(struct kith_writer *w, const struct kith_msg_scope *scope, uint32_t dim,
                           uint32_t n_parts)
{
    kith_assert(n_parts <= KITH_SEARCH_BATCH_MAX);
    kith_write_array(w, 4);
    kith_msg_write_scope(w, scope);
    kith_write_u64(w, dim);
    kith_write_array(w, n_parts);
}

void kith_msg_write_search_part(struct kith_writer *w, const struct kith_msg_search_part *part,
                                uint32_t dim)
{
    kith_assert(part->vectors.len == (size_t)part->n_queries * dim * 4);
    uint64_t flags = (part->exact ? PART_EXACT : 0) | (part->indexed_only ? PART_INDEXED_ONLY : 0) |
                     (part->explain ? PART_EXPLAIN : 0) | (part->no_rescore ? PART_NO_RESCORE : 0);
    bool usual = flags == 0 && !(part->recall > 0) && !(part->margin > 0);
    kith_write_array(w, usual ? 5 : 8);
    kith_write_u64(w, part->n_queries);
    kith_write_bin(w, part->vectors.data, part->vectors.len);
    kith_write_u64(w, part->k);
    if (part->has_threshold)
        kith_write_f32(w, part->threshold);
    else
        kith_write_nil(w);
    kith_msg_write_optional(w, part->filter);
    if (usual)
        return;
    kith_write_u64(w, flags);
    kith_write_f32(w, part->recall);
    kith_write_f32(w, part->margin);
}

bool kith_msg_read_search(struct kith_bytes body, struct kith_msg_search *out)
{
    struct kith_cursor c;
    if (!kith_msg_read_head(&c, body, 4) || !kith_msg_read_scope(&c, &out->scope) ||
        !kith_read_u32(&c, &out->dim) || !kith_read_array(&c, &out->n_parts))
        return false;
    out->parts = (struct kith_bytes){c.at, (size_t)(c.end - c.at)};
    return out->dim > 0 && out->dim <= KITH_DIM_MAX && out->n_parts <= KITH_SEARCH_BATCH_MAX;
}

/* n: how many values are left of the part. */
static bool read_effort(struct kith_cursor *c, uint32_t n, struct kith_msg_search_part *out)
{
    uint64_t flags;
    if (n == 0)
        return true;
    if (n < 3 || !kith_read_u64(c, &flags) || !kith_read_f32(c, &out->recall) ||
        !kith_read_f32(c, &out->margin))
        return false;
    out->exact = (flags & PART_EXACT) != 0;
    out->indexed_only = (flags & PART_INDEXED_ONLY) != 0;
    out->explain = (flags & PART_EXPLAIN) != 0;
    out->no_rescore = (flags & PART_NO_RESCORE) != 0;
    if (!(out->recall >= 0 && out->recall <= 1) || !(out->margin == 0 || out->margin >= 1))
        return false;
    for (; n > 3; n--)
        if (!kith_read_skip(c, NULL))
            return false;
    return true;
}

bool kith_msg_search_next(struct kith_cursor *parts, uint32_t dim, struct kith_msg_search_part *out)
{
    uint32_t n;
    struct kith_msg_search_part part = {0};
    if (!kith_read_array(parts, &n) || n < 5 || !kith_read_u32(parts, &part.n_queries) ||
        !kith_read_bin(parts, &part.vectors) || !kith_read_u32(parts, &part.k))
        return false;
    if (part.n_queries == 0 || part.n_queries > KITH_SEARCH_BATCH_MAX || part.k > KITH_K_MAX ||
        part.vectors.len != (size_t)part.n_queries * dim * 4)
        return false;
    part.has_threshold = kith_read_peek(parts) != KITH_WIRE_NIL;
    if (part.has_threshold ? !kith_read_f32(parts, &part.threshold) : !kith_read_nil(parts))
        return false;
    if (part.has_threshold && isnan(part.threshold))
        return false;
    if (!read_optional_map(parts, &part.filter) || !read_effort(parts, n - 5, &part))
        return false;
    *out = part;
    return true;
}

void kith_msg_write_fetch(struct kith_writer *w, const struct kith_msg_fetch *msg)
{
    kith_write_array(w, 5);
    kith_msg_write_scope(w, &msg->scope);
    kith_write_bool(w, msg->with_payload);
    kith_write_bool(w, msg->with_vector);
    kith_write_array(w, msg->n_ids);
    kith_write_raw(w, msg->ids.data, msg->ids.len);
}

bool kith_msg_read_fetch(struct kith_bytes body, struct kith_msg_fetch *out)
{
    struct kith_cursor c;
    if (!kith_msg_read_head(&c, body, 5) || !kith_msg_read_scope(&c, &out->scope) ||
        !kith_read_bool(&c, &out->with_payload) || !kith_read_bool(&c, &out->with_vector) ||
        !kith_read_array(&c, &out->n_ids))
        return false;
    const uint8_t *start = c.at;
    for (uint32_t i = 0; i < out->n_ids; i++) {
        struct kith_id id;
        if (!kith_read_id(&c, &id))
            return false;
    }
    out->ids = (struct kith_bytes){start, (size_t)(c.at - start)};
    return true;
}

void kith_msg_write_count(struct kith_writer *w, const struct kith_msg_count *msg)
{
    kith_write_array(w, 3);
    kith_msg_write_scope(w, &msg->scope);
    kith_msg_write_optional(w, msg->filter);
}

bool kith_msg_read_count(struct kith_bytes body, struct kith_msg_count *out)
{
    struct kith_cursor c;
    return kith_msg_read_head(&c, body, 3) && kith_msg_read_scope(&c, &out->scope) &&
           read_optional_map(&c, &out->filter);
}

void kith_msg_write_scroll(struct kith_writer *w, const struct kith_msg_scroll *msg)
{
    kith_write_array(w, 10);
    kith_msg_write_scope(w, &msg->scope);
    kith_msg_write_optional(w, msg->filter);
    kith_write_u64(w, msg->limit);
    if (msg->has_from)
        kith_write_id(w, &msg->from);
    else
        kith_write_nil(w);
    kith_write_str(w, (const char *)msg->order_key.data, msg->order_key.len);
    kith_write_bool(w, msg->descending);
    kith_msg_write_optional(w, msg->start_from);
    kith_write_bool(w, msg->with_payload);
    kith_write_bool(w, msg->with_vector);
}

bool kith_msg_read_scroll(struct kith_bytes body, struct kith_msg_scroll *out)
{
    struct kith_cursor c;
    if (!kith_msg_read_head(&c, body, 10) || !kith_msg_read_scope(&c, &out->scope) ||
        !read_optional_map(&c, &out->filter) || !kith_read_u32(&c, &out->limit))
        return false;
    out->has_from = kith_read_peek(&c) != KITH_WIRE_NIL;
    if (out->has_from ? !kith_read_id(&c, &out->from) : !kith_read_nil(&c))
        return false;
    return out->limit <= KITH_K_MAX + 1 && kith_read_str(&c, &out->order_key) &&
           out->order_key.len <= KITH_FIELD_PATH_MAX && kith_read_bool(&c, &out->descending) &&
           kith_msg_read_optional(&c, &out->start_from) && kith_read_bool(&c, &out->with_payload) &&
           kith_read_bool(&c, &out->with_vector);
}

void kith_msg_write_facet(struct kith_writer *w, const struct kith_msg_facet *msg)
{
    kith_write_array(w, 4);
    kith_msg_write_scope(w, &msg->scope);
    kith_write_str(w, (const char *)msg->key.data, msg->key.len);
    kith_msg_write_optional(w, msg->filter);
}

bool kith_msg_read_facet(struct kith_bytes body, struct kith_msg_facet *out)
{
    struct kith_cursor c;
    return kith_msg_read_head(&c, body, 4) && kith_msg_read_scope(&c, &out->scope) &&
           kith_read_str(&c, &out->key) && out->key.len > 0 &&
           out->key.len <= KITH_FIELD_PATH_MAX && read_optional_map(&c, &out->filter);
}
