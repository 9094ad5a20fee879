/* The "ngram" encoder: character n-grams, hashed with a sign into dim buckets, weighted by idf.
 *
 * Words of alphabetic scripts give their 3- to 5-grams with boundary marks and themselves (as
 * fastText does: Bojanowski et al. 2017, "Enriching Word Vectors with Subword Information", section
 * 3.2); runs of Chinese and other unspaced scripts give 1- to 3-grams, short ones themselves; an
 * emoji is one gram. Signed hashing: Weinberger et al. 2009, "Feature Hashing for Large Scale
 * Multitask Learning", section 2. idf comes from a compiled-in table (ngram_idf.c); a gram that is
 * not in it gets the highest.
 *
 * It needs no files and never refuses a text that has a letter, digit or symbol. Likeness is of
 * spelling, not of meaning. Owns, Threads, Errors: as encoder.h. Limits: dim >= 16. */
#ifndef ENCODER_NGRAM_H
#define ENCODER_NGRAM_H

#include "coordinator/encode/encoder.h"
#include "coordinator/encode/textfold.h"

#define ENCODER_NGRAM_DIM 512u

enum kith_err encoder_ngram_open(struct encoder **out, const struct encoder_config *cfg,
                                 struct kith_diag *diag) KITH_MUST_CHECK;

/* Adds the weighted grams of code points [from, to) of one run to out; for encoders that fall back
 * to n-grams. Returns the number of grams. */
size_t encoder_ngram_add(const struct textfold *fold, size_t from, size_t to,
                         enum textfold_class cls, float *out, uint32_t dim);

#endif
