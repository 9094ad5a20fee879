/* Errors: one table for code, wire, HTTP status and retry policy.
 *
 * A function that can fail returns enum kith_err and takes a struct kith_diag * (may be NULL) when
 * a human would want detail. Results come by out-parameter and are untouched on failure. Threads:
 * no state; a diag belongs to one caller at a time. */
#ifndef KITH_ERR_H
#define KITH_ERR_H

#include <stddef.h>
#include <stdint.h>

#define KITH_MUST_CHECK           __attribute__((warn_unused_result))
#define KITH_PRINTF(fmt_, first_) __attribute__((format(printf, fmt_, first_)))

enum kith_err {
#define X(name, code, http, retry, text) KITH_##name = code,
#include "proto/errors.def"
#undef X
};

enum kith_retry { KITH_RETRY_NEVER, KITH_RETRY_LATER, KITH_RETRY_ELSEWHERE };

/* Room for one sentence: it goes to users verbatim, so it names the field and the limit. */
#define KITH_DIAG_BYTES 320

struct kith_diag {
    enum kith_err err;
    char text[KITH_DIAG_BYTES]; /* NUL-terminated, "" when nothing was said */
};

/* Records err and the formatted text in diag (if any; a longer text is cut) and returns err, so
 * that a failing line reads `return kith_fail(diag, KITH_IO, "open %s", path);`. */
enum kith_err kith_fail(struct kith_diag *diag, enum kith_err err, const char *fmt, ...)
    KITH_PRINTF(3, 4);

/* Puts "prefix: " before the text already in diag. For callers that know more about the place. */
void kith_diag_prefix(struct kith_diag *diag, const char *fmt, ...) KITH_PRINTF(2, 3);

const char *kith_err_name(enum kith_err err); /* "TOO_BIG" */
const char *kith_err_text(enum kith_err err); /* "limit exceeded" */
int kith_err_http(enum kith_err err);         /* 413 */
enum kith_retry kith_err_retry(enum kith_err err);
enum kith_err kith_err_from_wire(uint64_t code); /* an unknown code becomes KITH_PROTOCOL */

/* Programmer errors only, in every build; never for bytes from wire, disk or user. */
#define kith_assert(cond_)                                                                         \
    ((cond_) ? (void)0 : kith_assert_failed(#cond_, __FILE__, __LINE__, __func__))
_Noreturn void kith_assert_failed(const char *cond, const char *file, int line, const char *func);

#endif
