/* Why not ICU: folding a short query must cost well under a microsecond, and the encoders need
 * equality of spellings, not linguistics. These rules cover the scripts the encoders have n-gram
 * weights for; text of any other script passes unfolded and still matches itself. Text analysis
 * for BM25 (NFKC, dictionary word breaks) is a different job and gets ICU with it.
 *
 * Ranges are from the Unicode 15 block and case charts. */
#include "coordinator/encode/textfold.h"

#include <stdbool.h>

#include "common/kith_mem.h"
#include "proto/kith_limits.h"

/* Base letters of U+00C0..U+017F; '.' keeps the code point (lower-cased by rule below). Letters
 * that decompose into two (ae, oe, ss) keep their own identity. */
static const char latin_base[] =
    "aaaaaa.ceeeeiiii.nooooo.ouuuuy..aaaaaa.ceeeeiiii.nooooo.ouuuuy.y"  /* C0..FF */
    "aaaaaaccccccccddddeeeeeeeeeegggggggghhhhiiiiiiiiii..jjkk.lllllll"  /* 100..13F */
    "lllnnnnnnn..oooooo..rrrrrrssssssssttttttuuuuuuuuuuuuwwyyyzzzzzzs"; /* 142..17F */
_Static_assert(sizeof latin_base - 1 == 0x180 - 0xC0, "one letter for each code point");

static uint32_t fold_latin(uint32_t cp)
{
    char base = latin_base[cp - 0xC0];
    if (base != '.') {
        return (uint32_t)(unsigned char)base;
    }
    switch (cp) {
    case 0xC6: /* AE */
    case 0xD0: /* ETH */
    case 0xDE: /* THORN */
        return cp + 0x20;
    case 0x132: /* IJ */
    case 0x14A: /* ENG */
    case 0x152: /* OE */
        return cp + 1;
    default:
        return cp;
    }
}

static uint32_t fold_greek_cyrillic(uint32_t cp)
{
    if (cp >= 0x391 && cp <= 0x3A9 && cp != 0x3A2) {
        return cp + 0x20;
    }
    switch (cp) {
    case 0x386: /* accented Greek letters lose the accent, like the Latin ones */
    case 0x3AC:
        return 0x3B1;
    case 0x388:
    case 0x3AD:
        return 0x3B5;
    case 0x389:
    case 0x3AE:
        return 0x3B7;
    case 0x38A:
    case 0x3AA:
    case 0x3AF:
    case 0x3CA:
    case 0x390:
        return 0x3B9;
    case 0x38C:
    case 0x3CC:
        return 0x3BF;
    case 0x38E:
    case 0x3AB:
    case 0x3CD:
    case 0x3CB:
    case 0x3B0:
        return 0x3C5;
    case 0x38F:
    case 0x3CE:
        return 0x3C9;
    case 0x3C2: /* final sigma */
        return 0x3C3;
    default:
        break;
    }
    if (cp >= 0x410 && cp <= 0x42F) {
        return cp + 0x20;
    }
    if (cp >= 0x400 && cp <= 0x40F) {
        return cp == 0x401 ? 0x435 : cp + 0x50; /* io is commonly typed as ie */
    }
    return cp == 0x451 ? 0x435 : cp;
}

static bool is_dropped(uint32_t cp)
{
    return (cp >= 0x300 && cp <= 0x36F)      /* combining marks */
           || (cp >= 0x200B && cp <= 0x200F) /* zero width, direction marks */
           || (cp >= 0x202A && cp <= 0x202E) || (cp >= 0x2060 && cp <= 0x2064) ||
           (cp >= 0xFE00 && cp <= 0xFE0F) || cp == 0xFEFF || cp == 0xAD || cp == 0x20E3 ||
           (cp >= 0x1F3FB && cp <= 0x1F3FF) /* skin tones */
           || (cp >= 0xE0000 && cp <= 0xE01EF);
}

uint32_t textfold_fold(uint32_t cp)
{
    if (cp < 0x80) {
        return cp >= 'A' && cp <= 'Z' ? cp + 0x20 : cp;
    }
    if (cp >= 0x4E00 && cp <= 0x9FFF) {
        return cp; /* before the other tests: most of the text in Chinese */
    }
    if (is_dropped(cp)) {
        return 0;
    }
    if (cp >= 0xC0 && cp <= 0x17F) {
        return fold_latin(cp);
    }
    if (cp >= 0x370 && cp <= 0x4FF) {
        return fold_greek_cyrillic(cp);
    }
    if (cp >= 0xFF01 && cp <= 0xFF5E) {
        return textfold_fold(cp - 0xFEE0); /* full-width ASCII */
    }
    if (cp == 0x3000 || cp == 0xA0) {
        return ' ';
    }
    if (cp == 0x2019 || cp == 0x2018) {
        return '\'';
    }
    return cp;
}

static bool is_cjk(uint32_t cp)
{
    return (cp >= 0x3400 && cp <= 0x9FFF) || (cp >= 0x3041 && cp <= 0x30FF && cp != 0x30FB) ||
           (cp >= 0x3105 && cp <= 0x312F) || (cp >= 0x31F0 && cp <= 0x31FF) ||
           (cp >= 0xAC00 && cp <= 0xD7A3) || (cp >= 0x1100 && cp <= 0x11FF) ||
           (cp >= 0xF900 && cp <= 0xFAFF) || (cp >= 0x20000 && cp <= 0x3FFFD) ||
           (cp >= 0x0E01 && cp <= 0x0E4E) || cp == 0x3005 || cp == 0x3007 ||
           (cp >= 0xFF66 && cp <= 0xFF9F);
}

static bool is_ascii_symbol(uint32_t cp)
{
    /* Signs that carry meaning by themselves; the rest of ASCII punctuation only separates. */
    return cp == '$' || cp == '%' || cp == '#' || cp == '+' || cp == '&' || cp == '@';
}

enum textfold_class textfold_class(uint32_t cp)
{
    if (cp < 0x80) {
        if ((cp >= 'a' && cp <= 'z') || (cp >= '0' && cp <= '9') || (cp >= 'A' && cp <= 'Z')) {
            return TEXTFOLD_WORD;
        }
        return is_ascii_symbol(cp) ? TEXTFOLD_SYMBOL : TEXTFOLD_BREAK;
    }
    if (is_cjk(cp)) {
        return TEXTFOLD_CJK;
    }
    if (cp < 0xC0) {
        if (cp == 0xAA || cp == 0xB5 || cp == 0xBA) {
            return TEXTFOLD_WORD;
        }
        return cp >= 0xA2 && cp != 0xAB && cp != 0xBB && cp != 0xB7 && cp != 0xBF ? TEXTFOLD_SYMBOL
                                                                                  : TEXTFOLD_BREAK;
    }
    if (cp == 0xD7 || cp == 0xF7) {
        return TEXTFOLD_SYMBOL;
    }
    if (cp < 0x2000) {
        return TEXTFOLD_WORD;
    }
    if ((cp >= 0x2000 && cp <= 0x206F) || (cp >= 0x2E00 && cp <= 0x303F) ||
        (cp >= 0xFE10 && cp <= 0xFE6F) || (cp >= 0xFF00 && cp <= 0xFFEF) || cp == 0x30FB ||
        (cp >= 0xE000 && cp <= 0xF8FF) || cp == 0xFFFD) {
        return TEXTFOLD_BREAK;
    }
    if ((cp >= 0x2070 && cp <= 0x2BFF) || cp >= 0x1F000 || (cp >= 0x3200 && cp <= 0x33FF)) {
        return TEXTFOLD_SYMBOL;
    }
    return TEXTFOLD_WORD;
}

static bool is_tail(const unsigned char *text, size_t n)
{
    for (size_t i = 1; i < n; i++) {
        if ((text[i] & 0xC0) != 0x80) {
            return false;
        }
    }
    return true;
}

size_t textfold_decode(const char *text, size_t len, uint32_t *cp)
{
    const unsigned char *b = (const unsigned char *)text;
    kith_assert(len > 0);
    if (b[0] < 0x80) {
        *cp = b[0];
        return 1;
    }
    size_t n = b[0] >= 0xF0 ? 4 : b[0] >= 0xE0 ? 3 : 2;
    if (b[0] < 0xC2 || b[0] > 0xF4 || len < n || !is_tail(b, n)) {
        return 0;
    }
    uint32_t value = n == 2 ? b[0] & 0x1Fu : n == 3 ? b[0] & 0x0Fu : b[0] & 0x07u;
    for (size_t i = 1; i < n; i++) {
        value = value << 6 | (b[i] & 0x3Fu);
    }
    if ((n == 3 && (value < 0x800 || (value >= 0xD800 && value <= 0xDFFF))) ||
        (n == 4 && (value < 0x10000 || value > 0x10FFFF))) {
        return 0;
    }
    *cp = value;
    return n;
}

size_t textfold_encode(uint32_t cp, char out[4])
{
    kith_assert(cp <= 0x10FFFF);
    if (cp < 0x80) {
        out[0] = (char)cp;
        return 1;
    }
    size_t n = cp < 0x800 ? 2 : cp < 0x10000 ? 3 : 4;
    static const unsigned char lead[5] = {0, 0, 0xC0, 0xE0, 0xF0};
    for (size_t i = n - 1; i > 0; i--) {
        out[i] = (char)(0x80 | (cp & 0x3F));
        cp >>= 6;
    }
    out[0] = (char)(lead[n] | cp);
    return n;
}

uint32_t textfold_count(const char *text, size_t len)
{
    uint32_t n = 0;
    for (size_t i = 0; i < len; i++) {
        n += (text[i] & 0xC0) != 0x80;
    }
    return n;
}

enum kith_err textfold_init(struct textfold *fold, const char *text, size_t len,
                            struct kith_diag *diag)
{
    kith_assert(fold != NULL && (text != NULL || len == 0));
    if (len > KITH_TEXT_MAX) {
        return kith_fail(diag, KITH_TOO_BIG, "text to encode: %zu bytes, limit %u", len,
                         KITH_TEXT_MAX);
    }
    fold->n = 0;
    fold->cps = fold->room;
    if (len > TEXTFOLD_INLINE) {
        fold->cps = kith_alloc(len * sizeof *fold->cps); /* a code point takes at least a byte */
        if (fold->cps == NULL) {
            return kith_fail(diag, KITH_NOMEM, "text to encode, %zu bytes", len);
        }
    }
    for (size_t at = 0; at < len;) {
        uint32_t cp;
        size_t used = textfold_decode(text + at, len - at, &cp);
        if (used == 0) {
            textfold_fini(fold);
            return kith_fail(diag, KITH_BAD_REQUEST, "text is not UTF-8 at byte %zu", at);
        }
        cp = textfold_fold(cp);
        if (cp != 0) {
            fold->cps[fold->n++] = cp;
        }
        at += used;
    }
    return KITH_OK;
}

void textfold_fini(struct textfold *fold)
{
    if (fold->cps != fold->room) {
        kith_free(fold->cps);
    }
    fold->cps = fold->room;
    fold->n = 0;
}

static bool is_inner_apostrophe(const struct textfold *fold, size_t at)
{
    return fold->cps[at] == '\'' && at + 1 < fold->n &&
           textfold_class(fold->cps[at + 1]) == TEXTFOLD_WORD;
}

size_t textfold_run(const struct textfold *fold, size_t at, enum textfold_class *cls)
{
    kith_assert(at < fold->n);
    *cls = textfold_class(fold->cps[at]);
    size_t end = at + 1;
    if (*cls == TEXTFOLD_SYMBOL) {
        return end;
    }
    while (end < fold->n && textfold_class(fold->cps[end]) == *cls) {
        end++;
        if (*cls == TEXTFOLD_WORD && end < fold->n && is_inner_apostrophe(fold, end)) {
            end++; /* don't stays one word */
        }
    }
    return end;
}

int textfold_utf8(const char *text, size_t len, char *out, size_t cap, size_t *out_len)
{
    size_t n = 0;
    for (size_t at = 0; at < len;) {
        uint32_t cp;
        size_t used = textfold_decode(text + at, len - at, &cp);
        if (used == 0) {
            return 0;
        }
        at += used;
        cp = textfold_fold(cp);
        if (cp == 0) {
            continue;
        }
        char bytes[4];
        size_t wide = textfold_encode(cp, bytes);
        if (n + wide > cap) {
            return 0;
        }
        for (size_t i = 0; i < wide; i++) {
            out[n++] = bytes[i];
        }
    }
    *out_len = n;
    return 1;
}
