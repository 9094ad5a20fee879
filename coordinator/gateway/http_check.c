/* Why our own reading. Two programs that read the same bytes differently are how requests are
 * smuggled: whatever one of them skips, the other one runs. Lenient readers cannot be made strict
 * from outside, because what they forgave is no longer visible in what they report (a folded line,
 * a bare LF): docs/decisions/http-server.md has the measurements.
 *
 * The rules, beyond the grammar of RFC 9112:
 *   - the request line is  token SP origin-form SP "HTTP/1.1" CRLF, nothing before it;
 *   - a line ends with CRLF; LF or CR alone is an error, as is every other control byte but HT in
 *     a value; bytes above 0x7f are allowed in values only (obs-text), never in the target;
 *   - a line that begins with white space (obs-fold) and white space before the colon are errors;
 *   - Content-Length: once, 1 to 10 digits; with Transfer-Encoding 400, Transfer-Encoding alone
 *     501 (no chunked bodies: every client of ours knows its length);
 *   - Host: exactly once, and it looks like a host;
 *   - Expect other than 100-continue is 417; HTTP of any other version is 505.
 *
 * The automaton keeps offsets, never pointers, so the buffer may grow between calls. */
#include "coordinator/gateway/http_check.h"

#include <string.h>
#include <strings.h>

enum {
    AT_METHOD,
    AT_TARGET,
    AT_VERSION,
    AT_REQUEST_LF,
    AT_LINE,
    AT_NAME,
    AT_VALUE_START,
    AT_VALUE,
    AT_VALUE_LF,
    AT_END_LF,
};

#define METHOD_BYTES_MAX  16u /* the longest registered one is 17; none of ours is above 7 */
#define LENGTH_DIGITS_MAX 10u

static const char version_text[] = "HTTP/1.1\r";

static bool is_tchar(unsigned char c)
{
    if ((c >= '0' && c <= '9') || (c >= 'A' && c <= 'Z') || (c >= 'a' && c <= 'z'))
        return true;
    return c != '\0' && strchr("!#$%&'*+-.^_`|~", c) != NULL;
}

static enum http_check_verdict bad(struct http_check_head *head, int status, const char *reason)
{
    head->status = status;
    head->reason = reason;
    return HTTP_CHECK_BAD;
}

void http_check_init(struct http_check_head *head)
{
    memset(head, 0, offsetof(struct http_check_head, fields));
    memset(&head->fields_n, 0, sizeof *head - offsetof(struct http_check_head, fields_n));
}

static enum http_check_verdict method_end(struct http_check_head *head, const char *bytes)
{
    static const struct {
        const char *name;
        enum gateway_method method;
    } known[] = {
        {"GET", GATEWAY_GET},         {"HEAD", GATEWAY_GET},    {"PUT", GATEWAY_PUT},
        {"POST", GATEWAY_POST},       {"PATCH", GATEWAY_PATCH}, {"DELETE", GATEWAY_DELETE},
        {"OPTIONS", GATEWAY_OPTIONS},
    };
    size_t len = head->at;

    if (len == 0)
        return bad(head, 400, "the request line begins with white space");
    for (size_t i = 0; i < sizeof known / sizeof known[0]; i++) {
        if (strlen(known[i].name) == len && memcmp(known[i].name, bytes, len) == 0) {
            head->method = known[i].method;
            head->head_only = bytes[0] == 'H';
            return HTTP_CHECK_MORE;
        }
    }
    if (len == 3 && memcmp(bytes, "PRI", 3) == 0)
        return bad(head, 505, "HTTP/2 is not spoken here; use HTTP/1.1");
    return bad(head, 501, "unknown method");
}

/* RFC 3986 3.2.2 and 3.2.3, as strictly as framing needs: a name or address and an optional port.
 */
static bool host_ok(const char *text, size_t n)
{
    size_t i = 0;

    if (n == 0)
        return false;
    if (text[0] == '[') {
        for (i = 1; i < n && text[i] != ']'; i++)
            if (strchr("0123456789abcdefABCDEF:.", text[i]) == NULL)
                return false;
        if (i == n || i < 3)
            return false;
        i++;
    } else {
        while (i < n && text[i] != ':') {
            unsigned char c = (unsigned char)text[i];
            if (!is_tchar(c) || strchr("#^`|", c) != NULL)
                return false;
            i++;
        }
        if (i == 0)
            return false;
    }
    if (i == n)
        return true;
    if (text[i] != ':' || n - i > 6)
        return false;
    for (i++; i < n; i++)
        if (text[i] < '0' || text[i] > '9')
            return false;
    return true;
}

static bool is_text(const char *text, size_t n, const char *lower_case)
{
    return strlen(lower_case) == n && strncasecmp(text, lower_case, n) == 0;
}

/* Connection is a list of tokens; only "close" matters to us. */
static bool has_token(const char *text, size_t n, const char *token)
{
    size_t at = 0;

    while (at < n) {
        size_t from = at;
        size_t to;

        while (at < n && text[at] != ',')
            at++;
        to = at++;
        while (from < to && (text[from] == ' ' || text[from] == '\t'))
            from++;
        while (to > from && (text[to - 1] == ' ' || text[to - 1] == '\t'))
            to--;
        if (is_text(text + from, to - from, token))
            return true;
    }
    return false;
}

static enum http_check_verdict length_field(struct http_check_head *head, const char *value,
                                            size_t n)
{
    uint64_t length = 0;

    if (head->has_length)
        return bad(head, 400, "Content-Length is given twice");
    head->has_length = true;
    if (n == 0 || n > LENGTH_DIGITS_MAX)
        return bad(head, 400, "Content-Length must be 1 to 10 digits");
    for (size_t i = 0; i < n; i++) {
        if (value[i] < '0' || value[i] > '9')
            return bad(head, 400, "Content-Length must be 1 to 10 digits");
        length = length * 10 + (uint64_t)(value[i] - '0');
    }
    head->content_length = length;
    return HTTP_CHECK_MORE;
}

/* A field line is complete: keep it, and judge the few names that decide where the body ends. */
static enum http_check_verdict field_end(struct http_check_head *head, const char *bytes)
{
    struct http_check_field *field = &head->fields[head->fields_n];
    const char *name = bytes + field->name.at;
    size_t name_n = field->name.len;
    const char *value = bytes + field->value.at;
    size_t n = head->at - field->value.at;

    while (n > 0 && (value[n - 1] == ' ' || value[n - 1] == '\t'))
        n--;
    field->value.len = (uint32_t)n;
    head->fields_n++;

    if (is_text(name, name_n, "content-length"))
        return length_field(head, value, n);
    if (is_text(name, name_n, "transfer-encoding")) {
        head->has_encoding = true;
    } else if (is_text(name, name_n, "host")) {
        if (head->has_host)
            return bad(head, 400, "Host is given twice");
        head->has_host = true;
        if (!host_ok(value, n))
            return bad(head, 400, "Host is not a host name or address");
    } else if (is_text(name, name_n, "connection")) {
        head->close = head->close || has_token(value, n, "close");
    } else if (is_text(name, name_n, "expect")) {
        if (!is_text(value, n, "100-continue"))
            return bad(head, 417, "only Expect: 100-continue is understood");
        head->expect_continue = true;
    } else if (is_text(name, name_n, "content-encoding") && !is_text(value, n, "identity")) {
        return bad(head, 415, "compressed request bodies are not read: send identity");
    }
    return HTTP_CHECK_MORE;
}

static enum http_check_verdict head_end(struct http_check_head *head)
{
    head->head_bytes = head->at + 1;
    if (!head->has_host)
        return bad(head, 400, "Host is missing");
    if (head->has_encoding && head->has_length)
        return bad(head, 400, "Content-Length and Transfer-Encoding in one request");
    if (head->has_encoding)
        return bad(head, 501, "Transfer-Encoding is not supported: send Content-Length");
    return HTTP_CHECK_OK;
}

static enum http_check_verdict version_byte(struct http_check_head *head, const char *bytes)
{
    unsigned char c = (unsigned char)bytes[head->at];

    if (c == (unsigned char)version_text[head->version_at]) {
        head->version_at++;
        if (version_text[head->version_at] == '\0')
            head->state = AT_REQUEST_LF;
        return HTTP_CHECK_MORE;
    }
    /* "HTTP/" then some other digit or dot: a version, but not ours. */
    if (head->version_at >= 5 && ((c >= '0' && c <= '9') || c == '.') &&
        version_text[head->version_at] != '\r')
        return bad(head, 505, "only HTTP/1.1 is spoken here");
    return bad(head, 400, "the request line is malformed");
}

static enum http_check_verdict request_byte(struct http_check_head *head, const char *bytes)
{
    unsigned char c = (unsigned char)bytes[head->at];

    switch (head->state) {
    case AT_METHOD:
        if (c == ' ') {
            head->state = AT_TARGET;
            head->mark = head->at + 1;
            return method_end(head, bytes);
        }
        if (!is_tchar(c) || head->at >= METHOD_BYTES_MAX)
            return bad(head, 400, "the request line does not begin with a method");
        return HTTP_CHECK_MORE;
    case AT_TARGET:
        if (head->at == head->mark && c != '/')
            return bad(head, 400, "the request target must begin with '/'");
        if (c == ' ') {
            head->target = (struct http_check_span){head->mark, head->at - head->mark};
            head->state = AT_VERSION;
            return HTTP_CHECK_MORE;
        }
        if (c < 0x21 || c > 0x7e || c == '#')
            return bad(head, 400, "the request target holds a byte that must be percent-encoded");
        if (head->at - head->mark >= KITH_HTTP_URL_MAX)
            return bad(head, 414, "the request target is too long");
        return HTTP_CHECK_MORE;
    case AT_VERSION:
        return version_byte(head, bytes);
    default:
        if (c != '\n')
            return bad(head, 400, "CR without LF");
        head->state = AT_LINE;
        return HTTP_CHECK_MORE;
    }
}

static enum http_check_verdict line_start(struct http_check_head *head, unsigned char c)
{
    head->line = head->at;
    if (c == '\r') {
        head->state = AT_END_LF;
        return HTTP_CHECK_MORE;
    }
    if (c == ' ' || c == '\t')
        return bad(head, 400, "folded header lines are not accepted");
    if (c == '\n')
        return bad(head, 400, "LF without CR");
    if (!is_tchar(c))
        return bad(head, 400, "a header name holds a byte that is not allowed");
    if (head->fields_n == KITH_HTTP_HEADERS_MAX)
        return bad(head, 431, "too many header fields");
    head->fields[head->fields_n].name.at = head->at;
    head->state = AT_NAME;
    return HTTP_CHECK_MORE;
}

static enum http_check_verdict value_byte(struct http_check_head *head, const char *bytes)
{
    unsigned char c = (unsigned char)bytes[head->at];

    if (head->state == AT_VALUE_START) {
        if (c == ' ' || c == '\t')
            return HTTP_CHECK_MORE;
        head->fields[head->fields_n].value.at = head->at;
        head->state = AT_VALUE;
    }
    if (c == '\r') {
        head->state = AT_VALUE_LF;
        return field_end(head, bytes);
    }
    if (c == '\n')
        return bad(head, 400, "LF without CR");
    if ((c < 0x20 && c != '\t') || c == 0x7f)
        return bad(head, 400, "a header value holds a control byte");
    return HTTP_CHECK_MORE;
}

static enum http_check_verdict field_byte(struct http_check_head *head, const char *bytes)
{
    unsigned char c = (unsigned char)bytes[head->at];

    switch (head->state) {
    case AT_LINE:
        return line_start(head, c);
    case AT_NAME:
        if (c == ':') {
            struct http_check_field *field = &head->fields[head->fields_n];
            field->name.len = head->at - field->name.at;
            head->state = AT_VALUE_START;
            return HTTP_CHECK_MORE;
        }
        if (c == ' ' || c == '\t')
            return bad(head, 400, "white space before the colon of a header");
        if (!is_tchar(c))
            return bad(head, 400, "a header name holds a byte that is not allowed");
        return HTTP_CHECK_MORE;
    case AT_VALUE_START:
    case AT_VALUE:
        return value_byte(head, bytes);
    case AT_VALUE_LF:
        if (c != '\n')
            return bad(head, 400, "CR without LF");
        head->state = AT_LINE;
        return HTTP_CHECK_MORE;
    default:
        if (c != '\n')
            return bad(head, 400, "CR without LF");
        return head_end(head);
    }
}

enum http_check_verdict http_check_feed(struct http_check_head *head, const char *bytes, size_t n)
{
    for (; head->at < n; head->at++) {
        enum http_check_verdict verdict;

        if (head->at >= KITH_HTTP_HEADER_MAX)
            return bad(head, 431, "the request head is too large");
        if (head->state < AT_LINE) {
            verdict = request_byte(head, bytes);
        } else {
            verdict = field_byte(head, bytes);
            if (head->at - head->line >= KITH_HTTP_URL_MAX && verdict == HTTP_CHECK_MORE)
                return bad(head, 431, "a header line is too long");
        }
        if (verdict != HTTP_CHECK_MORE)
            return verdict;
    }
    return HTTP_CHECK_MORE;
}

/* Table 3-7 of the Unicode standard: lead byte, then the range of the second one. */
static size_t utf8_next(const unsigned char *s, size_t n)
{
    unsigned char low = 0x80, high = 0xbf;
    size_t need;

    if (s[0] < 0x80)
        return 1;
    if (s[0] < 0xc2 || s[0] > 0xf4)
        return 0;
    need = s[0] < 0xe0 ? 2 : s[0] < 0xf0 ? 3 : 4;
    if (s[0] == 0xe0)
        low = 0xa0;
    else if (s[0] == 0xed)
        high = 0x9f;
    else if (s[0] == 0xf0)
        low = 0x90;
    else if (s[0] == 0xf4)
        high = 0x8f;
    if (n < need || s[1] < low || s[1] > high)
        return 0;
    for (size_t i = 2; i < need; i++)
        if (s[i] < 0x80 || s[i] > 0xbf)
            return 0;
    return need;
}

static int hex(char c)
{
    if (c >= '0' && c <= '9')
        return c - '0';
    if (c >= 'a' && c <= 'f')
        return c - 'a' + 10;
    if (c >= 'A' && c <= 'F')
        return c - 'A' + 10;
    return -1;
}

bool http_check_decode(char *out, const char *text, size_t n, bool plus_is_space, size_t *out_n)
{
    size_t len = 0;

    for (size_t i = 0; i < n; i++) {
        char c = text[i];

        if (c == '%') {
            if (n - i < 3 || hex(text[i + 1]) < 0 || hex(text[i + 2]) < 0)
                return false;
            c = (char)(hex(text[i + 1]) * 16 + hex(text[i + 2]));
            i += 2;
        } else if (c == '+' && plus_is_space) {
            c = ' ';
        }
        if (c == '\0')
            return false;
        out[len++] = c;
    }
    for (size_t i = 0; i < len;) {
        size_t step = utf8_next((const unsigned char *)out + i, len - i);
        if (step == 0)
            return false;
        i += step;
    }
    out[len] = '\0';
    *out_n = len;
    return true;
}
