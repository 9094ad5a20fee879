/* msgpack: a writer over any sink (msgpack-c) and a bounded reader.
 *
 * The reader is a cursor over bytes somebody else owns. It never allocates, never recurses deeper
 * than KITH_MSGPACK_DEPTH_MAX, and checks every length and count against the bytes left before it
 * is believed (a msgpack value takes at least one byte, so a count larger than the bytes left is a
 * lie). msgpack-c's own unpacker allocates by claimed counts and is not used.
 *
 * Errors: the cursor is sticky. After the first malformed value `err` is set, every later read
 * returns false and leaves its output untouched; check once at the end. Threads: one owner. */
#ifndef KITH_WIRE_H
#define KITH_WIRE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include "proto/kith_err.h"
#include "proto/kith_id.h"

/* ---- writing -------------------------------------------------------------------------------- */

/* 0 = taken, -1 = cannot (the sink remembers why). common/kith_buf.h has one: kith_buf_sink. */
typedef int (*kith_sink_fn)(void *sink, const char *data, size_t len);

struct kith_writer {
    kith_sink_fn write;
    void *sink;
    bool failed; /* sticky */
};

void kith_write_nil(struct kith_writer *w);
void kith_write_bool(struct kith_writer *w, bool value);
void kith_write_u64(struct kith_writer *w, uint64_t value);
void kith_write_i64(struct kith_writer *w, int64_t value);
void kith_write_f32(struct kith_writer *w, float value);
void kith_write_f64(struct kith_writer *w, double value);
void kith_write_str(struct kith_writer *w, const char *text, size_t len);
void kith_write_cstr(struct kith_writer *w, const char *text);
void kith_write_bin(struct kith_writer *w, const void *data, size_t len);
void kith_write_array(struct kith_writer *w, uint32_t n); /* n values follow */
void kith_write_map(struct kith_writer *w, uint32_t n);   /* n keys and values follow */
void kith_write_raw(struct kith_writer *w, const void *msgpack,
                    size_t len); /* whole values, already encoded */
void kith_write_id(struct kith_writer *w, const struct kith_id *id); /* u64, or bin of 16 bytes */

/* ---- reading -------------------------------------------------------------------------------- */

enum kith_wire_type {
    KITH_WIRE_END, /* no bytes left, or the cursor failed */
    KITH_WIRE_NIL,
    KITH_WIRE_BOOL,
    KITH_WIRE_INT, /* any integer; see `negative` */
    KITH_WIRE_FLOAT,
    KITH_WIRE_STR,
    KITH_WIRE_BIN,
    KITH_WIRE_ARRAY,
    KITH_WIRE_MAP,
    KITH_WIRE_EXT, /* never valid in Kith; reading it fails the cursor */
};

struct kith_cursor {
    const uint8_t *at;
    const uint8_t *end;
    enum kith_err err; /* KITH_OK, or KITH_PROTOCOL for ever */
};

struct kith_bytes {
    const uint8_t *data; /* borrowed */
    size_t len;
};

/* One scalar value, or the head of an array or map. */
struct kith_value {
    enum kith_wire_type type;
    bool boolean;
    bool negative; /* INT: `i` holds the value; otherwise `u` does */
    uint64_t u;
    int64_t i;
    double f;                /* FLOAT; for INT the nearest double */
    struct kith_bytes bytes; /* STR, BIN */
    uint32_t count;          /* ARRAY: values; MAP: pairs */
};

struct kith_cursor kith_cursor_of(const void *data, size_t len);
bool kith_cursor_done(const struct kith_cursor *c); /* no failure and no bytes left */
void kith_cursor_fail(struct kith_cursor *c);       /* for callers that find a value out of range */

enum kith_wire_type kith_read_peek(const struct kith_cursor *c);
bool kith_read_value(struct kith_cursor *c,
                     struct kith_value *out); /* of ARRAY/MAP: the head only */
bool kith_read_skip(struct kith_cursor *c,
                    struct kith_bytes *out); /* a whole value; out may be NULL */

/* Typed reads: a value of another type fails the cursor. */
bool kith_read_nil(struct kith_cursor *c);
bool kith_read_bool(struct kith_cursor *c, bool *out);
bool kith_read_u64(struct kith_cursor *c, uint64_t *out);
bool kith_read_u32(struct kith_cursor *c, uint32_t *out);
bool kith_read_f32(struct kith_cursor *c, float *out);
bool kith_read_f64(struct kith_cursor *c, double *out);            /* takes an integer too */
bool kith_read_str(struct kith_cursor *c, struct kith_bytes *out); /* checks no UTF-8 */
bool kith_read_bin(struct kith_cursor *c, struct kith_bytes *out);
bool kith_read_array(struct kith_cursor *c, uint32_t *count);
bool kith_read_map(struct kith_cursor *c, uint32_t *count);
bool kith_read_id(struct kith_cursor *c, struct kith_id *out);

bool kith_bytes_equal(struct kith_bytes bytes, const char *text);
/* < 0, 0, > 0: the order of memcmp; what begins alike ascends by length. */
static inline int kith_bytes_compare(struct kith_bytes a, struct kith_bytes b)
{
    size_t shared = a.len < b.len ? a.len : b.len;
    int order = shared > 0 ? memcmp(a.data, b.data, shared) : 0;
    if (order != 0)
        return order;
    return a.len < b.len ? -1 : a.len > b.len;
}

/* Little-endian loads and stores for packed binary parts; no alignment needed. */
uint32_t kith_load_u32(const uint8_t *p);
uint64_t kith_load_u64(const uint8_t *p);
float kith_load_f32(const uint8_t *p);
void kith_store_u32(uint8_t *p, uint32_t value);
void kith_store_u64(uint8_t *p, uint64_t value);
void kith_store_f32(uint8_t *p, float value);

/* The bits of a float, and back. */
static inline uint32_t kith_f32_bits(float value)
{
    uint32_t bits;
    memcpy(&bits, &value, sizeof bits);
    return bits;
}

static inline float kith_f32_of_bits(uint32_t bits)
{
    float value;
    memcpy(&value, &bits, sizeof value);
    return value;
}

#endif
