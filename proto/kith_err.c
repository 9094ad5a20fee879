#include "proto/kith_err.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct row {
    uint32_t code;
    int http;
    enum kith_retry retry;
    const char *name;
    const char *text;
};

static const struct row rows[] = {
#define X(name, code, http, retry, text) {code, http, KITH_RETRY_##retry, #name, text},
#include "proto/errors.def"
#undef X
};

static const struct row *find(uint64_t code)
{
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++)
        if (rows[i].code == code)
            return &rows[i];
    return NULL;
}

static const struct row *must_find(enum kith_err err)
{
    const struct row *row = find((uint64_t)err);
    kith_assert(row != NULL);
    return row;
}

enum kith_err kith_fail(struct kith_diag *diag, enum kith_err err, const char *fmt, ...)
{
    kith_assert(err != KITH_OK);
    if (diag != NULL) {
        /* Formatted aside first: an argument may be diag->text itself. */
        char text[KITH_DIAG_BYTES];
        va_list args;
        va_start(args, fmt);
        (void)vsnprintf(text, sizeof text, fmt, args);
        va_end(args);
        diag->err = err;
        memcpy(diag->text, text, sizeof text);
    }
    return err;
}

void kith_diag_prefix(struct kith_diag *diag, const char *fmt, ...)
{
    if (diag == NULL)
        return;
    char text[KITH_DIAG_BYTES];
    va_list args;
    va_start(args, fmt);
    int n = vsnprintf(text, sizeof text, fmt, args);
    va_end(args);
    if (n < 0)
        return;
    size_t used = (size_t)n < sizeof text - 1 ? (size_t)n : sizeof text - 1;
    (void)snprintf(text + used, sizeof text - used, diag->text[0] != '\0' ? ": %s" : "%s",
                   diag->text);
    memcpy(diag->text, text, sizeof text);
}

const char *kith_err_name(enum kith_err err)
{
    return must_find(err)->name;
}

const char *kith_err_text(enum kith_err err)
{
    return must_find(err)->text;
}

int kith_err_http(enum kith_err err)
{
    return must_find(err)->http;
}

enum kith_retry kith_err_retry(enum kith_err err)
{
    return must_find(err)->retry;
}

enum kith_err kith_err_from_wire(uint64_t code)
{
    const struct row *row = find(code);
    return row != NULL ? (enum kith_err)row->code : KITH_PROTOCOL;
}

void kith_assert_failed(const char *cond, const char *file, int line, const char *func)
{
    (void)fprintf(stderr, "kith: assertion failed: %s (%s:%d, %s)\n", cond, file, line, func);
    abort();
}
