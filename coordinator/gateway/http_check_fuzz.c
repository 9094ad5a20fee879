/* The same bytes, whole and in pieces, must get the same verdict; what passes keeps its promises;
 * decoding stays inside its buffer. */
#include <stdlib.h>
#include <string.h>

#include "coordinator/gateway/http_check.h"

static void must(bool ok)
{
    if (!ok)
        abort();
}

static void check_ok(const struct http_check_head *head, const char *bytes, size_t n)
{
    char out[KITH_HTTP_URL_MAX + 1];
    size_t out_n;

    must(head->head_bytes <= n && head->head_bytes <= KITH_HTTP_HEADER_MAX);
    must(memcmp(bytes + head->head_bytes - 4, "\r\n\r\n", 4) == 0);
    must(bytes[head->target.at] == '/' && head->target.len <= KITH_HTTP_URL_MAX);
    for (uint32_t i = 0; i < head->head_bytes; i++) {
        unsigned char c = (unsigned char)bytes[i];
        must(c >= 0x20 || c == '\t' || c == '\r' || c == '\n');
        must(c != '\n' || bytes[i - 1] == '\r');
        must(c != '\r' || bytes[i + 1] == '\n');
    }
    for (uint32_t i = 0; i < head->fields_n; i++) {
        must(head->fields[i].name.len > 0);
        must(head->fields[i].value.at + head->fields[i].value.len <= head->head_bytes);
    }
    if (http_check_decode(out, bytes + head->target.at, head->target.len, true, &out_n))
        must(strlen(out) == out_n && out_n <= head->target.len);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n)
{
    static struct http_check_head whole, pieces;
    const char *bytes;
    size_t step;
    enum http_check_verdict a;
    enum http_check_verdict b = HTTP_CHECK_MORE;

    if (n < 1)
        return 0;
    step = data[0] % 7 + 1u;
    bytes = (const char *)data + 1;
    n--;
    http_check_init(&whole);
    http_check_init(&pieces);
    a = http_check_feed(&whole, bytes, n);
    for (size_t at = 0; at < n && b == HTTP_CHECK_MORE; at += step)
        b = http_check_feed(&pieces, bytes, at + step < n ? at + step : n);
    must(a == b && whole.at == pieces.at && whole.status == pieces.status);
    must(whole.fields_n == pieces.fields_n);
    if (a == HTTP_CHECK_OK)
        check_ok(&whole, bytes, n);
    if (a == HTTP_CHECK_BAD)
        must(whole.status >= 400 && whole.reason != NULL);
    return 0;
}
