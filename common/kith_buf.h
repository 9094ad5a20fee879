/* A growing byte buffer. Zero-initialise to start; kith_buf_fini frees.
 *
 * Errors are sticky: after an allocation failed or `limit` (0 = none) would be passed, `failed` is
 * true, later appends do nothing, and one check at the end suffices. Threads: one owner. */
#ifndef KITH_BUF_H
#define KITH_BUF_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "proto/kith_err.h"

struct kith_buf {
    uint8_t *data;
    size_t len;
    size_t cap;
    size_t limit;
    bool failed;
};

void kith_buf_fini(struct kith_buf *buf);
void kith_buf_reset(struct kith_buf *buf); /* len = 0, failed = false; keeps the memory */

/* Room for n more bytes at the end: returns where to write them (len is not moved), NULL on
 * failure. */
uint8_t *kith_buf_reserve(struct kith_buf *buf, size_t n);
void kith_buf_append(struct kith_buf *buf, const void *data, size_t n);
void kith_buf_byte(struct kith_buf *buf, uint8_t byte);
void kith_buf_text(struct kith_buf *buf, const char *text);
void kith_buf_printf(struct kith_buf *buf, const char *fmt, ...) KITH_PRINTF(2, 3);

/* A proto/kith_wire.h sink over a kith_buf: 0, or -1 when the buffer failed. */
int kith_buf_sink(void *buf, const char *data, size_t n);

#endif
