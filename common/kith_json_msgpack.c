/* JSON values to msgpack and back: payloads and filters keep their shape, integers stay exact. */
#include "common/kith_json.h"
#include "proto/kith_limits.h"

/* Recursion is bounded: a document deeper than KITH_JSON_DEPTH_MAX was never opened. */
static void write_container(struct kith_json value, struct kith_writer *w)
{
    struct kith_json_iter iter = kith_json_iterate(value);
    struct kith_json child;
    uint32_t n = (uint32_t)kith_json_count(value); /* a tape has fewer than 2^32 entries */
    if (kith_json_type(value) == KITH_JSON_ARRAY) {
        kith_write_array(w, n);
        while (kith_json_next(&iter, &child))
            kith_json_to_msgpack(child, w);
        return;
    }
    kith_write_map(w, n);
    const char *key;
    size_t key_len;
    while (kith_json_next_member(&iter, &key, &key_len, &child)) {
        kith_write_str(w, key, key_len);
        kith_json_to_msgpack(child, w);
    }
}

static void write_number(struct kith_json value, struct kith_writer *w)
{
    uint64_t u;
    int64_t i;
    double f = 0;
    if (kith_json_u64(value, &u)) {
        kith_write_u64(w, u);
    } else if (kith_json_i64(value, &i)) {
        kith_write_i64(w, i);
    } else {
        (void)kith_json_f64(value, &f);
        kith_write_f64(w, f);
    }
}

void kith_json_to_msgpack(struct kith_json value, struct kith_writer *w)
{
    bool boolean = false;
    const char *text = "";
    size_t len = 0;
    switch (kith_json_type(value)) {
    case KITH_JSON_NULL:
        kith_write_nil(w);
        break;
    case KITH_JSON_BOOL:
        (void)kith_json_bool(value, &boolean);
        kith_write_bool(w, boolean);
        break;
    case KITH_JSON_INT:
    case KITH_JSON_FLOAT:
        write_number(value, w);
        break;
    case KITH_JSON_STR:
        (void)kith_json_str(value, &text, &len);
        kith_write_str(w, text, len);
        break;
    case KITH_JSON_ARRAY:
    case KITH_JSON_OBJECT:
        write_container(value, w);
        break;
    }
}

static bool write_json(struct kith_json_writer *w, struct kith_cursor *c, uint32_t depth);

static bool write_array(struct kith_json_writer *w, struct kith_cursor *c, uint32_t n,
                        uint32_t depth)
{
    kith_jw_begin_array(w);
    for (uint32_t i = 0; i < n; i++)
        if (!write_json(w, c, depth + 1))
            return false;
    kith_jw_end_array(w);
    return true;
}

static bool write_object(struct kith_json_writer *w, struct kith_cursor *c, uint32_t n,
                         uint32_t depth)
{
    kith_jw_begin_object(w);
    for (uint32_t i = 0; i < n; i++) {
        struct kith_bytes key;
        if (!kith_read_str(c, &key))
            return false;
        kith_jw_key_n(w, (const char *)key.data, key.len);
        if (!write_json(w, c, depth + 1))
            return false;
    }
    kith_jw_end_object(w);
    return true;
}

static bool write_json(struct kith_json_writer *w, struct kith_cursor *c, uint32_t depth)
{
    struct kith_value value;
    /* w->depth has room for what the caller opened around this value plus our own nesting. */
    if (depth > KITH_MSGPACK_DEPTH_MAX || w->depth >= 62 || !kith_read_value(c, &value))
        return false;
    switch (value.type) {
    case KITH_WIRE_NIL:
        kith_jw_null(w);
        return true;
    case KITH_WIRE_BOOL:
        kith_jw_bool(w, value.boolean);
        return true;
    case KITH_WIRE_INT:
        if (value.negative)
            kith_jw_i64(w, value.i);
        else
            kith_jw_u64(w, value.u);
        return true;
    case KITH_WIRE_FLOAT:
        kith_jw_f64(w, value.f);
        return true;
    case KITH_WIRE_STR:
        kith_jw_str(w, (const char *)value.bytes.data, value.bytes.len);
        return true;
    case KITH_WIRE_ARRAY:
        return write_array(w, c, value.count, depth);
    case KITH_WIRE_MAP:
        return write_object(w, c, value.count, depth);
    default:
        return false;
    }
}

bool kith_jw_msgpack(struct kith_json_writer *w, struct kith_bytes msgpack)
{
    struct kith_cursor c = {.at = msgpack.data, .end = msgpack.data + msgpack.len};
    struct kith_json_writer before = *w;
    size_t len = w->buf->len;
    if (write_json(w, &c, 0) && c.at == c.end)
        return true;
    /* Malformed: put everything back as it was, so that the caller can write null instead. */
    *w = before;
    w->buf->len = len;
    return false;
}

void kith_jw_id(struct kith_json_writer *w, const struct kith_id *id)
{
    if (id->is_uuid == 0) {
        kith_jw_u64(w, id->lo);
        return;
    }
    char text[KITH_ID_TEXT_BYTES];
    size_t len = kith_id_format(id, text);
    kith_jw_str(w, text, len);
}
