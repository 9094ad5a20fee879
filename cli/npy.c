/* The header is a Python literal: {'descr': '<f4', 'fortran_order': False, 'shape': (10, 3), }.
 * NumPy writes the three keys in any order with free white space, so it is read as such a literal
 * and nothing more: no nesting, no other types, no other keys. */
#include "cli/npy.h"

#include <stdbool.h>
#include <string.h>

#include "proto/kith_limits.h"

struct cursor {
    const char *at, *end;
};

static void skip_space(struct cursor *c)
{
    while (c->at < c->end && (*c->at == ' ' || *c->at == '\n' || *c->at == '\t'))
        c->at++;
}

static bool take(struct cursor *c, char byte)
{
    skip_space(c);
    if (c->at == c->end || *c->at != byte)
        return false;
    c->at++;
    return true;
}

/* A quoted text without escapes. */
static bool take_text(struct cursor *c, char *out, size_t out_bytes)
{
    char quote;
    size_t n = 0;

    skip_space(c);
    if (c->at == c->end || (*c->at != '\'' && *c->at != '"'))
        return false;
    quote = *c->at++;
    while (c->at < c->end && *c->at != quote && *c->at != '\\' && n + 1 < out_bytes)
        out[n++] = *c->at++;
    out[n] = '\0';
    return take(c, quote);
}

static bool take_word(struct cursor *c, const char *word)
{
    size_t n = strlen(word);

    skip_space(c);
    if ((size_t)(c->end - c->at) < n || memcmp(c->at, word, n) != 0)
        return false;
    c->at += n;
    return true;
}

static bool take_number(struct cursor *c, uint64_t *out)
{
    uint64_t value = 0;
    size_t digits = 0;

    skip_space(c);
    for (; c->at < c->end && *c->at >= '0' && *c->at <= '9' && digits < 18; c->at++, digits++)
        value = value * 10 + (uint64_t)(*c->at - '0');
    *out = value;
    return digits > 0;
}

/* (N, D) or any other tuple of numbers; *n is how many there were. */
static bool take_shape(struct cursor *c, uint64_t shape[2], size_t *n)
{
    uint64_t value;

    *n = 0;
    if (!take(c, '('))
        return false;
    while (!take(c, ')')) {
        if (!take_number(c, &value))
            return false;
        if (*n < 2)
            shape[*n] = value;
        if (++*n > 32)
            return false;
        if (!take(c, ',')) {
            if (!take(c, ')'))
                return false;
            break;
        }
    }
    return true;
}

struct header {
    char descr[16];
    bool fortran;
    uint64_t shape[2];
    size_t shape_n;
    unsigned seen; /* a bit per key */
};

static bool read_member(struct cursor *c, struct header *header)
{
    char key[32];

    if (!take_text(c, key, sizeof key) || !take(c, ':'))
        return false;
    if (strcmp(key, "descr") == 0) {
        header->seen |= 1;
        return take_text(c, header->descr, sizeof header->descr);
    }
    if (strcmp(key, "fortran_order") == 0) {
        header->seen |= 2;
        header->fortran = take_word(c, "True");
        return header->fortran || take_word(c, "False");
    }
    if (strcmp(key, "shape") == 0) {
        header->seen |= 4;
        return take_shape(c, header->shape, &header->shape_n);
    }
    return false;
}

static bool read_header(struct cursor *c, struct header *header)
{
    if (!take(c, '{'))
        return false;
    while (!take(c, '}')) {
        if (!read_member(c, header))
            return false;
        if (!take(c, ',')) {
            if (!take(c, '}'))
                return false;
            break;
        }
    }
    return header->seen == 7;
}

enum kith_err npy_read(struct npy *out, const uint8_t *bytes, size_t n, struct kith_diag *diag)
{
    struct header header = {0};
    struct cursor c;
    size_t at, len;

    if (n < 12 || memcmp(bytes, "\x93NUMPY", 6) != 0)
        return kith_fail(diag, KITH_CORRUPT, "not a .npy file");
    if (bytes[6] < 1 || bytes[6] > 3)
        return kith_fail(diag, KITH_UNSUPPORTED, ".npy format version %u", bytes[6]);
    at = bytes[6] == 1 ? 10 : 12;
    len = (size_t)bytes[8] | (size_t)bytes[9] << 8;
    if (bytes[6] > 1)
        len |= (size_t)bytes[10] << 16 | (size_t)bytes[11] << 24;
    if (len > NPY_HEADER_MAX - at || len > n - at)
        return kith_fail(diag, KITH_CORRUPT, ".npy header of %zu bytes", len);
    c = (struct cursor){(const char *)bytes + at, (const char *)bytes + at + len};
    if (!read_header(&c, &header))
        return kith_fail(diag, KITH_CORRUPT,
                         "the .npy header is not one that NumPy writes for an array");
    if (strcmp(header.descr, "<f4") != 0)
        return kith_fail(diag, KITH_UNSUPPORTED,
                         "the array holds '%s', float32 is read: save it with .astype('float32')",
                         header.descr);
    if (header.fortran)
        return kith_fail(diag, KITH_UNSUPPORTED,
                         "the array is in Fortran order: save np.ascontiguousarray(it)");
    if (header.shape_n != 2)
        return kith_fail(diag, KITH_UNSUPPORTED, "the array has %zu dimensions, want 2",
                         header.shape_n);
    if (header.shape[1] == 0 || header.shape[1] > KITH_DIM_MAX)
        return kith_fail(diag, KITH_TOO_BIG, "rows of %llu numbers, want 1 to %u",
                         (unsigned long long)header.shape[1], KITH_DIM_MAX);
    out->rows = header.shape[0];
    out->dim = (uint32_t)header.shape[1];
    out->data_at = at + len;
    return KITH_OK;
}
