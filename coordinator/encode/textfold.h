/* Unicode for the encoders: strict UTF-8 decoding, simple folding, coarse classes.
 *
 * Folding makes spellings that users mix up equal: lower case (ASCII, Latin-1, Latin Extended-A,
 * Greek, Cyrillic), accents of Latin letters dropped, full-width forms made half-width, variation
 * selectors, joiners and combining marks removed. It is part of an encoder's fingerprint
 * (TEXTFOLD_VERSION).
 *
 * Owns: the code points of a struct textfold, until textfold_fini. Threads: any; no state.
 * Errors: BAD_REQUEST for malformed UTF-8 (with the byte offset), TOO_BIG, NOMEM.
 * Limits: KITH_TEXT_MAX bytes. */
#ifndef TEXTFOLD_H
#define TEXTFOLD_H

#include <stddef.h>
#include <stdint.h>

#include "proto/kith_err.h"

#define TEXTFOLD_VERSION 1u
#define TEXTFOLD_INLINE  512u

enum textfold_class {
    TEXTFOLD_BREAK,  /* spaces and punctuation */
    TEXTFOLD_WORD,   /* letters and digits of scripts that separate words */
    TEXTFOLD_CJK,    /* scripts written without spaces: Han, kana, Hangul, Thai */
    TEXTFOLD_SYMBOL, /* emoji and other signs, each a word by itself */
};

/* Folded text. Hold it on the stack; short texts need no allocation. */
struct textfold {
    uint32_t *cps; /* code points */
    size_t n;
    uint32_t room[TEXTFOLD_INLINE];
};

/* Decodes and folds. On failure `fold` needs no fini. */
enum kith_err textfold_init(struct textfold *fold, const char *text, size_t len,
                            struct kith_diag *diag) KITH_MUST_CHECK;
void textfold_fini(struct textfold *fold);

/* The end of the run of equal class that starts at `at` (at < n). A SYMBOL run is one long. */
size_t textfold_run(const struct textfold *fold, size_t at, enum textfold_class *cls);

/* One code point: bytes used, 0 when text (len > 0) does not start with well-formed UTF-8
 * (overlong forms, surrogates and values past U+10FFFF are malformed: Unicode 15, table 3-7). */
size_t textfold_decode(const char *text, size_t len, uint32_t *cp);
size_t textfold_encode(uint32_t cp, char out[4]);      /* bytes written */
uint32_t textfold_count(const char *text, size_t len); /* code points of well-formed UTF-8 */

uint32_t textfold_fold(uint32_t cp); /* 0: the code point is dropped */
enum textfold_class textfold_class(uint32_t cp);

/* Folds UTF-8 into UTF-8. False: malformed, or more than cap bytes. */
int textfold_utf8(const char *text, size_t len, char *out, size_t cap, size_t *out_len);

#endif
