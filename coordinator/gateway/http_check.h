/* The strict reading of an HTTP/1.1 request head: one byte stream has one meaning, or none.
 *
 * A byte-at-a-time automaton over the caller's buffer, so the answer cannot depend on how the
 * network cut the stream, and the first wrong byte is refused before the rest arrives. The rules
 * are those of RFC 9112 without its leniencies; http_check.c lists them.
 *
 * Owns: nothing; a head holds offsets into the caller's bytes. Threads: no state of its own.
 * Errors: a verdict with an HTTP status and a sentence. After BAD nothing behind the bad byte may
 * be interpreted: answer and close. Limits: KITH_HTTP_HEADER_MAX, _HEADERS_MAX, _URL_MAX. */
#ifndef HTTP_CHECK_H
#define HTTP_CHECK_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "coordinator/gateway/gateway.h"
#include "proto/kith_limits.h"

enum http_check_verdict { HTTP_CHECK_MORE, HTTP_CHECK_OK, HTTP_CHECK_BAD };

struct http_check_span {
    uint32_t at; /* offset from the first byte of the request */
    uint32_t len;
};

struct http_check_field {
    struct http_check_span name;
    struct http_check_span value; /* without the white space around it */
};

struct http_check_head {
    /* Valid after OK */
    enum gateway_method method;
    bool head_only;                /* HEAD */
    struct http_check_span target; /* begins with '/'; only bytes 0x21..0x7e, no '#' */
    struct http_check_field fields[KITH_HTTP_HEADERS_MAX];
    uint32_t fields_n;
    uint32_t head_bytes; /* up to and with the empty line */
    uint64_t content_length;
    bool close;           /* Connection: close */
    bool expect_continue; /* Expect: 100-continue */

    /* Valid after BAD */
    int status;
    const char *reason;

    /* The automaton's own */
    uint32_t at; /* bytes read so far */
    uint32_t mark;
    uint32_t line; /* where the current line began */
    uint8_t state;
    uint8_t version_at;
    bool has_length, has_host, has_encoding;
};

/* Only the first byte of a request matters to what came before it: call this for each request. */
void http_check_init(struct http_check_head *head);

/* Reads on from where the last call stopped. bytes is the request from its first byte (it may have
 * moved in memory), n how many there are; bytes behind the head are not looked at. */
enum http_check_verdict http_check_feed(struct http_check_head *head, const char *bytes, size_t n);

/* Percent-decoding into out (room for n + 1 bytes; NUL-terminated). False: a '%' without two hex
 * digits, a NUL, or not UTF-8 (RFC 3629: no surrogates, no overlong forms). */
bool http_check_decode(char *out, const char *text, size_t n, bool plus_is_space, size_t *out_n);

#endif
