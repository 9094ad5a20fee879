/* The "wordvec" encoder: the SIF-weighted average of word vectors.
 *
 * Weight of a word: a / (a + p(word)) (Arora, Liang, Ma 2017, "A Simple but Tough-to-Beat Baseline
 * for Sentence Embeddings", section 3; its removal of the first principal component needs a corpus
 * and is not done). p comes from the dictionary's counts when it has them, else from the word's
 * rank in the file by Zipf's law. Text without spaces is cut by longest match with the dictionary,
 * or with the vocabulary itself.
 *
 * A word that is not in the table falls back to the longest listed pieces of it; if they cover too
 * little, to its hashed n-grams (encoder_ngram.h) in the same dimension: an unknown word still
 * matches itself and its spellings. Nothing becomes a silent zero.
 *
 * Owns: table mapping, dictionary. Threads, Errors: as encoder.h; opening converts the source to
 * NAME.kwv in the same folder when that is missing or older. */
#ifndef ENCODER_WORDVEC_H
#define ENCODER_WORDVEC_H

#include "coordinator/encode/encoder.h"

enum kith_err encoder_wordvec_open(struct encoder **out, const struct encoder_config *cfg,
                                   struct kith_diag *diag) KITH_MUST_CHECK;

#endif
