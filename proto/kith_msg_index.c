/* What shards ask each other, so that all of them index a collection alike. */
#include <math.h>

#include "proto/kith_msg_internal.h"

void kith_msg_write_codebook(struct kith_writer *w, const struct kith_msg_codebook *msg)
{
    kith_write_array(w, 4);
    kith_msg_write_scope(w, &msg->scope);
    kith_write_u64(w, msg->hash);
    kith_write_u64(w, msg->offset);
}

bool kith_msg_read_codebook(struct kith_bytes body, struct kith_msg_codebook *out)
{
    struct kith_cursor c;
    return kith_msg_read_head(&c, body, 4) && kith_msg_read_scope(&c, &out->scope) &&
           kith_read_u64(&c, &out->hash) && kith_read_u64(&c, &out->offset);
}

void kith_msg_write_codebooked(struct kith_writer *w, const struct kith_msg_codebooked *msg)
{
    kith_write_array(w, 7);
    kith_msg_write_slices(w, &msg->slices);
    kith_write_u64(w, msg->generation);
    kith_write_u64(w, msg->hash);
    kith_write_u64(w, msg->bytes);
    kith_write_f32(w, msg->energy);
    kith_write_u64(w, msg->energy_rows);
    kith_write_bin(w, msg->piece.data, msg->piece.len);
}

bool kith_msg_read_codebooked(struct kith_bytes body, struct kith_msg_codebooked *out)
{
    struct kith_cursor c;
    if (!kith_msg_read_head(&c, body, 7) || !kith_msg_read_slices(&c, &out->slices) ||
        !kith_read_u32(&c, &out->generation) || !kith_read_u64(&c, &out->hash) ||
        !kith_read_u64(&c, &out->bytes) || !kith_read_f32(&c, &out->energy) ||
        !kith_read_u64(&c, &out->energy_rows) || !kith_read_bin(&c, &out->piece))
        return false;
    return out->energy >= 0.0f && isfinite(out->energy) && out->bytes <= KITH_CODEBOOK_MAX &&
           (out->generation == 0) == (out->bytes == 0) && out->piece.len <= KITH_CODEBOOK_PIECE;
}

void kith_msg_write_sample(struct kith_writer *w, const struct kith_msg_sample *msg)
{
    kith_write_array(w, 6);
    kith_msg_write_scope(w, &msg->scope);
    kith_write_u64(w, msg->n_rows);
    kith_write_u64(w, msg->part);
    kith_write_u64(w, msg->n_parts);
    kith_write_u64(w, msg->seed);
}

bool kith_msg_read_sample(struct kith_bytes body, struct kith_msg_sample *out)
{
    struct kith_cursor c;
    return kith_msg_read_head(&c, body, 6) && kith_msg_read_scope(&c, &out->scope) &&
           kith_read_u32(&c, &out->n_rows) && kith_read_u32(&c, &out->part) &&
           kith_read_u32(&c, &out->n_parts) && kith_read_u64(&c, &out->seed) &&
           out->n_parts <= KITH_SAMPLE_PARTS && out->part < out->n_parts;
}

void kith_msg_write_sampled(struct kith_writer *w, const struct kith_msg_sampled *msg)
{
    kith_write_array(w, 3);
    kith_msg_write_slices(w, &msg->slices);
    kith_write_u64(w, msg->dim);
    kith_write_bin(w, msg->rows.data, msg->rows.len);
}

bool kith_msg_read_sampled(struct kith_bytes body, struct kith_msg_sampled *out)
{
    struct kith_cursor c;
    return kith_msg_read_head(&c, body, 3) && kith_msg_read_slices(&c, &out->slices) &&
           kith_read_u32(&c, &out->dim) && out->dim > 0 && out->dim <= KITH_DIM_MAX &&
           kith_read_bin(&c, &out->rows) && out->rows.len <= KITH_SAMPLE_PIECE &&
           out->rows.len % (out->dim * sizeof(float)) == 0;
}
