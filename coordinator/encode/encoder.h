/* The seam of the encoders: text in, one L2-normalised f32 vector out.
 *
 * A kind is one line in encoder.c and one file encoder_KIND.c. Kinds today: "ngram" (hashed
 * character n-grams with idf weights, no files) and "wordvec" (averaged word vectors).
 *
 * Owns:     what it read from its files (a mapping, a dictionary); encoder_close gives it back.
 * Borrows:  nothing after encoder_open has returned.
 * Threads:  an encoder is immutable after encoder_open: any number of threads may encode with it
 *           at once. encoder_open and encoder_close belong to one thread; opening a wordvec encoder
 *           may convert a file for minutes, so never on a loop.
 * Errors:   BAD_REQUEST config or text is malformed (not UTF-8, unknown kind, name with a slash);
 *           NOT_FOUND no such file; CORRUPT the file does not parse; TOO_BIG past a limit;
 *           UNPROCESSABLE the text holds nothing to encode ("cannot encode: ..."): there is never
 *           a silent zero vector.
 * Limits:   KITH_TEXT_MAX bytes of text, KITH_DIM_MAX dimensions. */
#ifndef ENCODER_H
#define ENCODER_H

#include <stddef.h>
#include <stdint.h>

#include "proto/kith_err.h"

/* Told while a long job runs: bytes done of bytes total (total 0 = unknown). */
typedef void (*encoder_progress_fn)(uint64_t done_bytes, uint64_t total_bytes, void *ctx);

struct encoder_config {
    const char *kind;       /* "ngram" | "wordvec" */
    uint32_t dim;           /* 0 = the kind's own (ngram: 512, wordvec: the file's) */
    const char *dir;        /* folder of encoder files; wordvec only */
    const char *file;       /* plain name inside dir: a word-vector file; wordvec only */
    const char *dictionary; /* plain name inside dir, or NULL: words for Chinese segmentation */
    double sif_a;           /* 0 = 1e-3; wordvec only */
    encoder_progress_fn progress;
    void *progress_ctx;
};

struct encoder;

/* On success *out is the caller's, to be given to encoder_close. On failure *out is untouched and
 * nothing stays open. Errors name the field of the config: "encoder.file ...". */
enum kith_err encoder_open(struct encoder **out, const struct encoder_config *cfg,
                           struct kith_diag *diag) KITH_MUST_CHECK;
void encoder_close(struct encoder *enc); /* NULL is allowed */

/* out: encoder_dim floats, L2 norm 1; untouched on failure. */
enum kith_err encoder_encode(const struct encoder *enc, const char *text, size_t len, float *out,
                             struct kith_diag *diag) KITH_MUST_CHECK;

const char *encoder_kind(const struct encoder *enc);
uint32_t encoder_dim(const struct encoder *enc);

/* The same number for the same kind, parameters and file contents on every machine and in every
 * release that encodes the same way; vectors of different fingerprints must not be compared. */
uint64_t encoder_fingerprint(const struct encoder *enc);

/* Whether kind names an encoder, and whether that kind needs `file`: to refuse bad input early. */
int encoder_kind_known(const char *kind);
int encoder_kind_needs_file(const char *kind);

/* --- for the kinds ---------------------------------------------------------------------------- */

struct encoder_ops {
    const char *kind;
    /* text is at most KITH_TEXT_MAX bytes. Leaves out unnormalised; encoder_encode normalises and
     * refuses a zero vector. */
    enum kith_err (*encode)(const struct encoder *self, const char *text, size_t len, float *out,
                            struct kith_diag *diag);
    void (*close)(struct encoder *self);
};

/* First member of every kind's struct. */
struct encoder {
    const struct encoder_ops *ops;
    uint64_t fingerprint;
    uint32_t dim;
};

/* Folds bytes into a running fingerprint (FNV-1a 64, start with 0). */
uint64_t encoder_hash(uint64_t hash, const void *data, size_t len);

#endif
