/* JSON written straight into a buffer; see kith_json.h. Floats as text are in kith_json.cpp. */
#include <string.h>

#include "common/kith_json.h"
#include "common/kith_json_locate.h"
#include "common/kith_json_number.h"
#include "proto/kith_limits.h"

#define DEPTH_BITS 63u

/* Called before each value and key: a comma when it is not the first at its depth. */
static void separate(struct kith_json_writer *w)
{
    if (w->after_key) {
        w->after_key = false;
        return;
    }
    uint64_t bit = (uint64_t)1 << w->depth;
    if ((w->not_first & bit) != 0 && w->depth > 0)
        kith_buf_byte(w->buf, ',');
    w->not_first |= bit;
}

static void begin(struct kith_json_writer *w, uint8_t bracket)
{
    separate(w);
    kith_buf_byte(w->buf, bracket);
    kith_assert(w->depth < DEPTH_BITS);
    w->depth++;
    w->not_first &= ~((uint64_t)1 << w->depth);
}

static void end(struct kith_json_writer *w, uint8_t bracket)
{
    kith_assert(w->depth > 0 && !w->after_key);
    w->depth--;
    kith_buf_byte(w->buf, bracket);
}

void kith_jw_begin_object(struct kith_json_writer *w)
{
    begin(w, '{');
}

void kith_jw_end_object(struct kith_json_writer *w)
{
    end(w, '}');
}

void kith_jw_begin_array(struct kith_json_writer *w)
{
    begin(w, '[');
}

void kith_jw_end_array(struct kith_json_writer *w)
{
    end(w, ']');
}

/* Length of the run at text that needs no care: ASCII but quotes, backslashes and controls. */
static size_t plain_run(const char *text, size_t len)
{
    size_t n = 0;
    while (n < len && (unsigned char)text[n] >= 0x20 && (unsigned char)text[n] < 0x7F &&
           text[n] != '"' && text[n] != '\\')
        n++;
    return n;
}

static void escape_ascii(struct kith_buf *buf, unsigned char c)
{
    static const char letters[] = "btn\0fr"; /* 8 .. 13; 11 has none */
    char text[7] = {'\\', (char)c, '\0'};
    if (c >= 8 && c <= 13 && letters[c - 8] != '\0')
        text[1] = letters[c - 8];
    else if (c < 0x20) {
        static const char hex[] = "0123456789abcdef";
        memcpy(text, "\\u00", 4);
        text[4] = hex[c >> 4];
        text[5] = hex[c & 15];
        text[6] = '\0';
    }
    kith_buf_text(buf, c == 0x7F ? "\x7F" : text);
}

static void write_text(struct kith_buf *buf, const char *text, size_t len)
{
    kith_buf_byte(buf, '"');
    while (len > 0) {
        size_t n = plain_run(text, len);
        kith_buf_append(buf, text, n);
        text += n;
        len -= n;
        if (len == 0)
            break;
        if ((unsigned char)*text < 0x80) {
            escape_ascii(buf, (unsigned char)*text);
            text++;
            len--;
            continue;
        }
        n = 0;
        while (n < len && (unsigned char)text[n] >= 0x80)
            n++;
        size_t good = kith_utf8_check(text, n);
        kith_buf_append(buf, text, good);
        if (good < n) {
            kith_buf_text(buf, "\xEF\xBF\xBD");
            good++;
        }
        text += good;
        len -= good;
    }
    kith_buf_byte(buf, '"');
}

void kith_jw_key_n(struct kith_json_writer *w, const char *key, size_t len)
{
    kith_assert(!w->after_key);
    separate(w);
    write_text(w->buf, key, len);
    kith_buf_byte(w->buf, ':');
    w->after_key = true;
}

void kith_jw_key(struct kith_json_writer *w, const char *key)
{
    kith_jw_key_n(w, key, strlen(key));
}

void kith_jw_null(struct kith_json_writer *w)
{
    separate(w);
    kith_buf_append(w->buf, "null", 4);
}

void kith_jw_bool(struct kith_json_writer *w, bool value)
{
    separate(w);
    kith_buf_text(w->buf, value ? "true" : "false");
}

static void write_digits(struct kith_buf *buf, uint64_t value)
{
    char text[20];
    size_t at = sizeof text;
    do {
        text[--at] = (char)('0' + value % 10);
        value /= 10;
    } while (value > 0);
    kith_buf_append(buf, text + at, sizeof text - at);
}

void kith_jw_u64(struct kith_json_writer *w, uint64_t value)
{
    separate(w);
    write_digits(w->buf, value);
}

void kith_jw_i64(struct kith_json_writer *w, int64_t value)
{
    separate(w);
    if (value < 0)
        kith_buf_byte(w->buf, '-');
    write_digits(w->buf, value < 0 ? 0 - (uint64_t)value : (uint64_t)value);
}

void kith_jw_f32(struct kith_json_writer *w, float value)
{
    separate(w);
    if (__builtin_isfinite(value))
        kith_json_number_f32(w->buf, value);
    else
        kith_buf_append(w->buf, "null", 4);
}

void kith_jw_f64(struct kith_json_writer *w, double value)
{
    separate(w);
    if (__builtin_isfinite(value))
        kith_json_number_f64(w->buf, value);
    else
        kith_buf_append(w->buf, "null", 4);
}

void kith_jw_str(struct kith_json_writer *w, const char *text, size_t len)
{
    separate(w);
    write_text(w->buf, text, len);
}

void kith_jw_cstr(struct kith_json_writer *w, const char *text)
{
    kith_jw_str(w, text, strlen(text));
}
