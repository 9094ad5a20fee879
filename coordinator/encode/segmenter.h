/* Longest-match segmentation of text without spaces, and the dictionary for it.
 *
 * At each position the longest word of the word list wins (forward maximum matching; Liang 1987,
 * "CDWS", is the usual reference for Chinese); a code point that starts no word stands alone.
 *
 * Owns: a struct segmenter owns its words. Borrows: struct segmenter_words borrows its list.
 * Threads: any, after load. Errors: CORRUPT with the line number, TOO_BIG, NOMEM.
 * Limits: KITH_DICTIONARY_BYTES_MAX, KITH_WORDVEC_WORD_MAX, SEGMENTER_CPS_MAX. */
#ifndef SEGMENTER_H
#define SEGMENTER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "proto/kith_err.h"

#define SEGMENTER_CPS_MAX 16u /* code points tried at a position; longer words are never found */

/* Any list of folded UTF-8 words. */
struct segmenter_words {
    bool (*has)(const void *ctx, const char *word, size_t len);
    const void *ctx;
    uint32_t cps_max; /* length of the longest word */
};

/* Code points of the longest listed word of at least cps_min that cps[0..n) starts with; 0: none.
 */
size_t segmenter_longest(const struct segmenter_words *words, const uint32_t *cps, size_t n,
                         size_t cps_min);

struct segmenter;

/* Reads a dictionary: UTF-8, a line "word", "word count" or "word count tag" (jieba's form); empty
 * lines are skipped. Words are folded; a word that comes again adds to its count. */
enum kith_err segmenter_load(struct segmenter **out, const char *text, size_t len,
                             struct kith_diag *diag) KITH_MUST_CHECK;
void segmenter_free(struct segmenter *seg); /* NULL is allowed */

struct segmenter_words segmenter_words(const struct segmenter *seg);
size_t segmenter_n(const struct segmenter *seg);

/* count / sum of counts; negative when the word is not listed or the dictionary has no counts. */
double segmenter_probability(const struct segmenter *seg, const char *word, size_t len);

#endif
