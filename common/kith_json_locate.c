#include "common/kith_json_locate.h"

#include <stdbool.h>
#include <stdint.h>
#include <string.h>

#include "proto/kith_err.h"

#define STACK_MAX 64u

struct scan {
    const uint8_t *text;
    size_t at, len;
    const char *what; /* set = found */
    unsigned depth, depth_max;
    bool in_object[STACK_MAX];
};

/* Bytes of the well-formed sequence at p (Unicode 15, table 3-7), 0 when there is none. */
static size_t sequence_bytes(const uint8_t *p, size_t left)
{
    if (p[0] < 0x80)
        return 1;
    size_t n = p[0] >= 0xF0 ? 4 : p[0] >= 0xE0 ? 3 : 2;
    if (p[0] < 0xC2 || p[0] > 0xF4 || left < n)
        return 0;
    uint8_t low = p[0] == 0xE0 ? 0xA0 : p[0] == 0xF0 ? 0x90 : 0x80;
    uint8_t high = p[0] == 0xED ? 0x9F : p[0] == 0xF4 ? 0x8F : 0xBF;
    if (p[1] < low || p[1] > high)
        return 0;
    for (size_t i = 2; i < n; i++)
        if ((p[i] & 0xC0) != 0x80)
            return 0;
    return n;
}

size_t kith_utf8_check(const char *text, size_t len)
{
    const uint8_t *p = (const uint8_t *)text;
    size_t at = 0;
    while (at < len) {
        size_t n = sequence_bytes(p + at, len - at);
        if (n == 0)
            return at;
        at += n;
    }
    return len;
}

static int peek(const struct scan *s)
{
    return s->at < s->len ? s->text[s->at] : -1;
}

static void skip_space(struct scan *s)
{
    int c = peek(s);
    while (c == ' ' || c == '\t' || c == '\n' || c == '\r') {
        s->at++;
        c = peek(s);
    }
}

static void bad(struct scan *s, const char *what)
{
    s->what = peek(s) < 0 ? "the text ends too early" : what;
}

static bool is_digit(int c)
{
    return c >= '0' && c <= '9';
}

static void scan_digits(struct scan *s)
{
    if (!is_digit(peek(s)))
        bad(s, "a number is malformed");
    while (is_digit(peek(s)))
        s->at++;
}

static void scan_number(struct scan *s)
{
    size_t start = s->at;
    if (peek(s) == '-')
        s->at++;
    bool zero = peek(s) == '0';
    scan_digits(s);
    if (zero && s->what == NULL && is_digit(s->text[s->at - 1]) && s->at - start > 1 &&
        s->text[s->at - 2] != '-') {
        s->at = start;
        bad(s, "a number has a leading zero");
    }
    if (s->what == NULL && peek(s) == '.') {
        s->at++;
        scan_digits(s);
    }
    if (s->what == NULL && (peek(s) == 'e' || peek(s) == 'E')) {
        s->at++;
        if (peek(s) == '+' || peek(s) == '-')
            s->at++;
        scan_digits(s);
    }
}

static bool is_hex(int c)
{
    return is_digit(c) || (c >= 'a' && c <= 'f') || (c >= 'A' && c <= 'F');
}

static void scan_escape(struct scan *s)
{
    s->at++;
    int c = peek(s);
    if (c == 'u') {
        for (int i = 0; i < 4; i++) {
            s->at++;
            if (!is_hex(peek(s))) {
                bad(s, "\\u needs four hex digits");
                return;
            }
        }
    } else if (c <= 0 || strchr("\"\\/bfnrt", c) == NULL) {
        bad(s, "an unknown escape");
        return;
    }
    s->at++;
}

static void scan_string(struct scan *s)
{
    s->at++;
    while (s->what == NULL) {
        int c = peek(s);
        if (c == '"') {
            s->at++;
            return;
        }
        if (c == '\\')
            scan_escape(s);
        else if (c < 0)
            bad(s, "");
        else if (c < 0x20)
            bad(s, "a control character inside a string must be escaped");
        else
            s->at++;
    }
}

static void scan_word(struct scan *s, const char *word)
{
    for (; *word != '\0'; word++, s->at++)
        if (peek(s) != *word) {
            bad(s, "expected true, false or null");
            return;
        }
}

/* A scalar, or the opening of a container; true when a value is complete. */
static bool scan_value(struct scan *s)
{
    int c = peek(s);
    if (c == '{' || c == '[') {
        if (s->depth >= s->depth_max || s->depth >= STACK_MAX) {
            bad(s, "nested too deeply");
            return false;
        }
        s->in_object[s->depth++] = c == '{';
        s->at++;
        skip_space(s);
        if (peek(s) == (c == '{' ? '}' : ']')) {
            s->at++;
            s->depth--;
            return true;
        }
        return false;
    }
    if (c == '"')
        scan_string(s);
    else if (c == '-' || is_digit(c))
        scan_number(s);
    else if (c == 't')
        scan_word(s, "true");
    else if (c == 'f')
        scan_word(s, "false");
    else if (c == 'n')
        scan_word(s, "null");
    else
        bad(s, "expected a value");
    return true;
}

static void scan_key(struct scan *s)
{
    if (peek(s) != '"') {
        bad(s, "expected a key in double quotes");
        return;
    }
    scan_string(s);
    skip_space(s);
    if (s->what == NULL && peek(s) != ':')
        bad(s, "expected ':' after a key");
    s->at += s->what == NULL;
    skip_space(s);
}

/* After a complete value: closes containers and takes the comma. False at the end of the text. */
static bool scan_after(struct scan *s)
{
    for (;;) {
        skip_space(s);
        if (s->depth == 0) {
            if (peek(s) >= 0)
                bad(s, "something follows the end of the document");
            return false;
        }
        bool object = s->in_object[s->depth - 1];
        int c = peek(s);
        if (c == ',') {
            s->at++;
            skip_space(s);
            return true;
        }
        if (c != (object ? '}' : ']')) {
            bad(s, object ? "expected ',' or '}'" : "expected ',' or ']'");
            return false;
        }
        s->at++;
        s->depth--;
    }
}

size_t kith_json_locate(const char *text, size_t len, unsigned depth_max, const char **what)
{
    struct scan s = {.text = (const uint8_t *)text, .len = len, .depth_max = depth_max};
    *what = NULL;
    size_t utf8 = kith_utf8_check(text, len);
    skip_space(&s);
    bool more = true;
    while (s.what == NULL && more) {
        if (s.depth > 0 && s.in_object[s.depth - 1])
            scan_key(&s);
        if (s.what == NULL && scan_value(&s) && s.what == NULL)
            more = scan_after(&s);
    }
    if (utf8 < len && (s.what == NULL || utf8 <= s.at)) {
        *what = "not valid UTF-8";
        return utf8;
    }
    *what = s.what;
    return s.at;
}
