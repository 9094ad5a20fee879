#include "common/kith_buf.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "common/kith_mem.h"

void kith_buf_fini(struct kith_buf *buf)
{
    kith_free(buf->data);
    memset(buf, 0, sizeof *buf);
}

void kith_buf_reset(struct kith_buf *buf)
{
    buf->len = 0;
    buf->failed = false;
}

/* There is room already: what nearly every call of a writer of numbers finds. */
static bool has_room(const struct kith_buf *buf, size_t n)
{
    size_t end = buf->limit != 0 && buf->limit < buf->cap ? buf->limit : buf->cap;
    return !buf->failed && buf->data != NULL && buf->len <= end && n <= end - buf->len;
}

uint8_t *kith_buf_reserve(struct kith_buf *buf, size_t n)
{
    size_t need;
    if (has_room(buf, n))
        return buf->data + buf->len;
    if (buf->failed)
        return NULL;
    if (!kith_add(buf->len, n, &need) || (buf->limit != 0 && need > buf->limit)) {
        buf->failed = true;
        return NULL;
    }
    if (need > buf->cap || buf->data == NULL) {
        void *data = buf->data;
        if (!kith_grow(&data, &buf->cap, need > 64 ? need : 64, 1)) {
            buf->failed = true;
            return NULL;
        }
        buf->data = data;
    }
    return buf->data + buf->len;
}

void kith_buf_append(struct kith_buf *buf, const void *data, size_t n)
{
    uint8_t *to = kith_buf_reserve(buf, n);
    if (to == NULL || n == 0)
        return;
    memcpy(to, data, n);
    buf->len += n;
}

void kith_buf_byte(struct kith_buf *buf, uint8_t byte)
{
    if (has_room(buf, 1))
        buf->data[buf->len++] = byte;
    else
        kith_buf_append(buf, &byte, 1);
}

void kith_buf_text(struct kith_buf *buf, const char *text)
{
    kith_buf_append(buf, text, strlen(text));
}

void kith_buf_printf(struct kith_buf *buf, const char *fmt, ...)
{
    va_list args;
    va_start(args, fmt);
    va_list again;
    va_copy(again, args);
    int n = vsnprintf(NULL, 0, fmt, args);
    va_end(args);
    kith_assert(n >= 0);
    uint8_t *to = kith_buf_reserve(buf, (size_t)n + 1);
    if (to != NULL) {
        (void)vsnprintf((char *)to, (size_t)n + 1, fmt, again);
        buf->len += (size_t)n;
    }
    va_end(again);
}

int kith_buf_sink(void *buf, const char *data, size_t n)
{
    struct kith_buf *to = buf;
    kith_buf_append(to, data, n);
    return to->failed ? -1 : 0;
}
