/* msgpack. Writing is msgpack-c's packer over the caller's sink; reading is the cursor below.
 *
 * The cursor decodes one head at a time. A count is believed only as far as bytes are left: an
 * array of n values needs at least n bytes, a map of n pairs 2n, so a five-byte message cannot
 * claim four billion elements. Skipping is a loop with a stack of open containers, bounded by
 * KITH_MSGPACK_DEPTH_MAX: no recursion on bytes from outside. */
#include "proto/kith_wire.h"

#include <msgpack.h>
#include <string.h>

#include "proto/kith_limits.h"

/* ---- writing ------------------------------------------------------------------------------- */

static int to_sink(void *data, const char *bytes, size_t len)
{
    struct kith_writer *w = data;
    if (!w->failed && w->write(w->sink, bytes, len) != 0)
        w->failed = true;
    return w->failed ? -1 : 0;
}

static msgpack_packer packer(struct kith_writer *w)
{
    return (msgpack_packer){.data = w, .callback = to_sink};
}

void kith_write_nil(struct kith_writer *w)
{
    msgpack_packer pk = packer(w);
    (void)msgpack_pack_nil(&pk);
}

void kith_write_bool(struct kith_writer *w, bool value)
{
    msgpack_packer pk = packer(w);
    (void)(value ? msgpack_pack_true(&pk) : msgpack_pack_false(&pk));
}

void kith_write_u64(struct kith_writer *w, uint64_t value)
{
    msgpack_packer pk = packer(w);
    (void)msgpack_pack_uint64(&pk, value);
}

void kith_write_i64(struct kith_writer *w, int64_t value)
{
    msgpack_packer pk = packer(w);
    (void)msgpack_pack_int64(&pk, value);
}

void kith_write_f32(struct kith_writer *w, float value)
{
    msgpack_packer pk = packer(w);
    (void)msgpack_pack_float(&pk, value);
}

void kith_write_f64(struct kith_writer *w, double value)
{
    msgpack_packer pk = packer(w);
    (void)msgpack_pack_double(&pk, value);
}

void kith_write_str(struct kith_writer *w, const char *text, size_t len)
{
    msgpack_packer pk = packer(w);
    kith_assert(len <= UINT32_MAX);
    (void)msgpack_pack_str(&pk, len);
    if (len > 0)
        (void)msgpack_pack_str_body(&pk, text, len);
}

void kith_write_cstr(struct kith_writer *w, const char *text)
{
    kith_write_str(w, text, strlen(text));
}

void kith_write_bin(struct kith_writer *w, const void *data, size_t len)
{
    msgpack_packer pk = packer(w);
    kith_assert(len <= UINT32_MAX);
    (void)msgpack_pack_bin(&pk, len);
    if (len > 0)
        (void)msgpack_pack_bin_body(&pk, data, len);
}

void kith_write_array(struct kith_writer *w, uint32_t n)
{
    msgpack_packer pk = packer(w);
    (void)msgpack_pack_array(&pk, n);
}

void kith_write_map(struct kith_writer *w, uint32_t n)
{
    msgpack_packer pk = packer(w);
    (void)msgpack_pack_map(&pk, n);
}

void kith_write_raw(struct kith_writer *w, const void *msgpack, size_t len)
{
    if (len > 0)
        (void)to_sink(w, msgpack, len);
}

void kith_write_id(struct kith_writer *w, const struct kith_id *id)
{
    if (id->is_uuid == 0) {
        kith_write_u64(w, id->lo);
        return;
    }
    uint8_t uuid[16];
    kith_store_u64(uuid, id->hi);
    kith_store_u64(uuid + 8, id->lo);
    kith_write_bin(w, uuid, sizeof uuid);
}

/* ---- reading ------------------------------------------------------------------------------- */

struct kith_cursor kith_cursor_of(const void *data, size_t len)
{
    static const uint8_t nothing[1];
    const uint8_t *at = len > 0 ? data : nothing;
    return (struct kith_cursor){.at = at, .end = at + len};
}

bool kith_cursor_done(const struct kith_cursor *c)
{
    return c->err == KITH_OK && c->at == c->end;
}

void kith_cursor_fail(struct kith_cursor *c)
{
    c->err = KITH_PROTOCOL;
}

static size_t left(const struct kith_cursor *c)
{
    return (size_t)(c->end - c->at);
}

static bool fail(struct kith_cursor *c)
{
    c->err = KITH_PROTOCOL;
    return false;
}

/* What a first byte means: type, how many bytes of big-endian argument follow, and the argument
 * inside the byte. */
struct head {
    enum kith_wire_type type;
    uint8_t arg_bytes;
    bool is_signed;
    uint32_t fixed;
};

static struct head head_of(uint8_t b)
{
    if (b <= 0x7f)
        return (struct head){KITH_WIRE_INT, 0, false, b};
    if (b <= 0x8f)
        return (struct head){KITH_WIRE_MAP, 0, false, b & 0x0fu};
    if (b <= 0x9f)
        return (struct head){KITH_WIRE_ARRAY, 0, false, b & 0x0fu};
    if (b <= 0xbf)
        return (struct head){KITH_WIRE_STR, 0, false, b & 0x1fu};
    if (b >= 0xe0)
        return (struct head){KITH_WIRE_INT, 0, true, b};
    switch (b) {
    case 0xc0:
        return (struct head){KITH_WIRE_NIL, 0, false, 0};
    case 0xc2:
    case 0xc3:
        return (struct head){KITH_WIRE_BOOL, 0, false, b & 1u};
    case 0xc4:
    case 0xc5:
    case 0xc6:
        return (struct head){KITH_WIRE_BIN, (uint8_t)(1u << (b - 0xc4)), false, 0};
    case 0xca:
        return (struct head){KITH_WIRE_FLOAT, 4, false, 0};
    case 0xcb:
        return (struct head){KITH_WIRE_FLOAT, 8, false, 0};
    case 0xcc:
    case 0xcd:
    case 0xce:
    case 0xcf:
        return (struct head){KITH_WIRE_INT, (uint8_t)(1u << (b - 0xcc)), false, 0};
    case 0xd0:
    case 0xd1:
    case 0xd2:
    case 0xd3:
        return (struct head){KITH_WIRE_INT, (uint8_t)(1u << (b - 0xd0)), true, 0};
    case 0xd9:
    case 0xda:
    case 0xdb:
        return (struct head){KITH_WIRE_STR, (uint8_t)(1u << (b - 0xd9)), false, 0};
    case 0xdc:
    case 0xdd:
        return (struct head){KITH_WIRE_ARRAY, (uint8_t)(2u << (b - 0xdc)), false, 0};
    case 0xde:
    case 0xdf:
        return (struct head){KITH_WIRE_MAP, (uint8_t)(2u << (b - 0xde)), false, 0};
    default:
        return (struct head){KITH_WIRE_EXT, 0, false, 0};
    }
}

static void set_int(struct kith_value *v, struct head h, uint64_t arg)
{
    if (h.is_signed && h.arg_bytes == 0)
        v->i = (int64_t)h.fixed - 256;
    else if (h.is_signed && h.arg_bytes < 8 && (arg >> (8u * h.arg_bytes - 1)) != 0)
        v->i = (int64_t)arg - (int64_t)(1ull << (8u * h.arg_bytes));
    else
        v->i = (int64_t)arg;
    v->negative = h.is_signed && v->i < 0;
    v->u = v->negative ? 0 : arg;
    v->f = v->negative ? (double)v->i : (double)v->u;
}

static void set_float(struct kith_value *v, struct head h, uint64_t arg)
{
    if (h.arg_bytes == 4) {
        uint32_t bits = (uint32_t)arg;
        float f;
        memcpy(&f, &bits, sizeof f);
        v->f = (double)f;
    } else {
        memcpy(&v->f, &arg, sizeof v->f);
    }
}

bool kith_read_value(struct kith_cursor *c, struct kith_value *out)
{
    if (c->err != KITH_OK || left(c) == 0)
        return fail(c);
    struct head h = head_of(*c->at);
    if (left(c) < 1u + h.arg_bytes || h.type == KITH_WIRE_EXT)
        return fail(c);
    uint64_t arg = h.fixed;
    for (unsigned i = 0; i < h.arg_bytes; i++)
        arg = (i == 0 ? 0 : arg << 8) | c->at[1 + i];
    const uint8_t *at = c->at + 1 + h.arg_bytes;
    size_t rest = (size_t)(c->end - at);

    struct kith_value v = {.type = h.type};
    switch (h.type) {
    case KITH_WIRE_BOOL:
        v.boolean = h.fixed != 0;
        break;
    case KITH_WIRE_INT:
        set_int(&v, h, arg);
        break;
    case KITH_WIRE_FLOAT:
        set_float(&v, h, arg);
        break;
    case KITH_WIRE_STR:
    case KITH_WIRE_BIN:
        if (arg > rest)
            return fail(c);
        v.bytes = (struct kith_bytes){at, (size_t)arg};
        at += arg;
        break;
    case KITH_WIRE_ARRAY:
    case KITH_WIRE_MAP:
        if (arg * (h.type == KITH_WIRE_MAP ? 2 : 1) > rest)
            return fail(c);
        v.count = (uint32_t)arg;
        break;
    case KITH_WIRE_NIL:
    case KITH_WIRE_END:
    case KITH_WIRE_EXT:
        break;
    }
    c->at = at;
    *out = v;
    return true;
}

enum kith_wire_type kith_read_peek(const struct kith_cursor *c)
{
    if (c->err != KITH_OK || left(c) == 0)
        return KITH_WIRE_END;
    return head_of(*c->at).type;
}

bool kith_read_skip(struct kith_cursor *c, struct kith_bytes *out)
{
    const uint8_t *start = c->at;
    uint64_t open[KITH_MSGPACK_DEPTH_MAX]; /* values still to come in each open container */
    unsigned depth = 0;
    do {
        struct kith_value v;
        if (!kith_read_value(c, &v))
            return false;
        if (depth > 0)
            open[depth - 1]--;
        if (v.count > 0) {
            if (depth == KITH_MSGPACK_DEPTH_MAX)
                return fail(c);
            open[depth++] = (uint64_t)v.count * (v.type == KITH_WIRE_MAP ? 2 : 1);
        }
        while (depth > 0 && open[depth - 1] == 0)
            depth--;
    } while (depth > 0);
    if (out != NULL)
        *out = (struct kith_bytes){start, (size_t)(c->at - start)};
    return true;
}

/* Reads a value that must be of this type. */
static bool expect(struct kith_cursor *c, enum kith_wire_type type, struct kith_value *out)
{
    struct kith_value v;
    if (!kith_read_value(c, &v))
        return false;
    if (v.type != type)
        return fail(c);
    *out = v;
    return true;
}

bool kith_read_nil(struct kith_cursor *c)
{
    struct kith_value v;
    return expect(c, KITH_WIRE_NIL, &v);
}

bool kith_read_bool(struct kith_cursor *c, bool *out)
{
    struct kith_value v;
    if (!expect(c, KITH_WIRE_BOOL, &v))
        return false;
    *out = v.boolean;
    return true;
}

bool kith_read_u64(struct kith_cursor *c, uint64_t *out)
{
    struct kith_value v;
    if (!expect(c, KITH_WIRE_INT, &v))
        return false;
    if (v.negative)
        return fail(c);
    *out = v.u;
    return true;
}

bool kith_read_u32(struct kith_cursor *c, uint32_t *out)
{
    uint64_t wide;
    if (!kith_read_u64(c, &wide))
        return false;
    if (wide > UINT32_MAX)
        return fail(c);
    *out = (uint32_t)wide;
    return true;
}

bool kith_read_f64(struct kith_cursor *c, double *out)
{
    struct kith_value v;
    if (!kith_read_value(c, &v))
        return false;
    if (v.type != KITH_WIRE_FLOAT && v.type != KITH_WIRE_INT)
        return fail(c);
    *out = v.f;
    return true;
}

bool kith_read_f32(struct kith_cursor *c, float *out)
{
    double wide;
    if (!kith_read_f64(c, &wide))
        return false;
    *out = (float)wide;
    return true;
}

bool kith_read_str(struct kith_cursor *c, struct kith_bytes *out)
{
    struct kith_value v;
    if (!expect(c, KITH_WIRE_STR, &v))
        return false;
    *out = v.bytes;
    return true;
}

bool kith_read_bin(struct kith_cursor *c, struct kith_bytes *out)
{
    struct kith_value v;
    if (!expect(c, KITH_WIRE_BIN, &v))
        return false;
    *out = v.bytes;
    return true;
}

bool kith_read_array(struct kith_cursor *c, uint32_t *count)
{
    struct kith_value v;
    if (!expect(c, KITH_WIRE_ARRAY, &v))
        return false;
    *count = v.count;
    return true;
}

bool kith_read_map(struct kith_cursor *c, uint32_t *count)
{
    struct kith_value v;
    if (!expect(c, KITH_WIRE_MAP, &v))
        return false;
    *count = v.count;
    return true;
}

bool kith_read_id(struct kith_cursor *c, struct kith_id *out)
{
    struct kith_value v;
    if (!kith_read_value(c, &v))
        return false;
    if (v.type == KITH_WIRE_INT && !v.negative) {
        *out = kith_id_number(v.u);
        return true;
    }
    if (v.type != KITH_WIRE_BIN || v.bytes.len != 16)
        return fail(c);
    *out = (struct kith_id){
        .hi = kith_load_u64(v.bytes.data), .lo = kith_load_u64(v.bytes.data + 8), .is_uuid = 1};
    return true;
}

bool kith_bytes_equal(struct kith_bytes bytes, const char *text)
{
    size_t len = strlen(text);
    return bytes.len == len && (len == 0 || memcmp(bytes.data, text, len) == 0);
}

uint32_t kith_load_u32(const uint8_t *p)
{
    return (uint32_t)p[0] | (uint32_t)p[1] << 8 | (uint32_t)p[2] << 16 | (uint32_t)p[3] << 24;
}

uint64_t kith_load_u64(const uint8_t *p)
{
    return (uint64_t)kith_load_u32(p) | (uint64_t)kith_load_u32(p + 4) << 32;
}

float kith_load_f32(const uint8_t *p)
{
    return kith_f32_of_bits(kith_load_u32(p));
}

void kith_store_u32(uint8_t *p, uint32_t value)
{
    for (unsigned i = 0; i < 4; i++)
        p[i] = (uint8_t)(value >> (8 * i));
}

void kith_store_u64(uint8_t *p, uint64_t value)
{
    kith_store_u32(p, (uint32_t)value);
    kith_store_u32(p + 4, (uint32_t)(value >> 32));
}

void kith_store_f32(uint8_t *p, float value)
{
    kith_store_u32(p, kith_f32_bits(value));
}
