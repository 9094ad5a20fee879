/* Where a text stops being JSON, and why, in words for people.
 *
 * simdjson says only that a document is bad. This slow scanner runs after it has refused one, so
 * its speed does not matter and its verdict decides nothing: it finds the first offending byte.
 * Threads: no state. Errors: none; it never reads outside text[0, len). */
#ifndef KITH_JSON_LOCATE_H
#define KITH_JSON_LOCATE_H

#include <stddef.h>

#ifdef __cplusplus
extern "C" {
#endif

/* The offset of the first bad byte (len: the text ends too early) and what is wrong there; NULL in
 * *what when the scanner finds nothing. */
size_t kith_json_locate(const char *text, size_t len, unsigned depth_max, const char **what);

/* The offset of the first byte that is not valid UTF-8; len when all of it is. */
size_t kith_utf8_check(const char *text, size_t len);

#ifdef __cplusplus
}
#endif

#endif
