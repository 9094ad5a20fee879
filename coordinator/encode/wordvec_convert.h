/* Reads a word-vector file of any of the usual forms and writes the mapped table of wordvec_file.h.
 *
 *   word2vec text    "words dim\n", then "word f f f ...\n"
 *   GloVe text       the same without the first line
 *   word2vec binary  "words dim\n", then "word " + dim f32 (little endian) + optional "\n"
 *
 * The form is told from the first bytes, never from the name. Words are folded (textfold.h); of
 * words that become equal the first, which is the most frequent, stays. Left out and counted:
 * duplicates, words longer than KITH_WORDVEC_WORD_MAX or not UTF-8, rows of zeros.
 *
 * Owns: nothing after the call. Threads: any; two conversions of one file at once are safe (each
 * writes its own temporary file, the later rename wins).
 * Errors: CORRUPT names the line or record; TOO_BIG; NOMEM; IO; DISK_FULL. */
#ifndef WORDVEC_CONVERT_H
#define WORDVEC_CONVERT_H

#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include "coordinator/encode/wordvec_file.h"
#include "proto/kith_err.h"

/* A stream of bytes. read: as read(2), -1 on error. */
struct wordvec_source {
    ssize_t (*read)(void *self, void *buf, size_t n);
    void *self;
    uint64_t bytes; /* for progress; 0 = unknown */
};

/* Where the table goes. write: all n bytes at `at`, 0 or an errno. */
struct wordvec_sink {
    int (*write)(void *self, const void *data, size_t n, uint64_t at);
    void *self;
};

struct wordvec_options {
    uint64_t source_bytes; /* recorded in the header */
    int64_t source_mtime_ns;
    void (*progress)(uint64_t done_bytes, uint64_t total_bytes, void *ctx); /* may be NULL */
    void *progress_ctx;
};

enum kith_err wordvec_convert_stream(const struct wordvec_source *source,
                                     const struct wordvec_sink *sink,
                                     const struct wordvec_options *options,
                                     struct kith_diag *diag) KITH_MUST_CHECK;

/* Converts source_fd into the file `name` of folder dir_fd: temporary file, fsync, rename, fsync
 * of the folder. After a failure nothing is left behind. options->source_* are taken from
 * source_fd. */
enum kith_err wordvec_convert_file(int dir_fd, int source_fd, const char *name,
                                   const struct wordvec_options *options,
                                   struct kith_diag *diag) KITH_MUST_CHECK;

#endif
